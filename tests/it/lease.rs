//! Who runs a migration: one run at a time, and a run that wakes up too late changes nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use relance::{Clock, Ended, Event, Hold, Kind, Migration, Phase, Progress, Settings, Writes};

use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, ran, small, wait_until};

/// Falls asleep when the run says `at`, until it is woken.
#[derive(Debug)]
struct Sleeper {
    at: &'static str,
    asleep: Sender<()>,
    wake: Mutex<Receiver<()>>,
}

impl Progress for Sleeper {
    fn event(&self, event: Event) {
        let says = match &event {
            Event::Began { phase, .. } => phase.name() == self.at,
            Event::Note(text) => text.contains(self.at),
            _ => false,
        };
        if says {
            self.asleep.send(()).unwrap();
            tokio::task::block_in_place(|| {
                let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever forgets to wake it up lets it go on.
                let _ = wake.recv();
            });
        }
    }
}

/// A clock that is ahead: by it, a run that sleeps was not seen for long.
#[derive(Debug)]
struct Ahead(i64);

impl Clock for Ahead {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::seconds(self.0)
    }
}

/// A run that falls asleep at `at`, and how to wake it.
struct Zombie {
    run: tokio::task::JoinHandle<relance::Result<Ended>>,
    wake: Sender<()>,
}

fn asleep(migration: Migration, at: &'static str) -> Zombie {
    let (asleep, fell_asleep) = channel();
    let (wake, wakes) = channel();
    let sleeper = Sleeper { at, asleep, wake: Mutex::new(wakes) };
    let migration = migration.progress(Arc::new(sleeper));
    let run = tokio::spawn(async move { migration.migrate().await });
    tokio::task::block_in_place(|| fell_asleep.recv()).unwrap();
    Zombie { run, wake }
}

impl Zombie {
    async fn wakes(self) -> relance::Result<Ended> {
        drop(self.wake);
        self.run.await.unwrap()
    }
}

fn migration(db: &Db) -> Migration {
    db.migration("t", &["n:int64=7"]).rows_per_file(100).settings(small())
}

/// A run that finds the other one not seen for two minutes.
fn later(db: &Db) -> Migration {
    let later = db.migration("t", &[]).settings(small());
    later.clock(Arc::new(Ahead(120)))
}

/// The moments at which a run falls asleep: before its first file, before and after its last
/// checkpoint, and with the swap about to be committed.
const MOMENTS: &[&str] = &["staging in", "stage", "verify", "swap"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_wakes_up_after_an_abort_changes_nothing() {
    for moment in MOMENTS {
        let db = Db::new();
        db.documents("t", 500, 100).await;
        let before = db.rows("t").await;
        let zombie = asleep(migration(&db), moment);
        let soon = db.migration("t", &[]).abort().await.unwrap_err();
        assert_eq!(soon.kind(), Kind::Locked, "it is alive, {moment}");
        later(&db).abort().await.unwrap();
        let error = zombie.wakes().await.expect_err(moment);
        assert!(matches!(error.kind(), Kind::Locked | Kind::Failed), "{moment}: {error:?}");
        assert_eq!(db.rows("t").await, before, "{moment}");
        assert!(!db.staging_exists("t"), "{moment}");
        assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new(), "{moment}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_wakes_up_after_a_resume_changes_nothing() {
    for moment in MOMENTS {
        let db = Db::new();
        db.documents("t", 500, 100).await;
        let before = db.rows("t").await;
        let zombie = asleep(migration(&db), moment);
        later(&db).resume().await.unwrap();
        let error = zombie.wakes().await.expect_err(moment);
        assert!(matches!(error.kind(), Kind::Locked | Kind::Failed), "{moment}: {error:?}");
        assert_kept(&before, &db.rows("t").await);
        db.relance("verify", "t", &[]).expect(0);
        assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new(), "{moment}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_wakes_up_beside_another_migration_leaves_it_alone() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let before = db.rows("t").await;
    let zombie = asleep(migration(&db), "verify");
    later(&db).abort().await.unwrap();
    let held = Settings { hold: Hold::Exit, ..small() };
    db.migration("t", &["m:int64=8"]).settings(held).migrate().await.unwrap();
    zombie.wakes().await.expect_err("it was dropped");
    assert!(db.staging_exists("t"));
    later(&db).resume().await.unwrap();
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(db.open("t").await.schema().fields.len(), 4);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_live_run_keeps_everybody_else_out() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let running = asleep(migration(&db), "stage");
    let other = || migration(&db);
    let kinds = [
        other().migrate().await.unwrap_err().kind(),
        db.migration("t", &[]).resume().await.unwrap_err().kind(),
        other().abort().await.unwrap_err().kind(),
        other().rollback(Writes::Refuse).await.unwrap_err().kind(),
        other().finalize(false).await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [Kind::Locked; 5]);
    // A command, a process of its own on this machine, finds the process alive whatever the time.
    db.relance("resume", "t", &[]).expect(6).says("is running");
    db.relance("abort", "t", &[]).expect(6);
    db.relance("status", "t", &[]).expect(0).says("running in phase stage");
    assert!(matches!(running.wakes().await.unwrap(), Ended::Swapped(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_migration_that_waits_catches_up_and_is_taken_over() {
    let db = Db::new();
    let mut live = db.documents("t", 1_000, 100).await;
    let waiting =
        db.start("migrate", "t", &["--add", "n:int64=7", "--rows-per-file", "100", "--hold=wait"]);
    let status = || db.relance("status", "t", &["--json"]).json()["tables"][0]["staged"].clone();
    wait_until("the hold", || status()["state"] == "held");
    live.delete("id < 3").await.unwrap();
    db.append("t", documents(1_000, 77)).await;
    wait_until("catching up", || status()["rows_done"] == 1_074);
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0).says("11 of 11 chunks").says("s after the start");
    ran(waiting.wait_with_output().unwrap()).expect(0).says("taken over");
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_ends_when_asked() {
    let db = Db::new();
    db.documents("t", 300, 100).await;
    let waiting = db.start("migrate", "t", &["--add", "n:int64=7", "--hold=wait"]);
    let status = || db.relance("status", "t", &["--json"]).json()["tables"][0]["staged"].clone();
    wait_until("the hold", || status()["state"] == "held");
    let pid = waiting.id().to_string();
    crate::support::run(std::process::Command::new("kill").args(["-TERM", &pid])).expect(0);
    ran(waiting.wait_with_output().unwrap()).expect(0).says("rows staged and verified");
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plan_is_refused_with_what_differs() {
    let db = Db::new();
    db.documents("t", 300, 100).await;
    let add = ["--add", "n:int64=7", "--add", "at:timestamp[us]=now"];
    db.relance("migrate", "t", &[&add[..], &["--hold"]].concat()).expect(0);
    let other = ["--add", "n:int64=8", "--add", "at:timestamp[us]=now"];
    db.relance("resume", "t", &other).expect(3).says("- add n:int64=7").says("+ add n:int64=8");
    db.relance("migrate", "t", &other).expect(6).says("+ add n:int64=8");
    db.relance("resume", "t", &["--rows-per-file", "50"]).expect(3).says("--rows-per-file 1048576");
    db.relance("resume", "t", &add).expect(0);
}

#[test]
fn phases_come_in_order() {
    assert!(Phase::Stage < Phase::CatchUp && Phase::CatchUp < Phase::Verify);
    assert!(Phase::Hold < Phase::Swap);
}
