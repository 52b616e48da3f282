//! Trying again what a store may answer differently the next time.

use std::{error::Error as StdError, fmt, io, time::Duration};

use uuid::Uuid;

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result, causes};
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

/// The store was away for longer than it is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    pub seconds: u64,
    pub why: String,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, why } = self;
        write!(f, "the store was waited for {seconds} s: {why}")
    }
}

impl StdError for Away {}

/// What a store answered, in short: the error of its client is a page long.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub text: String,
    /// Whether it is the store's last word.
    pub is_final: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Answer {}

impl From<Answer> for object_store::Error {
    fn from(answer: Answer) -> Self {
        Self::Generic { store: "object store", source: Box::new(answer) }
    }
}

/// Whether `error` may pass by itself: something between here and the store, not the store's own word.
pub(crate) fn is_transient(error: &Error) -> bool {
    if !matches!(error.kind(), Kind::Failed | Kind::Mismatch) {
        return false;
    }
    error.source().is_some_and(passes)
}

/// Whether `error` came of what a store answered, or of none.
pub(crate) fn is_of_store(error: &Error) -> bool {
    let of_store = |cause: &(dyn StdError + 'static)| {
        cause.is::<object_store::Error>() || cause.is::<Answer>() || cause.is::<Away>()
    };
    causes(error).any(of_store)
}

/// Whether `error` came of a store that was away, or gives no answer.
pub(crate) fn is_away(error: &Error) -> bool {
    is_transient(error) || causes(error).any(<dyn StdError>::is::<Away>)
}

/// Whether a store's own `error` may pass by itself.
pub(crate) fn passes(error: &(dyn StdError + 'static)) -> bool {
    let mut passes = false;
    if causes(error).any(says_gone) {
        return false;
    }
    for verdict in causes(error).filter_map(verdict) {
        if !verdict {
            return false;
        }
        passes = true;
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
    if error.is::<Away>() {
        return Some(false);
    }
    if let Some(answer) = error.downcast_ref::<Answer>() {
        return answer.is_final.then_some(false);
    }
    if let Some(error) = error.downcast_ref::<Store>() {
        return match error {
            // A disk has its reasons, which come next.
            Store::Generic { store: "LocalFileSystem", .. } => None,
            Store::Generic { .. } => Some(!is_final(&error.to_string())),
            _ => Some(false),
        };
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

/// Whether `error`, or anything that caused it, says that a version or a file is not there.
pub(crate) fn is_of_gone(error: &Error) -> bool {
    causes(error).any(says_gone)
}

fn says_gone(error: &(dyn StdError + 'static)) -> bool {
    let store = error.downcast_ref::<object_store::Error>();
    error.downcast_ref::<lance::Error>().is_some_and(is_gone)
        || store.is_some_and(|error| matches!(error, object_store::Error::NotFound { .. }))
        // Lance's readers of stores keep no more of it than its words.
        || error.to_string().contains("Not found: ")
}

/// Whether `error` says that a version is not there.
pub(crate) fn is_gone(error: &lance::Error) -> bool {
    error.is_not_found()
        || matches!(
            error,
            lance::Error::VersionNotFound { .. } | lance::Error::DatasetNotFound { .. }
        )
}

/// Whether `error` is a store's word that these credentials may not.
pub(crate) fn is_denied(error: &(dyn StdError + 'static)) -> bool {
    use object_store::Error as Store;
    causes(error).any(|error| {
        let store = error.downcast_ref::<Store>();
        let answer = error.downcast_ref::<Answer>();
        matches!(store, Some(Store::PermissionDenied { .. } | Store::Unauthenticated { .. }))
            || answer.is_some_and(|answer| {
                ["401", "403", "AccessDenied"].iter().any(|code| answer.text.starts_with(code))
            })
    })
}

/// `error` of a store in short, as [`Answer`]: what it answered, or why it could not be asked.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum grows; what is new stays as it is")]
pub(crate) fn in_short(error: object_store::Error) -> object_store::Error {
    use object_store::Error as Store;
    let text = error.to_string();
    let Some(short) = short_text(&error, &text) else { return error };
    let source = Box::new(Answer { text: short, is_final: is_final(&text) });
    match error {
        Store::Generic { store, .. } => Store::Generic { store, source },
        Store::PermissionDenied { path, .. } => Store::PermissionDenied { path, source },
        Store::Unauthenticated { path, .. } => Store::Unauthenticated { path, source },
        Store::NotFound { path, .. } => Store::NotFound { path, source },
        other => other,
    }
}

/// What is told where the store's client finds no credentials.
pub(crate) const NO_CREDENTIALS: &str = "no credentials were found";

/// What `error`, whose whole text is `text`, comes to; `None`, where nothing in it is known.
fn short_text(error: &object_store::Error, text: &str) -> Option<String> {
    let between =
        |from: &str, to: &str| Some(text.split_once(from)?.1.split_once(to)?.0.trim().to_owned());
    if let Some(status) = text.split("status code: ").nth(1) {
        let status = status.split(':').next().unwrap_or(status).trim().to_owned();
        let code = between("<Code>", "</Code>").map(|code| format!(" {code}")).unwrap_or_default();
        let message = between("<Message>", "</Message>").map(|message| format!(": {message}"));
        let message = message.unwrap_or_default().replace(['\n', '\r'], " ");
        return Some(format!("{status}{code}{message}"));
    }
    if text.contains("CredentialsNotLoaded") {
        return Some(NO_CREDENTIALS.to_owned());
    }
    // Of many objects that go by one request, each has an answer of its own.
    if let (Some(code), Some(message)) = (between("(code: ", ")"), between("for key ", " (code: "))
    {
        return Some(format!("{code} for {message}"));
    }
    if !text.contains("error sending request") {
        return None;
    }
    causes(error).last().map(|last| format!("it cannot be reached: {last}"))
}

/// Whether a store's answer is its last word: that there is something wrong with what is asked, an expired token among it.
/// The error itself has no public type (`object_store` 0.13 `src/client/retry.rs`).
fn is_final(text: &str) -> bool {
    let status = text.split("status code: ").nth(1).and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse::<u16>().ok());
    let waits = [408, 425, 429];
    let refused =
        status.is_some_and(|status| (400..500).contains(&status) && !waits.contains(&status));
    let of_one = text.split("(code: ").nth(1).is_some_and(|code| {
        !["InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"]
            .iter()
            .any(|passes| code.starts_with(passes))
    });
    let words =
        ["redirect without LOCATION", "CredentialsNotLoaded", NO_CREDENTIALS, "builder error"];
    refused || of_one || words.iter().any(|word| text.contains(word))
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
        for (status, again) in [(400, false), (403, false), (429, true), (500, true), (503, true)] {
            let text = format!("Server returned non-2xx status code: {status} No: ExpiredToken");
            assert_eq!(is_transient(&failed(store(io::Error::other(text)))), again, "{status}");
        }
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
