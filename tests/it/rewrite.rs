//! The main job: rows and order kept, columns added, whatever the table looks like.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use lance::dataset::{UpdateBuilder, WriteParams};
use lance_file::version::LanceFileVersion;
use relance::{BatchSize, Ended, Report, Settings};

use crate::support::{Db, assert_kept, at_version, documents, ids, rows_of, small};

async fn swapped(db: &Db, adds: &[&str], settings: Settings) -> Report {
    let ended = db.migration("t", adds).settings(settings).migrate().await.unwrap();
    let Ended::Swapped(report) = ended else { panic!("{ended:?}") };
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_job_gives_the_seeds_schema() {
    let db = Db::new();
    let vector = DataType::new_fixed_size_list(DataType::Float32, 8, true);
    let before = documents(0, 1_000).project(&[1, 2]).unwrap();
    db.write("t", vec![before.clone()], WriteParams::default()).await;
    let adds = ["created_at:timestamp[us]=now", "category:string=general", "is_active:bool=true"];
    swapped(&db, &adds, small()).await;
    let after = db.rows("t").await;
    let wanted = Schema::new(vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("vector", vector, true),
        Field::new("created_at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("category", DataType::Utf8, true),
        Field::new("is_active", DataType::Boolean, true),
    ]);
    assert_eq!(after.schema().fields(), wanted.fields());
    assert_kept(&before, &after);
    assert!(after.column(3).as_string::<i32>().iter().all(|value| value == Some("general")));
    assert_eq!(after.column(4).as_boolean().true_count(), 1_000);
    assert_eq!(after.column(2).null_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_every_shape_migrate_alike() {
    for (rows, rows_per_file) in [(0, 10), (1, 10), (10, 10), (1_000, 1), (5_000, 700)] {
        let db = Db::new();
        db.documents("t", rows, rows_per_file).await;
        let before = db.rows("t").await;
        let report = swapped(&db, &["n:int64 not null=7", "z:string"], small()).await;
        let after = db.rows("t").await;
        assert_kept(&before, &after);
        assert_eq!(report.rows, u64::try_from(rows).unwrap());
        assert_eq!(after.column_by_name("z").unwrap().null_count(), after.num_rows());
        assert!(!db.staging_exists("t"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_are_not_carried_over() {
    let db = Db::new();
    let mut live = db.documents("t", 3_000, 500).await;
    live.delete("id % 3 = 0 or (id >= 1000 and id < 1500)").await.unwrap();
    let before = db.rows("t").await;
    let report = swapped(&db, &["n:int64=7"], small()).await;
    let after = db.open("t").await;
    assert_kept(&before, &rows_of(&after).await);
    assert_eq!(after.count_deleted_rows().await.unwrap(), 0);
    assert_eq!(report.rows, before.num_rows() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_every_row_deleted_migrates() {
    let db = Db::new();
    let mut live = db.documents("t", 100, 30).await;
    live.delete("true").await.unwrap();
    swapped(&db, &["n:int64=7"], small()).await;
    let after = db.rows("t").await;
    assert_eq!((after.num_rows(), after.num_columns()), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn updated_rows_keep_their_order() {
    let db = Db::new();
    let live = db.documents("t", 1_000, 100).await;
    UpdateBuilder::new(Arc::new(live))
        .update_where("id % 10 = 1")
        .unwrap()
        .set("text", "'changed'")
        .unwrap()
        .build()
        .unwrap()
        .execute()
        .await
        .unwrap();
    let before = db.rows("t").await;
    swapped(&db, &["n:int64=7"], small()).await;
    assert_kept(&before, &db.rows("t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_do_not_change_the_rows() {
    let odd = [
        Settings { batch_size: BatchSize::Rows(1), workers: 1, ..Settings::default() },
        Settings { batch_size: BatchSize::Rows(333), workers: 3, ..Settings::default() },
        Settings { memory_bytes: 16 << 20, batch_size: BatchSize::Bytes(1), ..Settings::default() },
        Settings { workers: 4, ..Settings::default() },
        Settings { max_rate: Some(50_000_000), ..Settings::default() },
        Settings { verify: relance::Verify::Quick, ..Settings::default() },
    ];
    for settings in odd {
        let db = Db::new();
        db.documents("t", 1_000, 150).await;
        let before = db.rows("t").await;
        swapped(&db, &["n:int64=7"], settings).await;
        let after = db.open("t").await;
        assert_kept(&before, &rows_of(&after).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_config_tags_and_storage_version_survive() {
    for version in [LanceFileVersion::V2_0, LanceFileVersion::V2_1, LanceFileVersion::V2_2] {
        let db = Db::new();
        let mut live = db.write("t", vec![with_metadata()], at_version(version)).await;
        live.update_config([("lance.compaction.x", "1"), ("app", "mine")]).await.unwrap();
        live.update_metadata([("owner", "me")]).await.unwrap();
        live.tags().create("golden", 1).await.unwrap();
        swapped(&db, &["n:int64 not null=7"], small()).await;
        let after = db.open("t").await;
        assert_eq!(after.schema().metadata["embedding_functions"], "[]");
        let field = after.schema().field("text").unwrap();
        assert_eq!(field.metadata["lance-encoding:compression"], "zstd");
        assert!(!after.schema().field("id").unwrap().nullable);
        assert!(!after.schema().field("n").unwrap().nullable);
        assert_eq!(after.config()["app"], "mine");
        assert_eq!(after.manifest().table_metadata["owner"], "me");
        assert_eq!(after.tags().get_version("golden").await.unwrap(), 1);
        let stored = after.manifest().data_storage_format.lance_file_format();
        assert_eq!(stored, version.resolve());
        let old = after.checkout_version("golden").await.unwrap();
        assert_kept(&with_metadata(), &rows_of(&old).await);
    }
}

fn with_metadata() -> RecordBatch {
    let batch = documents(0, 100);
    let mut fields: Vec<Field> =
        batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let compression = [("lance-encoding:compression".to_owned(), "zstd".to_owned())];
    fields[1] = fields[1].clone().with_metadata(compression.into());
    let metadata = [("embedding_functions".to_owned(), "[]".to_owned())].into();
    let schema = Schema::new_with_metadata(fields, metadata);
    RecordBatch::try_new(schema.into(), batch.columns().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_reader_keeps_its_version() {
    let db = Db::new();
    let reader = db.documents("t", 500, 100).await;
    swapped(&db, &["n:int64=7"], small()).await;
    let seen = rows_of(&reader).await;
    assert_eq!(seen.num_columns(), 3);
    assert_eq!(ids(&seen), (0..500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_there_is_left_alone() {
    let db = Db::new();
    db.documents("t", 100, 100).await;
    let report = swapped(&db, &["text:string=document number 1", "n:int64=7"], small()).await;
    assert_eq!(report.skipped, ["text"]);
    let values = &report.skipped_values[0];
    assert_eq!((values.rows, values.others, values.nulls), (100, 85, 14));
    assert_kept(&documents(0, 100), &db.rows("t").await);
    let again = db.migration("t", &["n:int64=7"]).migrate().await.unwrap();
    assert!(matches!(again, Ended::Nothing(_)));
    assert_eq!(db.open("t").await.version_id(), 2);
}

/// Lance reads nulls in place of a column that it does not find by its name, where a fragment has several files.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_lance_does_not_find_is_refused_not_emptied() {
    let db = Db::new();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    let batch = RecordBatch::try_from_iter([("id", Arc::clone(&ids)), ("a`b", ids)]).unwrap();
    db.write("t", vec![batch], WriteParams::default()).await;
    db.relance("migrate", "t", &["--add", "n:int64=7"]).expect(0);
    let rewrite = ["--rows-per-file", "50"];
    db.relance("migrate", "t", &rewrite).expect(3).says("does not find it by its name");
    db.relance("migrate", "t", &["--rename", "`a``b`=b"]).expect(0);
    db.relance("migrate", "t", &rewrite).expect(0);
    let rows = db.rows("t").await;
    let b = rows.column_by_name("b").unwrap().as_primitive::<Int64Type>();
    assert_eq!(b.values().to_vec(), (0..100).collect::<Vec<_>>());
}
