//! Cuts the buffers of pages into pieces, and puts pieces that lie together into one read.

use crate::limits::READ_GAP_BYTES;

use std::ops::Range;
use std::sync::Arc;

use lance_encoding::decoder::ColumnInfo;

/// Bytes of a piece, at most; a multiple of what Lance aligns buffers to. Each piece is hashed by itself,
/// so the hash of a buffer depends on this number, and with it what the journal holds.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// A part of a column that is copied: a column of one of the files, and the rows before its own.
#[derive(Debug, Clone)]
pub(crate) struct ColumnPart {
    /// Which of the files.
    pub file: usize,
    /// The column there.
    pub column: Arc<ColumnInfo>,
    /// Rows before it.
    pub rows_before: u64,
}

/// Where a buffer lies: which of the files it is in, and where in that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BufferPlace {
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// A part of a buffer, and where in the file it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub buffer: usize,
    pub range: Range<u64>,
}

/// What is read of a file at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub file: usize,
    pub range: Range<u64>,
    /// In the order of the file.
    pub pieces: Vec<Piece>,
}

/// Where the buffers of `column` of the file at `file` lie.
pub(super) fn places_of(file: usize, column: &ColumnInfo) -> impl Iterator<Item = BufferPlace> {
    let buffers = column.page_infos.iter().flat_map(|page| page.buffer_offsets_and_sizes.iter());
    buffers.map(move |(offset, bytes)| BufferPlace { file, offset: *offset, bytes: *bytes })
}

/// The reads that give every buffer at `places`, in the order in which the buffers lie in the files. Each has
/// at most `bytes_max`, or one piece. The pieces of a buffer follow each other; an empty buffer is one empty
/// piece.
pub(super) fn reads(places: &[BufferPlace], bytes_max: u64) -> Vec<Read> {
    let mut order: Vec<(usize, &BufferPlace)> = places.iter().enumerate().collect();
    order.sort_by_key(|(_, place)| (place.file, place.offset));
    let mut reads: Vec<Read> = Vec::new();
    for (buffer, place) in order {
        for piece in pieces(buffer, place) {
            push(&mut reads, place.file, piece, bytes_max);
        }
    }
    reads
}

/// The pieces of the `buffer` at `place`, in their order: one at least.
pub(super) fn pieces(buffer: usize, place: &BufferPlace) -> impl Iterator<Item = Piece> + use<> {
    let (start, end) = (place.offset, place.offset.saturating_add(place.bytes));
    (0..place.bytes.div_ceil(PIECE_BYTES).max(1)).map(move |number| {
        let from = start.saturating_add(number * PIECE_BYTES);
        Piece { buffer, range: from..end.min(from.saturating_add(PIECE_BYTES)) }
    })
}

fn push(reads: &mut Vec<Read>, file: usize, piece: Piece, bytes_max: u64) {
    if let Some(last) = reads.last_mut() {
        let gap = piece.range.start.checked_sub(last.range.end);
        let near = last.file == file && gap.is_some_and(|gap| gap <= READ_GAP_BYTES);
        if near && piece.range.end - last.range.start <= bytes_max {
            last.range.end = piece.range.end;
            last.pieces.push(piece);
            return;
        }
    }
    reads.push(Read { file, range: piece.range.clone(), pieces: vec![piece] });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(file: usize, offset: u64, bytes: u64) -> BufferPlace {
        BufferPlace { file, offset, bytes }
    }

    #[test]
    fn neighbours_are_read_together_and_others_are_not() {
        let places = [place(0, 128, 50), place(0, 0, 100), place(0, 1 << 20, 10), place(1, 0, 10)];
        let reads = reads(&places, 1 << 20);
        let ranges: Vec<_> = reads.iter().map(|read| (read.file, read.range.clone())).collect();
        assert_eq!(ranges, [(0, 0..178), (0, 1 << 20..(1 << 20) + 10), (1, 0..10)]);
        let buffers: Vec<_> = reads.iter().flat_map(|read| &read.pieces).collect();
        assert_eq!(buffers.iter().map(|piece| piece.buffer).collect::<Vec<_>>(), [1, 0, 2, 3]);
    }

    #[test]
    fn every_byte_of_every_buffer_is_read_once_in_order() {
        let mut offset = 0;
        let sizes = [0, 1, 63, 64, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 7, 0];
        let places = sizes.map(|bytes| {
            let place = place(0, offset, bytes);
            offset += bytes.next_multiple_of(64);
            place
        });
        for bytes_max in [PIECE_BYTES, 8 * PIECE_BYTES] {
            let mut ends: Vec<u64> = places.iter().map(|place| place.offset).collect();
            for read in reads(&places, bytes_max) {
                assert!(read.range.end - read.range.start <= bytes_max);
                for piece in &read.pieces {
                    assert_eq!(piece.range.start, ends[piece.buffer]);
                    assert!(piece.range.end - piece.range.start <= PIECE_BYTES);
                    assert!(read.range.start <= piece.range.start);
                    assert!(read.range.end >= piece.range.end);
                    ends[piece.buffer] = piece.range.end;
                }
            }
            let wanted: Vec<u64> = places.iter().map(|place| place.offset + place.bytes).collect();
            assert_eq!(ends, wanted);
        }
    }
}
