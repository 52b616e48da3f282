//! What every command is given.

use std::{sync::Arc, time::Duration};

use lance_io::object_store::{ChainedWrappingObjectStore, WrappingObjectStore};
use uuid::Uuid;

use crate::clock::{Clock, SystemClock};
use crate::plan::{Request, SavedPlan};
use crate::progress::{Amount, Event, SharedProgress, Silent, note};
use crate::tally::{Tallied, Tally};
use crate::{
    cancel::Cancel,
    error::{Error, Kind, Result},
    limits::MemoryPlan,
    location::Location,
    phase::Phase,
    retry::is_away,
    settings::{Settings, Verify},
    storage::part_copy::PartCopies,
    storage::sent::KeepsSent,
    storage::watch::{StoreState, Watch},
    supply::Functions,
    table::open::Opener,
};

/// What every command is given: plain values, and the parts that it runs with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub location: Location,
    pub request: Request,
    /// The plan that is carried out, where it was made before.
    pub planned: Option<SavedPlan>,
    pub settings: Settings,
    /// The functions that give values, by their names.
    pub functions: Functions,
    pub progress: SharedProgress,
    /// Counts what the progress is told.
    pub tally: Arc<Tally>,
    pub clock: Arc<dyn Clock>,
    pub cancel: Cancel,
    pub wrapper: Option<Arc<dyn WrappingObjectStore>>,
    /// What is known of the object store.
    pub store: Arc<StoreState>,
    /// Tells this run from others, in the lease and in the names of scratch tables.
    pub run: String,
}

impl Context {
    /// The context of a table, with nothing asked of it.
    pub(crate) fn of(location: Location) -> Self {
        let tally = Arc::<Tally>::default();
        let (to, secrets) = (Arc::new(Silent), Vec::new());
        Self {
            location,
            request: Request::default(),
            planned: None,
            settings: Settings::default(),
            functions: Functions::new(),
            progress: Arc::new(Tallied { to, secrets, tally: Arc::clone(&tally) }),
            tally,
            clock: Arc::new(SystemClock),
            cancel: Cancel::default(),
            wrapper: None,
            store: Arc::default(),
            run: Uuid::new_v4().simple().to_string(),
        }
    }

    pub(crate) fn table(&self) -> &str {
        self.location.table()
    }

    pub(crate) fn opener(&self) -> Opener {
        self.opener_of(&self.location)
    }

    /// What opens the table at `location`, in the same database.
    pub(crate) fn opener_of(&self, location: &Location) -> Opener {
        if location.directory().is_some() {
            return Opener::of(location, self.wrapper.clone());
        }
        let mut all: Vec<Arc<dyn WrappingObjectStore>> = self.wrapper.iter().cloned().collect();
        all.push(Arc::new(self.watch()));
        Opener::of(location, Some(Arc::new(ChainedWrappingObjectStore::new(all))))
    }

    /// Watches the requests to the store.
    pub(crate) fn watch(&self) -> Watch {
        let told = (&self.progress, &self.tally);
        Watch::of(&self.store, told, &self.cancel, self.location.store_timeout())
    }

    /// Where what is sent to the store is kept, if it is to be verified before it is let go of.
    pub(crate) fn keeps_sent(&self) -> Option<KeepsSent> {
        let in_store = self.location.directory().is_none();
        let keeps = in_store && self.settings.verify == Verify::Full;
        let room = MemoryPlan::of(&self.settings).for_store(in_store).sent;
        keeps.then(|| KeepsSent { files: Arc::clone(&self.store.sent), room })
    }

    /// What has the object store copy parts of the table's files, where it may.
    pub(crate) fn part_copies(&self) -> Option<Arc<PartCopies>> {
        let copies =
            || PartCopies::of(self.location.uri(), self.opener().params().clone(), self.watch());
        self.location.speaks_s3().then(|| Arc::new(copies()))
    }

    pub(crate) fn say(&self, text: impl Into<String>) {
        note(&self.progress, text);
    }

    pub(crate) fn begin_phase(&self, phase: Phase, total: Amount) {
        let done = Amount::default();
        self.progress.event(Event::Began { phase, total, done });
    }

    /// Does `command`, and logs what it asked of the store.
    ///
    /// # Errors
    /// Those of `command`; `Interrupted`, where it was asked to stop and ended since the store was away.
    pub(crate) async fn with_requests_logged<T>(
        &self,
        command: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = command.await;
        self.store.traffic.log();
        done.map_err(|error| {
            if error.kind() == Kind::Failed && self.cancel.is_cancelled() && is_away(&error) {
                return Error::interrupted("interrupted while the store was away").caused_by(error);
            }
            error
        })
    }

    /// The error of a run that was asked to stop.
    pub(crate) fn interrupted(&self) -> Error {
        self.say("stopping");
        Error::interrupted("interrupted; what is staged is kept")
    }

    /// Waits for `time`, or until it is asked to stop. False when it was.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = self.clock.sleep(time) => true,
        }
    }
}
