//! Where the time goes: the wall clock, divided among what is going on at each moment in this process.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// What goes on for some time. The order is that of [`SPANS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Plan,
    Scan,
    Transform,
    Write,
    Verify,
    Index,
    Commit,
    Throttled,
    Memory,
    /// Nothing by itself: somebody waits for rows, so that what hands rows to him holds him up.
    Starved,
}

/// The names of the spans: trying the changes on the data, waiting for the source's rows, transforming
/// them and taking digests, encoding and writing, reading back, building indices, committing, waiting for
/// `--max-rate`, and waiting for `--memory`.
pub const SPANS: [&str; 9] =
    ["plan", "scan", "transform", "write", "verify", "index", "commit", "throttled", "memory"];

/// Seconds below which nothing is said of what limits a run.
const TOLD_SECONDS: f64 = 1.0;

/// Seconds of each part in the order of [`SPANS`], and those in which nothing went on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    seconds: [f64; SPANS.len()],
    waiting: f64,
}

impl Spent {
    /// What was spent since it was `before`.
    pub(crate) fn since(self, before: &Self) -> Self {
        let mut more = self;
        for (seconds, before) in more.seconds.iter_mut().zip(before.seconds) {
            *seconds -= before;
        }
        more.waiting -= before.waiting;
        more
    }

    /// Seconds of each kind, those without any left out, waiting last.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command shows them"))]
    pub(crate) fn parts(&self) -> Vec<(&'static str, f64)> {
        let parts = SPANS.iter().copied().zip(self.seconds).chain([("waiting", self.waiting)]);
        parts.filter(|(_, seconds)| *seconds >= 0.0005).collect()
    }

    /// What the workers waited for longest; `None` for a short time.
    pub(crate) fn limit(&self) -> Option<&'static str> {
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

/// How many of each part go on, and what was spent so far.
#[derive(Debug)]
struct Parts {
    open: [u32; SPANS.len()],
    starved: u32,
    spent: Spent,
    last: Instant,
}

/// How much of a moment each part of which so many are `open` is given.
///
/// A writer that writes, or waits for the rate, holds its worker up: what its rows come from works ahead, and
/// costs nothing. Only while somebody is `starved` does the moment go to what hands the rows on.
fn weights(open: [u32; SPANS.len()], starved: u32) -> [f64; SPANS.len()] {
    let hands_on = |name: &str| matches!(name, "scan" | "transform" | "memory");
    let (mut ahead, mut others) = (0, 0);
    for (name, open) in SPANS.iter().zip(open) {
        *(if hands_on(name) { &mut ahead } else { &mut others }) += open;
    }
    let share = match (starved, others) {
        (0, 0) => 1.0,
        _ if ahead == 0 => 0.0,
        _ => f64::from(starved) / f64::from(ahead),
    };
    let mut weights = open.map(f64::from);
    for (weight, _) in weights.iter_mut().zip(SPANS).filter(|(_, name)| hands_on(name)) {
        *weight *= share;
    }
    weights
}

impl Parts {
    fn of(now: Instant) -> Self {
        let (open, spent) = ([0; SPANS.len()], Spent::default());
        Self { open, starved: 0, spent, last: now }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        let weights = weights(self.open, self.starved);
        let all: f64 = weights.iter().sum();
        if all <= 0.0 {
            self.spent.waiting += passed;
            return;
        }
        // A moment in which several things go on counts for each in part, so that they add up to what passed.
        for (seconds, weight) in self.spent.seconds.iter_mut().zip(weights) {
            *seconds += passed * weight / all;
        }
    }

    fn count(&mut self, now: Instant, part: Part, change: impl FnOnce(u32) -> u32) {
        self.advance(now);
        let open = self.open.get_mut(part as usize).unwrap_or(&mut self.starved);
        *open = change(*open);
    }
}

static PARTS: LazyLock<Mutex<Parts>> = LazyLock::new(|| Mutex::new(Parts::of(Instant::now())));

fn with<R>(act: impl FnOnce(&mut Parts, Instant) -> R) -> R {
    act(&mut PARTS.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
}

/// What was spent in this process so far.
pub(crate) fn now() -> Spent {
    with(|parts, now| {
        parts.advance(now);
        parts.spent
    })
}

/// Goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct GoesOn(Part);

impl GoesOn {
    pub(crate) fn begin(part: Part) -> Self {
        with(|parts, now| parts.count(now, part, |open| open + 1));
        Self(part)
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        with(|parts, now| parts.count(now, self.0, |open| open.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What is spent when each of `parts` opens (`true`) or closes at a second.
    fn spent(end: u64, parts: &[(u64, Part, bool)]) -> Spent {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut state = Parts::of(began);
        for (second, part, opens) in parts {
            let change = |open| if *opens { open + 1 } else { open - 1 };
            state.count(at(*second), *part, change);
        }
        state.advance(at(end));
        state.spent
    }

    #[test]
    fn the_parts_add_up_to_the_time_that_passed() {
        let (scan, write) = (Part::Scan, Part::Write);
        let events = [(1, scan, true), (3, write, true), (3, write, true), (6, scan, false)];
        let events = [&events[..], &[(6, write, false), (8, write, false)]].concat();
        let all = spent(10, &events);
        assert_eq!(all.parts(), [("scan", 2.0), ("write", 5.0), ("waiting", 3.0)]);
        assert_eq!(all.limit(), Some("the writer: encoding and the disk"));
        assert_eq!(all.since(&all).limit(), None);
        assert_eq!(Spent::default().limit(), None);
    }

    #[test]
    fn the_limit_is_what_a_worker_waits_for_and_not_what_works_ahead_of_it() {
        use Part::{Memory, Scan, Starved, Throttled, Transform, Write};
        // Three batches are being transformed and wait for the writer, which the rate holds.
        let ahead = [Transform, Transform, Transform, Scan, Memory];
        let open = |parts: &[Part]| parts.iter().map(|part| (0, *part, true)).collect::<Vec<_>>();
        let held = spent(9, &open(&[&ahead[..], &[Throttled]].concat()));
        assert_eq!((held.limit(), held.parts()), (Some("--max-rate"), vec![("throttled", 9.0)]));
        // One of two workers waits for rows, which wait for the processors.
        let two = spent(9, &open(&[Transform, Transform, Starved, Write]));
        assert_eq!(two.parts(), [("transform", 4.5), ("write", 4.5)]);
        for (part, told) in [
            (Transform, "the processors: transforming and digests"),
            (Scan, "waiting for the store"),
            (Memory, "--memory"),
        ] {
            assert_eq!(spent(9, &open(&[part, Starved])).limit(), Some(told));
        }
        assert_eq!(spent(9, &open(&[Starved])).parts(), [("waiting", 9.0)]);
    }
}
