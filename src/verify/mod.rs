//! Verifies what was staged, as it lies in the store, against what was expected of it; and what is about to be
//! published. Repairs nothing.

mod compare;
mod confirmed;
pub(crate) mod published;
mod read;
pub(crate) mod there;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::datatypes::Schema as ArrowSchema;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance_file::versions::{physical_column_count, reader_projection_from_column_names};
use lance_table::format::Fragment;
use object_store::ObjectMeta;
use roaring::RoaringBitmap;

use crate::error::{Doing, Error, Result};
use crate::stage::{Constants, Expectation, FileSpec, Staged, Stager};
use crate::storage::page::{self, Blocks, PageFile, ReadBackHashes};
use crate::table::source::Batches;
use crate::transform::{digest::Digest, pool::Digests, pool::Pool};
use crate::verify::compare::{compare_column, compare_rows, unreadable, without};
use crate::verify::confirmed::{Confirmed, Listings};
use crate::verify::read::file_of;
use crate::{chunk::ChunkId, settings::Verify, span};

/// Rows that a quick verification reads of each file.
const QUICK_ROWS: u64 = 100;

/// What is left of a chunk once rows of it were deleted: its fragments, and the rows of each that are deleted.
pub(crate) type Left = Vec<(Fragment, RoaringBitmap)>;

/// Verifies what a stager staged.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    files: FileSpec,
    batch_rows: u32,
    /// Memory for the pages that are read.
    blocks: Blocks,
    pool: Pool,
    constants: Constants,
    /// Whether every column is a constant.
    are_constant: bool,
    listings: Arc<Listings>,
    /// What the store told of files when it gave their bytes, by name.
    dated: Arc<Mutex<HashMap<String, ObjectMeta>>>,
    /// The marks of their sidecars.
    marks: Arc<Mutex<HashMap<String, String>>>,
}

/// What was staged for a chunk, verified and durable. Nothing else may be recorded.
#[derive(Debug)]
pub(crate) struct VerifiedChunk {
    staged: Staged,
    how: Verify,
    confirmed: u64,
}

impl VerifiedChunk {
    /// What was staged, how it was verified, and bytes of it that were not read back, since the store confirms them.
    pub(crate) fn into_parts(self) -> (Staged, Verify, u64) {
        (self.staged, self.how, self.confirmed)
    }
}

/// A column that is compared: its name, and what it has to be.
#[derive(Clone, Copy)]
struct ComparedColumn<'a> {
    name: &'a str,
    wanted: Expectation,
    /// Columns of the file that it is stored as.
    count: usize,
}

impl Verifier {
    pub(crate) fn of(stager: &Stager) -> Self {
        Self {
            files: stager.files.clone(),
            batch_rows: stager.scan.batch_rows,
            blocks: stager.source.blocks.clone(),
            pool: stager.pool.clone(),
            constants: stager.constants.clone(),
            are_constant: stager.columns.are_constant(),
            listings: Arc::new(Listings::of(stager.source.files())),
            dated: Arc::default(),
            marks: Arc::default(),
        }
    }

    /// Compares what was `staged` with what was expected of it, and makes it durable.
    ///
    /// # Errors
    /// `Mismatch`, naming the chunk and column, on any difference, unreadable files included; `Failed`, when a disk
    /// cannot make it durable.
    pub(crate) async fn verify(&self, mut staged: Staged, how: Verify) -> Result<VerifiedChunk> {
        let (expected, wanted) = (staged.expectations.len(), self.files.schema.fields.len());
        if how != Verify::Quick && expected != wanted {
            let chunk = staged.chunk;
            let text =
                format!("chunk {chunk}: {expected} of {wanted} columns are known to compare");
            return Err(Error::mismatch(text));
        }
        let asked = confirmed::ask(&self.files, &self.listings, &mut staged).await;
        let confirmed = asked.unwrap_or_else(|_| {
            // Whatever the store did not tell is read back.
            staged.held.clear();
            staged.seen = ReadBackHashes::default();
            Confirmed::default()
        });
        for (name, meta) in confirmed.dated {
            self.keep_dated(&name, meta);
        }
        let dated = self.date(&staged).await;
        dated.map_err(|error| unreadable(staged.chunk, error))?;
        let paths = staged.fragments.iter().filter_map(|one| one.files.last());
        let paths = paths.map(|file| self.files.path(&file.path)).collect();
        // The disk writes while the page cache is read.
        let reading = async {
            let _verifying = span::verify();
            let compared = match how {
                Verify::Quick => self.first_rows(&staged).await,
                Verify::Full | Verify::Read if staged.is_copied() => self.pages(&staged).await,
                Verify::Full | Verify::Read => self.values(&staged, &self.columns(&staged)).await,
            };
            compared.map_err(|error| unreadable(staged.chunk, error))
        };
        let syncing = async {
            let _writing = span::write();
            self.files.files().sync(paths, self.files.has_blobs()).await
        };
        futures::try_join!(reading, syncing)?;
        Ok(VerifiedChunk { staged, how, confirmed: confirmed.bytes })
    }

    /// Compares the rows that are `left` of `chunk` with what its source gives now.
    ///
    /// # Errors
    /// `Mismatch`, naming the chunk and column, on any difference.
    pub(crate) async fn verify_left(
        &self,
        chunk: ChunkId,
        left: &Left,
        (wanted, wanted_rows): (Vec<Digest>, u64),
    ) -> Result<()> {
        let _verifying = span::verify();
        let read = async {
            let mut digests = Digests::of(&ArrowSchema::from(&self.files.schema))?;
            for (fragment, deleted) in left {
                let store = &self.files.store;
                let batches =
                    self.read(store, fragment, u64::MAX, self.everything(), self.batch_rows);
                digests = self.digest(digests, batches.await?, deleted).await?;
            }
            Ok(digests)
        };
        let found = read.await.map_err(|error| unreadable(chunk, error))?;
        let found_rows = found.rows();
        let found = found.finish();
        if wanted_rows != found_rows || wanted.len() != found.len() {
            return Err(Error::mismatch(format!(
                "{found_rows} rows are left of chunk {chunk}, its source has {wanted_rows}"
            )));
        }
        let names = self.files.schema.fields.iter().map(|field| field.name.as_str());
        let mut pairs = names.zip(wanted.iter().zip(found));
        pairs.try_for_each(|(name, (wanted, found))| compare_column(chunk, name, *wanted, found))
    }

    /// The columns of the file, and what each has to be.
    fn columns<'a>(&'a self, staged: &Staged) -> Vec<ComparedColumn<'a>> {
        let fields = self.files.schema.fields.iter().zip(&staged.expectations);
        let columns = fields.map(|(field, wanted)| ComparedColumn {
            name: field.name.as_str(),
            wanted: *wanted,
            count: physical_column_count(self.files.version, field),
        });
        columns.collect()
    }

    /// Compares the pages of the columns that were copied, and the values of the others, unless their pages are
    /// known to hold them.
    async fn pages(&self, staged: &Staged) -> Result<()> {
        // Whether Lance's own reader takes the file for what it should be.
        self.first_rows(staged).await?;
        let [fragment] = staged.fragments.as_slice() else {
            return Err(Error::mismatch("pages were copied that should not have been"));
        };
        let (store, directory) = (&self.files.store, &self.files.directory);
        let opened = Arc::new(PageFile::open(store, directory, file_of(fragment)?).await?);
        let columns = self.columns(staged);
        let places: Vec<usize> = (0..columns.iter().map(|column| column.count).sum()).collect();
        let hashes = page::hashes(&opened, &places, &staged.seen).await?;
        let counts = columns.iter().map(|column| column.count);
        let mut unknown = Vec::new();
        for (column, found) in columns.iter().zip(page::digests_of(&hashes, counts)) {
            match column.wanted {
                Expectation::Pages(wanted) => {
                    compare_column(staged.chunk, column.name, wanted, found)?;
                }
                Expectation::Values(wanted) if self.constants.were_decoded(found, wanted) => {}
                Expectation::Values(wanted) => unknown.push((*column, found, wanted)),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let columns: Vec<_> = unknown.iter().map(|(column, ..)| *column).collect();
        self.values(staged, &columns).await?;
        for (_, pages, values) in unknown {
            self.constants.learn(pages, values);
        }
        Ok(())
    }

    /// Compares the values of `columns`, which are all or some.
    async fn values(&self, staged: &Staged, columns: &[ComparedColumn<'_>]) -> Result<()> {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let all = names.len() == self.files.schema.fields.len();
        let (version, schema) = (self.files.version, &self.files.schema);
        let projection = if all {
            self.everything()
        } else {
            let some = reader_projection_from_column_names(version, schema, &names);
            some.doing(|| "read the columns that were encoded".to_owned())?
        };
        let read =
            if all { ArrowSchema::from(schema) } else { ArrowSchema::from(&*projection.schema) };
        let mut digests = Digests::of(&read)?;
        let projection = &projection;
        let opened = staged.fragments.iter().map(|fragment| async move {
            if all {
                let held = staged.held.get(&file_of(fragment)?.path);
                let held = held.and_then(|held| held.take_bytes());
                return self.read_unless(held, fragment, u64::MAX).await;
            }
            // Beside copied pages, all others are constants.
            let (store, batch_rows) = (&self.files.store, self.constants.batch_rows);
            self.read(store, fragment, u64::MAX, projection.clone(), batch_rows).await
        });
        let opened: Vec<_> = opened.map(FutureExt::boxed).collect();
        let mut opened = stream::iter(opened).buffered(self.files.files().files_at_once());
        while let Some(batches) = opened.try_next().await? {
            digests = self.digest(digests, batches, &RoaringBitmap::new()).await?;
        }
        compare_rows(staged, digests.rows())?;
        let found = digests.finish();
        for column in columns {
            let name = column.name;
            let found = read.index_of(name).ok().and_then(|place| found.get(place));
            let found =
                found.ok_or_else(|| Error::mismatch(format!("there is no column `{name}`")))?;
            let (Expectation::Values(wanted) | Expectation::Pages(wanted)) = column.wanted;
            compare_column(staged.chunk, name, wanted, *found)?;
        }
        Ok(())
    }

    /// Counts the rows of every file, and reads the first ones.
    async fn first_rows(&self, staged: &Staged) -> Result<()> {
        let rows_of = |fragment: &Fragment| fragment.physical_rows.unwrap_or_default() as u64;
        let reads = staged.fragments.iter().map(|fragment| async move {
            let first = rows_of(fragment).min(QUICK_ROWS);
            let batches = self.read_unless(None, fragment, first).await?;
            let read = batches.map_ok(|batch| batch.num_rows() as u64);
            let read = read.try_fold(0, |sum, rows| std::future::ready(Ok(sum + rows))).await?;
            if read == first {
                return Ok(());
            }
            let chunk = staged.chunk;
            let text = format!("chunk {chunk} gave {read} of its first {first} rows");
            Err(Error::mismatch(text))
        });
        let reads: Vec<_> = reads.map(FutureExt::boxed).collect();
        let reads = stream::iter(reads).buffered(self.files.files().files_at_once());
        reads.try_collect::<()>().await?;
        compare_rows(staged, staged.fragments.iter().map(rows_of).sum())
    }

    /// Takes `batches`, without the rows that are `deleted`, into `digests`.
    async fn digest(
        &self,
        mut digests: Digests,
        mut batches: Batches,
        deleted: &RoaringBitmap,
    ) -> Result<Digests> {
        let mut row: u64 = 0;
        while let Some(batch) = batches.try_next().await? {
            let rows = row..row + batch.num_rows() as u64;
            row = rows.end;
            let batch = if deleted.is_empty() { batch } else { without(batch, deleted, rows)? };
            digests = self.pool.digest(digests, batch).await?;
        }
        Ok(digests)
    }
}
