//! The source: the live table at the version that was pinned when the migration began.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema as ArrowSchema;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::fragment::{FileFragment, FragReadConfig, FragmentReader};
use lance_core::datatypes::Schema;
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_table::format::Fragment;
use lance_table::utils::stream::ReadBatchFut;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio::task::JoinError;

use crate::chunk::{Chunk, SourceFragment};
use crate::datafile;
use crate::error::{Context, Error, Result};
use crate::pages::{self, Blocks, PageFile};
use crate::schema::blob;
use crate::sidecar::Blobs;

/// What the name of every tag of relance's begins with.
pub(crate) const TAG_PREFIX: &str = "relance-";

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

/// Batches of a chunk that are decoded ahead.
const BATCH_READAHEAD: usize = 4;
/// Batches that are asked of a fragment at once: many enough that finding a page again costs little,
/// few enough that little of a large page is held.
const BATCHES_A_READ: u32 = 8;
/// Reads of a fragment that are begun at once. Each has a buffer of its own: Lance gives a read more than its
/// buffer holds only if nothing that is asked for earlier waits to be used; of two reads that share one, each
/// can wait for what the other has taken, forever, where a page is larger than what is left.
const READS_AHEAD: usize = 2;
/// Fragments of a chunk whose footers are read ahead.
const FRAGMENT_READAHEAD: usize = 4;

/// Batches that are still to be decoded.
type Reads = BoxStream<'static, lance::Result<ReadBatchFut>>;

/// Rows in order.
pub(crate) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// What the name of the tag on a swapped version ends with.
pub(crate) const SWAP_SUFFIX: &str = ".swap";

/// The tag of the migration `id`: it pins the source while staging, and is the rollback point after.
pub(crate) fn tag_of(id: &str) -> String {
    format!("{TAG_PREFIX}{id}")
}

/// The tag on the version that the migration `id` was swapped in as: what going back reads there stays as
/// long as the rollback point.
pub(crate) fn swap_tag_of(id: &str) -> String {
    format!("{TAG_PREFIX}{id}{SWAP_SUFFIX}")
}

/// Tags `version`, so that no cleanup can take it.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn pin(dataset: &Dataset, id: &str, version: u64) -> Result<()> {
    let tag = tag_of(id);
    if is_damaged(dataset, &tag).await? {
        remove_tag_file(dataset, &tag).await?;
    }
    match dataset.tags().create(&tag, version).await {
        // The reply to an earlier attempt may have been lost; the name is nobody else's.
        Err(lance::Error::RefConflict { .. }) => {}
        created => return created.doing(|| format!("tag version {version} as {tag}")),
    }
    let there = dataset.tags().get_version(&tag).await;
    let there = there.doing(|| format!("read the tag {tag}"))?;
    if there == version {
        return Ok(());
    }
    Err(Error::failed(format!("the tag {tag} is at version {there} already, not {version}")))
}

/// Tags `version`, which the migration `id` was swapped in as, so that no cleanup takes it. Where the tag
/// is on another version, it is moved.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn pin_swap(dataset: &Dataset, id: &str, version: u64) -> Result<()> {
    let (tag, tags) = (swap_tag_of(id), dataset.tags());
    let written = match tags.get_version(&tag).await {
        Ok(there) if there == version => return Ok(()),
        Ok(_) => tags.update(&tag, version).await,
        Err(lance::Error::RefNotFound { .. }) => tags.create(&tag, version).await,
        Err(error) => Err(error),
    };
    written.doing(|| format!("tag version {version} as {tag}"))
}

/// Removes the tags of the migration `id`; what is gone already is as good. The rollback point goes last:
/// as long as it is there, it can be removed again.
///
/// # Errors
/// `Failed`, when one is there and cannot be removed.
pub(crate) async fn unpin(dataset: &Dataset, id: &str) -> Result<()> {
    for tag in [swap_tag_of(id), tag_of(id)] {
        match dataset.tags().delete(&tag).await {
            Ok(()) | Err(lance::Error::RefNotFound { .. }) => {}
            // What is no tag any more goes as a file.
            Err(_) if is_damaged(dataset, &tag).await? => remove_tag_file(dataset, &tag).await?,
            Err(error) => return Err(error).doing(|| format!("remove the tag {tag}")),
        }
    }
    remove_half_written(dataset, id).await
}

/// Removes the tags of the migration `id` that were not written to their end: Lance's store writes a file on a
/// disk under another name first.
async fn remove_half_written(dataset: &Dataset, id: &str) -> Result<()> {
    let store = dataset.object_store(None).await.doing(|| "open the table's store".to_owned())?;
    let directory = datafile::directory_of(&tag_file(dataset, "any"));
    let begins = format!("{}.json.", tag_of(id));
    for meta in datafile::list_below(&store, &directory).await? {
        if meta.location.filename().is_some_and(|name| name.starts_with(&begins)) {
            datafile::remove(&store, &meta.location).await?;
        }
    }
    Ok(())
}

/// Where the tags of `dataset` lie (lance 14 `src/dataset/refs.rs`).
fn tag_file(dataset: &Dataset, tag: &str) -> Path {
    let root = dataset.branch_location().path;
    root.join("_refs").join("tags").join(format!("{tag}.json"))
}

/// Whether the file of `tag` is there and does not read as a tag.
///
/// # Errors
/// `Failed`, when it cannot be looked at.
pub(crate) async fn is_damaged(dataset: &Dataset, tag: &str) -> Result<bool> {
    let store = dataset.object_store(None).await.doing(|| "open the table's store".to_owned())?;
    let file = tag_file(dataset, tag);
    let text = match store.inner.get(&file).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(false),
        got => got.doing(|| format!("read the tag {tag}"))?.bytes().await,
    };
    let text = text.doing(|| format!("read the tag {tag}"))?;
    let read: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    let version = read.as_ref().and_then(|read| read.get("version"));
    Ok(version.and_then(serde_json::Value::as_u64).is_none())
}

async fn remove_tag_file(dataset: &Dataset, tag: &str) -> Result<()> {
    let store = dataset.object_store(None).await.doing(|| "open the table's store".to_owned())?;
    datafile::remove(&store, &tag_file(dataset, tag)).await
}

/// The names of the tags of `dataset`, read or not.
///
/// # Errors
/// `Failed`, when they cannot be listed.
pub(crate) async fn tag_names(dataset: &Dataset) -> Result<Vec<String>> {
    let store = dataset.object_store(None).await.doing(|| "open the table's store".to_owned())?;
    let directory = datafile::directory_of(&tag_file(dataset, "any"));
    let files = datafile::list_below(&store, &directory).await?;
    let names = files.iter().filter_map(|meta| meta.location.filename()?.strip_suffix(".json"));
    Ok(names.map(str::to_owned).collect())
}

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

    /// Streams the rows of `chunk`, in order.
    ///
    /// A fragment is read a few batches at a time: a plain scan holds the pages that it reads from
    /// whole, and a writer that was given large batches made pages of 100 MB and more. On a disk, one that is
    /// in a single file is read page by page.
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
        if what.schema.fields.is_empty() {
            let rows = chunk.fragments.iter().map(counted).sum();
            return Ok(bare(rows, limits.batch_rows));
        }
        let place = self.place().await?;
        let (store, directory) = &place;
        let rows = chunk.fragments.iter().map(counted);
        let fragments = self.fragments_of(chunk)?;
        let blobs = Blobs::of_fragments(store, directory, &what.schema, &fragments)?;
        let configs = configs(store, limits, what.aligned, blobs.is_some());
        let schema = Arc::new(blob::stored(&what.schema));
        let fragments: Vec<_> = fragments.into_iter().zip(rows).collect();
        let files = fragments.iter().flat_map(|(fragment, _)| &fragment.files);
        let names: Vec<String> = files.map(|file| file.path.clone()).collect();
        let source = self.clone();
        let direct = blobs.is_none() && store.has_direct_local_paths();
        let aligned = what.aligned;
        // Decoding is most of the work: each batch on a task of its own.
        let here = chunk.is_small();
        let reads = stream::iter(fragments)
            .map(move |(fragment, rows)| {
                let (source, schema, configs) =
                    (source.clone(), Arc::clone(&schema), configs.clone());
                let (place, batch_rows) = (place.clone(), limits.batch_rows);
                let direct = direct && (aligned || fragment.deletion_file.is_none());
                let opened = async move {
                    if direct {
                        let tasks =
                            source.pages(&place, &fragment, &schema, rows, batch_rows).await;
                        // Its own message is kept as the cause.
                        let tasks = tasks.map_err(|error| lance::Error::io_source(error.into()))?;
                        if let Some(tasks) = tasks {
                            return lance::Result::Ok(tasks);
                        }
                    }
                    let fragment = FileFragment::new(Arc::clone(&source.dataset), fragment);
                    let mut readers = Vec::new();
                    for config in configs {
                        readers.push(Arc::new(fragment.open(&schema, config).await?));
                        if rows <= u64::from(step(batch_rows)) {
                            break;
                        }
                    }
                    Ok(reads(readers, rows, batch_rows, here))
                };
                // What is left lying of a footer would be in the way of pages that are asked for later.
                if here { opened.boxed() } else { tokio::spawn(opened).map(joined).boxed() }
            })
            .buffered(FRAGMENT_READAHEAD)
            .try_flatten();
        let (id, uri, files) = (chunk.id, self.dataset.uri().to_owned(), files_text(&names));
        let batches = reads.map(move |read| {
            let decoded = async move { read?.await };
            if here { decoded.boxed() } else { tokio::spawn(decoded).map(joined).boxed() }
        });
        let told = batches
            .buffered(BATCH_READAHEAD)
            .map(move |batch| batch.doing(|| format!("read chunk {id} of {uri} ({files})")));
        let Some(blobs) = blobs else { return Ok(told.boxed()) };
        let carried = told.and_then(move |batch| {
            let blobs = blobs.clone();
            async move { blobs.carry(batch).await }
        });
        Ok(carried.boxed())
    }

    /// The first `rows` rows of `fragment`, page by page, if one of its files holds all of `schema`.
    async fn pages(
        &self,
        (store, directory): &(Arc<ObjectStore>, Path),
        fragment: &Fragment,
        schema: &Schema,
        rows: u64,
        batch_rows: u32,
    ) -> Result<Option<Reads>> {
        let mut held = fragment.files.iter();
        let held = held.find_map(|file| Some((file, pages::projection(file, schema)?)));
        let Some((file, projection)) = held.filter(|_| fragment.overlays.is_empty()) else {
            return Ok(None);
        };
        let file = PageFile::open(store, directory, file).await?;
        if usize::try_from(file.rows()).ok() != fragment.physical_rows {
            return Ok(None);
        }
        let tasks = file.read(projection, rows, batch_rows, &self.blocks).await?;
        Ok(Some(tasks.map_ok(|task| task.task).boxed()))
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
            .batch_readahead(BATCH_READAHEAD)
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
        let store = self.dataset.object_store(None).await;
        let store = store.doing(|| format!("open the store of {}", self.dataset.uri()))?;
        Ok((store, self.dataset.data_dir()))
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

/// So many rows of no columns.
fn bare(rows: u64, batch_rows: u32) -> Batches {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkId;
    use crate::location::Location;
    use crate::table::{Opener, source_fragments};
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
