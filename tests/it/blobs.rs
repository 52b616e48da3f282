//! Blobs in files of their own, through a rewrite: every byte is kept, and no file is left over.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::StreamExt;
use lance::dataset::WriteParams;
use lance::{BlobArrayBuilder, BlobFieldOptions, blob_field_with_options};
use lance_file::version::LanceFileVersion;
use lance_io::object_store::WrappingObjectStore;
use relance::{Location, Migration, Strategy};

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::walk::unreferenced;
use crate::support::{Db, small};

const ROWS: u8 = 60;

/// Deaths that are tried side by side.
const AT_ONCE: usize = 4;

/// What row `row` holds: small ones lie in the data file, larger ones side by side in another, the
/// largest alone.
fn payload(row: u8) -> Option<Vec<u8>> {
    let size = [0, 10, 60, 200, 3_000, 5][usize::from(row % 6)];
    (row % 7 != 3).then(|| vec![row; size])
}

async fn table(db: &Db) {
    let options = BlobFieldOptions::default()
        .with_inline_size_threshold(50)
        .with_dedicated_size_threshold(NonZeroUsize::new(1_000).unwrap());
    let mut blobs = BlobArrayBuilder::new(usize::from(ROWS));
    for row in 0..ROWS {
        match payload(row) {
            Some(bytes) => blobs.push_bytes(bytes).unwrap(),
            None => blobs.push_null().unwrap(),
        }
    }
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::from(ROWS)));
    let id = Field::new("id", DataType::Int64, false);
    let schema = Schema::new(vec![id, blob_field_with_options("b", true, options)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![ids, blobs.finish().unwrap()]);
    let params = WriteParams {
        max_rows_per_file: 25,
        data_storage_version: Some(LanceFileVersion::V2_2),
        ..WriteParams::default()
    };
    db.write("t", vec![batch.unwrap()], params).await;
}

async fn expect_kept(db: &Db, what: &str) {
    let live = Arc::new(db.open("t").await);
    let there: Vec<u64> = (0..ROWS).filter(|row| payload(*row).is_some()).map(u64::from).collect();
    let blobs = live.take_blobs_by_indices(&there, "b").await.unwrap();
    assert_eq!(blobs.len(), there.len(), "{what}");
    for (blob, row) in blobs.iter().zip(there) {
        let held = blob.as_ref().unwrap().read().await.unwrap().to_vec();
        assert_eq!(Some(held), payload(u8::try_from(row).unwrap()), "{what}: row {row}");
    }
}

fn migration(db: &Db, mortal: &Arc<Mortal>) -> Migration {
    let location = Location::new(&format!("file-object-store://{}", db.text()), "t").unwrap();
    let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(Arc::clone(mortal)));
    let migration = Migration::of(location).strategy(Strategy::Rewrite).rows_per_file(40);
    migration.settings(small()).store_wrapper(wrapper)
}

#[tokio::test(flavor = "multi_thread")]
async fn death_at_every_write_loses_no_blob_and_leaves_no_sidecar() {
    let db = Db::new();
    table(&db).await;
    let counter = Mortal::never();
    migration(&db, &counter).migrate().await.map(drop).unwrap();
    expect_kept(&db, "migrated").await;
    let deaths = futures::stream::iter(0..counter.writes()).map(die_once);
    assert!(deaths.buffer_unordered(AT_ONCE).count().await > 25);
}

/// Dies at write `at`; every other time what was staged is dropped, else it goes on.
async fn die_once(at: usize) {
    let what = format!("death at write {at}");
    let db = Db::new();
    table(&db).await;
    let died = migration(&db, &Mortal::at(at, How::DiesBefore)).migrate().await;
    assert!(died.is_err(), "{what}");
    expect_kept(&db, &what).await;
    let later = migration(&db, &Mortal::never());
    let staged = later.status().await.unwrap().staged.is_some();
    // Where the swap has landed there is nothing to abort.
    let aborted = staged && at.is_multiple_of(2) && later.abort().await.is_ok();
    if staged && !aborted {
        later.resume().await.map(drop).unwrap();
    } else if !staged {
        later.migrate().await.map(drop).unwrap();
    }
    expect_kept(&db, &what).await;
    let left = unreferenced(&db, "t").await;
    assert!(left.is_empty(), "{what}: {left:#?}");
}

/// The sidecars of staged files.
fn staged_sidecars(db: &Db) -> Vec<std::path::PathBuf> {
    let files = db.files().into_iter().map(|(name, _)| std::path::PathBuf::from(name));
    let is_one = |file: &std::path::PathBuf| {
        let folder = file.parent().unwrap().to_string_lossy();
        file.extension().is_some_and(|ending| ending == "blob") && folder.contains("-relance-")
    };
    files.filter(is_one).collect()
}

/// On a disk they are further names of the table's own, which are as old as the table: a cleanup takes what is old and named by
/// no version.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_of_an_old_table_outlive_a_cleanup_while_it_is_held() {
    let db = Db::new();
    table(&db).await;
    let then = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * 9);
    for (file, _) in db.files() {
        let file = std::fs::File::options().append(true).open(&file).unwrap();
        file.set_modified(then).unwrap();
    }
    let asked = ["--strategy", "rewrite", "--add", "n:int64=7"];
    db.relance("migrate", "t", &[&asked[..], &["--hold"]].concat()).expect(0);
    let staged = staged_sidecars(&db).len();
    assert!(staged > 5);
    let live = db.open("t").await;
    live.cleanup_old_versions(chrono::TimeDelta::days(7), None, None).await.unwrap();
    assert_eq!(staged_sidecars(&db).len(), staged);
    db.relance("resume", "t", &[]).expect(0);
    db.relance("finalize", "t", &[]).expect(0);
    expect_kept(&db, "finalized").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_are_not_as_they_were_verified_are_staged_again() {
    for lost in [false, true] {
        let db = Db::new();
        table(&db).await;
        db.relance("migrate", "t", &["--strategy", "rewrite", "--add", "n:int64=7", "--hold"])
            .expect(0);
        let sidecar = staged_sidecars(&db).pop().unwrap();
        let mut bytes = std::fs::read(&sidecar).unwrap();
        bytes[0] ^= 1;
        // It is a further name of the table's own, which stays as it is.
        std::fs::remove_file(&sidecar).unwrap();
        if !lost {
            std::fs::write(&sidecar, bytes).unwrap();
        }
        db.relance("resume", "t", &[]).expect(4);
        expect_kept(&db, "not swapped").await;
        db.relance("resume", "t", &[]).expect(0);
        expect_kept(&db, "swapped").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_sidecar_stops_the_migration_and_is_named() {
    let db = Db::new();
    table(&db).await;
    let files = db.files().into_iter().map(|(name, _)| name);
    let sidecar = files.filter(|name| name.contains(".blob")).max().unwrap();
    std::fs::write(&sidecar, b"short").unwrap();
    let ran = db.relance("migrate", "t", &["--strategy", "rewrite"]);
    ran.expect(1).says(".blob").says("a blob of `b`");
    assert!(db.staged_files().is_empty());
}

/// What row `row` of a table of blob v1 holds: beside nulls and empty ones, some of every size class.
fn first_kind(row: u8) -> Option<Vec<u8>> {
    let size = [0, 10, 65_536, 65_537, 300_000, 4_194_305][usize::from(row % 6)];
    (row % 5 != 3).then(|| vec![row; size])
}

/// Blobs that lie in their column, of storage version 2.1.
async fn table_of_first_kind(db: &Db, rows: u8) {
    let key = ("lance-encoding:blob".to_owned(), "true".to_owned());
    let blob = Field::new("b", DataType::LargeBinary, true).with_metadata([key].into());
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), blob]);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::from(rows)));
    let blobs: LargeBinaryArray = (0..rows).map(first_kind).collect();
    let batch = RecordBatch::try_new(Arc::new(schema), vec![ids, Arc::new(blobs)]).unwrap();
    let params = WriteParams {
        max_rows_per_file: 7,
        data_storage_version: Some(LanceFileVersion::V2_1),
        ..WriteParams::default()
    };
    db.write("t", vec![batch], params).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_the_first_kind_become_those_of_the_second_with_a_newer_version() {
    let db = Db::new();
    table_of_first_kind(&db, 24).await;
    let newer = ["--storage-version", "2.2", "--rename", "b=c", "--add", "n:int64=7"];
    db.relance("plan", "t", &newer).expect(0).says("those of `c` become blob v2");
    db.relance("migrate", "t", &newer).expect(0);
    let live = Arc::new(db.open("t").await);
    let there: Vec<u64> = (0..24).filter(|row| first_kind(*row).is_some()).map(u64::from).collect();
    let blobs = live.take_blobs_by_indices(&there, "c").await.unwrap();
    assert_eq!(blobs.len(), there.len());
    for (blob, row) in blobs.iter().zip(there) {
        let held = blob.as_ref().unwrap().read().await.unwrap().to_vec();
        assert_eq!(Some(held), first_kind(u8::try_from(row).unwrap()), "row {row}");
    }
    assert_eq!(live.count_rows(Some("c is null".to_owned())).await.unwrap(), 5);
    db.relance("verify", "t", &[]).expect(0);
    assert_eq!(unreferenced(&db, "t").await, Vec::<String>::new());
    let is_sidecar = |file: &str| Path::new(file).extension().is_some_and(|end| end == "blob");
    let sidecars = db.files().into_iter().filter(|(file, _)| is_sidecar(file));
    // One for those side by side, and one for each that is alone.
    assert_eq!(sidecars.count(), 4);
    // From here on they are what a rewrite carries.
    db.relance("migrate", "t", &["--strategy", "rewrite", "--drop", "n"]).expect(0);
    db.relance("verify", "t", &[]).expect(0);
    db.relance("rollback", "t", &[]).expect(0);
    db.relance("finalize", "t", &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_inside_a_struct_is_verified_and_left_alone() {
    let db = Db::new();
    let mut blobs = BlobArrayBuilder::new(2);
    blobs.push_bytes(vec![7; 60]).unwrap();
    blobs.push_null().unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let inner = vec![
        Field::new("n", DataType::Int64, true),
        blob_field_with_options("b", true, BlobFieldOptions::default()),
    ];
    let inside = vec![Arc::clone(&ids), blobs.finish().unwrap()];
    let structs = StructArray::new(inner.clone().into(), inside, None);
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("s", DataType::Struct(inner.into()), true),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![ids, Arc::new(structs)]);
    let params = WriteParams {
        data_storage_version: Some(LanceFileVersion::V2_2),
        ..WriteParams::default()
    };
    db.write("t", vec![batch.unwrap()], params).await;
    for change in [["--add", "z:int8=1"], ["--rename", "s.n=m"]] {
        db.relance("migrate", "t", &change).expect(0);
        db.relance("verify", "t", &[]).expect(0);
    }
    for change in [["--add", "s.q:int8=1"], ["--fill", "s.m=1"], ["--cast", "s.m:int32"]] {
        db.relance("migrate", "t", &change).expect(3).says("changes nothing beside one");
    }
}
