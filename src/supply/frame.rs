//! Frames: values that came from elsewhere for some rows of one fragment, as they are kept.
//!
//! A frame is a head and a body. The head is 40 bytes: a mark, the number of runs of rows, the bytes of the body, and an
//! xxh3 hash of 128 bits over the runs and the body; then the runs, each a first row and a count. The body is an Arrow IPC
//! stream of one batch: the key of each row, what became of it, and the values. Numbers are little-endian.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, RecordBatchOptions, UInt8Array,
};
use arrow::datatypes::{Field, Schema, UInt8Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Doing, Result};
use crate::transform::elsewhere::Provided;

/// What a frame begins with.
const MARK: [u8; 8] = *b"relance1";

/// Bytes of a head, without its runs.
pub(super) const HEAD_BYTES: usize = 40;

/// Bytes of what an IPC stream says beside its arrays, about.
const SCHEMA_BYTES: usize = 4 << 10;

/// Bytes of a run in a head.
const RUN_BYTES: usize = 8;

/// What tells one row's inputs from another's: a hash of their values.
pub(super) type Key = u128;

/// Rows that follow each other: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u32,
    pub count: u32,
}

/// The runs of `rows`, which ascend.
pub(super) fn runs_of(rows: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some(run) if run.first.wrapping_add(run.count) == *row => run.count += 1,
            _ => runs.push(Run { first: *row, count: 1 }),
        }
    }
    runs
}

/// Where a frame is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FrameAt {
    /// In a file, from this byte, so many bytes.
    File { file: Arc<str>, at: u64, bytes: u64 },
    /// In memory, by its number.
    Memory(usize),
}

/// Values for some rows.
#[derive(Debug)]
pub(super) struct Frame {
    pub keys: Vec<Key>,
    pub provided: Provided,
}

/// The head of a frame: which rows it is of, and where its body ends.
#[derive(Debug)]
pub(super) struct Head {
    pub runs: Vec<Run>,
    pub hash: u128,
    pub body_bytes: usize,
}

impl Head {
    /// Bytes of the head, runs included.
    pub(super) fn head_bytes(&self) -> usize {
        HEAD_BYTES + self.runs.len() * RUN_BYTES
    }

    /// Bytes of a head whose first [`HEAD_BYTES`] are at the start of `bytes`; `None`, when there is none.
    pub(super) fn bytes_at(bytes: &[u8]) -> Option<usize> {
        let (mark, count) = (bytes.get(..8)?, number::<8>(bytes, 8)?);
        let runs = usize::try_from(u64::from_le_bytes(count)).ok()?;
        (mark == MARK).then_some(HEAD_BYTES.checked_add(runs.checked_mul(RUN_BYTES)?)?)
    }

    /// The head at the start of `bytes`; `None`, when it is not whole.
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let length = Self::bytes_at(bytes)?;
        let whole = bytes.get(..length)?;
        let body_bytes = usize::try_from(u64::from_le_bytes(number::<8>(whole, 16)?)).ok()?;
        let hash = u128::from_le_bytes(number::<16>(whole, 24)?);
        let runs = whole.get(HEAD_BYTES..)?.chunks_exact(RUN_BYTES).map(|run| {
            let first = u32::from_le_bytes(number::<4>(run, 0)?);
            Some(Run { first, count: u32::from_le_bytes(number::<4>(run, 4)?) })
        });
        Some(Self { runs: runs.collect::<Option<_>>()?, hash, body_bytes })
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Frame {
    /// The keys of its rows, with their places in it.
    pub(super) fn keyed(&self) -> impl Iterator<Item = (Key, usize)> {
        self.keys.iter().copied().zip(0..)
    }

    /// The frame in bytes, of these `rows`, which ascend.
    ///
    /// # Errors
    /// `Failed`, when Arrow cannot write it.
    pub(super) fn to_bytes(&self, rows: &[u32]) -> Result<Vec<u8>> {
        let doing = || "write what a producer gave".to_owned();
        let batch = self.as_batch()?;
        let runs: Vec<u8> = runs_of(rows)
            .iter()
            .flat_map(|run| [run.first.to_le_bytes(), run.count.to_le_bytes()].concat())
            .collect();
        let begin = HEAD_BYTES + runs.len();
        let room = batch.get_array_memory_size() + SCHEMA_BYTES;
        let mut bytes = Vec::with_capacity(begin + room);
        bytes.extend(MARK);
        bytes.extend(((runs.len() / RUN_BYTES) as u64).to_le_bytes());
        // The length of the body, and the hash, are known once it is there.
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend(runs);
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).doing(doing)?;
        writer.write(&batch).doing(doing)?;
        writer.finish().doing(doing)?;
        drop(writer);
        let length = (bytes.len() - begin) as u64;
        let hash = hash_of(bytes.get(HEAD_BYTES..).unwrap_or_default());
        let later = length.to_le_bytes().into_iter().chain(hash.to_le_bytes());
        bytes.iter_mut().skip(16).zip(later).for_each(|(byte, new)| *byte = new);
        Ok(bytes)
    }

    /// Reads a whole frame. `None`, when it is not as it was written.
    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        let head = Head::of_bytes(bytes)?;
        let body = bytes.get(head.head_bytes()..)?;
        if body.len() != head.body_bytes || hash_of(bytes.get(HEAD_BYTES..)?) != head.hash {
            return None;
        }
        let batch = StreamReader::try_new(body, None).ok()?.next()?.ok()?;
        let (keys, rest) = batch.columns().split_first()?;
        let (given, values) = rest.split_first()?;
        let keys = keys.as_fixed_size_binary_opt()?;
        let keys: Vec<Key> = (0..keys.len())
            .map(|row| keys.value(row).try_into().map(Key::from_le_bytes).ok())
            .collect::<Option<_>>()?;
        let given = given.as_primitive_opt::<UInt8Type>()?.clone();
        Some(Self { keys, provided: Provided { values: values.to_vec(), given } })
    }

    /// Some of its rows.
    pub(super) fn some_rows(&self, start: usize, count: usize) -> Self {
        let values = self.provided.values.iter().map(|values| values.slice(start, count));
        let given = self.provided.given.slice(start, count);
        let keys = self.keys.iter().skip(start).take(count).copied().collect();
        Self { keys, provided: Provided { values: values.collect(), given } }
    }

    fn as_batch(&self) -> Result<RecordBatch> {
        let doing = || "gather what a producer gave".to_owned();
        let keys: Vec<u8> = self.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        let keys = FixedSizeBinaryArray::try_new(16, keys.into(), None).doing(doing)?;
        let given: UInt8Array = self.provided.given.clone();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(given)];
        columns.extend(self.provided.values.iter().map(Arc::clone));
        let fields: Vec<Field> = columns
            .iter()
            .zip(0_u32..)
            .map(|(column, at)| Field::new(format!("{at}"), column.data_type().clone(), true))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.keys.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .doing(doing)
    }
}

/// A hash of what comes after a head's first bytes: the runs and the body.
fn hash_of(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int32Array;

    fn frame() -> Frame {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
        let given = UInt8Array::from(vec![0, 1, 0]);
        let provided = Provided { values: vec![values], given };
        Frame { keys: vec![1, u128::MAX, 7], provided }
    }

    #[test]
    fn a_frame_reads_as_it_was_written() {
        let bytes = Bytes::from(frame().to_bytes(&[4, 5, 9]).unwrap());
        let head = Head::of_bytes(&bytes).unwrap();
        assert_eq!(head.runs, [Run { first: 4, count: 2 }, Run { first: 9, count: 1 }]);
        assert_eq!(head.head_bytes() + head.body_bytes, bytes.len());
        let read = Frame::from_bytes(&bytes).unwrap();
        assert_eq!(read.keys, frame().keys);
        assert_eq!(read.provided.values[0].as_ref(), frame().provided.values[0].as_ref());
        assert_eq!(read.provided.given, frame().provided.given);
    }

    #[test]
    fn a_frame_that_was_cut_or_changed_is_none() {
        let whole = frame().to_bytes(&[4, 5, 9]).unwrap();
        for length in 0..whole.len() {
            assert!(
                Frame::from_bytes(&Bytes::from(whole[..length].to_vec())).is_none(),
                "{length}"
            );
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(Frame::from_bytes(&Bytes::from(other)).is_none(), "byte {at}");
        }
    }
}
