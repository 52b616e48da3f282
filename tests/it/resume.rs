//! Whatever stops a migration, whenever: the live table is whole, resume goes on, abort cleans up.

use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::support::{Db, assert_kept, documents, ids, ran, run, wait_until};

const ADD: &[&str] = &["--add", "n:int64=7"];

/// The live table reads as before, or as after.
async fn assert_whole(db: &Db, before: &RecordBatch) -> bool {
    let now = db.rows("t").await;
    assert_kept(before, &now);
    now.num_columns() > before.num_columns()
}

/// Data files that no version of the table names.
async fn orphans(db: &Db) -> Vec<String> {
    let live = db.open("t").await;
    let mut named = Vec::new();
    for version in live.versions().await.unwrap() {
        let version = live.checkout_version(version.version).await.unwrap();
        let fragments = version.fragments().as_ref().clone();
        named.extend(fragments.into_iter().flat_map(|f| f.files).map(|file| file.path));
    }
    let data = db.table("t").join("data");
    let files = db.files().into_iter().map(|(name, _)| name);
    let files = files.filter(|name| Path::new(name).starts_with(&data));
    files.filter(|name| !named.iter().any(|path| name.ends_with(path.as_str()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_is_whole_and_resumes() {
    for step in 0..12_u64 {
        let db = Db::new();
        db.documents("t", 6_000, 400).await;
        let before = db.rows("t").await;
        let more = ["--add", "n:int64=7", "--max-rate", "2MB", "--rows-per-file", "400"];
        let mut child = db.start("migrate", "t", &more);
        std::thread::sleep(Duration::from_millis(15 + step * 25));
        child.kill().unwrap();
        child.wait().unwrap();
        let swapped = assert_whole(&db, &before).await;
        if db.staging_exists("t") && db.relance("status", "t", &[]).stdout.contains("migration ") {
            db.relance("resume", "t", &[]).expect(0);
        } else if !swapped {
            db.relance("migrate", "t", ADD).expect(0);
        }
        assert!(assert_whole(&db, &before).await);
        assert!(!db.staging_exists("t"));
        assert_eq!(orphans(&db).await, Vec::<String>::new());
        db.relance("verify", "t", &[]).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_keeps_finished_chunks() {
    let db = Db::new();
    db.documents("t", 4_000, 400).await;
    let more = [ADD, &["--rows-per-file", "400", "--hold"]].concat();
    db.relance("migrate", "t", &more).expect(0);
    let staged = db.staged_files();
    assert_eq!(staged.len(), 10);
    // What a killed run leaves: a file that no record names, and a chunk whose file is gone.
    let id = staged[0].to_str().unwrap().split("-relance-").nth(1).unwrap()[..12].to_owned();
    let stray = db.table("t").join(format!("data/0-relance-{id}-stray.lance"));
    std::fs::write(&stray, b"half a file").unwrap();
    std::fs::remove_file(&staged[3]).unwrap();
    db.relance("resume", "t", &[])
        .expect(0)
        .says("kept 10 of 10")
        .says("are gone; it is staged again");
    assert!(!stray.exists());
    let kept = db.staged_files();
    assert_eq!(staged.iter().filter(|file| kept.contains(file)).count(), 9);
    assert_eq!(ids(&db.rows("t").await), (0..4_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_stages_what_others_changed_meanwhile() {
    let db = Db::new();
    db.documents("t", 2_000, 200).await;
    let more = [ADD, &["--rows-per-file", "200", "--hold"]].concat();
    db.relance("migrate", "t", &more).expect(0);
    let mut live = db.append("t", documents(2_000, 100)).await;
    live.delete("id = 250 or id = 777").await.unwrap();
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0).says("kept 8 of 11");
    assert_kept(&before, &db.rows("t").await);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(orphans(&db).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_meanwhile_stops_it() {
    let db = Db::new();
    let mut live = db.documents("t", 500, 100).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    live.drop_columns(&["text"]).await.unwrap();
    db.relance("resume", "t", &[]).expect(3).says("column `text`").says("Everything is kept");
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(orphans(&db).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_removes_what_the_migration_wrote_and_nothing_else() {
    let db = Db::new();
    db.documents("t", 2_000, 200).await;
    let other = db.table("t").join("data/somebody-elses.lance");
    std::fs::write(&other, b"being written").unwrap();
    let before = db.files();
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    assert!(!db.staged_files().is_empty());
    db.relance("abort", "t", &[]).expect(0).says("files removed");
    assert_eq!(db.files(), before);
    db.relance("abort", "t", &[]).expect(1).says("no migration of `t` is staged");
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_cleans_up_after_a_kill() {
    let db = Db::new();
    db.documents("t", 6_000, 300).await;
    let before = db.files();
    let mut child = db.start(
        "migrate",
        "t",
        &[
            "--add",
            "n:int64=7",
            "--max-rate",
            "300KB",
            "--batch-size",
            "100",
            "--rows-per-file",
            "300",
        ],
    );
    wait_until("a staged file", || !db.staged_files().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(db.files(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_is_locked_out() {
    let db = Db::new();
    db.documents("t", 3_000, 300).await;
    let mut first = db.start(
        "migrate",
        "t",
        &["--add", "n:int64=7", "--strategy", "rewrite", "--max-rate", "20KB"],
    );
    wait_until("the staging table", || db.staging_exists("t"));
    wait_until("the journal", || db.relance("status", "t", &[]).stdout.contains("running"));
    db.relance("migrate", "t", ADD).expect(6).says("is staged already").says("relance resume");
    db.relance("resume", "t", &[]).expect(6).says("is running");
    db.relance("abort", "t", &[]).expect(6);
    db.relance("rollback", "t", &[]).expect(6);
    first.kill().unwrap();
    first.wait().unwrap();
    db.relance("resume", "t", &[]).expect(0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_it_with_everything_kept() {
    let db = Db::new();
    db.documents("t", 4_000, 100).await;
    let more = ["--add", "n:int64=7", "--max-rate", "100KB", "--rows-per-file", "100"];
    let child = db.start("migrate", "t", &more);
    // More than are in progress at once.
    wait_until("a few finished files", || db.staged_files().len() > 16);
    let pid = child.id().to_string();
    run(std::process::Command::new("kill").args(["-INT", &pid])).expect(0);
    let ended = ran(child.wait_with_output().unwrap());
    ended.expect(5).says("interrupted").says("relance resume");
    let resumed = db.relance("resume", "t", &[]).expect(0);
    assert!(!resumed.stderr.contains("kept 0"), "{}", resumed.stderr);
    assert_eq!(ids(&db.rows("t").await), (0..4_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_quickly_is_verified_in_full_when_asked() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    db.relance("migrate", "t", &[ADD, &["--hold", "--verify", "quick"]].concat()).expect(0);
    db.relance("resume", "t", &[]).expect(0).says("verified quickly; now in full");
}
