//! Rows that others write after a swap without knowing of its columns: Lance has no defaults, so what they
//! leave out is null.

use std::{collections::HashSet, sync::Arc};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use futures::TryStreamExt;
use lance::Dataset;
use lance_core::datatypes::{Field, Schema};

use crate::chunk::{Chunk, ChunkId, SourceFragment};
use crate::limits::{LOOK_ROWS, MemoryPlan};
use crate::run::{context::Context, hints::bare_command, point::requested, report::NullsStatus};
use crate::schema::path::{field_at, find};
use crate::table::source::{ScanLimits, Source, What};
use crate::table::{facts, open};
use crate::{error::Result, escape::shell_word, schema::filled::filled};

/// Rows that are read of a column: beyond, there are at least as many nulls as were found.
const ROWS_MAX: u64 = 4_000_000;

/// For each column that the migration which is `swapped` added with a value: the rows written since in
/// which it is null, if there are any.
pub(crate) async fn nulls_since(
    ctx: &Context,
    live: &Arc<Dataset>,
    swapped: u64,
) -> Result<Vec<NullsStatus>> {
    let changes = requested(live, swapped).await?.map(|request| request.changes);
    let filled = filled(&changes.unwrap_or_default());
    if filled.is_empty() {
        return Ok(Vec::new());
    }
    let then = open::at_version(live, swapped).await?;
    let since = WrittenSince::of(ctx, &then, live).await?;
    let mut all = Vec::new();
    for one in filled {
        let Some(field) = field_now(&then, live, &one.column) else { continue };
        let (rows, at_least) = since.nulls(field).await?;
        if rows > 0 {
            let column = path_of(live.schema(), field.id);
            let fill = format!("{column}={}", one.value);
            let fill = bare_command(ctx, "migrate", &["--fill", &shell_word(&fill)]);
            all.push(NullsStatus { column, rows, at_least, fill });
        }
    }
    Ok(all)
}

/// What was written since some version.
struct WrittenSince {
    source: Source,
    live: Arc<Dataset>,
    fragments: Vec<SourceFragment>,
    limits: ScanLimits,
}

impl WrittenSince {
    async fn of(ctx: &Context, then: &Dataset, live: &Arc<Dataset>) -> Result<Self> {
        let known: HashSet<u64> = then.iter_fragments().map(|fragment| fragment.id).collect();
        let mut fragments = Vec::new();
        if live.iter_fragments().any(|fragment| !known.contains(&fragment.id)) {
            fragments = facts::source_fragments(live).await?;
            fragments.retain(|fragment| !known.contains(&fragment.origin.id));
        }
        // One column is read.
        let io_buffer_bytes = MemoryPlan::of(&ctx.settings).read_ahead / 4;
        let limits = ScanLimits { batch_rows: LOOK_ROWS, io_buffer_bytes };
        Ok(Self { source: Source::of(Arc::clone(live)), live: Arc::clone(live), fragments, limits })
    }

    /// The rows in which `field` is null, and whether there may be more. A fragment without a file that
    /// holds it is not read.
    async fn nulls(&self, field: &Field) -> Result<(u64, bool)> {
        let holding = holding(&self.live, field);
        let (held, absent): (Vec<_>, Vec<_>) =
            self.fragments.iter().cloned().partition(|one| holding.contains(&one.origin.id));
        let mut nulls: u64 = absent.iter().map(|one| one.rows).sum();
        let (mut read, mut fragments) = (0, Vec::new());
        let all = held.len();
        for fragment in held {
            if read >= ROWS_MAX {
                break;
            }
            read += fragment.rows;
            fragments.push(fragment);
        }
        let at_least = fragments.len() < all;
        if fragments.is_empty() {
            return Ok((nulls, at_least));
        }
        let schema = Arc::new(self.live.schema().project_by_ids(&[field.id], true));
        let around = self.live.schema().field_ancestry_by_id(field.id).unwrap_or_default();
        let around = around.len().saturating_sub(1);
        let chunk = Chunk { id: ChunkId(0), fragments };
        let what = What { schema, aligned: false };
        let mut batches = self.source.scan(&chunk, &what, self.limits).await?;
        while let Some(batch) = batches.try_next().await? {
            nulls += null_count(&batch, around);
        }
        Ok((nulls, at_least))
    }
}

/// The fragments of `live` that have a file with `field`, or a part of it.
fn holding(live: &Dataset, field: &Field) -> HashSet<u64> {
    let whole = Schema { fields: vec![field.clone()], ..Schema::default() };
    let ids: HashSet<i32> = whole.fields_pre_order().map(|field| field.id).collect();
    let fragments = live.iter_fragments().filter(|fragment| {
        fragment.files.iter().any(|file| file.fields.iter().any(|id| ids.contains(id)))
    });
    fragments.map(|fragment| fragment.id).collect()
}

/// The rows of the one column of `batch`, with `around` structs around it, that are null where the structs are not.
fn null_count(batch: &RecordBatch, around: usize) -> u64 {
    let Some(mut array) = batch.columns().first().cloned() else { return 0 };
    let mut outer: Option<NullBuffer> = None;
    for _ in 0..around {
        outer = NullBuffer::union(outer.as_ref(), array.logical_nulls().as_ref());
        let inner: Option<ArrayRef> =
            array.as_struct_opt().and_then(|one| one.columns().first().cloned());
        let Some(inner) = inner else { return 0 };
        array = inner;
    }
    let both = NullBuffer::union(outer.as_ref(), array.logical_nulls().as_ref());
    let count = |nulls: Option<NullBuffer>| nulls.map_or(0, |nulls| nulls.null_count() as u64);
    count(both).saturating_sub(count(outer))
}

/// The column `path` of `then` as it is in `live`: itself, whatever it is called, or what took its place.
fn field_now<'a>(then: &Dataset, live: &'a Dataset, path: &str) -> Option<&'a Field> {
    let id = at(then.schema(), path)?.id;
    let now = live.schema().field_by_id(id).or_else(|| at(live.schema(), path));
    now.filter(|field| field.nullable)
}

fn at<'a>(schema: &'a Schema, path: &str) -> Option<&'a Field> {
    field_at(&schema.fields, &find(&schema.fields, path)?)
}

fn path_of(schema: &Schema, id: i32) -> String {
    let names = schema.field_ancestry_by_id(id).unwrap_or_default();
    names.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Int64Array, StructArray};
    use arrow::datatypes::{DataType, Field, Fields, Schema};

    #[test]
    fn nulls_are_counted_where_the_struct_around_is_not_null() {
        let inner = Int64Array::from(vec![Some(1), None, None, None]);
        let fields = Fields::from(vec![Field::new("n", DataType::Int64, true)]);
        let nulls = NullBuffer::from(vec![true, true, false, true]);
        let outer = StructArray::new(fields, vec![Arc::new(inner)], Some(nulls));
        let schema = Schema::new(vec![Field::new("s", outer.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(outer)]).unwrap();
        assert_eq!((null_count(&batch, 0), null_count(&batch, 1)), (1, 2));
    }
}
