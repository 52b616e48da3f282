//! Where what came from elsewhere is kept until the swap: files of frames in the staging table's folder, each of one
//! fragment of the source.
//!
//! On a disk a frame is appended as soon as it is there, so that a killed run loses none; in an object store, which
//! cannot append, frames that come within a second of each other are put together. A frame that is not whole, or not as it
//! was written, counts as not there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{ObjectStoreExt as _, path::Path};
use uuid::Uuid;

use crate::chunk::Signature;
use crate::error::{Doing, Result};
use crate::storage::{files::DataFiles, names::PARTS};
use crate::supply::frame::{Frame, FrameAt, HEAD_BYTES, Head};
use crate::supply::held::Held;

/// Where files cannot be appended to, a frame that comes so soon after the last one was put waits in memory for others, so
/// many bytes at most. One that took longer is put at once.
const GATHER: (Duration, usize) = (Duration::from_secs(1), 8 << 20);

/// How often a file that grows is synced: a power loss takes no more than that.
const SYNC_EVERY: Duration = Duration::from_secs(2);

/// Frames that were read and are kept: the next batch begins in the last one.
const FRAMES_KEPT: usize = 16;

/// Bytes that are read at once to find the heads in a file.
const HEADS_BYTES: u64 = 64 << 10;

/// What a part is of: which of the things from elsewhere, and which fragment.
pub(super) type PartOf = (usize, Signature);

/// A frame, and its rows.
type FrameOfRows = (Vec<u32>, Arc<Frame>);

/// The parts of a migration.
#[derive(Debug)]
pub(super) struct Parts {
    /// The fragments that an earlier run kept something of.
    found: HashSet<Signature>,
    /// Where they are kept; `None` is in memory alone.
    place: Option<(Arc<dyn DataFiles>, Path)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that were there when it was opened, by what they are of, and are not looked into yet.
    unread: HashMap<PartOf, Vec<String>>,
    /// What is there of each fragment that was looked into.
    held: HashMap<PartOf, Held>,
    /// The files that this run wrote.
    own: HashSet<Arc<str>>,
    /// Files that grow.
    growing: HashMap<PartOf, Growing>,
    /// When something of each was put last, where files cannot be appended to.
    put: HashMap<PartOf, Instant>,
    /// Whose turn it is to write of a fragment.
    turns: HashMap<PartOf, Arc<Turn>>,
    memory: Vec<Arc<Frame>>,
    kept: VecDeque<(FrameAt, Arc<Frame>)>,
}

/// Who has it may write.
type Turn = tokio::sync::Mutex<()>;

impl State {
    /// Keeps a frame that was read just now in memory.
    fn keep_in_mind(&mut self, at: FrameAt, frame: Arc<Frame>) {
        self.kept.push_back((at, frame));
        while self.kept.len() > FRAMES_KEPT {
            self.kept.pop_front();
        }
    }

    /// Takes in a frame that was `appended`, perhaps with a `sync`, or that waits. True, when what waits is to be put.
    fn take_note(
        &mut self,
        of: &PartOf,
        rows: &[u32],
        bytes: Vec<u8>,
        (appended, synced): (bool, bool),
    ) -> bool {
        let growing = self.growing.entry(of.clone()).or_insert_with(|| Growing::fresh(of));
        let length = bytes.len() as u64;
        let at =
            FrameAt::File { file: Arc::clone(&growing.file), at: growing.bytes, bytes: length };
        growing.bytes += length;
        if synced {
            growing.synced = Instant::now();
        }
        if !appended {
            growing.waiting.extend(bytes);
        }
        let (time, most) = GATHER;
        let waits = !growing.waiting.is_empty();
        let put = self.put.get(of).is_none_or(|put| put.elapsed() >= time);
        let full = waits && (put || growing.waiting.len() >= most);
        self.held.entry(of.clone()).or_default().add_frame(rows, &at);
        full
    }
}

/// A file that grows, or frames that wait to become one.
#[derive(Debug)]
struct Growing {
    file: Arc<str>,
    bytes: u64,
    synced: Instant,
    waiting: Vec<u8>,
}

impl Growing {
    fn fresh(of: &PartOf) -> Self {
        let (now, file) = (Instant::now(), part_name(of).into());
        Self { file, bytes: 0, synced: now, waiting: Vec::new() }
    }
}

fn part_name((place, fragment): &PartOf) -> String {
    format!("{}-{place}-{}.part", fragment.0, Uuid::new_v4().simple())
}

/// What the file `name` is of.
fn part_of(name: &str) -> Option<PartOf> {
    let mut words = name.strip_suffix(".part")?.split('-');
    let (fragment, place) = (words.next()?, words.next()?.parse().ok()?);
    Some((place, Signature(fragment.to_owned())))
}

impl Parts {
    /// Parts that are kept in memory alone.
    pub(super) fn in_memory() -> Self {
        Self { found: HashSet::new(), place: None, state: Mutex::default() }
    }

    /// The parts below `root`, the staging table's folder.
    ///
    /// # Errors
    /// `Failed`, when the folder cannot be listed.
    pub(super) async fn open_parts(files: Arc<dyn DataFiles>, root: &Path) -> Result<Self> {
        let folder = PARTS.iter().fold(root.clone(), |path, part| path.join(*part));
        let unread = listed(files.as_ref(), &folder).await?;
        let found = unread.keys().map(|(_, fragment)| fragment.clone()).collect();
        let state = State { unread, ..State::default() };
        Ok(Self { found, place: Some((files, folder)), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an earlier run kept something of `fragment`.
    pub(super) fn was_kept(&self, fragment: &Signature) -> bool {
        self.found.contains(fragment)
    }

    /// The fragments that anything is kept of for `place`.
    pub(super) fn kept_fragments(&self, place: usize) -> HashSet<Signature> {
        let state = self.state();
        let known = state.unread.keys().chain(state.held.keys());
        known.filter(|(of, _)| *of == place).map(|(_, fragment)| fragment.clone()).collect()
    }

    /// Where the frames with the values of `rows` of a fragment are, with the place in each.
    ///
    /// # Errors
    /// `Failed`, when a file cannot be read.
    pub(super) async fn find_rows(
        &self,
        of: &PartOf,
        rows: &[u32],
    ) -> Result<Vec<Option<(FrameAt, usize)>>> {
        self.look_into(of).await?;
        let state = self.state();
        let held = state.held.get(of);
        Ok(rows.iter().map(|row| held?.find_row(*row)).collect())
    }

    /// All frames of a fragment.
    ///
    /// # Errors
    /// `Failed`, when a file cannot be read.
    pub(super) async fn frames_of(&self, of: &PartOf) -> Result<Vec<FrameAt>> {
        self.look_into(of).await?;
        Ok(self.state().held.get(of).map(Held::all_frames).unwrap_or_default())
    }

    /// How many rows of a fragment have values.
    ///
    /// # Errors
    /// `Failed`, when a file cannot be read.
    pub(super) async fn count_rows(&self, of: &PartOf) -> Result<u64> {
        self.look_into(of).await?;
        Ok(self.state().held.get(of).map_or(0, Held::row_count))
    }

    /// The frame at `at`; `None`, when it is damaged.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read.
    pub(super) async fn read_frame(&self, at: &FrameAt) -> Result<Option<Arc<Frame>>> {
        let (file, range) = {
            let mut state = self.state();
            if let Some(known) = state.kept.iter().position(|(known, _)| known == at) {
                let known = state.kept.remove(known);
                let frame = known.as_ref().map(|(_, frame)| Arc::clone(frame));
                state.kept.extend(known);
                return Ok(frame);
            }
            match at {
                FrameAt::Memory(number) => return Ok(state.memory.get(*number).map(Arc::clone)),
                FrameAt::File { file, at, bytes } => (Arc::clone(file), *at..*at + *bytes),
            }
        };
        let Some((files, folder)) = &self.place else { return Ok(None) };
        let path = folder.clone().join(file.as_ref());
        let waits = self.waiting(&file, &range);
        let bytes = if let Some(bytes) = waits {
            bytes
        } else {
            let read = files.store().get_range(&path, range).await;
            read.doing(|| format!("read {path}"))?
        };
        let frame = Frame::from_bytes(&bytes).map(Arc::new);
        if let Some(frame) = &frame {
            self.state().keep_in_mind(at.clone(), Arc::clone(frame));
        }
        Ok(frame)
    }

    /// What waits in memory to be put.
    fn waiting(&self, file: &str, range: &std::ops::Range<u64>) -> Option<Bytes> {
        let state = self.state();
        let growing = state.growing.values().find(|growing| &*growing.file == file)?;
        let (from, to) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        growing.waiting.get(from..to).map(Bytes::copy_from_slice)
    }

    /// Keeps the values of `rows`, which ascend, of a fragment. On a disk they survive this process.
    ///
    /// # Errors
    /// `Failed`, when they cannot be written.
    pub(super) async fn keep_rows(
        &self,
        of: &PartOf,
        rows: &[u32],
        frame: Arc<Frame>,
    ) -> Result<()> {
        let Some((files, folder)) = &self.place else {
            let mut state = self.state();
            let at = FrameAt::Memory(state.memory.len());
            state.memory.push(frame);
            state.held.entry(of.clone()).or_default().add_frame(rows, &at);
            return Ok(());
        };
        self.look_into(of).await?;
        let bytes = frame.to_bytes(rows)?;
        let turn = self.turn(of);
        let _turn = turn.lock().await;
        let (file, sync) = {
            let mut state = self.state();
            let growing = state.growing.entry(of.clone()).or_insert_with(|| Growing::fresh(of));
            let file = Arc::clone(&growing.file);
            let sync = growing.synced.elapsed() >= SYNC_EVERY;
            state.own.insert(Arc::clone(&file));
            (file, sync)
        };
        let path = folder.clone().join(file.as_ref());
        let appended = files.append(&path, &bytes, sync).await;
        if appended.is_err() {
            // Where the next frame would begin is not known any more.
            self.state().growing.remove(of);
        }
        let appended = appended?;
        let full = self.state().take_note(of, rows, bytes, (appended, sync));
        if full { self.put_waiting(of).await } else { Ok(()) }
    }

    fn turn(&self, of: &PartOf) -> Arc<Turn> {
        Arc::clone(self.state().turns.entry(of.clone()).or_default())
    }

    /// Puts what waits of a fragment; more of it goes into a new file.
    ///
    /// # Errors
    /// `Failed`, when it cannot be written.
    pub(super) async fn finish_part(&self, of: &PartOf) -> Result<()> {
        let turn = self.turn(of);
        let _turn = turn.lock().await;
        self.put_waiting(of).await
    }

    /// The same, for whoever has the turn.
    async fn put_waiting(&self, of: &PartOf) -> Result<()> {
        let Some((files, folder)) = &self.place else { return Ok(()) };
        let waiting = {
            let state = self.state();
            let growing = state.growing.get(of);
            growing.map(|growing| (Arc::clone(&growing.file), growing.waiting.clone()))
        };
        let Some((file, waiting)) = waiting else { return Ok(()) };
        let path = folder.clone().join(file.as_ref());
        // On a disk it is not synced: what is staged of it will be, within seconds.
        if !waiting.is_empty() {
            files.put_new(&path, waiting.into()).await?;
        }
        let mut state = self.state();
        state.growing.remove(of);
        state.put.insert(of.clone(), Instant::now());
        Ok(())
    }

    /// Finds out which rows the files of a fragment have, once.
    async fn look_into(&self, of: &PartOf) -> Result<()> {
        let names = self.state().unread.get(of).cloned();
        let (Some(names), Some((files, folder))) = (names, &self.place) else { return Ok(()) };
        let mut found = Vec::new();
        for name in names {
            let path = folder.clone().join(name.as_str());
            let (file, size): (Arc<str>, u64) = (name.into(), files.head(&path).await?.size);
            let mut at = 0;
            while let Some(head) = head_at(files.as_ref(), &path, at, size).await? {
                let bytes = (head.head_bytes() + head.body_bytes) as u64;
                let frame = FrameAt::File { file: Arc::clone(&file), at, bytes };
                at += bytes;
                if at > size {
                    break;
                }
                found.push((head, frame));
            }
        }
        let mut state = self.state();
        if state.unread.remove(of).is_some() {
            let held = state.held.entry(of.clone()).or_default();
            for (head, frame) in found {
                held.add_runs(&head.runs, &frame);
            }
        }
        Ok(())
    }

    /// Forgets a frame that is damaged: its rows have no values.
    pub(super) fn forget_damaged(&self, of: &PartOf, at: &FrameAt) {
        if let Some(held) = self.state().held.get_mut(of) {
            held.forget_frame(at);
        }
    }

    /// Removes what this run kept.
    ///
    /// # Errors
    /// `Failed`, when a file cannot be removed.
    pub(super) async fn remove_own(&self) -> Result<()> {
        let own = std::mem::take(&mut *self.state()).own;
        let Some((files, folder)) = &self.place else { return Ok(()) };
        for name in own {
            files.remove(&folder.clone().join(name.as_ref())).await?;
        }
        let unread = listed(files.as_ref(), folder).await?;
        self.state().unread = unread;
        Ok(())
    }

    /// Takes over the frames that `other` has in memory.
    ///
    /// # Errors
    /// `Failed`, when they cannot be written.
    pub(super) async fn take_over(&self, other: &Self) -> Result<()> {
        let held: Vec<(PartOf, Vec<FrameOfRows>)> = {
            let state = other.state();
            let frames = |held: &Held| {
                let frames = held.all_frames().into_iter().filter_map(|at| {
                    let FrameAt::Memory(number) = at else { return None };
                    let frame = state.memory.get(number)?;
                    Some((held.rows_of(&FrameAt::Memory(number)), Arc::clone(frame)))
                });
                frames.collect()
            };
            state.held.iter().map(|(of, held)| (of.clone(), frames(held))).collect()
        };
        for (of, frames) in held {
            for (rows, frame) in frames {
                self.keep_rows(&of, &rows, frame).await?;
            }
            self.finish_part(&of).await?;
        }
        Ok(())
    }
}

/// The files in `folder`, by what they are of.
async fn listed(files: &dyn DataFiles, folder: &Path) -> Result<HashMap<PartOf, Vec<String>>> {
    let mut all: HashMap<PartOf, Vec<String>> = HashMap::new();
    for meta in files.list_below(folder).await? {
        let Some(name) = meta.location.filename() else { continue };
        if let Some(of) = part_of(name) {
            all.entry(of).or_default().push(name.to_owned());
        }
    }
    Ok(all)
}

/// The head of the frame at `at`, if there is one.
async fn head_at(files: &dyn DataFiles, path: &Path, at: u64, size: u64) -> Result<Option<Head>> {
    if at + HEAD_BYTES as u64 > size {
        return Ok(None);
    }
    let read_to = |end: u64| {
        let range = at..end.min(size);
        async move { files.store().get_range(path, range).await.doing(|| format!("read {path}")) }
    };
    let first = read_to(at + HEADS_BYTES.min(size - at)).await?;
    match Head::bytes_at(&first) {
        None => Ok(None),
        Some(whole) if whole <= first.len() => Ok(Head::of_bytes(&first)),
        Some(whole) => Ok(Head::of_bytes(&read_to(at + whole as u64).await?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_tells_what_it_is_of() {
        let of = (3, Signature("0123456789abcdef0123456789abcdef".to_owned()));
        assert_eq!(part_of(&part_name(&of)), Some(of));
        assert_eq!(part_of("x.part"), None);
        assert_eq!(part_of("beat-1.json"), None);
    }
}
