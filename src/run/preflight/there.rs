//! Compares columns that are there already with what would have been made in their place: a change that is
//! skipped must not pass for one that was done.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance::Dataset;

use crate::chunk::{Chunk, ChunkId, SourceFragment};
use crate::error::{Error, Result};
use crate::limits::{COMPARE_ROWS, MemoryPlan, TRANSFORMS_AT_ONCE};
use crate::plan::{Plan, SkippedValues, amounts::count_text};
use crate::progress::{Amount, Event, SharedProgress};
use crate::run::preflight::trial::tried_at_once;
use crate::schema::target::existing::{ExistingColumn, RequestedValues};
use crate::table::source::{ScanLimits, Source, What};
use crate::transform::{Transform, batch_bytes, compare::Tally, pool::Pool};
use crate::{phase::Phase, run::context::Context, span, table::facts::source_fragments};

/// What compares the rows of one fragment.
#[derive(Clone)]
struct Comparison {
    source: Source,
    what: What,
    transform: Arc<Transform>,
    /// Where each column lies in its top-level column.
    inside: Arc<Vec<Vec<usize>>>,
    pool: Pool,
    read_ahead: u64,
    progress: SharedProgress,
}

/// Compares the columns that are there already with what `plan` would have given them, in every row of `live`.
///
/// # Errors
/// `Refused`, when they hold what cannot be taken for it.
pub(crate) async fn compare_there(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
) -> Result<Vec<SkippedValues>> {
    if plan.target.existing.is_empty() {
        return Ok(Vec::new());
    }
    let comparing = span::plan();
    let tallies = tally(ctx, live, plan).await?;
    drop(comparing);
    let mut skipped = Vec::new();
    for (there, tally) in plan.target.existing.iter().zip(tallies) {
        let values = accepted(there, &tally)?;
        if let Some(text) = values.text() {
            ctx.say(format!("{text}; it is left alone"));
        }
        skipped.push(values);
    }
    Ok(skipped)
}

async fn tally(ctx: &Context, live: &Arc<Dataset>, plan: &Plan) -> Result<Vec<Tally>> {
    let pairs = plan.target.side_by_side();
    let places: Vec<usize> = (0..pairs.columns.len()).collect();
    let transform = Transform::of(&pairs, &places, plan.filter.clone());
    let comparison = Comparison {
        source: Source::of(Arc::clone(live)),
        what: What { schema: Arc::new(transform.inputs()), aligned: false },
        transform: Arc::new(transform),
        inside: Arc::new(plan.target.existing.iter().map(|one| one.inside.clone()).collect()),
        pool: Pool::of(ctx.settings.workers)?,
        read_ahead: MemoryPlan::of(&ctx.settings).read_ahead,
        progress: Arc::clone(&ctx.progress),
    };
    let fragments = source_fragments(live).await?;
    let rows = fragments.iter().map(|fragment| fragment.rows).sum();
    let at_once = tried_at_once(ctx, &fragments);
    ctx.begin_phase(Phase::Plan, Amount { rows, ..Amount::default() });
    let compared = fragments.into_iter().map(|fragment| {
        let comparison = comparison.clone();
        async move { comparison.fragment(fragment).await }.boxed()
    });
    let all = futures::stream::iter(compared.collect::<Vec<_>>());
    let all = all
        .buffered(at_once)
        .try_fold(comparison.none(), |sum, next| futures::future::ready(Ok(added(sum, next))));
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => {
            Err(Error::interrupted("interrupted; nothing was written"))
        }
        all = all => all,
    }
}

impl Comparison {
    fn none(&self) -> Vec<Tally> {
        vec![Tally::default(); self.inside.len()]
    }

    async fn fragment(&self, fragment: SourceFragment) -> Result<Vec<Tally>> {
        let chunk = Chunk { id: ChunkId(0), fragments: vec![fragment] };
        let limits = ScanLimits { batch_rows: COMPARE_ROWS, io_buffer_bytes: self.read_ahead };
        let batches = self.source.scan(&chunk, &self.what, limits).await?;
        let small = chunk.is_small();
        let mut compared =
            batches.map_ok(|batch| self.batch(batch, small)).try_buffered(TRANSFORMS_AT_ONCE);
        let mut sum = self.none();
        while let Some((tallies, amount)) = compared.try_next().await? {
            sum = added(sum, tallies);
            self.progress.event(Event::Advanced(amount));
        }
        Ok(sum)
    }

    async fn batch(&self, batch: RecordBatch, here: bool) -> Result<(Vec<Tally>, Amount)> {
        let (rows, bytes) = (batch.num_rows() as u64, batch_bytes(&batch));
        let (transform, inside) = (Arc::clone(&self.transform), Arc::clone(&self.inside));
        let compare = move || {
            let made = transform.apply(&batch)?;
            let mut columns = made.columns().iter();
            let tallies = inside.iter().map_while(|inside| {
                let (is, made) = columns.next().zip(columns.next())?;
                Some(Tally::of(is, inside, made))
            });
            tallies.collect::<Result<Vec<_>>>()
        };
        let tallies = self.pool.run_or_here(here, compare).await?;
        Ok((tallies, Amount { rows, bytes, chunks: 0 }))
    }
}

fn added(mut sum: Vec<Tally>, next: Vec<Tally>) -> Vec<Tally> {
    for (sum, next) in sum.iter_mut().zip(next) {
        sum.add(next);
    }
    sum
}

/// What `there` holds, if it can be taken for what was asked: what was computed has to be equal in every
/// row; a default in some row, since others may have written other values after it was added.
fn accepted(there: &ExistingColumn, tally: &Tally) -> Result<SkippedValues> {
    let path = &there.path;
    let rows = count_text(tally.rows);
    let (is, made) = tally.example.clone().unwrap_or_default();
    let others = match &there.requested {
        // Any time is as good as the one of planning.
        RequestedValues::Now => 0,
        RequestedValues::Default(text) if tally.same() == 0 && tally.rows > 0 => {
            let what = if tally.others > 0 {
                format!("they hold others, such as {is}")
            } else {
                format!("they are null, and --fill '{path}={text}' changes that")
            };
            let message = format!(
                "column `{path}` exists already, and none of its {rows} rows holds {made}: {what}"
            );
            return Err(Error::refused(message).with_advice(&advice(there, "--add")));
        }
        RequestedValues::Sql(sql) if tally.same() < tally.rows => {
            let count = count_text(tally.nulls + tally.others);
            let message = format!(
                "column `{path}` exists already, and {count} of its {rows} rows hold other values than \
                 `{sql}` gives, such as {is} where it gives {made}"
            );
            return Err(Error::refused(message).with_advice(&advice(there, "--compute")));
        }
        RequestedValues::Default(_) | RequestedValues::Sql(_) => tally.others,
    };
    let fill = match &there.requested {
        RequestedValues::Default(text) => Some(text.clone()),
        RequestedValues::Now => Some("now".to_owned()),
        RequestedValues::Sql(_) => None,
    };
    let (column, rows, nulls) = (path.clone(), tally.rows, tally.nulls);
    Ok(SkippedValues { column, rows, others, nulls, fill })
}

fn advice(there: &ExistingColumn, flag: &str) -> String {
    let (path, keep) = (&there.path, format!("leave {flag} out to keep what is there"));
    if !there.inside.is_empty() {
        return keep;
    }
    format!("{keep}; --set '{path}=SQL' changes the values of a column that exists")
}
