//! A plan writes nothing and is the same every time.

use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};

use crate::support::Db;

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_reads_as_expected_and_writes_nothing() {
    let db = Db::new();
    let mut live = db.documents("t", 1_000, 250).await;
    let params = ScalarIndexParams::for_builtin(BuiltinIndexType::Bitmap);
    live.create_index(&["id"], IndexType::Bitmap, Some("bits".into()), &params, false)
        .await
        .unwrap();
    let before = db.files();
    let args = [
        "--add",
        "n:int64 not null=7",
        "--add",
        "text:string=document number 1",
        "--rows-per-file",
        "500",
    ];
    let plan = db.relance("plan", "t", &args).expect(0).stdout;
    let lines: Vec<&str> = plan.lines().filter(|line| !line.starts_with("  space")).collect();
    let lines =
        lines.iter().filter(|line| !line.starts_with("  read") && !line.starts_with("  write"));
    let golden = "\
Plan for `t` at version 2
  strategy   rewrite: files of 500 rows are asked for
  change     add n:int64 not null=7 (columns: its value is written for every row)
  skipped    column `text` exists already with this type
  values     column `text`: of its 1,000 rows 856 hold another value than was asked for, 143 are null (--fill 'text=document number 1')
  schema
             id: int64 not null
             text: string
             vector: fixed_size_list<item: float>[8]
           + n: int64 not null
  rows       1,000 in 4 fragments, 2 chunks
  as it is   `id`, `text`, `vector`: encoded pages, of fragments without deleted rows
  index      `bits` (Bitmap on `id`): rebuilt with the same parameters
  undo       `rollback`, at once; `rollback --keep-writes` carries later writes back (drop n)";
    assert_eq!(lines.copied().collect::<Vec<_>>().join("\n"), golden);
    let json = db.relance("plan", "t", &[&args[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(json["strategy"], "rewrite");
    assert_eq!(json["rows"], 1_000);
    assert_eq!(json["chunks"].as_array().unwrap().len(), 2);
    assert_eq!(json["schema_after"][3]["name"], "n");
    assert!(json["needed_bytes"].as_u64().unwrap() > json["read_bytes"].as_u64().unwrap());
    assert_eq!(db.files(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rewrite_would_lose_is_refused_by_name() {
    use lance::dataset::WriteParams;
    use lance_file::version::LanceFileVersion;
    let cases: [(&str, WriteParams, &str, &str); 4] = [
        (
            "stable row ids",
            WriteParams { enable_stable_row_ids: true, ..Default::default() },
            "",
            "",
        ),
        ("materialised view", WriteParams::default(), "mv.definition", "schema"),
        ("computed by LanceDB", WriteParams::default(), "computed_column", "field"),
        (
            "blobs inside another type",
            crate::support::at_version(LanceFileVersion::V2_1),
            "lance-encoding:blob",
            "blob",
        ),
    ];
    for (reason, params, key, place) in cases {
        let db = Db::new();
        db.write("t", vec![marked(key, place)], params).await;
        let before = db.files();
        let more = ["--add", "n:int64=7", "--strategy", "rewrite", "--storage-version", "2.2"];
        db.relance("migrate", "t", &more).expect(3).says(reason);
        assert_eq!(db.files(), before, "{reason}");
    }
}

/// Documents whose schema or `text` field has the metadata `key`.
fn marked(key: &str, place: &str) -> arrow::array::RecordBatch {
    use arrow::array::{Array, ArrayRef, LargeBinaryArray, StructArray};
    use arrow::datatypes::{DataType, Field, Schema};
    let batch = crate::support::documents(0, 50);
    let mut fields: Vec<Field> =
        batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    let mut metadata = std::collections::HashMap::new();
    match place {
        "schema" => drop(metadata.insert(key.to_owned(), "{}".to_owned())),
        "field" => fields[1].set_metadata([(key.to_owned(), "true".to_owned())].into()),
        "blob" => {
            let bytes: LargeBinaryArray = (0..batch.num_rows()).map(|_| Some(b"blob")).collect();
            let metadata = [(key.to_owned(), "true".to_owned())].into();
            let blob = Field::new("b", DataType::LargeBinary, true).with_metadata(metadata);
            let bytes = vec![std::sync::Arc::new(bytes) as ArrayRef];
            let inside = StructArray::try_new(vec![blob].into(), bytes, None).unwrap();
            fields[1] = Field::new("text", inside.data_type().clone(), false);
            columns[1] = std::sync::Arc::new(inside) as ArrayRef;
        }
        _ => {}
    }
    assert_eq!(columns[1].len(), batch.num_rows());
    let schema = Schema::new_with_metadata(fields, metadata);
    arrow::array::RecordBatch::try_new(schema.into(), columns).unwrap()
}
