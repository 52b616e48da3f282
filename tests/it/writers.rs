//! Writers that keep books while a migration runs: afterwards the table equals the books.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;

use crate::support::books::{Books, Writer, books_of};
use crate::support::walk::unreferenced;
use crate::support::{Db, ran, wait_until};

const WRITERS: i64 = 3;
const WRITES: u64 = 40;
const KILLS: u64 = 12;

/// Runs the writers, each at least [`WRITES`] times and until `stop`; gives their books.
async fn write(db: &Db, stop: &Arc<AtomicBool>) -> Books {
    let tasks = (0..WRITERS).map(|number| {
        let (uri, stop) = (db.uri("t"), Arc::clone(stop));
        tokio::spawn(async move {
            let mut writer = Writer::new(&uri, number);
            let mut turn = 0;
            while turn < WRITES || !stop.load(Ordering::Relaxed) {
                writer.write().await;
                turn += 1;
                // Others take their time too, and on a busy machine the migration needs more of it: it
                // would rightly give up otherwise.
                let pause = if turn < WRITES { 30 } else { 400 };
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            }
            writer
        })
    });
    let mut books = Books::new();
    let mut landed: BTreeMap<&str, u64> = BTreeMap::new();
    for task in tasks.collect::<Vec<_>>() {
        let writer = task.await.unwrap();
        books.extend(writer.books);
        for (kind, count) in writer.landed {
            *landed.entry(kind).or_default() += count;
        }
    }
    println!("writes that landed: {landed:?}");
    assert!(landed.len() >= 4, "the dice left out too much: {landed:?}");
    books
}

async fn assert_books(db: &Db, books: &Books) {
    let rows = db.rows("t").await;
    assert_eq!(&books_of(&rows), books);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_migration_the_table_equals_the_books() {
    let db = Db::new();
    db.documents("t", 3_000, 300).await;
    let mut books = books_of(&db.rows("t").await);
    books.extend(write(&db, &Arc::new(AtomicBool::new(true))).await);
    assert_books(&db, &books).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_a_migration_the_table_equals_the_books() {
    let db = Db::new();
    db.documents("t", 3_000, 300).await;
    let mut books = books_of(&db.rows("t").await);
    let stop = Arc::new(AtomicBool::new(false));
    let more = ["--add", "n:int64=7", "--rows-per-file", "300", "--max-rate", "200KB"];
    let patient = ["--batch-size", "50", "--max-rounds", "10000"];
    let migration = db.start("migrate", "t", &[&more[..], &patient].concat());
    let stopped = Arc::clone(&stop);
    let ended = tokio::task::spawn_blocking(move || {
        let output = migration.wait_with_output().unwrap();
        stopped.store(true, Ordering::Relaxed);
        ran(output)
    });
    books.extend(write(&db, &stop).await);
    ended.await.unwrap().expect(0);
    assert_books(&db, &books).await;
    assert_filled(&db).await;
    assert_eq!(unreferenced_but_writers(&db).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_kills_the_table_equals_the_books() {
    let db = Db::new();
    db.documents("t", 3_000, 300).await;
    let mut books = books_of(&db.rows("t").await);
    let stop = Arc::new(AtomicBool::new(false));
    let (text, stopped) = (db.text().to_owned(), Arc::clone(&stop));
    let killer = tokio::task::spawn_blocking(move || {
        let _stop = StopOnDrop(stopped);
        kill_until_done(&text)
    });
    books.extend(write(&db, &stop).await);
    let kills = killer.await.unwrap();
    println!("kills survived with writers: {kills}");
    assert!(kills >= 5, "{kills}");
    assert_books(&db, &books).await;
    assert_filled(&db).await;
}

/// Stops the writers, whatever becomes of the one that holds it.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the migration and kills it after a while, [`KILLS`] times; then it gets through. Gives how many
/// kills hit a run.
fn kill_until_done(database: &str) -> u32 {
    let start = |verb: &str, more: &[&str]| -> Child {
        Command::new(crate::support::binary())
            .args([verb, database, "t", "--batch-size", "50", "--max-rounds", "10000"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let migrate = || {
        start("migrate", &["--add", "n:int64=7", "--rows-per-file", "300", "--max-rate", "150KB"])
    };
    let mut migration = migrate();
    // Killed before it took the lock, it would leave nothing to resume.
    let journal = std::path::Path::new(database).join("t__relance_staging.lance/_versions");
    wait_until("the journal", || std::fs::read_dir(&journal).is_ok_and(|there| there.count() > 1));
    let mut kills = 0;
    for turn in 1..=KILLS {
        std::thread::sleep(std::time::Duration::from_millis(20 + 25 * turn));
        if migration.try_wait().unwrap().is_none() {
            kills += 1;
        }
        migration.kill().unwrap();
        migration.wait().unwrap();
        // The last one is not held back: it has to catch up with the writers.
        let slow: &[&str] = if turn < KILLS { &["--max-rate", "150KB"] } else { &[] };
        migration = start("resume", slow);
    }
    let ended = ran(migration.wait_with_output().unwrap());
    if ended.code == 1 {
        // It was killed before it took the lock, or after it was through.
        assert!(ended.stderr.contains("is staged"), "{}", ended.stderr);
        ran(migrate().wait_with_output().unwrap()).expect(0);
    } else {
        ended.expect(0);
    }
    kills
}

/// Appends and merges by a client that is not ours, in a process of its own. Needs Python with `lancedb`,
/// which `scripts/test` finds in `RELANCE_PYTHON`; `scripts/differential` does the same in CI.
const CLIENT: &str = r#"
import lancedb, sys, json, time
table = lancedb.connect(sys.argv[1]).open_table("t")
books, number = {}, 9_000_000
for turn in range(25):
    rows = [{"id": number + n, "text": f"py {number + n}", "vector": [float(n)] * 8} for n in range(7)]
    while True:
        try:
            table.checkout_latest()
            if "n" in table.schema.names:
                for row in rows: row["n"] = 7
            if turn % 3 == 2:
                table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            else:
                table.add(rows)
            break
        except Exception as error:
            if "onflict" not in str(error): raise
    books.update({row["id"]: row["text"] for row in rows})
    if turn % 5 == 4:
        while True:
            try:
                table.checkout_latest(); table.delete(f"id = {number}"); break
            except Exception as error:
                if "onflict" not in str(error): raise
        books.pop(number)
    number += 4 if turn % 3 == 1 else 7
    time.sleep(0.05)
print(json.dumps(books))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn with_a_python_client_the_table_equals_its_books() {
    let Ok(python) = std::env::var("RELANCE_PYTHON") else {
        println!("skipped: RELANCE_PYTHON names no Python with lancedb");
        return;
    };
    let db = Db::new();
    db.documents("t", 3_000, 300).await;
    let mut books = books_of(&db.rows("t").await);
    let client = Command::new(python)
        .args(["-c", CLIENT, db.text()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let version = || db.relance("status", "t", &["--json"]).json()["tables"][0]["version"].as_u64();
    let began = version();
    wait_until("the client's first write", || version() > began);
    let more = ["--add", "n:int64=7", "--rows-per-file", "300", "--max-rounds", "10000"];
    db.relance("migrate", "t", &[&more[..], &["--max-rate", "200KB"]].concat()).expect(0);
    let written = ran(client.wait_with_output().unwrap()).expect(0);
    let theirs: BTreeMap<i64, String> = serde_json::from_str(&written.stdout).unwrap();
    println!("rows that a Python client wrote meanwhile: {}", theirs.len());
    books.extend(theirs.into_iter().map(|(id, text)| (id, Some(text))));
    assert_books(&db, &books).await;
    assert_filled(&db).await;
}

async fn assert_filled(db: &Db) {
    let rows = db.rows("t").await;
    let n = rows.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    assert!(n.null_count() == 0 && n.values().iter().all(|n| *n == 7));
}

/// What refused writes of the writers leave is theirs; what a migration leaves has its mark.
async fn unreferenced_but_writers(db: &Db) -> Vec<String> {
    let left = unreferenced(db, "t").await.into_iter();
    left.filter(|file| file.contains("relance")).collect()
}
