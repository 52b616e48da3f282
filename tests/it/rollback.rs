//! Taking back, and giving up the possibility.

use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};

use crate::support::{Db, assert_kept, documents, ids};

const ADD: &[&str] = &["--add", "n:int64=7", "--strategy", "rewrite"];

#[tokio::test(flavor = "multi_thread")]
async fn rollback_puts_the_old_version_back_with_its_indices() {
    let db = Db::new();
    let mut live = db.documents("t", 1_000, 300).await;
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
    let index = live.create_index(&["id"], IndexType::BTree, Some("by_id".into()), &params, false);
    index.await.unwrap();
    live.delete("id = 5").await.unwrap();
    let before = db.rows("t").await;
    db.relance("migrate", "t", ADD).expect(0).says("1 rebuilt");
    db.relance("rollback", "t", &[]).expect(0).says("reads as version 3 did");
    let back = db.open("t").await;
    assert_eq!(back.schema().fields.len(), 3);
    assert_kept(&before, &db.rows("t").await);
    let indices = back.load_indices().await.unwrap();
    assert_eq!(indices.iter().map(|index| index.name.as_str()).collect::<Vec<_>>(), ["by_id"]);
    assert_eq!(back.count_rows(Some("id = 700".into())).await.unwrap(), 1);
    db.relance("rollback", "t", &[]).expect(1).says("no rollback point");
    db.relance("migrate", "t", ADD).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_refuses_to_lose_writes() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--strategy", "rewrite"]).expect(0);
    let mut live = db.open("t").await;
    let more = documents(100, 20);
    let reader = arrow::array::RecordBatchIterator::new([Ok(more.clone())], more.schema());
    live.append(reader, None).await.unwrap();
    live.delete("id = 3").await.unwrap();
    db.relance("rollback", "t", &[])
        .expect(3)
        .says("2 commits (Append, Delete)")
        .says("20 rows written since (the table had 100 rows then, and has 119 now)")
        .says("--discard-writes");
    assert_eq!(db.rows("t").await.num_rows(), 119);
    db.relance("rollback", "t", &["--discard-writes"]).expect(0).says("2 commits discarded");
    assert_eq!(ids(&db.rows("t").await), (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn finalize_reclaims_what_only_the_old_version_used() {
    let db = Db::new();
    db.documents("t", 1_000, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    let ran = db.relance("finalize", "t", &["--json"]).expect(0).json();
    assert_eq!(ran["files"], 10);
    let data = db.table("t").join("data");
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 1);
    assert_eq!(ids(&db.rows("t").await), (0..1_000).collect::<Vec<_>>());
    db.relance("rollback", "t", &[]).expect(1);
    db.relance("finalize", "t", &[]).expect(1).says("no rollback point");
}

#[tokio::test(flavor = "multi_thread")]
async fn finalize_names_the_tags_that_keep_what_it_gives_up() {
    let db = Db::new();
    let live = db.documents("t", 1_000, 100).await;
    live.tags().create("theirs", 1).await.unwrap();
    let first = db.relance("migrate", "t", &[ADD, &["--json"]].concat()).expect(0).json();
    let first = first["report"]["rollback_tag"].as_str().unwrap().to_owned();
    db.relance("migrate", "t", &["--add", "m:int64=7", "--strategy", "rewrite"]).expect(0);
    // Version 2 is the swap of the first migration, and has its tag.
    let ran = db.relance("finalize", "t", &[]).expect(0).says("is no rollback point any more");
    assert!(!ran.stdout.contains("is gone") && !ran.stdout.contains("--history"), "{}", ran.stdout);
    ran.says(&format!("1 (`{first}`), 1 (`theirs`), 2 (`{first}.swap`)")).says("`finalize` again");
    let ran = db.relance("finalize", "t", &["--json"]).expect(0).json();
    assert_eq!(ran["kept"], serde_json::json!([{ "version": 1, "tag": "theirs" }]));
    assert_eq!(ran["older_versions"], 0);
    db.relance("finalize", "t", &[]).expect(1).says("no rollback point");
    assert_eq!(ids(&db.rows("t").await), (0..1_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn finalize_keeps_older_versions_unless_told() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.append("t", documents(100, 50)).await;
    db.relance("migrate", "t", ADD).expect(0);
    db.relance("finalize", "t", &[]).expect(0).says("--history");
    let live = db.open("t").await;
    assert_eq!(live.checkout_version(1).await.unwrap().count_rows(None).await.unwrap(), 100);
    db.relance("migrate", "t", &["--add", "m:int64=7"]).expect(0);
    db.relance("finalize", "t", &["--history"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_rollback_points() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    db.append("u", documents(0, 5)).await;
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    let point = &status["tables"][0]["rollback_points"][0];
    assert_eq!((point["version"].as_u64(), point["swapped"].as_u64()), (Some(1), Some(2)));
    let all = crate::support::run(
        std::process::Command::new(crate::support::binary()).arg("status").arg(db.path()),
    );
    all.expect(0).says("`t` at version 2").says("`u` at version 1").says("nothing staged");
}

#[tokio::test(flavor = "multi_thread")]
async fn finalize_reclaims_what_was_rolled_back() {
    let db = Db::new();
    db.documents("t", 1_000, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    let back = db.relance("rollback", "t", &["--json"]).expect(0).json();
    assert_eq!(back["unused"]["files"], 1);
    let data = db.table("t").join("data");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 11);
    let ran = db.relance("finalize", "t", &["--json"]).expect(0).json();
    assert_eq!((&ran["rolled_back"], &ran["version"]), (&true.into(), &2.into()));
    assert_eq!((&ran["files"], &ran["bytes"]), (&1.into(), &back["unused"]["bytes"]));
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 10);
    assert_eq!(ids(&db.rows("t").await), (0..1_000).collect::<Vec<_>>());
    assert!(db.open("t").await.checkout_version(1).await.is_ok());
    let again = db.relance("finalize", "t", &[]).expect(1);
    again.says("no rollback point").says("no swap was rolled back lately");
    db.relance("migrate", "t", ADD).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_says_what_is_left_and_writes_that_were_discarded_go_too() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    db.append("t", documents(100, 20)).await;
    let back = db.relance("rollback", "t", &["--discard-writes"]).expect(0);
    back.says("2 files, ").says("`relance finalize` removes them");
    db.relance("finalize", "t", &[]).expect(0).says("version 2, which was rolled back, is gone");
    let versions = db.open("t").await.versions().await.unwrap();
    assert_eq!(versions.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(std::fs::read_dir(db.table("t").join("data")).unwrap().count(), 1);
}

/// What a run that died between going back and its last tidying up leaves: the tags are still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_landed_is_tidied_up_and_not_done_again() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    let ran = db.relance("migrate", "t", &[ADD, &["--json"]].concat()).expect(0).json();
    let id = ran["report"]["id"].as_str().unwrap().to_owned();
    db.relance("rollback", "t", &[]).expect(0);
    let tags = db.open("t").await;
    tags.tags().create(&format!("relance-{id}"), 1).await.unwrap();
    db.append("t", documents(100, 20)).await;
    db.relance("rollback", "t", &[]).expect(0).says("version 3 reads as version 1 did");
    assert_eq!(db.open("t").await.version_id(), 4, "nothing was committed");
    assert_eq!(db.rows("t").await.num_rows(), 120);
    assert!(tags.tags().list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_finalize_look_at_the_first_commits_only() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    let mut live = db.open("t").await;
    for id in 0..70 {
        live.delete(&format!("id = {id}")).await.unwrap();
    }
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    let point = &status["tables"][0]["rollback_points"][0];
    assert_eq!(point["commits_since"], 64);
    assert_eq!((&point["commits_at_least"], &point["versions_since"]), (&true.into(), &70.into()));
    db.relance("status", "t", &[]).expect(0).says("at least 64 of 70 commits since by others");
    db.relance("finalize", "t", &[]).expect(0);
    assert_eq!(db.rows("t").await.num_rows(), 30);
    assert_eq!(crate::support::walk::unreferenced(&db, "t").await, Vec::<String>::new());
}

/// The tag of one migration keeps the rollback point of the next.
#[tokio::test(flavor = "multi_thread")]
async fn several_migrations_are_given_up_one_after_the_other() {
    for history in [&[][..], &["--history"]] {
        let db = Db::new();
        db.documents("t", 400, 100).await;
        for (name, write) in [("a", false), ("b", true), ("c", false)] {
            let add = format!("{name}:int64=7");
            db.relance("migrate", "t", &["--add", &add, "--strategy", "rewrite"]).expect(0);
            if write {
                db.open("t").await.delete("id = 3").await.unwrap();
            }
        }
        let before = db.rows("t").await;
        for _ in 0..3 {
            db.relance("finalize", "t", history).expect(0);
        }
        db.relance("finalize", "t", history).expect(1).says("no rollback point");
        let live = db.open("t").await;
        let there: Vec<u64> =
            live.versions().await.unwrap().iter().map(|version| version.version).collect();
        // Swaps are 2, 3 and 5; without the history, 3 is nobody's rollback point and was followed by a write.
        let kept: &[u64] = if history.is_empty() { &[3, 5] } else { &[5] };
        assert_eq!(there, kept, "{history:?}");
        assert_eq!(db.rows("t").await, before);
        let left = crate::support::walk::unreferenced(&db, "t").await;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalize_that_was_killed_is_done_again() {
    let db = Db::new();
    db.documents("t", 100, 50).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--strategy", "rewrite"]).expect(0);
    db.relance("migrate", "t", &["--add", "m:int64=8"]).expect(0);
    let live = db.open("t").await;
    let tags = live.tags().list().await.unwrap();
    let last =
        tags.iter().filter(|(name, _)| !name.contains(".swap")).max_by_key(|(_, tag)| tag.version);
    let (last, version) = last.map(|(name, tag)| (name.clone(), tag.version)).unwrap();
    // What the last one has done when it is killed after its first step.
    live.tags().delete(&last).await.unwrap();
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    let pin = &status["tables"][0]["pins"][0];
    assert_eq!((&pin["finalize"], &pin["version"]), (&true.into(), &version.into()));
    db.relance("status", "t", &[])
        .expect(0)
        .says("not given up to its end")
        .says("`relance finalize`");
    db.relance("abort", "t", &[]).expect(1).says("no migration of `t` is staged");
    let ran = db.relance("finalize", "t", &["--json"]).expect(0).json();
    assert_eq!(
        (&ran["version"], &ran["id"]),
        (&version.into(), &last.trim_start_matches("relance-").into())
    );
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    assert_eq!(status["tables"][0]["pins"], serde_json::json!([]));
    assert_eq!(status["tables"][0]["rollback_points"].as_array().unwrap().len(), 1);
    db.relance("finalize", "t", &["--history"]).expect(0);
    assert_eq!(crate::support::walk::unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_looked_at_hides_no_other() {
    let db = Db::new();
    db.documents("a", 10, 10).await;
    db.documents("odd+name", 10, 10).await;
    db.documents("z", 10, 10).await;
    let status = |more: &[&str]| {
        let mut command = std::process::Command::new(crate::support::binary());
        crate::support::run(command.arg("status").arg(db.path()).args(more)).expect(0)
    };
    status(&[]).says("`a` at version 1").says("`z` at version 1").says("cannot be looked at");
    let tables = status(&["--json"]).json()["tables"].clone();
    assert_eq!(tables[0]["version"], 1);
    assert_eq!((&tables[1]["table"], &tables[1]["error"]["exit"]), (&"odd+name".into(), &2.into()));
    assert_eq!((&tables[2]["table"], &tables[2]["version"]), (&"z".into(), &1.into()));
    db.relance("status", "odd+name", &[]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_without_a_migration_is_shown_and_removed() {
    let db = Db::new();
    db.documents("t", 100, 50).await;
    db.relance("migrate", "t", &["--add", "n:int64=7", "--hold"]).expect(0);
    let pins = || db.relance("status", "t", &["--json"]).json()["tables"][0]["pins"].clone();
    assert_eq!(pins(), serde_json::json!([]), "that of the held migration is at work");
    std::fs::remove_dir_all(db.table("t__relance_staging")).unwrap();
    let live = db.open("t").await;
    live.tags().create("relance-0123456789ab.swap", 1).await.unwrap();
    assert_eq!(pins().as_array().unwrap().len(), 2);
    db.relance("status", "t", &[]).expect(0).says("a pin without a migration: version 1");
    let ran = db.relance("abort", "t", &["--json"]).expect(0).json();
    assert_eq!(ran["pins"], 2);
    assert!(live.tags().list().await.unwrap().is_empty());
    assert_eq!(pins(), serde_json::json!([]));
    db.relance("abort", "t", &[]).expect(1).says("no migration of `t` is staged");
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_leaves_a_rollback_point_alone() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    db.relance("migrate", "t", ADD).expect(0);
    db.relance("abort", "t", &[]).expect(1).says("no migration of `t` is staged");
    db.relance("rollback", "t", &[]).expect(0);
}
