//! The unit of work and of resume: one source fragment, or a run of small ones.

use std::{collections::HashMap, fmt};

use lance_table::format::DeletionFile;
use serde::{Deserialize, Serialize};

use crate::limits::SMALL_FILE_BYTES;

/// The ordinal of a chunk; the order of chunks is the order of rows in the table.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct ChunkId(pub u32);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a source fragment's values depend on: its id, its length and its data files. Two fragments with
/// one signature hold the same values; which of their rows are deleted may differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Signature(pub String);

/// A source fragment as it was when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Its id in the source.
    pub id: u64,
    pub signature: Signature,
    /// Which of its rows are deleted; `None` is none.
    pub deletions: Option<DeletionFile>,
}

/// A source fragment, as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFragment {
    pub origin: Origin,
    /// Rows, deleted ones not counted.
    pub rows: u64,
    /// Rows in its data files, deleted ones counted.
    pub physical_rows: u64,
    /// Bytes of its data files.
    pub bytes: u64,
}

/// A run of source fragments that is staged, verified and recorded as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Its place in the order of rows.
    pub id: ChunkId,
    pub fragments: Vec<SourceFragment>,
}

impl Chunk {
    pub(crate) fn rows(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.rows).sum()
    }

    /// Rows in the chunk's source files, deleted ones counted.
    pub(crate) fn physical_rows(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.physical_rows).sum()
    }

    /// Bytes of the chunk's source files.
    pub(crate) fn bytes(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.bytes).sum()
    }

    /// Whether it is so little that it is done sooner on one thread than passed on from one to the next.
    pub(crate) fn is_small(&self) -> bool {
        self.bytes() <= SMALL_FILE_BYTES
    }

    /// Where its rows come from, in order.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        self.fragments.iter().map(|fragment| fragment.origin.clone()).collect()
    }

    /// The signatures of its source fragments, in order.
    pub(crate) fn signatures(&self) -> Vec<Signature> {
        signatures(self.fragments.iter().map(|fragment| &fragment.origin))
    }
}

/// The signatures of `origins`, in order.
pub(crate) fn signatures<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> Vec<Signature> {
    origins.into_iter().map(|origin| origin.signature.clone()).collect()
}

/// A run of small fragments is closed after so many bytes, whatever its rows.
pub(crate) const CHUNK_BYTES_MAX: u64 = 4 << 30;

/// Chunks that a table in an object store is cut into, at least, and how many bytes each has: requests of one chunk are made
/// one after the other, and what is staged of one is read back while others are written.
const STORE_CHUNKS: u64 = 32;
const STORE_CHUNK_BYTES: (u64, u64) = (32 << 20, CHUNK_BYTES_MAX);

/// Bytes of a chunk of a table of so many in an object store. A power of two, so that rows which others add hardly ever
/// move the borders of chunks.
pub(crate) fn store_chunk_bytes(all: u64) -> u64 {
    let (least, most) = STORE_CHUNK_BYTES;
    (all / STORE_CHUNKS).checked_next_power_of_two().unwrap_or(most).clamp(least, most)
}

/// How much a run of small fragments may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkLimits {
    /// Rows after which a run is closed.
    pub rows: u64,
    /// Bytes after which a run is closed.
    pub bytes: u64,
    /// Fragments of a run, at most.
    pub fragments: usize,
}

/// Cuts `fragments` into chunks, in order: a fragment that reaches a limit stands alone, smaller neighbours share a
/// chunk. Runs that are `staged` already stay together wherever they still stand in one piece, so that a row that
/// others wrote does not move the borders of everything after it. Same fragments, same chunks.
pub(crate) fn cut(
    fragments: &[SourceFragment],
    staged: &[Vec<Signature>],
    limits: ChunkLimits,
) -> Vec<Chunk> {
    let by_first: HashMap<_, _> =
        staged.iter().filter_map(|run| Some((run.first()?, run))).collect();
    let mut cutter = Cutter { limits, chunks: Vec::new(), open: false, rows: 0, bytes: 0 };
    let mut rest = fragments;
    while let Some((first, after)) = rest.split_first() {
        let whole = by_first.get(&first.origin.signature).and_then(|run| {
            let parts = rest.split_at_checked(run.len());
            parts.filter(|(whole, _)| whole.iter().map(|one| &one.origin.signature).eq(run.iter()))
        });
        rest = if let Some((whole, after)) = whole {
            cutter.add(whole.to_vec(), false);
            after
        } else {
            cutter.push(first);
            after
        };
    }
    cutter.chunks
}

struct Cutter {
    limits: ChunkLimits,
    chunks: Vec<Chunk>,
    /// Whether the last chunk may grow, and what it has then.
    open: bool,
    rows: u64,
    bytes: u64,
}

impl Cutter {
    fn push(&mut self, fragment: &SourceFragment) {
        let joins = self.open
            && self.chunks.last().is_some_and(|last| {
                last.fragments.len() < self.limits.fragments
                    && self.rows.saturating_add(fragment.rows) <= self.limits.rows
                    && self.bytes.saturating_add(fragment.bytes) <= self.limits.bytes
            });
        match self.chunks.last_mut() {
            Some(last) if joins => last.fragments.push(fragment.clone()),
            _ => {
                (self.rows, self.bytes) = (0, 0);
                self.add(vec![fragment.clone()], true);
            }
        }
        self.rows = self.rows.saturating_add(fragment.rows);
        self.bytes = self.bytes.saturating_add(fragment.bytes);
    }

    fn add(&mut self, fragments: Vec<SourceFragment>, open: bool) {
        let id = ChunkId(u32::try_from(self.chunks.len()).unwrap_or(u32::MAX));
        self.chunks.push(Chunk { id, fragments });
        self.open = open;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { rows: 100, bytes: 1_000, fragments: usize::MAX };

    fn fragment(id: u64, rows: u64, bytes: u64) -> SourceFragment {
        let origin = Origin { id, signature: Signature(format!("{id}")), deletions: None };
        SourceFragment { origin, rows, physical_rows: rows, bytes }
    }

    fn ids(chunks: &[Chunk]) -> Vec<Vec<u64>> {
        let ids = |chunk: &Chunk| chunk.fragments.iter().map(|f| f.origin.id).collect();
        chunks.iter().map(ids).collect()
    }

    #[test]
    fn a_table_in_a_store_is_cut_into_chunks_that_hardly_move() {
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!(mib(store_chunk_bytes(0)), 32);
        assert_eq!(mib(store_chunk_bytes(512 << 20)), 32);
        assert_eq!(mib(store_chunk_bytes(10 << 30)), 512);
        assert_eq!(store_chunk_bytes((10 << 30) + 1), store_chunk_bytes(15 << 30));
        assert_eq!(store_chunk_bytes(10 << 40), CHUNK_BYTES_MAX);
        assert_eq!(store_chunk_bytes(u64::MAX), CHUNK_BYTES_MAX);
    }

    #[test]
    fn small_neighbours_share_a_chunk_and_large_ones_stand_alone() {
        let fragments = [
            fragment(0, 40, 10),
            fragment(1, 60, 10),
            fragment(2, 500, 10),
            fragment(3, 1, 10),
            fragment(4, 1, 5_000),
        ];
        let chunks = cut(&fragments, &[], LIMITS);
        assert_eq!(ids(&chunks), [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert!(cut(&[], &[], LIMITS).is_empty());
        let limits = ChunkLimits { fragments: 1, ..LIMITS };
        assert_eq!(cut(&fragments, &[], limits).len(), fragments.len());
    }

    #[test]
    fn every_fragment_is_in_one_chunk_in_order() {
        let fragments: Vec<_> = (0..1_000).map(|id| fragment(id, id % 37, 3)).collect();
        let flat: Vec<u64> = ids(&cut(&fragments, &[], LIMITS)).concat();
        assert_eq!(flat, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_staged_stays_together_when_a_neighbour_goes_or_comes() {
        let before: Vec<_> = (0..9).map(|id| fragment(id, 40, 10)).collect();
        let staged: Vec<_> = cut(&before, &[], LIMITS).iter().map(Chunk::signatures).collect();
        let mut after = before.clone();
        after.remove(3);
        after.push(fragment(20, 40, 10));
        let chunks = cut(&after, &staged, LIMITS);
        assert_eq!(ids(&chunks), [vec![0, 1], vec![2], vec![4, 5], vec![6, 7], vec![8], vec![20]]);
    }
}
