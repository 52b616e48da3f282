//! Whatever becomes of a journal, status shows it, and one abort leads back to a table without a migration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relance::{Change as Asked, Location, Migration, Strategy};

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::{Db, documents, ids, small};

const ADD: &[&str] = &["--add", "n:int64=7"];

async fn held() -> Db {
    let db = Db::new();
    db.documents("t", 500, 100).await;
    db.documents("other", 10, 10).await;
    db.relance("migrate", "t", &[ADD, &["--strategy", "rewrite", "--hold"]].concat()).expect(0);
    assert!(!db.staged_files().is_empty());
    db
}

fn manifests(db: &Db, table: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(db.table(table).join("_versions")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "manifest"));
    // The newest one comes first in the order of names.
    files.sort();
    files
}

fn tags(db: &Db) -> Vec<String> {
    let tags = std::fs::read_dir(db.table("t").join("_refs/tags")).into_iter().flatten();
    let names = tags.map(|tag| tag.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("relance-")).collect()
}

/// Every command answers, and `abort` leads back.
async fn leads_back(db: &Db, what: &str) {
    let rows = ids(&db.rows("t").await);
    for table in ["t", ""] {
        let more: &[&str] = &["--json"];
        let ran = if table.is_empty() {
            let mut command = std::process::Command::new(crate::support::binary());
            crate::support::run(command.arg("status").arg(db.path()).args(more))
        } else {
            db.relance("status", table, more)
        };
        assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
        let shown = ["\"staged\":{", "\"pins\":[{"].iter().any(|part| ran.stdout.contains(part));
        assert!(shown, "{what}: {}", ran.stdout);
    }
    // Where the journal itself is whole, resume may well go on.
    let whole = what.contains("pinned") || what.contains("tag");
    for verb in ["migrate", "resume", "rollback", "finalize"] {
        if whole && verb == "resume" {
            continue;
        }
        let more = if verb == "migrate" { ADD } else { &[] };
        if what == "no manifest" && verb == "migrate" {
            continue;
        }
        let ran = db.relance(verb, "t", more);
        assert!((1..=6).contains(&ran.code), "{what}: {verb} {}: {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("panicked at"), "{what}: {}", ran.stderr);
    }
    let aborted = db.relance("abort", "t", &[]);
    assert_eq!(aborted.code, 0, "{what}: {}{}", aborted.stdout, aborted.stderr);
    assert!(db.staged_files().is_empty(), "{what}: {:?}", db.staged_files());
    assert!(!db.staging_exists("t"), "{what}");
    assert!(tags(db).is_empty(), "{what}: {:?}", tags(db));
    assert_eq!(ids(&db.rows("t").await), rows, "{what}");
    db.relance("migrate", "t", ADD).expect(0);
    assert_eq!(ids(&db.rows("t").await), rows, "{what}");
}

fn cut(file: &Path, length: u64) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_of_the_journal_is_dropped() {
    for share in [0, 1, 2, 3] {
        let db = held().await;
        for manifest in manifests(&db, "t__relance_staging") {
            let length = std::fs::metadata(&manifest).unwrap().len();
            cut(&manifest, length * share / 4);
        }
        leads_back(&db, &format!("every manifest cut to {share} quarters")).await;
    }
    for step in [3, 17, 101] {
        let db = held().await;
        let newest = manifests(&db, "t__relance_staging").remove(0);
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes.iter_mut().step_by(step).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&newest, bytes).unwrap();
        leads_back(&db, &format!("one byte in {step} flipped")).await;
    }
    let db = held().await;
    for manifest in manifests(&db, "t__relance_staging") {
        std::fs::remove_file(manifest).unwrap();
    }
    leads_back(&db, "no manifest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_is_dropped() {
    type Change = fn(&str) -> String;
    let odd: [(&str, Change); 8] = [
        ("another layout", |header| header.replace("\"layout\":", "\"layout\":9")),
        ("an empty id", |header| {
            let id = header.split('"').nth(5).unwrap().to_owned();
            header.replace(&id, "")
        }),
        ("an id that is a path", |header| {
            let id = header.split('"').nth(5).unwrap().to_owned();
            header.replace(&id, "../../../..")
        }),
        ("half", |header| header[..header.len() / 2].to_owned()),
        ("nothing", |_| "{}".to_owned()),
        ("no JSON", |_| "]".to_owned()),
        ("a type that is none", |header| header.replace("\"ipc\":\"", "\"ipc\":\"00")),
        ("a number that is none", |header| header.replace("\"rows\":", "\"rows\":-")),
    ];
    for (what, change) in odd {
        let db = held().await;
        let mut staging = db.open("t__relance_staging").await;
        let header = staging.manifest().config["relance.header"].clone();
        let changed = change(&header);
        assert_ne!(header, changed, "{what}");
        staging
            .update_config(HashMap::from([("relance.header", Some(changed.as_str()))]))
            .await
            .unwrap();
        leads_back(&db, what).await;
    }
    let db = held().await;
    let mut staging = db.open("t__relance_staging").await;
    staging.update_config(HashMap::from([("relance.lease", Some("{"))])).await.unwrap();
    leads_back(&db, "a lease that is none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_name_other_files_are_not_followed() {
    let db = held().await;
    let outside = db.path().join("other.lance/data");
    let theirs = std::fs::read_dir(&outside).unwrap().next().unwrap().unwrap().path();
    let mut staging = db.open("t__relance_staging").await;
    let (key, record) = {
        let config = &staging.manifest().config;
        let record = config.iter().find(|(key, _)| key.starts_with("relance.chunk.")).unwrap();
        (record.0.clone(), record.1.clone())
    };
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let name = theirs.file_name().unwrap().to_str().unwrap();
    record["files"][0]["name"] = format!("../../other.lance/data/{name}").into();
    let record = record.to_string();
    staging.update_config(HashMap::from([(key.as_str(), Some(record.as_str()))])).await.unwrap();
    leads_back(&db, "a record of another table's file").await;
    assert!(theirs.exists());
    assert_eq!(db.rows("other").await.num_rows(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_damaged_or_whose_version_is_gone_is_dropped() {
    let db = held().await;
    db.append("t", documents(500, 10)).await;
    let pinned = manifests(&db, "t").pop().unwrap();
    std::fs::remove_file(pinned).unwrap();
    leads_back(&db, "the pinned version is gone").await;
    for length in [0, 10] {
        let db = held().await;
        let tag = db.table("t").join("_refs/tags").join(tags(&db).remove(0));
        cut(&tag, length);
        leads_back(&db, &format!("the tag is cut to {length} bytes")).await;
    }
    let db = held().await;
    std::fs::remove_file(db.table("t").join("_refs/tags").join(tags(&db).remove(0))).unwrap();
    leads_back(&db, "the tag is gone").await;
}

/// A disk that is full takes no commit: abort frees what it can without one.
#[tokio::test(flavor = "multi_thread")]
async fn abort_needs_no_room() {
    let db = held().await;
    let uri = format!("file-object-store://{}", db.text());
    let full: Arc<Mortal> = Mortal::at(0, How::IsFull);
    let migration = Migration::of(Location::new(&uri, "t").unwrap())
        .settings(small())
        .store_wrapper(Arc::new(Wrap(full)));
    let again = migration.clone().strategy(Strategy::Rewrite);
    let again = again.change(Asked::parse_add("n:int64=7").unwrap());
    again.migrate().await.unwrap_err();
    let aborted = migration.abort().await.unwrap();
    assert!(aborted.files > 0, "{aborted:?}");
    assert!(db.staged_files().is_empty() && !db.staging_exists("t") && tags(&db).is_empty());
    db.relance("migrate", "t", ADD).expect(0);
}

/// What a type prints does not always parse: what is stored is not what is printed.
#[tokio::test(flavor = "multi_thread")]
async fn what_gives_views_or_odd_types_can_be_staged_and_resumed() {
    for sql in ["md5(text)", "substr(text, 2)", "left(text, 3)", "right(text, 3)", "upper(text)"] {
        let db = Db::new();
        db.documents("t", 50, 20).await;
        let compute = format!("h={sql}");
        db.relance("migrate", "t", &["--compute", &compute, "--hold"]).expect(0);
        db.relance("status", "t", &[]).expect(0).says("held");
        db.relance("resume", "t", &[]).expect(0);
        let rows = db.rows("t").await;
        let made = rows.column_by_name("h").unwrap();
        assert_eq!(made.data_type(), &arrow::datatypes::DataType::Utf8, "{sql}");
    }
}

/// A run that is killed while it makes or removes the staging table's folder leaves that.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_removed() {
    let db = Db::new();
    db.documents("t", 10, 10).await;
    let folder = db.table("t__relance_staging");
    std::fs::create_dir_all(folder.join("_versions")).unwrap();
    db.relance("status", "t", &[]).expect(0);
    db.relance("abort", "t", &[]).expect(0);
    assert!(!folder.exists());
    db.relance("abort", "t", &[]).expect(1).says("no migration of `t` is staged");
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// A run that was taken over can write its journal once more as it wakes up, and die before it finds out.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_comes_back_after_its_swap_takes_nothing_back() {
    for appended in [0_usize, 5] {
        let db = held().await;
        let aside = db.path().join("aside");
        copy_all(&db.staging("t"), &aside);
        if appended > 0 {
            db.append("t", documents(500, i64::try_from(appended).unwrap())).await;
        }
        db.relance("resume", "t", &[]).expect(0);
        let (rows, swapped) = (ids(&db.rows("t").await), db.open("t").await.version_id());
        assert_eq!(rows.len(), 500 + appended);
        copy_all(&aside, &db.staging("t"));
        db.relance("resume", "t", &[]).expect(0);
        assert_eq!(ids(&db.rows("t").await), rows);
        assert_eq!(db.open("t").await.version_id(), swapped, "{appended}: nothing was committed");
        assert!(!db.staging_exists("t"));
        db.relance("verify", "t", &[]).expect(0);
        db.relance("rollback", "t", &[]).expect(0);
        assert_eq!(ids(&db.rows("t").await), rows);
    }
}

/// So can it move the pin, where the store cannot tell who wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_was_moved_after_the_swap_does_not_lose_the_way_back() {
    let db = held().await;
    db.append("t", documents(500, 5)).await;
    db.relance("resume", "t", &[]).expect(0);
    let rows = ids(&db.rows("t").await);
    let pin = tags(&db).into_iter().find(|tag| !tag.contains(".swap")).unwrap();
    let pin = pin.trim_end_matches(".json");
    let live = db.open("t").await;
    for version in [1, live.version_id()] {
        live.tags().update(pin, version).await.unwrap();
        let status = db.relance("status", "t", &["--json"]).expect(0).json();
        let points = status["tables"][0]["rollback_points"].as_array().unwrap().len();
        assert_eq!(points, 1, "{version}: {status}");
        db.relance("abort", "t", &[]).expect(1);
        db.relance("verify", "t", &[]).expect(0);
    }
    db.relance("rollback", "t", &[]).expect(0);
    assert_eq!(ids(&db.rows("t").await), rows);
}

/// Others drop the table while a migration of it is held. One of the same name that they make then is not touched.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_of_a_table_that_was_dropped_can_be_dropped() {
    for again in [false, true] {
        let db = held().await;
        std::fs::remove_dir_all(db.table("t")).unwrap();
        if again {
            db.documents("t", 30, 10).await;
        } else {
            db.relance("resume", "t", &[]).expect(1).says("no table");
        }
        db.relance("abort", "t", &[]).expect(0);
        assert!(!db.staging_exists("t") && db.table("t").exists() == again);
        if again {
            assert_eq!(ids(&db.rows("t").await).len(), 30);
            db.relance("migrate", "t", ADD).expect(0);
        } else {
            db.relance("abort", "t", &[]).expect(1).says("no table");
        }
        assert!(db.relance("status", "other", &[]).expect(0).stderr.is_empty());
    }
}

/// The same where the journal cannot be read either.
#[tokio::test(flavor = "multi_thread")]
async fn a_wreck_of_a_table_that_was_dropped_can_be_dropped() {
    let db = held().await;
    std::fs::remove_dir_all(db.table("t")).unwrap();
    for manifest in manifests(&db, "t__relance_staging") {
        std::fs::write(manifest, b"no manifest").unwrap();
    }
    db.relance("abort", "t", &[]).expect(0);
    assert!(!db.staging_exists("t") && !db.table("t").exists());
    db.relance("abort", "t", &[]).expect(1).says("no table");
}

/// Others drop the table at the very moment of the swap: the swapped version is all that is left, and names files that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dropped_at_the_swap_can_be_dropped_for_good() {
    for tagged in [false, true] {
        let db = held().await;
        let (table, done) = (db.table("t"), std::sync::Mutex::new(false));
        let version = db.open("t").await.version_id();
        let landed = format!("{:020}.manifest", u64::MAX - (version + 1));
        let others = Mortal::watched(move |path| {
            let mut done = done.lock().unwrap();
            let of_table = path.as_ref().contains("/t.lance/_versions/");
            if *done || !of_table || path.filename() != Some(landed.as_str()) {
                return;
            }
            *done = true;
            for folder in ["data", "_transactions", "_refs"] {
                if folder != "_refs" || !tagged {
                    let _ = std::fs::remove_dir_all(table.join(folder));
                }
            }
            for file in std::fs::read_dir(table.join("_versions")).unwrap() {
                let file = file.unwrap().path();
                if !file.ends_with(&landed) {
                    std::fs::remove_file(file).unwrap();
                }
            }
        });
        let location = Location::new(&format!("file-object-store://{}", db.text()), "t").unwrap();
        let run = || Migration::of(location.clone()).settings(small());
        let error = run().store_wrapper(Arc::new(Wrap(others))).resume().await.unwrap_err();
        assert_eq!(error.kind(), relance::Kind::Mismatch, "{}", error.report(&[]));
        let said = error.report(&[]);
        assert!(said.contains("others dropped `t` at that moment"), "{said}");
        assert!(run().resume().await.is_err());
        run().abort().await.unwrap();
        // Lance's store for tests of stores knows no folders, and leaves them.
        let left: Vec<_> = db.files().into_iter().map(|(file, _)| file).collect();
        assert!(!db.staging_exists("t"));
        assert!(!left.iter().any(|file| file.contains("/t.lance/")), "{left:?}");
        db.documents("t", 30, 10).await;
        db.relance("migrate", "t", ADD).expect(0);
    }
}
