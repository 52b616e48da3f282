//! The time, as a part that tests can set: this machine's, and the store's.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, pin::Pin};

use chrono::{DateTime, TimeDelta, Utc};

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> DateTime<Utc>;

    /// Waits for `time`. Tests wait shorter.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where time is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// What was written just now cannot be older than this: a file that is given a further name may be half a day old.
const NEW_AGE_MAX: TimeDelta = TimeDelta::days(1);

/// The store's own time, as far as it was seen: the ages of files are told by the clock that dates them,
/// whatever the clocks of the machines say.
#[derive(Debug, Default)]
pub(crate) struct StoreTime(Mutex<Option<(DateTime<Utc>, Instant)>>);

impl StoreTime {
    /// Something was written a moment ago, and the store dates it `modified`.
    pub(crate) fn saw(&self, modified: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((modified, Instant::now()));
    }

    /// As [`saw`](Self::saw), of what may have been a while in the writing: it is believed where the time
    /// that was seen before cannot be right.
    pub(crate) fn wrote(&self, modified: DateTime<Utc>) {
        let age = self.seen().map(|now| now - modified);
        if age.is_none_or(|age| age > NEW_AGE_MAX || age < TimeDelta::zero()) {
            self.saw(modified);
        }
    }

    /// The store's time now; `own`, as long as nothing was seen of it.
    pub(crate) fn now(&self, own: DateTime<Utc>) -> DateTime<Utc> {
        self.seen().unwrap_or(own)
    }

    fn seen(&self) -> Option<DateTime<Utc>> {
        let (then, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(then + TimeDelta::from_std(at.elapsed()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_time_is_what_it_dates_new_files() {
        let (time, own) =
            (StoreTime::default(), DateTime::from_timestamp(1_000_000_000, 0).unwrap());
        assert_eq!(time.now(own), own, "nothing was seen of it");
        let behind = own - TimeDelta::days(8);
        let near = |then: DateTime<Utc>| (time.now(own) - then).abs() < TimeDelta::minutes(1);
        time.saw(behind);
        assert!(near(behind), "whatever the own clock says");
        time.wrote(behind - TimeDelta::hours(11));
        assert!(near(behind), "a further name of a young file");
        time.wrote(behind - TimeDelta::days(3));
        assert!(near(behind - TimeDelta::days(3)), "the store's clock was put back");
        time.wrote(behind);
        assert!(near(behind), "and forth");
    }
}
