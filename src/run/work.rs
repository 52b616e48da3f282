//! Stages and verifies chunks side by side, records what is done, and shows that the run is alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use lance_table::format::Fragment;
use object_store::path::Path;
use tokio::task::JoinSet;
use tokio::time::{Duration, interval};

use lance_io::object_store::ObjectStore;

use crate::budget::{Budget, Throttle};
use crate::chunk::{Chunk, ChunkId};
use crate::datafile;
use crate::error::{Context, Error, Result};
use crate::journal::{ChunkRecord, Journal, StagedFile};
use crate::phase::Phase;
use crate::plan::explain::count_text;
use crate::progress::{Amount, Event, note};
use crate::readback::{Expected, Reader};
use crate::run::report::seconds;
use crate::run::{Migration, Underway, amount};
use crate::settings::Verify;
use crate::source::{ScanLimits, Source};
use crate::stage::{FileSpec, Stager};
use crate::transform::Transform;
use crate::transform::pool::Pool;

/// How often the journal is written while chunks are in progress: what a crash can cost, and how often
/// the run is seen to be alive.
const BEAT: Duration = Duration::from_secs(5);

/// Lance reads at least and at most this far ahead.
const IO_BUFFER_BYTES_MIN: u64 = 8 << 20;
const IO_BUFFER_BYTES_MAX: u64 = 64 << 20;

/// What stages and verifies one chunk.
#[derive(Debug, Clone)]
struct Worker {
    stager: Stager,
    reader: Reader,
    verify: Verify,
}

/// A chunk that is done, and the fragments that hold it.
type Done = (ChunkRecord, Vec<Fragment>);

/// The migration's files that are in the store, by name.
type FilesThere = BTreeMap<String, StagedFile>;

/// What is to be done for a chunk.
#[derive(Debug)]
enum Task {
    Stage(Chunk),
    Verify(ChunkRecord, Vec<Fragment>),
}

impl Migration {
    /// Stages every chunk that is not done, and verifies every one that is not verified.
    pub(super) async fn stage(&self, underway: &mut Underway) -> Result<()> {
        let began = Instant::now();
        let worker = self.worker(underway).await?;
        let there = worker.files_there(&underway.journal.header().id).await?;
        self.forget_changed(&there, &mut underway.journal);
        remove_orphans(&worker, &there, &underway.journal).await?;
        let tasks = tasks(&underway.plan.chunks, &underway.journal);
        let (total, done) = Self::amounts(&underway.plan.chunks, &tasks);
        self.progress.event(Event::Began { phase: Phase::Stage, total, done });
        self.work(&worker, tasks, &mut underway.journal).await?;
        underway.clocked.push((Phase::Stage, seconds(began.elapsed())));
        self.check_whole(underway)
    }

    /// Does `tasks`, several at a time, and makes each durable.
    async fn work(&self, worker: &Worker, tasks: Vec<Task>, journal: &mut Journal) -> Result<()> {
        let mut waiting = tasks.into_iter();
        let mut running = JoinSet::new();
        let mut pending: Vec<Done> = Vec::new();
        let mut beat = interval(BEAT);
        beat.tick().await;
        loop {
            while running.len() < self.settings.workers {
                let Some(task) = waiting.next() else { break };
                running.spawn(worker.clone().run(task));
            }
            let stopped = tokio::select! {
                biased;
                () = self.cancel.cancelled() => Some(self.interrupted()),
                done = running.join_next() => match done {
                    None => break,
                    Some(Ok(Ok(done))) => {
                        self.progress.event(chunk_done());
                        pending.push(done);
                        None
                    }
                    Some(Ok(Err(error))) => Some(error),
                    Some(Err(error)) => {
                        Some(Error::failed("a worker died; this is a bug in relance").caused_by(error))
                    }
                },
                _ = beat.tick() => {
                    let lease = self.lease(Phase::Stage, false);
                    journal.checkpoint(std::mem::take(&mut pending), lease).await?;
                    None
                }
            };
            if let Some(error) = stopped {
                running.shutdown().await;
                // What is done is kept; the error that stopped the run is the one to tell.
                let _ = journal.checkpoint(pending, self.lease(Phase::Stage, true)).await;
                return Err(error);
            }
        }
        journal.checkpoint(pending, self.lease(Phase::Verify, false)).await
    }

    async fn worker(&self, underway: &Underway) -> Result<Worker> {
        let settings = &self.settings;
        let plan = &underway.plan;
        let live = &underway.source;
        let store = live.object_store(None).await;
        let store = store.doing(|| "open the live table's store".to_owned())?;
        let pool = Pool::of(settings.workers)?;
        let row_bytes = amount(&plan.chunks).bytes / plan.rows().max(1);
        let batch_rows = settings.batch_size.rows(row_bytes);
        let share = settings.memory_bytes / (4 * settings.workers as u64);
        let io_buffer_bytes = share.clamp(IO_BUFFER_BYTES_MIN, IO_BUFFER_BYTES_MAX);
        let directory = live.data_dir();
        let files = FileSpec {
            id: underway.journal.header().id.clone(),
            store: Arc::clone(&store),
            directory: directory.clone(),
            schema: plan.target.schema.clone(),
            version: plan.storage_version,
            rows_max: underway.journal.header().rows_per_file,
        };
        let stager = Stager {
            source: Source::of(Arc::clone(live)),
            transform: Arc::new(Transform::new(&plan.target)),
            pool: pool.clone(),
            scan: ScanLimits { batch_rows, io_buffer_bytes },
            transforms_max: 2,
            budget: Budget::of(settings.memory_bytes / 2),
            throttle: Arc::new(Throttle::of(settings.max_rate)),
            files,
            progress: Arc::clone(&self.progress),
        };
        let schema = plan.target.schema.clone();
        let reader = Reader { store, directory, schema, batch_rows, io_buffer_bytes, pool };
        Ok(Worker { stager, reader, verify: settings.verify })
    }

    /// Forgets chunks whose files are gone; those whose files were touched since are verified again.
    fn forget_changed(&self, there: &FilesThere, journal: &mut Journal) {
        let mut gone: Vec<ChunkId> = Vec::new();
        let mut touched: Vec<ChunkId> = Vec::new();
        for record in journal.records() {
            if record.files.iter().any(|file| !there.contains_key(&file.name)) {
                gone.push(record.chunk);
            } else if record.files.iter().any(|file| there.get(&file.name) != Some(file)) {
                touched.push(record.chunk);
            }
        }
        for chunk in gone {
            note(
                &self.progress,
                format!("the files of chunk {chunk} are gone; it is staged again"),
            );
            journal.forget(chunk);
        }
        for chunk in touched {
            note(
                &self.progress,
                format!("files of chunk {chunk} were touched; it is verified again"),
            );
            journal.distrust(chunk);
        }
    }

    /// The gate: every chunk of the plan is staged from the right source, and verified.
    fn check_whole(&self, underway: &Underway) -> Result<()> {
        for chunk in &underway.plan.chunks {
            let record = underway.journal.record(chunk.id);
            let right = record.is_some_and(|record| {
                record.verified
                    && record.rows == chunk.rows()
                    && record.sources == chunk.signatures()
            });
            if !right {
                let message = format!("chunk {} is not staged and verified as planned", chunk.id);
                return Err(Error::mismatch(message));
            }
        }
        let (rows, chunks) = (count_text(underway.plan.rows()), underway.plan.chunks.len());
        let how = match self.settings.verify {
            Verify::Full => "every value read back and equal",
            Verify::Quick => "counts and first rows read back",
        };
        let total = amount(&underway.plan.chunks);
        self.progress.event(Event::Began { phase: Phase::Verify, total, done: total });
        note(&self.progress, format!("verified {rows} rows in {chunks} chunks: {how}"));
        Ok(())
    }

    fn amounts(chunks: &[Chunk], tasks: &[Task]) -> (Amount, Amount) {
        let total = amount(chunks);
        let mut done = total;
        for task in tasks {
            done.chunks = done.chunks.saturating_sub(1);
            if let Task::Stage(chunk) = task {
                done.rows = done.rows.saturating_sub(chunk.rows());
                done.bytes = done.bytes.saturating_sub(chunk.bytes());
            }
        }
        (total, done)
    }
}

impl Worker {
    async fn run(self, task: Task) -> Result<Done> {
        let (mut record, fragments) = match task {
            Task::Stage(chunk) => self.stage(&chunk).await?,
            Task::Verify(record, fragments) => (record, fragments),
        };
        let expected =
            Expected { chunk: record.chunk, rows: record.rows, digests: &record.digests };
        let names = fragments.iter().flat_map(|fragment| &fragment.files);
        let paths = names.map(|file| self.path(&file.path)).collect();
        // The disk writes while the page cache is read.
        futures::try_join!(
            self.reader.verify(&fragments, &expected, self.verify),
            datafile::sync(self.store(), paths)
        )?;
        record.verified = true;
        record.files = self.files_of(&fragments).await?;
        Ok((record, fragments))
    }

    async fn stage(&self, chunk: &Chunk) -> Result<Done> {
        let staged = self.stager.stage(chunk).await?;
        let record = ChunkRecord {
            chunk: chunk.id,
            sources: chunk.signatures(),
            rows: staged.rows,
            files: Vec::new(),
            digests: staged.digests,
            verified: false,
        };
        Ok((record, staged.fragments))
    }

    /// The files of `fragments`, as the store has them now.
    async fn files_of(&self, fragments: &[Fragment]) -> Result<Vec<StagedFile>> {
        let mut files = Vec::new();
        for file in fragments.iter().flat_map(|fragment| &fragment.files) {
            let path = self.path(&file.path);
            let meta = object_store::ObjectStoreExt::head(&self.store().inner, &path).await;
            let meta = meta.doing(|| format!("look at {}", file.path))?;
            files.push(StagedFile {
                name: file.path.clone(),
                bytes: meta.size,
                modified: meta.last_modified,
            });
        }
        Ok(files)
    }

    /// Every file of the migration that is in the store, by name.
    async fn files_there(&self, id: &str) -> Result<FilesThere> {
        let directory = &self.stager.files.directory;
        let listed = datafile::list(self.store(), directory, id).await?;
        let files = listed.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            let file =
                StagedFile { name: name.clone(), bytes: meta.size, modified: meta.last_modified };
            Some((name, file))
        });
        Ok(files.collect())
    }

    fn store(&self) -> &ObjectStore {
        &self.stager.files.store
    }

    fn path(&self, name: &str) -> Path {
        self.stager.files.directory.clone().join(name)
    }
}

/// Removes the migration's files that no record names: what a killed run was writing.
async fn remove_orphans(worker: &Worker, there: &FilesThere, journal: &Journal) -> Result<()> {
    let files = journal.records().flat_map(|record| &record.files);
    let named: std::collections::HashSet<&str> = files.map(|file| file.name.as_str()).collect();
    for name in there.keys().filter(|name| !named.contains(name.as_str())) {
        datafile::remove(worker.store(), &worker.path(name)).await?;
    }
    Ok(())
}

fn tasks(chunks: &[Chunk], journal: &Journal) -> Vec<Task> {
    let task = |chunk: &Chunk| match journal.record(chunk.id) {
        None => Some(Task::Stage(chunk.clone())),
        Some(record) if record.verified => None,
        Some(record) => {
            let fragments = journal.fragments(chunk.id).to_vec();
            Some(Task::Verify(record.clone(), fragments))
        }
    };
    chunks.iter().filter_map(task).collect()
}

fn chunk_done() -> Event {
    Event::Advanced(Amount { chunks: 1, ..Amount::default() })
}
