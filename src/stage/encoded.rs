//! Stages a chunk row by row: scan, transform, digest, encode.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance_table::format::Fragment;
use roaring::RoaringBitmap;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Error, Result};
use crate::limits::{TRANSFORMED_HERE_ROWS, TRANSFORMS_AT_ONCE};
use crate::plan::Nulled;
use crate::plan::amounts::counted;
use crate::plan::finding::problem_text;
use crate::progress::{Amount, Event};
use crate::stage::constant::ConstantFile;
use crate::stage::file::EncodedFiles;
use crate::stage::{Expectation, Staged, Stager};
use crate::supply::{Cursor, Places};
use crate::table::source::Batches;
use crate::transform::evaluate::BadValues;
use crate::transform::{batch_bytes, digest::Digest, pool::Digests, rebatch::Rebatch};
use crate::{settings::OnBadValue, span};

/// A batch on its way to the writer, and its share of the budget.
struct BatchInFlight {
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
    fn of(left_out: u64, bad: &[BadValues]) -> Self {
        let nulled = bad.iter().map(|bad| Nulled {
            column: bad.path.clone(),
            problem: bad.problem,
            count: bad.rows.len() as u64,
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

/// What came of a part: its files, the digests of all rows so far, and what was put aside.
type StagedPart = (Vec<Fragment>, Digests, Aside);

impl Stager {
    /// Stages `chunk` row by row.
    pub(super) async fn stage_encoded(&self, chunk: &Chunk) -> Result<Staged> {
        let mut staged = Staged { chunk: chunk.id, ..Staged::default() };
        let parts = async {
            let parts = self.stage_parts(chunk, &mut staged.fragments).await?;
            if let Some(supply) = &self.supply {
                supply.finish_chunk(chunk).await?;
            }
            Ok(parts)
        };
        match parts.await {
            Ok((digests, aside)) => {
                staged.rows = digests.rows();
                staged.expectations =
                    digests.finish().into_iter().map(Expectation::Values).collect();
                (staged.left_out, staged.nulled) = (aside.left_out, aside.nulled);
                Ok(staged)
            }
            Err(error) => {
                self.files.discard(staged.fragments).await;
                Err(error)
            }
        }
    }

    /// Whether anything is read to stage a chunk.
    pub(super) fn reads(&self) -> bool {
        !self.what.schema.fields.is_empty()
    }

    /// Stages the parts of `chunk` one after the other; what is written is put into `fragments`.
    async fn stage_parts(
        &self,
        chunk: &Chunk,
        fragments: &mut Vec<Fragment>,
    ) -> Result<(Digests, Aside)> {
        let mut digests = Digests::of(self.transform.schema())?;
        let mut aside = Aside::default();
        let parts = self.parts(chunk).await?;
        // Where one fails, those that were begun beside it are left: their names tell whose they are.
        let constants: Vec<_> = parts.iter().map(|part| self.constant_file(part).boxed()).collect();
        let mut constants = stream::iter(constants).buffered(self.files.files().files_at_once());
        for part in &parts {
            let (written, taken, more) = match constants.try_next().await?.flatten() {
                Some(file) => self.digest_constants(part, file.finished(), digests).await?,
                None => self.stage_part(part, digests).await?,
            };
            fragments.extend(written);
            digests = taken;
            aside.add(more);
        }
        let (wanted, found) = if self.what.aligned {
            (chunk.physical_rows(), digests.rows())
        } else {
            (chunk.rows(), digests.rows() + aside.left_out)
        };
        if wanted == found {
            return Ok((digests, aside));
        }
        let id = chunk.id;
        Err(Error::mismatch(format!("chunk {id} gave {found} rows, its manifest says {wanted}")))
    }

    /// The digests of what the rows of `chunk` that live become, and how many they are: what staging it again
    /// would be expected to read back as. Writes nothing.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub(crate) async fn expect(&self, chunk: &Chunk) -> Result<(Vec<Digest>, u64)> {
        let _starved = span::starved();
        let mut digests = Digests::of(self.transform.schema())?;
        let batches = self.batches(chunk).await?;
        let mut cursor = self.cursor(chunk).await?;
        let transformed = batches.map_ok(|batch| {
            let places = cursor.next_rows(batch.num_rows());
            self.transformed(chunk, batch, None, places)
        });
        let mut transformed = transformed.try_buffered(TRANSFORMS_AT_ONCE);
        while let Some(in_flight) = transformed.try_next().await? {
            digests = self.pool.digest(digests, in_flight.batch).await?;
        }
        let rows = digests.rows();
        Ok((digests.finish(), rows))
    }

    /// A fragment at a time, where each has a file of its own; all at once otherwise.
    async fn parts(&self, chunk: &Chunk) -> Result<Vec<Part>> {
        if !self.what.aligned {
            return Ok(vec![Part { chunk: chunk.clone(), hidden: RoaringBitmap::new() }]);
        }
        let hidden = self.source.deleted_rows(chunk).await?;
        let parts = chunk.fragments.iter().zip(hidden).map(|(fragment, hidden)| Part {
            chunk: Chunk { id: chunk.id, fragments: vec![fragment.clone()] },
            hidden,
        });
        Ok(parts.collect())
    }

    /// The file of a part whose columns are all constants, if it is one.
    async fn constant_file(&self, part: &Part) -> Result<Option<ConstantFile>> {
        // Where a row is hidden, what is computed may differ from what is elsewhere.
        if !self.columns.are_constant() || !part.hidden.is_empty() {
            return Ok(None);
        }
        let _writing = span::write();
        let file = self.constants.write_file(part.chunk.physical_rows(), &self.files).await;
        self.files.throttle.wait().await;
        file
    }

    /// Takes the digests of a part whose `file` is written: they are taken of what is expected, whatever was written.
    async fn digest_constants(
        &self,
        part: &Part,
        file: Fragment,
        mut digests: Digests,
    ) -> Result<StagedPart> {
        let mut aside = Aside::default();
        let taken = async {
            let _starved = span::starved();
            let mut batches = self.batches(&part.chunk).await?;
            while let Some(batch) = batches.try_next().await? {
                let mut in_flight =
                    self.transformed(&part.chunk, batch, None, Places::default()).await?;
                self.tell(&in_flight);
                aside.add(std::mem::take(&mut in_flight.aside));
                digests = self.pool.digest(digests, in_flight.batch).await?;
            }
            Ok(digests)
        };
        match taken.await {
            Ok(digests) => Ok((vec![file], digests, aside)),
            Err(error) => {
                self.files.discard(vec![file]).await;
                Err(error)
            }
        }
    }

    async fn stage_part(&self, part: &Part, digests: Digests) -> Result<StagedPart> {
        let (sender, receiver) = mpsc::channel(self.queue);
        let (read, fragments) = if part.chunk.is_small() {
            let (read, written) =
                tokio::join!(self.read_part(part, digests, sender), self.clone().write(receiver));
            match read {
                Ok(read) => (read, written?),
                Err(error) => {
                    // The writer took the end of what it was sent for the end of the rows.
                    self.files.discard(written.unwrap_or_default()).await;
                    return Err(error);
                }
            }
        } else {
            self.read_and_write(part, digests, sender, receiver).await?
        };
        let Some((digests, aside)) = read else {
            self.files.discard(fragments).await;
            return Err(writer_died(part.chunk.id));
        };
        Ok((fragments, digests, aside))
    }

    /// Reads `part` while what was read before is written. The writer has a task of its own, which is
    /// aborted with this one.
    async fn read_and_write(
        &self,
        part: &Part,
        digests: Digests,
        sender: mpsc::Sender<BatchInFlight>,
        receiver: mpsc::Receiver<BatchInFlight>,
    ) -> Result<(Option<(Digests, Aside)>, Vec<Fragment>)> {
        let mut writer = JoinSet::new();
        writer.spawn(self.clone().write(receiver));
        let read = match self.read_part(part, digests, sender).await {
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

    fn tell(&self, in_flight: &BatchInFlight) {
        self.progress.event(Event::Advanced(Amount {
            rows: in_flight.batch.num_rows() as u64,
            bytes: in_flight.bytes,
            chunks: 0,
        }));
    }

    /// Scans and transforms, several batches at a time, and takes digests in row order; counts the rows
    /// that are left out, and the values that become null. `None` when the writer stopped listening: it
    /// knows why.
    async fn read_part(
        &self,
        part: &Part,
        mut digests: Digests,
        sender: mpsc::Sender<BatchInFlight>,
    ) -> Result<Option<(Digests, Aside)>> {
        let batches = self.batches(&part.chunk).await?;
        let mut cursor = self.cursor(&part.chunk).await?;
        let mut row: u64 = 0;
        let transformed = batches.map_ok(|batch| {
            let rows = row..row + batch.num_rows() as u64;
            row = rows.end;
            let places = cursor.next_rows(batch.num_rows());
            self.transformed(&part.chunk, batch, hidden_of(&part.hidden, rows), places)
        });
        let mut transformed = transformed.try_buffered(TRANSFORMS_AT_ONCE);
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

    /// Walks the rows of `chunk`, as they are read, if it matters where they lie.
    async fn cursor(&self, chunk: &Chunk) -> Result<Cursor> {
        if self.supply.is_none() {
            return Ok(Cursor::default());
        }
        let deleted =
            if self.what.aligned { None } else { Some(self.source.deleted_rows(chunk).await?) };
        Ok(Cursor::of(chunk, deleted))
    }

    /// The chunk's rows in batches of one size.
    async fn batches(&self, chunk: &Chunk) -> Result<Batches> {
        let scanned = self.source.scan(chunk, &self.what, self.scan).await?;
        if !self.reads() {
            return Ok(scanned);
        }
        let rebatch = Rebatch::to_rows(self.scan.batch_rows as usize);
        let state = Some((scanned, rebatch));
        let rebatched = stream::try_unfold(state, |state| async move {
            let Some((mut scanned, mut rebatch)) = state else { return Ok(None) };
            let scanning = span::scan();
            let batch = scanned.try_next().await?;
            drop(scanning);
            Ok(match batch {
                Some(batch) => Some((rebatch.push(batch)?, Some((scanned, rebatch)))),
                None => Some((rebatch.flush()?, None)),
            })
        });
        let flat = rebatched.map_ok(|batches| stream::iter(batches).map(Ok));
        Ok(flat.try_flatten().boxed())
    }

    async fn transformed(
        &self,
        chunk: &Chunk,
        batch: RecordBatch,
        hidden: Option<BooleanArray>,
        places: Places,
    ) -> Result<BatchInFlight> {
        let read = batch_bytes(&batch);
        let share = self.budget.take(read).await;
        let share = share.ok_or_else(|| Error::failed("the memory budget is closed"))?;
        let transform = Arc::clone(&self.transform);
        let _transforming = span::transform();
        // A few constants are evaluated sooner than they are passed on.
        let here = chunk.is_small() || (read == 0 && batch.num_rows() <= TRANSFORMED_HERE_ROWS);
        let provided = match &self.supply {
            Some(supply) => supply.provide(&transform, &batch, &places, hidden.as_ref()).await?,
            None => Vec::new(),
        };
        let run = move || transform.run(&batch, hidden, &provided);
        let transformed = if here { run()? } else { self.pool.run(run).await? };
        self.refuse_bad(chunk.id, &transformed.bad)?;
        let bytes = read.max(batch_bytes(&transformed.batch));
        let aside = Aside::of(transformed.left_out, &transformed.bad);
        Ok(BatchInFlight { batch: transformed.batch, bytes, aside, _share: share })
    }

    /// Refuses values that cannot be taken over, unless they may become null.
    fn refuse_bad(&self, chunk: ChunkId, bad: &[BadValues]) -> Result<()> {
        let fails = self.on_bad_value == OnBadValue::Fail;
        let bad = bad.iter().find(|one| fails || one.problem.is_of_nulls());
        let Some(bad) = bad else { return Ok(()) };
        let (path, count) = (&bad.path, bad.rows.len() as u64);
        let what = problem_text(bad.problem, count);
        let count = counted(count, "value");
        let examples = bad.examples.join(", ");
        Err(Error::refused(format!(
            "column `{path}`: {count} of a batch of chunk {chunk} {what}, such as {examples}"
        ))
        .with_advice(
            "they were written after the changes were tried on the data, or were not in the sample",
        ))
    }

    async fn write(self, mut receiver: mpsc::Receiver<BatchInFlight>) -> Result<Vec<Fragment>> {
        let mut writer = EncodedFiles::of(&self.files);
        loop {
            let starved = span::starved();
            let Some(in_flight) = receiver.recv().await else { break };
            drop(starved);
            let writing = span::write();
            if let Err(error) = writer.encode(&in_flight.batch).await {
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
