//! Verification is the gate: what was damaged is not swapped in.

use arrow::array::Int64Array;

use crate::support::{Db, flip};

const ADD: &[&str] = &["--add", "n:int64=7"];

async fn held(db: &Db) -> std::path::PathBuf {
    db.documents("t", 2_000, 2_000).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    db.staged_files().pop().unwrap()
}

async fn assert_refused(db: &Db) {
    db.relance("resume", "t", &[]).expect(4).says("chunk 0").says("live table is as it was");
    let live = db.open("t").await;
    assert_eq!((live.version_id(), live.schema().fields.len()), (1, 3));
    db.relance("abort", "t", &[]).expect(0);
    db.relance("migrate", "t", ADD).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_vector_is_found() {
    let db = Db::new();
    let file = held(&db).await;
    let middle = std::fs::metadata(&file).unwrap().len() / 2;
    flip(&file, middle);
    assert_refused(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_found() {
    let db = Db::new();
    let file = held(&db).await;
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    assert_refused(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tables_file_in_its_place_is_found() {
    let db = Db::new();
    let file = held(&db).await;
    let other = Db::new();
    other.documents("t", 2_000, 2_000).await;
    other.relance("migrate", "t", &["--add", "n:int64=8", "--hold"]).expect(0);
    std::fs::copy(other.staged_files().pop().unwrap(), &file).unwrap();
    db.relance("resume", "t", &[]).expect(4).says("chunk 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_table_is_compared_with_its_rollback_point() {
    let db = Db::new();
    db.documents("t", 1_000, 300).await;
    db.relance("verify", "t", &[]).expect(1).says("no rollback point");
    db.relance("migrate", "t", ADD).expect(0);
    let verified = db.relance("verify", "t", &["--json"]).expect(0).json();
    assert_eq!(verified["rows"], 1_000);
    assert_eq!(verified["columns"].as_array().unwrap().len(), 4);
    let file = db.staged_files().pop().unwrap();
    let middle = std::fs::metadata(&file).unwrap().len() / 2;
    flip(&file, middle);
    let ran = db.relance("verify", "t", &[]);
    assert!(ran.code == 4 || ran.code == 1, "{}", ran.stderr);
}

/// Files of equally many constants are copies of the first one; each is looked at all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_among_many_is_found() {
    let db = Db::new();
    db.documents("t", 2_050, 100).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    let staged = db.staged_files();
    assert_eq!(staged.len(), 21);
    let bytes: Vec<_> = staged.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let alike = |one: &Vec<u8>| bytes.iter().filter(|other| *other == one).count();
    assert_eq!(bytes.iter().map(alike).max(), Some(20));
    let other = Db::new();
    other.documents("t", 100, 100).await;
    other.relance("migrate", "t", &["--add", "n:int64=8", "--hold"]).expect(0);
    std::fs::copy(other.staged_files().pop().unwrap(), &staged[7]).unwrap();
    assert_refused(&db).await;
    let rows = db.rows("t").await;
    let sevens: Int64Array = (0..2_050).map(|_| 7).collect();
    assert_eq!(rows.column_by_name("n").unwrap().as_ref(), &sevens);
}

/// Two staged files of one size whose names were exchanged hold each other's rows.
#[tokio::test(flavor = "multi_thread")]
async fn exchanged_files_are_found() {
    let db = Db::new();
    db.documents("t", 2_000, 1_000).await;
    db.relance("migrate", "t", &["--compute", "m:double=cast(id as double) / 7", "--hold"])
        .expect(0);
    let staged = db.staged_files();
    let bytes: Vec<_> = staged.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(bytes.len() == 2 && bytes[0].len() == bytes[1].len() && bytes[0] != bytes[1]);
    let aside = staged[0].with_extension("aside");
    std::fs::rename(&staged[0], &aside).unwrap();
    std::fs::rename(&staged[1], &staged[0]).unwrap();
    std::fs::rename(&aside, &staged[1]).unwrap();
    assert_refused(&db).await;
}
