//! Tries what comes from elsewhere: which keys are found, what producers give for the first rows, and how long all of it
//! will take. What they give is kept.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::BooleanArray;
use futures::TryStreamExt;
use lance::Dataset;

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Error, Result};
use crate::limits::MemoryPlan;
use crate::plan::{Plan, ProducerTrial, amounts::counted};
use crate::run::{context::Context, joining::try_joins};
use crate::schema::elsewhere::Source as From;
use crate::stage::hidden_of;
use crate::supply::{Cursor, Supply, join::OtherData};
use crate::table::facts::source_fragments;
use crate::table::source::{ScanLimits, Source, What};
use crate::transform::elsewhere::Given;

/// Looks which rows of `live` find their keys in the other `data` of joins, calls the producers of `plan` for the first
/// rows, and puts into the plan what came of both.
///
/// # Errors
/// `Usage`, when a function is not given; `Refused`, when a producer fails, or keys are missing or twice there.
pub(super) async fn try_elsewhere(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &mut Plan,
    data: Vec<OtherData>,
) -> Result<Option<Supply>> {
    let data = data.into_iter().map(Some).collect();
    let supply = Supply::of(plan, &ctx.functions, data, &ctx.settings, &ctx.progress)?;
    let Some(supply) = supply else { return Ok(None) };
    let trials = async {
        let joins = try_joins(ctx, live, plan, &supply).await?;
        Ok((joins, try_first_rows(ctx, live, plan, &supply).await?))
    };
    let tried = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(Error::interrupted("interrupted; nothing was written")),
        done = trials => done,
    };
    match tried {
        Ok((joins, producers)) => {
            (plan.join_trials, plan.producer_trials) = (joins, producers);
            Ok(Some(supply))
        }
        Err(error) => {
            // What failed is the error to tell.
            let _ = supply.close().await;
            Err(error)
        }
    }
}

async fn try_first_rows(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
    supply: &Supply,
) -> Result<Vec<ProducerTrial>> {
    let source = Source::of(Arc::clone(live));
    let fragments = source_fragments(live).await?;
    let Some(first) = fragments.into_iter().find(|fragment| fragment.rows > 0) else {
        return Ok(Vec::new());
    };
    let chunk = Chunk { id: ChunkId(0), fragments: vec![first] };
    let deleted = source.deleted_rows(&chunk).await?.pop().unwrap_or_default();
    let mut trials = Vec::new();
    for (place, what) in supply.what().iter().enumerate() {
        if !matches!(what.from, From::Producer(_)) {
            continue;
        }
        let transform = plan.transform_of(&plan.target.needing(place));
        if transform.needs().iter().any(|needed| supply.joins().contains(needed)) {
            // What it needs is joined first.
            continue;
        }
        let whole = What { schema: Arc::new(transform.inputs()), aligned: true };
        let batch_rows = what.batch_rows();
        let io_buffer_bytes = MemoryPlan::of(&ctx.settings).read_ahead;
        let limits = ScanLimits { batch_rows, io_buffer_bytes };
        let mut batches = source.scan(&chunk, &whole, limits).await?;
        let (mut cursor, mut next) = (Cursor::of(&chunk, None), 0_u64);
        // The first of them may hold nothing but deleted rows.
        while let Some(batch) = batches.try_next().await? {
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            let places = cursor.next_rows(batch.num_rows());
            let hidden = hidden_of(&deleted, rows);
            let seen = hidden.as_ref().map_or(batch.num_rows(), BooleanArray::false_count);
            if seen == 0 {
                continue;
            }
            let began = Instant::now();
            let given = supply.provide(&transform, &batch, &places, hidden.as_ref()).await;
            let given = given.map_err(refused)?;
            let given = given.get(place).and_then(Option::as_ref);
            let bad = given.map_or(0, |given| given.that_are(Given::Bad).true_count());
            if bad > 1 && bad == seen {
                let (name, rows) = (what.name(), counted(seen as u64, "row"));
                let message = format!(
                    "the producer of column `{name}` gives none of the first {rows} a value"
                );
                return Err(Error::refused(message).with_advice("nothing was written"));
            }
            let values = given.and_then(|given| given.values.first());
            let first =
                hidden.map_or(Some(0), |hidden| hidden.iter().position(|one| one == Some(false)));
            let example = values
                .zip(first)
                .map(|(values, row)| crate::transform::evaluate::value_text(values, row));
            let seconds = began.elapsed().as_secs_f64();
            trials.push(ProducerTrial::of(what.name(), seen as u64, seconds, plan.rows, example));
            break;
        }
    }
    Ok(trials)
}

/// A producer that fails before anything was written.
fn refused(error: Error) -> Error {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim_start);
    let refused = Error::refused(lines.next().unwrap_or_default());
    refused.with_lines(lines).with_advice("nothing was written").caused_by(error)
}
