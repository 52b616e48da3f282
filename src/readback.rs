//! Reads staged files back and compares them with what was expected. Repairs nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema as ArrowSchema;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_core::datatypes::Schema;
use lance_file::reader::ReaderProjection;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::{
    physical_column_count, reader_projection_from_column_names, reader_projection_from_whole_schema,
};
use lance_io::object_store::ObjectStore;
use lance_table::format::Fragment;
use object_store::path::Path;
use roaring::RoaringBitmap;

use crate::chunk::{ChunkId, SMALL_BYTES};
use crate::datafile;
use crate::error::{Context, Error, Kind, Result};
use crate::pages::{self, Blocks, PageFile, Seen};
use crate::plan::copies::Copies;
use crate::schema::blob;
use crate::settings::Verify;
use crate::sidecar::Blobs;
use crate::source::joined;
use crate::transform::digest::Digest;
use crate::transform::pool::{Digests, Pool};

/// Batches decoded ahead of the digest.
const READAHEAD: usize = 2;
/// Rows that a quick verification reads of each file.
const QUICK_ROWS: usize = 100;

/// Bytes and rows of a file that is kept for comparing, at most.
const KEPT_BYTES: u64 = 64 << 10;
const KEPT_ROWS: usize = 64 << 10;

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
    /// The same of the columns that are made, where the pages of the others are copied.
    pub made_rows: u32,
    /// Memory for the pages that are read.
    pub blocks: Blocks,
    /// Where digests are taken.
    pub pool: Pool,
    /// Which columns are the source's own, where pages are copied.
    pub copies: Option<Arc<Copies>>,
    /// What the pages of made columns were found to hold.
    pub known: Known,
}

/// Digests of pages by those of the values that were read from them: the same defaults of as many rows are
/// the same pages in every chunk, and are decoded once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<Mutex<HashMap<Digest, Digest>>>);

impl Known {
    /// Whether `pages` were found to hold these `values`.
    fn holds(&self, pages: Digest, values: Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&values) == Some(&pages)
    }

    fn learn(&self, pages: Digest, values: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(values, pages);
    }
}

/// A column of the table: its digest, of its pages if they were `kept`, and how many columns of the file it is.
struct Wanted<'a> {
    name: &'a str,
    digest: Digest,
    count: usize,
    kept: bool,
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
    /// Whether those of the columns that stay as they are were taken of their pages, while copying.
    pub copied: bool,
    /// What was read back already.
    pub seen: &'a Seen,
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
            Verify::Full if expected.copied => self.copied(fragments, expected).await,
            Verify::Full => self.full(fragments, expected).await,
            Verify::Quick => self.quick(fragments, expected).await,
        };
        compared.map_err(|error| {
            if error.kind() == Kind::Mismatch { error } else { unreadable(expected.chunk, error) }
        })
    }

    /// The digests of the rows of `fragments` that are left once those beside each are deleted, and how many
    /// they are.
    ///
    /// # Errors
    /// `Mismatch`, when a file cannot be read back.
    pub(crate) async fn left(
        &self,
        chunk: ChunkId,
        fragments: &[(Fragment, RoaringBitmap)],
    ) -> Result<(Vec<Digest>, u64)> {
        let read = async {
            let mut digests = Digests::of(&ArrowSchema::from(&self.schema))?;
            for (fragment, deleted) in fragments {
                let mut batches = self.read(fragment, u64::MAX, self.everything()).await?;
                let mut row: u64 = 0;
                while let Some(batch) = batches.try_next().await? {
                    let rows = row..row + batch.num_rows() as u64;
                    row = rows.end;
                    let batch = without(batch, deleted, rows)?;
                    digests = self.pool.digest(digests, batch).await?;
                }
            }
            let rows = digests.rows();
            Ok((digests.finish(), rows))
        };
        read.await.map_err(|error: Error| unreadable(chunk, error))
    }

    /// Compares what is left of a chunk with what its source gives.
    ///
    /// # Errors
    /// `Mismatch`, naming the chunk and column, on any difference.
    pub(crate) fn compare_left(
        &self,
        chunk: ChunkId,
        (wanted, wanted_rows): &(Vec<Digest>, u64),
        (found, found_rows): &(Vec<Digest>, u64),
    ) -> Result<()> {
        if wanted_rows != found_rows || wanted.len() != found.len() {
            return Err(Error::mismatch(format!(
                "{found_rows} rows are left of chunk {chunk}, its source has {wanted_rows}"
            )));
        }
        let names = self.schema.fields.iter().map(|field| field.name.as_str());
        let mut pairs = names.zip(wanted.iter().zip(found));
        pairs.try_for_each(|(name, (wanted, found))| compare_column(chunk, name, *wanted, *found))
    }

    async fn full(&self, fragments: &[Fragment], expected: &Expected<'_>) -> Result<()> {
        let schema = ArrowSchema::from(&self.schema);
        let mut digests = Digests::of(&schema)?;
        let mut known = None;
        for fragment in fragments {
            let mut batches = self.read_unless(fragment, u64::MAX, &mut known).await?;
            while let Some(batch) = batches.try_next().await? {
                digests = self.pool.digest(digests, batch).await?;
            }
        }
        compare_rows(expected, digests.rows())?;
        let wanted = schema.fields().iter().zip(expected.digests);
        let mut compared = wanted.zip(digests.finish());
        compared.try_for_each(|((column, wanted), found)| {
            compare_column(expected.chunk, column.name(), *wanted, found)
        })
    }

    /// Compares the pages of the columns that were copied, and the values of the others.
    async fn copied(&self, fragments: &[Fragment], expected: &Expected<'_>) -> Result<()> {
        // Whether Lance's own reader takes the file for what it should be.
        self.quick(fragments, expected).await?;
        let ([fragment], Some(copies)) = (fragments, &self.copies) else {
            return Err(Error::mismatch("pages were copied that should not have been".to_owned()));
        };
        let Some(file) = fragment.files.last() else { return Err(no_file()) };
        let opened = Arc::new(PageFile::open(&self.store, &self.directory, file).await?);
        let fields = self.schema.fields.iter().zip(copies.columns.iter().zip(expected.digests));
        let fields = fields.map(|(field, (source, wanted))| Wanted {
            name: field.name.as_str(),
            digest: *wanted,
            count: physical_column_count(self.version, field),
            kept: source.is_some(),
        });
        let fields: Vec<Wanted<'_>> = fields.collect();
        let columns: Vec<usize> = (0..fields.iter().map(|field| field.count).sum()).collect();
        let hashes = pages::hashes(&opened, &columns, expected.seen).await?;
        let mut hashes = hashes.as_slice();
        let mut made = Vec::new();
        for field in &fields {
            let (own, rest) = hashes.split_at_checked(field.count).unwrap_or((hashes, &[]));
            hashes = rest;
            let found = pages::digest_of(own);
            if field.kept {
                compare_column(expected.chunk, field.name, field.digest, found)?;
            } else if !self.known.holds(found, field.digest) {
                made.push((field.name, field.digest, found));
            }
        }
        if made.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = made.iter().map(|(name, wanted, _)| (*name, *wanted)).collect();
        self.made(fragment, expected, &wanted).await?;
        for (_, values, pages) in made {
            self.known.learn(pages, values);
        }
        Ok(())
    }

    /// Compares the values of the columns of these names with the digests beside them.
    async fn made(
        &self,
        fragment: &Fragment,
        expected: &Expected<'_>,
        wanted: &[(&str, Digest)],
    ) -> Result<()> {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        let projection = reader_projection_from_column_names(self.version, &self.schema, &names);
        let projection = projection.doing(|| "read the columns that were made".to_owned())?;
        let schema = ArrowSchema::from(projection.schema.as_ref());
        let mut digests = Digests::of(&schema)?;
        let made = Self { batch_rows: self.made_rows, ..self.clone() };
        let mut batches = made.read(fragment, u64::MAX, projection).await?;
        while let Some(batch) = batches.try_next().await? {
            digests = self.pool.digest(digests, batch).await?;
        }
        compare_rows(expected, digests.rows())?;
        let found = digests.finish();
        for (name, wanted) in wanted {
            let place = schema.index_of(name).ok();
            let found = place.and_then(|place| found.get(place)).copied();
            let found =
                found.ok_or_else(|| Error::mismatch(format!("there is no column `{name}`")));
            compare_column(expected.chunk, name, *wanted, found?)?;
        }
        Ok(())
    }

    /// Every column that was staged.
    fn everything(&self) -> ReaderProjection {
        reader_projection_from_whole_schema(&blob::stored(&self.schema), self.version)
    }

    async fn quick(&self, fragments: &[Fragment], expected: &Expected<'_>) -> Result<()> {
        let mut rows = 0;
        let mut known = None;
        for fragment in fragments {
            rows += fragment.physical_rows.unwrap_or_default() as u64;
            let first = fragment.physical_rows.unwrap_or_default().min(QUICK_ROWS);
            let batches = self.read_unless(fragment, first as u64, &mut known).await?;
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
        rows: u64,
        known: &mut Option<Decoded>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(bytes) = self.small(fragment).await? else {
            return self.read(fragment, rows, self.everything()).await;
        };
        let held = fragment.physical_rows;
        let same = known.as_ref().filter(|known| known.bytes == bytes && known.held == held);
        let batches = match same {
            Some(known) => known.batches.clone(),
            None => self.read(fragment, rows, self.everything()).await?.try_collect().await?,
        };
        *known = Some(Decoded { bytes, held, batches: batches.clone() });
        Ok(stream::iter(batches).map(Ok).boxed())
    }

    /// The bytes of the staged file of a fragment, if it is a small one that says everything itself.
    async fn small(&self, fragment: &Fragment) -> Result<Option<Bytes>> {
        let Some(file) = fragment.files.last() else { return Ok(None) };
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        let rows = fragment.physical_rows.unwrap_or(usize::MAX);
        let beside = !blob::columns(&self.schema).is_empty();
        if size > KEPT_BYTES || rows > KEPT_ROWS || beside {
            return Ok(None);
        }
        let path = self.directory.clone().join(file.path.as_str());
        datafile::read(&self.store, &path).await.map(Some)
    }

    /// The first `rows` of some columns of the staged file of a fragment, its last one.
    async fn read(
        &self,
        fragment: &Fragment,
        rows: u64,
        projection: ReaderProjection,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(file) = fragment.files.last() else { return Err(no_file()) };
        let name = file.path.clone();
        let opened = PageFile::open(&self.store, &self.directory, file).await?;
        let held = opened.rows();
        if held != fragment.physical_rows.unwrap_or_default() as u64 {
            return Err(Error::mismatch(format!(
                "{name} holds {held} rows, not those that were staged"
            )));
        }
        let blobs = Blobs::of_file(&self.store, &self.directory, &self.schema, &name);
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        // Decoding is most of the work: each batch on a task of its own, in order, but for those of small files.
        let here = size <= SMALL_BYTES;
        let tasks = opened.read(projection, rows, self.batch_rows, &self.blocks).await?;
        let batches = tasks.map(move |task| match task {
            Ok(task) if here => task.task,
            Ok(task) => tokio::spawn(task.task).map(joined).boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        });
        let named = batches.buffered(READAHEAD);
        let named = named.map(move |batch| batch.doing(|| format!("read {name}")));
        let Some(blobs) = blobs else { return Ok(named.boxed()) };
        let carried = named.and_then(move |batch| {
            let blobs = blobs.clone();
            async move { blobs.carry(batch).await }
        });
        Ok(carried.boxed())
    }
}

/// `batch`, whose rows are `rows` of a fragment, without those that are `deleted`.
fn without(
    batch: RecordBatch,
    deleted: &RoaringBitmap,
    rows: std::ops::Range<u64>,
) -> Result<RecordBatch> {
    let lives = |row| !u32::try_from(row).is_ok_and(|row| deleted.contains(row));
    let lives: BooleanArray = rows.map(|row| Some(lives(row))).collect();
    if lives.true_count() == batch.num_rows() {
        return Ok(batch);
    }
    filter_record_batch(&batch, &lives).doing(|| "leave out deleted rows".to_owned())
}

fn unreadable(chunk: ChunkId, error: Error) -> Error {
    Error::mismatch(format!("chunk {chunk} cannot be read back")).caused_by(error)
}

fn no_file() -> Error {
    Error::mismatch("a staged fragment names no file".to_owned())
}

fn compare_column(chunk: ChunkId, name: &str, wanted: Digest, found: Digest) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "column `{name}` of chunk {chunk} was staged with other values than the source has \
         (expected digest {wanted}, found {found})"
    )))
}

fn compare_rows(expected: &Expected<'_>, found: u64) -> Result<()> {
    if found == expected.rows {
        return Ok(());
    }
    let (chunk, rows) = (expected.chunk, expected.rows);
    Err(Error::mismatch(format!("chunk {chunk} was staged with {found} rows instead of {rows}")))
}
