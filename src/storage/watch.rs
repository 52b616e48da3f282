//! How a store answers: requests to it are counted and watched, and where they can be done twice without harm they are
//! tried again for as long as an outage may last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::path::Path;
use object_store::{Error, MultipartUpload, Result};

use crate::cancel::Cancel;
use crate::phase::Phase;
use crate::progress::{SharedProgress, note};
use crate::retry::{Answer, Away, in_short, passes};
use crate::storage::pace::Pace;
use crate::storage::sent::Sent;
use crate::storage::traffic::{Request, Traffic};
use crate::tally::Tally;

/// Time without an answer after which it is told that one is waited for.
const QUIET: Duration = Duration::from_secs(5);
/// Time between two notes of one outage.
const NOTE_EVERY: Duration = Duration::from_secs(30);
/// Time in which a store has to answer for the first time: until then, its address may be wrong.
const FIRST_ANSWER: Duration = Duration::from_secs(6);
/// Time for which one request is tried again and again while others are answered.
const ALONE: Duration = Duration::from_mins(1);
const ALONE_TRIES: u32 = 3;
/// Time for a request that nothing depends on.
const ASIDE: Duration = Duration::from_secs(8);
/// Time in which a store that was given up is not asked again: others ask more than once, after pauses.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Time in which a listing that was refused for good is not asked for again.
const REFUSED: Duration = Duration::from_secs(3);
/// Time that one request may take which carries few bytes, and one that carries many: those of a slow link. And the time of
/// its first try, if there may be others; each further one has twice as long.
const SMALL_REQUEST: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(15));
const LARGE_REQUEST: (Duration, Duration) = (Duration::from_mins(5), Duration::from_secs(30));
/// The pause after the first failure; it doubles with each one, up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// What is known of a store: shared by all that watch it.
#[derive(Debug, Default)]
pub(crate) struct StoreState {
    pub traffic: Traffic,
    /// What is sent to it and not verified yet.
    pub sent: Arc<Sent>,
    /// Whether an upload in parts was begun: one whose reply was lost is begun again, and nobody knows of the first.
    pub began_uploads: AtomicBool,
    /// Files of which it was to copy parts, and did not, or not those that it was asked for.
    pub copies_failed: AtomicU32,
    /// Whether it was told that unfinished uploads cannot be found, or not be given up: once is enough.
    pub keeps_uploads: AtomicBool,
    pub(super) pace: Pace,
    /// Uploads that were begun by copies inside the store, and how each goes on, by the object that it becomes.
    pub(super) begun: Mutex<HashMap<Path, Box<dyn MultipartUpload>>>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// Whether it answered at all.
    answered: bool,
    /// Since when every request failed, and why the first one did.
    down_since: Option<Instant>,
    why: Option<String>,
    noted: Option<Instant>,
    /// When it was last told that a request takes long.
    waited: Option<Instant>,
    given_up: Option<(Instant, Away)>,
    /// The last listing that was refused for good: Lance asks six times, after pauses.
    refused: Option<(Instant, String, Answer)>,
}

impl StoreState {
    /// The rest of the upload of `path`, if one was begun and nobody goes on with it yet.
    pub(super) fn rest_of(&self, path: &Path) -> Option<Box<dyn MultipartUpload>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(path)
    }

    /// Whoever writes to `path` goes on with `rest`.
    pub(super) fn keep_rest(&self, path: Path, rest: Box<dyn MultipartUpload>) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(path, rest);
    }

    fn health<T>(&self, look: impl FnOnce(&mut Health) -> T) -> T {
        look(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn away_error(away: Away) -> Error {
    Error::Generic { store: "object store", source: Box::new(away) }
}

/// Watches the requests of one run.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(super) state: Arc<StoreState>,
    progress: SharedProgress,
    /// Knows the phase.
    tally: Arc<Tally>,
    cancel: Cancel,
    /// How long an outage may last.
    timeout: Duration,
}

impl Watch {
    pub(crate) fn of(
        state: &Arc<StoreState>,
        (progress, tally): (&SharedProgress, &Arc<Tally>),
        cancel: &Cancel,
        timeout: Duration,
    ) -> Self {
        let (progress, tally) = (Arc::clone(progress), Arc::clone(tally));
        Self { state: Arc::clone(state), progress, tally, cancel: cancel.clone(), timeout }
    }

    fn phase(&self) -> Phase {
        self.tally.phase().unwrap_or(Phase::Plan)
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.state.traffic.sent(self.phase(), bytes);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.state.traffic.received(self.phase(), bytes);
    }

    /// Notes `text`, unless something of the same kind, of which `last` tells, was noted a moment ago.
    fn tell(
        &self,
        last: impl FnOnce(&mut Health) -> &mut Option<Instant>,
        text: impl FnOnce() -> String,
    ) {
        let due = self.state.health(|health| {
            let last = last(health);
            let due = last.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY);
            if due {
                *last = Some(Instant::now());
            }
            due
        });
        if due {
            note(&self.progress, text());
        }
    }

    /// The store has answered, whatever it said.
    fn answered(&self) {
        let told = self.state.health(|health| {
            health.answered = true;
            health.given_up = None;
            health.why = None;
            let since = health.down_since.take();
            health.noted.take().map(|noted| since.unwrap_or(noted))
        });
        if let Some(since) = told {
            let seconds = since.elapsed().as_secs_f64();
            note(&self.progress, format!("the store answers again, after {seconds:.0} s"));
        }
    }

    /// How long it may be away: not for long once the run is asked to stop, nor until it answered once, since its address
    /// may be wrong.
    fn patience(&self) -> Duration {
        let waits = self.state.health(|health| health.answered) && !self.cancel.is_cancelled();
        if waits { self.timeout } else { self.timeout.min(FIRST_ANSWER) }
    }

    /// How long the try `tries` of one `request` may take: less the first times, if there are others, since a connection may
    /// be dead while the store answers on the next.
    fn time_of(&self, request: Request, tries: Option<u32>) -> Duration {
        let (answered, down) = self.state.health(|health| (health.answered, health.down_since));
        let left =
            self.patience().saturating_sub(down.map_or(Duration::ZERO, |down| down.elapsed()));
        let (most, first) = if request.is_large() { LARGE_REQUEST } else { SMALL_REQUEST };
        let soon = tries.map_or(most, |tries| first.saturating_mul(1 << tries.min(8)));
        let most = most.min(soon).min(self.timeout);
        if answered { most } else { most.min(left.max(PAUSE.0)) }
    }

    /// Waits for the answer to `request` of `path`, and says so where that takes long.
    async fn watched<T>(
        &self,
        (request, path): (Request, &str),
        tries: Option<u32>,
        act: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.state.traffic.count(self.phase(), request);
        let began = Instant::now();
        let time = self.time_of(request, tries);
        let mut act = std::pin::pin!(act);
        loop {
            // What can be done again by whoever goes on is not waited for by one who was asked to stop.
            let stops = tries.is_some() && self.cancel.is_cancelled();
            let most = if stops { time.min(FIRST_ANSWER) } else { time };
            let left = most.saturating_sub(began.elapsed());
            if let Ok(done) = tokio::time::timeout(QUIET.min(left), &mut act).await {
                return done.map_err(in_short);
            }
            let seconds = began.elapsed().as_secs();
            if began.elapsed() >= most {
                let source = format!("it gives no answer, {request} had none for {seconds} s");
                let source = std::io::Error::new(std::io::ErrorKind::TimedOut, source);
                return Err(Error::Generic { store: "object store", source: Box::new(source) });
            }
            self.tell(
                |health| &mut health.waited,
                || format!("waiting for the store: {request} {path} has no answer for {seconds} s"),
            );
        }
    }

    /// Does what can be done twice without harm, and does it again while the store is away.
    pub(crate) async fn again<T, F>(
        &self,
        what: (Request, &str),
        mut act: impl FnMut() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let (mut pause, longest) = PAUSE;
        let first = Instant::now();
        let mut tries = 0;
        loop {
            let began = Instant::now();
            let given_up = self.state.health(|health| health.given_up.clone());
            if let Some((_, away)) = given_up.filter(|(at, _)| at.elapsed() < GIVEN_UP) {
                return Err(away_error(away));
            }
            if let Some(answer) = self.refused(what) {
                return Err(answer.into());
            }
            let error = match self.watched(what, Some(tries), act()).await {
                Ok(done) => {
                    self.answered();
                    return Ok(done);
                }
                Err(error) if !passes(&error) => {
                    self.answered();
                    self.keep_refused(what, &error);
                    return Err(error);
                }
                Err(error) => error,
            };
            if let Some(away) = self.away(began, pause, &error) {
                return Err(away_error(away));
            }
            let down = self.state.health(|health| health.down_since);
            if tries >= ALONE_TRIES
                && first.elapsed() > ALONE
                && down.is_none_or(|down| down > first)
            {
                return Err(error);
            }
            let (request, path) = what;
            self.tell(
                |health| &mut health.noted,
                || format!("the store does not do {request} {path}; trying again: {error}"),
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            tries += 1;
        }
    }

    /// Whether the store is given up, now that a request which `began` then has failed, and the next one comes after a
    /// `pause`.
    fn away(&self, began: Instant, pause: Duration, error: &Error) -> Option<Away> {
        let patience = self.patience();
        self.state.health(|health| {
            let down = *health.down_since.get_or_insert(began);
            let why = if let Error::Generic { source, .. } = error {
                source.to_string()
            } else {
                error.to_string()
            };
            // The last request may have had too little time to learn more than the first.
            let why = health.why.get_or_insert(why).clone();
            if down.elapsed() + pause <= patience {
                return None;
            }
            let away = Away { seconds: down.elapsed().as_secs(), why };
            health.given_up = Some((Instant::now(), away.clone()));
            Some(away)
        })
    }

    fn keep_refused(&self, (request, path): (Request, &str), error: &Error) {
        let Error::Generic { source, .. } = error else { return };
        if let (Request::List, Some(answer)) = (request, source.downcast_ref::<Answer>()) {
            let refused = Some((Instant::now(), path.to_owned(), answer.clone()));
            self.state.health(|health| health.refused = refused);
        }
    }

    /// What the same listing was answered a moment ago, if that was final.
    fn refused(&self, (request, path): (Request, &str)) -> Option<Answer> {
        let refused = self.state.health(|health| health.refused.clone());
        let same = |(at, of, _): &(Instant, String, Answer)| {
            request == Request::List && of == path && at.elapsed() < REFUSED
        };
        refused.filter(same).map(|(_, _, answer)| answer)
    }

    /// Does what nothing depends on: for a short time and twice at most, and whatever becomes of it says nothing of the store.
    pub(crate) async fn aside<T, F>(
        &self,
        what: (Request, &str),
        mut act: impl FnMut() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut once = async || {
            let asked = tokio::time::timeout(ASIDE, self.watched(what, Some(0), act()));
            asked.await.unwrap_or_else(|_| {
                let text = format!("it gives no answer to {} in {} s", what.0, ASIDE.as_secs());
                Err(Answer { text, is_final: true }.into())
            })
        };
        match once().await {
            Err(error) if passes(&error) => {
                tokio::time::sleep(PAUSE.0).await;
                once().await
            }
            done => done,
        }
    }

    /// Does what is done once only.
    pub(crate) async fn once<T>(
        &self,
        what: (Request, &str),
        act: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let done = self.watched(what, None, act).await;
        if done.as_ref().err().is_none_or(|error| !passes(error)) {
            self.answered();
        }
        done
    }
}
