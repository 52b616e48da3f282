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

/// A B-tree called `by_text` on `text`, and `id_idx` on `id`.
async fn indexed_twice(db: &Db) {
    let mut live = db.documents("t", 200, 50).await;
    crate::support::index_ids(&mut live).await;
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
    live.create_index(&["text"], IndexType::BTree, Some("by_text".into()), &params, false)
        .await
        .unwrap();
}

/// The names of the indices of `t`, and whether each covers every fragment.
async fn indices(db: &Db) -> Vec<(String, bool)> {
    let live = db.open("t").await;
    let whole = live.count_fragments() as u64;
    let indices = live.load_indices().await.unwrap();
    let covers = |index: &lance_table::format::IndexMetadata| {
        index.fragment_bitmap.as_ref().is_some_and(|covered| covered.len() == whole)
    };
    let mut all: Vec<_> = indices.iter().map(|index| (index.name.clone(), covers(index))).collect();
    all.sort();
    all
}

fn both() -> Vec<(String, bool)> {
    vec![("by_text".to_owned(), true), ("id_idx".to_owned(), true)]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_with_its_column_only_when_that_is_asked() {
    for more in [&["--drop", "text"][..], &["--drop", "text", "--strategy", "rewrite"]] {
        let db = Db::new();
        indexed_twice(&db).await;
        let before = db.files();
        for verb in ["plan", "migrate"] {
            db.relance(verb, "t", more)
                .expect(3)
                .says("`t` would lose index `by_text` (BTree on `text`)")
                .says("--drop-index by_text goes on without it");
        }
        assert_eq!(db.files(), before);
        let asked = [more, &["--drop-index", "by_text", "--json"]].concat();
        let done = db.relance("migrate", "t", &asked).expect(0).says("index `by_text` is dropped");
        assert_eq!(done.json()["report"]["indices_dropped"], serde_json::json!(["by_text"]));
        assert_eq!(indices(&db).await, [("id_idx".to_owned(), true)]);
    }
    let db = Db::new();
    indexed_twice(&db).await;
    let asked = ["--drop", "text", "--drop-index", "by_text", "--strategy", "rewrite"];
    let done = db.relance("migrate", "t", &asked).expect(0);
    done.says("indices    1 rebuilt: id_idx").says("indices    1 dropped: by_text");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_on_a_replaced_column_is_built_again() {
    for (change, strategy, found) in [
        (&["--add", "text:string=new"][..], "columns", "text = 'new'"),
        (&["--add", "text:string=new"], "rewrite", "text = 'new'"),
        (&["--add", "text:int64=7"], "columns", "text = 7"),
        (&["--add", "text:string"], "metadata", "text is null"),
        (&["--compute", "text=concat('d', 'x')"], "columns", "text = 'dx'"),
    ] {
        let db = Db::new();
        indexed_twice(&db).await;
        let asked = [&["--drop", "text"], change, &["--strategy", strategy, "--json"]].concat();
        let report = db.relance("migrate", "t", &asked).expect(0).json()["report"].clone();
        assert_eq!(report["indices_dropped"], serde_json::json!([]), "{change:?}");
        assert!(report["indices_rebuilt"].as_array().unwrap().contains(&"by_text".into()));
        assert_eq!(indices(&db).await, both(), "{change:?}");
        assert_eq!(db.open("t").await.count_rows(Some(found.into())).await.unwrap(), 200);
    }
    let db = Db::new();
    indexed_twice(&db).await;
    let asked = ["--compute", "t2=upper(text)", "--drop", "text", "--rename", "t2=text"];
    db.relance("migrate", "t", &asked).expect(0).says("1 rebuilt: by_text");
    assert_eq!(indices(&db).await, both());
    let found = db.open("t").await.count_rows(Some("text = 'DOCUMENT NUMBER 5'".into())).await;
    assert_eq!(found.unwrap(), 1);
    let db = Db::new();
    indexed_twice(&db).await;
    db.relance("migrate", "t", &["--drop", "text", "--add", "text:list<string>=[\"a\"]"])
        .expect(3)
        .says("index `by_text` (BTree) cannot be built on `text`, which becomes list<")
        .says("--drop-index by_text");
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_lose_no_index() {
    for more in [&[][..], &["--add", "n:int64=7"], &["--strategy", "rewrite"]] {
        let db = Db::new();
        indexed_twice(&db).await;
        let asked = [&["--rename", "text=body", "--rename", "id=key"], more].concat();
        db.relance("migrate", "t", &asked).expect(0);
        assert_eq!(indices(&db).await, both(), "{more:?}");
        let live = db.open("t").await;
        let on = live.load_indices_by_name("by_text").await.unwrap();
        assert_eq!(live.schema().field_path(on[0].fields[0]).unwrap(), "body");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_comes_after_the_swap_is_named_when_it_is_taken_back() {
    for (written, how) in [(false, &[][..]), (true, &["--keep-writes"])] {
        let db = Db::new();
        db.documents("t", 60, 20).await;
        db.relance("migrate", "t", &["--add", "n:int64=7"]).expect(0);
        let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
        let mut live = db.open("t").await;
        live.create_index(&["n"], IndexType::BTree, Some("by_n".into()), &params, false)
            .await
            .unwrap();
        if written {
            live.delete("id = 3").await.unwrap();
        }
        let back = db.relance("rollback", "t", how).expect(0);
        back.says("indices dropped with what is taken back: by_n");
        assert!(indices(&db).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indices_that_come_and_go_meanwhile_are_followed() {
    let asked = ["--drop", "text", "--add", "n:int64=7", "--hold"];
    // One comes on the column that is dropped.
    let db = Db::new();
    let mut live = db.documents("t", 200, 50).await;
    db.relance("migrate", "t", &asked).expect(0);
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
    live.create_index(&["text"], IndexType::BTree, Some("by_text".into()), &params, false)
        .await
        .unwrap();
    let lost = db.relance("resume", "t", &[]).expect(3);
    lost.says("--drop-index by_text goes on without it").says("Everything is kept");
    let done = db.relance("resume", "t", &["--drop-index", "by_text"]).expect(0);
    done.says("indices    1 dropped: by_text");
    // One that was given up is gone already.
    let db = Db::new();
    indexed_twice(&db).await;
    db.relance("migrate", "t", &[&asked[..], &["--drop-index", "by_text"]].concat()).expect(0);
    db.open("t").await.drop_index("by_text").await.unwrap();
    db.relance("resume", "t", &["--drop-index", "nothere"]).expect(3).says("no index is called");
    db.relance("resume", "t", &[]).expect(0);
    assert_eq!(indices(&db).await, [("id_idx".to_owned(), true)]);
}
