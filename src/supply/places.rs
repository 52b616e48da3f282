//! Where the rows of batches lie in the source: in which fragment, and where in it.

use std::collections::VecDeque;
use std::ops::Range;

use roaring::RoaringBitmap;

use crate::chunk::{Chunk, Signature};

/// Where the rows of a batch lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    fragments: Vec<Signature>,
    /// For each row, the fragment, and the row in it.
    rows: Vec<(usize, u32)>,
}

impl Places {
    /// The fragment of `row`.
    pub(super) fn fragment_of(&self, row: usize) -> Option<Signature> {
        let (fragment, _) = self.rows.get(row)?;
        self.fragments.get(*fragment).cloned()
    }

    /// The place of `row` in its fragment.
    pub(super) fn row_in_fragment(&self, row: usize) -> Option<u32> {
        self.rows.get(row).map(|(_, inside)| *inside)
    }

    /// The rows of each fragment, and the first of them in the batch.
    pub(super) fn by_fragment(&self) -> Vec<(&Signature, usize, Vec<u32>)> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let runs = self.fragment_runs(&all).into_iter().filter_map(|(fragment, run)| {
            let rows = self.rows.get(run.clone())?.iter().map(|(_, row)| *row).collect();
            Some((self.fragments.get(fragment)?, run.start, rows))
        });
        runs.collect()
    }

    /// The runs of `rows` that are of one fragment: its place, and places among `rows`.
    pub(super) fn fragment_runs(&self, rows: &[usize]) -> Vec<(usize, Range<usize>)> {
        let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let Some((fragment, _)) = self.rows.get(*row) else { continue };
            match runs.last_mut() {
                Some((last, run)) if last == fragment => run.end = at + 1,
                _ => runs.push((*fragment, at..at + 1)),
            }
        }
        runs
    }
}

/// Walks the rows of a chunk, in the order in which they are scanned.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    fragments: VecDeque<Walked>,
}

#[derive(Debug)]
struct Walked {
    fragment: Signature,
    rows: u32,
    next: u32,
    /// Rows that are not scanned.
    left_out: RoaringBitmap,
}

impl Cursor {
    /// The rows of `chunk`, deleted ones too where they are scanned, and without `deleted` ones otherwise.
    pub(crate) fn of(chunk: &Chunk, deleted: Option<Vec<RoaringBitmap>>) -> Self {
        let mut deleted = deleted.map(Vec::into_iter);
        let fragments = chunk.fragments.iter().map(|fragment| Walked {
            fragment: fragment.origin.signature.clone(),
            rows: u32::try_from(fragment.physical_rows).unwrap_or(u32::MAX),
            next: 0,
            left_out: deleted.as_mut().and_then(Iterator::next).unwrap_or_default(),
        });
        Self { fragments: fragments.collect() }
    }

    /// Where the next `count` rows lie.
    pub(crate) fn next_rows(&mut self, count: usize) -> Places {
        let mut places = Places::default();
        while places.rows.len() < count
            && let Some(first) = self.fragments.front_mut()
        {
            if first.next >= first.rows {
                self.fragments.pop_front();
                continue;
            }
            let row = first.next;
            first.next += 1;
            if first.left_out.contains(row) {
                continue;
            }
            if places.fragments.last() != Some(&first.fragment) {
                places.fragments.push(first.fragment.clone());
            }
            places.rows.push((places.fragments.len() - 1, row));
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkId, Origin, SourceFragment};

    fn chunk(rows: &[u64]) -> Chunk {
        let fragments = rows.iter().zip(0..).map(|(rows, id)| SourceFragment {
            origin: Origin { id, signature: Signature(format!("f{id}")), deletions: None },
            rows: *rows,
            physical_rows: *rows,
            bytes: 0,
        });
        Chunk { id: ChunkId(0), fragments: fragments.collect() }
    }

    #[test]
    fn rows_are_walked_over_fragments_and_deletions() {
        let deleted = vec![RoaringBitmap::from_iter([0, 2]), RoaringBitmap::new()];
        let mut cursor = Cursor::of(&chunk(&[4, 2]), Some(deleted));
        let places = cursor.next_rows(3);
        let at = |row| (places.fragment_of(row).unwrap().0, places.row_in_fragment(row).unwrap());
        assert_eq!([at(0), at(1)], [("f0".to_owned(), 1), ("f0".to_owned(), 3)]);
        assert_eq!(at(2), ("f1".to_owned(), 0));
        assert_eq!(places.fragment_runs(&[0, 1, 2]), [(0, 0..2), (1, 2..3)]);
        let rest = cursor.next_rows(9);
        assert_eq!(rest.rows.len(), 1);
        assert_eq!(Cursor::of(&chunk(&[2]), None).next_rows(9).rows.len(), 2);
    }
}
