//! Turns batches of the source's columns into batches of the target's columns. Pure and synchronous.

mod blob;
pub(crate) mod compare;
pub(crate) mod digest;
pub(crate) mod elsewhere;
pub(crate) mod evaluate;
pub(crate) mod pool;
pub(crate) mod rebatch;
mod shape;

use std::{collections::HashMap, sync::Arc};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use lance_core::datatypes::{Field, Schema};

use crate::error::{Doing, Error, Result};
use crate::schema::blob::{carried, nested_stored};
use crate::schema::{
    cast::Problem, column::Column, elsewhere::Elsewhere, nulls::null_structs, sql::Sql,
    target::Target,
};
use crate::transform::elsewhere::Provided;
use crate::transform::evaluate::{BadValues, Evaluated, Repeated, Rows};
pub(crate) use crate::transform::shape::retype;
use crate::transform::shape::with_nulls_inside;

/// Turns source batches into batches of what is written.
#[derive(Debug)]
pub struct Transform {
    /// The source's fields that are read.
    source: Vec<Field>,
    schema: SchemaRef,
    columns: Vec<Column>,
    constants: Repeated,
    /// What comes from elsewhere, of the whole target.
    elsewhere: Vec<Elsewhere>,
    filter: Option<Arc<Sql>>,
    /// Whether a null struct is a value that cannot be taken over.
    refuses_null_structs: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Transformed {
    /// The rows of the target.
    pub batch: RecordBatch,
    /// The values that could not be taken over; they are null in the batch.
    pub bad: Vec<BadValues>,
    /// Rows that the filter left out.
    pub left_out: u64,
}

impl Transform {
    /// The transform that gives every column of `target`.
    pub fn new(target: &Target) -> Self {
        let all: Vec<usize> = (0..target.columns.len()).collect();
        Self::of(target, &all, None)
    }

    /// The transform that gives the columns of `target` at `places`, of the rows that `filter` keeps.
    pub(crate) fn of(target: &Target, places: &[usize], filter: Option<Arc<Sql>>) -> Self {
        let pairs = places.iter().filter_map(|place| {
            Some((target.schema.fields.get(*place)?.clone(), target.columns.get(*place)?.clone()))
        });
        let (fields, columns): (Vec<Field>, Vec<Column>) = pairs.unzip();
        let mut names: Vec<&str> = columns.iter().flat_map(Column::inputs).collect();
        if let Some(filter) = &filter {
            names.extend(filter.inputs().fields().iter().map(|field| field.name().as_str()));
        }
        let read = target.before.fields.iter().filter(|one| names.contains(&one.name.as_str()));
        let source = read.cloned().collect();
        let written = Schema { fields, metadata: target.schema.metadata.clone() };
        let schema = Arc::new(carried(&ArrowSchema::from(&nested_stored(written))));
        let (constants, elsewhere) = (Repeated::default(), target.elsewhere.clone());
        Self { source, schema, columns, constants, elsewhere, filter, refuses_null_structs: false }
    }

    /// The same for files of a storage version that may keep no null structs.
    pub(crate) fn with_null_structs(self, kept: bool) -> Self {
        Self { refuses_null_structs: !kept, ..self }
    }

    /// Whether some rows are left out.
    pub(crate) fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// The schema of the batches that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The schema of the source's columns that it needs, in the source's order.
    pub(crate) fn inputs(&self) -> Schema {
        Schema { fields: self.source.clone(), metadata: HashMap::new() }
    }

    /// The target's rows of `batch`, in order; bad values are null.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(self.run(batch, None, &[])?.batch)
    }

    /// What the columns need from elsewhere: places in the target's list, each after those that it needs itself.
    pub(crate) fn needs(&self) -> Vec<usize> {
        let mut needed: Vec<usize> = self.columns.iter().flat_map(Column::elsewhere).collect();
        needed.sort_unstable();
        needed.dedup();
        needed
    }

    /// The source's columns that what comes from elsewhere at `place` is made of.
    ///
    /// # Errors
    /// `Failed`, when there is no such thing.
    pub(crate) fn keys_of(&self, place: usize) -> Result<Schema> {
        let what = self.elsewhere.get(place);
        let what = what.ok_or_else(|| Error::failed("what comes from elsewhere is not known"))?;
        let names: Vec<&str> = what.inputs.iter().flat_map(|(_, column)| column.inputs()).collect();
        let fields = self.source.iter().filter(|field| names.contains(&field.name.as_str()));
        Ok(Schema { fields: fields.cloned().collect(), metadata: HashMap::new() })
    }

    /// What the one at `place` is made of, for the rows of `batch`; `provided` has those before it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn inputs_of(
        &self,
        place: usize,
        batch: &RecordBatch,
        hidden: Option<&BooleanArray>,
        provided: &[Option<Provided>],
    ) -> Result<RecordBatch> {
        let what = self.elsewhere.get(place);
        let what = what.ok_or_else(|| Error::failed("what comes from elsewhere is not known"))?;
        let rows = self.rows(batch, hidden.cloned(), provided);
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (field, column) in &what.inputs {
            let values = retype(&rows.evaluate(column)?.values, field.data_type())?;
            fields.push(field.clone().with_nullable(true));
            columns.push(values);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(ArrowSchema::new(fields)), columns, &options)
            .doing(|| format!("gather the inputs of `{}`", what.name()))
    }

    /// The rows of `batch` for which nothing is needed: they are `hidden`, or the filter leaves them out.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn not_needed(
        &self,
        batch: &RecordBatch,
        hidden: Option<&BooleanArray>,
    ) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else { return Ok(hidden.cloned()) };
        let (seen, kept) = seen_and_kept(batch, hidden, filter)?;
        let mut next = kept.values().iter();
        let needed = seen.values().iter().map(|seen| seen && next.next().unwrap_or_default());
        Ok(Some(needed.map(|needed| !needed).collect::<Vec<_>>().into()))
    }

    /// The target's rows of `batch`, in order, and the bad values. Rows that are `hidden` come out too, but
    /// bad values in them are not reported. `provided` is what comes from elsewhere, for the same rows.
    ///
    /// # Errors
    /// `Failed`, when the batch is not of the source's schema; `Refused`, when an expression cannot be
    /// computed.
    pub(crate) fn run(
        &self,
        batch: &RecordBatch,
        hidden: Option<BooleanArray>,
        provided: &[Option<Provided>],
    ) -> Result<Transformed> {
        let all = batch.num_rows();
        let Some(filter) = &self.filter else {
            return self.run_unfiltered(batch, hidden, provided);
        };
        let doing = || "leave out rows".to_owned();
        let (seen, kept) = seen_and_kept(batch, hidden.as_ref(), filter)?;
        let visible = filter_record_batch(batch, &seen).doing(doing)?;
        let filtered = filter_record_batch(&visible, &kept).doing(doing)?;
        let left = |one: &Option<Provided>| {
            let left = one.as_ref().map(|one| one.filtered(&seen)?.filtered(&kept));
            left.transpose()
        };
        let provided = provided.iter().map(left).collect::<Result<Vec<_>>>()?;
        let mut transformed = self.run_unfiltered(&filtered, None, &provided)?;
        transformed.left_out = (all - filtered.num_rows()) as u64;
        // Rows are reported by their places in `batch`.
        let seen: Vec<usize> = seen.values().set_indices().collect();
        let kept = kept.values().set_indices().filter_map(|row| seen.get(row));
        let places: Vec<usize> = kept.copied().collect();
        for row in transformed.bad.iter_mut().flat_map(|bad| &mut bad.rows) {
            *row = places.get(*row).copied().unwrap_or(*row);
        }
        Ok(transformed)
    }

    fn run_unfiltered(
        &self,
        batch: &RecordBatch,
        hidden: Option<BooleanArray>,
        provided: &[Option<Provided>],
    ) -> Result<Transformed> {
        let count = batch.num_rows();
        let rows = self.rows(batch, hidden, provided);
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| {
            let Evaluated { values, mut bad } = rows.evaluate(column)?;
            let values = retype(&values, field.data_type()).map_err(|error| {
                Error::failed(format!("cannot build column `{}`", field.name())).caused_by(error)
            })?;
            let nulls = self.refuses_null_structs.then(|| null_structs(&values, field)).flatten();
            bad.extend(nulls.and_then(|nulls| {
                rows.bad_values(&values, &nulls, Problem::NullStruct, field.name())
            }));
            Ok(Evaluated { values, bad })
        });
        let (columns, bad) = Evaluated::all(columns)?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = SchemaRef::clone(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .doing(|| "build a batch of the target schema".to_owned())?;
        Ok(Transformed { batch, bad: merged(bad), left_out: 0 })
    }

    /// The rows of `batch`, to evaluate columns for.
    fn rows<'a>(
        &'a self,
        batch: &RecordBatch,
        hidden: Option<BooleanArray>,
        provided: &'a [Option<Provided>],
    ) -> Rows<'a> {
        // What is not read is asked for by no column that is evaluated.
        let there =
            self.source.iter().filter_map(|field| Some((field, column(batch, &field.name).ok()?)));
        let (fields, columns) = there.unzip();
        let (count, constants) = (batch.num_rows(), &self.constants);
        Rows { fields, columns, count, hidden, constants, provided }
    }
}

/// Which rows of `batch` are not `hidden`, and which of these `filter` keeps. Hidden rows are left out first: the
/// condition may not be computable for them.
fn seen_and_kept(
    batch: &RecordBatch,
    hidden: Option<&BooleanArray>,
    filter: &Sql,
) -> Result<(BooleanArray, BooleanArray)> {
    let doing = || "leave out rows".to_owned();
    let seen = match hidden {
        None => BooleanArray::from(vec![true; batch.num_rows()]),
        Some(hidden) => not(hidden).doing(doing)?,
    };
    let visible = filter_record_batch(batch, &seen).doing(doing)?;
    let kept = matching(&visible, filter)?;
    Ok((seen, kept))
}

/// One entry for each column and problem: a column that others are computed from is evaluated more than once.
fn merged(bad: Vec<BadValues>) -> Vec<BadValues> {
    let mut all: Vec<BadValues> = Vec::new();
    for one in bad {
        let same = |other: &&mut BadValues| other.path == one.path && other.problem == one.problem;
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
    use crate::schema::{change::Change, target::IfExists};
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
