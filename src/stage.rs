//! Stages a chunk: scan, transform, digest, write. What comes out is fragments that no table names yet.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::{create_writer, data_file_columns};
use lance_file::writer::{FileWriter, FileWriterOptions};
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::budget::{Budget, Throttle};
use crate::chunk::Chunk;
use crate::datafile;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::progress::{Amount, Event, SharedProgress};
use crate::source::{ScanLimits, Source};
use crate::transform::pool::{Digests, Pool};
use crate::transform::rebatch::Rebatch;
use crate::transform::{Transform, batch_bytes};

/// Batches that wait between the transform and the writer.
const QUEUE_BATCHES: usize = 2;

/// Everything that staging a chunk needs; shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct Stager {
    /// Where the rows come from.
    pub source: Source,
    /// What becomes of them.
    pub transform: Arc<Transform>,
    /// Where they are transformed.
    pub pool: Pool,
    /// How the source is scanned.
    pub scan: ScanLimits,
    /// Transforms in progress for one chunk.
    pub transforms_max: usize,
    /// Bytes in flight.
    pub budget: Budget,
    /// Bytes a second.
    pub throttle: Arc<Throttle>,
    /// Where the files go, and how they are written.
    pub files: FileSpec,
    /// Who is told.
    pub progress: SharedProgress,
}

/// Where staged files go, and how they are written.
#[derive(Debug, Clone)]
pub(crate) struct FileSpec {
    /// The migration whose files they are.
    pub id: String,
    /// The live table's store.
    pub store: Arc<ObjectStore>,
    /// The live table's `data/`.
    pub directory: Path,
    /// The target schema.
    pub schema: Schema,
    /// The format.
    pub version: ConcreteFileVersion,
    /// Rows after which a file is closed.
    pub rows_max: u64,
}

/// What was staged for a chunk.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The new fragments, in row order; their files are named relative to the live table.
    pub fragments: Vec<Fragment>,
    /// A digest for each column of the expected rows.
    pub digests: Vec<Digest>,
    /// Rows.
    pub rows: u64,
}

/// A batch on its way to the writer, and its share of the budget.
struct InFlight {
    batch: RecordBatch,
    bytes: u64,
    _share: OwnedSemaphorePermit,
}

impl Stager {
    /// Stages `chunk`.
    ///
    /// # Errors
    /// `Failed`, when reading, transforming or writing fails; what was written for the chunk is
    /// removed then, as far as that goes.
    ///
    /// # Crash
    /// Files that no journal names are left in `data/`; their names tell whose they are.
    pub(crate) async fn stage(&self, chunk: &Chunk) -> Result<Staged> {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        // A task of its own, so that encoding and writing go on while the next rows are read; it is
        // aborted with this one.
        let mut writer = JoinSet::new();
        writer.spawn(self.clone().write(receiver));
        let digests = match self.read(chunk, sender).await {
            Ok(digests) => digests,
            Err(error) => {
                writer.shutdown().await;
                return Err(error);
            }
        };
        let gone = || Error::failed(format!("the writer of chunk {} died", chunk.id));
        let fragments = match writer.join_next().await {
            Some(Ok(written)) => written?,
            _ => return Err(gone()),
        };
        let digests = digests.ok_or_else(gone)?;
        let rows = digests.rows();
        if rows != chunk.rows() {
            let (id, expected) = (chunk.id, chunk.rows());
            return Err(Error::mismatch(format!(
                "chunk {id} gave {rows} rows, its manifest says {expected}"
            )));
        }
        Ok(Staged { fragments, digests: digests.finish(), rows })
    }

    /// Scans and transforms, several batches at a time, and takes digests in row order. `None` when the
    /// writer stopped listening: it knows why.
    async fn read(&self, chunk: &Chunk, sender: mpsc::Sender<InFlight>) -> Result<Option<Digests>> {
        let mut digests = Digests::of(self.transform.schema())?;
        let batches = self.batches(chunk).await?;
        let transformed = batches.map_ok(|batch| self.transform(batch));
        let mut transformed = transformed.try_buffered(self.transforms_max);
        while let Some(in_flight) = transformed.try_next().await? {
            digests = self.pool.digest(digests, in_flight.batch.clone()).await?;
            if sender.send(in_flight).await.is_err() {
                return Ok(None);
            }
        }
        Ok(Some(digests))
    }

    /// The chunk's rows in batches of one size.
    async fn batches(
        &self,
        chunk: &Chunk,
    ) -> Result<futures::stream::BoxStream<'static, Result<RecordBatch>>> {
        let scanned = self.source.scan(chunk, self.scan).await?;
        let rebatch = Rebatch::to_rows(self.scan.batch_rows as usize);
        let state = Some((scanned, rebatch));
        let rebatched = futures::stream::try_unfold(state, |state| async move {
            let Some((mut scanned, mut rebatch)) = state else {
                return Ok(None);
            };
            Ok(match scanned.try_next().await? {
                Some(batch) => Some((rebatch.push(batch)?, Some((scanned, rebatch)))),
                None => Some((rebatch.flush()?, None)),
            })
        });
        let flat = rebatched.map_ok(|batches| futures::stream::iter(batches).map(Ok));
        Ok(flat.try_flatten().boxed())
    }

    async fn transform(&self, batch: RecordBatch) -> Result<InFlight> {
        let bytes = batch_bytes(&batch);
        let share = self.budget.take(bytes).await;
        let share = share.ok_or_else(|| Error::failed("the memory budget is closed"))?;
        let transform = Arc::clone(&self.transform);
        let batch = self.pool.run(move || transform.apply(&batch)).await?;
        Ok(InFlight { batch, bytes, _share: share })
    }

    async fn write(self, mut receiver: mpsc::Receiver<InFlight>) -> Result<Vec<Fragment>> {
        let mut writer = StagedWriter::new(&self.files);
        while let Some(in_flight) = receiver.recv().await {
            self.throttle.wait(in_flight.bytes).await;
            if let Err(error) = writer.write(&in_flight.batch).await {
                writer.discard().await;
                return Err(error);
            }
            self.progress.event(Event::Advanced(Amount {
                rows: in_flight.batch.num_rows() as u64,
                bytes: in_flight.bytes,
                chunks: 0,
            }));
        }
        writer.finish().await
    }
}

/// Writes batches into files of at most so many rows.
struct StagedWriter<'a> {
    spec: &'a FileSpec,
    open: Option<OpenFile>,
    done: Vec<Fragment>,
}

struct OpenFile {
    name: String,
    rows: u64,
    writer: FileWriter,
}

impl<'a> StagedWriter<'a> {
    fn new(spec: &'a FileSpec) -> Self {
        Self { spec, open: None, done: Vec::new() }
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => open_file(self.spec).await?,
            };
            let room = self.spec.rows_max.saturating_sub(open.rows);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let rows = room.min(batch.num_rows() - from);
            let name = open.name.clone();
            let part = batch.slice(from, rows);
            let written = open.writer.write_batch(&part).await;
            open.rows += rows as u64;
            let full = open.rows >= self.spec.rows_max;
            self.open = Some(open);
            written.doing(|| format!("write {name}"))?;
            from += rows;
            if full {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let summary = open.writer.finish().await;
        let summary = summary.doing(|| format!("finish {}", open.name))?;
        let (fields, columns) = data_file_columns(self.spec.version, &self.spec.schema);
        let file = DataFile::new(
            open.name,
            fields,
            columns,
            self.spec.version,
            NonZeroU64::new(summary.size_bytes),
            None,
        );
        let mut fragment = Fragment::new(0);
        fragment.physical_rows = usize::try_from(summary.num_rows).ok();
        fragment.files.push(file);
        self.done.push(fragment);
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<Fragment>> {
        if let Err(error) = self.close().await {
            self.discard().await;
            return Err(error);
        }
        Ok(self.done)
    }

    /// Removes what was written, as far as that goes: a later `abort` finds the rest by name.
    async fn discard(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.writer.abort().await;
        }
        for fragment in self.done.drain(..) {
            for file in &fragment.files {
                let path = self.spec.directory.clone().join(file.path.as_str());
                let _ = datafile::remove(&self.spec.store, &path).await;
            }
        }
    }
}

/// Opens the next file, under a name that tells whose it is.
async fn open_file(spec: &FileSpec) -> Result<OpenFile> {
    let name = datafile::new_name(&spec.id);
    let path = spec.directory.clone().join(name.as_str());
    let object = datafile::create(&spec.store, &path).await?;
    let writer = create_writer(spec.version, object, spec.schema.clone(), options());
    let writer = writer.doing(|| format!("write {name}"))?;
    Ok(OpenFile { name, rows: 0, writer })
}

/// Batches are ours alone, so their arrays can be kept until their page is full instead of copied.
fn options() -> FileWriterOptions {
    FileWriterOptions { keep_original_array: Some(true), ..FileWriterOptions::default() }
}
