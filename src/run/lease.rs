//! Who runs a migration: showing that this run is alive, and taking over from one that is not.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lance::Dataset;
use lance::dataset::transaction::Operation;
use tokio::time::interval;

use crate::commit::{Act, Outcome, exactly_next, properties};
use crate::error::{Error, Result};
use crate::journal::{Journal, LEASE_TIME, Lease, Life, Seen};
use crate::phase::Phase;
use crate::process::ProcessId;
use crate::progress::note;
use crate::retry::Backoff;
use crate::run::Migration;
use crate::run::work::BEAT;
use crate::table::newest;
use crate::{history, span};

/// How often a run that is watched is looked at: as often as the lease's time has seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);

impl Migration {
    pub(super) fn lease(&self, phase: Phase, released: bool) -> Lease {
        Lease {
            process: ProcessId::current(),
            run: self.run.clone(),
            beat: self.clock.now(),
            phase,
            released,
        }
    }

    /// Makes what is done durable, and shows that this run is alive in `phase`, or lets go.
    pub(super) async fn checkpoint(
        &self,
        journal: &mut Journal,
        phase: Phase,
        released: bool,
    ) -> Result<()> {
        let _committing = span::commit();
        let mut backoff = Backoff::of(&self.progress, &self.cancel, "checkpoint");
        loop {
            match journal.checkpoint(self.lease(phase, released)).await {
                Err(error) => backoff.after(error).await?,
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Does `act`, and shows that this run is in `phase`.
    ///
    /// # Errors
    /// Those of `act`; `Locked`, when another run took over: `act` is dropped then.
    pub(super) async fn beating<T>(
        &self,
        journal: &mut Journal,
        phase: Phase,
        act: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::pin!(act);
        let mut lost = journal.lost();
        let mut beat = interval(BEAT);
        beat.tick().await;
        loop {
            tokio::select! {
                done = &mut act => return done,
                error = &mut lost => return Err(error),
                () = self.cancel.cancelled() => return Err(self.interrupted()),
                _ = beat.tick() => self.checkpoint(journal, phase, false).await?,
            }
        }
    }

    /// Takes the migration over, so that whoever ran it before finds out. Gives the newest version of the
    /// live table.
    ///
    /// A run that was last seen at its swap may be asleep just before its commit, which names what this
    /// run may be about to remove. The version that it would commit is taken from it first.
    pub(super) async fn take_over(
        &self,
        live: &Arc<Dataset>,
        journal: &mut Journal,
        phase: Phase,
    ) -> Result<Arc<Dataset>> {
        let lease = journal.lease();
        let mut live = Arc::clone(live);
        if lease.phase == Phase::Swap && !lease.released {
            live = self.fence(&live, &journal.header().id.clone()).await?;
        }
        self.checkpoint(journal, phase, false).await?;
        journal.begin_beats(&self.clock, &self.progress).await?;
        Ok(live)
    }

    /// The store's time now.
    pub(super) fn store_time(&self, journal: &Journal) -> DateTime<Utc> {
        journal.time().now(self.clock.now())
    }

    /// Commits nothing as the version after the pinned one, unless somebody has committed it already.
    async fn fence(&self, live: &Arc<Dataset>, id: &str) -> Result<Arc<Dataset>> {
        let point = history::rollback_point(live, id).await?;
        let head = history::head(live).await?;
        if point.is_none_or(|point| point.version != head) {
            return newest(live).await;
        }
        let nothing = Operation::Append { fragments: Vec::new() };
        match exactly_next(&newest(live).await?, nothing, properties(id, Act::Fence)).await? {
            Outcome::Landed(fenced) => {
                let version = fenced.version_id();
                note(
                    &self.progress,
                    format!("a run may be asleep before its swap: version {version} keeps it out"),
                );
                Ok(Arc::new(*fenced))
            }
            Outcome::LostRace { .. } => newest(live).await,
            Outcome::Unknown { attempted, error } => Err(self.unknown(attempted).caused_by(error)),
        }
    }

    /// Fails when a run of the staged migration is alive.
    pub(super) async fn expect_free(&self, journal: &Journal) -> Result<()> {
        let lease = journal.lease();
        let alive = match lease.life(&ProcessId::current()) {
            Life::Dead => false,
            Life::Alive => true,
            Life::Unknown => self.is_seen(journal).await?,
        };
        if !alive {
            return Ok(());
        }
        let (process, table) = (&lease.process, self.location.table());
        let seen = journal.last_seen().await.unwrap_or(lease.beat);
        let (host, pid, seen) = (&process.host, process.pid, seen.format("%H:%M:%S"));
        Err(Error::locked(format!(
            "a migration of `{table}` is running: process {pid} on {host}, last seen {seen} UTC in \
             phase {}",
            lease.phase
        ))
        .with_advice("wait for it, or stop it first"))
    }

    /// As [`expect_free`](Self::expect_free), but a run that only waits may be taken over.
    pub(super) async fn expect_free_or_waiting(&self, journal: &Journal) -> Result<()> {
        if journal.lease().phase == Phase::Hold { Ok(()) } else { self.expect_free(journal).await }
    }

    /// Whether a run that shows its life in no other way was seen lately. Only the store's clock is asked:
    /// that of the machine it runs on may be wrong, and so may this one's.
    async fn is_seen(&self, journal: &Journal) -> Result<bool> {
        let seen = journal.last_seen().await?;
        match Seen::of(journal.ask_time().await? - seen) {
            Seen::Lately => Ok(true),
            Seen::LongAgo => Ok(false),
            Seen::InTheFuture => self.watch(journal, seen).await,
        }
    }

    /// Whether a run that was last seen at the time `seen`, which is yet to come, shows that it is alive
    /// within the lease's time.
    async fn watch(&self, journal: &Journal, seen: DateTime<Utc>) -> Result<bool> {
        let (seconds, then) = (LEASE_TIME.num_seconds(), seen.format("%Y-%m-%d %H:%M:%S"));
        let text = format!(
            "the run that staged this was last seen at {then} UTC, which is yet to come: a clock was put \
             back. Watching for {seconds} s whether it is alive"
        );
        note(&self.progress, text);
        for _ in 0..seconds {
            if !self.pause(WATCH_EVERY).await {
                return Err(self.interrupted());
            }
            if journal.last_seen().await? != seen {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for `time`, or until it is asked to stop. False when it was.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = self.clock.sleep(time) => true,
        }
    }
}
