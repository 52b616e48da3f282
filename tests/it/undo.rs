//! Going back without losing what was written since.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::support::books::update;
use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, index_ids};

/// A migrated table that was written to since: rows, a deletion, an update, and a column of somebody's.
async fn written_to(db: &Db) {
    let mut live = db.documents("t", 1_000, 100).await;
    index_ids(&mut live).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--rows-per-file", "100"]).expect(0);
    let with_n = db.rows("t").await.slice(0, 20);
    let with_n = {
        let mut columns = with_n.columns().to_vec();
        columns[0] = std::sync::Arc::new(arrow::array::Int64Array::from_iter_values(1_000..1_020));
        arrow::array::RecordBatch::try_new(with_n.schema(), columns).unwrap()
    };
    db.append("t", with_n).await;
    let mut live = update(db.open("t").await, "id = 500", "changed since").await.unwrap();
    live.delete("id = 3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_since_the_swap_are_carried_back() {
    let db = Db::new();
    written_to(&db).await;
    let before = db.rows("t").await.project(&[0, 1, 2]).unwrap();
    db.relance("rollback", "t", &[]).expect(3).says("--keep-writes");
    db.relance("rollback", "t", &["--keep-writes"]).expect(0).says("is kept (3 commits)");
    let after = db.rows("t").await;
    assert_eq!(after.num_columns(), 3);
    assert_kept(&before, &after);
    assert_eq!(after.num_rows(), 1_019);
    let live = db.open("t").await;
    assert_eq!(live.schema().fields.iter().map(|field| field.id).collect::<Vec<_>>(), [0, 1, 2]);
    let indices = lance::index::DatasetIndexExt::load_indices(&live).await.unwrap();
    assert_eq!(indices.len(), 1, "the index on `id` was built again");
    assert!(!db.staging_exists("t"));
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
    // The way back is a swap like any other, and can be given up or taken back itself.
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    assert_eq!(status["tables"][0]["rollback_points"].as_array().unwrap().len(), 1);
    db.relance("rollback", "t", &[]).expect(0);
    assert_eq!(db.rows("t").await.num_columns(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_writes_keeping_them_is_a_plain_rollback() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", &["--add", "n:int64=7"]).expect(0);
    db.relance("rollback", "t", &["--keep-writes"]).expect(0).says("reads as version 1 did");
    db.relance("rollback", "t", &["--keep-writes", "--discard-writes"]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_columns_survive_the_way_back() {
    let db = Db::new();
    written_to(&db).await;
    let mut live = db.open("t").await;
    let doubled = lance::dataset::NewColumnTransform::SqlExpressions(vec![(
        "twice".to_owned(),
        "id * 2".to_owned(),
    )]);
    live.add_columns(doubled, None, None).await.unwrap();
    db.relance("rollback", "t", &["--keep-writes"]).expect(0);
    let after = db.rows("t").await;
    assert!(after.column_by_name("n").is_none());
    let ids = after.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    let twice = after.column_by_name("twice").unwrap().as_primitive::<Int64Type>();
    assert!(ids.values().iter().zip(twice.values()).all(|(id, twice)| id * 2 == *twice));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_was_killed_goes_on() {
    let db = Db::new();
    written_to(&db).await;
    let before = db.rows("t").await.project(&[0, 1, 2]).unwrap();
    let mut child = db.start("rollback", "t", &["--keep-writes", "--progress", "plain"]);
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let found = std::io::BufRead::lines(stderr).any(|line| line.unwrap().contains("staging in"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found);
    db.append("t", {
        let rows = db.rows("t").await.slice(0, 1);
        let mut columns = rows.columns().to_vec();
        columns[0] = std::sync::Arc::new(arrow::array::Int64Array::from(vec![-1]));
        arrow::array::RecordBatch::try_new(rows.schema(), columns).unwrap()
    })
    .await;
    db.relance("resume", "t", &[]).expect(0);
    let after = db.rows("t").await;
    assert_eq!(after.num_columns(), 3);
    assert_kept(&before, &after.slice(0, before.num_rows()));
    assert_eq!(after.num_rows(), before.num_rows() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_says_how_it_is_taken_back() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    let plan = db.relance("plan", "t", &["--add", "n:int64=7"]).expect(0);
    plan.says("rollback --keep-writes").says("drop n");
    let json = db.relance("plan", "t", &["--add", "n:int64=7", "--json"]).expect(0).json();
    assert_eq!(json["undo"], serde_json::json!(["drop n"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_after_a_kill_behind_the_swap_needs_no_resume() {
    let db = Db::new();
    let mut live = db.documents("t", 500, 100).await;
    index_ids(&mut live).await;
    let before = db.rows("t").await;
    let mut child = db.start("migrate", "t", &["--add", "n:int64=7", "--progress", "plain"]);
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let found = std::io::BufRead::lines(stderr).any(|line| line.unwrap().contains("swapped in as"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found);
    db.relance("rollback", "t", &["--discard-writes"]).expect(0);
    assert_eq!(db.rows("t").await, before);
    assert!(!db.staging_exists("t"));
    let more = documents(500, 5);
    db.append("t", more).await;
}

/// A migration that was killed right behind its swap.
async fn killed_behind_the_swap(db: &Db) -> arrow::array::RecordBatch {
    let mut live = db.documents("t", 500, 100).await;
    index_ids(&mut live).await;
    let mut child = db.start("migrate", "t", &["--add", "n:int64=7", "--progress", "plain"]);
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let found = std::io::BufRead::lines(stderr).any(|line| line.unwrap().contains("swapped in as"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found && db.staging_exists("t"));
    db.rows("t").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_landed_is_known_without_its_tag() {
    for move_it in [false, true] {
        let db = Db::new();
        let before = killed_behind_the_swap(&db).await;
        let live = db.open("t").await;
        let tags = live.tags().list().await.unwrap();
        let is_swap = |tag: &&String| tag.contains(".swap");
        if let Some(swap) = tags.keys().find(is_swap) {
            live.tags().delete(swap).await.unwrap();
        }
        let tag = tags.keys().find(|tag| tag.starts_with("relance-") && !is_swap(tag)).unwrap();
        if move_it {
            live.tags().update(tag, live.version_id()).await.unwrap();
        } else {
            live.tags().delete(tag).await.unwrap();
        }
        db.relance("abort", "t", &[]).expect(3).says("the swap landed as version");
        assert_eq!(db.rows("t").await, before);
        db.relance("resume", "t", &[]).expect(0);
        assert_eq!(db.rows("t").await, before);
        assert!(!db.staging_exists("t"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_point_outlives_the_cleanup_of_its_swap() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let before = db.rows("t").await;
    db.relance("migrate", "t", &["--add", "n:int64=7"]).expect(0);
    let mut live = db.open("t").await;
    live.delete("id = 1").await.unwrap();
    live.delete("id = 2").await.unwrap();
    let tags = live.tags().list().await.unwrap();
    let tag = tags.keys().find(|tag| tag.contains(".swap")).unwrap();
    live.tags().delete(tag).await.unwrap();
    clean(&live).await;
    assert!(live.checkout_version(2).await.is_err(), "the swapped version is gone");
    db.relance("status", "t", &[]).expect(0).says("rollback point: version 1");
    let refused = db.relance("rollback", "t", &[]).expect(3).says("--discard-writes");
    assert!(!refused.stderr.contains("--keep-writes"), "{}", refused.stderr);
    refused.says("version 2, which tells what was done, was cleaned away");
    let kept = db.relance("rollback", "t", &["--keep-writes"]).expect(3);
    kept.says("was cleaned away").says("--discard-writes");
    db.relance("verify", "t", &[]).expect(3).says("was cleaned away");
    db.relance("rollback", "t", &["--discard-writes"]).expect(0);
    assert_eq!(db.rows("t").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_for_a_way_back_that_landed_does_not_take_it_back() {
    let db = Db::new();
    written_to(&db).await;
    let mut child = db.start("rollback", "t", &["--keep-writes", "--progress", "plain"]);
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let found = std::io::BufRead::lines(stderr).any(|line| line.unwrap().contains("swapped in as"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found && db.staging_exists("t"));
    db.relance("rollback", "t", &["--keep-writes"]).expect(6).says("landed as version");
    assert_eq!(db.rows("t").await.num_columns(), 3);
    db.relance("resume", "t", &[]).expect(0);
    assert_eq!(db.rows("t").await.num_columns(), 3);
}

/// An ordinary cleanup of every old version that has no tag.
async fn clean(live: &lance::Dataset) {
    let policy = lance::dataset::cleanup::CleanupPolicyBuilder::default();
    let policy = policy.before_timestamp(chrono::Utc::now()).error_if_tagged_old_versions(false);
    live.cleanup(policy.build()).execute().await.unwrap();
}

/// The names of relance's tags on the table, sorted.
async fn tags(db: &Db) -> Vec<(String, u64)> {
    let tags = db.open("t").await.tags().list().await.unwrap().into_iter();
    let mut tags: Vec<_> = tags.map(|(name, tag)| (name, tag.version)).collect();
    tags.sort();
    tags
}

#[tokio::test(flavor = "multi_thread")]
async fn what_going_back_needs_outlives_a_cleanup() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let ran = db.relance("migrate", "t", &["--add", "n:int64=7", "--json"]).expect(0).json();
    let id = ran["report"]["id"].as_str().unwrap().to_owned();
    let both = [(format!("relance-{id}"), 1), (format!("relance-{id}.swap"), 2)];
    assert_eq!(tags(&db).await, both);
    let mut live = db.open("t").await;
    live.delete("id = 1").await.unwrap();
    live.delete("id = 2").await.unwrap();
    clean(&live).await;
    assert!(live.checkout_version(3).await.is_err(), "the cleanup did clean");
    db.relance("verify", "t", &[]).expect(0);
    db.relance("rollback", "t", &[]).expect(3).says("--keep-writes").says("2 commits");
    let before = db.rows("t").await.project(&[0, 1, 2]).unwrap();
    db.relance("rollback", "t", &["--keep-writes"]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    // Those of the way back have taken their place, and go with its rollback point.
    let back = tags(&db).await;
    assert!(back.len() == 2 && back.iter().all(|(name, _)| !name.contains(&id)), "{back:?}");
    db.relance("finalize", "t", &[]).expect(0);
    assert_eq!(tags(&db).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_others_is_no_swap_when_its_version_is_gone() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--hold"]).expect(0);
    let mut live = db.open("t").await;
    let twice = vec![("twice".to_owned(), "id * 2".to_owned())];
    let twice = lance::dataset::NewColumnTransform::SqlExpressions(twice);
    live.add_columns(twice, None, None).await.unwrap();
    live.delete("id = 1").await.unwrap();
    clean(&live).await;
    assert!(live.checkout_version(2).await.is_err(), "the next version is gone");
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    assert_eq!(status["tables"][0]["staged"]["state"], "held");
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(db.rows("t").await.num_columns(), 4);
    assert!(!db.staging_exists("t") && db.staged_files().is_empty() && tags(&db).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_refuses_behind_a_kill_leaves_what_going_back_needs() {
    let db = Db::new();
    killed_behind_the_swap(&db).await;
    db.append("t", documents(500, 5)).await;
    db.relance("rollback", "t", &[]).expect(3).says("--keep-writes");
    assert!(!db.staging_exists("t"));
    let tags = tags(&db).await;
    assert!(tags.len() == 2 && tags[1].0.contains(".swap"), "{tags:?}");
    clean(&db.open("t").await).await;
    db.relance("verify", "t", &[]).expect(0);
}
