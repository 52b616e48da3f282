//! Columns with unusual names, and what an expression may hold: the column that is named is the one that is changed.

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int64Array, RecordBatch, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use lance::index::DatasetIndexExt;
use std::sync::Arc;

use crate::support::Db;

/// A table with columns of these names, each with its place plus one as its only value, and a struct `m` with a
/// field `a.b`.
async fn named(db: &Db, names: &[&str]) {
    let mut fields: Vec<Field> =
        names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    let column = |at: usize| -> ArrayRef {
        Arc::new(Int64Array::from(vec![i64::try_from(at).unwrap() + 1]))
    };
    let mut columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
    let inner = Arc::new(Field::new("a.b", DataType::Int64, true));
    let outer = StructArray::from(vec![(Arc::clone(&inner), column(99))]);
    fields.push(Field::new("m", DataType::Struct(vec![inner].into()), true));
    columns.push(Arc::new(outer));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    db.write("t", vec![batch], lance::dataset::WriteParams::default()).await;
}

fn names_of(rows: &RecordBatch) -> Vec<String> {
    rows.schema().fields().iter().map(|field| field.name().clone()).collect()
}

fn value(rows: &RecordBatch, name: &str) -> i64 {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_never_trimmed() {
    let db = Db::new();
    named(&db, &["a", " a", "a "]).await;
    db.relance("migrate", "t", &["--drop", " a"]).expect(0);
    assert_eq!(names_of(&db.rows("t").await), ["a", "a ", "m"]);
    db.relance("migrate", "t", &["--rename", "a =b"]).expect(0);
    let rows = db.rows("t").await;
    assert_eq!((value(&rows, "a"), value(&rows, "b")), (1, 3));
    db.relance("migrate", "t", &["--drop", " a"]).expect(3).says("did you mean `a`");
    db.relance("migrate", "t", &["--set", " a=1"]).expect(3).says("there is no column ` a`");
    db.relance("migrate", "t", &["--add", " c:int8=1"]).expect(2).says("in backticks");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_can_be_written() {
    let db = Db::new();
    named(&db, &["Unnamed: 0", "dc:title", "a=b", " lead", "é"]).await;
    let changes = [
        ["--set", "`Unnamed: 0`=`Unnamed: 0` + `dc:title`"],
        ["--cast", "`dc:title`:string"],
        ["--rename", "`a=b`=`x=y`"],
        ["--drop", " lead"],
        ["--add", "`new: one`:int64=7"],
        ["--rename", "m.a.b=c"],
        ["--compute", "`of:é`=`é` * 2"],
    ];
    db.relance("migrate", "t", changes.as_flattened()).expect(0).says("rename `a=b`=`x=y`");
    let rows = db.rows("t").await;
    let names = ["Unnamed: 0", "dc:title", "x=y", "é", "m", "new: one", "of:é"];
    assert_eq!(names_of(&rows), names);
    let values = ["Unnamed: 0", "x=y", "new: one", "of:é"].map(|name| value(&rows, name));
    assert_eq!(values, [3, 3, 7, 10]);
    let inner = rows["m"].as_struct().column_by_name("c").unwrap();
    assert_eq!(inner.as_primitive::<Int64Type>().value(0), 100);
    // In a file, and taken back.
    let file = db.path().join("m.toml");
    let text = "[[change]]\nrename = '`Unnamed: 0`=n'\n[[change]]\ndrop = '`of:é`'\n";
    std::fs::write(&file, text).unwrap();
    db.relance("migrate", "t", &["--file", file.to_str().unwrap()]).expect(0);
    assert_eq!(value(&db.rows("t").await, "n"), 3);
    db.relance("rollback", "t", &[]).expect(0);
    assert_eq!(names_of(&db.rows("t").await), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_of_a_dotted_name_is_carried_back() {
    let db = Db::new();
    named(&db, &["a"]).await;
    db.relance("migrate", "t", &["--rename", "m.`a.b`=`c:d`", "--add", "z:int8=1"]).expect(0);
    db.open("t").await.delete("a = 5").await.unwrap();
    db.relance("rollback", "t", &["--keep-writes"]).expect(0);
    let rows = db.rows("t").await;
    assert!(rows["m"].as_struct().column_by_name("a.b").is_some());
}

/// A struct with a field `a.b` beside a struct `a` that has a field `b`: a dot leads into a struct.
#[tokio::test(flavor = "multi_thread")]
async fn a_dot_leads_into_a_struct_before_it_is_a_names_own() {
    let db = Db::new();
    let leaf = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    let one = || -> ArrayRef { Arc::new(Int64Array::from(vec![1])) };
    let inner: ArrayRef = Arc::new(StructArray::from(vec![(leaf("b"), one()), (leaf("c"), one())]));
    let a = Arc::new(Field::new("a", inner.data_type().clone(), true));
    let outer: ArrayRef = Arc::new(StructArray::from(vec![(leaf("a.b"), one()), (a, inner)]));
    let field = Field::new("m", outer.data_type().clone(), true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![outer]).unwrap();
    db.write("t", vec![batch], lance::dataset::WriteParams::default()).await;
    db.relance("migrate", "t", &["--drop", "m.a.b"]).expect(0);
    let rows = db.rows("t").await;
    let m = rows["m"].as_struct();
    assert_eq!(m.column(1).as_struct().column_names(), ["c"]);
    db.relance("migrate", "t", &["--drop", "m.`a.b`"]).expect(0);
    assert_eq!(db.rows("t").await["m"].as_struct().column_names(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lancedb_cannot_query_are_refused() {
    let db = Db::new();
    named(&db, &["a"]).await;
    for add in ["`b``c`:int8=1", "``:int8=1"] {
        db.relance("migrate", "t", &["--add", add]).expect(2);
    }
    db.relance("migrate", "t", &["--rename", "a=`b.c`"]).expect(2).says("no dot and no backtick");
    assert_eq!(names_of(&db.rows("t").await), ["a", "m"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_is_refused_where_it_cannot_be_right() {
    let db = Db::new();
    named(&db, &["i"]).await;
    let many = vec!["i"; 5_000].join(" + ");
    let refused = |sql: &str, code: i32| {
        db.relance("migrate", "t", &["--compute", &format!("j={sql}")]).expect(code)
    };
    refused("i = ?", 2).says("a placeholder");
    refused(&many, 2).says("at most 500 operators");
    refused("\"i\" + 1", 2).says("in backticks");
    refused("i + 9223372036854775807", 3).says("Overflow");
    let ends = Int64Array::from(vec![1, i64::MIN]);
    let ends = RecordBatch::try_from_iter([("i", Arc::new(ends) as ArrayRef)]).unwrap();
    db.write("ends", vec![ends], lance::dataset::WriteParams::default()).await;
    for sql in ["j=-i", "j=i - 1"] {
        let ran = db.relance("migrate", "ends", &["--compute", sql]).expect(3);
        ran.says("as where `i` is -9223372036854775808");
    }
    db.documents("many", 20_000, 20_000).await;
    let large = db.relance("migrate", "many", &["--compute", "j=repeat('x', 300000)"]);
    large.expect(3).says("--batch-size");
    db.relance("migrate", "t", &["--compute", "j='{\"i\": 3}'"]).expect(0);
    let rows = db.rows("t").await;
    assert_eq!(rows["j"].as_string::<i32>().value(0), "{\"i\": 3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_types_from_elsewhere_get_a_suggestion() {
    let db = Db::new();
    named(&db, &["a"]).await;
    for (kind, meant) in [
        ("int", "int64"),
        ("str", "string"),
        ("varchar", "string"),
        ("datetime", "timestamp[us]"),
        ("Vector(384)", "fixed_size_list<float>[384]"),
        ("float32[384]", "fixed_size_list<float32>[384]"),
    ] {
        let ran = db.relance("plan", "t", &["--add", &format!("n:{kind}")]).expect(2);
        ran.says(&format!("did you mean `{meant}`?"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_of_an_empty_dictionary_are_counted() {
    let db = Db::new();
    let nulls = DictionaryArray::<Int32Type>::from_iter([None::<&str>, None]);
    let kind = Field::new("d", nulls.data_type().clone(), true);
    let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![kind])), vec![Arc::new(nulls)]);
    db.write("t", vec![rows.unwrap()], lance::dataset::WriteParams::default()).await;
    db.relance("migrate", "t", &["--not-null", "d"]).expect(3).says("null");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_on_an_odd_name_is_built_again() {
    let db = Db::new();
    named(&db, &["my-id"]).await;
    let mut live = db.open("t").await;
    let params = lance_index::scalar::ScalarIndexParams::default();
    let (kind, name) = (lance_index::IndexType::BTree, Some("by_id".to_owned()));
    live.create_index(&["my-id"], kind, name, &params, true).await.unwrap();
    for change in [["--cast", "my-id:int32"], ["--set", "my-id=1"]] {
        db.relance("plan", "t", &change).expect(0).says("rebuilt with the same parameters");
    }
}
