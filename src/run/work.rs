//! Stages, verifies and catches up, several chunks side by side, until nothing lags behind the table;
//! records what is done, and shows that the run is alive.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::interval;

use crate::chunk::{Chunk, Origin, Signature, signatures};
use crate::error::{Error, Kind, Result};
use crate::phase::Phase;
use crate::plan::amounts::count_text;
use crate::plan::catchup::{Bounds, Need, Rounds, may_look};
use crate::progress::{Amount, Event, note};
use crate::retry::retrying;
use crate::run::control::Control;
use crate::run::report::seconds;
use crate::run::worker::{Done, Task, Worker};
use crate::run::{Migration, Underway, amount};
use crate::settings::{Settings, Verify};

/// How often the journal is written while chunks are in progress: what a crash can cost.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// The same for the largest tables.
const BEAT_MAX: Duration = Duration::from_secs(20);

/// Times as long as it took to write the journal until it is written again. Each time all of it is
/// written: so its bytes grow with the table, not with its square.
const BEAT_SHARE: u32 = 20;

/// The time until the journal is written again, after it `took` that long.
fn next_beat(took: Duration) -> Duration {
    (took * BEAT_SHARE).clamp(BEAT, BEAT_MAX)
}

/// How often the control file is looked at.
const LISTEN: Duration = Duration::from_secs(1);

/// Chunks in progress for each worker, where they are small and wait for the disk most of the time.
const TASKS_A_WORKER: usize = 4;

/// Bytes that a small chunk holds at once, at most.
const SMALL_BYTES: u64 = 8 << 20;

/// Chunks in progress, those that wait, and what the run knows of them.
struct Work<'a> {
    migration: &'a Migration,
    underway: &'a mut Underway,
    worker: Worker,
    /// The phase that the lease tells of.
    lease: Phase,
    waiting: VecDeque<Task>,
    running: JoinSet<Result<Done>>,
    /// Each task that runs.
    in_flight: HashMap<Id, InFlight>,
    /// The place in the plan of each run of source fragments.
    places: HashMap<Vec<Signature>, usize>,
    /// The fragments that are copied for the first time; all others are caught up with.
    copying: HashSet<Signature>,
    lap: Lap,
    /// Whether the table was caught up with at all.
    followed: bool,
}

/// A task that runs: its source fragments, and the bytes that it may hold.
struct InFlight {
    origins: Vec<Origin>,
    held: u64,
}

/// When the table was last caught up with, and how long it took.
struct Lap {
    began: Instant,
    ended: Option<Instant>,
    took: Duration,
    /// Rows that it took.
    rows: u64,
}

impl Migration {
    /// Stages, verifies and catches up until the head of the live table is staged. `lease` is the phase
    /// that others see.
    pub(super) async fn stage(&self, underway: &mut Underway, lease: Phase) -> Result<()> {
        let began = Instant::now();
        let worker = self.worker(underway).await?;
        let mut work = Work::of(self, underway, worker, lease);
        work.copying = work.wanted();
        work.queue();
        work.tell_amounts(Phase::Stage);
        let result = work.run().await;
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(work.stop(error).await),
        };
        underway.clock(Phase::Stage, seconds(began.elapsed()));
        result?;
        self.check_whole(underway)
    }

    /// The gate: every chunk of the plan is staged from the right source, and verified.
    fn check_whole(&self, underway: &Underway) -> Result<()> {
        let now = self.store_time(&underway.journal);
        for chunk in &underway.plan.chunks {
            let record = underway.journal.record(chunk.id);
            let quick = record.is_some_and(|record| record.verified == Some(Verify::Quick));
            let ready = matches!(underway.journal.need(chunk, now), Need::Nothing | Need::Renew)
                && !(quick && self.settings.verify == Verify::Full);
            let wanted =
                if underway.plan.is_aligned() { chunk.physical_rows() } else { chunk.rows() };
            let found = record.map(|record| record.rows_left() + record.left_out);
            if !ready || found != Some(wanted) {
                let message = format!("chunk {} is not staged and verified as planned", chunk.id);
                return Err(Error::mismatch(message));
            }
        }
        Ok(())
    }

    /// Says what was verified.
    pub(super) fn tell_verified(&self, underway: &Underway) {
        if underway.plan.chunks.is_empty() {
            return;
        }
        let (rows, chunks) = (count_text(underway.plan.rows), underway.plan.chunks.len());
        let nulled = underway.values_nulled();
        let mut how = match self.settings.verify {
            Verify::Full if nulled.is_empty() => "every value read back and equal",
            // What was made of some is not what they were.
            Verify::Full => "every value read back and equal to what was made",
            Verify::Quick => "counts and first rows read back",
        }
        .to_owned();
        for nulled in &nulled {
            how = format!("{how}; {}", nulled.text());
        }
        let total = amount(&underway.plan, &underway.plan.chunks);
        self.progress.event(Event::Began { phase: Phase::Verify, total, done: total });
        note(&self.progress, format!("verified {rows} rows in {chunks} chunks: {how}"));
    }
}

impl<'a> Work<'a> {
    fn of(
        migration: &'a Migration,
        underway: &'a mut Underway,
        worker: Worker,
        lease: Phase,
    ) -> Self {
        let places = places(&underway.plan.chunks);
        Self {
            migration,
            underway,
            places,
            worker,
            lease,
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            in_flight: HashMap::new(),
            copying: HashSet::new(),
            lap: Lap { began: Instant::now(), ended: None, took: Duration::ZERO, rows: 0 },
            followed: false,
        }
    }

    async fn run(&mut self) -> Result<()> {
        let mut beat = interval(BEAT);
        beat.tick().await;
        let mut listen = interval(LISTEN);
        let settings = &self.migration.settings;
        let control = settings.control.as_ref();
        let mut control = control.map(|path| Control::of(path, settings.max_rate));
        let mut lost = self.underway.journal.lost();
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
                () = self.migration.cancel.cancelled() => return Err(self.migration.interrupted()),
                _ = beat.tick() => {
                    let began = Instant::now();
                    self.checkpoint().await?;
                    beat.reset_after(next_beat(began.elapsed()));
                    self.look_meanwhile().await?;
                }
                _ = listen.tick(), if control.is_some() => {
                    if let Some(control) = &mut control {
                        control.hear(&self.underway.throttle, &self.migration.progress);
                    }
                }
                done = self.running.join_next_with_id() => self.took(done)?,
            }
        }
    }

    /// Starts tasks while there are workers and memory free.
    fn fill(&mut self) {
        let room = Room::of(&self.migration.settings);
        while let Some(task) = self.waiting.front() {
            let held = self.worker.held(task);
            let in_use = self.in_flight.values().map(|other| other.held).sum();
            if !room.takes(held, self.running.len(), in_use) {
                break;
            }
            let Some(task) = self.waiting.pop_front() else { break };
            let origins = task.origins();
            let (worker, progress) = (self.worker.clone(), Arc::clone(&self.migration.progress));
            let cancel = self.migration.cancel.clone();
            let handle = self.running.spawn(async move {
                let what = format!("chunk {}", task.chunk());
                retrying(&progress, &cancel, &what, || worker.clone().run(task.clone())).await
            });
            self.in_flight.insert(handle.id(), InFlight { origins, held });
        }
    }

    /// Everything that was planned is staged: looks whether the table has moved on. False when it has not.
    async fn next_round(&mut self) -> Result<bool> {
        let everything = self.underway.staged_first.get_or_insert_with(Instant::now).elapsed();
        self.end_lap();
        if self.migration.cancel.is_cancelled() {
            return Err(self.migration.interrupted());
        }
        if !self.migration.look(self.underway).await? {
            return Ok(false);
        }
        let rounds = self.underway.rounds;
        if rounds.give_up(self.migration.bounds(), everything) {
            return Err(self.migration.not_converging(&rounds, everything));
        }
        self.follow().await?;
        self.underway.rounds.count += 1;
        let rows: u64 = self.waiting.iter().map(Task::rows).sum();
        self.underway.rounds.rows += rows;
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
        if follows && lap >= self.migration.settings.cutover_timeout {
            // Longer than all rounds together may take: there is no end to it.
            let rounds = Rounds { busy: lap, rows: self.lap.rows, ..self.underway.rounds };
            return Err(self.migration.not_converging(&rounds, lap));
        }
        let catching_up = self.waiting.front().is_some_and(|task| !self.is_copy(task));
        let ended = self.lap.ended.unwrap_or(self.lap.began);
        if catching_up || !may_look(ended.elapsed(), self.lap.took) {
            return Ok(());
        }
        if self.migration.look(self.underway).await? {
            self.follow().await?;
        }
        Ok(())
    }

    /// Moves the plan to the head; what is in progress for fragments that are still there goes on.
    async fn follow(&mut self) -> Result<()> {
        self.lap = Lap { began: Instant::now(), ended: None, took: self.lap.took, rows: 0 };
        self.followed = true;
        self.migration.move_to_head(self.underway).await?;
        self.worker = self.migration.worker(self.underway).await?;
        self.places = places(&self.underway.plan.chunks);
        self.queue();
        let behind = self.waiting.iter().filter(|task| !self.is_copy(task));
        let (count, rows) = behind.fold((0, 0), |(n, rows), task| (n + 1, rows + task.rows()));
        self.lap.rows = rows;
        let (version, rows) = (self.underway.plan.version, count_text(rows));
        let text = format!("caught up with version {version}: {count} chunks to do, {rows} rows");
        note(&self.migration.progress, text);
        Ok(())
    }

    fn end_lap(&mut self) {
        if self.lap.ended.is_none() {
            self.lap.took = self.lap.began.elapsed();
            self.lap.ended = Some(Instant::now());
            if self.underway.rounds.count > 0 {
                self.underway.rounds.busy += self.lap.took;
            }
        }
    }

    /// The fragments of the chunks that are not staged.
    fn wanted(&self) -> HashSet<Signature> {
        let chunks = self.underway.plan.chunks.iter();
        let wanted = chunks.filter(|chunk| self.underway.journal.record(chunk.id).is_none());
        wanted.flat_map(Chunk::signatures).collect()
    }

    /// Whether `task` copies what was there when the run began: all else is catching up.
    fn is_copy(&self, task: &Task) -> bool {
        let known = |origin: &Origin| self.copying.contains(&origin.signature);
        matches!(task, Task::Stage(_)) && task.origins().iter().all(known)
    }

    /// Lines up what is left to do: catching up first, then copying, in row order.
    fn queue(&mut self) {
        let now = self.migration.store_time(&self.underway.journal);
        let runs = self.in_flight.values().map(|task| signatures(&task.origins));
        let runs: HashSet<Vec<Signature>> = runs.collect();
        let chunks = self.underway.plan.chunks.iter();
        let free = chunks.filter(|chunk| !runs.contains(&chunk.signatures()));
        let tasks = free.filter_map(|chunk| Task::of(chunk, &self.underway.journal, now));
        let (copy, catch_up): (Vec<_>, Vec<_>) = tasks.partition(|task| self.is_copy(task));
        self.waiting = catch_up.into_iter().chain(copy).collect();
    }

    /// Lines up staged files that have grown too old since the plan was made.
    fn queue_stale(&mut self) {
        let now = self.migration.store_time(&self.underway.journal);
        let journal = &self.underway.journal;
        let mut chunks = self.underway.plan.chunks.iter();
        let stale = chunks.any(|chunk| journal.need(chunk, now) == Need::Renew);
        if stale {
            self.queue();
        }
    }

    /// Takes in a task that is done; what its chunk needs beyond it is next.
    fn took(
        &mut self,
        done: Option<std::result::Result<(Id, Result<Done>), JoinError>>,
    ) -> Result<()> {
        let (id, done) = match done {
            None => return Ok(()),
            Some(Ok((id, done))) => (id, done?),
            Some(Err(error)) => {
                return Err(
                    Error::failed("a worker died; this is a bug in relance").caused_by(error)
                );
            }
        };
        self.in_flight.remove(&id);
        let (mut record, fragments) = done;
        let place = self.places.get(&signatures(&record.origins));
        let Some(chunk) = place.and_then(|place| self.underway.plan.chunks.get(*place)) else {
            // Its fragments are gone from the table: so is the need for it.
            self.underway.journal.doom(record.files.into_iter().map(|file| file.name));
            return Ok(());
        };
        record.chunk = chunk.id;
        self.underway.journal.put(record, fragments);
        let now = self.migration.store_time(&self.underway.journal);
        let next = Task::of(chunk, &self.underway.journal, now);
        match next {
            Some(task) => self.waiting.push_front(task),
            None => self
                .migration
                .progress
                .event(Event::Advanced(Amount { chunks: 1, ..Amount::default() })),
        }
        if self.waiting.front().is_none_or(|task| self.is_copy(task)) {
            self.end_lap();
        }
        Ok(())
    }

    /// Makes what is done durable, and removes the files that nothing names since.
    async fn checkpoint(&mut self) -> Result<()> {
        self.migration.checkpoint(&mut self.underway.journal, self.lease, false).await?;
        let doomed = self.underway.journal.take_doomed();
        self.worker.remove(doomed).await
    }

    /// Stops everything, keeps what is done, and gives the error to tell: having been taken over goes
    /// before whatever came of it.
    async fn stop(&mut self, error: Error) -> Error {
        while let Some(done) = self.running.try_join_next_with_id() {
            // Its error, if it has one, is not the first.
            let _ = self.took(Some(done));
        }
        self.running.shutdown().await;
        if error.kind() == Kind::Locked {
            return error;
        }
        let kept = self.migration.checkpoint(&mut self.underway.journal, self.lease, true).await;
        match kept {
            Err(lost) if lost.kind() == Kind::Locked => lost,
            // The error that stopped the run is the one to tell.
            _ => error,
        }
    }

    fn tell_amounts(&self, phase: Phase) {
        let plan = &self.underway.plan;
        let (mut total, mut done) = (amount(plan, &plan.chunks), Amount::default());
        let staged = self.waiting.iter().filter_map(Task::staged);
        let mut left = amount(plan, staged);
        left.chunks = self.waiting.len() as u64;
        let deleted = self.waiting.iter().filter(|task| task.staged().is_none());
        left.rows += deleted.map(Task::rows).sum::<u64>();
        if phase == Phase::Stage {
            done.rows = total.rows.saturating_sub(left.rows);
            done.bytes = total.bytes.saturating_sub(left.bytes);
            done.chunks = total.chunks.saturating_sub(left.chunks);
        } else {
            total = left;
        }
        self.migration.progress.event(Event::Began { phase, total, done });
    }
}

/// How much may be in progress at once.
#[derive(Debug, Clone, Copy)]
struct Room {
    workers: usize,
    bytes: u64,
}

impl Room {
    fn of(settings: &Settings) -> Self {
        // The other half is for the record batches.
        Self { workers: settings.workers, bytes: settings.memory_bytes / 2 }
    }

    /// Whether a task that holds `held` bytes may join `running` others, which hold `in_use`.
    fn takes(self, held: u64, running: usize, in_use: u64) -> bool {
        let share = if held <= SMALL_BYTES { TASKS_A_WORKER } else { 1 };
        running == 0 || (running < self.workers * share && in_use + held <= self.bytes)
    }
}

fn places(chunks: &[Chunk]) -> HashMap<Vec<Signature>, usize> {
    chunks.iter().map(Chunk::signatures).zip(0..).collect()
}

impl Migration {
    fn bounds(&self) -> Bounds {
        let settings = &self.settings;
        Bounds { rounds_max: settings.max_rounds, time_max: settings.cutover_timeout }
    }

    fn not_converging(&self, rounds: &Rounds, elapsed: Duration) -> Error {
        let (written, staged) = rounds.rates(elapsed);
        let table = self.location.table();
        Error::interrupted(format!(
            "`{table}` is written to faster than the migration catches up: {} rounds in {:.1} s. \
             Others make {} rows/s to stage, staging does {} rows/s",
            rounds.count,
            elapsed.as_secs_f64(),
            count_text(written),
            count_text(staged)
        ))
        .with_advice(
            "write less for a while, or raise --max-rounds, --cutover-timeout or --workers",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_chunks_are_in_progress_as_there_is_memory_for() {
        let room = Room { workers: 16, bytes: 256 << 20 };
        let chunks = |held: u64| (0_usize..100).find(|n| !room.takes(held, *n, held * *n as u64));
        // However large it is, one is.
        let mib = |count: u64| chunks(count << 20);
        assert_eq!([mib(1_000), mib(256), mib(100), mib(9)], [Some(1), Some(1), Some(2), Some(16)]);
        assert_eq!([mib(8), mib(1), mib(0)], [Some(32), Some(64), Some(64)]);
    }

    #[test]
    fn a_journal_that_takes_long_is_written_less_often() {
        let next = |millis| next_beat(Duration::from_millis(millis)).as_secs();
        assert_eq!([next(1), next(250), next(400), next(900), next(60_000)], [5, 5, 8, 18, 20]);
    }
}
