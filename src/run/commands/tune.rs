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
use crate::plan::tuning::{Knobs, Trial, Tuned, batch_sizes, best, median, queues, workers};
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

/// Bytes of a trial, about: long enough that starting it costs nothing beside it.
const SAMPLE_BYTES: u64 = 256 << 20;

/// Chunks of a trial.
const CHUNKS: u64 = 4;

/// Rounds after which more tell nothing new.
const ROUNDS_MAX: usize = 7;

/// A table's first rows, and where they are written to.
struct Bench<'a> {
    ctx: &'a Context,
    plan: Plan,
    source: Source,
    store: Arc<ObjectStore>,
    scratch: Scratch,
    chunks: Vec<Chunk>,
}

pub(crate) async fn run(ctx: &Context, time: Duration) -> Result<Tuned> {
    ctx.settings.validate()?;
    let request = Request { strategy: Some(Strategy::Rewrite), ..ctx.request.clone() };
    let asked = Context { request, ..ctx.clone() };
    let bench = bench_of(&asked).await?;
    let tuned = bench.run(time).await;
    let removed = bench.scratch.remove().await;
    let tuned = tuned?;
    removed?;
    Ok(tuned)
}

async fn bench_of(ctx: &Context) -> Result<Bench<'_>> {
    let Planned { plan, live } = plan_head(ctx, &ctx.opener()).await?;
    let store = store_of(&live).await?;
    let chunks = sample(&source_fragments(&live).await?, plan.row_bytes());
    if chunks.is_empty() {
        return Err(Error::failed(format!("`{}` has no rows to try on", ctx.table())));
    }
    let directory = directory_of(&live.branch_location().path);
    let now = ctx.clock.now();
    let scratch = Scratch::begin_in(&store, &directory, &ctx.location, now).await?;
    let source = Source::of(live);
    Ok(Bench { ctx, plan, source, store, scratch, chunks })
}

/// Chunks of about the same size from the first rows of `fragments`, which may come more than once.
fn sample(fragments: &[SourceFragment], row_bytes: u64) -> Vec<Chunk> {
    let rows_max = (SAMPLE_BYTES / CHUNKS / row_bytes.max(1)).clamp(1, ROWS_PER_FILE);
    let filled = fragments.iter().filter(|fragment| fragment.rows > 0);
    let chosen = filled.cycle().take(usize::try_from(CHUNKS).unwrap_or(1));
    let parts = chosen.map(|fragment| {
        let rows = fragment.rows.min(rows_max);
        SourceFragment { rows, ..fragment.clone() }
    });
    (0..).zip(parts).map(|(id, part)| Chunk { id: ChunkId(id), fragments: vec![part] }).collect()
}

impl Bench<'_> {
    async fn run(&self, time: Duration) -> Result<Tuned> {
        let settings = &self.ctx.settings;
        let mut knobs = Knobs {
            batch_bytes: settings.batch_size.bytes(self.plan.width()),
            workers: settings.workers,
            queue: settings.queue,
        };
        let processors = Settings::default().workers;
        let (mut trials, mut chosen) = (Vec::new(), None);
        // Batch sizes matter most.
        for (what, share) in [("batch size", 2), ("workers", 4), ("queue", 4)] {
            let some = match what {
                "batch size" => batch_sizes(knobs, MemoryPlan::of(settings).batches),
                "workers" => workers(knobs, processors),
                _ => queues(knobs),
            };
            self.ctx.say(format!("trying {} values of {what}", some.len()));
            let tried = self.try_in_turn(&some, time / share).await?;
            if let Some(best) = best(&tried) {
                knobs = best.knobs;
                chosen = Some(best.clone());
            }
            trials.extend(tried);
        }
        let best = chosen.ok_or_else(|| Error::failed("nothing was tried"))?;
        let (rows, bytes) = self.size();
        Ok(Tuned {
            table: self.ctx.table().to_owned(),
            row_bytes: self.plan.row_bytes(),
            sample_rows: rows,
            sample_bytes: bytes,
            trials,
            flags: best.knobs.flags(),
            best,
        })
    }

    /// Tries `some` in turn, round after round, for about `time`, at least once each.
    async fn try_in_turn(&self, some: &[Knobs], time: Duration) -> Result<Vec<Trial>> {
        let began = Instant::now();
        let (rows, bytes) = self.size();
        let mut seen = vec![(Vec::new(), None); some.len()];
        let total = Amount { rows: rows * some.len() as u64, ..Amount::default() };
        for round in 0..ROUNDS_MAX {
            // A round that would not end in time is not begun.
            let each = began.elapsed() / u32::try_from(round.max(1)).unwrap_or(1);
            if round > 0 && began.elapsed() + each > time {
                break;
            }
            self.ctx.begin_phase(Phase::Stage, total);
            for (knobs, (seconds, peak)) in some.iter().zip(&mut seen) {
                let (took, most) = self.once(*knobs).await?;
                seconds.push(took);
                *peak = (*peak).max(most);
            }
        }
        let trials = some.iter().zip(seen).map(|(knobs, (seconds, peak_bytes))| {
            let middle = median(&seconds);
            #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
            let rate = bytes as f64 / middle.max(1e-9);
            let (knobs, rounds) = (*knobs, seconds.len());
            Trial { knobs, rounds, seconds: middle, bytes_per_second: rate, peak_bytes }
        });
        Ok(trials.collect())
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
