//! `tune`: tries settings on the first rows of a table, and says which to use. What is written goes into a table
//! of each run's own, which is removed again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_io::object_store::ObjectStore;

use crate::budget::Budget;
use crate::chunk::{Chunk, ChunkId, SourceFragment};
use crate::error::{Error, Result};
use crate::limits::MemoryPlan;
use crate::phase::Phase;
use crate::plan::columns::WrittenColumns;
use crate::plan::tuning::{
    Knobs, Trial, Tuned, batch_sizes, better, goes_on, order, queues, sample_bytes, trial,
    with_base, workers,
};
use crate::plan::{Plan, Request, Strategy};
use crate::process::{peak_bytes, reset_peak};
use crate::progress::Amount;
use crate::run::commands::scratch::Scratch;
use crate::run::context::Context;
use crate::run::planning::{Planned, plan_head};
use crate::settings::{ROWS_PER_FILE, Settings};
use crate::stage::{FileSpec, Stager, StagerParts};
use crate::storage::names::directory_of;
use crate::table::facts::source_fragments;
use crate::table::open::store_of;
use crate::table::source::Source;
use crate::transform::pool::Pool;
use crate::verify::Verifier;

/// Bytes that are tried first, to see how long more of them take.
const FIRST_BYTES: u64 = 32 << 20;

/// Chunks of a trial.
const CHUNKS: u64 = 4;

/// A table's first rows, and where they are written to.
struct Bench<'a> {
    ctx: &'a Context,
    plan: Plan,
    source: Source,
    store: Arc<ObjectStore>,
    scratch: Scratch,
    fragments: Vec<SourceFragment>,
    chunks: Vec<Chunk>,
}

pub(crate) async fn run(ctx: &Context, time: Duration) -> Result<Tuned> {
    ctx.settings.validate()?;
    let request = Request { strategy: Some(Strategy::Rewrite), ..ctx.request.clone() };
    let asked = Context { request, ..ctx.clone() };
    let mut bench = bench_of(&asked).await?;
    let tuned = bench.run(time).await;
    let removed = bench.scratch.remove().await;
    let tuned = tuned?;
    removed?;
    Ok(tuned)
}

async fn bench_of(ctx: &Context) -> Result<Bench<'_>> {
    let Planned { plan, live, .. } = plan_head(ctx, &ctx.opener()).await?;
    if !plan.target.elsewhere.is_empty() {
        let message =
            "values from elsewhere are not measured: a producer or a join has its own speed";
        return Err(Error::usage(message).with_advice("tune without them"));
    }
    let store = store_of(&live).await?;
    let fragments = source_fragments(&live).await?;
    let chunks = sample(&fragments, FIRST_BYTES, plan.row_bytes());
    if chunks.is_empty() {
        return Err(Error::failed(format!("`{}` has no rows to try on", ctx.table())));
    }
    let directory = directory_of(&live.branch_location().path);
    let now = ctx.clock.now();
    let scratch = Scratch::begin_in(&store, &directory, &ctx.location, now).await?;
    let source = Source::of(live);
    Ok(Bench { ctx, plan, source, store, scratch, fragments, chunks })
}

/// Chunks of about the same size, `bytes` together, from the first rows of `fragments`, which may come more than once.
fn sample(fragments: &[SourceFragment], bytes: u64, row_bytes: u64) -> Vec<Chunk> {
    let rows_max = (bytes / CHUNKS / row_bytes.max(1)).clamp(1, ROWS_PER_FILE);
    let filled = fragments.iter().filter(|fragment| fragment.rows > 0);
    let chosen = filled.cycle().take(usize::try_from(CHUNKS).unwrap_or(1));
    let parts = chosen.map(|fragment| {
        let rows = fragment.rows.min(rows_max);
        SourceFragment { rows, ..fragment.clone() }
    });
    (0..).zip(parts).map(|(id, part)| Chunk { id: ChunkId(id), fragments: vec![part] }).collect()
}

impl Bench<'_> {
    async fn run(&mut self, time: Duration) -> Result<Tuned> {
        let began = Instant::now();
        let settings = &self.ctx.settings;
        let asked = Knobs {
            batch_bytes: settings.batch_size.bytes(self.plan.width()),
            workers: settings.workers,
            queue: settings.queue,
        };
        // The first one fills caches.
        self.once(asked).await?;
        let (seconds, _) = self.once(asked).await?;
        let bytes = sample_bytes(self.size().1, seconds, time);
        self.chunks = sample(&self.fragments, bytes, self.plan.row_bytes());
        let (mut trials, mut best, mut knobs) = (Vec::new(), None, asked);
        // Batch sizes matter most.
        for (what, until) in [("batch size", time / 2), ("workers", time / 4 * 3), ("queue", time)]
        {
            let some = match what {
                "batch size" => batch_sizes(knobs, MemoryPlan::of(settings).batches),
                "workers" => workers(knobs, Settings::default().workers),
                _ => queues(knobs),
            };
            let some = with_base(some, knobs);
            self.ctx.say(format!("trying {} values of {what}", some.len()));
            let tried = self.try_in_turn(&some, began + until).await?;
            let found = better(&tried, knobs).or(tried.iter().find(|one| one.knobs == knobs));
            best = found.cloned();
            knobs = best.as_ref().map_or(knobs, |best| best.knobs);
            trials.extend(tried);
        }
        let best = best.ok_or_else(|| Error::failed("nothing was tried"))?;
        let (rows, bytes) = self.size();
        Ok(Tuned {
            table: self.ctx.table().to_owned(),
            row_bytes: self.plan.row_bytes(),
            sample_rows: rows,
            sample_bytes: bytes,
            trials,
            flags: best.knobs.flags(),
            differs: best.knobs != asked,
            best,
        })
    }

    /// Tries `some` in turn, round after round until the time `end`, at least once each.
    async fn try_in_turn(&self, some: &[Knobs], end: Instant) -> Result<Vec<Trial>> {
        let began = Instant::now();
        let (rows, bytes) = self.size();
        let mut seen = vec![(Vec::new(), None); some.len()];
        let total = Amount { rows: rows * some.len() as u64, ..Amount::default() };
        for round in 0.. {
            if !goes_on(round, began.elapsed(), end.saturating_duration_since(Instant::now())) {
                break;
            }
            self.ctx.begin_phase(Phase::Stage, total);
            for place in order(round, some.len()) {
                let (Some(knobs), Some(seen)) = (some.get(place), seen.get_mut(place)) else {
                    break;
                };
                let (took, most) = self.once(*knobs).await?;
                seen.0.push(took);
                seen.1 = seen.1.max(most);
            }
        }
        let trials = some.iter().zip(seen);
        Ok(trials.map(|(knobs, (seconds, peak))| trial(*knobs, seconds, bytes, peak)).collect())
    }

    /// Stages and verifies the sample once: seconds, and the process's peak memory meanwhile.
    async fn once(&self, knobs: Knobs) -> Result<(f64, Option<u64>)> {
        let settings = Settings {
            batch_size: knobs.batch_size(),
            workers: knobs.workers,
            queue: knobs.queue,
            ..self.ctx.settings.clone()
        };
        let files = FileSpec {
            id: self.ctx.run.chars().take(12).collect(),
            store: Arc::clone(&self.store),
            directory: self.scratch.data(),
            rows_max: ROWS_PER_FILE,
            ..FileSpec::of(&self.plan, &settings)
        };
        let parts = StagerParts {
            settings: &settings,
            // What is copied page by page depends on none of the settings.
            columns: WrittenColumns::all_encoded(&self.plan),
            source: self.source.clone(),
            files,
            pool: Pool::of(knobs.workers)?,
            budget: Budget::of(MemoryPlan::of(&settings).batches),
            supply: None,
            progress: Arc::clone(&self.ctx.progress),
        };
        let stager = Stager::of(&self.plan, parts);
        let verifier = Verifier::of(&stager);
        let told = reset_peak();
        let began = Instant::now();
        let tasks = self.chunks.iter().cloned().map(|chunk| {
            let (stager, verifier, how) = (stager.clone(), verifier.clone(), settings.verify);
            let task =
                async move { verifier.verify(stager.stage(&chunk).await?, how).await.map(drop) };
            // On a task of its own, as a migration's chunks are, which begins when there is a worker free.
            let died = |_| Err(Error::failed("a trial died"));
            async move { tokio::spawn(task).await.unwrap_or_else(died) }.boxed()
        });
        let tasks: Vec<_> = tasks.collect();
        let mut all = futures::stream::iter(tasks).buffer_unordered(knobs.workers);
        tokio::select! {
            biased;
            () = self.ctx.cancel.cancelled() => {
                return Err(Error::interrupted("interrupted; the table is as it was"));
            }
            done = async { all.try_next().await } => done?,
        };
        while all.try_next().await?.is_some() {}
        let seconds = began.elapsed().as_secs_f64();
        let peak = if told { peak_bytes() } else { None };
        self.scratch.clear().await?;
        Ok((seconds, peak))
    }

    /// Rows of a trial, and their bytes.
    fn size(&self) -> (u64, u64) {
        let rows: u64 = self.chunks.iter().map(Chunk::rows).sum();
        (rows, rows.saturating_mul(self.plan.row_bytes()))
    }
}
