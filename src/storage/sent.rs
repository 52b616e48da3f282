//! What is sent to an object store, kept until it is verified. Where the store's own checksum says that it has these very
//! bytes, they are verified here and not read back over the network.
//!
//! The checksum is the object's `ETag`. On S3, and what speaks its language, that is the MD5 of the bytes, or of an upload in
//! parts the MD5 of those of its parts, with their count (S3's "Checking object integrity"). Where it is anything else
//! (Azure, S3 with keys of one's own, parts on GCS), it confirms nothing, and the file is read back.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use object_store::{PutPayload, path::Path};

use crate::limits::PART_BYTES;

/// The MD5 of a part.
type Sum = [u8; 16];

/// Which bytes of a file are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All, as long as there is room: none of a file for which there is none.
    All,
    /// Those that were not read yet by who reads along.
    Unread,
    /// None any more.
    Nothing,
}

/// The files that a run sends and has not verified.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    files: Mutex<HashMap<Path, Arc<SentFile>>>,
    /// Bytes that are kept of all of them.
    kept: Arc<AtomicU64>,
    /// Whether the store has shown that its tags are no checksums, or none that are known here.
    tells_nothing: AtomicBool,
    /// The same of objects of which it copied parts.
    tells_nothing_of_copies: AtomicBool,
}

/// Where what is sent is kept, and how many bytes of files of which all is.
#[derive(Debug, Clone)]
pub(crate) struct KeepsSent {
    pub files: Arc<Sent>,
    pub room: u64,
}

impl KeepsSent {
    /// Keeps what will be sent to `path`, until it is taken; `None`, where the store would not confirm it. `is_copied`, when it copies
    /// parts of it.
    pub(crate) fn keep_sent(&self, path: &Path, keeps: Keeps, is_copied: bool) -> Option<Sending> {
        let sent = &self.files;
        let of_copies = is_copied && sent.tells_nothing_of_copies.load(Ordering::Relaxed);
        if of_copies || sent.tells_nothing.load(Ordering::Relaxed) {
            return None;
        }
        let file = Arc::new(SentFile::of((keeps, self.room), &sent.kept));
        sent.files().insert(path.clone(), Arc::clone(&file));
        Some(Sending { sent: Arc::clone(sent), path: path.clone(), file, finished: false })
    }
}

/// A file that is being sent: it is forgotten when this goes before it is finished.
#[derive(Debug)]
pub(crate) struct Sending {
    sent: Arc<Sent>,
    path: Path,
    pub file: Arc<SentFile>,
    finished: bool,
}

impl Sending {
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.finished {
            drop(self.sent.take(&self.path));
        }
    }
}

/// What was sent of one file so far.
#[derive(Debug)]
pub(crate) struct SentFile {
    state: Mutex<FileState>,
    /// Bytes that are kept of all files.
    all: Arc<AtomicU64>,
}

#[derive(Debug)]
struct FileState {
    keeps: Keeps,
    /// Bytes that may be kept of all files of which all is.
    room: u64,
    /// What is kept: so many `bytes` from `from` on.
    kept: VecDeque<Bytes>,
    from: u64,
    bytes: u64,
    /// Nothing that begins here is kept, or later.
    until: u64,
    /// Bytes that were sent, or are about to be.
    end: u64,
    /// Of each part, once it is known; one, if it is no upload in parts.
    sums: Vec<Option<Sum>>,
    in_parts: bool,
    /// Whether the store copied a part of it.
    is_copied: bool,
    /// Whether there was no room for it: nothing of it can be compared, so whether it is confirmed does not matter.
    is_lost: bool,
}

impl Sent {
    /// The store did not confirm `file`: it is not asked to confirm others of its kind.
    pub(crate) fn was_unconfirmed(&self, file: &SentFile) {
        let is_copied = file.state().is_copied;
        let known = if is_copied { &self.tells_nothing_of_copies } else { &self.tells_nothing };
        known.store(true, Ordering::Relaxed);
    }

    /// What was sent to `path`, if it was to be kept; nothing more is.
    pub(crate) fn take(&self, path: &Path) -> Option<Arc<SentFile>> {
        self.files().remove(path)
    }

    /// How many files were sent, or are being sent, and not taken.
    pub(crate) fn count(&self) -> u64 {
        self.files().len() as u64
    }

    pub(super) fn file(&self, path: &Path) -> Option<Arc<SentFile>> {
        self.files().get(path).cloned()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Path, Arc<SentFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SentFile {
    fn of((keeps, room): (Keeps, u64), all: &Arc<AtomicU64>) -> Self {
        let state = FileState {
            keeps,
            room,
            kept: VecDeque::new(),
            from: 0,
            bytes: 0,
            until: u64::MAX,
            end: 0,
            sums: Vec::new(),
            in_parts: false,
            is_copied: false,
            is_lost: false,
        };
        Self { state: Mutex::new(state), all: Arc::clone(all) }
    }

    fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it is `payload`, also where it was put before.
    pub(super) async fn put(&self, payload: &PutPayload) {
        self.forget();
        if let Some((number, kept)) = self.add(payload, false) {
            self.sum(number, kept).await;
        }
    }

    fn forget(&self) {
        let mut state = self.state();
        self.drop_kept(&mut state);
        (state.from, state.end) = (0, 0);
        state.sums.clear();
    }

    /// The next part is `payload`. Gives its number and what the checksum has to be taken of, for [`sum`](Self::sum), if that is
    /// of any use.
    pub(super) fn part(&self, payload: &PutPayload) -> Option<(usize, PutPayload)> {
        self.add(payload, true)
    }

    /// The same of a part that the store copied, and that was read as `payload` where it was.
    pub(super) fn copied_part(&self, payload: &PutPayload) -> Option<(usize, PutPayload)> {
        self.state().is_copied = true;
        self.add(payload, true)
    }

    fn add(&self, payload: &PutPayload, in_parts: bool) -> Option<(usize, PutPayload)> {
        let mut state = self.state();
        let bytes = payload.content_length() as u64;
        let kept = self.all.load(Ordering::Relaxed).saturating_add(bytes);
        if state.keeps == Keeps::All && kept > state.room {
            self.stop(&mut state);
            state.is_lost = true;
        }
        let begin = state.end;
        state.end += bytes;
        state.in_parts = in_parts;
        // The sum is of the memory that will be decoded: what is confirmed is that, and not what it was made of.
        let mut summed = payload.clone();
        if state.keeps == Keeps::Nothing {
            state.from = state.end;
        } else if begin < state.until {
            summed = payload.iter().map(own_memory).collect();
            state.kept.extend(summed.iter().cloned());
            state.bytes += bytes;
            self.all.fetch_add(bytes, Ordering::Relaxed);
        }
        if state.is_lost {
            return None;
        }
        state.sums.push(None);
        Some((state.sums.len() - 1, summed))
    }

    /// Keeps nothing from the byte `end` on: nobody will read it along.
    pub(crate) fn keep_until(&self, end: u64) {
        self.state().until = end;
    }

    /// Takes in the checksum of part `number`, which is `payload`.
    pub(super) async fn sum(&self, number: usize, payload: PutPayload) {
        let summing = tokio::task::spawn_blocking(move || {
            let mut md5 = Md5::new();
            payload.iter().for_each(|bytes| md5.update(bytes));
            Sum::from(md5.finalize())
        });
        if let Ok(sum) = summing.await
            && let Some(place) = self.state().sums.get_mut(number)
        {
            *place = Some(sum);
        }
    }

    /// Keeps nothing more.
    pub(crate) fn release_all(&self) {
        self.stop(&mut self.state());
    }

    fn stop(&self, state: &mut FileState) {
        state.keeps = Keeps::Nothing;
        self.drop_kept(state);
        state.from = state.end;
    }

    fn drop_kept(&self, state: &mut FileState) {
        self.all.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
        state.kept.clear();
    }

    /// Bytes that were sent, or are about to be.
    pub(crate) fn end(&self) -> u64 {
        self.state().end
    }

    /// Fills `into` with the bytes from `at` on, and keeps none before their end any more. False, when they are not there.
    pub(crate) fn read_along(&self, at: u64, into: &mut [u8]) -> bool {
        let mut state = self.state();
        let end = at.saturating_add(into.len() as u64);
        if at < state.from || end > state.from + state.bytes || state.keeps == Keeps::Nothing {
            return false;
        }
        let mut into = into;
        let mut begin = state.from;
        for bytes in &state.kept {
            let next = begin + bytes.len() as u64;
            if next > at && begin < end {
                let skipped = place(at.saturating_sub(begin));
                let taken = bytes.get(skipped..).unwrap_or_default();
                let length = taken.len().min(into.len());
                let (head, tail) = std::mem::take(&mut into).split_at_mut(length);
                head.copy_from_slice(taken.get(..length).unwrap_or_default());
                into = tail;
            }
            begin = next;
        }
        while let Some(bytes) = state.kept.front().map(|first| first.len() as u64) {
            if state.from + bytes > end {
                break;
            }
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            state.bytes -= bytes;
            state.from += bytes;
            state.kept.pop_front();
        }
        true
    }

    /// Whether the store has these very bytes: so many has it, and its own checksum of them is `tag`. `None`, where nothing
    /// of it can be compared anyway.
    pub(crate) fn is_confirmed_by(&self, bytes: u64, tag: Option<&str>) -> Option<bool> {
        let (own, end) = (self.etag(), self.end());
        let told = tag.map(|tag| tag.trim_matches('"').to_ascii_lowercase());
        let is_lost = self.state().is_lost;
        (!is_lost).then_some(bytes == end && own.is_some() && told == own)
    }

    /// What the store has to tell of them.
    fn etag(&self) -> Option<String> {
        let state = self.state();
        if state.is_lost {
            return None;
        }
        let sums = state.sums.iter().copied().collect::<Option<Vec<Sum>>>()?;
        match sums.as_slice() {
            [sum] if !state.in_parts => Some(hex(sum)),
            parts if state.in_parts => {
                let whole = Sum::from(Md5::digest(parts.concat()));
                Some(format!("{}-{}", hex(&whole), parts.len()))
            }
            _ => None,
        }
    }

    /// How many bytes it has, if all of them are kept.
    pub(crate) fn kept_bytes(&self) -> Option<u64> {
        let state = self.state();
        state.is_whole().then_some(state.end)
    }

    /// All its bytes, if they are kept; they are no more, and count until what is given goes.
    pub(crate) fn take_bytes(&self) -> Option<TakenBytes> {
        let mut state = self.state();
        if !state.is_whole() {
            self.stop(&mut state);
            return None;
        }
        let share = Share { bytes: std::mem::take(&mut state.bytes), all: Arc::clone(&self.all) };
        let kept = std::mem::take(&mut state.kept);
        self.stop(&mut state);
        drop(state);
        Some(TakenBytes { bytes: joined(kept), share })
    }
}

/// The bytes of a file that were kept of it.
#[derive(Debug)]
pub(crate) struct TakenBytes {
    pub bytes: Bytes,
    /// Has to live as long as anybody holds them.
    pub share: Share,
}

/// Bytes that count as kept.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// `pieces` in one. Each goes as soon as it is copied, so that all of them are not held twice.
fn joined(mut pieces: VecDeque<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut all = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
    while let Some(piece) = pieces.pop_front() {
        all.extend_from_slice(&piece);
    }
    all.into()
}

impl FileState {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.keeps == Keeps::All
    }
}

impl Drop for SentFile {
    fn drop(&mut self) {
        self.release_all();
    }
}

/// `bytes` in no more memory than they take. What is less than a part comes in a buffer for a whole one (lance-io 14
/// `src/object_writer.rs`), which would be held with it.
fn own_memory(bytes: &Bytes) -> Bytes {
    let is_part = bytes.len() as u64 >= PART_BYTES;
    if is_part { bytes.clone() } else { Bytes::copy_from_slice(bytes) }
}

fn hex(sum: &Sum) -> String {
    sum.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pieces: &[&'static str]) -> PutPayload {
        pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect()
    }

    fn expect(sent: &Arc<Sent>, path: &str, keeps: Keeps) -> Arc<SentFile> {
        let keeping = KeepsSent { files: Arc::clone(sent), room: 10 };
        let sending = keeping.keep_sent(&Path::from(path), keeps, false).unwrap();
        let file = Arc::clone(&sending.file);
        sending.finish();
        file
    }

    async fn parts(file: &SentFile, parts: &[PutPayload]) {
        // Their sums come in any order.
        let kept: Vec<_> = parts.iter().map(|part| file.part(part).unwrap()).collect();
        for (number, kept) in kept.into_iter().rev() {
            assert_eq!(file.etag(), None, "a part is missing");
            file.sum(number, kept).await;
        }
    }

    /// What S3 tells: `md5sum` gave the first, and the second of both parts' sums as bytes.
    #[tokio::test]
    async fn the_checksum_is_what_s3_tells() {
        let sent = Arc::<Sent>::default();
        let one = expect(&sent, "a", Keeps::All);
        one.put(&payload(&["hel", "lo"])).await;
        assert_eq!(one.etag().as_deref(), Some("5d41402abc4b2a76b9719d911017c592"));
        // Its reply was lost, and it is put again.
        one.put(&payload(&["hello"])).await;
        assert_eq!(sent.kept.load(Ordering::Relaxed), 5);
        let quoted = "\"5D41402abc4b2a76b9719d911017c592\"";
        let is = |bytes, tag| one.is_confirmed_by(bytes, tag).unwrap();
        assert!(is(5, Some(quoted)) && !is(6, Some(quoted)) && !is(5, None));
        assert!(!is(5, Some("5d41402abc4b2a76b9719d911017c593")));
        let two = expect(&sent, "b", Keeps::Unread);
        parts(&two, &[payload(&["hello"]), payload(&["hello"])]).await;
        assert_eq!(two.etag().as_deref(), Some("616b22817b80eed9f65c3aa38cd29054-2"));
        // An upload in parts of which there is one has another checksum than an object that was put.
        let three = expect(&sent, "c", Keeps::Nothing);
        parts(&three, &[payload(&["hello"])]).await;
        assert_eq!(three.etag().as_deref(), Some("62109206880d38a4010a98e11243924a-1"));
        assert!(sent.take(&Path::from("a")).is_some() && sent.file(&Path::from("a")).is_none());
    }

    #[tokio::test]
    async fn what_was_read_along_is_kept_no_more() {
        let sent = Arc::<Sent>::default();
        let file = expect(&sent, "a", Keeps::Unread);
        file.part(&payload(&["abc", "defg"]));
        file.part(&payload(&["hi"]));
        let kept = || sent.kept.load(Ordering::Relaxed);
        let read = |at, length| {
            let mut into = vec![0; length];
            let there = file.read_along(at, &mut into);
            there.then(|| String::from_utf8(into).unwrap())
        };
        assert_eq!((read(2, 3).as_deref(), kept()), (Some("cde"), 6));
        assert_eq!((read(1, 3), read(5, 5), kept()), (None, None, 6));
        assert_eq!((read(5, 4).as_deref(), kept()), (Some("fghi"), 0));
        file.part(&payload(&["jk"]));
        assert_eq!((read(10, 1).as_deref(), kept()), (Some("k"), 0));
        file.part(&payload(&["l"]));
        file.keep_until(13);
        file.part(&payload(&["mn"]));
        file.part(&payload(&["op"]));
        assert_eq!((kept(), read(11, 3).as_deref(), read(14, 1)), (3, Some("lmn"), None));
        file.part(&payload(&["q"]));
        assert_eq!((file.end(), kept()), (17, 0), "nobody reads it along");
        file.release_all();
        assert_eq!((read(11, 1), file.end(), kept()), (None, 17, 0));
    }

    #[tokio::test]
    async fn no_more_is_kept_than_there_is_room_for() {
        let sent = Arc::<Sent>::default();
        let (first, second) = (expect(&sent, "a", Keeps::All), expect(&sent, "b", Keeps::All));
        first.part(&payload(&["12345"]));
        second.part(&payload(&["1234"]));
        let kept = || sent.kept.load(Ordering::Relaxed);
        assert_eq!(kept(), 9);
        assert!(second.part(&payload(&["56"])).is_none());
        assert_eq!((kept(), second.end()), (5, 6), "there is none for the second one");
        assert_eq!(second.is_confirmed_by(6, Some("anything")), None);
        assert!(second.take_bytes().is_none());
        first.part(&payload(&["67890"]));
        let taken = first.take_bytes().unwrap();
        assert_eq!((&*taken.bytes, kept()), (b"1234567890".as_slice(), 10), "they are still there");
        drop(taken);
        assert_eq!(kept(), 0);
        // One that is given up before it is finished is forgotten, and what was kept of it.
        let keeping = KeepsSent { files: Arc::clone(&sent), room: 10 };
        let third = keeping.keep_sent(&Path::from("c"), Keeps::All, false).unwrap();
        third.file.part(&payload(&["123"]));
        assert_eq!(kept(), 3);
        drop(third);
        assert!(kept() == 0 && sent.file(&Path::from("c")).is_none());
        let keeps =
            |is_copied| keeping.keep_sent(&Path::from("d"), Keeps::All, is_copied).is_some();
        let copied = SentFile::of((Keeps::All, 10), &sent.kept);
        copied.copied_part(&payload(&["123"]));
        sent.was_unconfirmed(&copied);
        assert!(keeps(false) && !keeps(true), "what it copied says nothing of what it was sent");
        sent.was_unconfirmed(&SentFile::of((Keeps::All, 0), &sent.kept));
        assert!(!keeps(false));
    }
}
