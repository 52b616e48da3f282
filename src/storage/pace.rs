//! How many parts of uploads are sent at once: as many as the link carries, which is seen by how long they take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Parts at once in the beginning, and at most.
const PARTS: (usize, usize) = (16, 64);
/// A part that takes longer than the first time shows that there are too many; less than the second, that there may be more.
const PART_TIME: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));

/// Parts that are sent at once.
#[derive(Debug)]
pub(super) struct Pace {
    turns: Semaphore,
    allowed: AtomicUsize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { turns: Semaphore::new(PARTS.0), allowed: AtomicUsize::new(PARTS.0) }
    }
}

/// A part's turn to be sent.
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Pace {
    /// Waits until a part may be sent.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn { pace: self, permit: self.turns.acquire().await.ok() }
    }
}

impl Turn<'_> {
    /// The part took that long; whether it was `sent` or failed.
    pub(super) fn took(self, time: Duration, sent: bool) {
        let (slow, quick) = PART_TIME;
        let Self { pace, permit } = self;
        let allowed = pace.allowed.load(Ordering::Relaxed);
        if (time > slow || !sent) && allowed > 1 {
            // Its own turn goes: with every slow part there is one fewer.
            pace.allowed.fetch_sub(1, Ordering::Relaxed);
            if let Some(permit) = permit {
                permit.forget();
            }
        } else if sent && time < quick && allowed < PARTS.1 {
            pace.allowed.fetch_add(1, Ordering::Relaxed);
            pace.turns.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(pace: &Pace, times: usize, seconds: u64, sent: bool) -> usize {
        for _ in 0..times {
            pace.turn().await.took(Duration::from_secs(seconds), sent);
        }
        assert_eq!(pace.turns.available_permits(), pace.allowed.load(Ordering::Relaxed));
        pace.turns.available_permits()
    }

    #[tokio::test]
    async fn slow_parts_become_fewer_and_one_is_left() {
        let pace = Pace::default();
        assert_eq!(after(&pace, 3, 5, true).await, PARTS.0);
        assert_eq!(after(&pace, 3, 40, true).await, PARTS.0 - 3);
        assert_eq!(after(&pace, 100, 1, false).await, 1);
        assert_eq!(after(&pace, 3, 1, true).await, 4);
        assert_eq!(after(&pace, 1_000, 0, true).await, PARTS.1);
    }
}
