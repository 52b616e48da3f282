//! Trying again what a store may answer differently the next time.

use std::{error::Error as StdError, io, time::Duration};

use uuid::Uuid;

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::progress::{SharedProgress, note};

/// Attempts in all. The stores' own clients try each request several times below this.
const ATTEMPTS: u32 = 6;
/// The pause before the second attempt; it doubles with each one.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Runs `act`, and again after a pause while it fails for a reason that may pass.
///
/// # Errors
/// The last error; at once, when it is one that does not pass. `Interrupted`, when `cancel` was asked for meanwhile.
pub(crate) async fn retrying<T, F>(
    progress: &SharedProgress,
    cancel: &Cancel,
    what: &str,
    mut act: impl FnMut() -> F + Send,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut backoff = Backoff::of(progress, cancel, what);
    loop {
        match act().await {
            Err(error) => backoff.after(error).await?,
            done => return done,
        }
    }
}

/// The pauses between the attempts of one thing.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    progress: &'a SharedProgress,
    cancel: &'a Cancel,
    what: &'a str,
    attempt: u32,
}

impl<'a> Backoff<'a> {
    /// Before the first attempt of `what`.
    pub(crate) fn of(progress: &'a SharedProgress, cancel: &'a Cancel, what: &'a str) -> Self {
        Self { progress, cancel, what, attempt: 1 }
    }

    /// Pauses after an attempt that ended with `error`.
    ///
    /// # Errors
    /// `error`, when it does not pass or the attempts are used up; `Interrupted`, when it was asked to stop.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        if self.attempt >= ATTEMPTS || !is_transient(&error) {
            return Err(error);
        }
        let pause = pause(self.attempt, Uuid::new_v4().as_u64_pair().1);
        self.attempt += 1;
        let (seconds, what, attempt) = (pause.as_secs_f64(), self.what, self.attempt);
        let why = error.report(&[]).replace('\n', " ");
        note(
            self.progress,
            format!("{what}: trying again in {seconds:.1} s ({attempt} of {ATTEMPTS}): {why}"),
        );
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {
                let what = format!("{what}: interrupted, and not tried again");
                Err(Error::interrupted(what).caused_by(error))
            }
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

/// The pause after the failed attempt `attempt`: doubled each time, and a random half of it left out, so
/// that many runs do not come back at once.
fn pause(attempt: u32, random: u64) -> Duration {
    let whole = PAUSE.saturating_mul(1_u32 << attempt.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let share = u32::try_from(random % 1_000).unwrap_or_default();
    whole / 2 + whole * share / 2_000
}

/// Whether `error` may pass by itself: something between here and the store, not the store's own word.
pub(crate) fn is_transient(error: &Error) -> bool {
    if !matches!(error.kind(), Kind::Failed | Kind::Mismatch) {
        return false;
    }
    let mut passes = false;
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        match verdict(error) {
            Some(false) => return false,
            Some(true) => passes = true,
            None => {}
        }
        cause = error.source();
    }
    passes
}

/// Whether this one error passes, if it tells.
#[allow(clippy::wildcard_enum_match_arm, reason = "both enums grow; what is new is not retried")]
fn verdict(error: &(dyn StdError + 'static)) -> Option<bool> {
    use io::ErrorKind as Io;
    use object_store::Error as Store;
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::TimedOut
            | Io::Interrupted
            | Io::WouldBlock => Some(true),
            // Lance and the stores wrap their own errors in this one.
            Io::Other => None,
            _ => Some(false),
        };
    }
    if let Some(error) = error.downcast_ref::<Store>() {
        return Some(matches!(error, Store::Generic { .. }));
    }
    match error.downcast_ref::<lance::Error>() {
        Some(lance::Error::Timeout { .. }) => Some(true),
        Some(
            lance::Error::CorruptFile { .. }
            | lance::Error::NotFound { .. }
            | lance::Error::InvalidInput { .. },
        ) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::progress::{Event, Progress};

    fn failed(cause: impl StdError + Send + Sync + 'static) -> Error {
        Error::failed("cannot write a").caused_by(cause)
    }

    fn store(source: io::Error) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: Box::new(source) }
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        assert!(is_transient(&failed(io::Error::from(io::ErrorKind::ConnectionReset))));
        assert!(is_transient(&failed(store(io::Error::other("503 slow down")))));
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
            assert!(!is_transient(&failed(io::Error::from(kind))));
            assert!(!is_transient(&failed(store(io::Error::from(kind)))), "under a store's error");
        }
        let gone = object_store::Error::NotFound { path: "a".into(), source: "no bucket".into() };
        assert!(!is_transient(&failed(gone)));
        assert!(!is_transient(&failed(lance::Error::corrupt_file("a".into(), "bad footer"))));
        assert!(!is_transient(&Error::failed("nobody knows")));
        let locked = Error::locked("a").caused_by(io::Error::from(io::ErrorKind::TimedOut));
        assert!(!is_transient(&locked));
    }

    /// Asks to stop as soon as it hears of a pause.
    #[derive(Debug)]
    struct Impatient(Cancel);

    impl Progress for Impatient {
        fn event(&self, _: Event) {
            self.0.cancel();
        }
    }

    #[tokio::test]
    async fn a_pause_hears_that_it_is_to_stop() {
        let cancel = Cancel::default();
        let progress: SharedProgress = Arc::new(Impatient(cancel.clone()));
        let mut attempts = 0;
        let done: Result<()> = retrying(&progress, &cancel, "it", || {
            attempts += 1;
            async { Err(failed(io::Error::from(io::ErrorKind::TimedOut))) }
        })
        .await;
        assert_eq!(done.unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(attempts, 1);
    }

    #[test]
    fn pauses_grow_and_differ() {
        assert!(pause(1, 0) >= PAUSE / 2 && pause(1, 999) <= PAUSE);
        assert!(pause(3, 0) > pause(1, 999));
        assert!(pause(30, 999) <= PAUSE_MAX);
    }
}
