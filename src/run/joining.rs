//! Joins: rows are tried on the other data, and fragments are joined before they are staged.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::BooleanArray;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use lance::Dataset;

use crate::chunk::{Chunk, ChunkId, SourceFragment};
use crate::error::Result;
use crate::limits::{FRAGMENTS_OPENED_AHEAD, LOOK_ROWS, MemoryPlan};
use crate::plan::{JoinTrial, Plan, amounts::counted};
use crate::progress::{Amount, Event, SharedProgress};
use crate::run::{context::Context, session::Session};
use crate::stage::hidden_of;
use crate::supply::{NOT_NEEDED, Row, Supply, row_keys};
use crate::table::facts::source_fragments;
use crate::table::source::{ScanLimits, Source, What};
use crate::{phase::Phase, transform::Transform};

/// Looks how the rows of `live` find their keys.
///
/// # Errors
/// `Refused`, when keys are missing or twice there that may not be.
pub(crate) async fn try_joins(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
    supply: &Supply,
) -> Result<Vec<JoinTrial>> {
    let mut trials = Vec::new();
    for place in supply.joins() {
        let fragments = source_fragments(live).await?;
        let rows = fragments.iter().map(|fragment| fragment.physical_rows).sum();
        ctx.begin_phase(Phase::Plan, Amount { rows, ..Amount::default() });
        let numbered = fragments.into_iter().map(|fragment| (fragment.origin.id, fragment));
        let rows = rows_of(ctx, live, plan, (place, numbered.collect()));
        trials.push(supply.try_join(place, rows).await?);
    }
    Ok(trials)
}

/// Joins the fragments of the plan that are not joined yet, so that they can be staged.
///
/// # Errors
/// `Refused`, when a key is missing that may not be; `Interrupted`, when it was asked to stop; `Locked`, when another run
/// took over; `Failed`, when something cannot be read or written.
pub(crate) async fn fill_joins(ctx: &Context, session: &Session) -> Result<()> {
    let Some(supply) = session.supply.clone() else { return Ok(()) };
    let unstaged = |chunk: &&Chunk| session.journal.record(chunk.id).is_none();
    let chunks: Vec<Chunk> = session.plan.chunks.iter().filter(unstaged).cloned().collect();
    for place in supply.joins() {
        let wanted = supply.not_joined(place, &chunks).await?;
        if wanted.is_empty() {
            continue;
        }
        let began = Instant::now();
        let rows: u64 = wanted.iter().map(|fragment| fragment.rows).sum();
        let total = Amount { rows, ..Amount::default() };
        ctx.begin_phase(
            if session.staged_first.is_some() { Phase::CatchUp } else { Phase::Stage },
            total,
        );
        let numbered = (0..).zip(wanted.iter().cloned()).collect();
        let stream = rows_of(ctx, &session.source, &session.plan, (place, numbered));
        let filled = supply.fill_join(place, &wanted, stream).boxed();
        let lost = session.journal.lost();
        tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ctx.interrupted()),
            error = lost => return Err(error),
            filled = filled => filled?,
        }
        let seconds = began.elapsed().as_secs_f64();
        ctx.say(format!("joined {} in {seconds:.1} s", counted(rows, "row")));
    }
    Ok(())
}

/// The keys of the rows of `fragments` that live, each with its address: the number of its fragment, and its row there.
fn rows_of(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
    (place, fragments): (usize, Vec<(u64, SourceFragment)>),
) -> impl Stream<Item = Result<Vec<Row>>> + Send + 'static {
    let reader = KeyReader {
        source: Source::of(Arc::clone(live)),
        transform: Arc::new(plan.transform_of(&plan.target.needing(place))),
        place,
        read_ahead: MemoryPlan::of(&ctx.settings).read_ahead,
        progress: Arc::clone(&ctx.progress),
    };
    let reads = stream::iter(fragments).map(move |(number, fragment)| {
        let reader = reader.clone();
        async move { reader.fragment(number, fragment).await }.boxed()
    });
    reads.buffered(FRAGMENTS_OPENED_AHEAD).try_flatten()
}

/// Reads the keys of rows.
#[derive(Clone)]
struct KeyReader {
    source: Source,
    transform: Arc<Transform>,
    place: usize,
    read_ahead: u64,
    progress: SharedProgress,
}

impl KeyReader {
    async fn fragment(
        self,
        number: u64,
        fragment: SourceFragment,
    ) -> Result<impl Stream<Item = Result<Vec<Row>>> + Send + 'static> {
        let chunk = Chunk { id: ChunkId(0), fragments: vec![fragment] };
        let deleted = self.source.deleted_rows(&chunk).await?.pop().unwrap_or_default();
        let schema = if self.transform.is_filtered() {
            self.transform.inputs()
        } else {
            self.transform.keys_of(self.place)?
        };
        let schema = Arc::new(schema);
        let what = What { schema, aligned: true };
        let limits = ScanLimits { batch_rows: LOOK_ROWS, io_buffer_bytes: self.read_ahead };
        let batches = self.source.scan(&chunk, &what, limits).await?;
        let mut next = 0_u64;
        Ok(batches.map(move |batch| {
            let batch = batch?;
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            let hidden: Option<BooleanArray> = hidden_of(&deleted, rows.clone());
            let keys = row_keys(&self.transform, self.place, &batch, hidden.as_ref())?;
            let left_out = self.transform.not_needed(&batch, hidden.as_ref())?;
            let is =
                |rows: &Option<BooleanArray>, at| rows.as_ref().is_some_and(|rows| rows.value(at));
            let seen = rows.clone().zip(keys).enumerate();
            let seen = seen.filter(|(at, _)| !is(&hidden, *at));
            let seen = seen.map(|(at, (row, (key, is_null)))| {
                let mark = if is(&left_out, at) { NOT_NEEDED } else { 0 };
                Row { place: (number << 32) + row + mark, key, is_null }
            });
            let (rows, bytes) = (rows.end - rows.start, 0);
            self.progress.event(Event::Advanced(Amount { rows, bytes, chunks: 0 }));
            Ok(seen.collect())
        }))
    }
}
