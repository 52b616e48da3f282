//! Pages that are copied are the source's, byte for byte; what cannot be copied is decoded and encoded.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchIterator};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use lance::Dataset;
use lance::dataset::{NewColumnTransform, WriteMode, WriteParams};
use lance_core::datatypes::Schema as LanceSchema;
use lance_encoding::decoder::ColumnInfo;
use lance_file::reader::FileReader;
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::utils::CachedFileSize;

use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, flip, rows_of};

const REWRITE: &[&str] = &["--strategy", "rewrite", "--add", "n:int64=7"];

/// The rows and the bytes of each page of a column.
type Pages = Vec<(u64, Vec<Vec<u8>>)>;

async fn columns_of(file: &Path) -> Vec<Arc<ColumnInfo>> {
    let store = Arc::new(ObjectStore::local());
    let scheduler = ScanScheduler::new(store, SchedulerConfig::new(8 << 20));
    let path = object_store::path::Path::from_absolute_path(file).unwrap();
    let opened = scheduler.open_file(&path, &CachedFileSize::unknown()).await.unwrap();
    FileReader::read_all_metadata(&opened).await.unwrap().column_infos
}

/// The pages of every column of a data file.
async fn pages_of(file: &Path) -> Vec<Pages> {
    let mut bytes = std::fs::File::open(file).unwrap();
    let mut read = |offset: u64, size: u64| {
        let mut buffer = vec![0; usize::try_from(size).unwrap()];
        bytes.seek(SeekFrom::Start(offset)).unwrap();
        bytes.read_exact(&mut buffer).unwrap();
        buffer
    };
    let columns = columns_of(file).await;
    let columns = columns.iter().map(|column| {
        let pages = column.page_infos.iter().map(|page| {
            let buffers = page.buffer_offsets_and_sizes.iter();
            (page.num_rows, buffers.map(|(offset, size)| read(*offset, *size)).collect())
        });
        pages.collect()
    });
    columns.collect()
}

fn data_files(db: &Db, live: &Dataset) -> Vec<PathBuf> {
    let files = live.fragments().iter().flat_map(|fragment| &fragment.files);
    files.map(|file| db.table("t").join("data").join(&file.path)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_stays_has_the_pages_that_it_had() {
    let db = Db::new();
    let live = db.documents("t", 500_000, 250_000).await;
    let mut sources = Vec::new();
    for file in data_files(&db, &live) {
        assert!(std::fs::metadata(&file).unwrap().len() > 8 << 20, "large enough to be copied");
        sources.push(pages_of(&file).await);
    }
    let before = rows_of(&live).await;
    db.relance("migrate", "t", REWRITE).expect(0);
    let after = db.open("t").await;
    let [staged] = data_files(&db, &after).try_into().unwrap();
    let staged = pages_of(&staged).await;
    assert_eq!(staged.len(), 4);
    for column in 0..3 {
        let wanted: Pages = sources.iter().flat_map(|source| source[column].clone()).collect();
        assert!(staged[column] == wanted, "column {column}");
    }
    let rows = rows_of(&after).await;
    assert_kept(&before, &rows);
    let sevens = rows.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
    assert!(sevens.iter().all(|value| value == Some(7)));
    let taken = after.take(&[3, 250_001, 499_999], LanceSchema::clone(after.schema())).await;
    assert_eq!(crate::support::ids(&taken.unwrap()), [3, 250_001, 499_999]);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_column_is_found() {
    let db = Db::new();
    db.documents("t", 2_000, 2_000).await;
    let random = "v:fixed_size_list<int32>[3]=[1,2,3]";
    db.relance("migrate", "t", &[REWRITE, &["--add", random, "--hold"]].concat()).expect(0);
    let (mut flipped, names) = (0, ["id", "text", "vector", "n", "v"]);
    for (place, name) in names.into_iter().enumerate() {
        let staged = db.staged_files().pop().unwrap();
        let columns = columns_of(&staged).await;
        let buffers =
            columns[place].page_infos.iter().flat_map(|page| page.buffer_offsets_and_sizes.iter());
        let Some((offset, size)) = buffers.max_by_key(|(_, size)| *size) else { continue };
        flip(&staged, offset + size / 2);
        db.relance("resume", "t", &[]).expect(4).says("chunk 0").says(name);
        // What is damaged is staged again.
        db.relance("resume", "t", &["--hold"]).expect(0).says("1 to stage");
        assert!(!staged.exists());
        flipped += 1;
    }
    assert!(flipped >= 4, "{flipped}");
    db.relance("resume", "t", &[]).expect(0);
    db.relance("verify", "t", &[]).expect(0);
}

/// A migration that is killed, held or only quickly verified has the same digests to be checked by.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_quickly_can_be_verified_in_full() {
    let db = Db::new();
    let live = db.documents("t", 2_000, 1_000).await;
    let before = rows_of(&live).await;
    let each = ["--rows-per-file", "1000", "--hold", "--verify", "quick"];
    db.relance("migrate", "t", &[REWRITE, &each].concat()).expect(0);
    db.append("t", documents(2_000, 10)).await;
    db.relance("resume", "t", &["--hold"]).expect(0).says("now in full");
    let mut live = db.open("t").await;
    live.delete("id = 5 or id = 1500").await.unwrap();
    db.relance("resume", "t", &[]).expect(0);
    let rows = db.rows("t").await;
    assert_eq!(rows.num_rows(), before.num_rows() + 10 - 2);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
}

async fn migrated(db: &Db, flags: &[&str]) -> RecordBatch {
    let before = db.rows("t").await;
    db.relance("migrate", "t", &[REWRITE, flags].concat()).expect(0);
    let after = db.rows("t").await;
    for (old, new) in before.columns().iter().zip(after.columns()) {
        assert_eq!(old, new);
    }
    db.relance("verify", "t", &[]).expect(0);
    db.open("t").await.validate().await.unwrap();
    assert_eq!(unreferenced(db, "t").await, Vec::<String>::new());
    after
}

/// What is copied takes all the memory that there is, and what is made meanwhile does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_is_enough() {
    let db = Db::new();
    let live = db.documents("t", 900, 300).await;
    let columns = live.schema().fields.len();
    let least = ["--memory", "16MiB", "--rows-per-file", "300", "--add", "more:string=x"];
    let after = migrated(&db, &least).await;
    assert!(after.num_columns() > columns);
    let staged = data_files(&db, &db.open("t").await);
    assert!(pages_of(&staged[0]).await[0] == pages_of(&data_files(&db, &live)[0]).await[0]);
}

/// Columns in files of their own, some of them without any: what others made with `add_columns`.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_several_files_go_into_one() {
    for all_null in [false, true] {
        let db = Db::new();
        let mut live = db.documents("t", 900, 300).await;
        let sql = vec![("twice".to_owned(), "id * 2".to_owned())];
        live.add_columns(NewColumnTransform::SqlExpressions(sql), None, None).await.unwrap();
        if all_null {
            let none = Arc::new(Schema::new(vec![Field::new("none", DataType::Utf8, true)]));
            live.add_columns(NewColumnTransform::AllNulls(none), None, None).await.unwrap();
        }
        live.alter_columns(&[
            lance::dataset::ColumnAlteration::new("text".into()).rename("body".into())
        ])
        .await
        .unwrap();
        let sources = data_files(&db, &live);
        assert_eq!(sources.len(), 6);
        let after = migrated(&db, &["--rows-per-file", "300", "--rename", "id=key"]).await;
        assert_eq!(after.num_columns(), if all_null { 6 } else { 5 });
        let live = db.open("t").await;
        let staged = data_files(&db, &live);
        assert_eq!(staged.len(), 3);
        if !all_null {
            // `twice` was alone in its file.
            assert!(pages_of(&staged[1]).await[3] == pages_of(&sources[3]).await[0]);
        }
    }
}

/// What was asked of the encoder since a file was written is done when it is written anew.
#[tokio::test(flavor = "multi_thread")]
async fn another_compression_is_not_copied_over() {
    let db = Db::new();
    let rows = RecordBatch::try_from_iter([(
        "text",
        Arc::new(arrow::array::StringArray::from_iter_values(
            (0..20_000).map(|row| format!("{} {}", "the same again".repeat(8), row % 3)),
        )) as arrow::array::ArrayRef,
    )])
    .unwrap();
    let mut live = db.write("t", vec![rows], WriteParams::default()).await;
    let size = |live: &Dataset| data_files(&db, live)[0].metadata().unwrap().len();
    let before = size(&live);
    let same = migrated(&db, &[]).await;
    assert_eq!(same.num_rows(), 20_000);
    live.checkout_latest().await.unwrap();
    assert!(size(&live) < before + 4_096);
    let zstd = [("lance-encoding:compression", "zstd")];
    live.update_field_metadata().update("text", zstd).unwrap().await.unwrap();
    db.relance("migrate", "t", &["--strategy", "rewrite", "--drop", "n"]).expect(0);
    live.checkout_latest().await.unwrap();
    assert_ne!(size(&live), before);
    let staged = columns_of(&data_files(&db, &live)[0]).await;
    let encoding = format!("{:?}", staged[0].page_infos[0].encoding).to_lowercase();
    assert!(encoding.contains("zstd"), "{encoding}");
}

/// Small fragments are put together row by row: their pages would stay small otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn many_small_fragments_become_large_pages() {
    let db = Db::new();
    db.documents("t", 5_000, 50).await;
    let schema = documents(0, 1).schema();
    let more = RecordBatchIterator::new([Ok(documents(5_000, 5))], schema);
    let params = WriteParams { mode: WriteMode::Append, ..WriteParams::default() };
    Dataset::write(more, &db.uri("t"), Some(params)).await.unwrap();
    migrated(&db, &[]).await;
    let [staged] = data_files(&db, &db.open("t").await).try_into().unwrap();
    assert!(pages_of(&staged).await.iter().all(|pages| pages.len() == 1));
}

/// Constants that are no smaller once encoded are put together from parts: here of 4,096 rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_wide_constant_is_put_together_from_parts() {
    let db = Db::new();
    let live = db.documents("t", 10_001, 10_001).await;
    let before = rows_of(&live).await;
    let values: Vec<String> = (0..1_024).map(|value| format!("{value}.5")).collect();
    let wide = format!("v:fixed_size_list<float>[1024]=[{}]", values.join(","));
    for strategy in ["rewrite", "columns"] {
        db.relance("migrate", "t", &["--strategy", strategy, "--add", &wide]).expect(0);
        let rows = rows_of(&db.open("t").await).await;
        assert_kept(&before, &rows);
        let vectors = rows.column_by_name("v").unwrap().as_fixed_size_list().clone();
        assert_eq!((vectors.len(), vectors.null_count()), (10_001, 0));
        let values = vectors.values().as_primitive::<arrow::datatypes::Float32Type>().clone();
        let wanted = (0..1_024_u16).map(|value| f32::from(value) + 0.5).cycle();
        assert!(values.values().iter().copied().eq(wanted.take(10_001 * 1_024)), "{strategy}");
        db.relance("rollback", "t", &[]).expect(0);
    }
}

/// What a constant is encoded into lies in memory: nothing but staged files is ever written into `data/`.
#[tokio::test(flavor = "multi_thread")]
async fn every_file_that_is_written_is_staged() {
    let db = Db::new();
    let live = db.documents("t", 200_000, 100_000).await;
    let there = data_files(&db, &live).len();
    let mut run = db.start("migrate", "t", &[REWRITE, &["--hold"]].concat());
    let mut seen = std::collections::BTreeSet::new();
    while run.try_wait().unwrap().is_none() {
        let data = std::fs::read_dir(db.table("t").join("data")).unwrap();
        seen.extend(data.map(|entry| entry.unwrap().file_name()));
    }
    // The file that shows whether the directory can be written is there for a moment, and no data.
    seen.retain(|name| !name.to_string_lossy().starts_with(".relance-probe-"));
    let left = std::fs::read_dir(db.table("t").join("data")).unwrap();
    let left: std::collections::BTreeSet<_> =
        left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(seen.is_subset(&left) && left.len() > there, "{seen:?}\n{left:?}");
    db.relance("abort", "t", &[]).expect(0);
}
