//! Joins: how rows find their keys, and the parts that are filled with what is found.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use futures::{Stream, TryStreamExt};

use crate::chunk::{Chunk, SourceFragment};
use crate::error::{Error, Result};
use crate::plan::JoinTrial;
use crate::supply::frame::Key;
use crate::supply::join::{Joined, NOT_NEEDED, Row};
use crate::supply::{Supply, keys};
use crate::transform::{Transform, elsewhere::Given};

impl Supply {
    /// The places of the joins.
    pub(crate) fn joins(&self) -> Vec<usize> {
        let joins = self.joins.iter().enumerate();
        joins.filter(|(_, join)| join.is_some()).map(|(place, _)| place).collect()
    }

    /// Looks how `rows` find their keys in the join at `place`.
    ///
    /// # Errors
    /// `Refused`, when a key is twice there; `Failed`, when the other data cannot be read.
    pub(crate) async fn try_join(
        &self,
        place: usize,
        rows: impl Stream<Item = Result<Vec<Row>>> + Send + 'static,
    ) -> Result<JoinTrial> {
        let trial = self.joined(place)?.try_rows(rows).await?;
        self.expect_all(place, &trial)?;
        Ok(trial)
    }

    pub(super) fn joined(&self, place: usize) -> Result<&Joined> {
        let joined = self.joins.get(place).and_then(Option::as_ref);
        joined.ok_or_else(|| Error::failed("this is no join"))
    }

    /// Refuses rows whose key is missing, where all are to be found.
    fn expect_all(&self, place: usize, trial: &JoinTrial) -> Result<()> {
        let joined = self.joined(place)?;
        if joined.expects_all() && trial.missing > 0 {
            let rows: Vec<_> = trial.examples.iter().map(|row| format!("_rowid {row}")).collect();
            return Err(joined.missing_keys(trial.missing, &rows.join(", ")));
        }
        Ok(())
    }

    /// The fragments of `chunks` that are not joined yet at `place`.
    ///
    /// # Errors
    /// `Failed`, when what is kept cannot be read.
    pub(crate) async fn not_joined(
        &self,
        place: usize,
        chunks: &[Chunk],
    ) -> Result<Vec<SourceFragment>> {
        let mut wanted = Vec::new();
        if chunks.is_empty() || self.joined(place)?.is_small().await? {
            return Ok(wanted);
        }
        for fragment in chunks.iter().flat_map(|chunk| &chunk.fragments) {
            let of = (place, fragment.origin.signature.clone());
            if self.parts.count_rows(&of).await? < fragment.rows {
                wanted.push(fragment.clone());
            }
        }
        Ok(wanted)
    }

    /// Joins `rows` of `fragments` at `place`, and keeps what is found. The address of a row has the place of its fragment
    /// among them in the upper half.
    ///
    /// # Errors
    /// `Refused`, when a key is missing that may not be; `Failed`, when something cannot be read or written.
    ///
    /// # Crash
    /// What was kept is not joined again.
    pub(crate) async fn fill_join(
        &self,
        place: usize,
        fragments: &[SourceFragment],
        rows: impl Stream<Item = Result<Vec<Row>>> + Send + 'static,
    ) -> Result<()> {
        let joined = self.joined(place)?;
        let filled = joined.filled(rows).await?;
        let mut filled = std::pin::pin!(filled);
        let mut last = None;
        while let Some((rows, frame)) = filled.try_next().await? {
            let missing = frame.provided.that_are(Given::Missing);
            let missing = missing.values().set_indices().filter_map(|row| rows.get(row));
            let missing: Vec<u64> = missing.copied().filter(|row| row & NOT_NEEDED == 0).collect();
            if let (true, Some(first)) = (joined.expects_all(), missing.first()) {
                let example = format!("row {} of a fragment", first & u64::from(u32::MAX));
                return Err(joined.missing_keys(missing.len() as u64, &example));
            }
            let mut start = 0;
            while let Some(first) = rows.get(start) {
                let own = first >> 32;
                let count = rows
                    .get(start..)
                    .map_or(0, |rest| rest.partition_point(|row| row >> 32 == own));
                let fragment = usize::try_from(own & ((NOT_NEEDED >> 32) - 1))
                    .ok()
                    .and_then(|own| fragments.get(own));
                let fragment = fragment.ok_or_else(|| Error::failed("a row is of no fragment"))?;
                let of = (place, fragment.origin.signature.clone());
                if let Some(last) = last.replace(of.clone()).filter(|last| *last != of) {
                    self.parts.finish_part(&last).await?;
                }
                let inside: Vec<u32> = rows
                    .iter()
                    .skip(start)
                    .take(count)
                    .map(|row| u32::try_from(row & u64::from(u32::MAX)).unwrap_or_default())
                    .collect();
                let frame = Arc::new(frame.some_rows(start, count));
                self.parts.keep_rows(&of, &inside, frame).await?;
                start += count;
            }
        }
        if let Some(last) = last {
            self.parts.finish_part(&last).await?;
        }
        Ok(())
    }
}

/// The keys of the rows of `batch` for the join at `place`, and whether a part of each is null.
///
/// # Errors
/// `Failed`, when the batch is not of the source's schema.
pub(crate) fn row_keys(
    transform: &Transform,
    place: usize,
    batch: &RecordBatch,
    hidden: Option<&BooleanArray>,
) -> Result<Vec<(Key, bool)>> {
    let inputs = transform.inputs_of(place, batch, hidden, &[])?;
    let nulls = keys::any_null(inputs.columns(), inputs.num_rows());
    let keys = keys::keys_of(inputs.columns(), inputs.num_rows())?;
    Ok(keys.into_iter().zip(nulls).collect())
}
