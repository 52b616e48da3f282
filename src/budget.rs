//! Bytes in flight and bytes a second, shared by all workers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

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
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// Bounds the bytes written a second.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Option<u64>,
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// At most `rate` bytes a second, or as fast as it goes.
    pub(crate) fn of(rate: Option<u64>) -> Self {
        Self { rate, next: Mutex::new(None) }
    }

    /// Waits until `bytes` may be written.
    pub(crate) async fn wait(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let due = {
            let mut next = self.next.lock().await;
            let now = Instant::now();
            let due = next.map_or(now, |next| next.max(now));
            *next = Some(due + duration(bytes, rate));
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

/// The time that `bytes` take at `rate`.
fn duration(bytes: u64, rate: u64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
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

    #[test]
    fn bytes_take_their_time() {
        assert_eq!(duration(500_000, 1_000_000), Duration::from_millis(500));
        assert_eq!(duration(0, 1), Duration::ZERO);
    }

    #[tokio::test]
    async fn each_write_waits_for_the_ones_before_it() {
        let throttle = Throttle::of(Some(1_000_000_000));
        let began = Instant::now();
        for _ in 0..5 {
            throttle.wait(1_000_000).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(4));
    }
}
