//! Rows whose values become null are copied as they were, beside the table.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::{fmt::Write as _, sync::Arc};

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use datafusion::{
    error::DataFusionError, execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::{InsertBuilder, ProjectionRequest, TakeBuilder, WriteMode, WriteParams};
use lance_core::datatypes::Field as LanceField;
use roaring::RoaringTreemap;

use crate::chunk::{Origin, SourceFragment};
use crate::error::{Doing as _, Error, Result};
use crate::plan::{Plan, amounts::counted};
use crate::run::preflight::trial::{RowTrial, trial_of, tried_at_once};
use crate::table::{facts::source_fragments, open::Opener};
use crate::{
    journal::Journal, limits::ADDRESSED_ROWS, location::Location, phase::Phase, progress::Amount,
    run::context::Context, settings::OnBadValue, supply::Supply,
};

/// The column that tells which migration a row was copied by.
const MIGRATION: &str = "_relance_migration";

/// The column that tells which fragment of the source a row was in.
const FRAGMENT: &str = "_relance_fragment";

/// Rows that are waited for until they are copied by one commit: each takes several requests, and writes all of the manifest.
const ROWS_A_COMMIT: u64 = 1 << 20;

/// Refuses a quarantine that cannot take the rows of `plan`.
pub(crate) async fn expect_quarantine(ctx: &Context, plan: &Plan) -> Result<()> {
    if plan.request.on_bad_value != OnBadValue::Quarantine || plan.findings.is_empty() {
        return Ok(());
    }
    if plan.before.fields_pre_order().any(LanceField::is_blob) {
        return Err(Error::refused("rows with blobs cannot be copied to a quarantine"));
    }
    let place = ctx.location.put_aside()?;
    let Some(there) = ctx.opener_of(&place).found().await? else { return Ok(()) };
    let names = |schema: &ArrowSchema| -> Vec<(String, DataType)> {
        let fields = schema.fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let wanted = quarantine_schema(&ArrowSchema::from(&plan.before));
    if names(&ArrowSchema::from(there.schema())) == names(&wanted) {
        return Ok(());
    }
    let table = place.table();
    Err(Error::refused(format!("the table `{table}` is there already, with other columns"))
        .with_advice("drop or rename it first"))
}

/// Copies the rows of the source that have a bad value: at first all, in place of what an earlier run of
/// this migration copied; then those of the fragments that others have changed since what is `known` was
/// copied. True when rows of `intent` were copied for the first time: others may have written meanwhile.
///
/// # Errors
/// `Failed`, when the quarantine cannot be written.
///
/// # Crash
/// The quarantine holds some of the rows; the next run copies all of them again.
pub(crate) async fn quarantine(
    ctx: &Context,
    source: &Arc<Dataset>,
    plan: &Plan,
    (journal, supply): (&Journal, Option<&Arc<Supply>>),
    known: Option<Quarantined>,
) -> Result<(Option<Quarantined>, bool)> {
    if plan.request.on_bad_value != OnBadValue::Quarantine {
        return Ok((known, false));
    }
    let Some(trial) = trial_of(ctx, source, plan, u64::MAX, supply)? else {
        return Ok((known, false));
    };
    let place = ctx.location.put_aside()?;
    let writer = QuarantineWriter {
        opener: ctx.opener_of(&place),
        place,
        id: journal.header().id.clone(),
        rows: ctx.settings.batch_size.rows(plan.width()).min(ADDRESSED_ROWS) as usize,
    };
    let now = source_fragments(source).await?;
    let first = known.is_none();
    let known = known.unwrap_or_default();
    let (stale, new) = known.lags(now);
    if !first && stale.is_empty() && new.is_empty() {
        return Ok((Some(known), false));
    }
    writer.remove((!first).then_some(stale.as_slice())).await?;
    let rows = new.iter().map(|fragment| fragment.physical_rows).sum();
    ctx.begin_phase(Phase::Plan, Amount { rows, ..Amount::default() });
    let lost = journal.lost();
    let copied = copy_bad(ctx, &trial, &writer, source, new);
    let copied = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ctx.interrupted()),
        error = lost => return Err(error),
        copied = copied => copied?,
    };
    let known = known.with(&stale, copied);
    let (count, table) = (known.rows(), writer.place.table());
    let are = if count == 1 { "is" } else { "are" };
    let count = counted(count, "row");
    ctx.say(format!("{count} with bad values {are} copied to `{table}`"));
    Ok((Some(known), first))
}

/// Copies the bad rows of `fragments`, and tells how many each has. What is held is their addresses, as far as they go by one
/// commit, and one batch.
async fn copy_bad(
    ctx: &Context,
    trial: &RowTrial,
    writer: &QuarantineWriter,
    source: &Arc<Dataset>,
    fragments: Vec<SourceFragment>,
) -> Result<Vec<(Origin, u64)>> {
    let at_once = tried_at_once(ctx, &fragments);
    let tried = fragments.into_iter().map(|fragment| {
        let (trial, progress) = (trial.clone(), Arc::clone(&ctx.progress));
        let tries = async move {
            let bad = trial.bad_rows(&fragment, &progress).await?;
            Ok((fragment.origin, bad))
        };
        tries.boxed()
    });
    let mut tried = stream::iter(tried).buffered(at_once);
    let (mut copied, mut waiting) = (Vec::new(), RoaringTreemap::new());
    while let Some(found) = tried.next().await {
        let (origin, bad): (Origin, RoaringTreemap) = found?;
        copied.push((origin, bad.len()));
        waiting |= bad;
        if waiting.len() >= ROWS_A_COMMIT {
            writer.copy(source, std::mem::take(&mut waiting)).await?;
        }
    }
    writer.copy(source, waiting).await?;
    Ok(copied)
}

/// The source fragments whose bad rows this run has copied, as they were then, and how many they have.
#[derive(Debug, Default)]
pub(crate) struct Quarantined(BTreeMap<u64, (Origin, u64)>);

impl Quarantined {
    /// The fragments whose copied rows are not what they should be by `now`, and those that have to be copied.
    fn lags(&self, now: Vec<SourceFragment>) -> (Vec<u64>, Vec<SourceFragment>) {
        let is_known = |fragment: &SourceFragment| {
            let known = self.0.get(&fragment.origin.id);
            known.is_some_and(|(origin, _)| *origin == fragment.origin)
        };
        let (same, new): (Vec<_>, Vec<_>) = now.into_iter().partition(is_known);
        let same: BTreeSet<u64> = same.iter().map(|fragment| fragment.origin.id).collect();
        let stale = self.0.keys().copied().filter(|id| !same.contains(id));
        (stale.collect(), new)
    }

    /// Without the `stale` ones, and with those that were copied.
    fn with(mut self, stale: &[u64], copied: Vec<(Origin, u64)>) -> Self {
        let stale: HashSet<u64> = stale.iter().copied().collect();
        self.0.retain(|id, _| !stale.contains(id));
        self.0.extend(copied.into_iter().map(|(origin, rows)| (origin.id, (origin, rows))));
        self
    }

    fn rows(&self) -> u64 {
        self.0.values().map(|(_, rows)| rows).sum()
    }
}

/// What writes to the quarantine.
struct QuarantineWriter {
    opener: Opener,
    place: Location,
    /// The migration.
    id: String,
    /// Rows that are read at once.
    rows: usize,
}

impl QuarantineWriter {
    /// Removes what this migration copied from `fragments`, or all of it.
    async fn remove(&self, fragments: Option<&[u64]>) -> Result<()> {
        let Some(there) = self.opener.found().await? else { return Ok(()) };
        let mut of = format!("{MIGRATION} = '{}'", self.id);
        if let Some(fragments) = fragments {
            if fragments.is_empty() {
                return Ok(());
            }
            let ids: Vec<String> = fragments.iter().map(u64::to_string).collect();
            // Writing to a string cannot fail.
            let _ = write!(of, " AND {FRAGMENT} IN ({})", ids.join(", "));
        }
        let removed = there.as_ref().clone().delete(&of).await;
        removed.doing(|| format!("write to `{}`", self.place.table()))?;
        Ok(())
    }

    /// Copies the source's rows at `addresses`, if there are any, in one commit.
    async fn copy(&self, source: &Arc<Dataset>, addresses: RoaringTreemap) -> Result<()> {
        let (from, id) = (Arc::clone(source), self.id.clone());
        let batches = stream::iter(addresses).chunks(self.rows).then(move |some| {
            let (from, id) = (Arc::clone(&from), id.clone());
            async move { rows_at(&from, some, &id).await }.boxed()
        });
        let mut batches = batches.boxed();
        let Some(first) = batches.try_next().await? else { return Ok(()) };
        let schema = first.schema();
        let batches = stream::iter([Ok(first)]).chain(batches);
        let batches = batches.map_err(|error| DataFusionError::External(Box::new(error)));
        let batches: SendableRecordBatchStream =
            Box::pin(RecordBatchStreamAdapter::new(schema, batches));
        self.append(batches).await
    }

    async fn append(&self, batches: SendableRecordBatchStream) -> Result<()> {
        let there = self.opener.found().await?;
        let params = WriteParams {
            mode: if there.is_some() { WriteMode::Append } else { WriteMode::Create },
            store_params: Some(self.opener.params().clone()),
            session: Some(Arc::clone(self.opener.session())),
            ..WriteParams::default()
        };
        let uri = self.place.uri();
        let insert = match there {
            Some(dataset) => InsertBuilder::new(dataset),
            None => InsertBuilder::new(uri.as_str()),
        };
        let written = insert.with_params(&params).execute_stream(batches).await;
        written.doing(|| format!("write to `{}`", self.place.table()))?;
        Ok(())
    }
}

/// The rows at `addresses`, as they are, whose migration copies them, and the fragment of each.
async fn rows_at(source: &Arc<Dataset>, addresses: Vec<u64>, id: &str) -> Result<RecordBatch> {
    // An address is a fragment's number, and the row there.
    let fragments = addresses.iter().map(|address| address >> 32);
    let fragments: ArrayRef = Arc::new(fragments.collect::<UInt64Array>());
    let all = ProjectionRequest::from_schema(source.schema().clone());
    let projection = all.into_projection_plan(Arc::clone(source));
    let projection = Arc::new(projection.doing(|| "read bad rows".to_owned())?);
    let take = TakeBuilder::try_new_from_addresses(Arc::clone(source), addresses, projection);
    let taken = take.doing(|| "read bad rows".to_owned())?.execute().await;
    let taken = taken.doing(|| "read bad rows".to_owned())?;
    let schema = Arc::new(quarantine_schema(taken.schema().as_ref()));
    let ids: ArrayRef = Arc::new(StringArray::from(vec![id; taken.num_rows()]));
    let columns = taken.columns().iter().cloned().chain([ids, fragments]).collect();
    RecordBatch::try_new(schema, columns).doing(|| "copy bad rows".to_owned())
}

fn quarantine_schema(source: &ArrowSchema) -> ArrowSchema {
    let fields = source.fields().iter().map(|field| field.as_ref().clone());
    let whose = [
        Field::new(MIGRATION, DataType::Utf8, false),
        Field::new(FRAGMENT, DataType::UInt64, false),
    ];
    ArrowSchema::new(fields.chain(whose).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Signature;
    use lance_table::format::{DeletionFile, DeletionFileType};

    fn fragment(id: u64, files: &str, deleted: u64) -> SourceFragment {
        let deletions = (deleted > 0).then_some(DeletionFile {
            read_version: deleted,
            id: deleted,
            file_type: DeletionFileType::Bitmap,
            num_deleted_rows: Some(1),
            base_id: None,
        });
        let origin = Origin { id, signature: Signature(files.to_owned()), deletions };
        SourceFragment { origin, rows: 10, physical_rows: 10, bytes: 1 }
    }

    #[test]
    fn only_what_changed_is_copied_again() {
        let then = [(1, "a", 0), (2, "b", 0), (3, "c", 0), (4, "d", 0)];
        let copied = then.map(|(id, files, deleted)| (fragment(id, files, deleted).origin, 5));
        let known = Quarantined::default().with(&[], copied.to_vec());
        // One as it was, one with a deletion, one gone, one with other files, and one that is new.
        let now = [(1, "a", 0), (2, "b", 1), (4, "e", 0), (5, "f", 0)];
        let now = now.map(|(id, files, deleted)| fragment(id, files, deleted));
        let (stale, new) = known.lags(now.to_vec());
        assert_eq!(stale, [2, 3, 4]);
        assert_eq!(new.iter().map(|one| one.origin.id).collect::<Vec<_>>(), [2, 4, 5]);
        let copied = new.into_iter().map(|one| (one.origin, 1)).collect();
        let known = known.with(&stale, copied);
        assert_eq!(known.rows(), 5 + 3);
        assert_eq!(known.lags(now.to_vec()), (vec![], vec![]), "nothing is read twice");
    }
}
