//! Bytes in flight, shared by all workers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}
