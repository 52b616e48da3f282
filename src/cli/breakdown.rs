//! Where the time goes: the wall clock, divided among what is going on at each moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::SPANS;

/// Seconds below which nothing is said of what limits a run.
const TOLD_SECONDS: f64 = 1.0;

/// Where the time went so far.
#[derive(Debug, Clone)]
pub(super) struct Breakdown {
    state: Arc<Mutex<TimeParts>>,
}

/// A moment in which several things go on counts for each of them in equal parts, so that all parts add up
/// to the time that passed.
#[derive(Debug)]
struct TimeParts {
    open: [u32; SPANS.len()],
    seconds: [f64; SPANS.len()],
    waiting: f64,
    last: Instant,
}

impl TimeParts {
    fn of(now: Instant) -> Self {
        Self { open: [0; SPANS.len()], seconds: [0.0; SPANS.len()], waiting: 0.0, last: now }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        let all: u32 = self.open.iter().sum();
        if all == 0 {
            self.waiting += passed;
            return;
        }
        for (seconds, open) in self.seconds.iter_mut().zip(self.open) {
            *seconds += passed * f64::from(open) / f64::from(all);
        }
    }

    fn open(&mut self, now: Instant, name: &str) {
        self.advance(now);
        for (_, open) in SPANS.iter().zip(&mut self.open).filter(|(known, _)| **known == name) {
            *open += 1;
        }
    }

    fn close(&mut self, now: Instant, name: &str) {
        self.advance(now);
        for (_, open) in SPANS.iter().zip(&mut self.open).filter(|(known, _)| **known == name) {
            *open = open.saturating_sub(1);
        }
    }

    /// Seconds of each kind, those without any left out, waiting last.
    fn parts(&self) -> Vec<(&'static str, f64)> {
        let parts = SPANS.iter().copied().zip(self.seconds).chain([("waiting", self.waiting)]);
        parts.filter(|(_, seconds)| *seconds >= 0.0005).collect()
    }

    fn limit(&self) -> Option<&'static str> {
        let all: f64 = self.seconds.iter().sum();
        let largest = SPANS.iter().zip(self.seconds).max_by(|one, other| one.1.total_cmp(&other.1));
        let (name, _) = largest.filter(|_| all >= TOLD_SECONDS)?;
        Some(match *name {
            "plan" => "trying the changes on the data",
            "scan" => "waiting for the store",
            "transform" => "the processors: transforming and digests",
            "write" => "the writer: encoding and the disk",
            "verify" => "reading back",
            "index" => "building indices",
            "commit" => "commits",
            "throttled" => "--max-rate",
            _ => "--memory",
        })
    }
}

impl Breakdown {
    /// Begins with no time gone.
    pub(super) fn begin() -> Self {
        Self { state: Arc::new(Mutex::new(TimeParts::of(Instant::now()))) }
    }

    /// Begins again with no time gone.
    pub(super) fn restart(&self) {
        self.with(|state| *state = TimeParts::of(Instant::now()));
    }

    /// The parts in words, with their sum.
    pub(super) fn text(&self) -> String {
        self.with(|state| {
            let parts = state.parts();
            let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
            let each = parts.iter().map(|(name, seconds)| {
                let percent = 100.0 * seconds / all.max(f64::MIN_POSITIVE);
                format!("{name} {seconds:.3} ({percent:.0} %)")
            });
            let each = each.collect::<Vec<_>>().join(", ");
            format!("seconds: {each}; {all:.3} in all")
        })
    }

    /// What most of the time went into; `None` for a short run.
    pub(super) fn limit(&self) -> Option<&'static str> {
        self.with(|state| state.limit())
    }

    /// The parts, and what limits the run.
    pub(super) fn json(&self) -> Value {
        self.with(|state| {
            let parts =
                state.parts().into_iter().map(|(name, seconds)| (name.to_owned(), json!(seconds)));
            let seconds: serde_json::Map<_, _> = parts.collect();
            json!({ "seconds": seconds, "limited_by": state.limit() })
        })
    }

    fn with<R>(&self, look: impl FnOnce(&mut TimeParts) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(Instant::now());
        look(&mut state)
    }

    fn note(&self, metadata: &Metadata<'_>, act: fn(&mut TimeParts, Instant, &str)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut state, Instant::now(), metadata.name());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Breakdown {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.note(attributes.metadata(), TimeParts::open);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(metadata) = context.metadata(&id) {
            self.note(metadata, TimeParts::close);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_parts_add_up_to_the_time_that_passed() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut state = TimeParts::of(began);
        state.open(at(1), "scan");
        state.open(at(3), "write");
        state.open(at(3), "write");
        state.close(at(6), "scan");
        state.close(at(6), "write");
        state.close(at(8), "write");
        state.advance(at(10));
        assert_eq!(state.parts(), [("scan", 3.0), ("write", 4.0), ("waiting", 3.0)]);
        assert_eq!(state.limit(), Some("the writer: encoding and the disk"));
        assert_eq!(TimeParts::of(began).limit(), None);
    }
}
