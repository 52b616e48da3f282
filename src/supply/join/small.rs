//! The other data of a join where memory holds it: rows are looked up where they are staged, and nothing is sorted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt8Array, UInt64Array, new_null_array};
use arrow::datatypes::{Field, SchemaRef};
use arrow_select::interleave::interleave;

use crate::error::{Doing, Result};
use crate::supply::frame::Key;
use crate::supply::join::counts::Counts;
use crate::supply::join::rows::{joining, key_array, keys_in, places_of};
use crate::transform::batch_bytes;
use crate::transform::elsewhere::{Given, Provided};

/// The other data, in memory.
#[derive(Debug)]
pub(super) struct Small {
    /// The values, in the order of the files.
    batches: Vec<RecordBatch>,
    /// Each key once, in the order of the keys.
    entries: Vec<Entry>,
    /// Where the keys with the same first bits begin among them.
    starts: Vec<u32>,
    /// Bits of a key after these.
    shift: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    /// The number of the row in all files.
    place: u64,
    batch: u32,
    row: u32,
}

/// Rows of the other data, as they are read.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Their values.
    batches: Vec<RecordBatch>,
    entries: Vec<Entry>,
    bytes: u64,
}

impl Gathered {
    /// Takes in `batch`, with keys and places before its values. Gives the bytes that all take so far.
    ///
    /// # Errors
    /// `Failed`, when it is no batch of a join.
    pub(super) fn take_in(&mut self, batch: &RecordBatch) -> Result<u64> {
        let places = places_of(batch)?.values().iter().copied();
        let number = u32::try_from(self.batches.len()).unwrap_or(u32::MAX);
        let rows = keys_in(batch)?.into_iter().zip(places).zip(0_u32..);
        let rows = rows.map(|((key, place), row)| Entry { key, place, batch: number, row });
        self.entries.extend(rows);
        let columns: Vec<usize> = (2..batch.num_columns()).collect();
        let values = batch.project(&columns).doing(joining)?;
        self.bytes += batch_bytes(&values) + (batch.num_rows() * size_of::<Entry>()) as u64;
        self.batches.push(values);
        Ok(self.bytes)
    }

    /// The batches as they were taken in.
    pub(super) fn into_batches(
        self,
        schema: SchemaRef,
    ) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let mut entries = self.entries.into_iter();
        self.batches.into_iter().map(move |values| {
            let own: Vec<Entry> = entries.by_ref().take(values.num_rows()).collect();
            let keys = key_array(own.iter().map(|one| one.key))?;
            let places = UInt64Array::from_iter_values(own.iter().map(|one| one.place));
            let mut columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(places)];
            columns.extend(values.columns().iter().map(Arc::clone));
            RecordBatch::try_new(Arc::clone(&schema), columns).doing(joining)
        })
    }
}

impl Small {
    /// What was `gathered`, in the order of its rows; of rows with one key the first counts, or the `last`.
    pub(super) fn of(gathered: Gathered, last: bool) -> (Self, Counts) {
        let Gathered { batches, mut entries, .. } = gathered;
        let mut counts = Counts { rows: entries.len() as u64, ..Counts::default() };
        entries.sort_unstable_by_key(|one| (one.key, one.place));
        for (before, one) in entries.iter().zip(entries.iter().skip(1)) {
            if before.key == one.key {
                counts.repeats(one.place);
            }
        }
        if last {
            // The one that is kept is that which comes first.
            entries.reverse();
            entries.dedup_by_key(|one| one.key);
            entries.reverse();
        } else {
            entries.dedup_by_key(|one| one.key);
        }
        counts.keys = entries.len() as u64;
        let bits = entries.len().max(1).ilog2();
        let shift = Key::BITS - bits;
        let first_bits = |key: Key| key.checked_shr(shift).unwrap_or_default();
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for first in 0..=(1_u128 << bits) {
            let begun = starts.last().copied().unwrap_or_default();
            let rest = entries.get(begun as usize..).unwrap_or_default();
            let more = rest.iter().take_while(|one| first_bits(one.key) < first).count();
            starts.push(begun + u32::try_from(more).unwrap_or_default());
        }
        (Self { batches, entries, starts, shift }, counts)
    }

    fn entry(&self, key: Key) -> Option<&Entry> {
        let first = usize::try_from(key.checked_shr(self.shift).unwrap_or_default()).ok()?;
        let (from, to) = (*self.starts.get(first)? as usize, *self.starts.get(first + 1)? as usize);
        self.entries.get(from..to)?.iter().find(|one| one.key == key)
    }

    pub(super) fn has_key(&self, key: Key) -> bool {
        self.entry(key).is_some()
    }

    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// `Failed`, when they cannot be put together.
    pub(super) fn provide_keys(&self, keys: &[Key], outputs: &[Field]) -> Result<Provided> {
        let found: Vec<Option<&Entry>> = keys.iter().map(|key| self.entry(*key)).collect();
        // Nulls come from an array of their own, after all others.
        let none = (self.batches.len(), 0);
        let places: Vec<(usize, usize)> = found
            .iter()
            .map(|one| one.map_or(none, |one| (one.batch as usize, one.row as usize)))
            .collect();
        let values = outputs.iter().enumerate().map(|(column, field)| {
            let nulls = new_null_array(field.data_type(), 1);
            let mut arrays: Vec<&dyn Array> =
                self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            arrays.push(&nulls);
            interleave(&arrays, &places).doing(joining)
        });
        let given = found.iter().map(|one| match one {
            Some(_) => Given::Value as u8,
            None => Given::Missing as u8,
        });
        let given = given.collect::<Vec<_>>();
        Ok(Provided { values: values.collect::<Result<_>>()?, given: UInt8Array::from(given) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int32Array};
    use proptest::prelude::*;

    fn batch(first: u64, keys: &[Key]) -> RecordBatch {
        let places = first..first + keys.len() as u64;
        let values = places.clone().map(|place| i32::try_from(place).unwrap());
        let columns: [(&str, ArrayRef); 3] = [
            ("key", Arc::new(key_array(keys.iter().copied()).unwrap())),
            ("place", Arc::new(UInt64Array::from_iter_values(places))),
            ("v0", Arc::new(Int32Array::from_iter_values(values))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    proptest! {
        /// Each key is found, in the first or the last of its rows, and no other one.
        #[test]
        fn keys_are_found_in_their_rows(
            keys in proptest::collection::vec((0_u128..40, any::<bool>()), 0..80),
            cut in 0_usize..80,
            last in any::<bool>(),
        ) {
            // Some lie at one end, some at the other.
            let keys: Vec<Key> =
                keys.into_iter().map(|(key, high)| if high { Key::MAX - key } else { key }).collect();
            let (one, other) = keys.split_at(cut.min(keys.len()));
            let mut gathered = Gathered::default();
            let batches = [batch(0, one), batch(one.len() as u64, other)];
            for batch in &batches {
                gathered.take_in(batch).unwrap();
            }
            let (small, counts) = Small::of(gathered, last);
            let field = Field::new("v0", arrow::datatypes::DataType::Int32, true);
            for key in (0..45).flat_map(|key| [key, Key::MAX - key]) {
                let mut rows = keys.iter().enumerate().filter(|(_, one)| **one == key);
                let row = if last { rows.next_back() } else { rows.next() };
                let row = row.map(|(row, _)| i32::try_from(row).unwrap());
                prop_assert_eq!(small.has_key(key), row.is_some());
                let found = small.provide_keys(&[key], std::slice::from_ref(&field)).unwrap();
                let value = found.values[0].as_primitive::<arrow::datatypes::Int32Type>();
                prop_assert_eq!((!value.is_null(0)).then(|| value.value(0)), row);
            }
            let different: std::collections::BTreeSet<_> = keys.iter().collect();
            prop_assert_eq!(counts.keys, different.len() as u64);
            prop_assert_eq!(counts.duplicates, (keys.len() - different.len()) as u64);
        }
    }
}
