//! What comes after the swap: when it fails, what is left for `resume`; what going back needs; what others
//! wrote since.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Int64Array, LargeBinaryArray, RecordBatch, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::WriteParams;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::index::DatasetIndexExt;
use lance_file::version::LanceFileVersion;
use lance_io::object_store::WrappingObjectStore;
use relance::{Cancel, Change, Ended, Event, Kind, Location, Migration, Progress, Strategy};

use crate::support::mortal::{Mortal, Wrap};
use crate::support::{Db, at_version, documents, ids, index_ids, small};

/// A table of two fragments with a B-tree, whose manifests are named as they were once: its indices
/// cannot be built before the swap.
async fn indexed_after_the_swap(db: &Db) {
    let params = WriteParams {
        max_rows_per_file: 100,
        enable_v2_manifest_paths: false,
        ..WriteParams::default()
    };
    let mut live = db.write("t", vec![documents(0, 200)], params).await;
    index_ids(&mut live).await;
}

/// `--add n:int64=7 --strategy rewrite`, through the object-store interface of a local directory.
fn through(db: &Db, mortal: &Arc<Mortal>) -> Migration {
    let database = format!("file-object-store://{}", db.text());
    let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(Arc::clone(mortal)));
    Migration::of(Location::new(&database, "t").unwrap())
        .change(Change::parse_add("n:int64=7").unwrap())
        .strategy(Strategy::Rewrite)
        .settings(small())
        .store_wrapper(wrapper)
}

/// The words of an error after the swap as `version`.
fn expect_unfinished(error: &relance::Error, version: u64) {
    let report = error.report(&[]);
    assert_eq!(error.kind(), Kind::Unfinished, "{report}");
    assert!(report.contains(&format!("swapped in as version {version}, whole")), "{report}");
    assert!(report.contains("relance resume"), "{report}");
    for wrong in ["as it was", "not swapped", "is kept"] {
        assert!(!report.contains(wrong), "{report}");
    }
}

/// Does something when the swap has landed.
struct AtTheSwap<F>(F);

impl<F> std::fmt::Debug for AtTheSwap<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtTheSwap")
    }
}

impl<F: Fn() + Send + Sync> Progress for AtTheSwap<F> {
    fn event(&self, event: Event) {
        if matches!(event, Event::Note(text) if text.starts_with("swapped in as")) {
            (self.0)();
        }
    }
}

/// An index that others build, or a compaction of theirs, at the moment at which it would be published.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_published_beside_what_others_commit() {
    for compacts in [false, true] {
        let db = Db::new();
        indexed_after_the_swap(&db).await;
        let (uri, done) = (db.uri("t"), AtomicBool::new(false));
        let swapped = db.open("t").await.version_id() + 1;
        let others = Mortal::watched(move |path| {
            // A swapped table has no index, so that whatever is written there is built for it.
            let built = path.as_ref().contains("/t.lance/_indices/");
            if !built || done.swap(true, Ordering::SeqCst) {
                return;
            }
            let uri = uri.clone();
            let act = async move {
                let mut live = Dataset::open(&uri).await.unwrap();
                assert_eq!(live.version_id(), swapped);
                if compacts {
                    compact_files(&mut live, CompactionOptions::default(), None).await.unwrap();
                } else {
                    index_ids(&mut live).await;
                }
            };
            let runtime = || tokio::runtime::Runtime::new().unwrap();
            std::thread::spawn(move || runtime().block_on(act)).join().unwrap();
        });
        let ended = through(&db, &others).migrate().await.unwrap();
        assert!(matches!(ended, Ended::Swapped(_)));
        let live = db.open("t").await;
        assert!(live.version_id() > swapped, "others committed");
        let indices = live.load_indices().await.unwrap();
        assert_eq!(indices.len(), 1, "{indices:?}");
        let there: Vec<u64> = live.iter_fragments().map(|one| one.id).collect();
        let covered = indices[0].fragment_bitmap.clone().unwrap();
        assert_eq!(
            covered.iter().map(u64::from).collect::<Vec<_>>(),
            there,
            "compacted: {compacts}"
        );
        let found = live.scan().filter("id = 150").unwrap().try_into_batch().await.unwrap();
        assert_eq!(found.num_rows(), 1);
        let left = crate::support::walk::unreferenced(&db, "t").await;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_built_after_the_swap_is_left_for_resume() {
    let db = Db::new();
    indexed_after_the_swap(&db).await;
    let error = through(&db, &Mortal::refusing("/_indices/")).migrate().await.unwrap_err();
    expect_unfinished(&error, 3);
    assert!(error.report(&[]).contains("build index `id_idx`"), "{}", error.report(&[]));
    assert!(db.open("t").await.schema().field("n").is_some() && db.staging_exists("t"));
    // The lease was let go: this process, which lives, does not run it any more.
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    assert_eq!(status["tables"][0]["staged"]["state"], "swapped");
    let Ended::Swapped(report) = through(&db, &Mortal::never()).resume().await.unwrap() else {
        panic!("not swapped");
    };
    assert_eq!(report.indices_rebuilt.len(), 1);
    let live = db.open("t").await;
    assert_eq!(live.load_indices().await.unwrap().len(), 1);
    assert!(!db.staging_exists("t"));
    db.relance("verify", "t", &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_after_the_swap_is_left_for_resume() {
    let db = Db::new();
    db.documents("t", 200, 100).await;
    let (data, away) = (db.table("t").join("data"), db.table("t").join("away"));
    let (from, to): (PathBuf, PathBuf) = (data.clone(), away.clone());
    // The files are there, and cannot be read.
    let breaks = AtTheSwap(move || {
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&from).unwrap() {
            let (file, name) = (file.as_ref().unwrap().path(), file.as_ref().unwrap().file_name());
            std::fs::copy(&file, to.join(name)).unwrap();
            std::fs::write(&file, []).unwrap();
        }
    });
    let migration = db.migration("t", &["n:int64=7"]).settings(small());
    let error = migration.clone().progress(Arc::new(breaks)).migrate().await.unwrap_err();
    expect_unfinished(&error, 2);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    assert!(matches!(migration.resume().await.unwrap(), Ended::Swapped(_)));
    assert_eq!(ids(&db.rows("t").await), (0..200).collect::<Vec<_>>());
    assert!(!db.staging_exists("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_after_the_swap_says_that_it_is_swapped() {
    let db = Db::new();
    db.documents("t", 200, 100).await;
    let cancel = Cancel::default();
    let asked = cancel.clone();
    let migration = db.migration("t", &["n:int64=7"]).settings(small());
    let stopped = migration.clone().cancel(cancel);
    let stopped = stopped.progress(Arc::new(AtTheSwap(move || asked.cancel())));
    let error = stopped.migrate().await.unwrap_err();
    expect_unfinished(&error, 2);
    assert!(matches!(migration.resume().await.unwrap(), Ended::Swapped(_)));
    assert_eq!(db.rows("t").await.num_columns(), 4);
    assert!(!db.staging_exists("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_after_the_swap_has_an_exit_code_of_its_own() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    let add = ["--add", "n:int64=7"];
    let held = db.relance("migrate", "t", &[&add[..], &["--hold", "--json"]].concat()).expect(0);
    let id = held.json()["held"]["id"].as_str().unwrap().to_owned();
    // Where the tag of the swapped version will go, something else is.
    let tag = db.table("t").join(format!("_refs/tags/relance-{id}.swap.json"));
    std::fs::create_dir_all(tag.join("in-the-way")).unwrap();
    let left = db.relance("resume", "t", &["--json"]).expect(8);
    assert_eq!(left.json()["error"]["kind"], "unfinished");
    left.says("swapped in as version 2, whole").says("does the rest");
    assert_eq!(db.rows("t").await.num_columns(), 4);
    std::fs::remove_dir_all(&tag).unwrap();
    db.relance("resume", "t", &[]).expect(0);
    assert!(!db.staging_exists("t"));
}

/// Rows with the column `n`, null where the id is odd.
fn with_n(first: i64, count: i64) -> RecordBatch {
    let rows = documents(first, count);
    let n: Int64Array = ids(&rows).into_iter().map(|id| (id % 2 == 0).then_some(id)).collect();
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("n", DataType::Int64, true)));
    let columns = rows.columns().iter().cloned().chain([Arc::new(n) as ArrayRef]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_that_clients_with_the_old_shape_leave_are_counted() {
    let db = Db::new();
    db.documents("t", 200, 100).await;
    let add = ["--add", "n:int64=7", "--add", "o:int64", "--json"];
    let ran = db.relance("migrate", "t", &add).expect(0);
    let report = ran.json()["report"].clone();
    let notes = report["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].as_str().unwrap().contains("append without `n` are null"), "{notes:?}");
    let point =
        || db.relance("status", "t", &["--json"]).json()["tables"][0]["rollback_points"][0].clone();
    assert_eq!(point()["nulls"], serde_json::json!([]));
    // The old shape: the new files have no such column.
    db.append("t", documents(200, 30)).await;
    db.open("t").await.delete("id = 201").await.unwrap();
    // The new shape, with nulls: the column has to be read.
    db.append("t", with_n(300, 10)).await;
    let nulls = point()["nulls"].clone();
    let fill = format!("relance migrate {} t --fill n=7", db.text());
    let expected =
        [serde_json::json!({ "column": "n", "rows": 34, "at_least": false, "fill": fill })];
    assert_eq!(nulls, serde_json::Value::from(expected.to_vec()));
    db.relance("status", "t", &[])
        .expect(0)
        .says("`n` is null in 34 rows written since")
        .says(&fill);
    db.relance("migrate", "t", &["--fill", "n=7"]).expect(0);
    assert_eq!(point()["nulls"], serde_json::json!([]));
    assert_eq!(db.rows("t").await.column_by_name("n").unwrap().null_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_where_no_null_can_come() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    let add = ["--add", "m:int64 not null=7", "--add", "o:int64", "--rename", "text=body"];
    let ran = db.relance("migrate", "t", &[&add[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(ran["report"]["notes"], serde_json::json!([]));
}

/// A table with a column of its own beside `id`.
async fn beside_ids(db: &Db, table: &str, name: &str, column: ArrayRef, params: WriteParams) {
    let ids: ArrayRef =
        Arc::new(Int64Array::from_iter_values(0..i64::try_from(column.len()).unwrap()));
    let batch = RecordBatch::try_from_iter([("id", ids), (name, column)]).unwrap();
    db.write(table, vec![batch], params).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lancedb_cannot_query_is_migrated_and_said() {
    let db = Db::new();
    let numbers = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2, 3, 4])) };
    let structs: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int64, true)), numbers()),
        (Arc::new(Field::new("b", DataType::Int64, true)), numbers()),
    ]));
    let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
    let pairs: ArrayRef = Arc::new(FixedSizeListArray::try_new(item, 2, structs, None).unwrap());
    let long = "x".repeat(129);
    beside_ids(&db, &long, "c", numbers(), WriteParams::default()).await;
    beside_ids(&db, "quoted", "a`b", numbers(), WriteParams::default()).await;
    beside_ids(&db, "pairs", "p", pairs, at_version(LanceFileVersion::V2_2)).await;
    for table in [long.as_str(), "quoted", "pairs"] {
        let ran = db.relance("migrate", table, &["--add", "n:int64=7", "--json"]).expect(0);
        let notes = ran.json()["report"]["notes"].to_string();
        assert!(notes.contains("LanceDB's client cannot query this table"), "{table}: {notes}");
        assert!(!db.staging_exists(table), "{table}");
        assert!(db.open(table).await.schema().field("n").is_some(), "{table}");
        db.relance("rollback", table, &[]).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_leaves_large_values_out() {
    let db = Db::new();
    let mut state = 1_u64;
    let words = (0..(3 << 20)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let large = words.collect::<Vec<u8>>();
    let values: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values([large, b"small".to_vec()]));
    beside_ids(&db, "t", "v", values, WriteParams::default()).await;
    let location = Location::new(db.text(), "t").unwrap();
    let renamed = Migration::of(location).change(Change::parse("rename", "v=value").unwrap());
    let Ended::Swapped(report) = renamed.migrate().await.unwrap() else { panic!("not swapped") };
    let shown: Vec<_> = report.sample.iter().map(RecordBatch::schema).collect();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].fields().iter().map(|field| field.name()).collect::<Vec<_>>(), ["id"]);
    assert_eq!(report.sample[0].num_rows(), 2);
}
