//! Decides how a migration catches up with writers: what a chunk needs, which staged rows have to be deleted,
//! when to look at the table again, and when to give up.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use roaring::RoaringBitmap;

use crate::chunk::{Chunk, Origin, signatures};
use crate::plan::amounts::{count_text, counted};
use crate::settings::Settings;

/// Staged files that are older get a new date: Lance's cleanup removes files that no version names
/// after seven days (lance 14 `src/dataset/cleanup.rs`, `UNVERIFIED_THRESHOLD_DAYS`).
const STALE_AFTER: TimeDelta = TimeDelta::days(3);
/// A cleanup may be removing staged files that are older.
const LOST_AFTER: TimeDelta = TimeDelta::days(6);

/// A chunk is staged again once more than one in this many of its staged rows would be deleted.
const DELETED_SHARE: u64 = 10;

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is left to do for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It is staged from what the source holds now, and verified.
    Nothing,
    /// Its files have to be read back.
    Verify,
    /// Rows that others have deleted from the source have to be deleted from the staged files.
    Delete,
    /// Its files have to get a new date.
    Renew,
    /// Its rows have to be staged.
    Stage,
}

/// How what is staged follows rows that are deleted from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The staged files hold all rows of the source's files, deleted ones included: nothing has to follow.
    Aligned,
    /// The same rows are deleted from what is staged.
    Mapped,
    /// Which staged row is which is not known.
    Unmapped,
}

/// What is staged for a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub origins: &'a [Origin],
    /// Rows in its files.
    pub rows: u64,
    /// Whether its files were read back.
    pub verified: bool,
    /// Whether it is known what they would have to read back as.
    pub verifiable: bool,
    /// When the oldest of its files was last modified.
    pub modified: Option<DateTime<Utc>>,
}

/// What `chunk` needs, given what is staged for it. `now` comes from the clock that dates the files: by
/// another clock all files could seem old, or none.
pub(crate) fn need(
    chunk: &Chunk,
    staged: Option<Standing<'_>>,
    follows: Follows,
    now: DateTime<Utc>,
) -> Need {
    let Some(staged) = staged else { return Need::Stage };
    let age = staged.modified.map_or(TimeDelta::zero(), |modified| now - modified);
    if signatures(staged.origins) != chunk.signatures() || age >= LOST_AFTER {
        return Need::Stage;
    }
    if !staged.verified {
        return if staged.verifiable { Need::Verify } else { Need::Stage };
    }
    if follows == Follows::Aligned && came_back(staged.origins, &chunk.origins()) {
        return Need::Stage;
    }
    if follows != Follows::Aligned && staged.origins != chunk.origins() {
        if follows == Follows::Unmapped {
            return Need::Stage;
        }
        let deleted = staged.rows.checked_sub(chunk.rows());
        let few = deleted.is_some_and(|deleted| deleted <= staged.rows / DELETED_SHARE);
        return if few { Need::Delete } else { Need::Stage };
    }
    if age < STALE_AFTER {
        return Need::Nothing;
    }
    // What is renewed may have to be verified again.
    if staged.verifiable { Need::Renew } else { Need::Stage }
}

/// Whether rows that were deleted `then` are there again: somebody restored an older version. Their values
/// were never checked, since bad values in deleted rows are not reported.
fn came_back(then: &[Origin], now: &[Origin]) -> bool {
    let deleted = |origin: &Origin| {
        let file = origin.deletions.as_ref();
        file.map_or(Some(0), |file| file.num_deleted_rows)
    };
    then.iter().zip(now).any(|(then, now)| match (deleted(then), deleted(now)) {
        (Some(then), Some(now)) => now < then,
        _ => then.deletions != now.deletions,
    })
}

/// The deleted rows of a source fragment, then and now.
#[derive(Debug, Clone)]
pub(crate) struct DeletedRows {
    /// Rows in the fragment's files.
    pub rows: u64,
    /// Deleted when the chunk was staged, or last brought up to date.
    pub then: RoaringBitmap,
    /// Deleted now.
    pub now: RoaringBitmap,
}

/// The rows of a chunk's staged files that are to be deleted, given its source `fragments` in order and the
/// staged rows that were deleted `already`. The staged rows are the source's rows in order, without those
/// that were deleted when the chunk was staged.
///
/// `None`, when a deleted row is there again: then the chunk has to be staged again.
pub(crate) fn staged_deletions(
    fragments: &[DeletedRows],
    already: &RoaringBitmap,
) -> Option<RoaringBitmap> {
    let mut deleted = already.clone();
    let mut before: u64 = 0;
    for fragment in fragments {
        if !fragment.then.is_subset(&fragment.now) {
            return None;
        }
        for row in &fragment.now - &fragment.then {
            let place = before + u64::from(row) - fragment.then.rank(row);
            deleted.insert(nth_left(already, u32::try_from(place).ok()?)?);
        }
        before += fragment.rows.checked_sub(fragment.then.len())?;
    }
    Some(deleted)
}

/// The `place`-th row, counted from 0, that is not in `deleted`.
fn nth_left(deleted: &RoaringBitmap, place: u32) -> Option<u32> {
    let mut row = place;
    loop {
        let next = place.checked_add(u32::try_from(deleted.rank(row)).ok()?)?;
        if next == row {
            return Some(row);
        }
        row = next;
    }
}

/// The rounds of catching up so far, since everything was staged for the first time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rounds {
    pub count: u32,
    /// Rows that had to be staged in them.
    pub rows: u64,
    /// Time spent staging them.
    pub busy: Duration,
}

impl Rounds {
    /// Whether `settings` say to give up, `elapsed` after everything was staged for the first time.
    pub(crate) fn give_up(&self, settings: &Settings, elapsed: Duration) -> bool {
        self.count >= settings.max_rounds || elapsed >= settings.cutover_timeout
    }

    /// How long to wait before the next one, when they took `elapsed`, by a `random` number: beside a writer who commits as
    /// regularly as a clock, rounds that follow each other in the same time would come at the same wrong moment each time.
    pub(crate) fn pause(&self, elapsed: Duration, random: u64) -> Duration {
        if self.count < 2 {
            return Duration::ZERO;
        }
        let share = u32::try_from(random % 1_000).unwrap_or_default();
        (elapsed / self.count).min(PAUSE_MAX) * share / 1_000
    }

    /// Why they come to no end, when they took `elapsed`.
    pub(crate) fn text(&self, elapsed: Duration) -> String {
        let (written, staged) = self.rates(elapsed);
        format!(
            "is written to faster than the migration catches up: {} in {:.1} s, and somebody committed in each of \
             them. Others make {} rows/s to stage, staging does {} rows/s",
            counted(u64::from(self.count), "round"),
            elapsed.as_secs_f64(),
            count_text(written),
            count_text(staged)
        )
    }

    /// Rows a second that others change, and rows a second that are staged.
    pub(crate) fn rates(&self, elapsed: Duration) -> (u64, u64) {
        let rate = |time: Duration| {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
            self.rows.saturating_mul(1_000) / millis
        };
        (rate(elapsed), rate(self.busy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkId, Signature, SourceFragment};
    use lance_table::format::{DeletionFile, DeletionFileType};
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    #[test]
    fn rounds_do_not_follow_each_other_in_step() {
        let (rounds, took) = (Rounds { count: 10, ..Rounds::default() }, Duration::from_secs(4));
        assert_eq!(Rounds { count: 1, ..rounds }.pause(took, 999), Duration::ZERO);
        let pauses = [0, 250, 999].map(|random| rounds.pause(took, random).as_millis());
        assert_eq!(pauses, [0, 100, 399]);
        assert!(rounds.pause(Duration::from_mins(10), u64::MAX) <= PAUSE_MAX);
    }

    fn origin(id: u64, deleted: usize) -> Origin {
        let deletions = (deleted > 0).then_some(DeletionFile {
            read_version: 1,
            id: deleted as u64,
            file_type: DeletionFileType::Bitmap,
            num_deleted_rows: Some(deleted),
            base_id: None,
        });
        Origin { id, signature: Signature(format!("{id}")), deletions }
    }

    fn chunk(id: u64, rows: u64, deleted: usize) -> Chunk {
        let origin = origin(id, deleted);
        let fragment =
            SourceFragment { origin, rows: rows - deleted as u64, physical_rows: rows, bytes: 1 };
        Chunk { id: ChunkId(0), fragments: vec![fragment] }
    }

    #[test]
    fn a_chunk_needs_what_changed() {
        let now = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
        let known_or_not = |verifiable, deleted, follows, chunk: &Chunk, verified, days| {
            let (origins, modified) = ([origin(7, deleted)], Some(now - TimeDelta::days(days)));
            let standing =
                Standing { origins: &origins, rows: 100, verified, verifiable, modified };
            need(chunk, Some(standing), follows, now)
        };
        let standing = |deleted, follows, chunk: &Chunk, verified, days| {
            known_or_not(true, deleted, follows, chunk, verified, days)
        };
        let unread = |verified, days| {
            known_or_not(false, 0, Follows::Mapped, &chunk(7, 100, 0), verified, days)
        };
        assert_eq!(unread(true, 0), Need::Nothing);
        assert_eq!(unread(false, 0), Need::Stage, "nobody knows what it has to be");
        assert_eq!(unread(true, 4), Need::Stage, "a copy could not be verified");
        let ask =
            |chunk: &Chunk, verified, days| standing(0, Follows::Mapped, chunk, verified, days);
        assert_eq!(need(&chunk(7, 100, 0), None, Follows::Mapped, now), Need::Stage);
        assert_eq!(ask(&chunk(7, 100, 0), true, 0), Need::Nothing);
        assert_eq!(ask(&chunk(7, 100, 0), false, 0), Need::Verify);
        assert_eq!(ask(&chunk(7, 100, 3), true, 0), Need::Delete);
        assert_eq!(ask(&chunk(7, 100, 40), true, 0), Need::Stage, "too many to leave lying");
        assert_eq!(ask(&chunk(8, 100, 0), true, 0), Need::Stage);
        let three = |then, follows| standing(then, follows, &chunk(7, 100, 3), true, 0);
        assert_eq!(three(0, Follows::Aligned), Need::Nothing);
        assert_eq!(three(0, Follows::Unmapped), Need::Stage);
        assert_eq!(three(5, Follows::Aligned), Need::Stage, "rows came back");
        assert_eq!(ask(&chunk(7, 100, 0), true, 4), Need::Renew);
        assert_eq!(ask(&chunk(7, 100, 0), true, 6), Need::Stage, "a cleanup may be at it");
    }

    #[test]
    fn rounds_end() {
        let cutover_timeout = Duration::from_secs(10);
        let settings = &Settings { max_rounds: 3, cutover_timeout, ..Settings::default() };
        let rounds = Rounds { count: 2, rows: 600, busy: Duration::from_secs(2) };
        assert!(!rounds.give_up(settings, Duration::from_secs(9)));
        assert!(rounds.give_up(settings, Duration::from_secs(10)));
        assert!(Rounds { count: 3, ..rounds }.give_up(settings, Duration::ZERO));
        assert_eq!(rounds.rates(Duration::from_secs(6)), (100, 300));
    }

    /// A fragment's rows, those deleted when it was staged, and those of two later rounds.
    fn fragment() -> impl Strategy<Value = (u32, [RoaringBitmap; 3])> {
        (1_u32..60).prop_flat_map(|rows| {
            let some = move || btree_set(0..rows, 0..rows as usize);
            (Just(rows), some(), some(), some()).prop_map(|(rows, first, second, third)| {
                let first: RoaringBitmap = first.into_iter().collect();
                let second = second.into_iter().collect::<RoaringBitmap>() | &first;
                let third = third.into_iter().collect::<RoaringBitmap>() | &second;
                (rows, [first, second, third])
            })
        })
    }

    proptest! {
        #[test]
        fn deleting_from_what_is_staged_equals_staging_again(fragments in vec(fragment(), 1..5)) {
            // What is staged: a row of the source for each one that was not deleted then.
            let staged: Vec<(usize, u32)> = fragments.iter().enumerate()
                .flat_map(|(place, (rows, [first, ..]))| {
                    (0..*rows).filter(|row| !first.contains(*row)).map(move |row| (place, row))
                })
                .collect();
            let mut deleted = RoaringBitmap::new();
            for round in [1, 2] {
                let asked: Vec<_> = fragments.iter().map(|(rows, sets)| DeletedRows {
                    rows: u64::from(*rows),
                    then: sets[round - 1].clone(),
                    now: sets[round].clone(),
                }).collect();
                deleted = staged_deletions(&asked, &deleted).unwrap();
                for (place, (fragment, row)) in staged.iter().enumerate() {
                    let gone = fragments[*fragment].1[round].contains(*row);
                    prop_assert_eq!(deleted.contains(u32::try_from(place).unwrap()), gone);
                }
            }
        }
    }

    #[test]
    fn a_row_that_came_back_is_not_a_deletion() {
        let then = RoaringBitmap::from_iter([1, 2]);
        let fragment = DeletedRows { rows: 5, then, now: RoaringBitmap::from_iter([1]) };
        assert_eq!(staged_deletions(&[fragment], &RoaringBitmap::new()), None);
    }
}
