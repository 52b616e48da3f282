//! Every kind of change, alone and together, by every strategy that can do it.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Float16Type, Int64Type, Schema};
use lance::dataset::WriteParams;
use lance::index::DatasetIndexExt;
use relance::{Change, Location, Migration, Strategy};
use std::sync::Arc;

use crate::support::{Db, documents, ids, index_ids, run};

/// Asks for `changes`, such as `rename text=body`, in order.
fn asking(db: &Db, changes: &[&str]) -> Migration {
    let changes = changes.iter().map(|change| {
        let (verb, text) = change.split_once(' ').unwrap();
        Change::parse(verb, text).unwrap()
    });
    let location = Location::new(db.text(), "t").unwrap();
    changes.fold(Migration::of(location), Migration::change)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_planner_takes_the_cheapest_strategy() {
    let db = Db::new();
    db.documents("t", 100, 30).await;
    for (wanted, changes) in [
        (Strategy::Metadata, &["rename text=body"][..]),
        (Strategy::Metadata, &["drop text", "rename vector=v"]),
        (Strategy::Metadata, &["nullable id", "add n:int64"]),
        (Strategy::Columns, &["add n:int64=7"]),
        (Strategy::Columns, &["compute n=id + 1"]),
        (Strategy::Columns, &["cast id:string"]),
        (Strategy::Columns, &["fill text=none"]),
        (Strategy::Columns, &["fill text=none", "not-null text"]),
        (Strategy::Columns, &["drop text", "add n:int64=7"]),
        (Strategy::Columns, &["add n:int64 not null=7"]),
        (Strategy::Columns, &["add n:int64=1", "drop id", "drop text", "drop vector"]),
        (Strategy::Nothing, &["nullable text"]),
        (Strategy::Nothing, &["fill id=1"]),
    ] {
        let plan = asking(&db, changes).plan().await.unwrap();
        assert_eq!(plan.strategy, wanted, "{changes:?}");
        // The same request on the same table is the same plan.
        let again = asking(&db, changes).plan().await.unwrap();
        let json = |plan: &relance::Plan| {
            let mut json = plan.json();
            json["free_bytes"] = serde_json::Value::Null;
            json
        };
        assert_eq!(json(&plan), json(&again), "{changes:?}");
        assert!(plan.strategy == Strategy::Nothing || plan.cost.needed_bytes > 0);
    }
    for more in [
        &["--rows-per-file", "10"][..],
        &["--where", "id < 5"],
        &["--storage-version", "2.0"],
        &["--strategy", "rewrite"],
    ] {
        let plan = db.relance("plan", "t", more).expect(0).says("rewrite");
        assert!(plan.stdout.contains("strategy   rewrite"), "{}", plan.stdout);
    }
    for (strategy, change) in [("metadata", "n:int64=7"), ("columns", "n:int64")] {
        let args = ["--add", change, "--strategy", strategy];
        let code = if strategy == "metadata" { 3 } else { 0 };
        db.relance("plan", "t", &args).expect(code);
    }
    db.relance("plan", "t", &["--rename", "text=body", "--strategy", "columns"])
        .expect(3)
        .says("--strategy auto takes `metadata`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_many_changes_reads_as_expected() {
    let db = Db::new();
    let mut live = db.documents("t", 1_000, 250).await;
    index_ids(&mut live).await;
    let args =
        ["--rename", "text=body", "--add", "n:int64=7", "--cast", "id:string", "--drop", "vector"];
    let plan = db.relance("plan", "t", &args).expect(0).stdout;
    let kept = |line: &&str| {
        !["  space", "  read", "  write", "  instead"].iter().any(|s| line.starts_with(s))
    };
    let golden = "\
Plan for `t` at version 2
  strategy   columns: the values of `id` are new; all other columns stay where they are
  change     rename text=body (metadata: names stand in the manifest)
  change     add n:int64=7 (columns: its value is written for every row)
  change     cast id:string (columns: every value is cast)
  change     drop vector (metadata: the manifest names it no more)
  schema
           ~ id: string not null (was id: int64 not null)
           + body: string
           + n: int64
           - text: string
           - vector: fixed_size_list<item: float>[8]
  rows       1,000 in 4 fragments, 1 chunk
  index      `id_idx` (BTree on `id`): rebuilt with the same parameters
  undo       `rollback`, at once; what was written after the swap cannot be carried back";
    assert_eq!(plan.lines().filter(kept).collect::<Vec<_>>().join("\n"), golden);
}

/// A table with structs, some of them null, in several fragments with deletions.
async fn nested(db: &Db) -> RecordBatch {
    let numbers = Int64Array::from((0..200).map(|n| (n % 6 != 1).then_some(n)).collect::<Vec<_>>());
    let texts: StringArray = (0..200).map(|n| (n % 4 != 2).then(|| format!("{n}"))).collect();
    let fields =
        vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)];
    let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(texts)];
    let nulls = (0..200).map(|n| n % 5 != 0).collect::<Vec<bool>>();
    let meta = StructArray::try_new(fields.into(), columns, Some(nulls.into())).unwrap();
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("meta", meta.data_type().clone(), true),
    ]);
    let batch = RecordBatch::try_new(schema.into(), vec![id, Arc::new(meta)]).unwrap();
    let params = WriteParams { max_rows_per_file: 60, ..WriteParams::default() };
    let mut live = db.write("t", vec![batch], params).await;
    live.delete("id % 9 = 4").await.unwrap();
    db.rows("t").await
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_inside_structs_change_too() {
    for strategy in [Strategy::Columns, Strategy::Rewrite] {
        let db = Db::new();
        let before = nested(&db).await;
        let changes =
            ["cast meta.n:string", "fill meta.t=none", "rename meta.t=text", "add meta.x:int64=9"];
        asking(&db, &changes).strategy(strategy).migrate().await.unwrap();
        let after = db.rows("t").await;
        assert_eq!(ids(&after), ids(&before));
        let (old, new) = (before.column(1).as_struct(), after.column(1).as_struct());
        assert_eq!(new.column_names(), ["n", "text", "x"]);
        for row in 0..before.num_rows() {
            assert_eq!(old.is_null(row), new.is_null(row));
            if old.is_null(row) {
                continue;
            }
            let n = old.column(0).as_primitive::<Int64Type>();
            let cast = new.column(0).as_string::<i32>();
            assert_eq!(
                n.is_valid(row).then(|| n.value(row).to_string()),
                cast.is_valid(row).then(|| cast.value(row).to_owned())
            );
            let text = old.column(1).as_string::<i32>();
            let wanted = if text.is_null(row) { "none" } else { text.value(row) };
            assert_eq!(new.column(1).as_string::<i32>().value(row), wanted);
            assert_eq!(new.column(2).as_primitive::<Int64Type>().value(row), 9);
        }
        asking(&db, &[]).verify().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_counts() {
    let db = Db::new();
    db.documents("t", 50, 20).await;
    let before = db.rows("t").await;
    // Two columns change their names with each other, and one is computed from what became of them.
    let changes = [
        "rename text=x",
        "add text:string=new",
        "compute both=concat(text, x)",
        "cast id:string",
        "compute more=concat(id, '!')",
        "drop vector",
        "add vector:int64=1",
    ];
    asking(&db, &changes).migrate().await.unwrap();
    let after = db.rows("t").await;
    let old = before.column(1).as_string::<i32>();
    assert_eq!(after.column_by_name("x").unwrap().as_string::<i32>(), old);
    let both = after.column_by_name("both").unwrap().as_string::<i32>();
    let more = after.column_by_name("more").unwrap().as_string::<i32>();
    for row in 0..50 {
        let text = if old.is_null(row) { "" } else { old.value(row) };
        assert_eq!(both.value(row), format!("new{text}"));
        assert_eq!(more.value(row), format!("{row}!"));
    }
    assert_eq!(after.column_by_name("vector").unwrap().data_type(), &DataType::Int64);
    // Asked again, what can be told to be there is left alone.
    let again = asking(&db, &["rename text=x", "add text:string=new"]).plan().await;
    assert!(again.is_err() || again.unwrap().strategy == Strategy::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_leaves_everything_else_where_it_is() {
    let db = Db::new();
    let mut live = db.documents("t", 400, 100).await;
    index_ids(&mut live).await;
    live.delete("id % 3 = 1").await.unwrap();
    let before = db.open("t").await;
    let files = |dataset: &lance::Dataset| -> Vec<(u64, String, Option<lance_table::format::DeletionFile>)> {
        let fragments = dataset.iter_fragments();
        fragments.map(|f| (f.id, f.files[0].path.clone(), f.deletion_file.clone())).collect()
    };
    let indices = before.load_indices().await.unwrap();
    asking(&db, &["add n:int64=7", "cast vector:fixed_size_list<halffloat>[8]"])
        .migrate()
        .await
        .unwrap();
    let after = db.open("t").await;
    assert_eq!(files(&after), files(&before));
    let kept = after.load_indices().await.unwrap();
    assert_eq!(
        (kept.len(), kept[0].uuid, &kept[0].fragment_bitmap),
        (1, indices[0].uuid, &indices[0].fragment_bitmap)
    );
    let rows = db.rows("t").await;
    let vectors = rows.column_by_name("vector").unwrap().as_fixed_size_list();
    let first = vectors.value(1);
    assert_eq!(first.as_primitive::<Float16Type>().value(0).to_string(), "1");
    after.validate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn indices_are_swapped_in_with_the_rows() {
    for args in [&["--strategy", "rewrite"][..], &["--cast", "id:string"]] {
        let db = Db::new();
        let mut live = db.documents("t", 400, 100).await;
        index_ids(&mut live).await;
        // Others write between the time that the index is built and the swap.
        let report = db.relance("migrate", "t", &[args, &["--json"]].concat()).expect(0).json();
        let swapped = report["report"]["version_swapped"].as_u64().unwrap();
        assert_eq!(
            report["report"]["version_after"], swapped,
            "the index came later than the rows"
        );
        let live = db.open("t").await.checkout_version(swapped).await.unwrap();
        let indices = live.load_indices().await.unwrap();
        let covered = indices[0].fragment_bitmap.as_ref().unwrap().len();
        assert_eq!(covered, live.count_fragments() as u64);
        let found = live
            .scan()
            .filter(if args[0] == "--cast" { "id = '77'" } else { "id = 77" })
            .unwrap()
            .try_into_batch()
            .await;
        assert_eq!(found.unwrap().num_rows(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_a_schema_ask_too() {
    let db = Db::new();
    db.documents("t", 50, 20).await;
    let file = db.path().join("migration.toml");
    std::fs::write(&file, "[[change]]\nrename = \"text=body\"\n[[change]]\nadd = \"n:int64=7\"\n")
        .unwrap();
    db.relance("migrate", "t", &["--file", file.to_str().unwrap()]).expect(0);
    assert_eq!(db.rows("t").await.schema().fields().len(), 4);
    let schema = db.path().join("schema.json");
    let plan = db
        .relance("plan", "t", &["--add", "m:string", "--cast", "n:int32", "--json"])
        .expect(0)
        .json();
    std::fs::write(&schema, plan["schema_after"].to_string()).unwrap();
    db.relance("migrate", "t", &["--to", schema.to_str().unwrap()]).expect(0);
    let after = db.rows("t").await;
    assert_eq!(after.column_by_name("n").unwrap().data_type(), &DataType::Int32);
    assert_eq!(after.column_by_name("m").unwrap().null_count(), 50);
    db.documents("other", 1, 1).await;
    db.relance("plan", "t", &["--to", "other"]).expect(0).says("drop body").says("add text:string");
    std::fs::write(&file, "renam = 'a=b'").unwrap();
    db.relance("migrate", "t", &["--file", file.to_str().unwrap()])
        .expect(2)
        .says("no change is called");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_are_counted_and_refused_or_put_aside() {
    let db = Db::new();
    db.documents("t", 700, 200).await;
    let before = db.files();
    db.relance("migrate", "t", &["--cast", "text:int64"])
        .expect(3)
        .says("600 values are not of the type")
        .says("(_rowid 0)");
    db.relance("migrate", "t", &["--not-null", "text"])
        .expect(3)
        .says("100 values are null")
        .says("--fill");
    db.relance("migrate", "t", &["--cast", "id:int8"])
        .expect(3)
        .says("572 values are out of range")
        .says("128 (_rowid 128)");
    assert_eq!(db.files(), before);
    // What is deleted is nobody's problem.
    db.open("t").await.delete("id > 127").await.unwrap();
    db.relance("migrate", "t", &["--cast", "id:int8", "--preflight", "sample"]).expect(0);
    db.relance("rollback", "t", &[]).expect(0);
    db.relance("migrate", "t", &["--cast", "text:int64", "--on-bad-value", "quarantine"]).expect(0);
    assert_eq!(db.rows("t").await.column_by_name("text").unwrap().null_count(), 128);
    assert_eq!(
        db.rows("t__relance_quarantine").await.num_rows(),
        ids(&documents(0, 128)).iter().filter(|id| *id % 7 != 3).count()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said() {
    let db = Db::new();
    db.documents("t", 20, 20).await;
    for (code, args, text) in [
        (3, &["--cast", "vector:int64"][..], "there is no way from"),
        (3, &["--drop", "txt"], "did you mean `text`"),
        (3, &["--rename", "id=text"], "there is a column `text` already"),
        (2, &["--compute", "x=now()"], "gives another value each time"),
        (2, &["--compute", "x=nothere + 1"], "there is no column `nothere`"),
        (2, &["--compute", "x=id, text"], "cannot make sense of"),
        (2, &["--fill", "text"], "NAME=LITERAL"),
        (2, &["--where", "id"], "is no condition"),
        (2, &["--storage-version", "9"], "no storage version"),
        (2, &["--rename", "id=_rowid"], "reserves this name"),
        (2, &[], "no change was asked for"),
    ] {
        db.relance("plan", "t", args).expect(code).says(text);
    }
    run(std::process::Command::new(crate::support::binary()).args(["migrate", "--help"]))
        .expect(0)
        .says("--not-null");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deleted_rows_hold_is_nobodys_problem() {
    let db = Db::new();
    let mut live = db.documents("t", 100, 40).await;
    live.delete("id % 10 = 0").await.unwrap();
    // Neither the division nor the cast goes through for the rows that are gone.
    let changes = ["compute share=100 / (id % 10)", "compute n:int64 not null=100 / (id % 10)"];
    for strategy in [Strategy::Columns, Strategy::Rewrite] {
        asking(&db, &changes).strategy(strategy).migrate().await.unwrap();
        let rows = db.rows("t").await;
        let share = rows.column_by_name("share").unwrap().as_primitive::<Int64Type>();
        assert!(ids(&rows).iter().zip(share.values()).all(|(id, share)| *share == 100 / (id % 10)));
        asking(&db, &[]).rollback(relance::Writes::Refuse).await.unwrap();
    }
}

/// What is computed from constants alone is the same in every fragment, but for the rows that nobody sees.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_with_and_without_deleted_rows_share_nothing_wrong() {
    for deleted in ["id = 3", "id = 13"] {
        let db = Db::new();
        let mut live = db.documents("t", 30, 10).await;
        live.delete(deleted).await.unwrap();
        let asked = ["--strategy", "columns", "--add", "a:int64=1", "--compute", "k=a + 1"];
        db.relance("migrate", "t", &asked).expect(0);
        let rows = db.rows("t").await;
        let twos: Int64Array = (0..29).map(|_| 2).collect();
        assert_eq!(rows.column_by_name("k").unwrap().as_ref(), &twos);
        db.relance("verify", "t", &[]).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_struct_can_be_computed_from() {
    for strategy in [Strategy::Columns, Strategy::Rewrite] {
        let db = Db::new();
        let before = nested(&db).await;
        let changes = [
            "add meta.w:int64=4",
            "cast meta.n:string",
            "rename meta.t=text",
            "compute w=meta.w + id",
            "compute both=concat(meta.n, meta.text)",
        ];
        asking(&db, &changes).strategy(strategy).migrate().await.unwrap();
        let after = db.rows("t").await;
        let meta = before.column(1).as_struct();
        let w = after.column_by_name("w").unwrap().as_primitive::<Int64Type>();
        for (row, id) in ids(&before).into_iter().enumerate() {
            assert_eq!(w.is_valid(row).then(|| w.value(row)), meta.is_valid(row).then_some(id + 4));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_back_is_refused_and_kept() {
    for args in [
        &["--where", "id < 10", "--rename", "text=body"][..],
        &["--cast", "text:int64", "--on-bad-value", "null"],
        &["--cast", "vector:fixed_size_list<halffloat>[8]"],
        &["--fill", "text=none"],
        &["--set", "text=upper(text)"],
        &["--rows-per-file", "7"],
    ] {
        let db = Db::new();
        db.documents("t", 30, 30).await;
        db.relance("migrate", "t", args).expect(0);
        db.relance("plan", "t", &["--add", "x:int8"]).expect(0);
        db.open("t").await.delete("id = 3").await.unwrap();
        db.relance("rollback", "t", &["--keep-writes"]).expect(3).says("cannot be taken back");
        db.relance("rollback", "t", &["--discard-writes"]).expect(0);
        assert_eq!(ids(&db.rows("t").await).len(), 30);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_and_exact_casts_are_carried_back() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    let before = db.rows("t").await;
    let args =
        ["--rename", "text=body", "--cast", "id:string", "--add", "n:int64=7", "--nullable", "id"];
    db.relance("migrate", "t", &args).expect(0);
    db.open("t").await.delete("id = '3'").await.unwrap();
    db.relance("rollback", "t", &["--keep-writes"]).expect(0).says("1 commit)");
    let after = db.rows("t").await;
    assert_eq!(after.schema().fields(), before.schema().fields());
    assert_eq!(ids(&after).len(), 59);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_is_no_write_that_a_rollback_loses() {
    let db = Db::new();
    db.documents("t", 60, 10).await;
    db.relance("migrate", "t", &["--drop", "text"]).expect(0);
    let mut live = db.open("t").await;
    let options = lance::dataset::optimize::CompactionOptions::default();
    lance::dataset::optimize::compact_files(&mut live, options, None).await.unwrap();
    assert_eq!(db.open("t").await.count_fragments(), 1);
    db.relance("rollback", "t", &[]).expect(0);
    assert!(db.rows("t").await.column_by_name("text").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_does_not_suit_the_new_type_is_named_before() {
    let db = Db::new();
    let mut live = db.documents("t", 300, 100).await;
    let vector = lance::index::vector::VectorIndexParams::ivf_flat(
        2,
        lance_linalg::distance::MetricType::L2,
    );
    live.create_index(
        &["vector"],
        lance_index::IndexType::Vector,
        Some("near".into()),
        &vector,
        false,
    )
    .await
    .unwrap();
    let cast = ["--cast", "vector:list<float>"];
    db.relance("migrate", "t", &cast).expect(3).says("--drop-index near");
    db.relance("migrate", "t", &[&cast[..], &["--drop-index", "near"]].concat()).expect(0);
    assert!(db.open("t").await.load_indices().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_others_make_meanwhile_stops_it() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    db.relance("migrate", "t", &["--add", "n:int64=1", "--hold"]).expect(0);
    let nulls =
        lance::dataset::NewColumnTransform::AllNulls(Arc::new(Schema::new(vec![Field::new(
            "n",
            DataType::Int64,
            true,
        )])));
    db.open("t").await.add_columns(nulls, None, None).await.unwrap();
    db.relance("resume", "t", &[]).expect(3).says("exists already").says("Everything is kept");
    db.relance("abort", "t", &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_only_when_that_is_said() {
    let db = Db::new();
    let batch = documents(0, 20);
    let mut fields: Vec<Field> =
        batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let key = ("lance-schema:unenforced-primary-key".to_owned(), "true".to_owned());
    fields[0].set_metadata([key].into());
    let batch = RecordBatch::try_new(Schema::new(fields).into(), batch.columns().to_vec()).unwrap();
    db.write("t", vec![batch], WriteParams::default()).await;
    for change in [
        &["--rename", "id=key"][..],
        &["--drop", "id"],
        &["--cast", "id:string"],
        &["--set", "id=id + 1"],
    ] {
        db.relance("migrate", "t", change).expect(3).says("primary key").says("--allow-key-change");
    }
    db.relance("migrate", "t", &["--add", "n:int64=7"]).expect(0);
    db.relance("migrate", "t", &["--rename", "id=key", "--allow-key-change"]).expect(0);
    let live = db.open("t").await;
    assert!(live.schema().field("key").unwrap().is_unenforced_primary_key());
}
