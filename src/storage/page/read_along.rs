//! Reads back what is copied while the rest is copied: from the disk, or from what is being sent to a store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::limits::{READS_BACK_AT_ONCE, UNWRITTEN_BYTES};
use crate::span;
use crate::storage::page::cut::{BufferPlace, Piece, Read};
use crate::storage::page::file::{HashedRead, hashed, length, read_disk};
use crate::storage::page::{blocks::Blocks, hash::BufferHashes};
use crate::storage::sent::SentFile;

/// The hashes of those buffers of a file that were read back from it already, by where they lie: their
/// offset and their bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadBackHashes(BTreeMap<(u64, u64), u128>);

impl ReadBackHashes {
    /// Bytes of those buffers.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.keys().map(|(_, bytes)| bytes).sum()
    }

    /// The hash of the buffer at `place`, if it was read.
    pub(super) fn hash(&self, place: &BufferPlace) -> Option<u128> {
        self.0.get(&(place.offset, place.bytes)).copied()
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) enum OpenFile {
    Disk(Arc<std::fs::File>),
    Sent(Arc<SentFile>),
}

/// What reads a file while it is being written.
#[derive(Debug)]
pub(crate) struct ReadBack {
    file: OpenFile,
    /// Written, and perhaps not in the file yet.
    waiting: VecDeque<Read>,
    running: VecDeque<JoinHandle<std::io::Result<HashedRead>>>,
    blocks: Blocks,
    hashes: BufferHashes,
    /// Where the buffers lie, once all are written: their offset and their bytes.
    places: Vec<(u64, u64)>,
}

impl ReadBack {
    pub(crate) fn of(file: OpenFile) -> Self {
        Self {
            file,
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            blocks: Blocks::default(),
            hashes: BufferHashes::of(0),
            places: Vec::new(),
        }
    }

    /// The same, once all buffers are written, in this order: they lie at `places`.
    pub(super) fn of_buffers(self, places: Vec<(u64, u64)>) -> Self {
        Self { places, ..self }
    }

    /// Takes in that `pieces`, in the order of the file, were written; those of a buffer come one after the
    /// other. Reads what is in the file for sure by now.
    pub(super) async fn wrote(&mut self, pieces: Vec<Piece>) {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return };
        let end = last.range.end;
        self.waiting.push_back(Read { file: 0, range: first.range.start..end, pieces });
        self.read_until(end).await;
    }

    /// Reads what is there for sure of a file of which `end` bytes were written.
    async fn read_until(&mut self, end: u64) {
        let there = match &self.file {
            OpenFile::Disk(_) => end.saturating_sub(UNWRITTEN_BYTES),
            OpenFile::Sent(file) => file.end(),
        };
        while self.waiting.front().is_some_and(|read| read.range.end <= there) {
            let Some(read) = self.waiting.pop_front() else { break };
            match &self.file {
                OpenFile::Disk(file) => {
                    let file = Arc::clone(file);
                    self.begin(file, read).await;
                }
                OpenFile::Sent(file) => {
                    let mut block = self.blocks.take(length(&read));
                    if file.read_along(read.range.start, block.bytes_mut()) {
                        self.hashes.add(&hashed(read, block));
                    }
                }
            }
        }
    }

    /// Begins to read from a disk.
    async fn begin(&mut self, file: Arc<std::fs::File>, read: Read) {
        while self.running.len() >= READS_BACK_AT_ONCE {
            self.take().await;
        }
        let blocks = self.blocks.clone();
        self.running.push_back(tokio::task::spawn_blocking(move || {
            let _verifying = span::verify();
            read_disk(&file, read, &blocks)
        }));
    }

    /// Takes in the oldest read; one that failed leaves its buffers unseen, and whoever reads them later
    /// is told why.
    async fn take(&mut self) {
        let Some(read) = self.running.pop_front() else { return };
        if let Ok(Ok(taken)) = read.await {
            self.hashes.add(&taken);
        }
    }

    /// What was seen of each buffer, once the file is finished: all of it, or nothing.
    pub(crate) async fn finish(mut self) -> ReadBackHashes {
        if let OpenFile::Sent(file) = &self.file {
            let end = file.end();
            self.read_until(end).await;
        }
        while !self.running.is_empty() {
            self.take().await;
        }
        if let OpenFile::Sent(file) = &self.file {
            file.release_all();
        }
        let read = self.places.into_iter().zip(self.hashes.0);
        let seen = read.filter(|((_, bytes), (_, read))| bytes == read && *read > 0);
        ReadBackHashes(seen.map(|(place, (hash, _))| (place, hash)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::storage::sent::{Keeps, KeepsSent, Sent};

    const BYTES: u64 = 300 << 10;

    /// What is seen of three buffers of so many bytes, the second one in two pieces, and of what followed
    /// them, when the file has `content`.
    async fn seen_of(content: &[u8]) -> [Option<u128>; 3] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let mut back = ReadBack::of(OpenFile::Disk(Arc::new(file.reopen().unwrap())));
        let piece = |buffer: usize, range| Piece { buffer, range };
        let cut = BYTES + (100 << 10);
        back.wrote(vec![piece(0, 0..BYTES), piece(1, BYTES..cut)]).await;
        back.wrote(vec![piece(1, cut..2 * BYTES)]).await;
        back.wrote(vec![piece(2, 2 * BYTES..3 * BYTES)]).await;
        let places = [0, 1, 2].map(|buffer| (buffer * BYTES, BYTES));
        let seen = back.of_buffers(places.to_vec()).finish().await;
        places.map(|(offset, bytes)| seen.hash(&BufferPlace { file: 0, offset, bytes }))
    }

    fn content() -> Vec<u8> {
        (0..3 * BYTES).map(|at| u8::try_from(at * at % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_in_the_file_for_sure_is_read() {
        let [first, second, last] = seen_of(&content()).await;
        assert!(first.is_some() && second.is_some() && first != second);
        // The writer may still have a part of it.
        assert_eq!(last, None);
    }

    #[tokio::test]
    async fn what_is_sent_is_read_and_what_is_not_sent_yet_is_not() {
        let sent = Arc::<Sent>::default();
        let keeping = KeepsSent { files: sent, room: 0 };
        let sending = keeping.keep_sent(&"a".into(), Keeps::Unread, false).unwrap();
        let mut back = ReadBack::of(OpenFile::Sent(Arc::clone(&sending.file)));
        let piece = |buffer: usize, range| Piece { buffer, range };
        let content = content();
        let (cut, all) = (usize::try_from(2 * BYTES).unwrap(), usize::try_from(3 * BYTES).unwrap());
        back.wrote(vec![piece(0, 0..BYTES)]).await;
        sending.file.part(&content[..cut].to_vec().into());
        back.wrote(vec![piece(1, BYTES..BYTES + (100 << 10))]).await;
        back.wrote(vec![piece(1, BYTES + (100 << 10)..2 * BYTES)]).await;
        back.wrote(vec![piece(2, 2 * BYTES..3 * BYTES)]).await;
        let places = [0, 1, 2].map(|buffer| (buffer * BYTES, BYTES));
        let seen = back.of_buffers(places.to_vec()).finish().await;
        let hashes =
            places.map(|(offset, bytes)| seen.hash(&BufferPlace { file: 0, offset, bytes }));
        let [first, second, _] = seen_of(&content).await;
        assert!(first.is_some() && second.is_some());
        assert_eq!((hashes, seen.bytes()), ([first, second, None], 2 * BYTES));
        // Nothing that is sent later is kept.
        sending.file.part(&content[cut..all].to_vec().into());
        assert!(!sending.file.read_along(2 * BYTES, &mut [0]));
    }

    #[tokio::test]
    async fn a_flipped_bit_shows() {
        let right = seen_of(&content()).await;
        for buffer in [0_u64, 1] {
            let mut content = content();
            content[usize::try_from(buffer * BYTES + BYTES / 2).unwrap()] ^= 1;
            let wrong = seen_of(&content).await;
            let differs = right.iter().zip(&wrong).map(|(right, wrong)| right != wrong);
            let expected = [0, 1, 2].map(|place| place == buffer);
            assert_eq!(differs.collect::<Vec<_>>(), expected);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_seen() {
        let content = content();
        let short = &content[..usize::try_from(BYTES + BYTES / 2).unwrap()];
        let [first, second, last] = seen_of(short).await;
        assert_eq!((first, second, last), (seen_of(&content).await[0], None, None));
    }
}
