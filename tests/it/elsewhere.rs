//! Values from elsewhere: producers that count what they are asked for, and joins; deaths, failures and writers meanwhile.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use futures::StreamExt;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance_io::object_store::WrappingObjectStore;
use relance::{
    By, Change, Hold, Join, Kind, Location, Migration, OnBadValue, OnDuplicate, OnMissing, Produce,
    Producer, Request, Settings, Strategy, Take,
};

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::walk::unreferenced;
use crate::support::{Db, documents, flip, ids, small};

/// Numbers of the new vectors.
const WIDTH: i32 = 3;

/// Rows of a producer's batch.
const BATCH: u32 = 16;

/// Deaths that are tried side by side.
const AT_ONCE: usize = 4;

/// Makes vectors of ids and texts, and counts how often it was given each id.
#[derive(Debug, Default)]
struct Counting {
    given: Mutex<BTreeMap<i64, u32>>,
    calls: AtomicUsize,
    /// The call, counted from 0, at which it fails, once.
    fails_at: Option<usize>,
    /// The id that it never takes.
    poison: Option<i64>,
    /// The table that others update at this call.
    updated: Option<(String, usize)>,
}

impl Counting {
    fn failing_at(call: usize) -> Arc<Self> {
        Arc::new(Self { fails_at: Some(call), ..Self::default() })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How often each id was given, those that were given at all.
    fn given(&self) -> BTreeMap<i64, u32> {
        self.given.lock().unwrap().clone()
    }

    fn twice(&self) -> usize {
        self.given().values().filter(|times| **times > 1).count()
    }
}

impl Producer for Counting {
    fn produce(&self, inputs: &RecordBatch) -> Result<ArrayRef, Box<dyn Error + Send + Sync>> {
        let own = ids(inputs);
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        for id in &own {
            *self.given.lock().unwrap().entry(*id).or_default() += 1;
        }
        if self.fails_at == Some(call) || self.poison.is_some_and(|id| own.contains(&id)) {
            return Err(format!("call {call} failed").into());
        }
        if let Some((uri, at)) = self.updated.clone()
            && at == call
        {
            let update = async move {
                let live = Dataset::open(&uri).await.unwrap();
                let update = lance::dataset::UpdateBuilder::new(Arc::new(live));
                let update = update.update_where("id < 40").unwrap().set("text", "text").unwrap();
                update.build().unwrap().execute().await.unwrap();
            };
            let other = std::thread::spawn(move || {
                tokio::runtime::Runtime::new().unwrap().block_on(update);
            });
            other.join().unwrap();
        }
        let texts = inputs.column_by_name("text").unwrap().as_string::<i32>();
        Ok(vectors(own.iter().zip(texts).map(|(id, text)| vector(*id, text)).collect()))
    }
}

fn vectors(values: Vec<[f32; 3]>) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values = Float32Array::from_iter_values(values.into_iter().flatten());
    Arc::new(FixedSizeListArray::try_new(item, WIDTH, Arc::new(values), None).unwrap())
}

/// What the row `id` with `text` has to hold.
fn vector(id: i64, text: Option<&str>) -> [f32; 3] {
    let number = |count: usize| f32::from(u16::try_from(count).unwrap());
    let id = u16::try_from(id.rem_euclid(1 << 15)).unwrap();
    [f32::from(id), number(text.map_or(0, str::len)), if text.is_some() { 1.0 } else { -1.0 }]
}

/// The new vectors in place of the old ones.
fn replace() -> Change {
    let item = Field::new("item", DataType::Float32, true);
    Change::Produce(Produce {
        name: "vector".to_owned(),
        data_type: DataType::FixedSizeList(Arc::new(item), WIDTH),
        nullable: true,
        metadata: BTreeMap::new(),
        replaces: true,
        keep_old: None,
        by: By::Function("count".to_owned()),
        inputs: vec!["id".to_owned(), "text".to_owned()],
        version: Some("1".to_owned()),
        batch_rows: BATCH,
        embedding: None,
    })
}

/// A join with a table whose keys are those of `ids`, and whose `twice` is twice each.
async fn other(db: &Db, ids: impl Iterator<Item = i64>) -> Change {
    let keys: Vec<i64> = ids.collect();
    let twice = Int64Array::from_iter_values(keys.iter().map(|key| 2 * key));
    let columns: [(&str, ArrayRef); 2] =
        [("key", Arc::new(Int64Array::from(keys))), ("twice", Arc::new(twice))];
    db.write("other", vec![RecordBatch::try_from_iter(columns).unwrap()], small_files()).await;
    let take = Take { name: "twice".into(), from: "twice".into(), data_type: None, exists: false };
    Change::Join(Join {
        from: "other".to_owned(),
        on: vec![("id".to_owned(), "key".to_owned())],
        take: vec![take],
        on_missing: OnMissing::Null,
        on_duplicate: OnDuplicate::Error,
    })
}

fn small_files() -> lance::dataset::WriteParams {
    lance::dataset::WriteParams { max_rows_per_file: 65_536, ..Default::default() }
}

/// A migration of the table, which the producer `by` takes part in.
fn migration(db: &Db, by: &Arc<Counting>, changes: &[Change]) -> Migration {
    let location = Location::new(db.text(), "t").unwrap();
    let producer: Arc<dyn Producer> = Arc::clone(by) as _;
    let migration = Migration::of(location).producer("vector", producer);
    let migration = changes.iter().cloned().fold(migration, Migration::change);
    migration.settings(Settings { by_retries: 0, ..small() })
}

/// Every row of the table has its own vector, and twice its id if it was joined.
async fn check(db: &Db, what: &str) -> usize {
    let rows = db.rows("t").await;
    let texts = rows.column_by_name("text").unwrap().as_string::<i32>();
    let found = rows.column_by_name("vector").unwrap().as_fixed_size_list();
    assert_eq!(found.value_length(), WIDTH, "{what}");
    for (row, (id, text)) in ids(&rows).into_iter().zip(texts).enumerate() {
        let found = found.value(row);
        let found = found.as_primitive::<Float32Type>().values().to_vec();
        assert_eq!(found, vector(id, text), "{what}: row {id}");
    }
    if let Some(twice) = rows.column_by_name("twice") {
        let twice = twice.as_primitive::<Int64Type>();
        for (row, id) in ids(&rows).into_iter().enumerate() {
            let wanted = (id < 1_000).then_some(2 * id);
            assert_eq!((!twice.is_null(row)).then(|| twice.value(row)), wanted, "{what}: {id}");
        }
    }
    rows.num_rows()
}

/// How the strategies are asked for.
fn asked(migration: Migration, strategy: Strategy) -> Migration {
    if strategy == Strategy::Rewrite { migration.rows_per_file(150) } else { migration }
}

const STRATEGIES: [Strategy; 2] = [Strategy::Columns, Strategy::Rewrite];

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_computed_once_and_deleted_ones_never() {
    for strategy in STRATEGIES {
        let db = Db::new();
        db.documents("t", 500, 100).await.delete("id % 10 = 3").await.unwrap();
        let by = Arc::<Counting>::default();
        let join = other(&db, 0..1_000).await;
        asked(migration(&db, &by, &[replace(), join]), strategy).migrate().await.unwrap();
        assert_eq!(check(&db, "migrated").await, 450);
        let given = by.given();
        assert_eq!((given.len(), by.twice()), (450, 0), "{strategy}");
        assert!(given.keys().all(|id| id % 10 != 3), "{strategy}");
        assert!(!db.staging_exists("t"));
        let left = unreferenced(&db, "t").await;
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Whatever call fails, what the others gave is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_before_a_failure_is_not_computed_again() {
    for strategy in STRATEGIES {
        for fails_at in [1, 7, 16, 29] {
            let db = Db::new();
            db.documents("t", 500, 100).await;
            let by = Counting::failing_at(fails_at);
            let it = asked(migration(&db, &by, &[replace()]), strategy);
            let error = it.migrate().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Failed);
            assert!(error.to_string().contains(&format!("call {fails_at} failed")), "{error}");
            let before = by.calls();
            assert_eq!(before, fails_at + 1, "no call began after it");
            it.resume().await.unwrap();
            check(&db, "resumed").await;
            let in_flight = usize::try_from(BATCH).unwrap();
            assert!(by.twice() <= in_flight, "{strategy}, {fails_at}: {}", by.twice());
            assert!(before + by.calls() > 32, "all rows were computed");
        }
    }
}

/// Compaction moves rows to other files, updates to other places; only those are computed whose inputs are others.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_move_are_not_computed_again() {
    for strategy in STRATEGIES {
        let db = Db::new();
        db.documents("t", 400, 100).await;
        let by = Arc::<Counting>::default();
        let join = other(&db, 0..1_000).await;
        let it = asked(migration(&db, &by, &[replace(), join]), strategy);
        let hold = Settings { hold: Hold::Exit, by_retries: 0, ..small() };
        it.clone().settings(hold).migrate().await.unwrap();
        assert_eq!((by.given().len(), by.twice()), (400, 0));
        let mut live = db.open("t").await;
        compact_files(&mut live, CompactionOptions::default(), None).await.unwrap();
        let live = crate::support::books::update(live, "id = 17", "another text").await.unwrap();
        drop(live);
        db.append("t", documents(2_000, 20)).await;
        db.open("t").await.delete("id = 30").await.unwrap();
        it.resume().await.unwrap();
        assert_eq!(check(&db, "resumed").await, 419);
        let twice: Vec<i64> =
            by.given().into_iter().filter(|(_, times)| *times > 1).map(|(id, _)| id).collect();
        assert_eq!(twice, [17], "{strategy}: only the row with another text");
        assert_eq!(by.given().len(), 420, "{strategy}");
    }
}

/// An update of another column leaves the file that a row was in, and writes the row to a new one.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_update_in_other_columns_are_not_computed_again() {
    for strategy in STRATEGIES {
        let db = Db::new();
        db.documents("t", 400, 100).await;
        let updated = Some((db.uri("t"), 20));
        let by = Arc::new(Counting { updated, ..Counting::default() });
        asked(migration(&db, &by, &[replace()]), strategy).migrate().await.unwrap();
        assert_eq!(check(&db, "updated").await, 400);
        assert_eq!((by.given().len(), by.twice()), (400, 0), "{strategy}");
    }
}

/// The same while no run is there.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_update_before_it_goes_on_are_not_computed_again() {
    for strategy in STRATEGIES {
        let db = Db::new();
        db.documents("t", 400, 100).await;
        let by = Counting::failing_at(20);
        let it = asked(migration(&db, &by, &[replace()]), strategy);
        it.migrate().await.unwrap_err();
        let update = lance::dataset::UpdateBuilder::new(Arc::new(db.open("t").await));
        let update = update.update_where("id < 40").unwrap().set("text", "text").unwrap();
        update.build().unwrap().execute().await.unwrap();
        it.resume().await.unwrap();
        assert_eq!(check(&db, "updated").await, 400);
        let in_flight = 2 * usize::try_from(BATCH).unwrap();
        assert!(by.twice() <= in_flight, "{strategy}: {}", by.twice());
    }
}

/// What is kept and was damaged is computed again, and never taken for what it was.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_parts_are_computed_again() {
    let db = Db::new();
    db.documents("t", 400, 100).await;
    let by = Counting::failing_at(20);
    let it = migration(&db, &by, &[replace()]);
    it.migrate().await.unwrap_err();
    let parts = db.files().into_iter().filter(|(file, _)| file.contains("/parts/"));
    let parts: Vec<(String, u64)> = parts.collect();
    assert!(!parts.is_empty());
    for (file, bytes) in &parts {
        flip(file.as_ref(), bytes / 3);
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(bytes - 5).unwrap();
    }
    it.resume().await.unwrap();
    assert_eq!(check(&db, "resumed").await, 400);
    assert!(by.twice() > 0);
}

/// A row that its producer never takes becomes null alone, and is copied if that is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_computed_stands_alone() {
    for what in [OnBadValue::Null, OnBadValue::Quarantine] {
        for strategy in STRATEGIES {
            let db = Db::new();
            db.documents("t", 300, 100).await;
            let by = Arc::new(Counting { poison: Some(123), ..Counting::default() });
            let request =
                Request { on_bad_value: what, changes: vec![replace()], ..Request::default() };
            let it = asked(migration(&db, &by, &[]).request(request), strategy);
            it.migrate().await.unwrap();
            let rows = db.rows("t").await;
            let nulls = rows.column_by_name("vector").unwrap();
            let nulls: Vec<i64> = ids(&rows)
                .into_iter()
                .enumerate()
                .filter(|(row, _)| nulls.is_null(*row))
                .map(|(_, id)| id)
                .collect();
            assert_eq!(nulls, [123], "{what:?} {strategy}");
            if what == OnBadValue::Quarantine {
                let bad = db.rows("t__relance_quarantine").await;
                assert_eq!(ids(&bad), [123], "{strategy}");
            }
        }
    }
}

/// A migration through the object-store interface of a local directory.
fn mortal(db: &Db, by: &Arc<Counting>, changes: &[Change], mortal: &Arc<Mortal>) -> Migration {
    let database = format!("file-object-store://{}", db.text());
    let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(Arc::clone(mortal)));
    let producer: Arc<dyn Producer> = Arc::clone(by) as _;
    let migration = Migration::of(Location::new(&database, "t").unwrap());
    let migration = changes.iter().cloned().fold(migration, Migration::change);
    let migration = migration.producer("vector", producer).store_wrapper(wrapper);
    migration.settings(Settings { by_retries: 0, ..small() })
}

async fn die_once(strategy: Strategy, at: usize, how: How) {
    let what = format!("{strategy} at write {at}, {how:?}");
    let db = Db::new();
    db.documents("t", 200, 50).await.delete("id = 7").await.unwrap();
    let changes = [replace(), other(&db, 0..1_000).await];
    let by = Arc::<Counting>::default();
    let dying = asked(mortal(&db, &by, &changes, &Mortal::at(at, how)), strategy);
    let result = dying.migrate().await;
    assert!(how == How::LosesReply || result.is_err(), "{what} went unseen");
    let nobody = Mortal::never();
    let again = asked(mortal(&db, &by, &changes, &nobody), strategy);
    if again.status().await.unwrap().staged.is_some() {
        again.resume().await.map_or_else(|error| panic!("{what}: {error}"), drop);
    } else if db.open("t").await.schema().field("twice").is_none() {
        again.migrate().await.map_or_else(|error| panic!("{what}: {error}"), drop);
    }
    assert_eq!(check(&db, &what).await, 199, "{what}");
    assert!(!db.staging_exists("t"), "{what}");
    let left = unreferenced(&db, "t").await;
    assert!(left.is_empty(), "{what}: {left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_death_at_every_write_of_a_migration_with_values_from_elsewhere() {
    for strategy in STRATEGIES {
        let db = Db::new();
        db.documents("t", 200, 50).await.delete("id = 7").await.unwrap();
        let changes = [replace(), other(&db, 0..1_000).await];
        let counter = Mortal::never();
        let by = Arc::<Counting>::default();
        asked(mortal(&db, &by, &changes, &counter), strategy).migrate().await.unwrap();
        let writes = counter.writes();
        // At each write in one of the ways, so that it does not take too long.
        let ways = [How::DiesBefore, How::DiesAfter, How::LosesReply];
        let ways = ways.into_iter().cycle().skip(usize::from(strategy == Strategy::Rewrite));
        let deaths = futures::stream::iter((0..writes).zip(ways));
        let tried = deaths.map(|(at, how)| die_once(strategy, at, how));
        let deaths = tried.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await.len();
        println!("deaths by {strategy}: {deaths}");
        assert!(deaths > 20, "{strategy}: {deaths}");
    }
}

/// Writers append, delete, update, merge and compact while a producer that fails now and then computes.
#[tokio::test(flavor = "multi_thread")]
async fn writers_that_keep_books_find_their_rows_with_the_vectors_of_their_texts() {
    let db = Db::new();
    db.documents("t", 300, 50).await;
    let by = Counting::failing_at(9);
    let changes = [replace()];
    let mut writers: Vec<_> =
        (0..2).map(|n| crate::support::books::Writer::new(&db.uri("t"), n)).collect();
    let mut tries = 0;
    loop {
        tries += 1;
        let hold = Settings { hold: Hold::Exit, by_retries: 0, ..small() };
        let it = migration(&db, &by, &changes).settings(hold);
        let staged = it.status().await.unwrap().staged.is_some();
        let _ = if staged { it.resume().await } else { it.migrate().await };
        for writer in &mut writers {
            for _ in 0..4 {
                writer.write().await;
            }
        }
        if tries == 4 {
            break;
        }
    }
    let it = migration(&db, &by, &changes);
    it.resume().await.unwrap();
    let rows = db.rows("t").await;
    let books = crate::support::books::books_of(&rows);
    for writer in &writers {
        for (id, text) in &writer.books {
            assert_eq!(books.get(id), Some(text), "row {id}");
        }
    }
    check(&db, "with writers").await;
}

/// A table on which nothing is done yet.
async fn untouched(db: &Db) -> Dataset {
    db.documents("t", 100, 50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_refused_and_the_same_is_left_alone() {
    let db = Db::new();
    untouched(&db).await;
    let by = Arc::<Counting>::default();
    let hold = Settings { hold: Hold::Exit, ..small() };
    migration(&db, &by, &[replace()]).settings(hold).migrate().await.unwrap();
    let Change::Produce(produce) = replace() else { panic!() };
    let other = Change::Produce(Produce { version: Some("2".to_owned()), ..produce });
    let error = migration(&db, &by, &[other]).resume().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let text = error.to_string();
    assert!(text.contains("version 1") && text.contains("version 2"), "{text}");
    migration(&db, &by, &[replace()]).resume().await.unwrap();
    let again = migration(&db, &by, &[replace()]).migrate().await.unwrap();
    assert!(matches!(again, relance::Ended::Nothing(_)));
    let without = Migration::of(Location::new(db.text(), "t").unwrap());
    let Change::Produce(produce) = replace() else { panic!() };
    let newer = Change::Produce(Produce { version: Some("3".to_owned()), ..produce });
    let error = without.change(newer).migrate().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "nobody gave the function");
}

/// Keys and values of the other data, the keys `repeated` twice: the first with `a`, the second with `b`.
async fn large_other(db: &Db, keys: i64, repeated: i64, on_duplicate: OnDuplicate) -> Change {
    // Neither in the order of the table nor in that of their hashes.
    let own: Vec<i64> = (0..keys).map(|n| (n * 7_919) % keys).collect();
    let all = own.iter().map(|key| (*key, 'a')).chain((0..repeated).map(|key| (key, 'b')));
    let (ids, values): (Vec<i64>, Vec<String>) =
        all.map(|(key, mark)| (key, format!("{mark}{key} of the other data"))).unzip();
    let columns: [(&str, ArrayRef); 2] = [
        ("key", Arc::new(Int64Array::from(ids))),
        ("value", Arc::new(arrow::array::StringArray::from(values))),
    ];
    db.write("other", vec![RecordBatch::try_from_iter(columns).unwrap()], small_files()).await;
    let take = Take { name: "value".into(), from: "value".into(), data_type: None, exists: false };
    Change::Join(Join {
        from: "other".to_owned(),
        on: vec![("id".to_owned(), "key".to_owned())],
        take: vec![take],
        on_missing: OnMissing::Null,
        on_duplicate,
    })
}

/// What memory does not hold is sorted on a disk, and gives the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_is_the_same_in_memory_and_on_a_disk() {
    const KEYS: i64 = 150_000;
    const REPEATED: i64 = 300;
    for strategy in STRATEGIES {
        for (on_duplicate, mark) in [(OnDuplicate::First, 'a'), (OnDuplicate::Last, 'b')] {
            for memory_bytes in [16 << 20, 1 << 30] {
                let db = Db::new();
                db.documents("t", 2_000, 300).await.delete("id = 5").await.unwrap();
                db.append("t", documents(KEYS - 10, 20)).await;
                let by = Arc::<Counting>::default();
                let join = large_other(&db, KEYS, REPEATED, on_duplicate).await;
                let hold = Settings { hold: Hold::Exit, memory_bytes, ..small() };
                let it = asked(migration(&db, &by, &[join]), strategy);
                let plan = it.clone().settings(hold.clone()).plan().await.unwrap();
                let trial = &plan.join_trials[0];
                assert_eq!((trial.matched, trial.missing), (2_009, 10), "{memory_bytes}");
                assert_eq!((trial.keys, trial.duplicates), (150_000, 300), "{memory_bytes}");
                it.clone().settings(hold.clone()).migrate().await.unwrap();
                db.append("t", documents(3_000, 100)).await;
                it.settings(Settings { hold: Hold::No, ..hold }).resume().await.unwrap();
                let rows = db.rows("t").await;
                assert_eq!(rows.num_rows(), 2_119);
                let values = rows.column_by_name("value").unwrap().as_string::<i32>();
                for (id, value) in ids(&rows).into_iter().zip(values) {
                    let mark = if id < REPEATED { mark } else { 'a' };
                    let wanted = (id < KEYS).then(|| format!("{mark}{id} of the other data"));
                    assert_eq!(value, wanted.as_deref(), "{strategy} {memory_bytes} {id}");
                }
                assert!(!db.staging_exists("t"));
            }
        }
    }
}
