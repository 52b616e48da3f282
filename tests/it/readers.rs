//! Readers go on through the swap: no error, and never a mix of both schemas.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use lance::Dataset;
use lancedb::query::{ExecutableQuery, QueryBase};

use crate::support::{Db, binary, index_ids, run};

const ROWS: i64 = 2_000;

/// Rows of one version, and nothing of another.
fn assert_one_schema(batches: &[RecordBatch]) -> bool {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, usize::try_from(ROWS).unwrap());
    let migrated = batches[0].column_by_name("n").is_some();
    for batch in batches {
        assert_eq!(batch.num_columns(), if migrated { 4 } else { 3 });
        if migrated {
            let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
            assert!(n.null_count() == 0 && n.values().iter().all(|n| *n == 7));
        }
    }
    migrated
}

/// Reads until `stop`, with a table that is opened once or each time. Gives reads before and after the
/// swap.
async fn read(database: String, anew: bool, stop: Arc<AtomicBool>) -> (u64, u64) {
    let connection = lancedb::connect(&database).execute().await.unwrap();
    let mut table = connection.open_table("t").execute().await.unwrap();
    let (mut before, mut after) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        if anew {
            table = connection.open_table("t").execute().await.unwrap();
        }
        let rows = table.query().execute().await.unwrap();
        let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
        if assert_one_schema(&rows) {
            after += 1;
        } else {
            before += 1;
        }
        let found = table.query().only_if("id = 77").execute().await.unwrap();
        let found: Vec<RecordBatch> = found.try_collect().await.unwrap();
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    }
    (before, after)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_notice_nothing() {
    let db = Db::new();
    let old = {
        let mut live = db.documents("t", ROWS, 200).await;
        index_ids(&mut live).await;
        live
    };
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [true, false, true]
        .map(|anew| tokio::spawn(read(db.text().to_owned(), anew, Arc::clone(&stop))));
    let more = ["--add", "n:int64=7", "--rows-per-file", "200", "--max-rate", "400KB"];
    tokio::task::block_in_place(|| db.relance("migrate", "t", &more).expect(0));
    let back = tokio::task::block_in_place(|| {
        db.relance("rollback", "t", &[]).expect(0);
        db.relance("migrate", "t", &more[..2]).expect(0)
    });
    drop(back);
    stop.store(true, Ordering::Relaxed);
    let mut reads = 0;
    for reader in readers {
        let (before, after) = reader.await.unwrap();
        assert!(before > 0, "it began too late");
        reads += before + after;
    }
    println!("reads through three swaps: {reads}");
    // A handle from before still reads what it did.
    assert_eq!(old.count_rows(None).await.unwrap(), usize::try_from(ROWS).unwrap());
    assert_eq!(old.schema().fields.len(), 3);
}

/// Lance's own way of tagging makes a folder beside the database, where its path has signs that are encoded in URLs.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_any_name_gets_its_tags_and_no_twin() {
    let root = tempfile::tempdir().unwrap();
    for name in ["Müller", "a b", "100%", "50%25", "a#b?c", "日本"] {
        let database = root.path().join(name);
        std::fs::create_dir(&database).unwrap();
        let relance = |verb: &str, more: &[&str]| {
            run(Command::new(binary()).arg(verb).arg(&database).arg("t").args(more))
        };
        relance("sample", &["--rows", "100", "--dim", "4"]).expect(0);
        let ran = relance("migrate", &["--add", "n:int64=7", "--json"]).expect(0).json();
        let tag = ran["report"]["rollback_tag"].as_str().unwrap().to_owned();
        let beside = std::fs::read_dir(root.path()).unwrap().count();
        assert_eq!(beside, 1, "{name}");
        let uri = database.join("t.lance").to_str().unwrap().to_owned();
        let tags = Dataset::open(&uri).await.unwrap().tags().list().await.unwrap();
        let swap = format!("{tag}.swap");
        assert_eq!((tags[&tag].version, tags[&swap].version), (1, 2), "{name}");
        assert!(tags[&tag].manifest_size > 0 && tags[&tag].created_at.is_some());
        if let Ok(python) = std::env::var("RELANCE_PYTHON") {
            let code = "import sys, lancedb\n\
                        tags = lancedb.connect(sys.argv[1]).open_table('t').tags.list()\n\
                        assert tags[sys.argv[2]]['version'] == 1, tags\n";
            let database = database.to_str().unwrap();
            run(Command::new(python).args(["-c", code, database, &tag])).expect(0);
        }
        relance("verify", &[]).expect(0);
        relance("finalize", &[]).expect(0);
        std::fs::remove_dir_all(&database).unwrap();
    }
}
