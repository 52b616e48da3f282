//! What becomes of a record batch: source columns in, target columns out. Pure and synchronous.

mod blob;
pub(crate) mod compare;
pub(crate) mod digest;
pub(crate) mod pool;
pub(crate) mod rebatch;
mod shape;
pub(crate) mod step;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use lance_core::datatypes::{Field, Schema};

use crate::error::{Context, Error, Result};
use crate::schema::blob::{carried, is_first_kind};
use crate::schema::column::Column;
use crate::schema::sql::Sql;
use crate::schema::target::Target;
use crate::transform::shape::{retype, with_nulls_inside};
use crate::transform::step::{Found, Rows, Step};

/// Turns source batches into batches of what is written.
#[derive(Debug)]
pub struct Transform {
    /// The source's fields that are read.
    source: Vec<Field>,
    schema: SchemaRef,
    columns: Vec<(String, Step)>,
    filter: Option<Arc<Sql>>,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Made {
    /// The rows of the target.
    pub batch: RecordBatch,
    /// Values that did not go through; they are null in the batch.
    pub found: Vec<Found>,
    /// Rows that the filter left out.
    pub left_out: u64,
}

impl Transform {
    /// The transform that makes every column of `target`.
    pub fn new(target: &Target) -> Self {
        let all: Vec<usize> = (0..target.columns.len()).collect();
        Self::of(target, &all, None)
    }

    /// The transform that makes the columns of `target` at `places`, of the rows that `filter` keeps.
    pub(crate) fn of(target: &Target, places: &[usize], filter: Option<Arc<Sql>>) -> Self {
        let mut fields: Vec<&Field> = Vec::new();
        let mut columns = Vec::new();
        let mut names = Vec::new();
        for place in places {
            let pair = target.schema.fields.get(*place).zip(target.columns.get(*place));
            let Some((field, column)) = pair else { continue };
            fields.push(field);
            let step = Step::from(column);
            let anew = field.is_blob_v2() && comes_from_first_kind(column, &target.before);
            columns.push((field.name.clone(), if anew { step.with_blobs_anew() } else { step }));
            Column::inputs(column, &mut names);
        }
        let written = Schema {
            fields: fields.into_iter().cloned().collect(),
            metadata: target.schema.metadata.clone(),
        };
        if let Some(filter) = &filter {
            names.extend(filter.inputs().fields().iter().map(|field| field.name().as_str()));
        }
        let source =
            target.before.fields.iter().filter(|field| names.contains(&field.name.as_str()));
        Self {
            source: source.cloned().collect(),
            schema: Arc::new(carried(&ArrowSchema::from(&written))),
            columns,
            filter,
        }
    }

    /// The schema of the batches that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The schema of the source's columns that it needs, in the source's order.
    pub fn inputs(&self) -> Schema {
        Schema { fields: self.source.clone(), metadata: std::collections::HashMap::new() }
    }

    /// Makes the target's rows of `batch`, in order; what does not go through is null.
    ///
    /// # Errors
    /// `Failed`, when the batch is not of the source's schema.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(self.make(batch, None)?.batch)
    }

    /// Makes the target's rows of `batch`, in order, and tells what does not go through. Rows that are
    /// `hidden` are made as well, and nothing is told of them.
    ///
    /// # Errors
    /// `Failed`, when the batch is not of the source's schema; `Refused`, when an expression cannot be
    /// computed.
    pub(crate) fn make(&self, batch: &RecordBatch, hidden: Option<BooleanArray>) -> Result<Made> {
        let all = batch.num_rows();
        let Some(filter) = &self.filter else { return self.make_all(batch, hidden) };
        // Rows that nobody can see are left out first: the condition may not be computable for them.
        let doing = || "leave out rows".to_owned();
        let seen = match &hidden {
            None => BooleanArray::from(vec![true; all]),
            Some(hidden) => not(hidden).doing(doing)?,
        };
        let visible = filter_record_batch(batch, &seen).doing(doing)?;
        let kept = matching(&visible, filter)?;
        let filtered = filter_record_batch(&visible, &kept).doing(doing)?;
        let mut made = self.make_all(&filtered, None)?;
        made.left_out = (all - filtered.num_rows()) as u64;
        // What is told is told of the rows as they came.
        let seen: Vec<usize> = seen.values().set_indices().collect();
        let kept = kept.values().set_indices().filter_map(|row| seen.get(row));
        let places: Vec<usize> = kept.copied().collect();
        for found in &mut made.found {
            for row in &mut found.rows {
                *row = places.get(*row).copied().unwrap_or(*row);
            }
        }
        Ok(made)
    }

    fn make_all(&self, batch: &RecordBatch, hidden: Option<BooleanArray>) -> Result<Made> {
        let count = batch.num_rows();
        let columns = self.source.iter().map(|field| column(batch, &field.name));
        let rows = Rows {
            fields: self.source.iter().collect(),
            columns: columns.collect::<Result<_>>()?,
            count,
            hidden,
        };
        let mut found = Vec::new();
        let mut columns = Vec::new();
        for ((name, step), field) in self.columns.iter().zip(self.schema.fields()) {
            let column = step.make(&rows, &mut found)?;
            let column = retype(&column, field.data_type());
            columns.push(column.map_err(|error| {
                Error::failed(format!("cannot make column `{name}`")).caused_by(error)
            })?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = SchemaRef::clone(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .doing(|| "make a batch of the target schema".to_owned())?;
        Ok(Made { batch, found: merged(found), left_out: 0 })
    }
}

/// Whether `column` keeps one of `source` that is a blob of the first kind.
fn comes_from_first_kind(column: &Column, source: &Schema) -> bool {
    let Column::Keep { name, .. } = column else { return false };
    source.field(name).is_some_and(is_first_kind)
}

/// One of each column and problem: a column that others are computed from is made more than once.
fn merged(found: Vec<Found>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for one in found {
        let same = |other: &&mut Found| other.path == one.path && other.problem == one.problem;
        match all.iter_mut().find(same) {
            None => all.push(one),
            Some(known) => {
                known.rows.extend(one.rows);
                known.rows.sort_unstable();
                known.rows.dedup();
            }
        }
    }
    all
}

/// The rows of `batch` that `filter` keeps.
fn matching(batch: &RecordBatch, filter: &Sql) -> Result<BooleanArray> {
    let inputs = filter.inputs().fields().iter();
    let inputs = inputs.map(|field| with_nulls_inside(&column(batch, field.name())?));
    filter.matches(inputs.collect::<Result<_>>()?, batch.num_rows())
}

fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).cloned();
    column.ok_or_else(|| Error::failed(format!("the scan gave no column `{name}`")))
}

/// Bytes of `batch`'s own rows; what its buffers hold beyond them is not counted.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |column: &ArrayRef| {
        let data = column.to_data();
        let size = data.get_slice_memory_size();
        size.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::change::Change;
    use crate::schema::target::IfExists;
    use arrow::array::{Array, Int32Array};
    use arrow::datatypes::{DataType, Field};
    use std::sync::Arc;

    fn transform(adds: &[&str]) -> Transform {
        let arrow = ArrowSchema::new(vec![Field::new("n", DataType::Int32, false)]);
        let source = Schema::try_from(&arrow).unwrap();
        let changes: Vec<_> = adds.iter().map(|add| Change::parse_add(add).unwrap()).collect();
        let now = chrono::DateTime::from_timestamp(0, 0).unwrap();
        Transform::new(&Target::derive(&source, 0, &changes, IfExists::Skip, now).unwrap())
    }

    fn batch(values: &[i32]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int32Array::from(values.to_vec()));
        let schema = ArrowSchema::new(vec![Field::new("n", DataType::Int32, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap()
    }

    #[test]
    fn constants_fill_every_row_whatever_the_batch_size() {
        let transform = transform(&["s:string not null=x", "d:list<int8>=[1,2]", "z:int64"]);
        for rows in [3_usize, 1, 5, 0] {
            let values: Vec<i32> = (0..).take(rows).collect();
            let out = transform.apply(&batch(&values)).unwrap();
            assert_eq!((out.num_rows(), out.num_columns()), (rows, 4));
            assert_eq!(out.column(3).null_count(), rows);
            assert_eq!(out.column(0).as_ref(), batch(&values).column(0).as_ref());
        }
    }
}
