//! Values of columns that are there: nothing is skipped, set or made null without a word.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use lance::index::DatasetIndexExt;
use serde_json::json;
use std::sync::Arc;

use crate::support::{Db, documents, ids};

/// Documents with a column `n` of these `values`.
fn numbered(first: i64, values: Vec<Option<i64>>) -> RecordBatch {
    let batch = documents(first, i64::try_from(values.len()).unwrap());
    let mut fields: Vec<Field> =
        batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("n", DataType::Int64, true));
    let mut columns = batch.columns().to_vec();
    let numbers: ArrayRef = Arc::new(Int64Array::from(values));
    columns.push(numbers);
    RecordBatch::try_new(Schema::new(fields).into(), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_computed_already_is_compared() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    for verb in ["plan", "migrate"] {
        for of_itself in ["text=upper(text)", "text=substr(text, 1, 3)", "text:string=upper(text)"]
        {
            db.relance(verb, "t", &["--compute", of_itself])
                .expect(3)
                .says("column `text` exists already")
                .says("is computed from it")
                .says("--set 'text=SQL' changes the values of a column that exists");
        }
    }
    db.relance("migrate", "t", &["--compute", "n=id + 1"]).expect(0);
    for same in ["n=id + 1", "n:int64=1 + id"] {
        db.relance("plan", "t", &["--compute", same]).expect(0);
        db.relance("migrate", "t", &["--compute", same]).expect(0).says("Nothing to do");
    }
    for verb in ["plan", "migrate"] {
        db.relance(verb, "t", &["--compute", "n=id + 2"])
            .expect(3)
            .says("60 of its 60 rows hold other values than `id + 2` gives, such as 1 where it gives 2")
            .says("--set 'n=SQL'");
    }
    // One row in the last fragment, and one that nobody sees any more.
    db.append("t", numbered(60, vec![Some(61), Some(5)])).await;
    db.relance("migrate", "t", &["--compute", "n=id + 1"]).expect(3).says(
        "1 of its 62 rows hold other values than `id + 1` gives, such as 5 where it gives 62",
    );
    db.open("t").await.delete("n = 5").await.unwrap();
    db.relance("migrate", "t", &["--compute", "n=id + 1"]).expect(0).says("Nothing to do");
    // What it was computed from is gone: who knows whether it is the same.
    db.relance("migrate", "t", &["--rename", "id=key"]).expect(0);
    db.relance("migrate", "t", &["--compute", "n:int64=id + 1"])
        .expect(3)
        .says("what was asked for cannot be computed")
        .says("there is no column `id`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_is_there_already_is_compared() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    let add = ["--add", "n:int64=7"];
    db.relance("migrate", "t", &add).expect(0);
    db.relance("migrate", "t", &add).expect(0).says("Nothing to do");
    // Others write other values, and rows without any.
    db.append("t", numbered(60, vec![Some(8), None, None, Some(7), Some(9)])).await;
    let again = db.relance("migrate", "t", &[&add[..], &["--json"]].concat()).expect(0);
    let values = json!([{ "column": "n", "rows": 65, "others": 2, "nulls": 2, "fill": "7" }]);
    assert_eq!(again.json()["plan"]["skipped_values"], values);
    again.says(
        "column `n`: of its 65 rows 2 hold another value than was asked for, 2 are null (--fill 'n=7')",
    );
    let more = ["--add", "m:int64=1", "--json"];
    let report = db.relance("migrate", "t", &[&add[..], &more].concat()).expect(0).json();
    assert_eq!(report["report"]["skipped_values"], values);
    for verb in ["plan", "migrate"] {
        db.relance(verb, "t", &["--add", "n:int64=6"])
            .expect(3)
            .says("column `n` exists already, and none of its 65 rows holds 6")
            .says("--set 'n=SQL'");
    }
    // Where no value was asked for, there is none to compare; where nobody sees a row, neither.
    db.relance("migrate", "t", &["--add", "n:int64"]).expect(0).says("Nothing to do");
    db.open("t").await.delete("id >= 0").await.unwrap();
    db.relance("migrate", "t", &["--add", "n:int64=6"]).expect(0).says("Nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_what_lies_in_structs_are_compared_too() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    let add = [
        "--add",
        "t:timestamp[us]=now",
        "--add",
        "meta:struct<a: int64>={\"a\": 1}",
        "--add",
        "meta.x:int64=9",
    ];
    db.relance("migrate", "t", &add).expect(0);
    for one in [&add[..2], &add[4..]] {
        db.relance("migrate", "t", one).expect(0).says("Nothing to do");
    }
    db.relance("migrate", "t", &["--add", "meta.x:int64=8"])
        .expect(3)
        .says("column `meta.x` exists already, and none of its 60 rows holds 8: they hold others, such as 9");
}

#[tokio::test(flavor = "multi_thread")]
async fn set_changes_the_values_of_a_column_and_nothing_else() {
    for strategy in ["columns", "rewrite"] {
        let db = Db::new();
        let mut live = db.documents("t", 200, 50).await;
        crate::support::index_ids(&mut live).await;
        live.delete("id = 77").await.unwrap();
        let before = db.rows("t").await;
        let asked = ["--set", "id=id * 2", "--set", "id=id + 1", "--compute", "m=id"];
        let asked = [&asked[..], &["--strategy", strategy, "--json"]].concat();
        db.relance("plan", "t", &asked).expect(0);
        let report = db.relance("migrate", "t", &asked).expect(0).json()["report"].clone();
        assert_eq!(report["indices_rebuilt"], json!(["id_idx"]));
        let after = db.rows("t").await;
        let wanted: Vec<i64> = ids(&before).iter().map(|id| id * 2 + 1).collect();
        assert_eq!(ids(&after), wanted);
        assert_eq!(
            after.column_by_name("m").unwrap().as_primitive::<Int64Type>().values(),
            &wanted
        );
        assert!(!after.schema().field_with_name("id").unwrap().is_nullable());
        assert_eq!(after.column(1).as_ref(), before.column(1).as_ref());
        let live = db.open("t").await;
        live.validate().await.unwrap();
        let index = live.load_indices_by_name("id_idx").await.unwrap();
        let covered = index[0].fragment_bitmap.as_ref().unwrap().len();
        assert_eq!(covered, live.count_fragments() as u64);
        assert_eq!(live.count_rows(Some("id = 21".into())).await.unwrap(), 1);
        db.relance("verify", "t", &[]).expect(0);
        db.relance("rollback", "t", &[]).expect(0);
        assert_eq!(db.rows("t").await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_is_refused() {
    let db = Db::new();
    db.documents("t", 60, 20).await;
    db.relance("migrate", "t", &["--add", "meta:struct<a: int64>={\"a\": 1}"]).expect(0);
    let before = db.files();
    for (code, set, text) in [
        (3, "id=text", "values are not of the type"),
        (3, "id=nullif(id, 3)", "1 value is null"),
        (3, "txt=upper(text)", "did you mean `text`"),
        (3, "id=vector", "there is no way from"),
        (2, "meta.a=1", "only a top-level column can be set"),
        (2, "id=nothere", "there is no column `nothere`"),
        (2, "id=", "an expression"),
    ] {
        db.relance("migrate", "t", &["--set", set]).expect(code).says(text);
    }
    assert_eq!(db.files(), before);
    let file = db.path().join("migration.toml");
    std::fs::write(&file, "[[change]]\nset = \"text=upper(text)\"\n").unwrap();
    let file = file.to_str().unwrap();
    db.relance("migrate", "t", &["--file", file]).expect(0).says("set text=upper(text)");
    assert_eq!(db.rows("t").await.column(1).as_string::<i32>().value(0), "DOCUMENT NUMBER 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_became_null_are_counted() {
    let cast = ["--cast", "text:int64", "--on-bad-value"];
    for strategy in ["columns", "rewrite"] {
        let db = Db::new();
        db.documents("t", 60, 20).await;
        let asked = [&cast[..], &["quarantine", "--strategy", strategy, "--json"]].concat();
        let done = db.relance("migrate", "t", &asked).expect(0);
        let counted = json!([{ "column": "text", "problem": "not-a-value", "count": 51 }]);
        assert_eq!(done.json()["report"]["values_nulled"], counted);
        done.says(
            "every value read back and equal to what was made; 51 values of `text` that are not of \
             the type became null",
        );
        db.relance("rollback", "t", &[]).expect(0);

        // The same after a hold, catching up and resuming; deleted rows may be among them.
        let asked = [&cast[..], &["null", "--strategy", strategy, "--hold", "--json"]].concat();
        let held = db.relance("migrate", "t", &asked).expect(0).json();
        assert_eq!(held["held"]["values_nulled"], counted);
        db.append("t", documents(60, 10)).await;
        let held = db.relance("resume", "t", &["--hold", "--json"]).expect(0).json();
        assert_eq!(held["held"]["values_nulled"][0]["count"], 60);
        assert!(held["held"]["values_nulled"][0].get("at_most").is_none());
        db.open("t").await.delete("id = 0").await.unwrap();
        db.relance("resume", "t", &[])
            .expect(0)
            .says("rows       69, ")
            .says("every value verified to be what was made")
            .says("to null    at most 60 values of `text` that are not of the type became null");
    }
    let db = Db::new();
    db.documents("t", 60, 20).await;
    let done = db.relance("migrate", "t", &["--cast", "id:int8", "--json"]).expect(0);
    assert_eq!(done.json()["report"]["values_nulled"], json!([]));
    assert!(done.stderr.contains("every value read back and equal\n"), "{}", done.stderr);
}

/// A float with a fraction, a text with nine digits, a time without a zone, a text or null, and places.
fn odd_values() -> RecordBatch {
    let place = |name: &str| Field::new(name, DataType::Int64, true);
    let field = Field::new("v", DataType::Struct(vec![place("lat"), place("lon")].into()), true);
    let fields = Schema::new(vec![
        Field::new("d", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("w", DataType::Utf8, true),
        Field::new("places", DataType::List(Arc::new(field)), true),
    ]);
    let rows = r#"
        {"d": 1704110400.5, "s": "12:30:00.123456789", "w": "a", "places": [{"lat": 1, "lon": 2}]}
        {"d": 3.0, "s": "12:30:00", "w": null, "places": null}"#;
    let reader = arrow::json::ReaderBuilder::new(Arc::new(fields)).build(rows.as_bytes());
    reader.unwrap().next().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cast_loses_nothing_without_a_word() {
    let db = Db::new();
    db.write("t", vec![odd_values()], lance::dataset::WriteParams::default()).await;
    let before = db.files();
    for (flag, asked, text) in [
        ("--cast", "d:timestamp[s]", "1704110400.5"),
        ("--compute", "x:duration[s]=d", "1704110400.5"),
        ("--cast", "s:time64[us]", "12:30:00.123456789"),
        ("--cast", "s:time32[s]", "12:30:00.123456789"),
    ] {
        db.relance("migrate", "t", &[flag, asked])
            .expect(3)
            .says("would lose digits or parts")
            .says(text);
    }
    for literal in ["x:list<int64>=[1.5]", "x:decimal128(5, 2)=-", "x:double=1e400"] {
        db.relance("migrate", "t", &["--add", literal]).expect(2).says("is not a");
    }
    assert_eq!(db.files(), before);
    let by_name = "places:list<item: struct<lon: string, name: string, lat: int8>>";
    db.relance("migrate", "t", &["--cast", "w:list<string>", "--cast", by_name]).expect(0);
    let rows = db.rows("t").await;
    let shown = |name: &str| {
        let column = rows.column_by_name(name).unwrap();
        [0, 1].map(|row| arrow::util::display::array_value_to_string(column, row).unwrap())
    };
    assert_eq!(shown("w"), ["[a]", ""]);
    assert_eq!(shown("places"), ["[{lon: 2, name: , lat: 1}]", ""]);
}
