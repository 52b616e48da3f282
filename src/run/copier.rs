//! Stages, verifies and catches up, several chunks side by side, until nothing lags behind the table;
//! records what is done, and shows that the run is alive.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::interval;

use crate::chunk::{Chunk, Origin, Signature, signatures};
use crate::error::{Error, Kind, Result};
use crate::journal::ChunkRecord;
use crate::plan::amounts::counted;
use crate::plan::catchup::{Need, Rounds};
use crate::progress::{Amount, Event};
use crate::retry::{is_of_gone, retrying};
use crate::run::lease::{BEAT, checkpoint, store_time};
use crate::run::task::{Done, Task};
use crate::run::{
    context::Context, control::Control, executor::Executor, head::News, joining::fill_joins,
    session::Session, worker::Worker,
};
use crate::span::{self, Doing};
use crate::{limits::MemoryPlan, phase::Phase, spent::GoesOn};

/// The same for the largest tables.
const BEAT_MAX: Duration = Duration::from_mins(2);

/// Times as long as it took to write the journal until it is written again. Each time all of it is
/// written: so its bytes grow with the table, not with its square.
const BEAT_SHARE: u32 = 20;

/// The time until the journal is written again, after it `took` that long.
fn next_beat(took: Duration) -> Duration {
    (took * BEAT_SHARE).clamp(BEAT, BEAT_MAX)
}

/// Catching up that takes less is not followed by a look at the table.
const SHORT_LAP: Duration = Duration::from_secs(1);

/// How often the control file is looked at.
const LISTEN: Duration = Duration::from_secs(1);

/// Chunks in progress, those that wait, and what the run knows of them.
struct Copier<'a> {
    ctx: &'a Context,
    session: &'a mut Session,
    executor: Arc<dyn Executor>,
    /// The phase that the lease tells of.
    lease: Phase,
    waiting: VecDeque<Task>,
    running: JoinSet<Result<Done>>,
    /// Each task that runs.
    in_flight: HashMap<Id, TaskInFlight>,
    /// The place in the plan of each run of source fragments.
    places: HashMap<Vec<Signature>, usize>,
    /// The fragments that are copied for the first time; all others are caught up with.
    copying: HashSet<Signature>,
    lap: Lap,
    /// Goes on while a worker is free and memory is not: it waits like one that has no rows.
    held_up: Option<(Doing, GoesOn)>,
    /// Whether the table was caught up with at all.
    followed: bool,
}

/// A task that runs: its source fragments, and the bytes that it may hold.
struct TaskInFlight {
    origins: Vec<Origin>,
    held: u64,
    /// Whether it verifies files again.
    verifies: bool,
}

/// When the table was last caught up with, and how long it took.
struct Lap {
    began: Instant,
    ended: Option<Instant>,
    took: Duration,
    /// Rows that it took.
    rows: u64,
}

/// A session of which everything that the live table has is staged and verified: what a swap takes.
pub(crate) struct Whole<'a> {
    session: &'a mut Session,
}

impl Whole<'_> {
    pub(crate) fn session(&mut self) -> &mut Session {
        self.session
    }
}

/// Stages, verifies and catches up until the head of the live table is staged. `lease` is the phase that others see.
///
/// # Errors
/// As [`migrate`](crate::Migration::migrate), up to the swap.
///
/// # Crash
/// The journal holds what was staged and verified until its last checkpoint.
pub(crate) async fn copy<'a>(
    ctx: &Context,
    session: &'a mut Session,
    lease: Phase,
) -> Result<Whole<'a>> {
    let began = Instant::now();
    fill_joins(ctx, session).await?;
    let executor = Arc::new(Worker::of(ctx, session).await?);
    let mut copier = Copier::of(ctx, session, executor, lease);
    copier.copying = copier.wanted();
    copier.queue();
    copier.tell_amounts(Phase::Stage);
    let result = match copier.run().await {
        Ok(()) => Ok(()),
        Err(error) => Err(copier.stop(error).await),
    };
    session.took(Phase::Stage, began);
    result?;
    check_whole(ctx, session)?;
    Ok(Whole { session })
}

/// The gate: every chunk of the plan is staged from the right source, and verified.
fn check_whole(ctx: &Context, session: &Session) -> Result<()> {
    let now = store_time(ctx, &session.journal);
    for chunk in &session.plan.chunks {
        let record = session.journal.record(chunk.id);
        let asked = ctx.settings.verify;
        let less = record.is_some_and(|record| record.is_verified_less_than(asked));
        let ready =
            matches!(session.journal.need(chunk, now), Need::Nothing | Need::Renew) && !less;
        let wanted = if session.plan.is_aligned() { chunk.physical_rows() } else { chunk.rows() };
        let found = record.map(|record| record.rows_left() + record.left_out);
        if !ready || found != Some(wanted) {
            let message = format!("chunk {} is not staged and verified as planned", chunk.id);
            return Err(Error::mismatch(message));
        }
    }
    Ok(())
}

impl<'a> Copier<'a> {
    fn of(
        ctx: &'a Context,
        session: &'a mut Session,
        executor: Arc<dyn Executor>,
        lease: Phase,
    ) -> Self {
        let places = places(&session.plan.chunks);
        Self {
            ctx,
            session,
            places,
            executor,
            lease,
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            in_flight: HashMap::new(),
            copying: HashSet::new(),
            lap: Lap { began: Instant::now(), ended: None, took: Duration::ZERO, rows: 0 },
            held_up: None,
            followed: false,
        }
    }

    async fn run(&mut self) -> Result<()> {
        let mut beat = interval(BEAT);
        beat.tick().await;
        let mut listen = interval(LISTEN);
        let settings = &self.ctx.settings;
        let control = settings.control.as_ref();
        let mut control = control.map(|path| Control::of(path, settings.max_rate));
        let mut lost = self.session.journal.lost();
        loop {
            self.fill();
            if self.running.is_empty() {
                if !self.next_round().await? {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                biased;
                error = &mut lost => return Err(error),
                () = self.ctx.cancel.cancelled() => return Err(self.ctx.interrupted()),
                _ = beat.tick() => {
                    let began = Instant::now();
                    self.session.save(self.ctx, self.lease, false).await?;
                    beat.reset_after(next_beat(began.elapsed()));
                    self.look_meanwhile().await?;
                }
                _ = listen.tick(), if control.is_some() => {
                    if let Some(control) = &mut control {
                        control.hear(&self.session.throttle, &self.ctx.progress);
                    }
                }
                done = self.running.join_next_with_id() => {
                    if let Err(error) = self.take_in(done) {
                        let news = self.session.news_after(self.ctx, error).await?;
                        self.follow(news).await?;
                    }
                }
            }
        }
    }

    /// Starts tasks while there are workers and memory free.
    fn fill(&mut self) {
        let in_store = self.ctx.location.directory().is_none();
        let memory = MemoryPlan::of(&self.ctx.settings).for_store(in_store);
        while let Some(task) = self.waiting.front() {
            let held = self.executor.held_bytes(task);
            let in_use = self.in_flight.values().map(|other| other.held).sum();
            if !memory.admits(held, self.running.len(), in_use) {
                break;
            }
            let Some(task) = self.waiting.pop_front() else { break };
            let (origins, verifies) = (task.origins(), matches!(task, Task::Verify(_)));
            let (executor, progress) = (Arc::clone(&self.executor), Arc::clone(&self.ctx.progress));
            let cancel = self.ctx.cancel.clone();
            let handle = self.running.spawn(async move {
                let what = format!("chunk {}", task.chunk_id());
                retrying(&progress, &cancel, &what, || executor.execute(task.clone())).await
            });
            self.in_flight.insert(handle.id(), TaskInFlight { origins, held, verifies });
        }
        if !memory.holds_up(self.waiting.len(), self.running.len()) {
            self.held_up = None;
        } else if self.held_up.is_none() {
            self.held_up = Some((span::memory(), span::starved()));
        }
    }

    /// Everything that was planned is staged: looks whether the table has moved on. False when it has not.
    async fn next_round(&mut self) -> Result<bool> {
        let everything = self.session.staged_first.get_or_insert_with(Instant::now).elapsed();
        self.end_lap();
        if self.ctx.cancel.is_cancelled() {
            return Err(self.ctx.interrupted());
        }
        // After a short lap the swap's own look is soon enough: every request more is time in which others commit.
        let looked_lately = self.followed && self.lap.began.elapsed() < SHORT_LAP;
        let news = if looked_lately { None } else { self.session.news(self.ctx).await? };
        let Some(news) = news else {
            let Err(error) = self.session.pinned().await else { return Ok(false) };
            let news = self.session.news_after(self.ctx, error).await?;
            self.follow(news).await?;
            return Ok(true);
        };
        let rounds = self.session.rounds;
        if rounds.give_up(&self.ctx.settings, everything) {
            return Err(not_converging(self.ctx, &rounds, everything));
        }
        self.follow(news).await?;
        self.session.rounds.count += 1;
        let rows: u64 = self.waiting.iter().map(Task::rows).sum();
        self.session.rounds.rows += rows;
        if rows > 0 {
            self.tell_amounts(Phase::CatchUp);
        }
        Ok(true)
    }

    /// Looks whether the table has moved on while copying goes on.
    async fn look_meanwhile(&mut self) -> Result<()> {
        self.queue_stale();
        let lap = self.lap.began.elapsed();
        let follows = self.lap.ended.is_none() && self.followed;
        if follows && lap >= self.ctx.settings.cutover_timeout {
            // Longer than all rounds together may take: there is no end to it.
            let rounds = Rounds { busy: lap, rows: self.lap.rows, ..self.session.rounds };
            return Err(not_converging(self.ctx, &rounds, lap));
        }
        let catching_up = self.waiting.front().is_some_and(|task| !self.is_copy(task));
        let ended = self.lap.ended.unwrap_or(self.lap.began);
        // Copying gets at least as much time as the last round of catching up took, or it would never end.
        if catching_up || ended.elapsed() < self.lap.took {
            return Ok(());
        }
        if let Some(news) = self.session.news(self.ctx).await? {
            self.follow(news).await?;
        }
        Ok(())
    }

    /// Moves the plan to the `news`; what is in progress for fragments that are still there goes on.
    async fn follow(&mut self, mut news: News) -> Result<()> {
        self.lap = Lap { began: Instant::now(), ended: None, took: self.lap.took, rows: 0 };
        self.followed = true;
        while let Err(error) = self.session.move_to(self.ctx, news).await {
            news = self.session.news_after(self.ctx, error).await?;
        }
        fill_joins(self.ctx, self.session).await?;
        self.executor = Arc::new(Worker::of(self.ctx, self.session).await?);
        self.places = places(&self.session.plan.chunks);
        self.queue();
        let behind = self.waiting.iter().filter(|task| !self.is_copy(task));
        let (count, rows) = behind.fold((0, 0), |(n, rows), task| (n + 1, rows + task.rows()));
        self.lap.rows = rows;
        let (version, rows) = (self.session.plan.version, counted(rows, "row"));
        let count = counted(count, "chunk");
        let text = format!("caught up with version {version}: {count} to do, {rows}");
        self.ctx.say(text);
        Ok(())
    }

    fn end_lap(&mut self) {
        if self.lap.ended.is_none() {
            self.lap.took = self.lap.began.elapsed();
            self.lap.ended = Some(Instant::now());
            if self.session.rounds.count > 0 {
                self.session.rounds.busy += self.lap.took;
            }
        }
    }

    /// The fragments of the chunks that are not staged.
    fn wanted(&self) -> HashSet<Signature> {
        let chunks = self.session.plan.chunks.iter();
        let journal = &self.session.journal;
        let is_lost = |record: &ChunkRecord| record.verified.is_none() && !record.is_verifiable();
        let wanted = chunks.filter(|chunk| journal.record(chunk.id).is_none_or(is_lost));
        wanted.flat_map(Chunk::signatures).collect()
    }

    /// Whether `task` copies what was there when the run began: all else is catching up.
    fn is_copy(&self, task: &Task) -> bool {
        let known = |origin: &Origin| self.copying.contains(&origin.signature);
        matches!(task, Task::Stage(_)) && task.origins().iter().all(known)
    }

    /// Lines up what is left to do: catching up first, then copying, in row order.
    fn queue(&mut self) {
        let now = store_time(self.ctx, &self.session.journal);
        let runs = self.in_flight.values().map(|task| signatures(&task.origins));
        let runs: HashSet<Vec<Signature>> = runs.collect();
        let chunks = self.session.plan.chunks.iter();
        let free = chunks.filter(|chunk| !runs.contains(&chunk.signatures()));
        let tasks = free.filter_map(|chunk| Task::of(chunk, &self.session.journal, now));
        let (copy, catch_up): (Vec<_>, Vec<_>) = tasks.partition(|task| self.is_copy(task));
        self.waiting = catch_up.into_iter().chain(copy).collect();
    }

    /// Lines up staged files that have grown too old since the plan was made.
    fn queue_stale(&mut self) {
        let now = store_time(self.ctx, &self.session.journal);
        let journal = &self.session.journal;
        let mut chunks = self.session.plan.chunks.iter();
        let stale = chunks.any(|chunk| journal.need(chunk, now) == Need::Renew);
        if stale {
            self.queue();
        }
    }

    /// Takes in a task that is done; what its chunk needs beyond it is next.
    fn take_in(
        &mut self,
        done: Option<std::result::Result<(Id, Result<Done>), JoinError>>,
    ) -> Result<()> {
        let (id, done) = match done {
            None => return Ok(()),
            Some(Ok(done)) => done,
            Some(Err(error)) => {
                let died = Error::failed("a worker died; this is a bug in relance");
                return Err(died.caused_by(error));
            }
        };
        let task = self.in_flight.remove(&id);
        let place = task.as_ref().and_then(|task| self.places.get(&signatures(&task.origins)));
        let Done { mut record, fragments } = match done {
            // It read a version that others have cleaned away, and which is not the source any more.
            Err(error) if place.is_none() && is_of_gone(&error) => return Ok(()),
            Err(error) => return Err(self.damaged(task, error)),
            Ok(done) => done,
        };
        let place = self.places.get(&signatures(&record.origins));
        let Some(chunk) = place.and_then(|place| self.session.plan.chunks.get(*place)) else {
            // Its fragments are gone from the table: so is the need for it.
            self.session.journal.doom(record.files.into_iter().map(|file| file.name));
            return Ok(());
        };
        record.chunk = chunk.id;
        self.session.journal.put(record, fragments);
        let now = store_time(self.ctx, &self.session.journal);
        let next = Task::of(chunk, &self.session.journal, now);
        if let Some(task) = next {
            self.waiting.push_front(task);
        } else {
            let one = Amount { chunks: 1, ..Amount::default() };
            self.ctx.progress.event(Event::Advanced(one));
        }
        if self.waiting.front().is_none_or(|task| self.is_copy(task)) {
            self.end_lap();
        }
        Ok(())
    }

    /// Where `error` says that files of a chunk are not what was staged, it is forgotten: whoever goes on stages it again.
    fn damaged(&mut self, task: Option<TaskInFlight>, error: Error) -> Error {
        let task = task.filter(|task| task.verifies && error.kind() == Kind::Mismatch);
        let place = task.and_then(|task| self.places.get(&signatures(&task.origins)));
        if let Some(chunk) = place.and_then(|place| self.session.plan.chunks.get(*place)) {
            self.session.journal.forget(chunk.id);
        }
        error
    }

    /// Stops everything, keeps what is done, and gives the error to tell: having been taken over goes
    /// before whatever came of it.
    async fn stop(&mut self, error: Error) -> Error {
        while let Some(done) = self.running.try_join_next_with_id() {
            // Its error, if it has one, is not the first.
            let _ = self.take_in(Some(done));
        }
        self.running.shutdown().await;
        // Nothing is written once this run has let go. What kept it from pinning is not the first error.
        let _ = self.session.pinned().await;
        if error.kind() == Kind::Locked {
            return error;
        }
        let kept = checkpoint(self.ctx, &mut self.session.journal, self.lease, true).await;
        match kept {
            Err(lost) if lost.kind() == Kind::Locked => lost,
            // The error that stopped the run is the one to tell.
            _ => error,
        }
    }

    fn tell_amounts(&self, phase: Phase) {
        let plan = &self.session.plan;
        let (mut total, mut done) = (plan.amount_of(&plan.chunks), Amount::default());
        let staged = self.waiting.iter().filter_map(Task::to_stage);
        let mut left = plan.amount_of(staged);
        left.chunks = self.waiting.len() as u64;
        let deleted = self.waiting.iter().filter(|task| task.to_stage().is_none());
        left.rows += deleted.map(Task::rows).sum::<u64>();
        if phase == Phase::Stage {
            done.rows = total.rows.saturating_sub(left.rows);
            done.bytes = total.bytes.saturating_sub(left.bytes);
            done.chunks = total.chunks.saturating_sub(left.chunks);
        } else {
            total = left;
        }
        self.ctx.progress.event(Event::Began { phase, total, done });
    }
}

fn places(chunks: &[Chunk]) -> HashMap<Vec<Signature>, usize> {
    chunks.iter().map(Chunk::signatures).zip(0..).collect()
}

fn not_converging(ctx: &Context, rounds: &Rounds, elapsed: Duration) -> Error {
    let what = format!("`{}` {}", ctx.table(), rounds.text(elapsed));
    let advice = "write less for a while, or raise --max-rounds, --cutover-timeout or --workers";
    Error::interrupted(what).with_advice(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_takes_long_is_written_less_often() {
        let next = |millis| next_beat(Duration::from_millis(millis)).as_secs();
        assert_eq!([next(1), next(250), next(400), next(900), next(60_000)], [5, 5, 8, 18, 120]);
    }
}
