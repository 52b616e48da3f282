//! Who runs a migration: one run at a time, and a run that wakes up too late changes nothing.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use relance::{
    Cancel, Clock, Ended, Event, Hold, Kind, Migration, Phase, Progress, Settings, Writes,
};

use crate::support::gate::{Gate, Quick, Told, gated};
use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, ran, small, wait_until};

/// Falls asleep when the run says `at`, until it is woken. Its beats do too.
#[derive(Debug)]
struct Sleeper {
    at: &'static str,
    asleep: Sender<()>,
    wake: Mutex<Receiver<()>>,
    sleeps: AtomicBool,
}

impl Sleeper {
    fn sleep(&self) {
        tokio::task::block_in_place(|| {
            let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever forgets to wake it up lets it go on.
            let _ = wake.recv();
        });
    }
}

impl Progress for Sleeper {
    fn event(&self, event: Event) {
        let says = match &event {
            Event::Began { phase, .. } => phase.name() == self.at,
            Event::Note(text) => text.contains(self.at),
            _ => false,
        };
        if says {
            self.sleeps.store(true, Ordering::SeqCst);
            self.asleep.send(()).unwrap();
            self.sleep();
        }
    }
}

impl Clock for Sleeper {
    fn now(&self) -> DateTime<Utc> {
        if self.sleeps.load(Ordering::SeqCst) {
            self.sleep();
        }
        Utc::now()
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
    let sleeps = AtomicBool::new(false);
    let sleeper = Arc::new(Sleeper { at, asleep, wake: Mutex::new(wakes), sleeps });
    let migration = migration.progress(Arc::clone(&sleeper) as _).clock(sleeper);
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
    db.date_staging("t", 120);
    db.migration("t", &[]).settings(small())
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

#[cfg(unix)]
#[test]
fn a_run_is_watched_while_it_goes_on() {
    let db = Db::new();
    db.relance("sample", "t", &["--rows", "20000", "--dim", "64", "--fragments", "1"]).expect(0);
    let control = db.path().join("control.toml");
    std::fs::write(&control, "max-rate = 300000").unwrap();
    let compute = ["--compute", "n=length(text)", "--strategy", "rewrite"];
    let more = [&compute[..], &["--control", control.to_str().unwrap()]].concat();
    let running = db.start("migrate", "t", &more);
    let status = || db.relance("status", "t", &["--json"]).json()["tables"][0]["staged"].clone();
    // Its only chunk is far from done.
    wait_until("figures", || {
        let progress = &status()["progress"];
        progress["rows_done"].as_u64() > Some(0) && progress["limited_by"] == "--max-rate"
    });
    let (now, seen) = (status(), db.relance("status", "t", &[]).expect(0));
    assert_eq!((&now["rows_done"], &now["alive"]), (&0.into(), &true.into()), "{now}");
    assert_eq!(now["progress"]["rows"], 20_000, "{now}");
    seen.says("began").says("rows/s").says("limited by --max-rate").says("interruption keeps");
    let watch = || {
        let mut watch = db.start("status", "t", &["--watch=10ms", "--json"]);
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["tables"][0]["staged"]["alive"], true, "{line}");
        (watch, lines)
    };
    let (mut stopped, (mut ended, lines)) = (watch().0, watch());
    let pid = stopped.id().to_string();
    crate::support::run(std::process::Command::new("kill").args(["-INT", &pid])).expect(0);
    assert_eq!(stopped.wait().unwrap().code(), Some(0));
    std::fs::write(&control, "max-rate = \"none\"").unwrap();
    let last = lines.last().unwrap().unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_ne!(last["tables"][0]["staged"]["alive"], true, "{last}");
    assert!(ended.wait().unwrap().success());
    ran(running.wait_with_output().unwrap()).expect(0);
    db.relance("status", "t", &["--watch"]).expect(0).says("nothing staged");
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

/// Has the staged migration belong to a run on another machine, which was killed, and whose clock is wrong.
async fn give_away(db: &Db) {
    let uri = db.staging("t").to_str().unwrap().to_owned();
    let mut staging = lance::Dataset::open(&uri).await.unwrap();
    let lease = staging.config().get("relance.lease").unwrap().clone();
    let mut lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
    lease["process"]["host"] = "elsewhere".into();
    lease["process"]["instance"] = serde_json::Value::Null;
    lease["beat"] = "2010-01-01T00:00:00Z".into();
    lease["phase"] = "stage".into();
    lease["released"] = false.into();
    let lease = lease.to_string();
    staging.update_config([("relance.lease", Some(lease.as_str()))]).await.unwrap();
}

async fn held(db: &Db) -> arrow::array::RecordBatch {
    db.documents("t", 500, 100).await;
    let hold = Settings { hold: Hold::Exit, ..small() };
    migration(db).settings(hold).migrate().await.unwrap();
    db.rows("t").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_elsewhere_is_judged_by_the_stores_clock_alone() {
    let db = Db::new();
    let before = held(&db).await;
    give_away(&db).await;
    // Its own clock says that it was seen years ago; the store, just now.
    db.relance("resume", "t", &[]).expect(6).says("on elsewhere");
    db.relance("abort", "t", &[]).expect(6);
    // A clock here that is a day ahead, or behind, changes nothing.
    for ahead in [86_400, -86_400] {
        let resume = db.migration("t", &[]).clock(Arc::new(Quick { ahead }));
        assert_eq!(resume.resume().await.unwrap_err().kind(), Kind::Locked);
    }
    db.date_staging("t", 50);
    db.relance("resume", "t", &[]).expect(6);
    db.date_staging("t", 70);
    db.relance("status", "t", &[]).expect(0).says("interrupted in phase stage");
    let resume = db.migration("t", &[]).clock(Arc::new(Quick { ahead: -86_400 }));
    assert!(matches!(resume.resume().await.unwrap(), Ended::Swapped(_)));
    assert_kept(&before, &db.rows("t").await);
}

/// A clock by which a second is over at once, and which touches what is staged after so many.
#[derive(Debug)]
struct Beats(std::path::PathBuf, std::sync::atomic::AtomicUsize);

impl Clock for Beats {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn sleep(&self, _: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
        if self.1.fetch_sub(1, Ordering::SeqCst) == 1 {
            for file in std::fs::read_dir(self.0.join("_versions")).unwrap() {
                let file = std::fs::File::options().append(true).open(file.unwrap().path());
                file.unwrap().set_modified(Utc::now().into()).unwrap();
            }
        }
        Box::pin(tokio::task::yield_now())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_in_the_future_is_watched_and_does_not_lock_the_table() {
    let db = Db::new();
    let before = held(&db).await;
    give_away(&db).await;
    // As after a clock that was a day ahead was put right.
    db.date_staging("t", -86_400);
    db.relance("status", "t", &[]).expect(0).says("running or died in phase stage");
    let alive = Arc::new(Beats(db.staging("t"), 30.into()));
    let error = db.migration("t", &[]).clock(alive).resume().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "it was seen to be alive: {error:?}");
    db.date_staging("t", -86_400);
    let told = Arc::new(Told::default());
    let resume = db.migration("t", &[]).clock(Arc::new(Quick::default()));
    let resumed = resume.progress(Arc::clone(&told) as _).resume().await.unwrap();
    assert!(matches!(resumed, Ended::Swapped(_)));
    assert!(told.says("which is yet to come"), "{told:?}");
    assert_kept(&before, &db.rows("t").await);
}

/// The files of the staging table, but for the beats.
fn journal_files(db: &Db) -> Vec<(String, u64)> {
    let folder = db.staging("t");
    let mut files = db.files();
    files.retain(|(file, _)| {
        std::path::Path::new(file).starts_with(&folder) && !file.contains("_relance/")
    });
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_costs_the_same_whatever_is_staged() {
    let db = Db::new();
    db.documents("t", 1_000, 2).await;
    let (cancel, hold) = (Cancel::default(), Settings { hold: Hold::Wait, ..small() });
    let waits = db.migration("t", &["n:int64=7"]).rows_per_file(2).settings(hold);
    let waits = waits.clock(Arc::new(Quick::default())).cancel(cancel.clone());
    let waits = tokio::spawn(async move { waits.migrate().await });
    let beats = || db.beat("t").map_or(0, |(beat, _)| beat);
    let is_held =
        || db.relance("status", "t", &["--json"]).json()["tables"][0]["staged"]["state"] == "held";
    tokio::task::block_in_place(|| wait_until("the hold", is_held));
    let (files, then) = (journal_files(&db), beats());
    tokio::task::block_in_place(|| wait_until("ten beats", || beats() >= then + 10));
    assert_eq!(journal_files(&db), files, "nothing but the beat is written");
    let whole: u64 = files.iter().map(|(_, bytes)| *bytes).max().unwrap();
    assert!(db.beat("t").unwrap().1 < 512, "{whole} bytes are staged in 500 chunks");
    cancel.cancel();
    assert!(matches!(waits.await.unwrap().unwrap(), Ended::Held(_)));
    assert_eq!(db.beat("t"), None);
    db.relance("abort", "t", &[]).expect(0);
    assert!(!db.staging_exists("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_the_journal_are_removed() {
    let db = Db::new();
    let before = held(&db).await;
    let count =
        |folder: &str| journal_files(&db).iter().filter(|(file, _)| file.contains(folder)).count();
    for round in 0..8 {
        db.relance("resume", "t", &["--hold"]).expect(0);
        // Lance's hint at the newest version lies beside the versions.
        assert!(count("/_versions/") <= 6 && count("/_transactions/") <= 5, "round {round}");
    }
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_writes_stall_is_seen_to_be_migrated() {
    for stalls in ["t.lance/data", "t__relance_staging.lance/_versions/1844"] {
        let db = Db::new();
        let before = db.documents("t", 500, 100).await;
        let before = crate::support::rows_of(&before).await;
        // The first version of the staging table is there.
        let gate = Gate::after(stalls, usize::from(stalls.contains("staging")));
        let run = gated(&db, &gate);
        let run = tokio::spawn(async move { run.migrate().await });
        let beats = || db.beat("t").map_or(0, |(beat, _)| beat);
        tokio::task::block_in_place(|| {
            wait_until("a write that waits", || gate.waiting() > 0);
            let then = beats();
            wait_until("beats", || beats() >= then + 3);
        });
        assert!(!run.is_finished());
        gate.open();
        assert!(matches!(run.await.unwrap().unwrap(), Ended::Swapped(_)), "{stalls}");
        assert_kept(&before, &db.rows("t").await);
        assert!(!db.staging_exists("t"), "{stalls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_beat_is_tried_again() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let (gate, cancel) = (Gate::failing("_relance/beat", 3), Cancel::default());
    let (told, hold) = (Arc::new(Told::default()), Settings { hold: Hold::Wait, ..small() });
    let run = gated(&db, &gate).settings(hold).progress(Arc::clone(&told) as _);
    let run = run.cancel(cancel.clone());
    let run = tokio::spawn(async move { run.migrate().await });
    let seen = || db.beat("t").is_some_and(|(beat, _)| beat > 4);
    tokio::task::block_in_place(|| wait_until("beats", seen));
    assert!(told.says("trying again"), "a request, or the beat as a whole");
    cancel.cancel();
    assert!(matches!(run.await.unwrap().unwrap(), Ended::Held(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_checkpoint_that_comes_when_its_version_is_tidied_away_is_refused() {
    let db = Db::new();
    let before = db.documents("t", 500, 100).await;
    let before = crate::support::rows_of(&before).await;
    let gate = Gate::after("t__relance_staging.lance/_versions/1844", 1);
    let late = gated(&db, &gate);
    // Its beats would find out first.
    let late = late.clock(Arc::new(relance::SystemClock));
    let late = tokio::spawn(async move { late.migrate().await });
    tokio::task::block_in_place(|| wait_until("its checkpoint", || gate.waiting() > 0));
    let (open, hold) = (Gate::failing("", 0), Settings { hold: Hold::Exit, ..small() });
    for _ in 0..4 {
        db.date_staging("t", 120);
        gated(&db, &open).settings(hold.clone()).resume().await.unwrap();
    }
    let journal = journal_files(&db);
    assert!(!journal.iter().any(|(file, _)| file.contains("18446744073709551613")), "{journal:?}");
    gate.open();
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error:?}");
    let manifests = |files: Vec<(String, u64)>| -> Vec<(String, u64)> {
        files.into_iter().filter(|(file, _)| file.ends_with(".manifest")).collect()
    };
    assert_eq!(manifests(journal_files(&db)), manifests(journal), "it left nothing");
    assert!(matches!(gated(&db, &open).resume().await.unwrap(), Ended::Swapped(_)));
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}
