//! What a table with stable row ids keeps of its rows: the versions that they appeared in and were last changed in.

use std::process::Command;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::dataset::{CommitBuilder, WriteParams};
use lance_table::rowids::version::{RowDatasetVersionMeta, RowDatasetVersionSequence};

use crate::support::books::update;
use crate::support::{Db, documents, run};

/// A table of two fragments with stable row ids: version 1.
async fn stable(db: &Db) {
    let params = WriteParams {
        enable_stable_row_ids: true,
        max_rows_per_file: 50,
        ..WriteParams::default()
    };
    db.write("t", vec![documents(0, 100)], params).await;
}

/// When each row appeared, and when it was last changed.
async fn versions(db: &Db) -> (Vec<u64>, Vec<u64>) {
    let live = db.open("t").await;
    let mut scan = live.scan();
    let names = ["_row_created_at_version", "_row_last_updated_at_version"];
    scan.project(&names).unwrap();
    let rows = scan.try_into_batch().await.unwrap();
    let [created, updated] = names.map(|name| {
        let column = rows.column_by_name(name).unwrap();
        column.as_primitive::<UInt64Type>().values().to_vec()
    });
    (created, updated)
}

async fn expect_all(db: &Db, created: u64, updated: u64) {
    let (all_created, all_updated) = versions(db).await;
    assert_eq!(all_created, vec![created; all_created.len()], "created");
    assert_eq!(all_updated, vec![updated; all_updated.len()], "updated");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_bear_the_number_of_the_swap() {
    let both: [&[&str]; 5] = [
        &["--add", "z:int8=1"],
        &["--add", "z:int8=1", "--rename", "text=body"],
        &["--cast", "id:int32", "--drop", "text"],
        &["--drop", "text", "--add", "text:int64=1"],
        &["--cast", "id:int32"],
    ];
    for changes in both {
        let db = Db::new();
        stable(&db).await;
        db.relance("migrate", "t", changes).expect(0);
        expect_all(&db, 1, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_renamed_was_not_changed() {
    let db = Db::new();
    stable(&db).await;
    db.relance("migrate", "t", &["--rename", "text=body", "--add", "o:int64"]).expect(0);
    expect_all(&db, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_bear_it_with_an_index_that_was_built_before_it() {
    let db = Db::new();
    stable(&db).await;
    crate::support::index_ids(&mut db.open("t").await).await;
    db.open("t").await.delete("id = 3").await.unwrap();
    db.relance("migrate", "t", &["--cast", "id:int32"]).expect(0).says("1 rebuilt");
    expect_all(&db, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_meanwhile_bears_the_number_that_the_swap_gets() {
    let db = Db::new();
    stable(&db).await;
    let asked = ["--add", "z:int8=1", "--rename", "text=body", "--hold"];
    db.relance("migrate", "t", &asked).expect(0);
    db.append("t", documents(100, 10)).await;
    let live = update(db.open("t").await, "id = 5", "changed since").await.unwrap();
    let head = live.version().version;
    db.relance("resume", "t", &[]).expect(0);
    let (created, updated) = versions(&db).await;
    assert!(created.iter().all(|version| *version <= head), "{created:?}");
    assert_eq!(updated, vec![head + 1; 110]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_release_left_is_put_right() {
    let db = Db::new();
    stable(&db).await;
    let live = Arc::new(db.open("t").await);
    let mut fragments = live.fragments().as_ref().clone();
    let never = RowDatasetVersionSequence::from_uniform_row_count(50, (1 << 63) + 7);
    fragments[1].last_updated_at_version_meta =
        Some(RowDatasetVersionMeta::from_sequence(&never).unwrap());
    let schema = live.schema().clone();
    let left = Operation::Merge { fragments, schema, preserves_nullability: true };
    let left = TransactionBuilder::new(1, left).build();
    CommitBuilder::new(live).execute(left).await.unwrap();
    db.relance("migrate", "t", &["--rename", "text=body"]).expect(0);
    assert_eq!(versions(&db).await.1, [vec![1; 50], vec![3; 50]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_bears_its_own_number() {
    let db = Db::new();
    stable(&db).await;
    let both = ["--cast", "text:large_string", "--rename", "vector=v"];
    db.relance("migrate", "t", &both).expect(0);
    db.open("t").await.delete("id = 7").await.unwrap();
    db.relance("rollback", "t", &["--keep-writes"]).expect(0);
    let swapped = db.relance("status", "t", &["--json"]).expect(0).json();
    let swapped = swapped["tables"][0]["rollback_points"][0]["swapped"].as_u64().unwrap();
    expect_all(&db, 1, swapped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_python_read_them() {
    let Ok(python) = std::env::var("RELANCE_PYTHON") else { return };
    let db = Db::new();
    stable(&db).await;
    db.relance("migrate", "t", &["--add", "z:int8=1", "--rename", "text=body"]).expect(0);
    let code = "import sys, lance\n\
                rows = lance.dataset(sys.argv[1]).to_table(columns=['_row_last_updated_at_version'])\n\
                assert set(rows.column(0).to_pylist()) == {2}, rows\n";
    run(Command::new(python).args(["-c", code, &db.uri("t")])).expect(0);
}
