//! Stages a chunk: scan, transform, digest, write; or by copying pages, where nothing else is to be done.
//! What comes out is fragments that no table names yet.

pub(crate) mod copy;
mod writer;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use lance_table::format::Fragment;
use roaring::RoaringBitmap;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::chunk::{Chunk, ChunkId};
use crate::error::{Error, Result};
use crate::pages::Seen;
use crate::plan::Nulled;
use crate::progress::{Amount, Event, SharedProgress};
use crate::schema::cast::Problem;
use crate::settings::OnBadValue;
use crate::source::{ScanLimits, Source, What};
use crate::span;
use crate::stage::copy::Copying;
pub(crate) use crate::stage::writer::FileSpec;
use crate::stage::writer::{StagedWriter, discard};
use crate::template::{Template, Templates};
use crate::transform::digest::Digest;
use crate::transform::evaluate::BadValues;
use crate::transform::pool::{Digests, Pool};
use crate::transform::rebatch::Rebatch;
use crate::transform::{Transform, batch_bytes};

/// Rows of a batch without inputs that are made without going to another thread.
const HERE_ROWS_MAX: usize = 8_192;

/// Everything that staging a chunk needs; shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct Stager {
    /// Where the rows come from.
    pub source: Source,
    /// What is read of it.
    pub what: What,
    /// What is done about values that do not go through.
    pub on_bad_value: OnBadValue,
    /// What becomes of them.
    pub transform: Arc<Transform>,
    /// Where they are transformed.
    pub pool: Pool,
    /// How the source is scanned.
    pub scan: ScanLimits,
    /// Transforms in progress for one chunk.
    pub transforms_max: usize,
    /// Batches that wait between the transform and the writer.
    pub queue: usize,
    /// Bytes in flight.
    pub budget: Budget,
    /// Where the files go, and how they are written.
    pub files: FileSpec,
    /// Files that others are like.
    pub templates: Templates,
    /// How pages are copied, where they can be.
    pub copying: Option<Arc<Copying>>,
    /// Whether pages are read back while others are copied: they will be verified in full.
    pub reads_back: bool,
    /// Who is told.
    pub progress: SharedProgress,
}

/// What was staged for a chunk.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// The new fragments, in row order; their files are named relative to the live table.
    pub fragments: Vec<Fragment>,
    /// A digest for each column of the expected rows: of its values, or of its pages, if it was copied.
    pub digests: Vec<Digest>,
    /// Rows.
    pub rows: u64,
    /// Rows of the source that were left out.
    pub left_out: u64,
    /// Values that did not go through and became null.
    pub nulled: Vec<Nulled>,
    /// Whether pages were copied of the columns that stay as they are.
    pub copied: bool,
    /// What was read back of them already.
    pub seen: Seen,
}

/// A batch on its way to the writer, and its share of the budget.
struct InFlight {
    batch: RecordBatch,
    bytes: u64,
    aside: Aside,
    _share: OwnedSemaphorePermit,
}

/// What became of rows and values that are not staged as they were.
#[derive(Default)]
struct Aside {
    left_out: u64,
    nulled: Vec<Nulled>,
}

impl Aside {
    fn of(left_out: u64, found: &[BadValues]) -> Self {
        let nulled = found.iter().map(|found| Nulled {
            column: found.path.clone(),
            problem: found.problem,
            count: found.rows.len() as u64,
            at_most: false,
        });
        Self { left_out, nulled: nulled.collect() }
    }

    fn add(&mut self, more: Self) {
        self.left_out += more.left_out;
        Nulled::add(&mut self.nulled, more.nulled);
    }
}

/// A part of a chunk that is staged in one go, and which of its rows nobody can see.
struct Part {
    chunk: Chunk,
    hidden: RoaringBitmap,
}

impl Stager {
    /// Stages `chunk`. `hidden` are the deleted rows of each of its fragments, where they are staged too.
    ///
    /// # Errors
    /// `Failed`, when reading, transforming or writing fails; `Refused`, when a value does not go through
    /// that has to. What was written for the chunk is removed then, as far as that goes.
    ///
    /// # Crash
    /// Files that no journal names are left in `data/`; their names tell whose they are.
    pub(crate) async fn stage(&self, chunk: &Chunk, hidden: Vec<RoaringBitmap>) -> Result<Staged> {
        if let Some(sources) = self.copyable(chunk)
            && let Some(staged) = self.stage_copied(chunk, &sources).await?
        {
            return Ok(staged);
        }
        self.stage_rows(chunk, hidden).await
    }

    /// Stages `chunk` row by row.
    async fn stage_rows(&self, chunk: &Chunk, hidden: Vec<RoaringBitmap>) -> Result<Staged> {
        let mut staged = Staged::default();
        let mut digests = Digests::of(self.transform.schema())?;
        for part in self.parts(chunk, hidden) {
            let staged_part = match self.template(&part) {
                Some(template) => self.copy(&part, &template, digests, &mut staged).await,
                None => self.stage_part(&part, digests, &mut staged).await,
            };
            match staged_part {
                Ok(taken) => digests = taken,
                Err(error) => {
                    discard(&self.files, staged.fragments).await;
                    return Err(error);
                }
            }
        }
        staged.rows = digests.rows();
        staged.digests = digests.finish();
        let (wanted, found) = if self.what.aligned {
            (chunk.physical_rows(), staged.rows)
        } else {
            (chunk.rows(), staged.rows + staged.left_out)
        };
        if wanted != found {
            discard(&self.files, staged.fragments).await;
            let id = chunk.id;
            return Err(Error::mismatch(format!(
                "chunk {id} gave {found} rows, its manifest says {wanted}"
            )));
        }
        Ok(staged)
    }

    /// The digests of what the rows of `chunk` that live become, and how many they are: what staging it anew
    /// would be expected to read back as. Writes nothing.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub(crate) async fn expect(&self, chunk: &Chunk) -> Result<(Vec<Digest>, u64)> {
        let mut digests = Digests::of(self.transform.schema())?;
        let batches = self.batches(chunk).await?;
        let made = batches.map_ok(|batch| self.transform(chunk, batch, None));
        let mut made = made.try_buffered(self.transforms_max);
        while let Some(made) = made.try_next().await? {
            digests = self.pool.digest(digests, made.batch).await?;
        }
        let rows = digests.rows();
        Ok((digests.finish(), rows))
    }

    /// A fragment at a time, where each has a file of its own; all at once otherwise.
    fn parts(&self, chunk: &Chunk, hidden: Vec<RoaringBitmap>) -> Vec<Part> {
        if !self.what.aligned {
            return vec![Part { chunk: chunk.clone(), hidden: RoaringBitmap::new() }];
        }
        let parts = chunk.fragments.iter().zip(hidden).map(|(fragment, hidden)| Part {
            chunk: Chunk { id: chunk.id, fragments: vec![fragment.clone()] },
            hidden,
        });
        parts.collect()
    }

    async fn stage_part(
        &self,
        part: &Part,
        digests: Digests,
        staged: &mut Staged,
    ) -> Result<Digests> {
        let (sender, receiver) = mpsc::channel(self.queue);
        let (read, fragments) = if part.chunk.is_small() {
            let (read, written) =
                tokio::join!(self.read(part, digests, sender), self.clone().write(receiver));
            match read {
                Ok(read) => (read, written?),
                Err(error) => {
                    // The writer took the end of what it was sent for the end of the rows.
                    discard(&self.files, written.unwrap_or_default()).await;
                    return Err(error);
                }
            }
        } else {
            self.read_and_write(part, digests, sender, receiver).await?
        };
        let kept = match fragments.as_slice() {
            // Where a row is hidden, what is computed may differ from what is elsewhere.
            [one] if !self.reads() && part.hidden.is_empty() => {
                let (store, directory) = (&self.files.store, &self.files.directory);
                self.templates.keep(store, directory, part.chunk.physical_rows(), one).await
            }
            _ => Ok(()),
        };
        staged.fragments.extend(fragments);
        kept?;
        let (digests, aside) = read.ok_or_else(|| writer_died(part.chunk.id))?;
        staged.left_out += aside.left_out;
        Nulled::add(&mut staged.nulled, aside.nulled);
        Ok(digests)
    }

    /// Reads `part` while what was read before is written. The writer has a task of its own, which is
    /// aborted with this one.
    async fn read_and_write(
        &self,
        part: &Part,
        digests: Digests,
        sender: mpsc::Sender<InFlight>,
        receiver: mpsc::Receiver<InFlight>,
    ) -> Result<(Option<(Digests, Aside)>, Vec<Fragment>)> {
        let mut writer = JoinSet::new();
        writer.spawn(self.clone().write(receiver));
        let read = match self.read(part, digests, sender).await {
            Ok(read) => read,
            Err(error) => {
                writer.shutdown().await;
                return Err(error);
            }
        };
        match writer.join_next().await {
            Some(Ok(written)) => Ok((read, written?)),
            _ => Err(writer_died(part.chunk.id)),
        }
    }

    /// Whether anything is read to stage a chunk.
    pub(crate) fn reads(&self) -> bool {
        !self.what.schema.fields.is_empty()
    }

    /// The file that the one of `part` will be like, if there is one already.
    fn template(&self, part: &Part) -> Option<Template> {
        if self.reads() {
            return None;
        }
        self.templates.of_rows(part.chunk.physical_rows())
    }

    /// Stages a part whose file is like `template`; its digests are taken all the same.
    async fn copy(
        &self,
        part: &Part,
        template: &Template,
        mut digests: Digests,
        staged: &mut Staged,
    ) -> Result<Digests> {
        let mut batches = self.batches(&part.chunk).await?;
        while let Some(batch) = batches.try_next().await? {
            let made = self.transform(&part.chunk, batch, None).await?;
            self.tell(&made);
            Nulled::add(&mut staged.nulled, made.aside.nulled);
            digests = self.pool.digest(digests, made.batch).await?;
        }
        let FileSpec { store, directory, id, throttle, .. } = &self.files;
        let writing = span::write();
        staged.fragments.push(template.write(store, directory, id, throttle).await?);
        drop(writing);
        throttle.wait().await;
        Ok(digests)
    }

    fn tell(&self, in_flight: &InFlight) {
        self.progress.event(Event::Advanced(Amount {
            rows: in_flight.batch.num_rows() as u64,
            bytes: in_flight.bytes,
            chunks: 0,
        }));
    }

    /// Scans and transforms, several batches at a time, and takes digests in row order; counts the rows
    /// that are left out, and the values that become null. `None` when the writer stopped listening: it
    /// knows why.
    async fn read(
        &self,
        part: &Part,
        mut digests: Digests,
        sender: mpsc::Sender<InFlight>,
    ) -> Result<Option<(Digests, Aside)>> {
        let batches = self.batches(&part.chunk).await?;
        let mut row: u64 = 0;
        let transformed = batches.map_ok(|batch| {
            let rows = row..row + batch.num_rows() as u64;
            row = rows.end;
            self.transform(&part.chunk, batch, hidden_of(&part.hidden, rows))
        });
        let mut transformed = transformed.try_buffered(self.transforms_max);
        let mut aside = Aside::default();
        while let Some(mut in_flight) = transformed.try_next().await? {
            aside.add(std::mem::take(&mut in_flight.aside));
            let taking = span::transform();
            digests = self.pool.digest(digests, in_flight.batch.clone()).await?;
            drop(taking);
            if in_flight.batch.num_rows() > 0 && sender.send(in_flight).await.is_err() {
                return Ok(None);
            }
        }
        Ok(Some((digests, aside)))
    }

    /// The chunk's rows in batches of one size.
    async fn batches(
        &self,
        chunk: &Chunk,
    ) -> Result<futures::stream::BoxStream<'static, Result<RecordBatch>>> {
        let scanned = self.source.scan(chunk, &self.what, self.scan).await?;
        if !self.reads() {
            return Ok(scanned);
        }
        let rebatch = Rebatch::to_rows(self.scan.batch_rows as usize);
        let state = Some((scanned, rebatch));
        let rebatched = futures::stream::try_unfold(state, |state| async move {
            let Some((mut scanned, mut rebatch)) = state else {
                return Ok(None);
            };
            let scanning = span::scan();
            let batch = scanned.try_next().await?;
            drop(scanning);
            Ok(match batch {
                Some(batch) => Some((rebatch.push(batch)?, Some((scanned, rebatch)))),
                None => Some((rebatch.flush()?, None)),
            })
        });
        let flat = rebatched.map_ok(|batches| futures::stream::iter(batches).map(Ok));
        Ok(flat.try_flatten().boxed())
    }

    async fn transform(
        &self,
        chunk: &Chunk,
        batch: RecordBatch,
        hidden: Option<BooleanArray>,
    ) -> Result<InFlight> {
        let read = batch_bytes(&batch);
        let share = self.budget.take(read).await;
        let share = share.ok_or_else(|| Error::failed("the memory budget is closed"))?;
        let transform = Arc::clone(&self.transform);
        let _transforming = span::transform();
        // A few constants are made sooner than they are passed on.
        let here = chunk.is_small() || (read == 0 && batch.num_rows() <= HERE_ROWS_MAX);
        let made = self.pool.run_or_here(here, move || transform.run(&batch, hidden)).await?;
        self.refuse_bad(chunk.id, &made.bad)?;
        let bytes = read.max(batch_bytes(&made.batch));
        let aside = Aside::of(made.left_out, &made.bad);
        Ok(InFlight { batch: made.batch, bytes, aside, _share: share })
    }

    /// Refuses values that do not go through, unless they may become null.
    fn refuse_bad(&self, chunk: ChunkId, found: &[BadValues]) -> Result<()> {
        let mut bad = found.iter();
        let bad =
            bad.find(|one| self.on_bad_value == OnBadValue::Fail || one.problem == Problem::Null);
        let Some(bad) = bad else { return Ok(()) };
        let (path, count, what) = (&bad.path, bad.rows.len(), bad.problem.text());
        let examples = bad.examples.join(", ");
        Err(Error::refused(format!(
            "column `{path}`: {count} values of a batch of chunk {chunk} {what}, such as {examples}"
        ))
        .with_advice(
            "they were written after the changes were tried on the data, or were not in the sample",
        ))
    }

    async fn write(self, mut receiver: mpsc::Receiver<InFlight>) -> Result<Vec<Fragment>> {
        let mut writer = StagedWriter::new(&self.files);
        while let Some(in_flight) = receiver.recv().await {
            let writing = span::write();
            if let Err(error) = writer.write(&in_flight.batch).await {
                writer.discard().await;
                return Err(error);
            }
            drop(writing);
            self.files.throttle.wait().await;
            self.tell(&in_flight);
        }
        let writing = span::write();
        let written = writer.finish().await;
        drop(writing);
        self.files.throttle.wait().await;
        written
    }
}

fn writer_died(chunk: ChunkId) -> Error {
    Error::failed(format!("the writer of chunk {chunk} died"))
}

/// Which of `rows` are hidden, if any is.
pub(crate) fn hidden_of(hidden: &RoaringBitmap, rows: Range<u64>) -> Option<BooleanArray> {
    if hidden.is_empty() {
        return None;
    }
    let is_hidden = |row| u32::try_from(row).is_ok_and(|row| hidden.contains(row));
    Some(BooleanArray::from(rows.map(is_hidden).collect::<Vec<_>>()))
}
