//! Dies at every write there is, and at every named point of the real process.

use std::io::{BufRead, BufReader};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use lance_io::object_store::WrappingObjectStore;
use relance::{Change, Kind, Location, Migration, Settings, Writes};
use std::sync::Arc;

use crate::support::mortal::{How, Mortal, Wrap};
use crate::support::walk::unreferenced;
use crate::support::{Db, assert_kept, documents, ids, small};

/// Deaths that are tried side by side.
const AT_ONCE: usize = 4;

/// A table of a few fragments, with a deletion and an index: every kind of file that there is.
async fn table(db: &Db) -> RecordBatch {
    let mut live = db.documents("t", 400, 100).await;
    live.delete("id = 7").await.unwrap();
    crate::support::index_ids(&mut live).await;
    db.rows("t").await
}

/// What is migrated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A column, by streaming every row.
    Rewrite,
    /// A column, by copying the pages of the others, but for the fragment with a deletion.
    Copy,
    /// A column, beside the others.
    Columns,
    /// A column, and another name for one that is there: two steps of Lance's in one commit.
    Both,
    /// Another name, and a column of nulls.
    Metadata,
}

impl Way {
    fn changes(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rewrite | Self::Copy | Self::Columns => &[("add", "n:int64=7")],
            Self::Both => &[("add", "n:int64=7"), ("rename", "text=body")],
            Self::Metadata => &[("add", "n:int64"), ("rename", "text=body")],
        }
    }

    /// The value of the new column.
    fn value(self) -> Option<i64> {
        (self != Self::Metadata).then_some(7)
    }
}

/// A migration through the object-store interface of a local directory.
fn migration(db: &Db, way: Way, mortal: &Arc<Mortal>) -> Migration {
    let database = format!("file-object-store://{}", db.text());
    let location = Location::new(&database, "t").unwrap();
    let wrapper: Arc<dyn WrappingObjectStore> = Arc::new(Wrap(Arc::clone(mortal)));
    let changes = way.changes().iter().map(|(verb, text)| Change::parse(verb, text).unwrap());
    let migration = changes.fold(Migration::of(location), Migration::change);
    let migration = migration.settings(small()).store_wrapper(wrapper);
    match way {
        Way::Rewrite => migration.rows_per_file(200),
        Way::Copy => migration.rows_per_file(100),
        Way::Columns | Way::Both | Way::Metadata => migration,
    }
}

/// What is being done when the process dies.
#[derive(Debug, Clone, Copy)]
enum Act {
    Migrate,
    /// Others delete and append while it is held; then it goes on.
    Resume,
    Abort,
    Rollback,
    KeepWrites,
    Finalize,
}

/// Brings the table to where `act` begins.
async fn prepare(db: &Db, way: Way, act: Act) -> RecordBatch {
    let before = table(db).await;
    let nobody = Mortal::never();
    match act {
        Act::Migrate => before,
        Act::Resume | Act::Abort => {
            let held = migration(db, way, &nobody);
            let settings = Settings { hold: relance::Hold::Exit, ..small() };
            held.settings(settings).migrate().await.unwrap();
            db.open("t").await.delete("id = 150").await.unwrap();
            db.append("t", documents(400, 30)).await;
            db.rows("t").await
        }
        Act::Rollback | Act::Finalize => {
            migration(db, way, &nobody).migrate().await.unwrap();
            before
        }
        Act::KeepWrites => {
            migration(db, way, &nobody).migrate().await.unwrap();
            let mut live = db.open("t").await;
            live.delete("id = 20").await.unwrap();
            let left: Vec<u64> =
                (0_u64..).zip(ids(&before)).filter(|(_, id)| *id != 20).map(|(at, _)| at).collect();
            let left = arrow::array::UInt64Array::from(left);
            arrow_select::take::take_record_batch(&before, &left).unwrap()
        }
    }
}

async fn perform(db: &Db, way: Way, act: Act, mortal: &Arc<Mortal>) -> relance::Result<()> {
    let it = migration(db, way, mortal);
    match act {
        Act::Migrate => it.migrate().await.map(drop),
        Act::Resume => it.resume().await.map(drop),
        Act::Abort => it.abort().await.map(drop),
        Act::Rollback => it.rollback(Writes::Refuse).await.map(drop),
        Act::KeepWrites => it.rollback(Writes::Keep).await.map(drop),
        Act::Finalize => it.finalize(false).await.map(drop),
    }
}

/// Does again, with a store that lives, what a user would after the death.
async fn recover(db: &Db, way: Way, act: Act) {
    let nobody = Mortal::never();
    let it = migration(db, way, &nobody);
    let staged = it.status().await.unwrap().staged;
    let status = it.status().await.unwrap();
    let (points, half) = (status.rollback_points.len(), status.pins.iter().any(|pin| pin.finalize));
    match (act, staged) {
        (Act::Migrate | Act::Resume | Act::KeepWrites, Some(_)) => {
            // `resume` is given no changes: those of a way back are not those of the migration.
            let again = migration(db, way, &nobody).request(relance::Request::default());
            again.resume().await.map(drop).unwrap();
        }
        (Act::Abort, Some(_)) => it.abort().await.map(drop).unwrap(),
        (Act::Migrate | Act::Resume, None) => it.migrate().await.map(drop).unwrap(),
        (Act::KeepWrites, None) if has_n(db).await => {
            it.rollback(Writes::Keep).await.map(drop).unwrap();
        }
        (Act::Rollback, _) if points > 0 && has_n(db).await => {
            it.rollback(Writes::Refuse).await.map(drop).unwrap();
        }
        (Act::Finalize, _) if points > 0 || half => it.finalize(false).await.map(drop).unwrap(),
        _ => {}
    }
}

async fn has_n(db: &Db) -> bool {
    db.open("t").await.schema().field("n").is_some()
}

/// What the table must be in the end.
async fn check(db: &Db, way: Way, act: Act, before: &RecordBatch, what: &str) {
    let after = db.rows("t").await;
    let migrated = matches!(act, Act::Migrate | Act::Resume | Act::Finalize);
    assert_eq!(after.num_columns(), before.num_columns() + usize::from(migrated), "{what}");
    let renames = migrated && matches!(way, Way::Both | Way::Metadata);
    assert_eq!(after.column_by_name("body").is_some(), renames, "{what}");
    for (old, new) in before.columns().iter().zip(after.columns()) {
        assert_eq!(old, new, "{what}");
    }
    if migrated {
        let n = after.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
        assert!(n.iter().all(|n| n == way.value()), "{what}");
    }
    // The index on a column that nobody touched is there, and covers what it covered.
    let indices = lance::index::DatasetIndexExt::load_indices(&db.open("t").await).await.unwrap();
    assert_eq!(indices.len(), 1, "{what}");
    assert!(!db.staging_exists("t"), "{what}");
    let left = unreferenced(db, "t").await;
    assert!(left.is_empty(), "{what}: {left:#?}");
}

/// Dies once at every write of `act`, in every way. Gives how many deaths that were.
async fn sweep(way: Way, act: Act) -> usize {
    let db = Db::new();
    prepare(&db, way, act).await;
    let counter = Mortal::never();
    perform(&db, way, act, &counter).await.unwrap();
    let writes = counter.writes();
    let ways = [How::DiesBefore, How::DiesAfter, How::LosesReply];
    let deaths = ways.into_iter().flat_map(|how| (0..writes).map(move |at| (at, how)));
    let tried = futures::stream::iter(deaths).map(|(at, how)| die_once(way, act, at, how));
    tried.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await.len()
}

async fn die_once(way: Way, act: Act, at: usize, how: How) {
    let what = format!("{act:?} by {way:?} at write {at}, {how:?}");
    let db = Db::new();
    let before = prepare(&db, way, act).await;
    let result = perform(&db, way, act, &Mortal::at(at, how)).await;
    // Lance's own cleanup goes on where a file cannot be removed.
    let may_go_unseen = how == How::LosesReply || matches!(act, Act::Finalize);
    assert!(may_go_unseen || result.is_err(), "{what} went unseen");
    // Whatever died, the live table reads as before or as after.
    let now = db.rows("t").await;
    assert_eq!(ids(&now), ids(&before), "{what}");
    recover(&db, way, act).await;
    check(&db, way, act, &before, &what).await;
}

const WAYS: [Way; 5] = [Way::Rewrite, Way::Copy, Way::Columns, Way::Both, Way::Metadata];

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_death_at_every_write_of_a_migration() {
    for way in WAYS {
        let deaths = sweep(way, Act::Migrate).await;
        println!("deaths of a migration by {way:?}: {deaths}");
        assert!(deaths > 30, "{way:?}: {deaths}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_death_at_every_write_of_a_resume_that_catches_up() {
    for way in WAYS {
        let deaths = sweep(way, Act::Resume).await;
        println!("deaths of a resume by {way:?}: {deaths}");
        assert!(deaths > 30, "{way:?}: {deaths}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_death_at_every_write_of_what_takes_back() {
    for way in [Way::Rewrite, Way::Copy, Way::Both] {
        let mut deaths = 0;
        for act in [Act::Abort, Act::Rollback, Act::KeepWrites, Act::Finalize] {
            deaths += sweep(way, act).await;
        }
        println!("deaths of abort, rollback and finalize of {way:?}: {deaths}");
        assert!(deaths > 50, "{way:?}: {deaths}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_reply_and_table_are_lost_is_settled_later() {
    let db = Db::new();
    let before = table(&db).await;
    let counter = Mortal::never();
    perform(&db, Way::Rewrite, Act::Migrate, &counter).await.unwrap();
    let mut unknown = 0;
    for at in 0..counter.writes() {
        let db = Db::new();
        table(&db).await;
        let result =
            perform(&db, Way::Rewrite, Act::Migrate, &Mortal::at(at, How::DiesAfter)).await;
        if result.is_err_and(|error| error.kind() == Kind::OutcomeUnknown) {
            unknown += 1;
            let later = migration(&db, Way::Rewrite, &Mortal::never());
            let staged = later.status().await.unwrap().staged.unwrap();
            let landed = has_n(&db).await;
            let settled = if landed { "landed as version" } else { "did not land" };
            assert!(staged.swap.unwrap().contains(settled), "landed: {landed}");
            later.resume().await.map(drop).unwrap();
            assert_kept(&before, &db.rows("t").await);
        }
    }
    assert!(unknown > 0, "no death left the swap's outcome unknown");
}

/// Runs the real process until it says `point`, kills it, and gives whether it got that far.
fn kill_at(db: &Db, verb: &str, more: &[&str], point: &str) -> bool {
    let more = [&["--progress", "plain"], more].concat();
    let mut child = db.start(verb, "t", &more);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let found = stderr.lines().any(|line| line.is_ok_and(|line| line.contains(point)));
    child.kill().unwrap();
    child.wait().unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_named_point_it_goes_on() {
    let points = [
        "connected to",
        "pinned version",
        "staging in",
        "stage:",
        "verify:",
        "verified",
        "swap",
        "swapped in as",
        "index",
        "LanceDB counts",
    ];
    for point in points {
        let db = Db::new();
        let before = table(&db).await;
        let add = ["--add", "n:int64=7", "--rows-per-file", "100"];
        assert!(kill_at(&db, "migrate", &add, point), "it never said {point:?}");
        assert_kept(&before, &db.rows("t").await);
        if db.staging_exists("t") {
            db.relance("resume", "t", &[]).expect(0);
        } else if !has_n(&db).await {
            db.relance("migrate", "t", &add).expect(0);
        }
        check(&db, Way::Rewrite, Act::Migrate, &before, point).await;
        db.relance("verify", "t", &[]).expect(0);
    }
}
