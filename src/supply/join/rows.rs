//! The batches that a join sorts and walks: their columns, and how they are made.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt8Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type, UInt64Type};

use datafusion::error::DataFusionError;

use crate::error::{Doing, Error, Result};
use crate::schema::cast::cast;
use crate::supply::{frame::Key, keys};

/// A row of the table that is joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Where it is.
    pub place: u64,
    pub key: Key,
    /// Whether a part of its key is null: it is like no other then.
    pub is_null: bool,
}

/// Rows of a batch while both sides are walked.
pub(super) const JOIN_ROWS: usize = 8_192;

pub(super) fn joining() -> String {
    "join by key".to_owned()
}

/// What went wrong inside a stream of `DataFusion`'s, as it was told there.
#[allow(clippy::wildcard_enum_match_arm, reason = "those that carry errors of others")]
pub(super) fn told(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::failed(format!("cannot {}", joining())).caused_by(other),
        },
        DataFusionError::Context(_, inner) => told(*inner),
        other => Error::failed(format!("cannot {}", joining())).caused_by(other),
    }
}

pub(super) fn key_field() -> Field {
    Field::new("key", DataType::FixedSizeBinary(16), false)
}

/// Rows of the table: their keys, their places, and whether a part of the key is null.
pub(super) fn own_schema() -> SchemaRef {
    let place = Field::new("place", DataType::UInt64, false);
    Arc::new(Schema::new(vec![key_field(), place, Field::new("null", DataType::Boolean, false)]))
}

pub(super) fn own_rows(schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch> {
    let keys = key_array(rows.iter().map(|row| row.key))?;
    let places = UInt64Array::from_iter_values(rows.iter().map(|row| row.place));
    let nulls: Vec<bool> = rows.iter().map(|row| row.is_null).collect();
    let nulls = arrow::array::BooleanArray::from(nulls);
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(places), Arc::new(nulls)];
    RecordBatch::try_new(Arc::clone(schema), columns).doing(joining)
}

/// What was found: places, keys, what became of each, and the values.
pub(super) fn matched_schema(outputs: &[Field]) -> SchemaRef {
    let own = [
        Field::new("place", DataType::UInt64, false),
        key_field(),
        Field::new("given", DataType::UInt8, false),
    ];
    let values = outputs.iter().zip(0_u32..);
    let values =
        values.map(|(field, at)| Field::new(format!("v{at}"), field.data_type().clone(), true));
    Arc::new(Schema::new(own.into_iter().chain(values).collect::<Vec<_>>()))
}

/// Rows of the other data: their keys, their places, and the values.
pub(super) fn other_schema(outputs: &[Field]) -> SchemaRef {
    let own = [key_field(), Field::new("place", DataType::UInt64, false)];
    let values = outputs.iter().zip(0_u32..);
    let values =
        values.map(|(field, at)| Field::new(format!("v{at}"), field.data_type().clone(), true));
    Arc::new(Schema::new(own.into_iter().chain(values).collect::<Vec<_>>()))
}

/// The rows of `batch`, the first of which is number `first`, as they are sorted. Rows without a key are left out.
pub(super) fn other_rows(
    schema: &SchemaRef,
    batch: &RecordBatch,
    first: u64,
    types: &[DataType],
    outputs: &[Field],
) -> Result<RecordBatch> {
    let (on, take) = batch.columns().split_at(types.len().min(batch.num_columns()));
    let on = on.iter().zip(types).map(|(column, to)| as_type(column, to, None));
    let on = on.collect::<Result<Vec<_>>>()?;
    let nulls = keys::any_null(&on, batch.num_rows());
    let keys = key_array(keys::keys_of(&on, batch.num_rows())?)?;
    let places = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
    let mut columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(places)];
    for (column, field) in take.iter().zip(outputs) {
        let values = as_type(column, field.data_type(), Some(field.name()))?;
        if !field.is_nullable() && values.null_count() > 0 {
            let name = field.name();
            return Err(Error::refused(format!(
                "column `{name}` may not be null, and values of the other data are"
            )));
        }
        columns.push(values);
    }
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).doing(joining)?;
    if !nulls.contains(&true) {
        return Ok(batch);
    }
    let kept: Vec<bool> = nulls.iter().map(|null| !null).collect();
    arrow::compute::filter_record_batch(&batch, &kept.into()).doing(joining)
}

/// `column` as `to`. Values of the column `taken` that cannot be are refused; a key that cannot be is like no other.
pub(super) fn as_type(
    column: &ArrayRef,
    to: &DataType,
    taken: Option<&String>,
) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let cast = cast(column, to).doing(|| format!("read {} as {to}", column.data_type()))?;
    match (taken, cast.bad.iter().find(|(_, rows)| rows.true_count() > 0)) {
        (Some(name), Some((problem, rows))) => {
            let row = rows.values().set_indices().next().unwrap_or_default();
            let value = crate::transform::evaluate::value_text(column, row);
            let why = problem.of_one();
            Err(Error::refused(format!(
                "column `{name}`: {value} of the other data cannot be taken over: {why}"
            )))
        }
        _ => crate::transform::retype(&cast.values, to),
    }
}

/// Keys as they are sorted: by their bytes.
pub(super) fn key_array(keys: impl IntoIterator<Item = Key>) -> Result<FixedSizeBinaryArray> {
    let bytes: Vec<u8> = keys.into_iter().flat_map(Key::to_be_bytes).collect();
    FixedSizeBinaryArray::try_new(16, bytes.into(), None).doing(joining)
}

/// The keys of a batch with a column of that name.
pub(super) fn keys_in(batch: &RecordBatch) -> Result<Vec<Key>> {
    let keys = batch.column_by_name("key").and_then(|keys| keys.as_fixed_size_binary_opt());
    let keys = keys.ok_or_else(|| Error::failed("a batch of a join has no keys"))?;
    let key = |row| keys.value(row).try_into().map(Key::from_be_bytes).unwrap_or_default();
    Ok((0..keys.len()).map(key).collect())
}

pub(super) fn places_of(batch: &RecordBatch) -> Result<&UInt64Array> {
    let places = batch.column_by_name("place").and_then(|one| one.as_primitive_opt::<UInt64Type>());
    places.ok_or_else(|| Error::failed("a batch of a join has no places"))
}

pub(super) fn given_of(batch: &RecordBatch) -> Result<&UInt8Array> {
    let given = batch.column_by_name("given").and_then(|one| one.as_primitive_opt::<UInt8Type>());
    given.ok_or_else(|| Error::failed("a batch of a join does not tell what was found"))
}
