//! The source: the live table at the version that was pinned when the migration began.

use std::{collections::HashMap, sync::Arc};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema as ArrowSchema;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::fragment::{FileFragment, FragReadConfig, FragmentReader};
use lance_core::datatypes::Schema;
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_table::{format::Fragment, utils::stream::ReadBatchFut};
use object_store::path::Path;
use roaring::RoaringBitmap;
use tokio::task::JoinError;

use crate::chunk::{Chunk, SourceFragment};
use crate::error::{Doing, Error, Result};
use crate::limits::{
    BATCHES_A_READ, DELETION_FILES_AT_ONCE, FRAGMENTS_OPENED_AHEAD, READS_AHEAD,
    SCAN_DECODED_AHEAD, SMALL_FILE_BYTES, SMALL_FRAGMENTS_AHEAD,
};
use crate::schema::{blob, unfound::unfound};
use crate::storage::page::{self, Blocks, PageFile};
use crate::storage::{blob::Blobs, files};
use crate::table::open::{deletions_of, store_of};

/// How a chunk is scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanLimits {
    /// Rows in a batch, at most.
    pub batch_rows: u32,
    /// Bytes that Lance reads ahead.
    pub io_buffer_bytes: u64,
}

/// What is read of a chunk.
#[derive(Debug, Clone)]
pub(crate) struct What {
    /// The columns: some of the source's fields.
    pub schema: Arc<Schema>,
    /// Whether deleted rows are read too, in their places.
    pub aligned: bool,
}

/// Batches that are still to be decoded.
type Reads = BoxStream<'static, lance::Result<ReadBatchFut>>;

/// Rows in order.
pub(crate) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// A pinned version, ready to be scanned.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    dataset: Arc<Dataset>,
    places: Arc<HashMap<u64, usize>>,
    /// Memory for the pages that are read.
    pub blocks: Blocks,
}

impl Source {
    /// The version that `dataset` is at.
    pub(crate) fn of(dataset: Arc<Dataset>) -> Self {
        let ids = dataset.iter_fragments().map(|fragment| fragment.id);
        let places = ids.enumerate().map(|(place, id)| (id, place)).collect();
        Self { dataset, places: Arc::new(places), blocks: Blocks::default() }
    }

    /// How many data files the version names.
    pub(crate) fn files(&self) -> u64 {
        file_count(&self.dataset)
    }

    /// Streams the rows of `chunk`, in order.
    ///
    /// A fragment is read a few batches at a time: a plain scan holds the pages that it reads from
    /// whole, and a writer that was given large batches made pages of 100 MB and more.
    ///
    /// # Errors
    /// The stream's items carry what fails.
    pub(crate) async fn scan(
        &self,
        chunk: &Chunk,
        what: &What,
        limits: ScanLimits,
    ) -> Result<Batches> {
        let counted = |fragment: &SourceFragment| {
            if what.aligned { fragment.physical_rows } else { fragment.rows }
        };
        let rows = chunk.fragments.iter().map(counted);
        if what.schema.fields.is_empty() {
            return Ok(bare(rows.sum(), limits.batch_rows));
        }
        if let Some(field) = unfound(&what.schema) {
            let what = format!("column `{}` is not found by its name", field.name);
            return Err(Error::refused(what).with_advice("a --rename before gives it another one"));
        }
        let fragments = self.fragments_of(chunk)?;
        let (store, directory) = self.place().await?;
        let blobs = Blobs::of_fragments(&store, &directory, &what.schema, &fragments)?;
        let files = fragments.iter().flat_map(|fragment| &fragment.files);
        let names: Vec<String> = files.map(|file| file.path.clone()).collect();
        // Decoding is most of the work: each batch on a task of its own.
        let here = chunk.is_small();
        let is_local = files::of(&store).has_local_files();
        let each = chunk.bytes() / chunk.fragments.len().max(1) as u64;
        let waits = !is_local && each <= SMALL_FILE_BYTES;
        let (opened, decoded) = if waits {
            (SMALL_FRAGMENTS_AHEAD, SMALL_FRAGMENTS_AHEAD)
        } else {
            (FRAGMENTS_OPENED_AHEAD, SCAN_DECODED_AHEAD)
        };
        let reader = RowReader {
            source: self.clone(),
            schema: Arc::new(blob::stored(&what.schema)),
            configs: configs(&store, limits, what.aligned, blobs.is_some()),
            direct: blobs.is_none() && is_local,
            store,
            directory,
            aligned: what.aligned,
            batch_rows: limits.batch_rows,
            here,
        };
        let fragments: Vec<_> = fragments.into_iter().zip(rows).collect();
        let reads = stream::iter(fragments)
            .map(move |(fragment, rows)| {
                let reader = reader.clone();
                let opened = async move { reader.open(fragment, rows).await };
                // What is left lying of a footer would be in the way of pages that are asked for later.
                if here { opened.boxed() } else { tokio::spawn(opened).map(joined).boxed() }
            })
            .buffered(opened)
            .try_flatten();
        let batches = reads.map(move |read| {
            let decoded = async move { read?.await };
            if here { decoded.boxed() } else { tokio::spawn(decoded).map(joined).boxed() }
        });
        let (id, uri, files) = (chunk.id, self.dataset.uri().to_owned(), files_text(&names));
        let told = batches
            .buffered(decoded)
            .map(move |batch| batch.doing(|| format!("read chunk {id} of {uri} ({files})")));
        Ok(with_blobs(told.boxed(), blobs))
    }

    /// The deleted rows of each fragment of `chunk`.
    ///
    /// # Errors
    /// `Failed`, when a deletion file is gone or cannot be read.
    pub(crate) async fn deleted_rows(&self, chunk: &Chunk) -> Result<Vec<RoaringBitmap>> {
        let deletions = &deletions_of(&self.dataset).await?;
        let mut reads = Vec::new();
        for fragment in &chunk.fragments {
            let origin = &fragment.origin;
            reads.push(deletions.read(origin.id, origin.deletions.as_ref()).boxed());
        }
        stream::iter(reads).buffered(DELETION_FILES_AT_ONCE).try_collect().await
    }

    /// Streams all rows with Lance's own scanner, for those who check what [`scan`](Self::scan) gave.
    ///
    /// # Errors
    /// `Failed`, when the scan cannot be planned; the stream's items carry what fails later.
    pub(crate) async fn scan_all(&self, limits: ScanLimits) -> Result<Batches> {
        let uri = self.dataset.uri().to_owned();
        let mut scanner = self.dataset.scan();
        scanner
            .scan_in_order(true)
            .batch_size(limits.batch_rows as usize)
            .batch_readahead(SCAN_DECODED_AHEAD)
            .io_buffer_size(limits.io_buffer_bytes);
        let stream = scanner.try_into_stream().await;
        let stream = stream.doing(|| format!("scan {uri}"))?;
        Ok(stream.map(move |batch| batch.doing(|| format!("read {uri}"))).boxed())
    }

    /// The store that its data files are in, and their directory.
    ///
    /// # Errors
    /// `Failed`, when the store cannot be opened.
    pub(crate) async fn place(&self) -> Result<(Arc<ObjectStore>, Path)> {
        Ok((store_of(&self.dataset).await?, self.dataset.data_dir()))
    }

    /// All columns of the source, deleted rows left out.
    pub(crate) fn all(&self) -> What {
        What { schema: Arc::new(self.dataset.schema().clone()), aligned: false }
    }

    /// The manifest's own description of the chunk's fragments.
    pub(crate) fn fragments_of(&self, chunk: &Chunk) -> Result<Vec<Fragment>> {
        let fragments = chunk.fragments.iter().map(|wanted| {
            let place = self.places.get(&wanted.origin.id);
            let fragment = place.and_then(|place| self.dataset.fragments().get(*place));
            fragment.cloned().ok_or_else(|| {
                let (id, version) = (wanted.origin.id, self.dataset.version_id());
                Error::failed(format!("version {version} has no fragment {id}, which was planned"))
            })
        });
        fragments.collect()
    }
}

/// Reads rows of fragments: the one place that decides how.
#[derive(Clone)]
struct RowReader {
    source: Source,
    /// The columns, as files store them.
    schema: Arc<Schema>,
    store: Arc<ObjectStore>,
    directory: Path,
    /// How Lance's own reader is opened, for each of the reads that are begun at once.
    configs: [FragReadConfig; READS_AHEAD],
    /// Whether pages may be read from their file, past Lance's own reader.
    direct: bool,
    /// Whether deleted rows are read too.
    aligned: bool,
    batch_rows: u32,
    /// Whether it is so little that it is read on this task.
    here: bool,
}

impl RowReader {
    /// The first `rows` rows of `fragment`, page by page from their file where that can be, else by Lance's own reader.
    async fn open(&self, fragment: Fragment, rows: u64) -> lance::Result<Reads> {
        if self.direct && (self.aligned || fragment.deletion_file.is_none()) {
            let pages = self.pages(&fragment, rows).await;
            // Its own message is kept as the cause.
            if let Some(reads) = pages.map_err(|error| lance::Error::io_source(error.into()))? {
                return Ok(reads);
            }
        }
        let fragment = FileFragment::new(Arc::clone(&self.source.dataset), fragment);
        let mut readers = Vec::new();
        for config in self.configs.clone() {
            readers.push(Arc::new(fragment.open(&self.schema, config).await?));
            if rows <= u64::from(step(self.batch_rows)) {
                break;
            }
        }
        Ok(reads(readers, rows, self.batch_rows, self.here))
    }

    /// The first `rows` rows of `fragment`, page by page, if one of its files holds all of the columns.
    async fn pages(&self, fragment: &Fragment, rows: u64) -> Result<Option<Reads>> {
        let mut held = fragment.files.iter();
        let held = held.find_map(|file| Some((file, page::projection(file, &self.schema)?)));
        let Some((file, projection)) = held.filter(|_| fragment.overlays.is_empty()) else {
            return Ok(None);
        };
        let file = PageFile::open(&self.store, &self.directory, file).await?;
        if usize::try_from(file.rows()).ok() != fragment.physical_rows {
            return Ok(None);
        }
        let tasks = file.read(projection, rows, self.batch_rows, &self.source.blocks).await?;
        Ok(Some(tasks.map_ok(|task| task.task).boxed()))
    }
}

/// `batches`, with what belongs to their `blobs`.
pub(crate) fn with_blobs(batches: Batches, blobs: Option<Blobs>) -> Batches {
    let Some(blobs) = blobs else { return batches };
    let carried = batches.and_then(move |batch| {
        let blobs = blobs.clone();
        async move { blobs.carry(batch).await }
    });
    carried.boxed()
}

/// So many rows of no columns.
pub(crate) fn bare(rows: u64, batch_rows: u32) -> Batches {
    let step = u64::from(batch_rows.max(1));
    let starts = (0..rows.div_ceil(step)).map(move |batch| batch * step);
    let batches = starts.map(move |start| {
        let count = usize::try_from(step.min(rows - start)).unwrap_or_default();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::new(ArrowSchema::empty());
        RecordBatch::try_new_with_options(schema, Vec::new(), &options)
            .doing(|| format!("make {count} rows"))
    });
    stream::iter(batches).boxed()
}

/// The names of a few files, or how many there are.
fn files_text(names: &[String]) -> String {
    if names.len() <= 3 { names.join(", ") } else { format!("one of {} files", names.len()) }
}

/// How fragments are opened, for each of the reads that are begun at once.
fn configs(
    store: &Arc<ObjectStore>,
    limits: ScanLimits,
    aligned: bool,
    addresses: bool,
) -> [FragReadConfig; READS_AHEAD] {
    let buffer = SchedulerConfig::new(limits.io_buffer_bytes / READS_AHEAD as u64);
    [(); READS_AHEAD].map(|()| {
        FragReadConfig::default()
            .with_scan_scheduler(ScanScheduler::new(Arc::clone(store), buffer))
            .with_ignore_deletions(aligned)
            .with_row_address(addresses)
    })
}

/// Rows that are asked of a fragment at once.
fn step(batch_rows: u32) -> u32 {
    batch_rows.saturating_mul(BATCHES_A_READ).max(1)
}

/// The reads that give the first `rows` rows of a fragment, deleted ones not counted, in order; `here`, or
/// on tasks of their own. They take turns with its `readers`: a read begins when the one before the last is
/// used up, so that none has another one beside it.
fn reads(readers: Vec<Arc<FragmentReader>>, rows: u64, batch_rows: u32, here: bool) -> Reads {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let step = step(batch_rows);
    let starts = (0..rows).step_by(usize::try_from(step).unwrap_or(1));
    let turns = readers.into_iter().cycle();
    stream::iter(starts.zip(turns))
        .map(move |(start, reader)| {
            let range = start..rows.min(start.saturating_add(step));
            let read = async move { reader.read_range(range, batch_rows).await };
            // On a task of its own, so that the next read begins before this one is used up.
            if here { read.boxed() } else { tokio::spawn(read).map(joined).boxed() }
        })
        .buffered(READS_AHEAD)
        .map_ok(|batches| batches.map(Ok))
        .try_flatten()
        .boxed()
}

/// What a task of its own gave; one that died is an error as well.
pub(crate) fn joined<T>(
    task: std::result::Result<lance::Result<T>, JoinError>,
) -> lance::Result<T> {
    task.unwrap_or_else(|error| Err(lance::Error::io_source(error.into())))
}

/// How many data files `version` names.
pub(crate) fn file_count(version: &Dataset) -> u64 {
    version.fragments().iter().map(|fragment| fragment.files.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{facts::source_fragments, open::Opener};
    use crate::{chunk::ChunkId, location::Location};
    use arrow::array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatchIterator};
    use std::time::Duration;

    /// Rows of 900 kB that nothing compresses, about ten to a page.
    const ROWS: u64 = 120;

    fn large(rows: u64) -> RecordBatch {
        let mut state = 1_u64;
        let mut value = |_| {
            let words = (0..112_500).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            words.collect::<Vec<u8>>()
        };
        let values = (0..rows).map(&mut value).collect::<Vec<_>>();
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..).take(values.len())));
        let values: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(values));
        RecordBatch::try_from_iter([("id", ids), ("value", values)]).unwrap()
    }

    async fn scanned(source: &Source, aligned: bool, io_buffer_bytes: u64) -> usize {
        let fragments = source_fragments(&source.dataset).await.unwrap();
        let chunk = Chunk { id: ChunkId(0), fragments };
        let what = What { aligned, ..source.all() };
        let limits = ScanLimits { batch_rows: 1, io_buffer_bytes };
        let read = source.scan(&chunk, &what, limits).await.unwrap();
        let all = source.scan_all(limits).await.unwrap();
        let count = |batches: Batches| async move {
            let rows = batches.map_ok(|batch| batch.num_rows());
            rows.try_fold(0, |sum, rows| std::future::ready(Ok(sum + rows))).await.unwrap()
        };
        assert_eq!(count(all).await, 118);
        count(read).await
    }

    /// As 100 MB pages beside the 64 MiB that are read ahead: pages are larger than the buffer, reads begin
    /// in the middle of one and go on in the next.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_read_waits_forever_for_pages_that_are_larger_than_the_buffer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let batch = large(ROWS);
        let (rows, schema) = ([Ok(batch.clone())], batch.schema());
        let rows = RecordBatchIterator::new(rows, schema);
        let mut written = Dataset::write(rows, &format!("{path}/t.lance"), None).await.unwrap();
        written.delete("id = 17 or id = 70").await.unwrap();
        for database in [path.to_owned(), format!("file-object-store://{path}")] {
            let location = Location::new(&database, "t").unwrap();
            let source = Source::of(Opener::of(&location, None).live().await.unwrap());
            for buffer in [1 << 20, 6 << 20, 8 << 20] {
                for (aligned, rows) in [(false, 118), (true, 120)] {
                    let read = scanned(&source, aligned, buffer);
                    let read = tokio::time::timeout(Duration::from_mins(1), read).await;
                    assert_eq!(read, Ok(rows), "{database}, {buffer} bytes ahead");
                }
            }
        }
    }
}
