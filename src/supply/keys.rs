//! What tells one row's inputs from another's.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Doing, Result};
use crate::supply::frame::Key;

/// A hash of 128 bits of the values of each row of `columns`, which all have `rows`. Equal values have equal hashes,
/// whatever their batches are.
///
/// # Errors
/// `Failed`, for a type that has no order.
pub(super) fn keys_of(columns: &[ArrayRef], rows: usize) -> Result<Vec<Key>> {
    let doing = || "tell the rows of a batch apart".to_owned();
    if columns.is_empty() {
        return Ok(vec![0; rows]);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    let rows_of = RowConverter::new(fields.collect()).doing(doing)?;
    let all = rows_of.convert_columns(columns).doing(doing)?;
    Ok(all.iter().map(|row| xxh3_128(row.as_ref())).collect())
}

/// Whether rows of `data_type` can be told apart.
pub(super) fn has_keys(data_type: &DataType) -> bool {
    RowConverter::supports_fields(&[SortField::new(data_type.clone())])
}

/// The rows in which any of `columns` is null.
pub(super) fn any_null(columns: &[ArrayRef], rows: usize) -> Vec<bool> {
    let is_null = |row: usize| columns.iter().any(|column| column.is_null(row));
    (0..rows).map(is_null).collect()
}
