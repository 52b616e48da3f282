//! What was read back, beside what was expected.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use roaring::RoaringBitmap;

use crate::chunk::ChunkId;
use crate::error::{Doing, Error, Kind, Result};
use crate::stage::Staged;
use crate::transform::digest::Digest;

/// `batch`, whose rows are `rows` of a fragment, without those that are `deleted`.
pub(super) fn without(
    batch: RecordBatch,
    deleted: &RoaringBitmap,
    rows: std::ops::Range<u64>,
) -> Result<RecordBatch> {
    let lives = |row| !u32::try_from(row).is_ok_and(|row| deleted.contains(row));
    let lives: BooleanArray = rows.map(|row| Some(lives(row))).collect();
    if lives.true_count() == batch.num_rows() {
        return Ok(batch);
    }
    filter_record_batch(&batch, &lives).doing(|| "leave out deleted rows".to_owned())
}

/// `error`, which came of reading `chunk` back: a difference, whatever it is.
pub(super) fn unreadable(chunk: ChunkId, error: Error) -> Error {
    if error.kind() == Kind::Mismatch {
        return error;
    }
    Error::mismatch(format!("chunk {chunk} cannot be read back")).caused_by(error)
}

/// Fails when a column of `chunk` is `found` to be another than is `wanted`.
///
/// # Errors
/// `Mismatch` then.
pub(super) fn compare_column(
    chunk: ChunkId,
    name: &str,
    wanted: Digest,
    found: Digest,
) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "column `{name}` of chunk {chunk} was staged with other values than the source has \
         (expected digest {wanted}, found {found})"
    )))
}

/// Fails when there are not as many rows `found` as were `staged`.
///
/// # Errors
/// `Mismatch` then.
pub(super) fn compare_rows(staged: &Staged, found: u64) -> Result<()> {
    if found == staged.rows {
        return Ok(());
    }
    let (chunk, rows) = (staged.chunk, staged.rows);
    Err(Error::mismatch(format!("chunk {chunk} was staged with {found} rows instead of {rows}")))
}
