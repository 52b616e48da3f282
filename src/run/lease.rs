//! Who runs a migration: showing that this run is alive, and taking over from one that is not.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lance::{Dataset, dataset::transaction::Operation};
use tokio::time::interval;

use crate::error::{Error, Result};
use crate::journal::{Journal, LEASE_TIME, LastSeen, Lease, Life};
use crate::run::{context::Context, hints::unknown};
use crate::table::commit::{Act, Outcome, exactly_next, properties};
use crate::table::{history, open::newest};
use crate::{phase::Phase, process::ProcessId, retry::Backoff, span};

/// How often the journal is written while chunks are in progress: what a crash can cost.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// How often a run that is watched is looked at: as often as the lease's time has seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The lease of this run, in `phase`.
pub(crate) fn lease_of(ctx: &Context, phase: Phase, released: bool) -> Lease {
    let (process, run, beat) = (ProcessId::current(), ctx.run.clone(), ctx.clock.now());
    Lease { process, run, beat, phase, released }
}

/// Makes what is done durable, and shows that this run is alive in `phase`, or lets go.
pub(crate) async fn checkpoint(
    ctx: &Context,
    journal: &mut Journal,
    phase: Phase,
    released: bool,
) -> Result<()> {
    let _committing = span::commit();
    let mut backoff = Backoff::of(&ctx.progress, &ctx.cancel, "checkpoint");
    loop {
        match journal.checkpoint(lease_of(ctx, phase, released)).await {
            Err(error) => backoff.after(error).await?,
            Ok(()) => return Ok(()),
        }
    }
}

/// Does `act`, and shows that this run is in `phase`.
///
/// # Errors
/// Those of `act`; `Locked`, when another run took over: `act` is dropped then.
pub(crate) async fn beating<T>(
    ctx: &Context,
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
            // Whoever asked to stop is not told that it went on because the rest was quick.
            biased;
            error = &mut lost => return Err(error),
            () = ctx.cancel.cancelled() => return Err(ctx.interrupted()),
            done = &mut act => return done,
            _ = beat.tick() => checkpoint(ctx, journal, phase, false).await?,
        }
    }
}

/// Takes the migration over, so that whoever ran it before finds out. Gives the newest version of the live table.
///
/// A run that was last seen at its swap may be asleep just before its commit, which names what this
/// run may be about to remove. The version that it would commit is taken from it first.
pub(crate) async fn take_over(
    ctx: &Context,
    live: &Arc<Dataset>,
    journal: &mut Journal,
    phase: Phase,
) -> Result<Arc<Dataset>> {
    let lease = journal.lease();
    let mut live = Arc::clone(live);
    if lease.phase == Phase::Swap && !lease.released {
        live = fence(ctx, &live, &journal.header().id.clone()).await?;
    }
    checkpoint(ctx, journal, phase, false).await?;
    journal.begin_beats(&ctx.clock, &ctx.progress, &ctx.tally).await?;
    Ok(live)
}

pub(crate) fn store_time(ctx: &Context, journal: &Journal) -> DateTime<Utc> {
    journal.time().now(ctx.clock.now())
}

/// Commits nothing as the version after the pinned one, unless somebody has committed it already.
async fn fence(ctx: &Context, live: &Arc<Dataset>, id: &str) -> Result<Arc<Dataset>> {
    let point = history::rollback_point(live, id).await?;
    let head = history::head(live).await?;
    if point.is_none_or(|point| point.version != head) {
        return newest(live).await;
    }
    let nothing = Operation::Append { fragments: Vec::new() };
    match exactly_next(&newest(live).await?, nothing, None, properties(id, Act::Fence)).await? {
        Outcome::Landed(fenced) => {
            let version = fenced.version_id();
            ctx.say(format!("a run may be asleep before its swap: version {version} keeps it out"));
            Ok(Arc::new(*fenced))
        }
        Outcome::LostRace { .. } => newest(live).await,
        Outcome::Unknown { attempted, error } => Err(unknown(ctx, attempted).caused_by(error)),
    }
}

/// Fails when a run of the staged migration is alive.
pub(crate) async fn expect_free(ctx: &Context, journal: &Journal) -> Result<()> {
    let lease = journal.lease();
    let alive = match lease.life(&ProcessId::current()) {
        Life::Dead => false,
        Life::Alive => true,
        Life::Unknown => is_seen(ctx, journal).await?,
    };
    if !alive {
        return Ok(());
    }
    let (process, table) = (&lease.process, ctx.table());
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
pub(crate) async fn expect_free_or_waiting(ctx: &Context, journal: &Journal) -> Result<()> {
    if journal.lease().phase == Phase::Hold { Ok(()) } else { expect_free(ctx, journal).await }
}

/// Whether a run that shows its life in no other way was seen lately. Only the store's clock is asked:
/// that of the machine it runs on may be wrong, and so may this one's.
async fn is_seen(ctx: &Context, journal: &Journal) -> Result<bool> {
    let seen = journal.last_seen().await?;
    match LastSeen::of(journal.ask_time().await? - seen) {
        LastSeen::Lately => Ok(true),
        LastSeen::LongAgo => Ok(false),
        LastSeen::InTheFuture => watch(ctx, journal, seen).await,
    }
}

/// Whether a run that was last seen at the time `seen`, which is yet to come, shows that it is alive
/// within the lease's time.
async fn watch(ctx: &Context, journal: &Journal, seen: DateTime<Utc>) -> Result<bool> {
    let (seconds, then) = (LEASE_TIME.num_seconds(), seen.format("%Y-%m-%d %H:%M:%S"));
    let text = format!(
        "the run that staged this was last seen at {then} UTC, which is yet to come: a clock was put \
         back. Watching for {seconds} s whether it is alive"
    );
    ctx.say(text);
    for _ in 0..seconds {
        if !ctx.pause(WATCH_EVERY).await {
            return Err(ctx.interrupted());
        }
        if journal.last_seen().await? != seen {
            return Ok(true);
        }
    }
    Ok(false)
}
