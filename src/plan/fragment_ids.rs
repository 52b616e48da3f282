//! The fragment ids that staged fragments get in the swap. They are chosen before it, so that indices can be
//! built over the staged fragments and still fit after other writers have added fragments of their own.

use std::collections::BTreeMap;

/// Ids that are left free for the fragments that others write before the swap.
const ROOM: u64 = 1 << 12;

/// The ids of staged fragments, by the name of their file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FragmentIds {
    ids: BTreeMap<String, u64>,
}

impl FragmentIds {
    /// Whether there are free ids above `used`: Lance's fragment ids have 32 bits.
    pub(crate) fn has_room(used: u64) -> bool {
        used + 2 * ROOM < u64::from(u32::MAX)
    }

    /// Gives each of `files`, which are in row order, an id above `used`, the highest id that the table ever
    /// used. Ids ascend in row order. A file keeps its id, unless a new file has come before it, or the
    /// table has used the id: then all files get other ids.
    pub(crate) fn assign(&mut self, files: &[&str], used: u64) -> Vec<u64> {
        if let Some(ids) = self.keep(files, used) {
            return ids;
        }
        let first = used + ROOM;
        let ids: Vec<u64> = (first..).take(files.len()).collect();
        self.remember(files, &ids);
        ids
    }

    fn keep(&mut self, files: &[&str], used: u64) -> Option<Vec<u64>> {
        let known = files.iter().filter_map(|file| self.ids.get(*file)).max();
        let mut next = *known?;
        let mut ids = Vec::new();
        let mut last = used;
        for file in files {
            let id = self.ids.get(*file).copied().unwrap_or_else(|| {
                next += 1;
                next
            });
            if id <= last {
                return None;
            }
            last = id;
            ids.push(id);
        }
        self.remember(files, &ids);
        Some(ids)
    }

    fn remember(&mut self, files: &[&str], ids: &[u64]) {
        let pairs = files.iter().zip(ids).map(|(file, id)| ((*file).to_owned(), *id));
        self.ids = pairs.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_ids_while_only_the_end_grows() {
        let mut ids = FragmentIds::default();
        let first = ids.assign(&["a", "b", "c"], 7);
        assert!(first.windows(2).all(|pair| pair[0] < pair[1]) && first[0] > 7);
        assert_eq!(ids.assign(&["a", "c", "d"], 90)[..2], [first[0], first[2]]);
        let with_d = ids.assign(&["a", "c", "d"], 90);
        assert!(with_d[2] > with_d[1]);
        let others = ids.assign(&["a", "x", "c", "d"], 90);
        assert!(
            others.windows(2).all(|pair| pair[0] < pair[1]),
            "a file in the middle changes all ids"
        );
        let used = others[3] + 5;
        assert!(ids.assign(&["a", "x", "c", "d"], used)[0] > used);
    }
}
