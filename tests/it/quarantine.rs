//! Rows whose values become null are copied beside the table, each once, whoever writes meanwhile.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use futures::future::BoxFuture;
use relance::{Change, Ended, Event, Location, Migration, OnBadValue, Phase, Progress, Request};

use crate::support::{Db, documents, ids, small};

type Act = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Does something when the run says that it copied bad rows for the first time; remembers how many rows were
/// tried each time.
struct Meddler {
    act: Mutex<Option<Act>>,
    tried: Mutex<Vec<u64>>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.tried)
    }
}

impl Progress for Meddler {
    fn event(&self, event: Event) {
        match event {
            Event::Began { phase: Phase::Plan, total, .. } => {
                self.tried.lock().unwrap().push(total.rows);
            }
            Event::Note(text) if text.contains("are copied to") => {
                if let Some(act) = self.act.lock().unwrap().take() {
                    let runtime = tokio::runtime::Handle::current();
                    tokio::task::block_in_place(|| runtime.block_on(act()));
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_all_that_is_looked_at_again() {
    let db = Arc::new(Db::new());
    db.documents("t", 1_000, 100).await;
    let others = Arc::clone(&db);
    let act: Act = Box::new(move || {
        Box::pin(async move {
            // A bad row less in the first fragment, the second one gone, and a new one.
            let mut live = others.append("t", documents(5_000, 40)).await;
            live.delete("id = 1 or (id >= 100 and id < 200)").await.unwrap();
        })
    });
    let meddler = Meddler { act: Mutex::new(Some(act)), tried: Mutex::default() };
    let meddler = Arc::new(meddler);
    let location = Location::new(db.text(), "t").unwrap();
    let changes = vec![Change::parse("cast", "text:int64").unwrap()];
    let on_bad_value = OnBadValue::Quarantine;
    let request = Request { changes, on_bad_value, ..Request::default() };
    let run = Migration::of(location).request(request).settings(small());
    let run = run.progress(Arc::clone(&meddler) as _);
    assert!(matches!(run.migrate().await.unwrap(), Ended::Swapped(_)));
    // Before anything is staged, before the swap, and what changed.
    assert_eq!(*meddler.tried.lock().unwrap(), [1_000, 1_000, 140]);
    let swapped = db.rows("t").await;
    assert_eq!(swapped.num_rows(), 1_000 - 101 + 40);
    let bad: Vec<i64> = ids(&swapped).into_iter().filter(|id| id % 7 != 3).collect();
    let aside = db.rows("t__relance_quarantine").await;
    let mut found = ids(&aside);
    found.sort_unstable();
    assert_eq!(found, bad, "each once");
    let fragments = aside.column_by_name("_relance_fragment").unwrap();
    let fragments = fragments.as_primitive::<UInt64Type>().values().to_vec();
    assert!(ids(&aside).iter().zip(fragments).all(|(id, fragment)| {
        let of = if *id < 5_000 { id / 100 } else { 10 };
        u64::try_from(of) == Ok(fragment)
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_many_fragments_go_by_one_commit() {
    let db = Db::new();
    db.documents("t", 600, 20).await;
    db.relance("migrate", "t", &["--cast", "text:int64", "--on-bad-value", "quarantine"]).expect(0);
    let aside = db.rows("t__relance_quarantine").await;
    assert_eq!(ids(&aside), (0..600).filter(|id| id % 7 != 3).collect::<Vec<_>>());
    let versions = db.table("t__relance_quarantine").join("_versions");
    let manifests = std::fs::read_dir(versions).unwrap();
    let names = manifests.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".manifest")).count(), 1);
}
