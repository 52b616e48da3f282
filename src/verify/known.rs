//! What was decoded before: the same bytes hold the same values, and are not decoded again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, stream};
use lance_table::format::DataFile;

use crate::limits::{REPEATED_FILE_BYTES, REPEATED_FILE_ROWS};
use crate::table::source::Batches;
use crate::transform::digest::Digest;

/// Digests of pages by those of the values that were decoded from them: constants of as many rows are the same pages
/// in every file.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<HashMap<Digest, Digest>>>);

impl Known {
    /// Whether `pages` were found to hold these `values`.
    pub(super) fn holds(&self, pages: Digest, values: Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&values) == Some(&pages)
    }

    pub(super) fn learn(&self, pages: Digest, values: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(values, pages);
    }
}

/// A small file that was decoded.
pub(super) struct DecodedFile {
    bytes: Bytes,
    rows: Option<usize>,
    batches: Vec<RecordBatch>,
}

impl DecodedFile {
    pub(super) fn of(bytes: Bytes, rows: Option<usize>, batches: Vec<RecordBatch>) -> Self {
        Self { bytes, rows, batches }
    }

    /// Whether `file` of so many `rows` is small enough to be kept.
    pub(super) fn may_be(file: &DataFile, rows: Option<usize>) -> bool {
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        size <= REPEATED_FILE_BYTES && rows.is_some_and(|rows| rows <= REPEATED_FILE_ROWS)
    }

    /// Whether a file of these `bytes` and `rows` holds the same.
    pub(super) fn is(&self, bytes: &Bytes, rows: Option<usize>) -> bool {
        self.bytes == *bytes && self.rows == rows
    }

    /// What was decoded of it.
    pub(super) fn batches(&self) -> Batches {
        stream::iter(self.batches.clone()).map(Ok).boxed()
    }
}
