//! The orchestrator: phases in order, all branching, all state.

mod look;
mod planning;
pub(crate) mod report;
mod undo;
mod work;

use std::sync::Arc;
use std::time::Instant;

use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance_io::object_store::WrappingObjectStore;
use uuid::Uuid;

use crate::cancel::Cancel;
use crate::chunk::Chunk;
use crate::clock::{Clock, SystemClock};
use crate::commit::{Act, Outcome, exactly_next, properties};
use crate::error::{Context, Kind, Result};
use crate::history;
use crate::journal::{Header, Journal, LAYOUT, Lease};
use crate::location::Location;
use crate::phase::Phase;
use crate::plan::explain::count_text;
use crate::plan::{Plan, Request};
use crate::progress::{Amount, Event, SharedProgress, Silent, note};
use crate::run::planning::Planned;
use crate::run::report::{Ended, Held, Report, seconds};
use crate::schema::change::Change;
use crate::schema::show::field_text;
use crate::settings::Settings;
use crate::table::{self, Opener};
use crate::{database, index, source};

/// Transaction property of the swap that holds the request, for `verify`.
const PROPERTY_REQUEST: &str = "relance.request";

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
    clocked: Vec<(Phase, f64)>,
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
        self.progress = progress;
        self
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
        let planned = self.plan_head(&opener).await?;
        Ok(planned.plan)
    }

    /// Stages, verifies and swaps.
    ///
    /// # Errors
    /// `Usage` and `Refused` before anything is written; `Locked`, when another migration of the table
    /// is staged; `Mismatch`, when what was staged is not what was expected; `Interrupted`, when it was
    /// cancelled or the table was written to meanwhile; `OutcomeUnknown`, when the swap's reply was lost.
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
        let Planned { plan, live } = planned;
        if plan.target.is_unchanged() {
            return Ok(Ended::Nothing(plan));
        }
        self.expect_writable()?;
        let journal = self.begin(&opener, &live, &plan).await?;
        let underway = Underway {
            source: live,
            plan,
            journal,
            clocked: vec![(Phase::Plan, seconds(began.elapsed()))],
        };
        self.carry_out(underway, self.settings.hold).await
    }

    /// Goes on with the migration that is staged, wherever it stopped. Chunks that are done are kept;
    /// what was written to the table meanwhile is staged too.
    ///
    /// # Errors
    /// `Failed`, when nothing is staged; `Locked`, when a run is alive; otherwise as
    /// [`migrate`](Self::migrate).
    pub async fn resume(&self) -> Result<Ended> {
        self.settings.validate()?;
        let began = Instant::now();
        let (opener, live, mut journal) = self.staged().await?;
        self.expect_free(&journal)?;
        journal.checkpoint(Vec::new(), self.lease(Phase::Plan, false)).await?;
        let header = journal.header().clone();
        let point = history::rollback_point(&live, &header.id).await?;
        let swapped = point.as_ref().and_then(|point| point.swapped);
        let version = match swapped {
            Some(_) => header.source_version,
            None => self.pin_head(&live, &mut journal).await?,
        };
        let source = table::at_version(&live, version).await?;
        let plan = self.plan_staged(&opener, &source, &mut journal, swapped.is_some()).await?;
        let underway = Underway {
            source,
            plan,
            journal,
            clocked: vec![(Phase::Plan, seconds(began.elapsed()))],
        };
        match swapped {
            Some(version) => {
                note(&self.progress, format!("the swap landed as version {version}; tidying up"));
                let live = table::at_version(&live, version).await?;
                self.after_swap(underway, live).await
            }
            None => self.carry_out(underway, false).await,
        }
    }

    /// Stage, verify, hold or swap, and what comes after.
    async fn carry_out(&self, mut underway: Underway, hold: bool) -> Result<Ended> {
        let staged = self.stage(&mut underway).await;
        staged.map_err(|error| self.keep(error))?;
        if hold {
            let journal = &mut underway.journal;
            journal.checkpoint(Vec::new(), self.lease(Phase::Hold, true)).await?;
            let header = journal.header().clone();
            return Ok(Ended::Held(Held {
                table: self.location.table().to_owned(),
                id: header.id,
                rows: header.rows,
            }));
        }
        let live = self.swap(&mut underway).await.map_err(|error| self.keep(error))?;
        self.after_swap(underway, live).await
    }

    /// Rebuilds indices, removes the staging table, and looks at the result.
    async fn after_swap(&self, mut underway: Underway, swapped: Arc<Dataset>) -> Result<Ended> {
        let began = Instant::now();
        let id = underway.journal.header().id.clone();
        let dropped = underway.journal.header().request.drop_indices.clone();
        let missing = index::missing(&underway.source, &swapped, &dropped).await?;
        let mut newest = swapped.as_ref().clone();
        let latest = newest.checkout_latest().await;
        latest.doing(|| "open the newest version".to_owned())?;
        let mut after = Arc::new(newest);
        if missing > 0 {
            self.begin_phase(Phase::Index, Amount { chunks: missing, ..Amount::default() });
            let indices = index::rebuild(&underway.source, after, &dropped, &id, &self.progress);
            after = indices.await?;
        }
        underway.clocked.push((Phase::Index, seconds(began.elapsed())));
        let (version, rows) = (swapped.version_id(), underway.plan.rows());
        let schema = &underway.plan.target.schema;
        let sample = database::look(&self.location, version, rows, schema).await?;
        note(
            &self.progress,
            format!("LanceDB counts {} rows and sees every field", count_text(rows)),
        );
        let report = self.report(&underway, &swapped, &after, missing, sample);
        underway.journal.remove().await?;
        self.begin_phase(Phase::Done, Amount::default());
        Ok(Ended::Swapped(report))
    }

    /// The one commit that makes the staged fragments the live table.
    async fn swap(&self, underway: &mut Underway) -> Result<Arc<Dataset>> {
        let began = Instant::now();
        self.begin_phase(Phase::Swap, Amount::default());
        let journal = &mut underway.journal;
        journal.checkpoint(Vec::new(), self.lease(Phase::Swap, false)).await?;
        let header = journal.header().clone();
        let operation = Operation::Overwrite {
            fragments: journal.all_fragments(),
            schema: underway.plan.target.schema.clone(),
            config_upsert_values: None,
            initial_bases: None,
        };
        let mut properties = properties(&header.id, Act::Swap);
        let request = serde_json::to_string(&header.request);
        let request = request.doing(|| "write the request as JSON".to_owned())?;
        properties.insert(PROPERTY_REQUEST.to_owned(), request);
        let outcome = exactly_next(&underway.source, operation, properties).await?;
        let live = match outcome {
            Outcome::Landed(live) => Arc::new(*live),
            Outcome::LostRace { head } => {
                journal.checkpoint(Vec::new(), self.lease(Phase::Swap, true)).await?;
                return Err(self.lost_race(header.source_version, head));
            }
            Outcome::Unknown { attempted, error } => {
                return Err(self.unknown(attempted).caused_by(error));
            }
        };
        let took = seconds(began.elapsed());
        note(&self.progress, format!("swapped in as version {} in {took} s", live.version_id()));
        underway.clocked.push((Phase::Swap, took));
        Ok(live)
    }

    /// Takes the lock and pins the source.
    async fn begin(&self, opener: &Opener, live: &Dataset, plan: &Plan) -> Result<Journal> {
        let id = Uuid::new_v4().simple().to_string().chars().take(12).collect::<String>();
        let header = Header {
            layout: LAYOUT,
            id: id.clone(),
            relance: env!("CARGO_PKG_VERSION").to_owned(),
            began: self.clock.now(),
            source_version: plan.version,
            request: Request { changes: plan.target.changes.clone(), ..self.request.clone() },
            rows_per_file: self.settings.rows_per_file,
            chunks: plan.chunks.len() as u64,
            rows: plan.rows(),
        };
        let lease = self.lease(Phase::Stage, false);
        let schema = &plan.target.schema;
        let journal =
            Journal::create(opener, live, header, lease, schema, plan.storage_version).await;
        let journal = match journal {
            Err(error) if error.kind() == Kind::Locked => {
                return Err(self.describe_locked(opener, error).await);
            }
            journal => journal?,
        };
        source::pin(live, &id, plan.version).await.map_err(|error| self.keep(error))?;
        let (staging, tag) = (self.location.staging_table(), source::tag_of(&id));
        note(&self.progress, format!("pinned version {} as tag `{tag}`", plan.version));
        note(&self.progress, format!("staging in `{staging}`, migration {id}"));
        Ok(journal)
    }

    fn opener(&self) -> Opener {
        Opener::of(&self.location, self.wrapper.clone())
    }

    fn begin_phase(&self, phase: Phase, total: Amount) {
        let done = Amount::default();
        self.progress.event(Event::Began { phase, total, done });
    }

    fn report(
        &self,
        underway: &Underway,
        swapped: &Dataset,
        after: &Dataset,
        indices_rebuilt: u64,
        sample: Vec<arrow::array::RecordBatch>,
    ) -> Report {
        let header = underway.journal.header();
        let plan = &underway.plan;
        let files = underway.journal.records().flat_map(|record| &record.files);
        let fields = arrow::datatypes::Schema::from(&plan.target.schema);
        Report {
            table: self.location.table().to_owned(),
            id: header.id.clone(),
            changes: plan.target.changes.iter().map(Change::text).collect(),
            skipped: plan.target.skipped.clone(),
            version_before: header.source_version,
            version_swapped: swapped.version_id(),
            version_after: after.version_id(),
            rollback_tag: source::tag_of(&header.id),
            rows: plan.rows(),
            fragments_before: plan.chunks.iter().map(|chunk| chunk.fragments.len() as u64).sum(),
            fragments_after: swapped.count_fragments() as u64,
            bytes_written: files.map(|file| file.bytes).sum(),
            verified: self.settings.verify,
            indices_rebuilt,
            fields: fields.fields().iter().map(|field| field_text(field)).collect(),
            seconds: underway.clocked.clone(),
            sample,
        }
    }
}

/// The rows of `chunks` and their bytes.
fn amount(chunks: &[Chunk]) -> Amount {
    Amount {
        rows: chunks.iter().map(Chunk::rows).sum(),
        bytes: chunks.iter().map(Chunk::bytes).sum(),
        chunks: chunks.len() as u64,
    }
}

impl Migration {
    fn lease(&self, phase: Phase, released: bool) -> Lease {
        Lease {
            host: host(),
            pid: std::process::id(),
            run: self.run.clone(),
            beat: self.clock.now(),
            phase,
            released,
        }
    }
}

/// The name of this machine, as far as it has one.
fn host() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = file.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}
