//! Schemas to come to, and what schemas say beside the types: nothing of it is lost, and what cannot be done is refused
//! by name.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::ipc::writer::FileWriter;
use lance::dataset::WriteParams;
use lance_file::version::LanceFileVersion;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::Db;

fn marked(name: &str, data_type: DataType, pairs: &[(&str, &str)]) -> Field {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Field::new(name, data_type, true).with_metadata(pairs.collect())
}

/// A table `name` of one row, with a column of integers and one of bytes.
async fn table(db: &Db, name: &str, bytes: Field) {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(LargeBinaryArray::from(vec![None::<&[u8]>])),
    ];
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), bytes]);
    let params = WriteParams {
        data_storage_version: Some(LanceFileVersion::V2_2),
        ..WriteParams::default()
    };
    db.write(name, vec![RecordBatch::try_new(Arc::new(schema), columns).unwrap()], params).await;
}

fn ipc(db: &Db, fields: Vec<Field>) -> PathBuf {
    let path = db.path().join("schema.arrow");
    let schema = Schema::new(fields);
    FileWriter::try_new(File::create(&path).unwrap(), &schema).unwrap().finish().unwrap();
    path
}

const JSON: (&str, &str) = ("ARROW:extension:name", "lance.json");

#[tokio::test(flavor = "multi_thread")]
async fn what_a_column_means_comes_along_or_is_refused() {
    let db = Db::new();
    table(&db, "t", Field::new("b", DataType::LargeBinary, true)).await;
    table(&db, "docs", marked("b", DataType::LargeBinary, &[JSON])).await;
    let fixed = |size| DataType::FixedSizeBinary(size);
    let id = Field::new("id", DataType::Int64, true);
    let b = Field::new("b", DataType::LargeBinary, true);
    let wanted = vec![
        id.clone(),
        b.clone(),
        marked("doc", DataType::LargeBinary, &[JSON]),
        marked("u", fixed(16), &[("ARROW:extension:name", "arrow.uuid")]),
        marked("m", DataType::Int8, &[("unit", "m")]),
    ];
    let schema = ipc(&db, wanted.clone());
    let schema = schema.to_str().unwrap();
    db.relance("migrate", "t", &["--to", schema]).expect(0);
    let live = Schema::from(db.open("t").await.schema());
    for field in &wanted {
        let now = live.field_with_name(field.name()).unwrap();
        assert_eq!((now.data_type(), now.metadata()), (field.data_type(), field.metadata()));
    }
    db.relance("plan", "t", &["--to", schema]).expect(0).says("as asked already");
    // A text as JSON is stored as Lance stores JSON.
    let doc = marked("b", DataType::Utf8, &[("ARROW:extension:name", "arrow.json")]);
    ipc(&db, vec![id.clone(), doc]);
    db.relance("plan", "docs", &["--to", schema]).expect(0).says("as asked already");
    db.relance("plan", "t", &["--to", "docs"]).expect(3).says("lance.json in the schema");
    ipc(&db, vec![id.clone(), b.clone()]);
    db.relance("plan", "docs", &["--to", schema]).expect(3).says("lance.json in the table");
    ipc(&db, vec![b, id.clone()]);
    db.relance("plan", "t", &["--to", schema]).expect(3).says("another place");
    ipc(&db, vec![id.clone(), marked("b", DataType::LargeBinary, &[("unit", "m")])]);
    db.relance("plan", "t", &["--to", schema]).expect(3).says("`unit`");
    ipc(&db, vec![id, marked("new", DataType::LargeBinary, &[("lance-encoding:blob", "true")])]);
    db.relance("plan", "t", &["--to", schema]).expect(3).says("a blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parquet_file_has_a_schema_too() {
    let db = Db::new();
    table(&db, "t", Field::new("b", DataType::LargeBinary, true)).await;
    let path = db.path().join("wanted.parquet");
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, true),
        Field::new("b", DataType::LargeBinary, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Second, Some("+02:00".into())), true),
        marked("u", DataType::FixedSizeBinary(16), &[("ARROW:extension:name", "arrow.uuid")]),
    ]));
    let file = File::create(&path).unwrap();
    ArrowWriter::try_new(file, Arc::clone(&schema), None).unwrap().close().unwrap();
    db.relance("migrate", "t", &["--to", path.to_str().unwrap()]).expect(0);
    let live = Schema::from(db.open("t").await.schema());
    let told = |schema: &Schema| {
        let fields = schema.fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(&live), told(&schema));
    assert_eq!(live.field(3).extension_type_name(), Some("arrow.uuid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_types_are_added_with_their_values() {
    let db = Db::new();
    table(&db, "t", Field::new("b", DataType::LargeBinary, true)).await;
    let adds = [
        "--add",
        r#"doc:json={"a": [1, null]}"#,
        "--add",
        "u:extension<arrow.uuid> not null=00112233-4455-6677-8899-aabbccddeeff",
        "--add",
        "half:bfloat16",
        "--add",
        r"raw:binary=\x00ff",
    ];
    db.relance("plan", "t", &adds).expect(0).says("doc:json=");
    db.relance("migrate", "t", &adds).expect(0);
    db.relance("verify", "t", &[]).expect(0);
    let live = db.open("t").await;
    let schema = Schema::from(live.schema());
    let names = ["doc", "u", "half", "raw"];
    let means = names.map(|name| schema.field_with_name(name).unwrap().extension_type_name());
    assert_eq!(means, [Some("lance.json"), Some("arrow.uuid"), Some("lance.bfloat16"), None]);
    let rows = live.scan().try_into_batch().await.unwrap();
    let id = rows["u"].as_fixed_size_binary().value(0);
    assert_eq!((id[0], id[15]), (0, 0xff));
    assert_eq!(rows["raw"].as_binary::<i32>().value(0), [0, 0xff]);
    let filtered = live.scan().filter("json_extract(doc, '$.a[0]') = '1'").unwrap().clone();
    assert_eq!(filtered.try_into_batch().await.unwrap().num_rows(), 1);
    db.relance("migrate", "t", &["--add", "bad:json={"]).expect(2).says("JSON");
    db.relance("migrate", "t", &["--add", "bad:extension<x>"]).expect(2).says("extension type");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_schemas_are_refused_in_words() {
    let db = Db::new();
    db.documents("t", 3, 3).await;
    let path = db.path().join("schema.json");
    let ask = |schema: &Value, code: i32, word: &str| {
        std::fs::write(&path, schema.to_string()).unwrap();
        db.relance("plan", "t", &["--to", path.to_str().unwrap()]).expect(code).says(word);
    };
    let item = json!([{"name": "item", "type": "int8"}]);
    for odd in [
        json!({"name": "fixedsizelist", "listSize": -5}),
        json!({"name": "time", "unit": "NANOSECOND", "bitWidth": 32}),
        json!({"name": "map"}),
        json!({"name": "fixedsizebinary", "byteWidth": -1}),
    ] {
        ask(&json!([{"name": "odd", "type": odd, "children": item}]), 2, "`odd`");
    }
    let index = json!({"indexType": {"name": "floatingpoint", "precision": "HALF"}});
    ask(&json!([{"name": "odd", "type": "string", "dictionary": index}]), 2, "no integers");
    for large in ["fixed_size_binary[2147483647]", "fixed_size_list<double>[2147483647]"] {
        ask(&json!([{"name": "large", "type": large}]), 2, "16777216 at most");
        db.relance("plan", "t", &["--add", &format!("large:{large}")]).expect(2).says("at most");
    }
    let many = (0..20_000).map(|at| json!({"name": format!("c{at}"), "type": "int8"}));
    ask(&many.collect(), 2, "10000 at most");
    std::fs::write(db.path().join("s.arrow"), b"ARROW1\0\0\xff\xff\xff\xff\xff\xff\xff\x7f")
        .unwrap();
    let damaged = db.path().join("s.arrow");
    db.relance("plan", "t", &["--to", damaged.to_str().unwrap()]).expect(2).says("Arrow IPC");
    db.relance("plan", "t", &["--to", "nosuch.parquet"]).expect(2).says("cannot read");
    let damaged = db.path().join("s.parquet");
    for bytes in [&b""[..], b"PAR1", b"PAR1\xff\xff\xff\xffPAR1", b"PAR1....\x04\0\0\0PAR1"] {
        std::fs::write(&damaged, bytes).unwrap();
        db.relance("plan", "t", &["--to", damaged.to_str().unwrap()]).expect(2).says("Parquet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_data_frames_know_of_columns_follows_them() {
    let db = Db::new();
    let column = |name: &str, kind: &str| json!({"name": name, "field_name": name, "pandas_type": kind, "numpy_type": "object", "metadata": null});
    let pandas = json!({"index_columns": ["k"], "column_indexes": [{"pandas_type": "unicode"}],
        "columns": [column("a", "unicode"), column("gone", "unicode"), column("k", "unicode")]});
    let feature = json!({"dtype": "string", "_type": "Value"});
    let features = json!({"info": {"features": {"a": feature, "gone": feature, "k": feature}}});
    let metadata = HashMap::from([
        ("pandas".to_owned(), pandas.to_string()),
        ("huggingface".to_owned(), features.to_string()),
    ]);
    let fields: Vec<_> =
        ["a", "gone", "k"].map(|name| Field::new(name, DataType::Utf8, true)).into();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let texts = || Arc::new(StringArray::from(vec!["1", "2"])) as ArrayRef;
    let batch = RecordBatch::try_new(schema, vec![texts(), texts(), texts()]).unwrap();
    db.write("t", vec![batch], WriteParams::default()).await;
    let changes = ["--cast", "a:int64", "--drop", "gone", "--rename", "k=key", "--add", "n:int8=1"];
    db.relance("migrate", "t", &changes).expect(0);
    let live = db.open("t").await;
    let read = |key: &str| serde_json::from_str::<Value>(&live.schema().metadata[key]).unwrap();
    let (pandas, features) = (read("pandas"), read("huggingface"));
    assert_eq!(pandas["index_columns"], json!(["key"]));
    let mut number = column("a", "int64");
    number["numpy_type"] = json!("int64");
    assert_eq!(pandas["columns"], json!([number, column("key", "unicode")]));
    assert_eq!(features["info"]["features"], json!({ "key": feature }));
}
