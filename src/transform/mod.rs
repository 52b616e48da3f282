//! What becomes of a record batch: source columns in, target columns out. Pure and synchronous.

pub(crate) mod pool;
pub(crate) mod rebatch;

use std::sync::{Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use arrow_select::take::take;

use crate::error::{Context, Error, Result};
use crate::schema::target::{Column, Target};

/// Turns source batches into target batches.
#[derive(Debug)]
pub struct Transform {
    schema: SchemaRef,
    columns: Vec<Step>,
}

/// How one column of the target is made.
#[derive(Debug)]
enum Step {
    Keep(String),
    Constant(Constant),
}

/// A column of one value, kept at the longest length asked for so far: fresh memory costs more than
/// the values in it.
#[derive(Debug)]
struct Constant {
    value: ArrayRef,
    longest: Mutex<ArrayRef>,
}

impl Transform {
    /// The transform that makes `target`.
    pub fn new(target: &Target) -> Self {
        let step = |column: &Column| match column {
            Column::Keep(name) => Step::Keep(name.clone()),
            Column::Constant(value) => Step::Constant(Constant {
                value: ArrayRef::clone(value),
                longest: Mutex::new(ArrayRef::clone(value)),
            }),
        };
        Self {
            schema: std::sync::Arc::new(ArrowSchema::from(&target.schema)),
            columns: target.columns.iter().map(step).collect(),
        }
    }

    /// The schema of the batches that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Makes the target's rows of `batch`, in order.
    ///
    /// # Errors
    /// `Failed`, when the batch is not of the source's schema.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let column = |step: &Step| match step {
            Step::Keep(name) => batch
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| Error::failed(format!("the scan gave no column `{name}`"))),
            Step::Constant(constant) => constant.rows(rows),
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)
            .doing(|| "make a batch of the target schema".to_owned())
    }
}

impl Constant {
    fn rows(&self, rows: usize) -> Result<ArrayRef> {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if longest.len() < rows {
            let first = UInt32Array::from_value(0, rows);
            *longest = take(&self.value, &first, None)
                .doing(|| format!("fill {rows} rows with a default"))?;
        }
        Ok(longest.slice(0, rows))
    }
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
        let source = lance_core::datatypes::Schema::try_from(&arrow).unwrap();
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
