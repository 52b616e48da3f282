//! What was kept of fragments that the table does not have any more: others may have moved their rows.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use crate::chunk::Signature;
use crate::error::Result;
use crate::supply::assemble::Found;
use crate::supply::frame::{Frame, FrameAt, Key};
use crate::supply::{Supply, parts::PartOf};

/// What was kept of fragments that the table does not have any more, or of which rows may have been deleted since something
/// was computed: others may have moved them.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// The rows that each fragment had when it was seen first.
    pub first: HashMap<Signature, u64>,
    /// The fragments that the table has with all of these.
    pub live: HashSet<Signature>,
    looked_into: HashSet<PartOf>,
    keys: HashMap<(usize, Key), (FrameAt, usize)>,
    full: bool,
}

/// Bytes of a key of a fragment that is gone, with its place, in memory.
const GONE_KEY_BYTES: u64 = 96;

impl Supply {
    /// Finds what is `missing` in what was kept of fragments that are gone.
    pub(super) async fn find_gone(
        &self,
        place: usize,
        keys: &[Key],
        missing: &mut Vec<usize>,
        found: &mut Found,
        frames: &mut HashMap<FrameAt, Arc<Frame>>,
    ) -> Result<()> {
        self.look_into_gone(place).await?;
        let mut still = Vec::new();
        for row in std::mem::take(missing) {
            let Some(key) = keys.get(row) else { continue };
            let there = {
                let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
                gone.keys.get(&(place, *key)).cloned()
            };
            let Some((at, inside)) = there else {
                still.push(row);
                continue;
            };
            if !frames.contains_key(&at)
                && let Some(frame) = self.parts.read_frame(&at).await?
            {
                frames.insert(at.clone(), frame);
            }
            let same = frames.get(&at).and_then(|frame| frame.keys.get(inside)) == Some(key);
            match found.get_mut(row).filter(|_| same) {
                Some(slot) => *slot = Some((at, inside)),
                None => still.push(row),
            }
        }
        *missing = still;
        Ok(())
    }

    /// Reads the keys of what was kept of fragments that are gone, once.
    async fn look_into_gone(&self, place: usize) -> Result<()> {
        let wanted: Vec<PartOf> = {
            let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if gone.live.is_empty() || gone.full {
                return Ok(());
            }
            let there = self.parts.kept_fragments(place).into_iter();
            let there = there.filter(|fragment| !gone.live.contains(fragment));
            let there = there.map(|fragment| (place, fragment));
            there.filter(|of| !gone.looked_into.contains(of)).collect()
        };
        for of in wanted {
            for at in self.parts.frames_of(&of).await? {
                let Some(frame) = self.parts.read_frame(&at).await? else { continue };
                let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
                let keys = frame.keyed().map(|(key, inside)| ((place, key), (at.clone(), inside)));
                gone.keys.extend(keys);
                if gone.keys.len() as u64 * GONE_KEY_BYTES > self.moved_bytes {
                    gone.full = true;
                    return Ok(());
                }
            }
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.looked_into.insert(of);
        }
        Ok(())
    }
}
