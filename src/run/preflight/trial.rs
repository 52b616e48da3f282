//! Tries the changes on the rows of a fragment.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arrow::array::{BooleanArray, RecordBatch};
use futures::TryStreamExt;
use lance::Dataset;
use lance_core::datatypes::Field;
use roaring::RoaringTreemap;

use crate::chunk::{Chunk, ChunkId, SourceFragment};
use crate::limits::{LOOK_ROWS, MemoryPlan, SMALL_FILE_BYTES, TRANSFORMS_AT_ONCE};
use crate::plan::{Example, Finding, Plan};
use crate::progress::{Amount, Event, SharedProgress};
use crate::schema::{cast::Problem, column::Column};
use crate::supply::{Cursor, Places, Supply};
use crate::table::source::{ScanLimits, Source, What};
use crate::transform::{Transform, batch_bytes, evaluate::BadValues, pool::Pool};
use crate::{error::Result, run::context::Context, stage::hidden_of, storage_version::abilities};

/// Rows that are shown of each problem.
const EXAMPLES: usize = 5;

/// What is wrong with the values of a table.
#[derive(Debug, Default)]
pub(crate) struct TrialFindings {
    pub(super) findings: BTreeMap<(String, Problem), Finding>,
    /// The addresses of the rows that have a bad value, if they are asked for.
    rows: Option<RoaringTreemap>,
}

impl TrialFindings {
    fn count_in(&mut self, found: &BadValues, first: u64) {
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

    pub(super) fn merge(&mut self, other: Self) {
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

/// What tries the rows of one fragment.
#[derive(Clone)]
pub(crate) struct RowTrial {
    source: Source,
    transform: Arc<Transform>,
    what: What,
    pool: Pool,
    batch_rows: u32,
    read_ahead: u64,
    /// Rows of each fragment that are tried.
    rows_max: u64,
    /// What gives values from elsewhere, if they are looked at too.
    supply: Option<Arc<Supply>>,
}

/// What tries the changes of `plan` on the first `rows_max` rows of a fragment of `live`, if anything can be wrong.
pub(crate) fn trial_of(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
    rows_max: u64,
    supply: Option<&Arc<Supply>>,
) -> Result<Option<RowTrial>> {
    let loses_nulls = !abilities(plan.storage_version).keeps_null_structs;
    let columns = plan.target.columns.iter().zip(&plan.target.schema.fields).enumerate();
    let checked = columns.filter(|(place, (column, field))| {
        // What comes from elsewhere is tried by itself, and looked at when it is staged.
        if supply.is_none() && !column.elsewhere().is_empty() {
            return false;
        }
        let written = loses_nulls && plan.written.contains(place) && has_struct(field);
        // A constant is looked at by the plan.
        column.is_checked() || (written && !matches!(column, Column::Constant(_)))
    });
    let places: Vec<usize> = checked.map(|(place, _)| place).collect();
    if places.is_empty() || plan.is_nothing() {
        return Ok(None);
    }
    let transform = plan.transform_of(&places);
    let what = What { schema: Arc::new(transform.inputs()), aligned: true };
    Ok(Some(RowTrial {
        source: Source::of(Arc::clone(live)),
        transform: Arc::new(transform),
        what,
        pool: Pool::of(ctx.settings.workers)?,
        batch_rows: ctx.settings.batch_size.rows(plan.width()).min(LOOK_ROWS),
        read_ahead: MemoryPlan::of(&ctx.settings).read_ahead,
        rows_max,
        supply: supply.cloned(),
    }))
}

fn has_struct(field: &Field) -> bool {
    field.logical_type.is_struct() || field.children.iter().any(has_struct)
}

/// Fragments that are tried side by side.
pub(crate) fn tried_at_once(ctx: &Context, fragments: &[SourceFragment]) -> usize {
    let small = fragments.iter().all(|fragment| fragment.bytes <= SMALL_FILE_BYTES);
    let in_store = ctx.location.directory().is_none();
    MemoryPlan::of(&ctx.settings).for_store(in_store).fragments_at_once(small)
}

impl RowTrial {
    /// The addresses of the rows of `fragment` that have a bad value.
    ///
    /// # Errors
    /// `Failed`, when they cannot be read.
    pub(crate) async fn bad_rows(
        &self,
        fragment: &SourceFragment,
        progress: &SharedProgress,
    ) -> Result<RoaringTreemap> {
        let tried = TrialFindings { rows: Some(RoaringTreemap::new()), ..TrialFindings::default() };
        let tried = self.fragment(fragment, tried, progress).await?;
        Ok(tried.rows.unwrap_or_default())
    }

    /// What was `tried`, and what is wrong with the rows of `fragment`.
    pub(super) async fn fragment(
        &self,
        fragment: &SourceFragment,
        mut tried: TrialFindings,
        progress: &SharedProgress,
    ) -> Result<TrialFindings> {
        let origin = &fragment.origin;
        let whole = Chunk { id: ChunkId(0), fragments: vec![fragment.clone()] };
        let deleted = self.source.deleted_rows(&whole).await?.pop().unwrap_or_default();
        let part = SourceFragment {
            physical_rows: fragment.physical_rows.min(self.rows_max),
            ..fragment.clone()
        };
        let chunk = Chunk { id: ChunkId(0), fragments: vec![part] };
        let limits = ScanLimits { batch_rows: self.batch_rows, io_buffer_bytes: self.read_ahead };
        let batches = self.source.scan(&chunk, &self.what, limits).await?;
        let (mut next, small) = (0, chunk.is_small());
        let mut cursor = Cursor::of(&chunk, None);
        let made = batches.map_ok(|batch| {
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            let places = cursor.next_rows(batch.num_rows());
            self.batch(batch, (hidden_of(&deleted, rows.clone()), places), rows, small)
        });
        let mut made = made.try_buffered(TRANSFORMS_AT_ONCE);
        while let Some((found, first, amount)) = made.try_next().await? {
            for found in &found {
                tried.count_in(found, (origin.id << 32) + first);
            }
            progress.event(Event::Advanced(amount));
        }
        Ok(tried)
    }

    /// What does not go through of `batch`, the first of its `rows`, and how much was tried.
    async fn batch(
        &self,
        batch: RecordBatch,
        (hidden, places): (Option<BooleanArray>, Places),
        rows: Range<u64>,
        here: bool,
    ) -> Result<(Vec<BadValues>, u64, Amount)> {
        let amount = Amount { rows: rows.end - rows.start, bytes: batch_bytes(&batch), chunks: 0 };
        let transform = Arc::clone(&self.transform);
        let provided = match &self.supply {
            Some(supply) => supply.provide(&transform, &batch, &places, hidden.as_ref()).await?,
            None => Vec::new(),
        };
        let tries = move || Ok(transform.run(&batch, hidden, &provided)?.bad);
        Ok((self.pool.run_or_here(here, tries).await?, rows.start, amount))
    }
}
