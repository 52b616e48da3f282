//! The gate looks at everything that the swap publishes: what is damaged, exchanged, cut or gone between
//! staging and swap is never swapped in. And rows that are deleted meanwhile are those that go, however many
//! files there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use lance::Dataset;
use relance::{Change, Ended, Hold, Kind, Location, Migration, Settings, Strategy, Writes};

use crate::support::mortal::{Mortal, Wrap};
use crate::support::{Db, Ran, documents, flip, ids, index_ids, small};

const ADD: &[&str] = &["--add", "n:int64=7"];

/// The case that was found from outside: a thousand staged files, a row deleted in each.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_the_table_after_catching_up_with_a_thousand_files() {
    let db = Db::new();
    let mut live = db.documents("t", 100_000, 100_000).await;
    let more = ["--strategy", "rewrite", "--rows-per-file", "100", "--hold"];
    db.relance("migrate", "t", &[ADD, &more].concat());
    assert_eq!(db.staged_files().len(), 1_000);
    live.delete("id % 100 = (id / 100) * 37 % 89").await.unwrap();
    let wanted = ids(&db.rows("t").await);
    assert_eq!(wanted.len(), 99_000);
    db.relance("resume", "t", &[]).expect(0).says("every value read back");
    assert_eq!(ids(&db.rows("t").await), wanted);
    db.relance("verify", "t", &[]).expect(0);
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Deletes rows here and there, and appends some.
async fn write(db: &Db, random: &mut Random, next: &mut i64) {
    let mut live = db.open("t").await;
    let (step, first) = (random.below(40) + 11, random.below(11));
    live.delete(&format!("(id * 7919) % {step} = {first}")).await.unwrap();
    if random.below(2) == 0 {
        db.append("t", documents(*next, 30)).await;
        *next += 30;
    }
}

async fn deleted_between_every_two_steps(strategy: &[&str], changes: &[&str], seed: u64) {
    let db = Db::new();
    db.documents("t", 12_000, 40).await;
    let (mut random, mut next) = (Random(seed), 12_000);
    write(&db, &mut random, &mut next).await;
    let held = |ran: Ran| assert!([0, 5].contains(&ran.code), "{}", ran.stderr);
    held(db.relance("migrate", "t", &[changes, strategy, &["--hold"]].concat()));
    for _ in 0..3 {
        write(&db, &mut random, &mut next).await;
        held(db.relance("resume", "t", &["--hold"]));
        if strategy.contains(&"metadata") {
            // Nothing is staged.
            continue;
        }
        let view = db.open("t__relance_staging").await;
        assert_eq!(view.count_rows(None).await.unwrap(), db.rows("t").await.num_rows());
    }
    write(&db, &mut random, &mut next).await;
    let before = db.rows("t").await;
    db.relance("resume", "t", &[]).expect(0);
    let after = db.rows("t").await;
    assert_eq!(ids(&after), ids(&before), "{strategy:?}, seed {seed}");
    assert_eq!(after.column_by_name("vector"), before.column_by_name("vector"));
    if let Some(made) = after.column_by_name("twice") {
        let made = made.as_primitive::<Int64Type>().values().iter();
        assert!(made.eq(ids(&before).iter().map(|id| id * 2).collect::<Vec<_>>().iter()));
    }
    write(&db, &mut random, &mut next).await;
    let before = db.rows("t").await;
    let back = db.relance("rollback", "t", &["--keep-writes"]);
    assert!([0, 3].contains(&back.code), "{}", back.stderr);
    assert_eq!(ids(&db.rows("t").await), ids(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_between_every_two_steps_of_a_rewrite_are_those_that_go() {
    let twice = ["--compute", "twice=id * 2"];
    let rewrite = ["--strategy", "rewrite", "--rows-per-file", "35"];
    deleted_between_every_two_steps(&rewrite, &twice, 1).await;
    // Pages are copied where rows keep their files.
    deleted_between_every_two_steps(&["--strategy", "rewrite"], ADD, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_between_every_two_steps_beside_the_others_are_those_that_go() {
    let twice = ["--compute", "twice=id * 2"];
    deleted_between_every_two_steps(&["--strategy", "columns"], &twice, 3).await;
    deleted_between_every_two_steps(&["--strategy", "columns"], ADD, 4).await;
    deleted_between_every_two_steps(&["--strategy", "metadata"], &["--rename", "text=words"], 5)
        .await;
}

/// What is done to files.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Corrupt,
    Exchange,
    Cut,
    Drop,
}

const DAMAGES: [Damage; 4] = [Damage::Corrupt, Damage::Exchange, Damage::Cut, Damage::Drop];

/// Does `damage` to the last of `files`, or to the last two.
fn damage(files: &[PathBuf], damage: Damage) {
    let Some(file) = files.last() else { return };
    let length = std::fs::metadata(file).unwrap().len();
    match damage {
        // Not every byte of a manifest is of the version: its transaction is not published.
        Damage::Corrupt => (0..32).for_each(|part| flip(file, length * part / 32)),
        Damage::Cut => {
            let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
            file.set_len(length / 2).unwrap();
        }
        Damage::Drop => std::fs::remove_file(file).unwrap(),
        Damage::Exchange => {
            let [.., other, file] = files else { return };
            let aside = file.with_extension("aside");
            std::fs::rename(other, &aside).unwrap();
            std::fs::rename(file, other).unwrap();
            std::fs::rename(&aside, file).unwrap();
        }
    }
}

/// The files below `directory`, those last that were written last.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(files_in(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort_by_key(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok());
    files
}

/// The files of the migration that are published by the swap, of one kind.
fn published(table: &Path, kind: &str) -> Vec<PathBuf> {
    let ours = |file: &PathBuf| match kind {
        "data" => file.to_string_lossy().contains("-relance-"),
        "_versions" => file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('d')),
        // Lance writes few deleted rows in another format.
        "_deletions" => file.extension().is_some_and(|kind| kind == "bin"),
        _ => true,
    };
    files_in(&table.join(kind)).into_iter().filter(ours).collect()
}

fn rewrite(db: &Db, settings: Settings, mortal: Arc<Mortal>) -> Migration {
    let uri = format!("file-object-store://{}", db.text());
    Migration::of(Location::new(&uri, "t").unwrap())
        .settings(settings)
        .store_wrapper(Arc::new(Wrap(mortal)))
}

/// A migration of two staged files that is held, with a row deleted from each since, and an index to be built.
async fn held(db: &Db) -> Dataset {
    let mut live = db.documents("t", 4_000, 2_000).await;
    index_ids(&mut live).await;
    let settings = Settings { hold: Hold::Exit, ..small() };
    let migration = rewrite(db, settings, Mortal::never())
        .strategy(Strategy::Rewrite)
        .rows_per_file(2_000)
        .change(Change::parse_add("n:int64=7").unwrap());
    assert!(matches!(migration.migrate().await.unwrap(), Ended::Held(_)));
    live.delete("id = 1 or id = 2500").await.unwrap();
    live
}

/// Damages files of `kind` once everything is staged, verified, indexed and prepared.
async fn is_refused(kind: &'static str, how: Damage) {
    let db = Db::new();
    let live = held(&db).await;
    let before = db.rows("t").await;
    let table = db.table("t");
    let done = std::sync::Mutex::new(false);
    // Rows, deletions, and indices are prepared one after the other; those of users are there before.
    let indices = files_in(&table.join("_indices")).len();
    let vandal = Mortal::watched(move |path| {
        let prepared = path.filename().is_some_and(|name| name.starts_with('d'));
        let indexed = files_in(&table.join("_indices")).len() > indices;
        let mut done = done.lock().unwrap();
        let (files, last) = (published(&table, kind), published(&table, "_versions").len());
        // The fourth prepared version is the one that is put in place.
        if !*done && prepared && indexed && last == 4 {
            *done = true;
            assert!(files.len() > 1, "{kind}: {files:?}");
            damage(&files, how);
        }
    });
    let error = rewrite(&db, small(), vandal).resume().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{kind} {how:?}: {}", error.report(&[]));
    let now = db.open("t").await;
    assert_eq!(now.version_id(), live.version_id(), "{kind} {how:?}");
    assert_eq!(db.rows("t").await, before);
    rewrite(&db, small(), Mortal::never()).abort().await.unwrap();
    assert!(db.staged_files().is_empty());
    assert_eq!(db.rows("t").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_files_are_not_published() {
    for how in DAMAGES {
        is_refused("data", how).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_deletion_files_are_not_published() {
    for how in DAMAGES {
        is_refused("_deletions", how).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_indices_are_not_published() {
    for how in DAMAGES {
        is_refused("_indices", how).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_prepared_versions_are_not_published() {
    for how in DAMAGES {
        is_refused("_versions", how).await;
    }
}

/// The staging table's own deletion files, while the migration is held.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_staged_deletions_are_not_published() {
    for how in DAMAGES {
        let db = Db::new();
        held(&db).await;
        db.relance("resume", "t", &["--hold"]);
        let before = db.rows("t").await;
        let deletions = files_in(&db.table("t__relance_staging").join("_deletions"));
        // Those that are staged, and those that show them to who looks at the staging table.
        let staged = |file: &&PathBuf| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            name.split('-').nth(1).is_some_and(|version| version.len() > 9)
        };
        let staged: Vec<PathBuf> = deletions.iter().filter(staged).cloned().collect();
        assert_eq!(staged.len(), 2, "{deletions:?}");
        damage(&staged, how);
        db.relance("resume", "t", &[]).expect(4).says("deletion file").says("as it was");
        assert_eq!(db.rows("t").await, before);
        db.relance("abort", "t", &[]).expect(0);
        assert!(db.staged_files().is_empty());
    }
}

/// A cleanup that is told to take files of unfinished writes can take them at the very moment of the swap.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_files_are_removed_at_that_moment_is_taken_back() {
    for kind in ["data", "_deletions"] {
        let db = Db::new();
        let live = held(&db).await;
        let before = db.rows("t").await;
        let (table, version) = (db.table("t"), live.version_id());
        let done = std::sync::Mutex::new(false);
        let landed = format!("{:020}.manifest", u64::MAX - (version + 1));
        let vandal = Mortal::watched(move |path| {
            let mut done = done.lock().unwrap();
            let of_table = path.as_ref().contains("/t.lance/_versions/");
            if !*done && of_table && path.filename() == Some(landed.as_str()) {
                *done = true;
                let files = published(&table, kind);
                assert!(!files.is_empty());
                damage(&files, Damage::Drop);
            }
        });
        let error = rewrite(&db, small(), vandal).resume().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch, "{}", error.report(&[]));
        assert!(error.to_string().contains("put back"), "{error}");
        assert_eq!(db.open("t").await.version_id(), version + 2);
        assert_eq!(db.rows("t").await, before);
        assert!(!db.staging_exists("t") && db.staged_files().is_empty());
        let again = db.migration("t", &["n:int64=7"]).settings(small());
        assert!(matches!(again.migrate().await.unwrap(), Ended::Swapped(_)));
        again.rollback(Writes::Refuse).await.unwrap();
    }
}

/// Lance leaves out a fragment of which no row lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_of_which_every_row_is_deleted_is_left_out() {
    let db = Db::new();
    let mut live = db.documents("t", 30, 30).await;
    let more = ["--strategy", "rewrite", "--rows-per-file", "1", "--hold"];
    db.relance("migrate", "t", &[ADD, &more].concat()).expect(0);
    live.delete("id = 3 or id = 29").await.unwrap();
    let wanted = ids(&db.rows("t").await);
    db.relance("resume", "t", &[]).expect(0);
    assert_eq!(ids(&db.rows("t").await), wanted);
    db.relance("verify", "t", &[]).expect(0);
}
