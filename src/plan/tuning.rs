//! Decides which settings to try on a table, and which of them to use.

use serde::Serialize;

use crate::settings::BatchSize;

/// Batch sizes that are tried, in bytes.
const BATCH_BYTES: [u64; 7] = [256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20];

/// Batches that wait between the transform and the writer, that are tried.
const QUEUES: [usize; 4] = [1, 2, 4, 8];

/// A trial counts as fast as the fastest up to this factor: equal runs differ by more.
const AS_FAST: f64 = 1.03;

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
pub struct Trial {
    /// The settings.
    #[serde(flatten)]
    pub knobs: Knobs,
    /// Times that they were tried.
    pub rounds: usize,
    /// Seconds, the median.
    pub seconds: f64,
    /// Bytes of record batches a second, by the median.
    pub bytes_per_second: f64,
    /// The process's peak memory while they were tried, the largest; `None`, where the system does not tell.
    pub peak_bytes: Option<u64>,
}

/// What was found for a table.
#[derive(Debug, Clone, Serialize)]
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
    /// The settings to use.
    pub best: Trial,
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

/// The trial whose settings to use: of the fastest ones, the one with the least memory.
pub(crate) fn best(trials: &[Trial]) -> Option<&Trial> {
    let fastest = trials.iter().map(|trial| trial.seconds).min_by(f64::total_cmp)?;
    let as_fast = trials.iter().filter(|trial| trial.seconds <= fastest * AS_FAST);
    as_fast.min_by(|one, other| {
        let memory = |trial: &Trial| (trial.peak_bytes, trial.knobs.batch_bytes);
        memory(one).cmp(&memory(other)).then(one.seconds.total_cmp(&other.seconds))
    })
}

/// The middle of `values`; of two in the middle the lower.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOBS: Knobs = Knobs { batch_bytes: 1 << 20, workers: 2, queue: 2 };

    fn trial(batch_bytes: u64, seconds: f64, peak: u64) -> Trial {
        let knobs = Knobs { batch_bytes, ..KNOBS };
        let peak_bytes = Some(peak);
        Trial { knobs, rounds: 1, seconds, bytes_per_second: 1.0 / seconds, peak_bytes }
    }

    #[test]
    fn the_fastest_is_best_and_memory_decides_between_equals() {
        let trials =
            [trial(1, 1.2, 10), trial(2, 1.02, 300), trial(4, 1.0, 400), trial(8, 1.5, 900)];
        assert_eq!(best(&trials).unwrap().knobs.batch_bytes, 2);
        assert_eq!(best(&trials[2..]).unwrap().knobs.batch_bytes, 4);
        assert!(best(&[]).is_none());
    }

    #[test]
    fn what_is_tried_fits_the_machine() {
        let tried =
            |knobs: Vec<Knobs>| knobs.into_iter().map(|knobs| knobs.workers).collect::<Vec<_>>();
        assert_eq!(tried(workers(KNOBS, 1)), [1, 2]);
        assert_eq!(tried(workers(KNOBS, 2)), [1, 2, 4]);
        assert_eq!(tried(workers(KNOBS, 6)), [1, 2, 4, 6, 8, 12]);
        let sizes = batch_sizes(KNOBS, 16 << 20);
        assert_eq!(sizes.last().unwrap().batch_bytes, 2 << 20);
        assert_eq!(batch_sizes(KNOBS, 1), [KNOBS]);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).total_cmp(&2.0), std::cmp::Ordering::Equal);
        assert_eq!(median(&[4.0, 1.0]).total_cmp(&1.0), std::cmp::Ordering::Equal);
    }
}
