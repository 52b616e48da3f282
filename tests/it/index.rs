//! Indices come back with the same parameters.

use lance::index::vector::VectorIndexParams;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_index::{IndexDescription, IndexType};
use lance_linalg::distance::MetricType;

use crate::support::{Db, documents};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_rebuilt_with_the_same_parameters() {
    let db = Db::new();
    let mut live = db.documents("t", 2_000, 500).await;
    let btree = serde_json::json!({ "zone_size": 77 });
    let btree = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree).with_params(&btree);
    live.create_index(&["id"], IndexType::BTree, Some("by_id".into()), &btree, false)
        .await
        .unwrap();
    let text = InvertedIndexParams::default().with_position(true).stem(false);
    live.create_index(&["text"], IndexType::Inverted, Some("words".into()), &text, false)
        .await
        .unwrap();
    let vector = VectorIndexParams::ivf_pq(4, 8, 2, MetricType::Cosine, 10);
    live.create_index(&["vector"], IndexType::Vector, Some("near".into()), &vector, false)
        .await
        .unwrap();
    let before = details(&live).await;
    let plan = db.relance("plan", "t", &["--add", "n:int64=7", "--strategy", "rewrite"]).expect(0);
    plan.says("`by_id` (BTree on `id`): rebuilt").says("`near` (IVF_PQ on `vector`)");
    db.relance("migrate", "t", &["--add", "n:int64=7", "--strategy", "rewrite"])
        .expect(0)
        .says("3 rebuilt");
    let after = db.open("t").await;
    assert_eq!(details(&after).await, before);
    assert_eq!(zone_size(&after).await, 77);
    for name in ["by_id", "words", "near"] {
        let statistics = after.index_statistics(name).await.unwrap();
        let statistics: serde_json::Value = serde_json::from_str(&statistics).unwrap();
        assert_eq!(statistics["num_unindexed_rows"], 0, "{name}");
    }
    assert_eq!(after.count_rows(Some("id = 1234".into())).await.unwrap(), 1);
}

/// Name, kind, rows, and the details that Lance keeps, of every index.
async fn details(dataset: &lance::Dataset) -> Vec<(String, String, u64, serde_json::Value)> {
    let described = dataset.describe_indices(None).await.unwrap();
    let detail = |index: &std::sync::Arc<dyn IndexDescription>| {
        let kind = index.index_type().to_owned();
        let details = serde_json::from_str(&index.details().unwrap()).unwrap();
        (index.name().to_owned(), kind, index.rows_indexed(), details)
    };
    described.iter().map(detail).collect()
}

async fn zone_size(dataset: &lance::Dataset) -> u64 {
    let indices = dataset.load_indices_by_name("by_id").await.unwrap();
    let index = dataset.open_scalar_index("id", &indices[0].uuid, &NoOpMetricsCollector);
    let params = index.await.unwrap().derive_index_params().unwrap().params.unwrap();
    serde_json::from_str::<serde_json::Value>(&params).unwrap()["zone_size"].as_u64().unwrap()
}

/// The table `t` with a B-tree on `id`.
async fn indexed(db: &Db) {
    let mut live = db.documents("t", 200, 100).await;
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
    live.create_index(&["id"], IndexType::BTree, Some("by_id".into()), &params, false)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_index_is_dropped_and_a_wrong_name_refused() {
    let db = Db::new();
    indexed(&db).await;
    let add = ["--add", "n:int64=7"];
    let wrong = db.relance("migrate", "t", &[&add[..], &["--drop-index", "by_ib"]].concat());
    wrong.expect(2).says("no index is called `by_ib`; the table has by_id");
    db.relance("migrate", "t", &[&add[..], &["--drop-index", "by_id"]].concat()).expect(0);
    assert!(db.open("t").await.load_indices().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_index_commits_do_not_count_as_writes() {
    let db = Db::new();
    indexed(&db).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--strategy", "rewrite"]).expect(0);
    db.append("u", documents(0, 1)).await;
    db.relance("status", "t", &[]).expect(0).says("0 commits by others since");
    db.relance("rollback", "t", &[]).expect(0);
}
