//! What comes after the swap: when it fails, what is left for `resume`.

use std::path::PathBuf;
use std::sync::Arc;

use lance::dataset::WriteParams;
use lance_io::object_store::WrappingObjectStore;
use relance::{Cancel, Change, Ended, Event, Kind, Location, Migration, Progress, Strategy};

use crate::support::mortal::{Mortal, Wrap};
use crate::support::{Db, documents, ids, index_ids, small};

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
    assert_eq!(report.indices_rebuilt, 1);
    let live = db.open("t").await;
    assert_eq!(lance::index::DatasetIndexExt::load_indices(&live).await.unwrap().len(), 1);
    assert!(!db.staging_exists("t"));
    db.relance("verify", "t", &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_after_the_swap_is_left_for_resume() {
    let db = Db::new();
    db.documents("t", 200, 100).await;
    let (data, away) = (db.table("t").join("data"), db.table("t").join("away"));
    let (from, to): (PathBuf, PathBuf) = (data.clone(), away.clone());
    let breaks = AtTheSwap(move || std::fs::rename(&from, &to).unwrap());
    let migration = db.migration("t", &["n:int64=7"]).settings(small());
    let error = migration.clone().progress(Arc::new(breaks)).migrate().await.unwrap_err();
    expect_unfinished(&error, 2);
    // The look may have made the directory anew.
    let _ = std::fs::remove_dir_all(&data);
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
    let held = db.relance("migrate", "t", &[&add[..], &["--hold", "--json"]].concat()).expect(5);
    let id = held.json()["held"]["id"].as_str().unwrap().to_owned();
    // Where the tag of the swapped version will go, something else is.
    let tag = db.table("t").join(format!("_refs/tags/relance-{id}.swap.json"));
    std::fs::create_dir_all(tag.join("in-the-way")).unwrap();
    let left = db.relance("resume", "t", &["--json"]).expect(8);
    assert_eq!(left.json()["error"]["kind"], "Unfinished");
    left.says("swapped in as version 2, whole").says("does the rest");
    assert_eq!(db.rows("t").await.num_columns(), 4);
    std::fs::remove_dir_all(&tag).unwrap();
    db.relance("resume", "t", &[]).expect(0);
    assert!(!db.staging_exists("t"));
}
