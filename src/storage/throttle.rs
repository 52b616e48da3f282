//! Bytes a second, shared by all workers: a throttle, and the writers whose bytes it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{io, pin::Pin};

use async_trait::async_trait;
use lance_io::{object_writer::WriteResult, traits::Writer};
use tokio::{io::AsyncWrite, sync::Notify};

use crate::span;

/// Bounds the bytes written a second. The rate may change at any moment.
#[derive(Debug)]
pub(crate) struct Throttle {
    pace: Mutex<Pace>,
    /// Bytes that were written and not charged yet.
    written: AtomicU64,
    changed: Notify,
}

/// How many bytes may be written by when: the number grows with time, at the rate that holds at each moment.
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

#[allow(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
impl Pace {
    fn of(rate: Option<u64>, now: Instant) -> Self {
        Self { rate, granted: 0.0, at: now, charged: 0.0 }
    }

    fn advance(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            let rate = rate as f64;
            self.granted += now.saturating_duration_since(self.at).as_secs_f64() * rate;
            self.granted = self.granted.min(self.charged + rate * CREDIT_SECONDS);
        }
        self.at = now;
    }

    /// Charges `bytes` that were written, and gives the mark that has to be reached before more are.
    fn charge(&mut self, now: Instant, bytes: u64) -> f64 {
        self.advance(now);
        self.charged += bytes as f64;
        self.charged
    }

    /// How long it takes until `mark` is reached.
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

    /// `writer`, whose bytes this throttle counts.
    pub(crate) fn counted(self: &Arc<Self>, writer: Box<dyn Writer>) -> Box<dyn Writer> {
        Box::new(Counted { inner: writer, throttle: Arc::clone(self) })
    }

    /// Counts `bytes` that were written, or read where that is bounded.
    pub(crate) fn count(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
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

/// A writer whose bytes a throttle counts.
struct Counted {
    inner: Box<dyn Writer>,
    throttle: Arc<Throttle>,
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.throttle.count(*count as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Writer for Counted {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        self.inner.tell().await
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        Writer::shutdown(self.inner.as_mut()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
