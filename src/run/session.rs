//! One migration under way: its journal, its source, and what the run knows of them.

use std::collections::{HashMap, HashSet};
use std::{sync::Arc, time::Instant};

use lance::Dataset;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::chunk::{Chunk, ChunkId, Origin};
use crate::error::{Kind, Result};
use crate::journal::{ChunkRecord, Journal, StagedFile, Undo};
use crate::plan::catchup::{Need, Rounds};
use crate::plan::{Nulled, Plan, amounts::counted};
use crate::run::header::header_of;
use crate::run::lease::{checkpoint, lease_of, store_time};
use crate::run::planning::Planned;
use crate::run::probe::not_allowed;
use crate::run::staged::{describe_locked, expect_writable};
use crate::run::supplying::begin_supply;
use crate::run::{
    context::Context, hints::kept, prebuilt::Prebuilt, preflight::quarantine::Quarantined,
    report::seconds,
};
use crate::schema::blob;
use crate::settings::Verify;
use crate::table::{open::data_files_of, source::file_count, tag};
use crate::transform::pool::Pool;
use crate::verify::{published::Intent, there::staged_files};
use crate::{
    budget::Budget, limits::MemoryPlan, phase::Phase, process::Running, progress::Event,
    retry::retrying, storage::throttle::Throttle, supply::Supply,
};

/// Data files of a table that is listed in less than a second: more are more than ten pages.
const LISTED_SLOWLY: u64 = 10_000;

/// A migration that is under way: what a run carries from phase to phase.
pub(crate) struct Session {
    /// The live table at the version that is staged.
    pub source: Arc<Dataset>,
    pub plan: Plan,
    pub journal: Journal,
    pub pool: Pool,
    pub budget: Budget,
    pub throttle: Arc<Throttle>,
    /// When the command began.
    pub began: Instant,
    /// When everything was staged for the first time.
    pub staged_first: Option<Instant>,
    pub rounds: Rounds,
    pub touched: u32,
    /// Seconds from the start to the swap.
    pub swapped_after: Option<f64>,
    pub seconds: Vec<(Phase, f64)>,
    /// Indices over what is staged, built before the swap.
    pub prebuilt: Prebuilt,
    /// What gives values from elsewhere.
    pub supply: Option<Arc<Supply>>,
    /// Connects to the database, for the look after the swap.
    pub connecting: JoinSet<Result<lancedb::Connection>>,
    /// Moves the pin to the source.
    pub pinning: JoinSet<Result<()>>,
    /// When all staged files were last listed.
    pub listed: Option<Instant>,
    /// What this run copied to the quarantine.
    pub quarantined: Option<Quarantined>,
    _running: Running,
}

impl Session {
    /// Begins to carry out what is `planned`: takes the lock, and pins the source.
    ///
    /// # Errors
    /// `Locked`, when a migration is staged; `Refused`, when the table's folder cannot be written to.
    ///
    /// # Crash
    /// A staging table without a record, and perhaps a tag: `abort` removes both.
    pub(crate) async fn begin(
        ctx: &Context,
        planned: Planned,
        undo: Option<Undo>,
        began: Instant,
    ) -> Result<Box<Self>> {
        expect_writable(ctx)?;
        let running = Running::start(&ctx.run);
        let journal = Box::pin(create_journal(ctx, &planned, undo)).await?;
        let Planned { plan, live, supply, .. } = planned;
        let mut session = Self::of(ctx, live, plan, journal, (began, running))?;
        let supplied = begin_supply(&session.journal, &session.plan, supply).await;
        session.supply = supplied.map_err(|error| kept(ctx, error))?;
        Ok(session)
    }

    /// The session of a run that goes on from `journal`.
    ///
    /// # Errors
    /// `Failed`, when the machine gives no threads.
    pub(crate) fn of(
        ctx: &Context,
        source: Arc<Dataset>,
        plan: Plan,
        journal: Journal,
        (began, running): (Instant, Running),
    ) -> Result<Box<Self>> {
        let settings = &ctx.settings;
        let memory = MemoryPlan::of(settings).for_store(ctx.location.directory().is_none());
        ctx.progress.event(Event::Migration(journal.header().id.clone()));
        Ok(Box::new(Self {
            source,
            plan,
            journal,
            pool: Pool::of(settings.workers)?,
            budget: Budget::of(memory.batches),
            throttle: Arc::new(Throttle::of(settings.max_rate)),
            began,
            staged_first: None,
            rounds: Rounds::default(),
            touched: 0,
            swapped_after: None,
            seconds: vec![(Phase::Plan, seconds(began.elapsed()))],
            prebuilt: Prebuilt::default(),
            supply: None,
            connecting: JoinSet::new(),
            pinning: JoinSet::new(),
            listed: None,
            quarantined: None,
            _running: running,
        }))
    }

    /// The values that became null in what is staged, by column and problem. Rows that were deleted after
    /// they were staged may be among them: then it is said that there are no more than so many.
    pub(crate) fn values_nulled(&self) -> Vec<Nulled> {
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

    /// What the swap may publish.
    pub(crate) fn intent(&self) -> Intent<'_> {
        Intent { live: &self.source, plan: &self.plan, journal: &self.journal }
    }

    /// Rows of the table once it is swapped in.
    pub(crate) fn rows_swapped(&self) -> u64 {
        let left_out: u64 = self.journal.records().map(|record| record.left_out).sum();
        self.plan.rows.saturating_sub(left_out)
    }

    /// Adds what has passed since `began` to the time that `phase` took.
    pub(crate) fn took(&mut self, phase: Phase, began: Instant) {
        let more = seconds(began.elapsed());
        match self.seconds.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, sum)) => *sum = ((*sum + more) * 1_000.0).round() / 1_000.0,
            None => self.seconds.push((phase, more)),
        }
    }

    /// Moves the journal to the plan, and says what is kept.
    pub(crate) fn keep_staged(&mut self, ctx: &Context) {
        let (plan, journal) = (&self.plan, &mut self.journal);
        journal.expect_schema(&plan.target.schema);
        journal.move_to(self.source.version_id(), &plan.chunks);
        let now = store_time(ctx, journal);
        let (mut kept, mut changed, mut staged) = (0, 0, 0);
        for chunk in &plan.chunks {
            match journal.need(chunk, now) {
                Need::Nothing => kept += 1,
                Need::Verify | Need::Delete | Need::Renew => changed += 1,
                Need::Stage => staged += 1,
            }
        }
        let all = counted(plan.chunks.len() as u64, "chunk");
        let rows = counted(journal.records().map(ChunkRecord::rows_left).sum(), "row");
        let changed = match changed {
            0 => String::new(),
            count => format!(", {count} to bring up to date"),
        };
        ctx.say(format!("kept {kept} of {all} ({rows}){changed}, {staged} to stage"));
    }

    /// Looks at the files of the chunks that are done: forgets chunks whose files are gone, has those
    /// verified again whose files were touched, and those that were verified less than is asked now.
    ///
    /// # Errors
    /// `Failed`, when they cannot be listed.
    pub(crate) async fn inspect(&mut self, ctx: &Context) -> Result<()> {
        let began = Instant::now();
        let there = staged_files(&self.source, &self.journal).await?;
        self.listed = self.lists_slowly(ctx).then_some(began);
        let (mut less, mut distrusted, mut gone) = (0, Vec::new(), Vec::new());
        for record in self.journal.records() {
            let chunk = record.chunk;
            let found = |file: &StagedFile| there.get(&file.name);
            if record.files.iter().any(|file| found(file).is_none()) {
                ctx.say(format!("the files of chunk {chunk} are gone; it is staged again"));
                gone.push(chunk);
            } else if record.files.iter().any(|file| found(file) != Some(file)) {
                ctx.say(touched_text(chunk));
                distrusted.push(chunk);
            } else if record.is_verified_less_than(ctx.settings.verify) {
                less += 1;
                distrusted.push(chunk);
            }
        }
        if less > 0 {
            let (was, now) = match ctx.settings.verify {
                Verify::Read => ("not read back in full", "now it is"),
                Verify::Full | Verify::Quick => ("verified quickly", "now in full"),
            };
            let were = if less == 1 { "was" } else { "were" };
            ctx.say(format!("{} {were} {was}; {now}", counted(less, "chunk")));
        }
        for chunk in gone {
            self.journal.forget(chunk);
        }
        for chunk in distrusted {
            self.journal.distrust(chunk);
        }
        Ok(())
    }

    /// Whether to list the table's data files takes seconds: in a store, page by page.
    pub(crate) fn lists_slowly(&self, ctx: &Context) -> bool {
        ctx.location.directory().is_none() && file_count(&self.source) > LISTED_SLOWLY
    }

    /// Removes what earlier runs of this migration left behind, what is staged excepted.
    ///
    /// # Errors
    /// `Locked`, when another run took over; `Failed`, when something cannot be removed.
    pub(crate) async fn remove_orphans(&mut self) -> Result<()> {
        let files = self.journal.records().flat_map(|record| &record.files);
        let keep: HashSet<String> = files.map(|file| file.name.clone()).collect();
        self.journal.remove_orphans(&self.source, &keep).await.map(drop)
    }

    /// Removes staged files of these names.
    ///
    /// # Errors
    /// `Failed`, when one is there and cannot be removed.
    pub(crate) async fn remove_files(&self, names: Vec<String>) -> Result<()> {
        let files = data_files_of(&self.source).await?;
        let places = names.into_iter().map(|name| self.source.data_dir().join(name));
        let has_blobs = blob::has_any(&self.plan.written_schema());
        files.remove_whole(places.collect(), has_blobs).await
    }

    /// Removes the files that this run wrote and could not record.
    ///
    /// # Errors
    /// `Failed`, when one is there and cannot be removed.
    pub(crate) async fn remove_fresh(&mut self) -> Result<()> {
        let fresh = self.journal.take_fresh();
        self.remove_files(fresh).await
    }

    /// Makes what is done durable, and removes the files that nothing names since.
    ///
    /// # Errors
    /// Those of [`checkpoint`]; `Failed`, when a file cannot be removed.
    pub(crate) async fn save(&mut self, ctx: &Context, phase: Phase, released: bool) -> Result<()> {
        checkpoint(ctx, &mut self.journal, phase, released).await?;
        let doomed = self.journal.take_doomed();
        self.remove_files(doomed).await
    }
}

/// Says that the files of a chunk are not as they were.
pub(crate) fn touched_text(chunk: ChunkId) -> String {
    format!("files of chunk {chunk} were touched; it is verified again")
}

/// Creates the journal of what is `planned`, which is the lock, and pins the source.
async fn create_journal(ctx: &Context, planned: &Planned, undo: Option<Undo>) -> Result<Journal> {
    let Planned { plan, live, .. } = planned;
    let opener = ctx.opener();
    let id = Uuid::new_v4().simple().to_string().chars().take(12).collect::<String>();
    let header = header_of(ctx, planned, id.clone(), undo);
    let schema = &plan.target.schema;
    let lease = lease_of(ctx, Phase::Stage, false);
    let created = Journal::create(&opener, live, header, lease, schema, plan.storage_version);
    let mut journal = match created.await {
        Err(error) if error.kind() == Kind::Locked => {
            return Err(describe_locked(ctx, &opener, error).await);
        }
        created => created.map_err(|error| not_allowed(ctx, "write", error))?,
    };
    let pin = || tag::pin(live, &id, plan.version);
    let (read, beats, pinned) = tokio::join!(
        journal.read_back(&opener),
        journal.begin_beats(&ctx.clock, &ctx.progress, &ctx.tally),
        retrying(&ctx.progress, &ctx.cancel, "pinning the source", pin),
    );
    read?;
    beats.map_err(|error| kept(ctx, error))?;
    pinned.map_err(|error| kept(ctx, error))?;
    let (staging, tag) = (ctx.location.staging_table(), tag::tag_of(&id));
    ctx.say(format!("pinned version {} as tag `{tag}`", plan.version));
    ctx.say(format!("staging in `{staging}`, migration {id}"));
    Ok(journal)
}
