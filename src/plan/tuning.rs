//! Decides which settings to try on a table, and which of them to use.

use std::time::Duration;

use serde::Serialize;

use crate::settings::BatchSize;

/// Batch sizes that are tried, in bytes.
const BATCH_BYTES: [u64; 7] = [256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20];

/// Batches that wait between the transform and the writer, that are tried.
const QUEUES: [usize; 4] = [1, 2, 4, 8];

/// A trial counts as fast as the fastest up to this factor: equal runs differ by more.
const AS_FAST: f64 = 1.03;

/// Rounds below which nothing is said of a difference: of fewer, one lies below the other by chance too often.
const ROUNDS_TOLD: usize = 5;

/// Rounds after which more tell nothing new.
pub(crate) const ROUNDS_MAX: usize = 9;

/// Trials of a round of everything that is tried, about.
const TRIALS: u32 = 16;

/// Bytes of a trial: long enough that starting it costs nothing beside it, where there is time for that.
const SAMPLE_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=256 << 20;

/// Settings that are tried together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Knobs {
    /// Bytes in a batch.
    pub batch_bytes: u64,
    /// Chunks staged at once, and transform threads.
    pub workers: usize,
    /// Batches that wait between the transform and the writer.
    pub queue: usize,
}

/// What was measured with some settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Trial {
    /// The settings.
    #[serde(flatten)]
    pub knobs: Knobs,
    /// Times that they were tried.
    pub rounds: usize,
    /// Seconds, the median.
    pub seconds: f64,
    /// Seconds of the fastest one; an eighth is left out at either end.
    pub seconds_min: f64,
    /// Seconds of the slowest one.
    pub seconds_max: f64,
    /// Bytes of record batches a second, by the median.
    pub bytes_per_second: f64,
    /// The process's peak memory while they were tried, the largest; `None`, where the system does not tell.
    pub peak_bytes: Option<u64>,
}

/// What was found for a table.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Tuned {
    /// The table.
    pub table: String,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Rows of each trial, and their bytes.
    pub sample_rows: u64,
    /// Bytes of each trial.
    pub sample_bytes: u64,
    /// Every trial: first batch sizes, then workers, then queues, each with the best of those before.
    pub trials: Vec<Trial>,
    /// The settings to use: those that were asked for, unless others are faster beyond doubt.
    pub best: Trial,
    /// Whether some are faster than those that were asked for.
    pub differs: bool,
    /// The flags that ask for them.
    pub flags: String,
}

impl Knobs {
    /// The flags that ask for them.
    pub fn flags(self) -> String {
        let Self { batch_bytes, workers, queue } = self;
        format!(
            "--batch-size {}KiB --workers {workers} --queue {queue}",
            batch_bytes.div_ceil(1024)
        )
    }

    /// The batch size.
    pub fn batch_size(self) -> BatchSize {
        BatchSize::Bytes(self.batch_bytes)
    }
}

/// The same knobs with each batch size that fits into `budget` bytes a few times.
pub(crate) fn batch_sizes(knobs: Knobs, budget: u64) -> Vec<Knobs> {
    let fit = BATCH_BYTES.into_iter().filter(|bytes| bytes.saturating_mul(8) <= budget);
    let all = fit.map(|batch_bytes| Knobs { batch_bytes, ..knobs });
    let all: Vec<_> = all.collect();
    if all.is_empty() { vec![knobs] } else { all }
}

/// The same knobs with other workers, up to twice the `processors`.
pub(crate) fn workers(knobs: Knobs, processors: usize) -> Vec<Knobs> {
    let doubled = std::iter::successors(Some(1), |workers| Some(workers * 2));
    let some =
        doubled.take_while(|workers| *workers < processors * 2).chain([processors, processors * 2]);
    let mut some: Vec<usize> = some.collect();
    some.sort_unstable();
    some.dedup();
    some.into_iter().map(|workers| Knobs { workers, ..knobs }).collect()
}

/// The same knobs with other queues.
pub(crate) fn queues(knobs: Knobs) -> Vec<Knobs> {
    QUEUES.into_iter().map(|queue| Knobs { queue, ..knobs }).collect()
}

/// `some` with `knobs` among them, which the others are compared with.
pub(crate) fn with_base(mut some: Vec<Knobs>, knobs: Knobs) -> Vec<Knobs> {
    if !some.contains(&knobs) {
        some.push(knobs);
        some.sort_unstable_by_key(|one| (one.batch_bytes, one.workers, one.queue));
    }
    some
}

/// The order in which `count` settings are tried in a round: every other one backwards, so that whatever gets
/// slower or faster meanwhile does so for all alike.
pub(crate) fn order(round: usize, count: usize) -> Vec<usize> {
    let forth = 0..count;
    if round.is_multiple_of(2) { forth.collect() } else { forth.rev().collect() }
}

/// Whether another round is begun after `rounds` that took `elapsed` together, with `left` to go: one that would
/// not end in time is not.
pub(crate) fn goes_on(rounds: usize, elapsed: Duration, left: Duration) -> bool {
    let each = elapsed / u32::try_from(rounds.max(1)).unwrap_or(u32::MAX);
    rounds == 0 || (rounds < ROUNDS_MAX && each <= left)
}

/// Bytes of a trial with which enough rounds fit into `time`, when `bytes` took `seconds`.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sample need not be exact to the byte"
)]
pub(crate) fn sample_bytes(bytes: u64, seconds: f64, time: Duration) -> u64 {
    let rounds = u32::try_from(ROUNDS_TOLD + 1).unwrap_or(1);
    let each = (time / (TRIALS * rounds)).as_secs_f64();
    let fit = bytes as f64 / seconds.max(1e-9) * each;
    (fit as u64).clamp(*SAMPLE_BYTES.start(), *SAMPLE_BYTES.end())
}

/// What was measured with `knobs`: `seconds` of each round, in which `bytes` went through.
#[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
pub(crate) fn trial(
    knobs: Knobs,
    mut seconds: Vec<f64>,
    bytes: u64,
    peak_bytes: Option<u64>,
) -> Trial {
    seconds.sort_by(f64::total_cmp);
    let (rounds, last) = (seconds.len(), seconds.len().saturating_sub(1));
    let at = |place: usize| seconds.get(place).copied().unwrap_or_default();
    let (out, middle) = (rounds / 8, at(last / 2));
    Trial {
        knobs,
        rounds,
        seconds: middle,
        seconds_min: at(out),
        seconds_max: at(last.saturating_sub(out)),
        bytes_per_second: bytes as f64 / middle.max(1e-9),
        peak_bytes,
    }
}

/// The trial whose settings to use instead of `base`, if some are faster beyond doubt: their spread lies below
/// that of `base`. Of the fastest ones, the one with the least memory.
pub(crate) fn better(trials: &[Trial], base: Knobs) -> Option<&Trial> {
    let base = trials.iter().find(|trial| trial.knobs == base)?;
    let faster = |one: &&Trial| {
        one.rounds.min(base.rounds) >= ROUNDS_TOLD
            && one.seconds_max < base.seconds_min
            && one.seconds * AS_FAST < base.seconds
    };
    let fastest = trials.iter().filter(faster).map(|one| one.seconds).min_by(f64::total_cmp)?;
    let as_fast = trials.iter().filter(faster).filter(|one| one.seconds <= fastest * AS_FAST);
    as_fast.min_by(|one, other| {
        let memory = |trial: &Trial| (trial.peak_bytes, trial.knobs.batch_bytes);
        memory(one).cmp(&memory(other)).then(one.seconds.total_cmp(&other.seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOBS: Knobs = Knobs { batch_bytes: 1 << 20, workers: 2, queue: 2 };

    /// A trial whose rounds took from `seconds` to a `spread` more.
    fn tried(batch_bytes: u64, seconds: f64, spread: f64, peak: u64) -> Trial {
        let knobs = Knobs { batch_bytes, ..KNOBS };
        let rounds = (0..5).map(|round| seconds + spread * f64::from(round) / 4.0);
        trial(knobs, rounds.collect(), 1, Some(peak))
    }

    /// The batch size that is better than that of the first one.
    fn found(trials: &[Trial]) -> Option<u64> {
        better(trials, trials[0].knobs).map(|trial| trial.knobs.batch_bytes)
    }

    #[test]
    fn the_fastest_is_better_and_memory_decides_between_equals() {
        let slow = tried(1, 1.2, 0.1, 10);
        let (small, large) = (tried(2, 1.02, 0.05, 300), tried(4, 1.0, 0.05, 400));
        assert_eq!(found(&[slow.clone(), small.clone(), large.clone()]), Some(2));
        assert_eq!(found(&[slow.clone(), large.clone()]), Some(4));
        assert_eq!(found(&[large, small, slow]), None);
        assert_eq!(better(&[], KNOBS), None);
    }

    #[test]
    fn what_overlaps_makes_no_difference() {
        let base = tried(1, 1.0, 0.2, 10);
        // Its median is a tenth lower, and its slowest round as slow as the fastest of the other.
        assert_eq!(found(&[base.clone(), tried(2, 0.85, 0.2, 10)]), None);
        assert_eq!(found(&[base.clone(), tried(2, 0.7, 0.2, 10)]), Some(2));
        // Too few rounds, and too little to speak of.
        let few = Trial { rounds: 4, ..tried(2, 0.7, 0.2, 10) };
        assert_eq!(found(&[base, few]), None);
        assert_eq!(found(&[tried(1, 1.0, 0.001, 10), tried(2, 0.98, 0.001, 10)]), None);
    }

    #[test]
    fn spreads_leave_out_what_happens_once() {
        let one = trial(KNOBS, vec![2.0, 9.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 99.0], 10, None);
        let spread = [one.seconds_min, one.seconds, one.seconds_max, one.bytes_per_second];
        assert_eq!(format!("{spread:?}"), "[2.0, 5.0, 9.0, 2.0]");
        let few = trial(KNOBS, vec![4.0, 1.0], 1, None);
        let spread = [few.seconds_min, few.seconds, few.seconds_max];
        assert_eq!(format!("{spread:?}"), "[1.0, 1.0, 4.0]");
    }

    #[test]
    fn rounds_alternate_and_end_in_time() {
        assert_eq!([order(0, 3), order(1, 3), order(2, 3)], [[0, 1, 2], [2, 1, 0], [0, 1, 2]]);
        let seconds = Duration::from_secs;
        assert!(goes_on(0, seconds(0), seconds(0)), "one round there is");
        assert!(goes_on(2, seconds(4), seconds(2)) && !goes_on(2, seconds(4), seconds(1)));
        assert!(!goes_on(ROUNDS_MAX, seconds(1), seconds(99)));
    }

    #[test]
    fn samples_are_as_large_as_the_time_allows() {
        let mib = |time| sample_bytes(64 << 20, 1.0, Duration::from_secs(time)) >> 20;
        assert_eq!([mib(1), mib(96), mib(144), mib(9_999)], [16, 64, 96, 256]);
    }

    #[test]
    fn what_is_tried_fits_the_machine() {
        let tried =
            |knobs: Vec<Knobs>| knobs.into_iter().map(|knobs| knobs.workers).collect::<Vec<_>>();
        assert_eq!(tried(workers(KNOBS, 1)), [1, 2]);
        assert_eq!(tried(workers(KNOBS, 2)), [1, 2, 4]);
        assert_eq!(tried(workers(KNOBS, 6)), [1, 2, 4, 6, 8, 12]);
        assert_eq!(
            tried(with_base(workers(KNOBS, 2), Knobs { workers: 3, ..KNOBS })),
            [1, 2, 3, 4]
        );
        let sizes = batch_sizes(KNOBS, 16 << 20);
        assert_eq!(sizes.last().unwrap().batch_bytes, 2 << 20);
        assert_eq!(batch_sizes(KNOBS, 1), [KNOBS]);
    }
}
