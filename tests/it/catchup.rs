//! Others write while a migration runs: what they wrote is in the result, exactly.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};

use relance::{Cancel, Change, Ended, Hold, Settings};

use crate::support::books::{merge, update};
use crate::support::gate::{Gate, Quick, Told, gated};
use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, index_ids, ran, rows_of, small, wait_until};

const ADD: &[&str] = &["--add", "n:int64=7", "--rows-per-file", "200"];

/// A held migration of 2,000 documents in ten fragments.
async fn held(db: &Db) -> Dataset {
    let live = db.documents("t", 2_000, 200).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    live
}

/// Every row of `before`, and `n` in each.
async fn assert_migrated(db: &Db, before: &RecordBatch) {
    let after = db.rows("t").await;
    assert_kept(before, &after);
    let n = after.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
    assert!(n.iter().all(|n| n == Some(7)));
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_are_deleted_from_what_is_staged() {
    let db = Db::new();
    let mut live = held(&db).await;
    let staged = db.staged_files();
    live.delete("id % 50 = 3").await.unwrap();
    db.relance("resume", "t", &["--hold"]).expect(0);
    // A second round finds rows among those that the first one left.
    live.checkout_latest().await.unwrap();
    live.delete("id % 50 = 4 or id = 1999").await.unwrap();
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0);
    assert_eq!(db.staged_files(), staged, "no file was written anew");
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_which_much_is_deleted_is_staged_again() {
    let db = Db::new();
    let mut live = held(&db).await;
    let staged = db.staged_files();
    live.delete("id < 150").await.unwrap();
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0).says("kept 9 of 10");
    let now = db.staged_files();
    assert_eq!(staged.iter().filter(|file| now.contains(file)).count(), 9);
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_back_are_staged_again() {
    let db = Db::new();
    let mut live = db.documents("t", 2_000, 200).await;
    live.delete("id = 5").await.unwrap();
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    live = live.checkout_version(1).await.unwrap();
    live.restore().await.unwrap();
    let before = db.rows("t").await;
    assert_eq!(before.num_rows(), 2_000);
    db.relance("resume", "t", &[]).expect(0);
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_is_caught_up_with() {
    let db = Db::new();
    held(&db).await;
    let live = db.append("t", documents(2_000, 130)).await;
    let live = update(live, "id >= 300 and id < 320", "changed").await.unwrap();
    let mut live = merge(live, documents(1_990, 40)).await.unwrap();
    index_ids(&mut live).await;
    live.update_config([("owner", Some("somebody"))]).await.unwrap();
    live.tags().create("theirs", live.version_id()).await.unwrap();
    live.delete("id = 12").await.unwrap();
    let small = CompactionOptions { target_rows_per_fragment: 400, ..CompactionOptions::default() };
    compact_files(&mut live, small, None).await.unwrap();
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0);
    assert_migrated(&db, &before).await;
    let live = db.open("t").await;
    assert_eq!(live.config().get("owner").map(String::as_str), Some("somebody"));
    assert!(live.tags().get_version("theirs").await.is_ok());
    let indices = lance::index::DatasetIndexExt::load_indices(&live).await.unwrap();
    assert_eq!(indices.iter().map(|index| index.name.as_str()).collect::<Vec<_>>(), ["id_idx"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_delete_does_not_move_the_borders_of_chunks() {
    let db = Db::new();
    let mut live = db.documents("t", 3_000, 30).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    live.delete("id < 60").await.unwrap();
    let before = db.rows("t").await;
    // Two fragments are gone, so one chunk of six fragments is cut anew.
    db.relance("resume", "t", &[]).expect(0).says("1 to stage");
    assert_migrated(&db, &before).await;
}

/// A slow migration of 2,000 documents, once its first files are there.
fn slow(db: &Db, more: &[&str]) -> Child {
    let slow = ["--max-rate", "30KB", "--batch-size", "50"];
    let child = db.start("migrate", "t", &[ADD, &slow, more].concat());
    wait_until("two staged files", || db.staged_files().len() >= 2);
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_migration_catches_up_before_it_swaps() {
    let db = Db::new();
    let mut live = db.documents("t", 2_000, 200).await;
    let child = slow(&db, &[]);
    live.delete("id = 1 or id = 1500").await.unwrap();
    db.append("t", documents(2_000, 33)).await;
    let before = db.rows("t").await;
    ran(child.wait_with_output().unwrap()).expect(0).says("caught up with version");
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_stops_a_running_migration() {
    let db = Db::new();
    let mut live = db.documents("t", 2_000, 200).await;
    let child = slow(&db, &[]);
    live.drop_columns(&["text"]).await.unwrap();
    ran(child.wait_with_output().unwrap())
        .expect(3)
        .says("column `text` is gone")
        .says("Everything is kept");
    assert!(db.staging_exists("t"));
    assert_eq!(db.open("t").await.count_rows(None).await.unwrap(), 2_000);
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

/// Appends twenty rows at a time, as fast as it goes, while `act` runs.
async fn while_others_append<T>(db: &Db, act: impl FnOnce() -> T) -> T {
    let stop = Arc::new(AtomicBool::new(false));
    let (uri, stopped) = (db.uri("t"), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        let mut live = Dataset::open(&uri).await.unwrap();
        let mut next = 10_000;
        while !stopped.load(Ordering::Relaxed) {
            let batch = documents(next, 20);
            next += 20;
            let schema = batch.schema();
            let reader = arrow::array::RecordBatchIterator::new([Ok(batch)], schema);
            live.append(reader, None).await.unwrap();
        }
    });
    let done = tokio::task::block_in_place(act);
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gives_up_when_others_write_faster() {
    let db = Db::new();
    db.documents("t", 2_000, 200).await;
    // Slow enough that each round finds something new.
    let few = ["--max-rounds", "3", "--max-rate", "200KB"];
    let migrate = || db.relance("migrate", "t", &[ADD, &few].concat());
    let ran = while_others_append(&db, migrate).await;
    ran.expect(5).says("is written to faster").says("3 rounds").says("rows/s to stage");
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0);
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gives_up_when_a_round_takes_too_long() {
    let db = Db::new();
    db.documents("t", 2_000, 200).await;
    let slow = ["--max-rate", "20KB", "--batch-size", "20", "--cutover-timeout", "2s"];
    let migrate = || db.relance("migrate", "t", &[ADD, &slow].concat());
    let ran = while_others_append(&db, migrate).await;
    ran.expect(5).says("is written to faster").says("resume");
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_catching_up_is_bounded() {
    let db = Db::new();
    held(&db).await;
    db.append("t", documents(2_000, 10)).await;
    // Everything but the new rows is staged, so the first look is a round.
    db.relance("resume", "t", &["--cutover-timeout", "0s"]).expect(0);
    db.relance("migrate", "t", &["--add", "m:int8=1", "--cutover-timeout", "soon"]).expect(2);
    db.relance("migrate", "t", &["--add", "m:int8=1", "--max-rounds", "0"]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_files_are_kept_young_and_old_ones_are_not_trusted() {
    let db = Db::new();
    held(&db).await;
    let staged = db.staged_files();
    let age = |file: &std::path::Path, days: u64| {
        let then = SystemTime::now() - Duration::from_secs(days * 86_400);
        std::fs::File::options().append(true).open(file).unwrap().set_modified(then).unwrap();
    };
    age(&staged[0], 4);
    age(&staged[1], 8);
    db.relance("resume", "t", &["--hold"]).expect(0);
    let now = db.staged_files();
    assert!(now.contains(&staged[0]) && !now.contains(&staged[1]));
    for file in &now {
        let modified = file.metadata().unwrap().modified().unwrap();
        assert!(modified.elapsed().unwrap() < Duration::from_hours(1), "{}", file.display());
    }
    db.relance("resume", "t", &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ages_are_told_by_the_clock_that_dates_the_files() {
    const DAYS: i64 = 8 * 86_400;
    for ahead in [DAYS, -DAYS] {
        let db = Db::new();
        db.documents("t", 2_000, 200).await;
        let run = || {
            let run = db.migration("t", &[]).clock(Arc::new(Quick { ahead }));
            run.settings(Settings { hold: Hold::Exit, ..small() })
        };
        let add = Change::parse_add("n:int64=7").unwrap();
        run().change(add).rows_per_file(200).migrate().await.unwrap();
        let staged = db.staged_files();
        assert_eq!(staged.len(), 10, "each once");
        run().resume().await.unwrap();
        assert_eq!(db.staged_files(), staged);
        // One that a cleanup may take is not trusted, however young it is by the wrong clock.
        let then = SystemTime::now() - Duration::from_hours(8 * 24);
        let old = std::fs::File::options().append(true).open(&staged[3]).unwrap();
        old.set_modified(then).unwrap();
        run().resume().await.unwrap();
        let now = db.staged_files();
        assert_eq!(now.len(), 10);
        assert!(!now.contains(&staged[3]) && now.contains(&staged[4]), "{ahead} s ahead");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_takes_unfinished_writes_does_not_break_the_swap() {
    let db = Db::new();
    let live = held(&db).await;
    let before = db.rows("t").await;
    let policy = lance::dataset::cleanup::CleanupPolicyBuilder::default().delete_unverified(true);
    let before_now = policy.before_timestamp(chrono::Utc::now()).build();
    live.cleanup(before_now).execute().await.unwrap();
    assert!(db.staged_files().is_empty(), "Lance's cleanup leaves them alone by now");
    db.relance("resume", "t", &[]).expect(0).says("are gone");
    assert_migrated(&db, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_somebody_adds_is_named() {
    let db = Db::new();
    let mut live = held(&db).await;
    let twice = vec![("twice".to_owned(), "id * 2".to_owned())];
    let twice = lance::dataset::NewColumnTransform::SqlExpressions(twice);
    live.add_columns(twice, None, None).await.unwrap();
    db.relance("resume", "t", &[]).expect(3).says("column `twice` is new");
}

/// Others commit, compact and clean up before the version that was seen is pinned: what has to be read of it is gone, and
/// what they made of it is in the newest version.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_is_cleaned_away_before_it_is_pinned_is_passed_over() {
    let db = Db::new();
    let before = rows_of(&db.documents("t", 500, 100).await).await;
    // The first pin passes, the second one waits.
    let (gate, told) = (Gate::after("_refs/tags", 1), Arc::<Told>::default());
    let cancel = Cancel::default();
    let run = gated(&db, &gate).settings(Settings { hold: Hold::Wait, ..small() });
    // What reads a column.
    let run = run.change(Change::parse("compute", "m=id + 1").unwrap());
    let run = run.progress(Arc::clone(&told) as _).cancel(cancel.clone());
    let run = tokio::spawn(async move { run.migrate().await });
    let block = |what: &str, there: &dyn Fn() -> bool| {
        tokio::task::block_in_place(|| wait_until(what, there));
    };
    block("what is held", &|| told.says("verified 500 rows"));
    let known = db.files();
    let live = db.append("t", documents(500, 100)).await;
    let added = db.files().into_iter().filter(|file| !known.contains(file));
    let data: Vec<_> = added.filter(|(file, _)| file.contains("t.lance/data/")).collect();
    assert_eq!(data.len(), 1, "{data:?}");
    std::fs::remove_file(&data[0].0).unwrap();
    block("the pin", &|| gate.waiting() > 0);
    let mut old = live.checkout_version(1).await.unwrap();
    old.restore().await.unwrap();
    gate.open();
    block("a look at what is there", &|| told.says("caught up with version 3"));
    cancel.cancel();
    assert!(matches!(run.await.unwrap().unwrap(), Ended::Held(_)));
    assert!(told.says("version 2 was cleaned away by others"));
    db.relance("resume", "t", &[]).expect(0);
    assert_migrated(&db, &before).await;
}

/// The highest field id is looked up in the files that are there: it shrinks when a compaction takes the last
/// file that names a column which went.
#[tokio::test(flavor = "multi_thread")]
async fn new_columns_keep_their_ids_when_the_highest_one_leaves_the_files() {
    let db = Db::new();
    db.documents("t", 300, 100).await;
    db.relance("migrate", "t", &["--drop", "vector"]).expect(0);
    db.relance("migrate", "t", &["--compute", "z=id + 1", "--hold"]).expect(0);
    let mut live = db.open("t").await;
    compact_files(&mut live, CompactionOptions::default(), None).await.unwrap();
    db.relance("resume", "t", &[]).expect(0);
    assert_eq!(crate::support::ids(&db.rows("t").await), (0..300).collect::<Vec<_>>());
    db.relance("verify", "t", &[]).expect(0);
}
