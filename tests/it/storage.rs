//! Storage that fails: a clear error, the live table intact, and a way on.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lance_io::object_store::WrappingObjectStore;
use relance::{Change, Kind, Location, Migration};

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, binary, ran, run, small, wait_until};

const ADD: &[&str] = &["--add", "n:int64=7", "--rows-per-file", "500"];

/// A small file system in memory, until it is dropped. `None` where that is not allowed.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn at(path: &'a Path, bytes: u64) -> Option<Self> {
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        let done = mounted.is_ok_and(|output| output.status.success());
        if !done {
            println!("skipped: mounting a file system is not allowed here");
        }
        done.then_some(Self(path))
    }

    fn read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.0)).expect(0);
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_stops_it_and_an_emptied_one_lets_it_go_on() {
    let db = Db::new();
    let Some(_disk) = Disk::at(db.path(), 12 << 20) else { return };
    db.documents("t", 20_000, 2_000).await;
    let before = db.rows("t").await;
    let slow = ["--max-rate", "300KB", "--batch-size", "200", "--progress", "plain"];
    let child = db.start("migrate", "t", &[ADD, &slow].concat());
    wait_until("a staged file", || !db.staged_files().is_empty());
    let filler = db.path().join("filler");
    // Fails when nothing more fits, which is the point.
    run(Command::new("dd")
        .args(["if=/dev/zero", "bs=64K"])
        .arg(format!("of={}", filler.display())));
    ran(child.wait_with_output().unwrap()).expect(1).says("no space left").says("goes on");
    assert_eq!(db.rows("t").await, before);
    std::fs::remove_file(&filler).unwrap();
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_is_refused_before_anything_is_written() {
    let db = Db::new();
    let Some(_disk) = Disk::at(db.path(), 3 << 20) else { return };
    db.documents("t", 20_000, 2_000).await;
    let before = db.files();
    db.relance("migrate", "t", ADD).expect(3).says("no space left");
    assert_eq!(db.files(), before);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_beyond_what_the_process_may_write_stops_it_and_resume_goes_on() {
    let db = Db::new();
    db.documents("t", 20_000, 10_000).await;
    let before = db.rows("t").await;
    let limited = |changes: &[&str]| {
        let mut shell = Command::new("bash");
        // In units of 1,024 bytes.
        shell.args([
            "-c",
            "ulimit -f 32; exec \"$@\"",
            "bash",
            binary(),
            "migrate",
            db.text(),
            "t",
        ]);
        run(shell.args(changes))
    };
    for changes in [
        &["--add", "n:int64=7", "--strategy", "rewrite"][..],
        &["--compute", "n=text || text"],
        &["--compute", "n=text || text", "--strategy", "rewrite"],
    ] {
        limited(changes).expect(1).says("ulimit -f").says("goes on");
        assert_eq!(db.rows("t").await, before);
        db.relance("abort", "t", &[]).expect(0);
        assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
    }
    limited(&["--add", "n:int64=7", "--strategy", "rewrite"]).expect(1);
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_refused() {
    let db = Db::new();
    let Some(disk) = Disk::at(db.path(), 12 << 20) else { return };
    db.documents("t", 1_000, 500).await;
    let before = db.files();
    disk.read_only();
    db.relance("plan", "t", ADD).expect(0);
    db.relance("migrate", "t", ADD).expect(3).says("cannot write to");
    assert_eq!(db.files(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_that_was_damaged_while_held_is_found() {
    let db = Db::new();
    db.documents("t", 2_000, 500).await;
    let before = db.rows("t").await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    let staged = db.staged_files();
    let mut bytes = std::fs::read(&staged[0]).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&staged[0], bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&staged[1]).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    db.relance("resume", "t", &[]).expect(4).says("verified again");
    assert_eq!(db.rows("t").await, before);
    for file in &staged[..2] {
        std::fs::remove_file(file).unwrap();
    }
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_file_that_is_damaged_is_named() {
    let db = Db::new();
    let live = db.documents("t", 2_000, 500).await;
    let name = live.fragments()[1].files[0].path.clone();
    let file = db.table("t").join("data").join(&name);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    db.relance("migrate", "t", ADD).expect(1).says(&name).says("the live table is as it was");
    std::fs::write(&file, &bytes).unwrap();
    db.relance("resume", "t", &[]).expect(0);
    db.relance("verify", "t", &[]).expect(0);
}

fn migration(db: &Db, mortal: &Arc<Mortal>) -> Migration {
    let location = Location::new(&format!("file-object-store://{}", db.text()), "t").unwrap();
    let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(Arc::clone(mortal)));
    let change = Change::parse_add("n:int64=7").unwrap();
    let location = location.with_store_timeout(Duration::from_secs(1));
    Migration::of(location).change(change).settings(small()).store_wrapper(wrapper)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_a_moment_is_waited_for() {
    let db = Db::new();
    db.documents("t", 400, 100).await;
    let before = db.rows("t").await;
    let store = Mortal::at(3, How::IsAwayFor(2));
    migration(&db, &store).migrate().await.unwrap();
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stays_away_ends_it_and_resume_goes_on() {
    let db = Db::new();
    db.documents("t", 400, 100).await;
    let before = db.rows("t").await;
    let store = Mortal::at(3, How::IsAwayFor(usize::MAX));
    let error = migration(&db, &store).migrate().await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Failed | Kind::Interrupted), "{error:?}");
    assert_eq!(db.rows("t").await, before);
    migration(&db, &Mortal::never()).resume().await.map(drop).unwrap();
    assert_kept(&before, &db.rows("t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_store_is_not_tried_again_and_names_the_object() {
    let db = Db::new();
    db.documents("t", 400, 100).await;
    let store = Mortal::at(4, How::DiesBefore);
    let began = store.calls();
    let error = migration(&db, &store).migrate().await.unwrap_err();
    assert!(store.calls() > began);
    let report = error.report(&[]);
    assert!(report.contains("t.lance") || report.contains("staging"), "{report}");
    assert!(report.contains("the process is dead"), "{report}");
}
