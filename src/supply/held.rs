//! Which rows of a fragment have values, and in which frames.

use std::collections::BTreeMap;

use crate::supply::frame::{FrameAt, Run, runs_of};

/// Which rows of a fragment have values: runs of rows that lie together in one frame, by their first row. No two overlap.
#[derive(Debug, Default)]
pub(super) struct Held {
    runs: BTreeMap<u32, HeldRun>,
    frames: Vec<FrameAt>,
}

#[derive(Debug, Clone, Copy)]
struct HeldRun {
    count: u32,
    /// The frame's place among all.
    frame: usize,
    /// The place of the first row in it.
    offset: usize,
}

impl Held {
    /// Takes in a frame of `rows`, which ascend. What is there already stays.
    pub(super) fn add_frame(&mut self, rows: &[u32], at: &FrameAt) {
        self.add_runs(&runs_of(rows), at);
    }

    /// The same for runs of rows.
    pub(super) fn add_runs(&mut self, runs: &[Run], at: &FrameAt) {
        let (frame, mut offset) = (self.frames.len(), 0);
        self.frames.push(at.clone());
        for run in runs {
            self.add_run(*run, frame, offset);
            offset += run.count as usize;
        }
    }

    fn add_run(&mut self, run: Run, frame: usize, offset: usize) {
        let (first, end) = (u64::from(run.first), u64::from(run.first) + u64::from(run.count));
        let before = self.runs.range(..run.first).next_back();
        let before = before.map(|(start, held)| (u64::from(*start), *held));
        let inside = self.runs.range(run.first..).map(|(start, held)| (u64::from(*start), *held));
        let mut gaps = Vec::new();
        let mut next = first;
        for (start, held) in before.into_iter().chain(inside).take_while(|(start, _)| *start < end)
        {
            if start > next {
                gaps.push(next..start);
            }
            next = next.max(start + u64::from(held.count));
        }
        if next < end {
            gaps.push(next..end);
        }
        for gap in gaps {
            let skipped = usize::try_from(gap.start - first).unwrap_or_default();
            let numbers =
                u32::try_from(gap.start).ok().zip(u32::try_from(gap.end - gap.start).ok());
            if let Some((start, count)) = numbers {
                self.runs.insert(start, HeldRun { count, frame, offset: offset + skipped });
            }
        }
    }

    /// The frame with the value of `row`, and its place there.
    pub(super) fn find_row(&self, row: u32) -> Option<(FrameAt, usize)> {
        let (start, run) = self.runs.range(..=row).next_back()?;
        let inside = row - start;
        let found = (inside < run.count).then(|| self.frames.get(run.frame))??;
        Some((found.clone(), run.offset + inside as usize))
    }

    pub(super) fn all_frames(&self) -> Vec<FrameAt> {
        self.frames.clone()
    }

    pub(super) fn row_count(&self) -> u64 {
        self.runs.values().map(|run| u64::from(run.count)).sum()
    }

    /// The rows of the frame `at`.
    pub(super) fn rows_of(&self, at: &FrameAt) -> Vec<u32> {
        let own = self.runs.iter().filter(|(_, run)| self.frames.get(run.frame) == Some(at));
        own.flat_map(|(start, run)| *start..start.saturating_add(run.count)).collect()
    }

    /// Forgets the rows of the frame `at`.
    pub(super) fn forget_frame(&mut self, at: &FrameAt) {
        let Self { runs, frames } = self;
        runs.retain(|_, run| frames.get(run.frame) != Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each row is found in the first frame that had it, at its place there.
        #[test]
        fn rows_are_found_where_they_are(
            frames in proptest::collection::vec(proptest::collection::btree_set(0_u32..60, 0..20), 0..12),
        ) {
            let mut held = Held::default();
            for (number, rows) in frames.iter().enumerate() {
                held.add_frame(&rows.iter().copied().collect::<Vec<_>>(), &FrameAt::Memory(number));
            }
            for row in 0..61 {
                let first = frames.iter().position(|rows| rows.contains(&row));
                let wanted = first.map(|number| {
                    let place = frames[number].iter().position(|one| *one == row).unwrap();
                    (FrameAt::Memory(number), place)
                });
                prop_assert_eq!(held.find_row(row), wanted);
            }
            let all: std::collections::BTreeSet<_> = frames.iter().flatten().collect();
            prop_assert_eq!(held.row_count(), all.len() as u64);
        }
    }
}
