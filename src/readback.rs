//! Reads staged files back and compares them with what was expected. Repairs nothing.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema as ArrowSchema;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance_core::cache::LanceCache;
use lance_core::datatypes::Schema;
use lance_encoding::decoder::{DecoderPlugins, FilterExpression};
use lance_file::reader::{FileReader, FileReaderOptions};
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::reader_projection_from_whole_schema;
use lance_io::ReadBatchParams;
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_table::format::Fragment;
use object_store::path::Path;

use crate::chunk::ChunkId;
use crate::datafile;
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::schema::blob;
use crate::settings::Verify;
use crate::sidecar::Blobs;
use crate::source::joined;
use crate::transform::pool::{Digests, Pool};

/// Batches decoded ahead of the digest.
const READAHEAD: usize = 2;
/// Rows that a quick verification reads of each file.
const QUICK_ROWS: usize = 100;

/// Bytes and rows of a file that is kept for comparing, at most.
const SMALL_BYTES: u64 = 64 << 10;
const SMALL_ROWS: usize = 64 << 10;

/// A small file that was decoded.
struct Decoded {
    bytes: Bytes,
    held: Option<usize>,
    batches: Vec<RecordBatch>,
}

/// Reads staged files back.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// The live table's store.
    pub store: Arc<ObjectStore>,
    /// The live table's `data/`.
    pub directory: Path,
    /// The schema of what was written.
    pub schema: Schema,
    /// The format.
    pub version: ConcreteFileVersion,
    /// Rows in a batch, at most.
    pub batch_rows: u32,
    /// Bytes that Lance reads ahead.
    pub io_buffer_bytes: u64,
    /// Where digests are taken.
    pub pool: Pool,
}

/// What a chunk's staged files have to hold.
#[derive(Debug, Clone)]
pub(crate) struct Expected<'a> {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its rows.
    pub rows: u64,
    /// A digest for each column, taken while transforming.
    pub digests: &'a [Digest],
}

impl Reader {
    /// Compares `fragments` with what was `expected`.
    ///
    /// # Errors
    /// `Mismatch`, naming the chunk and column, on any difference, unreadable files included.
    pub(crate) async fn verify(
        &self,
        fragments: &[Fragment],
        expected: &Expected<'_>,
        verify: Verify,
    ) -> Result<()> {
        let compared = match verify {
            Verify::Full => self.full(fragments, expected).await,
            Verify::Quick => self.quick(fragments, expected).await,
        };
        compared.map_err(|error| {
            if error.kind() == Kind::Mismatch {
                error
            } else {
                let chunk = expected.chunk;
                Error::mismatch(format!("chunk {chunk} cannot be read back")).caused_by(error)
            }
        })
    }

    async fn full(&self, fragments: &[Fragment], expected: &Expected<'_>) -> Result<()> {
        let schema = ArrowSchema::from(&self.schema);
        let mut digests = Digests::of(&schema)?;
        let mut known = None;
        for fragment in fragments {
            let rows = ReadBatchParams::RangeFull;
            let mut batches = self.read_unless(fragment, rows, &mut known).await?;
            while let Some(batch) = batches.try_next().await? {
                digests = self.pool.digest(digests, batch).await?;
            }
        }
        compare_rows(expected, digests.rows())?;
        let found = digests.finish();
        for (column, (found, wanted)) in
            schema.fields().iter().zip(found.iter().zip(expected.digests))
        {
            if found != wanted {
                let (chunk, name) = (expected.chunk, column.name());
                return Err(Error::mismatch(format!(
                    "column `{name}` of chunk {chunk} was staged with other values than the source \
                     has (expected digest {wanted}, found {found})"
                )));
            }
        }
        Ok(())
    }

    async fn quick(&self, fragments: &[Fragment], expected: &Expected<'_>) -> Result<()> {
        let mut rows = 0;
        let mut known = None;
        for fragment in fragments {
            rows += fragment.physical_rows.unwrap_or_default() as u64;
            let first = fragment.physical_rows.unwrap_or_default().min(QUICK_ROWS);
            let range = ReadBatchParams::Range(0..first);
            let batches = self.read_unless(fragment, range, &mut known).await?;
            let read: Vec<RecordBatch> = batches.try_collect().await?;
            let read: usize = read.iter().map(RecordBatch::num_rows).sum();
            if read != first {
                let chunk = expected.chunk;
                return Err(Error::mismatch(format!(
                    "chunk {chunk} gave {read} of its first {first} rows"
                )));
            }
        }
        compare_rows(expected, rows)
    }

    /// The rows of the staged file of a fragment. A small file that is byte for byte the one before holds
    /// the same rows, and is not decoded again.
    async fn read_unless(
        &self,
        fragment: &Fragment,
        rows: ReadBatchParams,
        known: &mut Option<Decoded>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(bytes) = self.small(fragment).await? else {
            return self.read(fragment, rows).await;
        };
        let held = fragment.physical_rows;
        let same = known.as_ref().filter(|known| known.bytes == bytes && known.held == held);
        let batches = match same {
            Some(known) => known.batches.clone(),
            None => self.read(fragment, rows).await?.try_collect().await?,
        };
        *known = Some(Decoded { bytes, held, batches: batches.clone() });
        Ok(futures::stream::iter(batches).map(Ok).boxed())
    }

    /// The bytes of the staged file of a fragment, if it is a small one that says everything itself.
    async fn small(&self, fragment: &Fragment) -> Result<Option<Bytes>> {
        let Some(file) = fragment.files.last() else { return Ok(None) };
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        let rows = fragment.physical_rows.unwrap_or(usize::MAX);
        let beside = !blob::columns(&self.schema).is_empty();
        if size > SMALL_BYTES || rows > SMALL_ROWS || beside {
            return Ok(None);
        }
        let path = self.directory.clone().join(file.path.as_str());
        datafile::read(&self.store, &path).await.map(Some)
    }

    /// The rows of the staged file of a fragment, its last one.
    async fn read(
        &self,
        fragment: &Fragment,
        rows: ReadBatchParams,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(file) = fragment.files.last() else {
            return Err(Error::mismatch("a staged fragment names no file".to_owned()));
        };
        let name = file.path.clone();
        let path = self.directory.clone().join(name.as_str());
        let scheduler =
            ScanScheduler::new(Arc::clone(&self.store), SchedulerConfig::new(self.io_buffer_bytes));
        let opened = scheduler.open_file(&path, &file.file_size_bytes).await;
        let stored = blob::stored(&self.schema);
        let projection = reader_projection_from_whole_schema(&stored, self.version);
        let reader = FileReader::try_open(
            opened.doing(|| format!("open {name}"))?,
            Some(projection.clone()),
            Arc::<DecoderPlugins>::default(),
            &LanceCache::no_cache(),
            FileReaderOptions::default(),
        )
        .await
        .doing(|| format!("open {name}"))?;
        let held = reader.num_rows();
        if held != fragment.physical_rows.unwrap_or_default() as u64 {
            return Err(Error::mismatch(format!(
                "{name} holds {held} rows, not those that were staged"
            )));
        }
        let blobs = Blobs::of_file(&self.store, &self.directory, &self.schema, &name);
        let tasks = reader.read_tasks(
            rows,
            self.batch_rows,
            Some(projection),
            FilterExpression::no_filter(),
        );
        let tasks = tasks.await.doing(|| format!("read {name}"))?;
        // Decoding is most of the work: each batch on a task of its own, in order.
        let batches = tasks.map(|batch| tokio::spawn(batch.task)).buffered(READAHEAD);
        let named = batches.map(move |batch| joined(batch).doing(|| format!("read {name}")));
        let Some(blobs) = blobs else { return Ok(named.boxed()) };
        let carried = named.and_then(move |batch| {
            let blobs = blobs.clone();
            async move { blobs.carry(batch).await }
        });
        Ok(carried.boxed())
    }
}

fn compare_rows(expected: &Expected<'_>, found: u64) -> Result<()> {
    if found == expected.rows {
        return Ok(());
    }
    let (chunk, rows) = (expected.chunk, expected.rows);
    Err(Error::mismatch(format!("chunk {chunk} was staged with {found} rows instead of {rows}")))
}
