//! Bytes in flight and bytes a second, shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::span;

/// Bounds the bytes of the record batches in flight.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// A unit of the budget: a semaphore counts to 2^32, a budget may be larger.
const UNIT_BYTES: u64 = 64 << 10;

impl Budget {
    /// A budget of `bytes`.
    pub(crate) fn of(bytes: u64) -> Self {
        let units_max = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX >> 3);
        let units_max = units_max.clamp(1, u32::MAX >> 3);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    /// Waits until `bytes` fit. What is larger than the whole budget passes alone.
    ///
    /// `None` only when the budget is gone.
    pub(crate) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.units_max);
        if let Ok(share) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Some(share);
        }
        let _waiting = span::memory();
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// Bounds the bytes written a second. The rate may change at any moment.
#[derive(Debug)]
pub(crate) struct Throttle {
    pace: Mutex<Pace>,
    /// Bytes that were written and not charged yet.
    written: AtomicU64,
    changed: Notify,
}

/// How many bytes may be written by when. What may be written grows with time, at the rate of each moment.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rate: Option<u64>,
    /// Bytes that might be written until `at`.
    granted: f64,
    at: Instant,
    /// Bytes that were.
    charged: f64,
}

/// Seconds of the rate that a pause leaves to be made up for. More would be a burst.
const CREDIT_SECONDS: f64 = 0.5;

impl Pace {
    fn of(rate: Option<u64>, now: Instant) -> Self {
        Self { rate, granted: 0.0, at: now, charged: 0.0 }
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn advance(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            let rate = rate as f64;
            self.granted += now.saturating_duration_since(self.at).as_secs_f64() * rate;
            self.granted = self.granted.min(self.charged + rate * CREDIT_SECONDS);
        }
        self.at = now;
    }

    /// Charges `bytes` that were written, and gives the mark that has to be reached before more are.
    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn charge(&mut self, now: Instant, bytes: u64) -> f64 {
        self.advance(now);
        self.charged += bytes as f64;
        self.charged
    }

    /// How long it takes until `mark` is reached.
    #[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn until(&mut self, now: Instant, mark: f64) -> Duration {
        self.advance(now);
        let Some(rate) = self.rate else { return Duration::ZERO };
        let seconds = (mark - self.granted) / rate.max(1) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    fn change(&mut self, now: Instant, rate: Option<u64>) {
        self.advance(now);
        if self.rate.is_none() {
            // What was written without a limit is nobody's debt.
            self.granted = self.charged;
        }
        self.rate = rate;
    }
}

impl Throttle {
    /// At most `rate` bytes a second, or as fast as it goes.
    pub(crate) fn of(rate: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::of(rate, Instant::now()));
        Self { pace, written: AtomicU64::new(0), changed: Notify::new() }
    }

    /// From now on at most `rate` bytes a second; those who wait for the old one no longer do.
    pub(crate) fn change(&self, rate: Option<u64>) {
        self.pace().change(Instant::now(), rate);
        self.changed.notify_waiters();
    }

    /// Counts `bytes` that were written.
    pub(crate) fn count(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until what was counted may have been written.
    pub(crate) async fn wait(&self) {
        let bytes = self.written.swap(0, Ordering::Relaxed);
        if bytes == 0 {
            return;
        }
        let mark = self.pace().charge(Instant::now(), bytes);
        let mut span = None;
        loop {
            let changed = self.changed.notified();
            let left = self.pace().until(Instant::now(), mark);
            if left.is_zero() {
                return;
            }
            span.get_or_insert_with(span::throttled);
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = changed => {}
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_larger_than_the_budget_passes_alone() {
        let budget = Budget::of(1 << 20);
        let whole = budget.take(1 << 40).await.unwrap();
        assert_eq!(budget.units.available_permits(), 0);
        drop(whole);
        let some = budget.take(1).await.unwrap();
        assert_eq!(some.num_permits(), 1);
    }

    /// Seconds that writes of these sizes take, each begun when the one before may have been; `pauses` are
    /// seconds before each in which nothing is asked for.
    fn seconds(pace: &mut Pace, writes: &[u64], pauses: f64) -> f64 {
        let began = pace.at;
        let mut now = began;
        for bytes in writes {
            now += Duration::from_secs_f64(pauses);
            let mark = pace.charge(now, *bytes);
            now += pace.until(now, mark);
        }
        (now - began).as_secs_f64()
    }

    #[test]
    fn the_rate_holds_whatever_the_writes_and_the_pauses() {
        for (size, pause) in [(1_000, 0.0), (8_000_000, 0.0), (1_000_000, 0.05), (4_000_000, 0.3)] {
            let mut pace = Pace::of(Some(10_000_000), Instant::now());
            let writes = vec![size; usize::try_from(200_000_000 / size).unwrap()];
            let took = seconds(&mut pace, &writes, pause);
            assert!((19.0..21.0).contains(&took), "{size} bytes after {pause} s took {took} s");
        }
    }

    #[test]
    fn a_changed_rate_counts_from_then_on() {
        let now = Instant::now();
        let mut pace = Pace::of(Some(1_000), now);
        let mark = pace.charge(now, 10_000);
        assert_eq!(pace.until(now, mark), Duration::from_secs(10));
        let later = now + Duration::from_secs(4);
        pace.change(later, Some(3_000));
        assert_eq!(pace.until(later, mark), Duration::from_secs(2));
        pace.change(later, None);
        assert_eq!(pace.until(later, mark), Duration::ZERO);
        let mark = pace.charge(later, 1_000_000);
        pace.change(later, Some(1_000));
        assert_eq!(pace.until(later, mark), Duration::ZERO);
    }

    #[tokio::test]
    async fn those_who_wait_hear_of_a_change() {
        let throttle = Throttle::of(Some(1));
        throttle.count(1_000_000);
        tokio::join!(throttle.wait(), async { throttle.change(None) });
    }
}
