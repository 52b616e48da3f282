//! `verify`: the swapped version against its rollback point.

use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use futures::TryStreamExt;
use lance::Dataset;
use lance_core::datatypes::Schema;

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Error, Result};
use crate::limits::{LOOK_ROWS, MemoryPlan};
use crate::plan::{Plan, Request, amounts::counted};
use crate::progress::{Amount, Event};
use crate::run::planning::open_live;
use crate::run::point::{cleaned, last_point, requested};
use crate::run::{context::Context, report::Verified};
use crate::table::source::{ScanLimits, Source};
use crate::table::{facts, history, open};
use crate::transform::pool::{Digests, Pool};
use crate::transform::{Transform, batch_bytes, digest::Digest};
use crate::{phase::Phase, schema::blob::nested_stored, storage::throttle::Throttle};

pub(crate) async fn run(ctx: &Context) -> Result<Verified> {
    ctx.settings.validate()?;
    let opener = ctx.opener();
    let live = open_live(ctx, &opener).await?;
    let (point, swapped) = last_point(ctx, &live).await?;
    let request = requested(&live, swapped).await?;
    let request = request.ok_or_else(|| {
        cleaned(swapped).with_advice("there is nothing left to compare its rollback point with")
    })?;
    let before = open::at_version(&live, point.version).await?;
    let after = open::at_version(&live, swapped).await?;
    let facts = facts::facts(&ctx.location, &before, Vec::new()).await?;
    let facts = crate::plan::Facts { free_bytes: None, ..facts };
    let request = Request { drop_indices: Vec::new(), ..request };
    let plan = Plan::choose(&facts, &request, ctx.clock.now())?;
    let rows = plan.rows;
    let total = Amount { rows: rows * 2, ..Amount::default() };
    ctx.progress.event(Event::Began { phase: Phase::Verify, total, done: Amount::default() });
    let pool = Pool::of(ctx.settings.workers)?;
    // What came from elsewhere cannot be made again from the rollback point.
    let columns = plan.target.columns.iter().enumerate();
    let own = columns.filter(|(_, column)| column.elsewhere().is_empty()).map(|(place, _)| place);
    let own: Vec<usize> = own.collect();
    let others = plan.target.columns.len() - own.len();
    if others > 0 {
        let columns = counted(others as u64, "column");
        ctx.say(format!("{columns} whose values came from elsewhere are not compared"));
    }
    let transform = Arc::new(Transform::of(&plan.target, &own, plan.filter.clone()));
    let throttle = Throttle::of(ctx.settings.max_rate);
    let with = (&pool, &throttle);
    let expected = digests(ctx, before, Some(Arc::clone(&transform)), with);
    let found = digests(ctx, after, None, with);
    let both = async { futures::try_join!(expected, found) };
    let ((expected, expected_rows), (found, found_rows)) = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => {
            return Err(Error::interrupted("interrupted; nothing was found so far that differs"));
        }
        both = both => both?,
    };
    if expected_rows != found_rows {
        return Err(Error::mismatch(format!(
            "version {swapped} has {found_rows} rows, its rollback point {expected_rows}"
        )));
    }
    let mut columns = Vec::new();
    let found = own.iter().filter_map(|place| found.get(*place));
    for (field, (wanted, found)) in
        transform.schema().fields().iter().zip(expected.iter().zip(found))
    {
        if wanted != found {
            let name = field.name();
            return Err(Error::mismatch(format!(
                "column `{name}` of version {swapped} differs from its rollback point"
            )));
        }
        columns.push((field.name().clone(), *found));
    }
    let since = history::count_since(&live, &point.id, swapped).await?;
    Ok(Verified {
        table: ctx.table().to_owned(),
        id: point.id,
        before: point.version,
        swapped,
        rows,
        columns,
        commits_since: since.others,
        commits_at_least: since.at_least,
    })
}

/// The digests of all rows of `dataset`, in order.
async fn digests(
    ctx: &Context,
    dataset: Arc<Dataset>,
    transform: Option<Arc<Transform>>,
    (pool, throttle): (&Pool, &Throttle),
) -> Result<(Vec<Digest>, u64)> {
    // Two tables are read at once.
    let io_buffer_bytes = MemoryPlan::of(&ctx.settings).read_ahead / 2;
    let limits = ScanLimits { batch_rows: LOOK_ROWS, io_buffer_bytes };
    let schema = match &transform {
        Some(transform) => Arc::clone(transform.schema()),
        None => Arc::new(ArrowSchema::from(&nested_stored(dataset.schema().clone()))),
    };
    let mut digests = Digests::of(&schema)?;
    let source = Source::of(Arc::clone(&dataset));
    let mut batches = if has_another_form_in_scans(dataset.schema()) {
        // JSON as text, blobs as places.
        let fragments = facts::source_fragments(&dataset).await?;
        let all = Chunk { id: ChunkId(0), fragments };
        source.scan(&all, &source.all(), limits).await?
    } else {
        source.scan_all(limits).await?
    };
    while let Some(batch) = batches.try_next().await? {
        let batch = match &transform {
            Some(transform) => transform.apply(&batch)?,
            None => batch,
        };
        let (rows, bytes) = (batch.num_rows() as u64, batch_bytes(&batch));
        throttle.count(bytes);
        throttle.wait().await;
        digests = pool.digest(digests, batch).await?;
        ctx.progress.event(Event::Advanced(Amount { rows, bytes, chunks: 0 }));
    }
    let rows = digests.rows();
    Ok((digests.finish(), rows))
}

/// Whether Lance's scanner gives some column in another form than it is stored in.
fn has_another_form_in_scans(schema: &Schema) -> bool {
    let mut fields = schema.fields_pre_order();
    fields.any(|field| field.is_blob() || field.extension_name() == Some("lance.json"))
}
