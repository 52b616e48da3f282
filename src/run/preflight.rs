//! Tries the changes on the data before anything is written: what would not go through is counted, and
//! shown with a few rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use futures::TryStreamExt;
use lance::Dataset;
use roaring::RoaringTreemap;
use tokio::task::JoinSet;

use crate::chunk::{Chunk, ChunkId, SMALL_BYTES, SourceFragment};
use crate::error::{Context, Error, Result};
use crate::phase::Phase;
use crate::plan::{Example, Finding, Plan};
use crate::progress::{Amount, Event, SharedProgress, note};
use crate::run::Migration;
use crate::schema::cast::Problem;
use crate::settings::{OnBadValue, Preflight};
use crate::source::{ScanLimits, Source, What};
use crate::stage::hidden_of;
use crate::table::source_fragments;
use crate::transform::evaluate::BadValues;
use crate::transform::pool::Pool;
use crate::transform::{Transform, batch_bytes};
use crate::{deletion, span};

/// Rows of a batch, at most.
const BATCH_ROWS: u32 = 8192;
const IO_BUFFER_BYTES: u64 = 64 << 20;
/// Batches of a fragment that are tried at once.
const TRIED_AT_ONCE: usize = 2;
/// Small fragments that are tried at once for each worker: most of their time they wait.
const SMALL_A_WORKER: usize = 4;
/// Rows of each fragment that a sample looks at.
const SAMPLE_ROWS: u64 = 1_000;
/// Rows that are shown of each problem.
const EXAMPLES: usize = 5;

/// What is wrong with the values of a table.
#[derive(Debug, Default)]
pub(super) struct Tried {
    findings: BTreeMap<(String, Problem), Finding>,
    /// The addresses of the rows that have a bad value, if they are asked for.
    rows: Option<RoaringTreemap>,
}

/// What tries the rows of one fragment.
#[derive(Clone)]
pub(super) struct Trial {
    source: Source,
    dataset: Arc<Dataset>,
    transform: Arc<Transform>,
    what: What,
    pool: Pool,
    batch_rows: u32,
    /// Rows of each fragment that are tried.
    pub(super) rows_max: u64,
}

impl Migration {
    /// Tries what `plan` changes on the rows of `live`, and puts what it finds into the plan.
    ///
    /// # Errors
    /// `Refused`, when a value does not go through that has to.
    pub(super) async fn preflight(&self, live: &Arc<Dataset>, plan: &mut Plan) -> Result<()> {
        self.compare_there(live, plan).await?;
        let rows_max = match plan.request.preflight {
            Preflight::Full => u64::MAX,
            Preflight::Sample => SAMPLE_ROWS,
        };
        let trying = span::plan();
        let tried = self.try_rows(live, plan, rows_max).await?;
        drop(trying);
        plan.findings = tried.findings.into_values().collect();
        refuse(plan)?;
        self.expect_quarantine(plan).await?;
        for finding in &plan.findings {
            note(&self.progress, format!("{}; they become null", finding.text()));
        }
        Ok(())
    }

    /// Tries the changes of `plan` on the first `rows_max` rows of every fragment of `live`.
    async fn try_rows(&self, live: &Arc<Dataset>, plan: &Plan, rows_max: u64) -> Result<Tried> {
        let Some(trial) = self.trial(live, plan)? else {
            return Ok(Tried::default());
        };
        let trial = Trial { rows_max, ..trial };
        let fragments = source_fragments(live).await?;
        let rows = fragments.iter().map(|fragment| fragment.physical_rows.min(rows_max)).sum();
        self.begin_phase(Phase::Plan, Amount { rows, ..Amount::default() });
        self.try_fragments(&trial, fragments).await
    }

    /// What tries the changes of `plan` on all rows of a fragment of `live`, if anything can be wrong.
    pub(super) fn trial(&self, live: &Arc<Dataset>, plan: &Plan) -> Result<Option<Trial>> {
        let columns = plan.target.columns.iter();
        let places: Vec<usize> = columns
            .enumerate()
            .filter(|(_, column)| column.is_checked())
            .map(|(at, _)| at)
            .collect();
        if places.is_empty() || plan.is_nothing() {
            return Ok(None);
        }
        let transform = Transform::of(&plan.target, &places, plan.filter.clone());
        let what = What { schema: Arc::new(transform.inputs()), aligned: true };
        Ok(Some(Trial {
            source: Source::of(Arc::clone(live)),
            dataset: Arc::clone(live),
            transform: Arc::new(transform),
            what,
            pool: Pool::of(self.settings.workers)?,
            batch_rows: self.settings.batch_size.rows(plan.width()).min(BATCH_ROWS),
            rows_max: u64::MAX,
        }))
    }

    /// Fragments that are tried side by side.
    pub(super) fn tried_at_once(&self, fragments: &[SourceFragment]) -> usize {
        let small = fragments.iter().all(|fragment| fragment.bytes <= SMALL_BYTES);
        self.settings.workers * if small { SMALL_A_WORKER } else { 1 }
    }

    /// Tries `fragments` side by side, each on a task of its own.
    async fn try_fragments(&self, trial: &Trial, fragments: Vec<SourceFragment>) -> Result<Tried> {
        let at_once = self.tried_at_once(&fragments);
        let mut waiting = fragments.into_iter().enumerate();
        let mut running = JoinSet::new();
        let mut done: BTreeMap<usize, Tried> = BTreeMap::new();
        loop {
            while running.len() < at_once
                && let Some((place, fragment)) = waiting.next()
            {
                let (trial, progress) = (trial.clone(), Arc::clone(&self.progress));
                running.spawn(async move {
                    let tried = trial.fragment(&fragment, Tried::default(), &progress).await;
                    (place, tried)
                });
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::interrupted("interrupted; nothing was written")),
                next = running.join_next() => match next {
                    None => break,
                    Some(Ok((place, tried))) => drop(done.insert(place, tried?)),
                    Some(Err(error)) => return Err(Error::failed("a trial died; this is a bug in relance").caused_by(error)),
                },
            }
        }
        let mut tried = Tried::default();
        for one in done.into_values() {
            tried.take(one);
        }
        Ok(tried)
    }
}

impl Trial {
    /// The addresses of the rows of `fragment` that have a bad value.
    ///
    /// # Errors
    /// `Failed`, when they cannot be read.
    pub(super) async fn bad_rows(
        &self,
        fragment: &SourceFragment,
        progress: &SharedProgress,
    ) -> Result<RoaringTreemap> {
        let tried = Tried { rows: Some(RoaringTreemap::new()), ..Tried::default() };
        let tried = self.fragment(fragment, tried, progress).await?;
        Ok(tried.rows.unwrap_or_default())
    }

    /// What was `tried`, and what is wrong with the rows of `fragment`.
    async fn fragment(
        &self,
        fragment: &SourceFragment,
        mut tried: Tried,
        progress: &SharedProgress,
    ) -> Result<Tried> {
        let store = self.dataset.object_store(None).await;
        let store = store.doing(|| format!("open the store of {}", self.dataset.uri()))?;
        let root = self.dataset.branch_location().path;
        let origin = &fragment.origin;
        let deleted = deletion::read(&store, &root, origin.id, origin.deletions.as_ref()).await?;
        let part = SourceFragment {
            physical_rows: fragment.physical_rows.min(self.rows_max),
            ..fragment.clone()
        };
        let chunk = Chunk { id: ChunkId(0), fragments: vec![part] };
        let limits = ScanLimits { batch_rows: self.batch_rows, io_buffer_bytes: IO_BUFFER_BYTES };
        let batches = self.source.scan(&chunk, &self.what, limits).await?;
        let (mut next, small) = (0, chunk.is_small());
        let made = batches.map_ok(|batch| {
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            self.batch(batch, hidden_of(&deleted, rows.clone()), rows, small)
        });
        let mut made = made.try_buffered(TRIED_AT_ONCE);
        while let Some((found, first, amount)) = made.try_next().await? {
            for found in &found {
                tried.note(found, (origin.id << 32) + first);
            }
            progress.event(Event::Advanced(amount));
        }
        Ok(tried)
    }

    /// What does not go through of `batch`, the first of its `rows`, and how much was tried.
    async fn batch(
        &self,
        batch: RecordBatch,
        hidden: Option<BooleanArray>,
        rows: Range<u64>,
        here: bool,
    ) -> Result<(Vec<BadValues>, u64, Amount)> {
        let amount = Amount { rows: rows.end - rows.start, bytes: batch_bytes(&batch), chunks: 0 };
        let transform = Arc::clone(&self.transform);
        let tries = move || Ok(transform.run(&batch, hidden)?.bad);
        Ok((self.pool.run_or_here(here, tries).await?, rows.start, amount))
    }
}

impl Tried {
    fn note(&mut self, found: &BadValues, first: u64) {
        let key = (found.path.clone(), found.problem);
        let finding = self.findings.entry(key).or_insert_with(|| Finding {
            column: found.path.clone(),
            problem: found.problem,
            count: 0,
            examples: Vec::new(),
        });
        finding.count += found.rows.len() as u64;
        let room = EXAMPLES.saturating_sub(finding.examples.len());
        let examples = found.rows.iter().zip(&found.examples).take(room);
        finding.examples.extend(
            examples.map(|(row, value)| Example { row: first + *row as u64, value: value.clone() }),
        );
        if let Some(rows) = &mut self.rows {
            rows.extend(found.rows.iter().map(|row| first + *row as u64));
        }
    }

    fn take(&mut self, other: Self) {
        for (key, finding) in other.findings {
            match self.findings.get_mut(&key) {
                None => {
                    self.findings.insert(key, finding);
                }
                Some(own) => {
                    own.count += finding.count;
                    let room = EXAMPLES.saturating_sub(own.examples.len());
                    own.examples.extend(finding.examples.into_iter().take(room));
                }
            }
        }
    }
}

/// Refuses what may not become null.
fn refuse(plan: &Plan) -> Result<()> {
    let fails = plan.request.on_bad_value == OnBadValue::Fail;
    let bad = |finding: &&Finding| fails || finding.problem == Problem::Null;
    let bad: Vec<&Finding> = plan.findings.iter().filter(bad).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let error = Error::refused(format!(
        "values of `{}` do not go through, the first in column `{}`; nothing was written",
        plan.table, first.column
    ))
    .with_lines(bad.iter().map(|finding| finding.text()));
    if bad.iter().all(|finding| finding.problem == Problem::Null) {
        return Err(error.with_advice("--fill 'NAME=LITERAL' before --not-null gives them a value"));
    }
    Err(error.with_advice(
        "--on-bad-value null makes them null, --on-bad-value quarantine copies their rows as well",
    ))
}
