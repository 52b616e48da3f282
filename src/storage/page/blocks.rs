//! Memory that is used again, since the first touch of fresh memory costs more than the copy into it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::FREE_BLOCKS_BYTES;
use crate::storage::page::cut::{Piece, Read};

/// Blocks of memory, shared by those who read with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Blocks {
    /// A block of `length` bytes, of any content.
    pub(super) fn take(&self, length: usize) -> Block {
        let mut bytes = self.smallest(length).unwrap_or_default();
        if bytes.len() < length {
            bytes = vec![0; length];
        }
        Block { bytes, length, home: Some(self.clone()) }
    }

    /// The smallest free block that holds `length` bytes.
    fn smallest(&self, length: usize) -> Option<Vec<u8>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, bytes)| bytes.len() >= length);
        let (place, _) = fitting.min_by_key(|(_, bytes)| bytes.len())?;
        Some(free.remove(place))
    }

    /// Takes `bytes` back. Beyond [`FREE_BLOCKS_BYTES`], the blocks that are free the longest are dropped.
    fn put(&self, bytes: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(bytes);
        while free.iter().map(Vec::len).sum::<usize>() > FREE_BLOCKS_BYTES {
            free.remove(0);
        }
    }
}

/// Bytes that were read. Their memory goes back to where it came from when this is dropped.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Vec<u8>,
    length: usize,
    home: Option<Blocks>,
}

impl Block {
    /// A block of just these `bytes`.
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self { length: bytes.len(), bytes, home: None }
    }

    /// Its bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let length = self.length.min(self.bytes.len());
        self.bytes.get_mut(..length).unwrap_or_default()
    }

    /// The bytes of `piece`, which is one of `read`, whose bytes these are.
    pub(super) fn of(&self, read: &Read, piece: &Piece) -> &[u8] {
        let place = |at: u64| usize::try_from(at - read.range.start).unwrap_or(usize::MAX);
        self.bytes.get(place(piece.range.start)..place(piece.range.end)).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.put(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_is_large_enough() {
        let blocks = Blocks::default();
        let place = |block: &Block| block.as_ref().as_ptr();
        let (small, large) = (blocks.take(10), blocks.take(1_000));
        let (at_small, at_large) = (place(&small), place(&large));
        drop((small, large));
        assert_eq!(place(&blocks.take(11)), at_large);
        assert_eq!(place(&blocks.take(10)), at_small);
        assert_eq!(blocks.take(2_000).as_ref().len(), 2_000);
    }

    #[test]
    fn few_free_bytes_are_kept_and_those_are_the_last() {
        let blocks = Blocks::default();
        let third = FREE_BLOCKS_BYTES / 3;
        let taken: Vec<_> = (0..5).map(|more| blocks.take(third - more)).collect();
        drop(taken);
        let kept: Vec<_> = blocks.free.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(kept, [third - 2, third - 3, third - 4]);
        drop(blocks.take(FREE_BLOCKS_BYTES + 1));
        assert!(blocks.free.lock().unwrap().is_empty());
    }
}
