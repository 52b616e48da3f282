//! Runs migrations. Calls go one way:
//!
//! 1. `commands`, one file for each.
//! 2. `hold`, `after`, `cutover`: what comes once everything is staged; `preflight`: what comes before.
//! 3. `copier`: the loop that stages, verifies and catches up. It has tasks (`task`) done by an `executor`, which is
//!    the `worker` of this process.
//! 4. `session`: one migration under way; `planning`, `staged`, `point`, `lease`: what it stands on.
//! 5. `hints` and `context`: what every command is given, and what it suggests to type next.

mod commands;

mod after;
mod context;
mod control;
mod copier;
mod cutover;
mod deleter;
mod executor;
mod head;
mod header;
mod hints;
mod hold;
mod joining;
mod lease;
mod other_data;
mod planning;
mod point;
mod prebuilt;
mod preflight;
mod probe;
mod reclaim;
pub(crate) mod report;
mod session;
mod staged;
mod supplying;
mod task;
mod told;
mod uploads;
mod worker;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::datatypes::Schema;
use futures::FutureExt as _;
use lance_io::object_store::WrappingObjectStore;

use crate::plan::{Plan, Request, SavedPlan, Strategy, tuning::Tuned};
pub use crate::run::commands::rollback::Writes;
use crate::run::commands::{
    abort, finalize, migrate, plan, resume, rollback, status, tune, verify,
};
use crate::run::report::{Aborted, Ended, Finalized, RolledBack, TableStatus, Verified};
use crate::{
    cancel::Cancel, clock::Clock, error::Result, location::Location, progress::SharedProgress,
    run::context::Context, schema::change::Change, schema::derive::Wanted, schema::ipc::as_stored,
    settings::Settings, supply::Producer, tally::Tallied,
};

/// A migration of one table: what is asked, how it is run, and the parts it is run with.
#[derive(Debug, Clone)]
pub struct Migration(Context);

impl Migration {
    /// A migration of the table at `location`, with nothing asked yet.
    pub fn of(location: Location) -> Self {
        Self(Context::of(location))
    }

    /// Asks for one more change, after those asked for before.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.0.request.changes.push(change);
        self
    }

    /// Asks for this strategy instead of the cheapest. One that cannot do what is asked is refused.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.0.request.strategy = Some(strategy);
        self
    }

    /// Asks for every row to be written, so many to a file.
    #[must_use]
    pub fn rows_per_file(mut self, rows: u64) -> Self {
        self.0.request.rows_per_file = Some(rows);
        self
    }

    /// Asks for `request` instead of what was asked before.
    #[must_use]
    pub fn request(mut self, request: Request) -> Self {
        self.0.request = request;
        self
    }

    /// Asks for what was `planned` before, and refuses when the table's columns are not those any more.
    #[must_use]
    pub fn planned(mut self, planned: SavedPlan) -> Self {
        self.0.request = planned.request.clone();
        self.0.planned = Some(planned);
        self
    }

    /// Asks for the changes that make the table's schema that of `name`: a file with it as Arrow JSON, as Arrow IPC or as
    /// Parquet, or another table of the database. Columns that come are null; a rename is never guessed.
    ///
    /// # Errors
    /// `Usage`, when the file is no schema; `NoTable`, when there is neither such a file nor such a table;
    /// `Refused`, when a column would come that may not be null, and for what no change does.
    pub async fn to(self, name: &str) -> Result<Self> {
        let wanted = planning::schema_named(&self.0, name).await?;
        planning::ask_for_schema(self.0, &wanted).await.map(Self)
    }

    /// Asks for the changes that make the table's schema `schema`. Columns that come hold what `defaults` has for their
    /// paths, as literals in their types, and are null otherwise.
    ///
    /// # Errors
    /// `Usage`, when the schema has a column whose type no array can have; otherwise as [`to`](Self::to).
    pub async fn to_schema(
        self,
        schema: &Schema,
        defaults: BTreeMap<String, String>,
    ) -> Result<Self> {
        let wanted = Wanted { defaults, ..Wanted::whole(as_stored(schema)?) };
        planning::ask_for_schema(self.0, &wanted).await.map(Self)
    }

    /// Gives the function that a change gets the values of `column` from: see [`By::Function`](crate::By::Function). Where
    /// several changes have a column of that name, their functions are given in their order.
    #[must_use]
    pub fn producer(mut self, column: impl Into<String>, function: Arc<dyn Producer>) -> Self {
        self.0.functions.push((column.into(), function));
        self
    }

    /// How it is run.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.0.settings = settings;
        self
    }

    /// Who is told.
    #[must_use]
    pub fn progress(mut self, progress: SharedProgress) -> Self {
        let (secrets, tally) = (self.0.location.secrets(), Arc::clone(&self.0.tally));
        self.0.progress = Arc::new(Tallied { to: progress, secrets, tally });
        self
    }

    /// Who is told, by whoever has more to tell.
    pub(crate) fn told(&self) -> &SharedProgress {
        &self.0.progress
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.clock = clock;
        self
    }

    /// What can stop it.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.0.cancel = cancel;
        self
    }

    /// What stands between Lance and the object store, for tests and metering. Local directories are
    /// read and written directly.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub fn store_wrapper(mut self, wrapper: Arc<dyn WrappingObjectStore>) -> Self {
        self.0.wrapper = Some(wrapper);
        self
    }

    /// What [`migrate`](Self::migrate) would do, and what it would cost. Writes nothing.
    ///
    /// # Errors
    /// `Usage` and `Refused` as `migrate`; `NoTable`, when the table is not there; `Failed`, when it cannot be read.
    pub async fn plan(&self) -> Result<Plan> {
        self.0.with_requests_logged(plan::run(&self.0).boxed()).await
    }

    /// Stages, catches up with what others write meanwhile, verifies and swaps.
    ///
    /// # Errors
    /// `Usage` and `Refused` before anything is written, and `Refused` when somebody changes the schema
    /// meanwhile; `Locked`, when another migration of the table is staged; `Mismatch`, when what was
    /// staged is not what was expected; `Interrupted`, when it was cancelled, or others write faster than
    /// it catches up; `OutcomeUnknown`, when the swap's reply was lost; `Unfinished`, when it was swapped in
    /// and something after that failed or was cancelled.
    ///
    /// # Crash
    /// The live table reads as before or as after; [`resume`](Self::resume) goes on, [`abort`](Self::abort)
    /// removes what was staged.
    pub async fn migrate(&self) -> Result<Ended> {
        self.0.with_requests_logged(migrate::run(&self.0).boxed()).await
    }

    /// Goes on with the migration that is staged, wherever it stopped, on this machine or another. Chunks that are done
    /// are kept; what was written to the table meanwhile is staged too. A migration that waits is taken over from the
    /// run that holds it. What is asked for, if anything is, must be what the migration began with.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; `Refused`, when something else is
    /// asked than what is staged; otherwise as [`migrate`](Self::migrate).
    pub async fn resume(&self) -> Result<Ended> {
        self.0.with_requests_logged(resume::run(&self.0).boxed()).await
    }

    /// Drops the migration that is staged: every file that it wrote, its tag, and the staging table. Where
    /// none is, tags of one that is not there any more.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; `Refused`, when the swap has landed already.
    ///
    /// # Crash
    /// Calling it again removes the rest. The live table is not touched.
    pub async fn abort(&self) -> Result<Aborted> {
        self.0.with_requests_logged(abort::run(&self.0).boxed()).await
    }

    /// Takes the last swap back: in one commit that puts the version before it back, as long as nobody
    /// has written since; what was written since is dealt with as `writes` says.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Refused`, when others have written since and `writes` is
    /// [`Writes::Refuse`], or the changes cannot be taken back from what they wrote; `Locked`, when a
    /// migration is staged; `Interrupted`, when somebody writes at this very moment; `Unfinished`, when it
    /// landed and could not tidy up. With [`Writes::Keep`], those of [`migrate`](Self::migrate) too.
    ///
    /// # Crash
    /// The live table is the swapped one, or the one before it, whole. With [`Writes::Keep`], as
    /// [`migrate`](Self::migrate): [`resume`](Self::resume) goes on.
    pub async fn rollback(&self, writes: Writes) -> Result<RolledBack> {
        self.0.with_requests_logged(rollback::run(&self.0, writes).boxed()).await
    }

    /// Gives up the rollback point of the last swap, and reclaims what only that version used; where there is
    /// none, what only swaps use that were rolled back. With `history`, every untagged version before goes too.
    ///
    /// # Errors
    /// `Failed`, when there is neither; `Locked`, when a migration is staged.
    ///
    /// # Crash
    /// The newest version is not touched; calling it again reclaims the rest.
    pub async fn finalize(&self, history: bool) -> Result<Finalized> {
        self.0.with_requests_logged(finalize::run(&self.0, history).boxed()).await
    }

    /// What is staged of the table, and where it can be rolled back to. Writes nothing.
    ///
    /// # Errors
    /// `NoTable`, when the table is not there; `Failed`, when it cannot be read.
    pub async fn status(&self) -> Result<TableStatus> {
        self.0.with_requests_logged(status::run(&self.0).boxed()).await
    }

    /// Compares every value of the swapped version with its rollback point, transformed again.
    ///
    /// # Errors
    /// `Failed`, when there is no rollback point; `Refused`, when a cleanup has taken the swapped version;
    /// `Mismatch`, naming the column, on any difference; `Interrupted`, when it was cancelled.
    pub async fn verify(&self) -> Result<Verified> {
        self.0.with_requests_logged(verify::run(&self.0).boxed()).await
    }

    /// Tries batch sizes, then workers, then queue depths for about `time` by really staging and verifying
    /// the first rows of the table, up to 256 MiB of them. The table itself is only read.
    ///
    /// # Errors
    /// `NoTable`, when the table is not there; `Failed`, when it is empty, or cannot be read; `Refused`, when it cannot be
    /// rewritten; `Interrupted`, when it was cancelled.
    ///
    /// # Crash
    /// Files are left in `<table>__relance_tune_<run>`; the next call removes them.
    pub async fn tune(&self, time: Duration) -> Result<Tuned> {
        self.0.with_requests_logged(tune::run(&self.0, time).boxed()).await
    }
}
