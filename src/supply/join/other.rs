//! The other data of a join, sorted by its keys, each there once: a file of frames, and the first key of each.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt8Array, UInt32Array, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, UInt64Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow_select::concat::concat;
use arrow_select::take::take;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use crate::error::{Doing, Error, Result};
use crate::supply::frame::Key;
use crate::supply::join::counts::Counts;
use crate::supply::join::rows::{joining, keys_in, told};
use crate::transform::elsewhere::Given;

/// The other data, sorted.
#[derive(Debug)]
pub(super) struct Other {
    path: PathBuf,
    frames: Vec<At>,
    pub counts: Counts,
}

#[derive(Debug, Clone, Copy)]
struct At {
    first: Key,
    start: u64,
    bytes: u64,
}

impl Other {
    /// Writes what is `sorted` by key and place into a file of `folder`; of rows with one key the first is kept, or the
    /// `last`.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read or written.
    pub(super) async fn write_sorted(
        mut sorted: SendableRecordBatchStream,
        folder: &Path,
        last: bool,
    ) -> Result<Self> {
        let path = folder.join(format!("other-{}", uuid::Uuid::new_v4().simple()));
        let doing = || format!("write {}", path.display());
        let mut file = BufWriter::new(File::create_new(&path).doing(doing)?);
        let mut own = Self { path: path.clone(), frames: Vec::new(), counts: Counts::default() };
        let (mut start, mut before): (u64, Option<RecordBatch>) = (0, None);
        while let Some(batch) = sorted.try_next().await.map_err(told)? {
            let kept = own.without_repeats(before.as_ref(), &batch, last)?;
            if last {
                // The last row of a batch is kept if the next one begins with another key.
                if let Some(before) = before.take() {
                    let (end, begin) = (keys_in(&before)?, keys_in(&batch)?);
                    let goes_on = end.last() == begin.first() && !begin.is_empty();
                    let rows = before.num_rows().saturating_sub(usize::from(goes_on));
                    own.write_frame(&mut file, &mut start, &before.slice(0, rows))?;
                }
                before = Some(kept);
            } else {
                own.write_frame(&mut file, &mut start, &kept)?;
                before = Some(batch);
            }
        }
        if let (true, Some(before)) = (last, before) {
            own.write_frame(&mut file, &mut start, &before)?;
        }
        file.flush().doing(doing)?;
        Ok(own)
    }

    /// The rows of `batch` that are kept: those whose key no other one has that comes before, or after if the `last`
    /// counts. `before` is the batch before.
    fn without_repeats(
        &mut self,
        before: Option<&RecordBatch>,
        batch: &RecordBatch,
        last: bool,
    ) -> Result<RecordBatch> {
        let keys = keys_in(batch)?;
        let places = batch.column_by_name("place");
        let places = places.and_then(|places| places.as_primitive_opt::<UInt64Type>());
        let last_before = before.map(keys_in).transpose()?.and_then(|keys| keys.last().copied());
        let previous = |row: usize| match row.checked_sub(1) {
            None => last_before,
            Some(row) => keys.get(row).copied(),
        };
        let twice: Vec<bool> =
            keys.iter().enumerate().map(|(row, key)| previous(row) == Some(*key)).collect();
        for (row, _) in twice.iter().enumerate().filter(|(_, twice)| **twice) {
            self.counts.repeats(places.map_or(0, |places| places.value(row)));
        }
        self.counts.rows += keys.len() as u64;
        let kept: Vec<bool> = if last {
            let next = |row: usize| keys.get(row + 1);
            keys.iter().enumerate().map(|(row, key)| next(row) != Some(key)).collect()
        } else {
            twice.iter().map(|twice| !twice).collect()
        };
        filter_record_batch(batch, &BooleanArray::from(kept)).doing(joining)
    }

    /// Appends a frame.
    fn write_frame(
        &mut self,
        file: &mut BufWriter<File>,
        start: &mut u64,
        batch: &RecordBatch,
    ) -> Result<()> {
        let Some(first) = keys_in(batch)?.first().copied() else { return Ok(()) };
        let doing = || format!("write {}", self.path.display());
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).doing(doing)?;
        writer.write(batch).doing(doing)?;
        writer.finish().doing(doing)?;
        drop(writer);
        file.write_all(&bytes).doing(doing)?;
        self.frames.push(At { first, start: *start, bytes: bytes.len() as u64 });
        self.counts.keys += batch.num_rows() as u64;
        *start += bytes.len() as u64;
        Ok(())
    }

    /// Walks it, from the least key on.
    pub(super) fn begin_walk(self: Arc<Self>) -> Walk {
        Walk { other: self, file: None, frame: None }
    }
}

/// Finds keys that ascend.
pub(super) struct Walk {
    other: Arc<Other>,
    file: Option<File>,
    /// The frame that was read last: its place, its keys, and its values.
    frame: Option<(usize, Vec<Key>, Vec<ArrayRef>)>,
}

/// What was found.
pub(super) struct WalkFound {
    pub given: UInt8Array,
    pub values: Vec<ArrayRef>,
}

impl Walk {
    /// The values of the rows with the keys `wanted`, which ascend; those that are `null` have none.
    ///
    /// # Errors
    /// `Failed`, when the file cannot be read.
    pub(super) fn look_up(
        &mut self,
        wanted: &[Key],
        null: impl Fn(usize) -> bool,
        outputs: &[Field],
    ) -> Result<WalkFound> {
        let mut given = Vec::with_capacity(wanted.len());
        let mut pieces: Vec<Vec<ArrayRef>> = Vec::new();
        let mut row = 0;
        while row < wanted.len() {
            let at = self.frame_of(wanted.get(row).copied().unwrap_or_default());
            let end = match at.and_then(|at| self.other.frames.get(at + 1)) {
                Some(next) => {
                    row + wanted
                        .get(row..)
                        .map_or(0, |rest| rest.partition_point(|key| *key < next.first))
                }
                None if at.is_some() => wanted.len(),
                // Before the first frame.
                None => match self.other.frames.first() {
                    Some(first) => {
                        row + wanted
                            .get(row..)
                            .map_or(0, |rest| rest.partition_point(|key| *key < first.first))
                    }
                    None => wanted.len(),
                },
            };
            let keys = wanted.get(row..end).unwrap_or_default();
            let places: UInt32Array = match at {
                None => keys.iter().map(|_| None::<u32>).collect(),
                Some(at) => {
                    let (own, _) = self.frame_at(at)?;
                    let found = keys.iter().enumerate().map(|(inside, key)| {
                        let place = own.binary_search(key).ok().filter(|_| !null(row + inside));
                        place.and_then(|place| u32::try_from(place).ok())
                    });
                    found.collect()
                }
            };
            let missing = |place| if places.is_null(place) { Given::Missing } else { Given::Value };
            given.extend((0..places.len()).map(|place| missing(place) as u8));
            let values = self.frame.as_ref().filter(|_| at.is_some()).map(|(_, _, values)| values);
            let piece = outputs.iter().enumerate().map(|(column, field)| {
                match values.and_then(|values| values.get(column)) {
                    Some(values) => take(values, &places, None).doing(joining),
                    None => Ok(new_null_array(field.data_type(), places.len())),
                }
            });
            pieces.push(piece.collect::<Result<_>>()?);
            row = end;
        }
        let values = outputs.iter().enumerate().map(|(column, field)| {
            let arrays: Vec<&dyn Array> =
                pieces.iter().filter_map(|piece| piece.get(column)).map(AsRef::as_ref).collect();
            if arrays.is_empty() {
                return Ok(new_null_array(field.data_type(), 0));
            }
            concat(&arrays).doing(joining)
        });
        Ok(WalkFound { given: UInt8Array::from(given), values: values.collect::<Result<_>>()? })
    }

    /// The frame that has `key`, if any has it.
    fn frame_of(&self, key: Key) -> Option<usize> {
        self.other.frames.partition_point(|frame| frame.first <= key).checked_sub(1)
    }

    fn frame_at(&mut self, at: usize) -> Result<(&[Key], &[ArrayRef])> {
        if self.frame.as_ref().is_none_or(|(known, ..)| *known != at) {
            let path = &self.other.path;
            let doing = || format!("read {}", path.display());
            let gone = || Error::failed("a frame of a join is gone");
            let frame = self.other.frames.get(at).copied().ok_or_else(gone)?;
            let mut file = match self.file.take() {
                Some(file) => file,
                None => File::open(path).doing(doing)?,
            };
            file.seek(SeekFrom::Start(frame.start)).doing(doing)?;
            let mut bytes = vec![0; usize::try_from(frame.bytes).unwrap_or_default()];
            file.read_exact(&mut bytes).doing(doing)?;
            self.file = Some(file);
            let mut reader = StreamReader::try_new(bytes.as_slice(), None).doing(doing)?;
            let batch = reader.next().ok_or_else(gone)?.doing(doing)?;
            let values = batch.columns().get(2..).unwrap_or_default().to_vec();
            self.frame = Some((at, keys_in(&batch)?, values));
        }
        let frame = self.frame.as_ref();
        let frame = frame.map(|(_, keys, values)| (keys.as_slice(), values.as_slice()));
        frame.ok_or_else(|| Error::failed("a frame of a join is gone"))
    }
}
