//! Gives Lance's decoder the bytes of a file on a disk. Lance's own scheduler reads each page into fresh
//! memory, as far ahead as its buffer is large, and hands every read from task to task. Here a page is read when
//! it is needed, and the one after it meanwhile, into memory that is used again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{collections::VecDeque, fs::File, io, ops::Range};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lance_encoding::EncodingsIo;
use tokio::task::JoinHandle;

use crate::limits::{READ_AHEAD_REQUEST_BYTES, READ_HERE_BYTES, UNPOOLED_BYTES};
use crate::storage::page::{blocks::Blocks, file::read_at};

/// Reads a file on a disk for Lance's decoder.
#[derive(Debug)]
pub(super) struct DiskIo {
    file: Arc<File>,
    blocks: Blocks,
    /// Requests that nobody has waited for yet, in the order in which they were made.
    ahead: Arc<Mutex<VecDeque<Weak<PageRequest>>>>,
}

/// Ranges of a file that were asked for.
#[derive(Debug)]
struct PageRequest {
    file: Arc<File>,
    blocks: Blocks,
    ranges: Vec<Range<u64>>,
    state: Mutex<RequestState>,
}

type Reading = JoinHandle<io::Result<Vec<Bytes>>>;

#[derive(Debug)]
enum RequestState {
    Waiting,
    Reading(Reading),
    Taken,
}

impl DiskIo {
    /// Reads `file` into memory of `blocks`.
    pub(super) fn of(file: Arc<File>, blocks: Blocks) -> Self {
        Self { file, blocks, ahead: Arc::default() }
    }
}

impl EncodingsIo for DiskIo {
    fn submit_request(
        &self,
        ranges: Vec<Range<u64>>,
        _: u64,
    ) -> BoxFuture<'static, lance::Result<Vec<Bytes>>> {
        let (file, blocks) = (Arc::clone(&self.file), self.blocks.clone());
        if bytes_of(&ranges) <= READ_HERE_BYTES {
            return async move { Ok(read(&file, &blocks, &ranges)?) }.boxed();
        }
        let state = Mutex::new(RequestState::Waiting);
        let request = Arc::new(PageRequest { file, blocks, ranges, state });
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.push_back(Arc::downgrade(&request));
        drop(ahead);
        let ahead = Arc::clone(&self.ahead);
        async move {
            let reading = request.take();
            begin_next(&ahead);
            match reading {
                Some(reading) => Ok(reading.await.map_err(io::Error::other)??),
                None => Err(lance::Error::io("a page was waited for twice")),
            }
        }
        .boxed()
    }
}

impl PageRequest {
    /// Takes what reads it, which is begun here if it was not before; `None`, when it was taken already.
    fn take(&self) -> Option<Reading> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, RequestState::Taken) {
            RequestState::Waiting => Some(self.spawn()),
            RequestState::Reading(reading) => Some(reading),
            RequestState::Taken => None,
        }
    }

    /// Begins to read it, if it is not too large and nobody has begun. False, when somebody had.
    fn begin(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = matches!(*state, RequestState::Waiting);
        if waits && bytes_of(&self.ranges) <= READ_AHEAD_REQUEST_BYTES {
            *state = RequestState::Reading(self.spawn());
        }
        waits
    }

    fn spawn(&self) -> Reading {
        let (file, blocks, ranges) =
            (Arc::clone(&self.file), self.blocks.clone(), self.ranges.clone());
        tokio::task::spawn_blocking(move || read(&file, &blocks, &ranges))
    }
}

/// Begins with the first request that nobody has waited for yet.
fn begin_next(ahead: &Mutex<VecDeque<Weak<PageRequest>>>) {
    let mut ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(next) = ahead.pop_front() {
        // Those whose batches nobody wants any more are gone.
        if next.upgrade().is_some_and(|next| next.begin()) {
            break;
        }
    }
}

fn bytes_of(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum()
}

fn read(file: &File, blocks: &Blocks, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let read = ranges.iter().map(|range| {
        let length = range.end.saturating_sub(range.start);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        if length < UNPOOLED_BYTES {
            let mut bytes = vec![0; length];
            read_at(file, &mut bytes, range.start)?;
            return Ok(bytes.into());
        }
        let mut block = blocks.take(length);
        read_at(file, block.bytes_mut(), range.start)?;
        Ok(Bytes::from_owner(block))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[tokio::test]
    async fn every_request_gets_its_own_bytes_in_any_order() {
        let content: Vec<u8> = (0..4_u32 << 20).map(|at| (at / 7 % 256).to_le_bytes()[0]).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let io = DiskIo::of(Arc::new(file.reopen().unwrap()), Blocks::default());
        let mib = 1_u64 << 20;
        let asked = [
            vec![0..mib, 5..5, 2 * mib..2 * mib + 3],
            vec![7..300, 8..9],
            vec![mib..3 * mib, 0..1],
            vec![0..1, 3 * mib..4 * mib],
        ];
        let requests: Vec<_> =
            asked.iter().map(|ranges| io.submit_request(ranges.clone(), 0)).collect();
        for (ranges, request) in asked.iter().zip(requests).rev() {
            let found = request.await.unwrap();
            for (range, found) in ranges.iter().zip(found) {
                let place = |at: u64| usize::try_from(at).unwrap();
                assert!(found == content[place(range.start)..place(range.end)]);
            }
        }
        let beyond = io.submit_request(vec![0..1, mib..5 * mib], 0).await;
        assert!(beyond.is_err());
    }
}
