//! The orchestrator: phases in order, all branching, all state.

mod control;
mod finish;
mod gate;
mod hints;
mod hold;
mod lease;
mod look;
mod planning;
mod preflight;
mod prepare;
mod quarantine;
mod reclaim;
pub(crate) mod report;
mod scratch;
mod swap;
mod there;
mod tune;
pub(crate) mod undo;
mod unfilled;
mod work;
mod worker;
mod wreck;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;
use lance_io::object_store::WrappingObjectStore;
use uuid::Uuid;

use crate::budget::{Budget, Throttle};
use crate::cancel::Cancel;
use crate::chunk::{Chunk, Origin};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::journal::{Header, Journal, LAYOUT, Undo};
use crate::location::Location;
use crate::phase::Phase;
use crate::plan::catchup::Rounds;
use crate::plan::{Nulled, Plan, Request, Strategy};
use crate::process::Running;
use crate::progress::{Amount, Event, Redacting, SharedProgress, Silent, note};
use crate::retry::retrying;
use crate::run::planning::Planned;
use crate::run::prepare::Prebuilt;
use crate::run::quarantine::Quarantined;
use crate::run::report::{Ended, seconds};
use crate::run::swap::Swap;
use crate::schema::change::Change;
use crate::settings::{Hold, ROWS_PER_FILE, Settings};
use crate::source;
use crate::table::{self, Opener};
use crate::transform::digest::DIGEST_VERSION;
use crate::transform::pool::Pool;

/// A migration of one table: what is asked, how it is run, and the parts it is run with.
#[derive(Debug, Clone)]
pub struct Migration {
    location: Location,
    request: Request,
    settings: Settings,
    progress: SharedProgress,
    clock: Arc<dyn Clock>,
    cancel: Cancel,
    wrapper: Option<Arc<dyn WrappingObjectStore>>,
    run: String,
}

/// What a run carries from phase to phase.
struct Underway {
    source: Arc<Dataset>,
    plan: Plan,
    journal: Journal,
    pool: Pool,
    budget: Budget,
    throttle: Arc<Throttle>,
    /// When the command began.
    began: Instant,
    /// When everything was staged for the first time.
    staged_first: Option<Instant>,
    rounds: Rounds,
    /// How often files were touched after they were verified.
    touched: u32,
    /// Seconds from the start to the swap.
    swapped_after: Option<f64>,
    clocked: Vec<(Phase, f64)>,
    /// Indices over what is staged, built before the swap.
    prebuilt: Prebuilt,
    /// What this run copied to the quarantine.
    quarantined: Option<Quarantined>,
    _running: Running,
}

impl Migration {
    /// A migration of the table at `location`, with nothing asked yet.
    pub fn of(location: Location) -> Self {
        Self {
            location,
            request: Request::default(),
            settings: Settings::default(),
            progress: Arc::new(Silent),
            clock: Arc::new(SystemClock),
            cancel: Cancel::default(),
            wrapper: None,
            run: Uuid::new_v4().simple().to_string(),
        }
    }

    /// Asks for one more change, after those asked for before.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.request.changes.push(change);
        self
    }

    /// Asks for this strategy instead of the cheapest. One that cannot do what is asked is refused.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.request.strategy = Some(strategy);
        self
    }

    /// Asks for every row to be written anew, so many to a file.
    #[must_use]
    pub fn rows_per_file(mut self, rows: u64) -> Self {
        self.request.rows_per_file = Some(rows);
        self
    }

    /// Asks for `request` instead of what was asked before.
    #[must_use]
    pub fn request(mut self, request: Request) -> Self {
        self.request = request;
        self
    }

    /// How it is run.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Who is told.
    #[must_use]
    pub fn progress(mut self, progress: SharedProgress) -> Self {
        self.progress = Arc::new(Redacting { to: progress, secrets: self.location.secrets() });
        self
    }

    /// Who is told, by whoever has more to tell.
    pub fn told(&self) -> &SharedProgress {
        &self.progress
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What can stop it.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// What stands between Lance and the object store, for tests and metering. Local directories are
    /// read and written directly.
    #[must_use]
    pub fn store_wrapper(mut self, wrapper: Arc<dyn WrappingObjectStore>) -> Self {
        self.wrapper = Some(wrapper);
        self
    }

    /// What [`migrate`](Self::migrate) would do, and what it would cost. Writes nothing.
    ///
    /// # Errors
    /// `Usage` and `Refused` as `migrate`; `Failed`, when the table is not there or cannot be read.
    pub async fn plan(&self) -> Result<Plan> {
        self.settings.validate()?;
        let opener = self.opener();
        let Planned { mut plan, live } = self.plan_head(&opener).await?;
        self.preflight(&live, &mut plan).await?;
        Ok(plan)
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
        self.settings.validate()?;
        let opener = self.opener();
        let began = Instant::now();
        let planned = self.plan_head(&opener).await?;
        self.refuse_staged(&opener).await?;
        let Planned { mut plan, live } = planned;
        self.preflight(&live, &mut plan).await?;
        if plan.is_nothing() {
            return Ok(Ended::Nothing(Box::new(plan)));
        }
        self.expect_writable()?;
        let running = Running::start(&self.run);
        let journal = Box::pin(self.begin(&opener, &live, &plan, None)).await?;
        let underway = self.underway(live, plan, journal, began, running)?;
        Box::pin(self.carry_out(underway)).await
    }

    /// Goes on with the migration that is staged, wherever it stopped, on this machine or another. Chunks
    /// that are done are kept; what was written to the table meanwhile is staged too. A migration that
    /// waits is taken over from the run that holds it. What is asked for, if anything is, must be what
    /// the migration began with.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; `Refused`, when something else is
    /// asked than what is staged; otherwise as [`migrate`](Self::migrate).
    pub async fn resume(&self) -> Result<Ended> {
        self.settings.validate()?;
        let began = Instant::now();
        let (live, mut journal) = self.staged().await?;
        self.expect_free_or_waiting(&journal).await?;
        self.expect_same_request(&live, &journal)?;
        let running = Running::start(&self.run);
        let live = self.take_over(&live, &mut journal, Phase::Plan).await?;
        let header = journal.header();
        let swapped = history::find_swap(&live, &header.id, header.first_version).await?;
        if let Some(version) = swapped {
            return Box::pin(self.resume_swapped(&live, journal, version, began, running)).await;
        }
        self.pin_head(&live, &journal).await?;
        let plan = self.plan_staged(&live, &journal).await?;
        let mut underway = self.underway(live, plan, journal, began, running)?;
        self.keep_staged(&mut underway);
        self.inspect(&mut underway).await.map_err(|error| self.keep(error))?;
        self.clean(&mut underway).await.map_err(|error| self.keep(error))?;
        Box::pin(self.carry_out(underway)).await
    }

    /// Tidies up after a swap that landed.
    async fn resume_swapped(
        &self,
        live: &Dataset,
        journal: Journal,
        version: u64,
        began: Instant,
        running: Running,
    ) -> Result<Ended> {
        note(&self.progress, format!("the swap landed as version {version}; tidying up"));
        let landed = async {
            let source = table::at_version(live, journal.header().source_version).await?;
            let plan = self.plan_staged(&source, &journal).await?;
            let swapped = table::at_version(live, version).await?;
            Ok((self.underway(source, plan, journal, began, running)?, swapped))
        };
        let (underway, swapped) = landed.await.map_err(|error| self.unfinished(version, error))?;
        let underway = Box::pin(self.look_after(underway, &swapped)).await?;
        Box::pin(self.after_swap(underway, swapped)).await
    }

    /// Stage, catch up, verify, hold, swap, and what comes after.
    async fn carry_out(&self, mut underway: Box<Underway>) -> Result<Ended> {
        if self.settings.hold != Hold::No {
            return match self.hold(&mut underway).await {
                Ok(held) => Ok(held),
                Err(error) => Err(self.stopped(&mut underway, error).await),
            };
        }
        match self.until_swapped(&mut underway).await {
            Ok(live) => {
                let underway = Box::pin(self.look_after(underway, &live)).await?;
                Box::pin(self.after_swap(underway, live)).await
            }
            Err(error) => Err(self.stopped(&mut underway, error).await),
        }
    }

    async fn until_swapped(&self, underway: &mut Underway) -> Result<Arc<Dataset>> {
        let mut indexed = false;
        loop {
            self.stage(underway, Phase::Stage).await?;
            self.tell_verified(underway);
            if !indexed {
                indexed = true;
                // Others may have written meanwhile.
                if Box::pin(self.build_indices(underway)).await? {
                    continue;
                }
            }
            if Box::pin(self.quarantine(underway)).await? {
                continue;
            }
            if let Swap::Landed(live) = self.swap(underway).await? {
                return Ok(live);
            }
        }
    }

    /// The error to tell of a run that stops before its swap. One that was taken over removes the files
    /// that it wrote and could not record: nobody else knows of them.
    async fn stopped(&self, underway: &mut Underway, error: Error) -> Error {
        underway.journal.end_beats().await;
        if error.kind() == Kind::Locked {
            // Whoever took over removes by name what is left.
            let _ = self.remove_fresh(underway).await;
        }
        self.keep(error)
    }

    /// Removes the files that this run wrote and could not record.
    async fn remove_fresh(&self, underway: &mut Underway) -> Result<()> {
        let fresh = underway.journal.take_fresh();
        self.worker(underway).await?.remove(fresh).await
    }

    /// Takes the lock and pins the source.
    async fn begin(
        &self,
        opener: &Opener,
        live: &Dataset,
        plan: &Plan,
        undo: Option<Undo>,
    ) -> Result<Journal> {
        let id = Uuid::new_v4().simple().to_string().chars().take(12).collect::<String>();
        let header = Header {
            layout: LAYOUT,
            digests: DIGEST_VERSION,
            id: id.clone(),
            relance: env!("CARGO_PKG_VERSION").to_owned(),
            began: self.clock.now(),
            source_version: plan.version,
            first_version: plan.version,
            field_id_max: live.manifest().max_field_id(),
            request: Request {
                changes: plan.target.changes.clone(),
                strategy: Some(plan.strategy),
                ..self.request.clone()
            },
            strategy: plan.strategy,
            rows_per_file: self.request.rows_per_file.unwrap_or(ROWS_PER_FILE),
            chunks: plan.chunks.len() as u64,
            rows: plan.rows,
            undo,
        };
        let lease = self.lease(Phase::Stage, false);
        let schema = &plan.target.schema;
        let journal =
            Journal::create(opener, live, header, lease, schema, plan.storage_version).await;
        let mut journal = match journal {
            Err(error) if error.kind() == Kind::Locked => {
                return Err(self.describe_locked(opener, error).await);
            }
            journal => journal?,
        };
        let beats = journal.begin_beats(&self.clock, &self.progress).await;
        beats.map_err(|error| self.keep(error))?;
        let pin = || source::pin(live, &id, plan.version);
        let pinned = retrying(&self.progress, &self.cancel, "pinning the source", pin).await;
        pinned.map_err(|error| self.keep(error))?;
        let (staging, tag) = (self.location.staging_table(), source::tag_of(&id));
        note(&self.progress, format!("pinned version {} as tag `{tag}`", plan.version));
        note(&self.progress, format!("staging in `{staging}`, migration {id}"));
        Ok(journal)
    }

    fn underway(
        &self,
        source: Arc<Dataset>,
        plan: Plan,
        journal: Journal,
        began: Instant,
        running: Running,
    ) -> Result<Box<Underway>> {
        Ok(Box::new(Underway {
            source,
            plan,
            journal,
            pool: Pool::of(self.settings.workers)?,
            budget: Budget::of(self.settings.memory_bytes / 2),
            throttle: Arc::new(Throttle::of(self.settings.max_rate)),
            began,
            staged_first: None,
            rounds: Rounds::default(),
            touched: 0,
            swapped_after: None,
            clocked: vec![(Phase::Plan, seconds(began.elapsed()))],
            prebuilt: Prebuilt::default(),
            quarantined: None,
            _running: running,
        }))
    }

    fn opener(&self) -> Opener {
        Opener::of(&self.location, self.wrapper.clone())
    }

    fn begin_phase(&self, phase: Phase, total: Amount) {
        let done = Amount::default();
        self.progress.event(Event::Began { phase, total, done });
    }

    fn interrupted(&self) -> Error {
        note(&self.progress, "stopping");
        Error::interrupted("interrupted; what is staged is kept")
    }
}

impl Underway {
    /// The values that became null in what is staged, by column and problem. Rows that were deleted after
    /// they were staged may be among them: then it is said that there are no more than so many.
    fn values_nulled(&self) -> Vec<Nulled> {
        let origins = self.plan.chunks.iter().flat_map(Chunk::origins);
        let now: HashMap<u64, Origin> = origins.map(|origin| (origin.id, origin)).collect();
        let mut all = Vec::new();
        for record in self.journal.records() {
            let same = |then: &Origin| now.get(&then.id) == Some(then);
            let at_most = record.deleted > 0 || !record.origins.iter().all(same);
            let nulled = record.nulled.iter().cloned();
            Nulled::add(&mut all, nulled.map(|one| Nulled { at_most, ..one }));
        }
        all
    }

    /// Adds `seconds` to the time that `phase` took.
    fn clock(&mut self, phase: Phase, seconds: f64) {
        match self.clocked.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, sum)) => *sum = ((*sum + seconds) * 1_000.0).round() / 1_000.0,
            None => self.clocked.push((phase, seconds)),
        }
    }
}

/// The rows of `chunks` that are staged, and the bytes that go through for them.
fn amount<'a>(plan: &Plan, chunks: impl IntoIterator<Item = &'a Chunk>) -> Amount {
    let mut all = Amount::default();
    for chunk in chunks {
        let rows = if plan.is_aligned() { chunk.physical_rows() } else { chunk.rows() };
        all.rows += rows;
        all.chunks += 1;
        if !plan.is_aligned() {
            all.bytes += chunk.bytes();
        }
    }
    if plan.is_aligned() {
        let through = u128::from(plan.through_bytes());
        let bytes = through * u128::from(all.rows) / u128::from(plan.rows.max(1));
        all.bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    }
    all
}
