//! How far a phase is, and how fast it goes.

use std::time::{Duration, Instant};

use crate::phase::Phase;
use crate::progress::Amount;

/// How far a phase is, by what was told of it.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub phase: Phase,
    pub began: Instant,
    pub total: Amount,
    /// What an earlier run did.
    start: Amount,
    pub done: Amount,
}

/// How fast a phase goes in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speed {
    /// Rows a second.
    pub rows: u64,
    /// Bytes a second.
    pub bytes: u64,
    /// Seconds left, by rows; `None` before that is known.
    pub eta_seconds: Option<u64>,
}

impl Meter {
    /// A phase that begins now, of which `done` is done already.
    pub(crate) fn of(phase: Phase, total: Amount, done: Amount) -> Self {
        Self { phase, began: Instant::now(), total, start: done, done }
    }

    pub(crate) fn advance(&mut self, by: Amount) {
        self.done.rows += by.rows;
        self.done.bytes += by.bytes;
        self.done.chunks += by.chunks;
    }

    /// Rows that are done, to be told: a chunk that is done once more is told of twice.
    pub(crate) fn rows_done(&self) -> u64 {
        let (done, total) = (self.done.rows, self.total.rows);
        if total == 0 { done } else { done.min(total) }
    }

    /// How fast it goes, when it has taken `passed`.
    pub(crate) fn speed(&self, passed: Duration) -> Speed {
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |done: u64, start: u64| done.saturating_sub(start).saturating_mul(1000) / millis;
        let rows = rate(self.done.rows, self.start.rows);
        let left = self.total.rows.saturating_sub(self.done.rows);
        Speed {
            rows,
            bytes: rate(self.done.bytes, self.start.bytes),
            eta_seconds: (rows > 0).then(|| left.div_ceil(rows)),
        }
    }
}
