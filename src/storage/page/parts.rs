//! Ranges of data files that a store copies into a new one by itself, as the first parts of its upload, and what is left to be
//! copied by hand.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use crate::error::{Doing, Error, Result};
use crate::limits::{PART_COPIES_AT_ONCE, PART_COPY_BYTES_MIN};
use crate::storage::page::cut::{
    BufferPlace, ColumnPart, PIECE_BYTES, Piece, Read, pieces, places_of,
};
use crate::storage::page::file::{HashedRead, PageFile, read_each};
use crate::storage::page::hash::BufferHashes;
use crate::storage::page::read_along::ReadBack;
use crate::storage::part_copy::BegunUpload;
use crate::storage::sent::SentFile;
use crate::storage::throttle::Throttle;

/// What Lance aligns buffers to (lance-file 14 `src/writer.rs`): with less before it, a buffer is taken for damaged.
const ALIGNMENT: u64 = 64;
/// Bytes at the end of a part that are looked at.
const END_BYTES: u64 = 4 << 10;
/// Runs of one upload, and parts into which they are cut beside that: stores take 10,000, and others are sent after these.
const RUNS_MAX: usize = 2_500;
const CUTS_MAX: u64 = 2_500;

/// The parts of a new file that are copied inside the store; they are its beginning.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreParts {
    /// What becomes of each, in the order of the new file: all bytes of its range.
    parts: Vec<Read>,
    /// Bytes of all of them.
    pub end: u64,
}

/// What is known of a file that is copied from.
#[derive(Debug, Clone, Copy)]
struct Copyable {
    bytes: u64,
    /// Whether each of its buffers is aligned: between two of them is nothing else then.
    aligned: bool,
}

impl StoreParts {
    /// Those that hold buffers of `columns` of `files`; each has about so many `bytes`, or more.
    pub(crate) fn of(files: &[Arc<PageFile>], columns: &[Vec<ColumnPart>], bytes: u64) -> Self {
        let parts = columns.iter().flatten();
        let places: Vec<_> = parts.flat_map(|part| places_of(part.file, &part.column)).collect();
        let files = files.iter().map(|file| Copyable {
            bytes: file.metadata().file_size_bytes,
            aligned: file.all_buffers().all(|offset| offset % ALIGNMENT == 0),
        });
        cut(&places, &files.collect::<Vec<_>>(), bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The end of each: where it lies in which of the files, and where in the new one.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (usize, Range<u64>, Range<u64>)> {
        self.starts().map(|(part, start)| {
            let from = part.range.end.saturating_sub(END_BYTES).max(part.range.start);
            let to = start + (from - part.range.start);
            (part.file, from..part.range.end, to..to + (part.range.end - from))
        })
    }

    /// Where each of so many `buffers` lies in the new file, if it lies in one of them.
    pub(super) fn places(&self, buffers: usize) -> Vec<Option<u64>> {
        let mut places = vec![None; buffers];
        for (part, start) in self.starts() {
            for piece in &part.pieces {
                if let Some(place) = places.get_mut(piece.buffer) {
                    place.get_or_insert(moved(part, start, piece).start);
                }
            }
        }
        places
    }

    /// Each part, and where it begins in the new file.
    fn starts(&self) -> impl Iterator<Item = (&Read, u64)> {
        let mut next = 0;
        self.parts.iter().map(move |part| {
            let start = next;
            next += part.range.end - part.range.start;
            (part, start)
        })
    }
}

/// Where `piece` of `part` lies in the file in which the part begins at `start`.
fn moved(part: &Read, start: u64, piece: &Piece) -> Range<u64> {
    let to = |at: u64| at - part.range.start + start;
    to(piece.range.start)..to(piece.range.end)
}

/// Buffers that follow each other in a file.
struct Run {
    file: usize,
    range: Range<u64>,
    pieces: Vec<Piece>,
}

fn cut(places: &[BufferPlace], files: &[Copyable], bytes: u64) -> StoreParts {
    let length = |run: &Run| run.range.end - run.range.start;
    let mut runs = runs(places, files);
    runs.retain(|run| length(run) >= PART_COPY_BYTES_MIN);
    if runs.len() > RUNS_MAX {
        runs.sort_by_key(|run| std::cmp::Reverse(length(run)));
        runs.truncate(RUNS_MAX);
        runs.sort_by_key(|run| (run.file, run.range.start));
    }
    let all: u64 = runs.iter().map(length).sum();
    // Two parts of one run have at least half as many bytes each, but for a piece that goes to the other one.
    let bytes = bytes.max(all / CUTS_MAX).max(2 * (PART_COPY_BYTES_MIN + PIECE_BYTES));
    let parts = runs.into_iter().flat_map(|run| {
        let count = length(&run).div_ceil(bytes);
        cut_evenly(run, count)
    });
    StoreParts { parts: parts.collect(), end: all }
}

/// The runs of `places`, as far as their files let them be copied.
fn runs(places: &[BufferPlace], files: &[Copyable]) -> Vec<Run> {
    let mut order: Vec<(usize, &BufferPlace)> = places.iter().enumerate().collect();
    order.sort_by_key(|(_, place)| (place.file, place.offset));
    let mut runs: Vec<Run> = Vec::new();
    for (buffer, place) in order {
        let end = place.offset.saturating_add(place.bytes).checked_next_multiple_of(ALIGNMENT);
        let file = files.get(place.file).filter(|file| file.aligned);
        let Some(end) = end.filter(|end| file.is_some_and(|file| *end <= file.bytes)) else {
            continue;
        };
        match runs.last_mut() {
            Some(last) if last.file == place.file && last.range.end == place.offset => {
                last.range.end = end;
                last.pieces.extend(pieces(buffer, place));
            }
            _ => runs.push(Run {
                file: place.file,
                range: place.offset..end,
                pieces: pieces(buffer, place).collect(),
            }),
        }
    }
    runs
}

/// Cuts `run` into `count` parts of about one size, each of whole pieces.
fn cut_evenly(run: Run, count: u64) -> Vec<Read> {
    let Run { file, range, pieces } = run;
    let each = (range.end - range.start) / count;
    let mut parts: Vec<Read> = Vec::new();
    for piece in pieces {
        let (at, begun) = (piece.range.start, parts.len() as u64);
        match parts.last_mut() {
            Some(last) if begun == count || at - range.start < each * begun => {
                last.pieces.push(piece);
            }
            before => {
                if let Some(before) = before {
                    before.range.end = at;
                }
                parts.push(Read { file, range: at..range.end, pieces: vec![piece] });
            }
        }
    }
    parts
}

/// What has a store copy parts.
#[derive(Debug)]
pub(crate) struct PartCopier<'a> {
    pub parts: &'a StoreParts,
    /// The upload that they are the beginning of.
    pub upload: &'a BegunUpload,
    pub throttle: &'a Throttle,
    /// Whether their bytes are read, too, to be hashed.
    pub reads: bool,
    /// What takes in what was read, as if it were sent.
    pub sent: Option<Arc<SentFile>>,
}

impl PartCopier<'_> {
    /// Has the parts copied out of `files`. Where they are read, `hashes` takes them in, and `back` what it would read back.
    /// `wrote` is called with bytes as they are there.
    ///
    /// # Errors
    /// `Failed`, when the store does not copy one, or a file cannot be read.
    pub(super) async fn copy<W: Future<Output = ()>>(
        &self,
        files: &[Arc<PageFile>],
        (hashes, back): (&mut BufferHashes, Option<&mut ReadBack>),
        wrote: impl FnMut(u64) -> W,
    ) -> Result<()> {
        let reading =
            async { if self.reads { self.read(files, hashes, back).await } else { Ok(()) } };
        futures::try_join!(self.have_copied(files, wrote), reading).map(drop)
    }

    async fn have_copied<W: Future<Output = ()>>(
        &self,
        files: &[Arc<PageFile>],
        mut wrote: impl FnMut(u64) -> W,
    ) -> Result<()> {
        let copies = self.parts.parts.iter().enumerate().map(|(number, part)| {
            async move {
                let bytes = part.range.end - part.range.start;
                let file = files.get(part.file);
                let file = file.ok_or_else(|| Error::failed("a part of no file was asked for"))?;
                self.throttle.count(bytes);
                self.throttle.wait().await;
                let copied = self.upload.copy(number, file.path(), part.range.clone()).await;
                copied.doing(|| format!("copy a part of {} inside the store", file.name))?;
                Ok(bytes)
            }
            .boxed()
        });
        let copies: Vec<_> = copies.collect();
        let mut copies = stream::iter(copies).buffer_unordered(PART_COPIES_AT_ONCE);
        while let Some(bytes) = copies.try_next().await? {
            // Each waited for its turn to be written before; others would stand while this one waits again.
            drop(wrote(bytes));
        }
        Ok(())
    }

    /// Reads the parts in their order.
    async fn read(
        &self,
        files: &[Arc<PageFile>],
        hashes: &mut BufferHashes,
        mut back: Option<&mut ReadBack>,
    ) -> Result<()> {
        let mut sums = Sums::default();
        let mut taken = read_each(files, self.parts.parts.clone());
        let mut starts = self.parts.starts();
        while let Some(taken) = taken.try_next().await? {
            hashes.add(&taken);
            let Some((part, start)) = starts.next() else { break };
            if let Some(sent) = &self.sent {
                sums.add(sent, &taken).await;
            }
            if let Some(back) = &mut back {
                let moved = part
                    .pieces
                    .iter()
                    .map(|piece| Piece { buffer: piece.buffer, range: moved(part, start, piece) });
                back.wrote(moved.collect()).await;
            }
        }
        sums.finish().await;
        Ok(())
    }
}

/// The checksums of parts, which are taken beside what is read.
#[derive(Debug, Default)]
struct Sums(JoinSet<()>);

impl Sums {
    /// Those that are taken at once: each holds a part.
    const AT_ONCE: usize = 1;

    async fn add(&mut self, sent: &Arc<SentFile>, taken: &HashedRead) {
        while self.0.len() >= Self::AT_ONCE {
            self.0.join_next().await;
        }
        let payload = Bytes::copy_from_slice(taken.block.as_ref()).into();
        if let Some((number, kept)) = sent.copied_part(&payload) {
            let sent = Arc::clone(sent);
            self.0.spawn(async move { sent.sum(number, kept).await });
        }
    }

    async fn finish(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn place(file: usize, offset: u64, bytes: u64) -> BufferPlace {
        BufferPlace { file, offset, bytes }
    }

    fn ranges(parts: &StoreParts) -> Vec<(usize, Range<u64>)> {
        parts.parts.iter().map(|part| (part.file, part.range.clone())).collect()
    }

    #[test]
    fn runs_of_buffers_become_parts_and_small_ones_do_not() {
        let files = [Copyable { bytes: 100 * MIB, aligned: true }; 2];
        // A run of three buffers, the second one empty; one after a gap that is too small; and one of another file.
        let places = [
            place(0, 8 * MIB - 64, 30),
            place(0, 0, 8 * MIB - 100),
            place(0, 8 * MIB, 0),
            place(0, 8 * MIB, 12 * MIB),
            place(0, 30 * MIB, MIB),
            place(1, 64, 6 * MIB),
        ];
        let parts = cut(&places, &files, 12 * MIB);
        let [(0, first), (0, second), (1, third)] = &ranges(&parts)[..] else {
            panic!("{parts:?}")
        };
        assert_eq!((first.start, first.end, second.end), (0, second.start, 20 * MIB));
        assert!((9 * MIB..11 * MIB).contains(&first.end));
        assert_eq!(*third, 64..64 + 6 * MIB);
        let ends: Vec<_> = parts.ends().collect();
        assert_eq!(
            ends[0],
            (0, first.end - END_BYTES..first.end, first.end - END_BYTES..first.end)
        );
        assert_eq!(ends[1].1, 20 * MIB - END_BYTES..20 * MIB);
        let (from, to) = (third.end - END_BYTES..third.end, 26 * MIB - END_BYTES..26 * MIB);
        assert_eq!(ends[2..], [(1, from, to)]);
        assert_eq!(parts.end, 26 * MIB);
        let lie = parts.places(places.len());
        let wanted =
            [Some(8 * MIB - 64), Some(0), Some(8 * MIB), Some(8 * MIB), None, Some(20 * MIB)];
        assert_eq!(lie, wanted);
    }

    #[test]
    fn what_is_not_aligned_or_not_whole_is_in_no_part() {
        let aligned = Copyable { bytes: 10 * MIB, aligned: true };
        let cut = |file, places: &[BufferPlace]| cut(places, &[file], 6 * MIB).end;
        let whole = [place(0, 0, 6 * MIB)];
        assert_eq!(cut(aligned, &whole), 6 * MIB);
        assert_eq!(cut(Copyable { aligned: false, ..aligned }, &whole), 0);
        // The bytes that fill it up to the next buffer are not there.
        assert_eq!(
            cut(Copyable { bytes: 6 * MIB, ..aligned }, &[place(0, 0, 6 * MIB - 7)]),
            6 * MIB
        );
        assert_eq!(cut(Copyable { bytes: 6 * MIB - 7, ..aligned }, &[place(0, 0, 6 * MIB - 7)]), 0);
        // Other bytes lie between them, so neither is large enough.
        assert_eq!(cut(aligned, &[place(0, 0, 3 * MIB), place(0, 3 * MIB + 64, 3 * MIB)]), 0);
        assert_eq!(cut(aligned, &[place(7, 0, 6 * MIB)]), 0, "a file that is not there");
    }

    #[test]
    fn every_part_is_large_enough_and_every_byte_is_in_one() {
        let files = [Copyable { bytes: u64::MAX, aligned: true }];
        for sizes in
            [vec![5 * MIB], vec![MIB; 1_000], vec![65; 200_000], vec![700 * MIB + 1, 3, 9 * MIB]]
        {
            let mut offset = 0;
            let places = sizes.iter().map(|bytes| {
                let place = place(0, offset, *bytes);
                offset += bytes.next_multiple_of(ALIGNMENT);
                place
            });
            let places: Vec<_> = places.collect();
            for bytes in [1, 12 * MIB, 32 * MIB] {
                let parts = cut(&places, &files, bytes);
                let mut end = 0;
                for (_, range) in ranges(&parts) {
                    assert_eq!(range.start, end);
                    assert!(range.end - range.start >= PART_COPY_BYTES_MIN, "{range:?}");
                    end = range.end;
                }
                assert_eq!((end, parts.end), (offset, offset));
                let lie: Vec<_> = places.iter().map(|place| Some(place.offset)).collect();
                assert_eq!(parts.places(places.len()), lie);
            }
        }
        // However much it is, there are not too many.
        let places: Vec<_> = (0..40_000).map(|n| place(0, n * 64 * MIB, 64 * MIB)).collect();
        assert!((1_000..5_001).contains(&cut(&places, &files, 12 * MIB).parts.len()));
        // Others lie between them.
        let places: Vec<_> =
            (0..40_000).map(|n| place(0, n * 64 * MIB, 8 * MIB + n * 64)).collect();
        let parts = cut(&places, &files, 12 * MIB);
        assert_eq!(parts.parts.len(), RUNS_MAX);
        assert!(parts.parts.iter().all(|part| part.pieces[0].buffer >= 37_500), "the largest");
        let offsets: Vec<_> = parts.parts.iter().map(|part| part.range.start).collect();
        assert!(offsets.is_sorted());
    }
}
