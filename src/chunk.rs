//! The unit of work and of resume: one source fragment, or a run of small ones.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The ordinal of a chunk; the order of chunks is the order of rows in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkId(pub u32);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a source fragment's rows depend on: its data files and its deletion file. Two fragments
/// with one signature hold the same rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signature(pub String);

/// A source fragment, as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFragment {
    /// Its id in the source.
    pub id: u64,
    /// Rows, deleted ones not counted.
    pub rows: u64,
    /// Bytes of its data files.
    pub bytes: u64,
    /// What its rows depend on.
    pub signature: Signature,
}

/// A run of source fragments that is staged, verified and recorded as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in the order of rows.
    pub id: ChunkId,
    /// Its source fragments, in order.
    pub fragments: Vec<SourceFragment>,
}

impl Chunk {
    /// Rows in the chunk.
    pub fn rows(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.rows).sum()
    }

    /// Bytes of the chunk's source files.
    pub fn bytes(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.bytes).sum()
    }

    /// The signatures of its source fragments, in order.
    pub fn signatures(&self) -> Vec<Signature> {
        let signatures = self.fragments.iter().map(|f| f.signature.clone());
        signatures.collect()
    }
}

/// How much a run of small fragments may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkLimits {
    /// Rows after which a run is closed.
    pub rows_max: u64,
    /// Bytes after which a run is closed.
    pub bytes_max: u64,
}

/// Cuts `fragments` into chunks, in order: a fragment that reaches a limit stands alone, smaller
/// neighbours share a chunk. Same fragments, same chunks.
pub(crate) fn cut(fragments: &[SourceFragment], limits: ChunkLimits) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for fragment in fragments {
        let joins = chunks.last().is_some_and(|last| {
            last.rows().saturating_add(fragment.rows) <= limits.rows_max
                && last.bytes().saturating_add(fragment.bytes) <= limits.bytes_max
        });
        match chunks.last_mut() {
            Some(last) if joins => last.fragments.push(fragment.clone()),
            _ => chunks.push(Chunk {
                id: ChunkId(u32::try_from(chunks.len()).unwrap_or(u32::MAX)),
                fragments: vec![fragment.clone()],
            }),
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { rows_max: 100, bytes_max: 1_000 };

    fn fragment(id: u64, rows: u64, bytes: u64) -> SourceFragment {
        let signature = Signature(format!("{id}"));
        SourceFragment { id, rows, bytes, signature }
    }

    fn ids(chunks: &[Chunk]) -> Vec<Vec<u64>> {
        let ids = |chunk: &Chunk| chunk.fragments.iter().map(|f| f.id).collect();
        chunks.iter().map(ids).collect()
    }

    #[test]
    fn no_fragments_make_no_chunks() {
        assert!(cut(&[], LIMITS).is_empty());
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
        let chunks = cut(&fragments, LIMITS);
        assert_eq!(ids(&chunks), [vec![0, 1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn every_fragment_is_in_one_chunk_in_order() {
        let fragments: Vec<_> = (0..1_000).map(|id| fragment(id, id % 37, 3)).collect();
        let flat: Vec<u64> = ids(&cut(&fragments, LIMITS)).concat();
        assert_eq!(flat, (0..1_000).collect::<Vec<_>>());
    }
}
