//! Links in a table's folders are not followed: what they lead to stays.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{Db, assert_kept};

const ADD: &[&str] = &["--add", "n:int64=7", "--strategy", "rewrite", "--rows-per-file", "100"];

/// A directory outside of any database, with files that are called as those of the migration `id`, of
/// which `staged` is one.
fn outside(id: &str, staged: &Path) -> tempfile::TempDir {
    let outside = tempfile::tempdir().unwrap();
    let number = u64::from_str_radix(id, 16).unwrap() << 16 | 5;
    let deletions = format!("0-1-{number}.bin");
    let staged = staged.file_name().unwrap().to_str().unwrap();
    for name in ["keep.txt", "0.blob", "1-0123.txn", &deletions, staged, "deep/data.lance"] {
        let file = outside.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, name).unwrap();
    }
    std::fs::create_dir(outside.path().join("empty")).unwrap();
    outside
}

/// Every name below `root`, and what the files hold.
fn below(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
            found.push((path, Vec::new()));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// A held migration of `t` with links everywhere, and what they lead to.
async fn linked(db: &Db) -> tempfile::TempDir {
    db.documents("t", 500, 100).await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    let mut live = db.open("t").await;
    live.delete("id in (3, 203)").await.unwrap();
    db.relance("resume", "t", &["--hold"]).expect(0);
    let status = db.relance("status", "t", &["--json"]).expect(0).json();
    let id = status["tables"][0]["staged"]["id"].as_str().unwrap().to_owned();
    let staged = db.staged_files()[0].clone();
    let outside = outside(&id, &staged);
    let (live, staging) = (db.table("t"), db.table("t__relance_staging"));
    for table in [&live, &staging] {
        for folder in ["data", "_deletions", "_transactions", "_indices", "_versions"] {
            std::fs::create_dir_all(table.join(folder)).unwrap();
            symlink(outside.path(), table.join(folder).join("x")).unwrap();
        }
        symlink("..", table.join("data/loop")).unwrap();
    }
    std::fs::create_dir_all(staging.join("_relance")).unwrap();
    symlink(outside.path(), staging.join("_relance/x")).unwrap();
    symlink(outside.path(), staging.join("x")).unwrap();
    symlink("nowhere", staging.join("dangling")).unwrap();
    symlink(outside.path().join("keep.txt"), staging.join("_transactions/1-0.txn")).unwrap();
    // Where the sidecars of a staged file would be.
    symlink(outside.path(), staged.with_extension("")).unwrap();
    outside
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_removes_nothing_behind_a_link() {
    let db = Db::new();
    let outside = linked(&db).await;
    let (there, before) = (below(outside.path()), db.rows("t").await);
    let aborted = db.relance("abort", "t", &["--progress", "plain"]).expect(0);
    aborted.says("10 links").says("left alone");
    assert_eq!(below(outside.path()), there);
    assert_eq!(db.rows("t").await, before);
    let (live, staging) = (db.uri("t"), db.uri("t__relance_staging"));
    let is_link = |file: &str| Path::new(file).is_symlink();
    let files = db.files().into_iter().map(|(file, _)| file);
    let (links, files): (Vec<_>, Vec<_>) = files.partition(|file| is_link(file));
    assert_eq!(links.iter().filter(|file| file.starts_with(&live)).count(), 7, "{links:?}");
    assert!(links.iter().filter(|file| file.starts_with(&staging)).count() >= 10, "{links:?}");
    assert!(!files.iter().any(|file| file.starts_with(&staging)), "{files:?}");
    assert!(!files.iter().any(|file| file.contains("-relance-")), "{files:?}");
    // What is left is in nobody's way.
    db.relance("status", "t", &[]).expect(0).says("nothing staged");
    db.relance("migrate", "t", ADD).expect(0);
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(below(outside.path()), there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_and_a_rollback_remove_nothing_behind_a_link() {
    let db = Db::new();
    let outside = linked(&db).await;
    let (there, before) = (below(outside.path()), db.rows("t").await);
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    db.relance("rollback", "t", &[]).expect(0);
    db.relance("migrate", "t", ADD).expect(0);
    db.relance("tune", "t", &["--time", "1s"]).expect(0);
    assert_eq!(below(outside.path()), there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_that_became_a_link_is_staged_again() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let before = db.rows("t").await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    let staged = db.staged_files()[0].clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved.lance");
    std::fs::copy(&staged, &moved).unwrap();
    std::fs::remove_file(&staged).unwrap();
    symlink(&moved, &staged).unwrap();
    let bytes = std::fs::read(&moved).unwrap();
    db.relance("resume", "t", &[]).expect(0);
    assert_kept(&before, &db.rows("t").await);
    assert_eq!(std::fs::read(&moved).unwrap(), bytes);
    let live = db.open("t").await;
    let name = staged.file_name().unwrap().to_str().unwrap();
    assert!(!live.fragments().iter().any(|one| one.files.iter().any(|file| file.path == name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_files_and_a_link_for_a_version_are_in_nobodys_way() {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    let before = db.rows("t").await;
    db.relance("migrate", "t", &[ADD, &["--hold"]].concat()).expect(0);
    let staging = db.table("t__relance_staging");
    let notes = staging.join("notes.txt");
    std::fs::write(&notes, b"mine").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("garbage");
    std::fs::write(&file, b"not a manifest").unwrap();
    // Lance takes it for the newest version.
    symlink(&file, staging.join("_versions/18446744073709550000.manifest")).unwrap();
    db.relance("abort", "t", &[]).expect(0);
    assert_eq!(std::fs::read(&notes).unwrap(), b"mine");
    assert_eq!(std::fs::read(&file).unwrap(), b"not a manifest");
    let left = db.files().into_iter().map(|(file, _)| PathBuf::from(file));
    let left: Vec<PathBuf> = left.filter(|file| file.starts_with(&staging)).collect();
    assert_eq!(left, std::slice::from_ref(&notes));
    assert!(db.staged_files().is_empty());
    db.relance("status", "t", &[]).expect(0).says("nothing staged");
    db.relance("migrate", "t", ADD).expect(0);
    assert_kept(&before, &db.rows("t").await);
    assert!(notes.is_file());
}
