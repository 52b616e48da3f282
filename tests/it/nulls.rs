//! Nulls inside columns: none becomes a value without a word, whatever way a type comes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use lance::dataset::WriteParams;
use lance_file::version::LanceFileVersion;
use relance::parse_type;

use crate::support::Db;

/// A table of one column `c` of `kind`, and an `id`.
async fn table(db: &Db, name: &str, kind: &str, rows: &[&str]) {
    let lines: Vec<_> = rows.iter().map(|row| format!("{{\"c\": {row}}}\n")).collect();
    let field = Field::new("c", parse_type(kind).unwrap(), true);
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let lines = lines.concat();
    let read = ReaderBuilder::new(schema).build(lines.as_bytes()).unwrap().next();
    let column = read.map(|batch| Arc::clone(batch.unwrap().column(0)));
    let column = column.unwrap_or_else(|| arrow::array::new_empty_array(field.data_type()));
    let ids: Int64Array = (0..i64::try_from(rows.len()).unwrap()).collect();
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), field]);
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), column];
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let params = WriteParams::with_storage_version(LanceFileVersion::V2_2);
    db.write(name, vec![batch], params).await;
}

const NESTED: [(&str, &str, &str, &str); 5] = [
    ("list<int64>", "list<item: int64 not null>", "[1, null]", "[2]"),
    ("large_list<string>", "large_list<item: string not null>", "[null]", "[\"x\"]"),
    ("struct<a: int64>", "struct<a: int64 not null>", "{\"a\": null}", "{\"a\": 1}"),
    (
        "list<struct<a: string>>",
        "list<item: struct<a: string not null>>",
        "[{\"a\": \"x\"}, {\"a\": null}]",
        "[{\"a\": \"x\"}]",
    ),
    (
        "struct<a: list<int64>>",
        "struct<a: list<item: int64 not null>>",
        "{\"a\": [1, null]}",
        "{\"a\": [1]}",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_null_where_none_may_be_is_refused_whatever_way_the_type_comes() {
    for (from, to, bad, good) in NESTED {
        let db = Db::new();
        table(&db, "t", from, &[good, bad, "null"]).await;
        table(&db, "asked", to, &[]).await;
        let before = db.rows("t").await;
        let (cast, compute) = (format!("c:{to}"), format!("d:{to}=c"));
        for strategy in ["columns", "rewrite"] {
            for asked in [["--cast", &cast], ["--compute", &compute], ["--to", "asked"]] {
                let more = [&asked[..], &["--strategy", strategy]].concat();
                db.relance("plan", "t", &more).expect(3);
                let ran = db.relance("migrate", "t", &more).expect(3);
                ran.says("1 value").says("null").says("nothing was written");
                let null = [&more[..], &["--on-bad-value", "null"]].concat();
                db.relance("migrate", "t", &null).expect(3);
            }
        }
        assert_eq!(db.open("t").await.version_id(), 1);
        assert_eq!(db.rows("t").await, before);
        // Where there is none, it goes.
        db.open("t").await.delete("id = 1").await.unwrap();
        db.relance("migrate", "t", &["--cast", &cast]).expect(0);
        let rows = db.rows("t").await;
        let (kind, nulls) = (rows.column(1).data_type().clone(), rows.column(1).null_count());
        assert_eq!((kind, nulls), (parse_type(to).unwrap(), 1), "{from}");
        db.relance("verify", "t", &[]).expect(0);
    }
}

/// Lance keeps no such promise: whoever asks for it is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_lance_does_not_keep_is_refused() {
    let db = Db::new();
    table(&db, "t", "fixed_size_list<float>[2]", &["[1, null]", "[1, 2]"]).await;
    let kind = "fixed_size_list<item: float not null>[2]";
    for (verb, asked) in [
        ("--cast", format!("c:{kind}")),
        ("--compute", format!("d:{kind}=c")),
        ("--add", format!("e:{kind}")),
    ] {
        let ran = db.relance("migrate", "t", &[verb, &asked]).expect(3);
        ran.says("Lance keeps no `not null`").says("fixed_size_list<item: float>[2]");
    }
    assert_eq!(db.open("t").await.version_id(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struct_whose_fields_may_not_be_null_can_be_made_so_too() {
    for strategy in ["columns", "rewrite"] {
        let db = Db::new();
        let kind = "struct<b: int32 not null, l: list<item: struct<x: int8 not null> not null>>";
        let good = "{\"b\": 1, \"l\": [{\"x\": 1}]}";
        table(&db, "t", kind, &[good, "null", good]).await;
        let more = ["--not-null", "c", "--strategy", strategy];
        db.relance("plan", "t", &more).expect(3);
        db.relance("migrate", "t", &more).expect(3).says("1 value");
        db.open("t").await.delete("id = 1").await.unwrap();
        db.relance("migrate", "t", &more).expect(0);
        let rows = db.rows("t").await;
        assert!(!rows.schema().field(1).is_nullable() && rows.num_rows() == 2);
        db.relance("verify", "t", &[]).expect(0);
    }
}
