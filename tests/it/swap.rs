//! The swap is a compare-and-swap: it never loses what somebody else wrote.

use std::sync::Arc;

use arrow::array::Array;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::dataset::{CommitBuilder, Dataset};

use crate::support::{Db, documents, ids};

/// An overwrite of `dataset`'s version with its own fragments.
fn overwrite(dataset: &Dataset) -> lance::dataset::transaction::Transaction {
    let operation = Operation::Overwrite {
        fragments: dataset.fragments().as_ref().clone(),
        schema: dataset.schema().clone(),
        config_upsert_values: None,
        initial_bases: None,
    };
    TransactionBuilder::new(dataset.version_id(), operation).build()
}

/// Holds Lance to what the swap builds on: if this fails after an upgrade, the swap must be thought
/// through again.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_overwrite_refuses_and_a_plain_one_loses_rows() {
    let db = Db::new();
    let pinned = Arc::new(db.documents("t", 10, 10).await);
    db.append("t", documents(10, 5)).await;
    let strict = CommitBuilder::new(Arc::clone(&pinned)).with_max_retries(0);
    strict.execute(overwrite(&pinned)).await.unwrap_err();
    assert_eq!(db.rows("t").await.num_rows(), 15);
    let plain = CommitBuilder::new(Arc::clone(&pinned));
    plain.execute(overwrite(&pinned)).await.unwrap();
    assert_eq!(
        db.rows("t").await.num_rows(),
        10,
        "the five appended rows are lost, without an error"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_during_staging_is_not_lost() {
    let db = Db::new();
    db.documents("t", 4_000, 500).await;
    let child = db.start(
        "migrate",
        "t",
        &["--compute", "n=id * 7", "--max-rate", "10KB", "--batch-size", "100"],
    );
    crate::support::wait_until("the staging table", || db.staging_exists("t"));
    db.append("t", documents(4_000, 50)).await;
    let ran = crate::support::ran(child.wait_with_output().unwrap());
    ran.expect(0).says("caught up");
    let after = db.rows("t").await;
    assert_eq!(ids(&after), (0..4_050).collect::<Vec<_>>());
    assert_eq!(after.column_by_name("n").unwrap().null_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_swap_names_its_migration() {
    let db = Db::new();
    db.documents("t", 10, 10).await;
    let ran = db.relance("migrate", "t", &["--add", "n:int64=7", "--json"]).expect(0);
    let id = ran.json()["report"]["id"].as_str().unwrap().to_owned();
    let live = db.open("t").await;
    let swap = live.read_transaction_by_version(2).await.unwrap().unwrap();
    let properties = swap.transaction_properties.unwrap();
    assert_eq!(properties["relance.migration"], id);
    assert_eq!(properties["relance.act"], "swap");
    assert_eq!(live.tags().get_version(&format!("relance-{id}")).await.unwrap(), 1);
}
