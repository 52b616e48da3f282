//! Constants: columns whose values come from no row. They are encoded once for each number of rows, in memory, and
//! read back from there before anything relies on them.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt;
use lance_encoding::decoder::ColumnInfo;
use lance_file::versions::reader_projection_from_whole_schema;
use lance_file::writer::FileWriter;
use lance_io::object_store::ObjectStore;
use lance_io::traits::Writer;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

use crate::error::{Doing, Error, Result};
use crate::limits::{
    CONSTANT_PART_BYTES, CONSTANT_TRIAL_BYTES, CONSTANTS_EACH_BYTES, CONSTANTS_KEPT_BYTES,
    REPEATED_FILE_BYTES,
};
use crate::schema::blob;
use crate::settings::Width;
use crate::stage::file::{EncodedFiles, FileSpec};
use crate::storage::names::new_data_file;
use crate::storage::page::{self, Blocks, ColumnPart, PageFile};
use crate::storage::throttle::Throttle;
use crate::table::source::bare;
use crate::transform::Transform;
use crate::transform::digest::Digest;
use crate::transform::pool::{Digests, Pool};

/// The constant columns of the files of one plan; shared by all tasks.
#[derive(Debug, Clone)]
pub(crate) struct Constants {
    transform: Arc<Transform>,
    /// How files of the constants alone are written.
    spec: Arc<FileSpec>,
    batch_rows: u32,
    /// Rows that are encoded to see how large that is.
    some_rows: u64,
    /// Rows that are encoded at once, at most, where they are large.
    part_rows: u64,
    pool: Pool,
    encoded: OncePerRows<Arc<Constant>>,
    /// The digests of the values.
    digests: OncePerRows<Vec<Digest>>,
}

/// Constants of so many rows, encoded.
#[derive(Debug)]
struct Constant {
    rows: u64,
    /// The file, in a store of its own in memory, which goes when this does.
    file: Arc<PageFile>,
    fragment: Fragment,
    bytes: Bytes,
    /// The first staged file that has these bytes: on a disk, others are further names of it.
    staged: Mutex<Option<Path>>,
}

impl Constants {
    /// Those that `transform` gives, whose rows have this `width`, for files as `spec` says but for the schema, which
    /// is theirs alone.
    pub(crate) fn of(
        transform: Transform,
        spec: FileSpec,
        width: Width,
        batch_rows: u32,
        pool: Pool,
    ) -> Self {
        let spec = FileSpec {
            store: Arc::new(ObjectStore::memory()),
            directory: Path::from("constants"),
            rows_max: u64::MAX,
            // What is written here is written once more, and counted then.
            throttle: Arc::new(Throttle::of(None)),
            ..spec
        };
        Self {
            transform: Arc::new(transform),
            spec: Arc::new(spec),
            batch_rows,
            some_rows: (CONSTANT_TRIAL_BYTES / width.bytes.max(1)).max(1),
            part_rows: (CONSTANT_PART_BYTES / width.bytes.max(1)).max(1),
            pool,
            encoded: OncePerRows::default(),
            digests: OncePerRows::default(),
        }
    }

    /// The digests of the values of `rows` rows, by column.
    ///
    /// # Errors
    /// `Failed`, when a value cannot be computed.
    pub(super) async fn digests(&self, rows: u64) -> Result<Vec<Digest>> {
        let computed = Box::pin(async {
            let mut digests = Digests::of(self.transform.schema())?;
            let mut batches = bare(rows, self.batch_rows);
            while let Some(batch) = batches.try_next().await? {
                digests = self.pool.digest(digests, self.values(batch).await?).await?;
            }
            Ok(digests.finish())
        });
        self.digests.get(rows, computed, |_| 0).await
    }

    /// Copies the pages of `rows` rows to `writer`, and gives the columns as they lie there.
    ///
    /// # Errors
    /// `Mismatch`, when they do not read back as they were encoded; `Failed`, when they cannot be written.
    pub(super) async fn copy_pages(
        &self,
        rows: u64,
        writer: &mut FileWriter,
        throttle: &Throttle,
    ) -> Result<Vec<Arc<ColumnInfo>>> {
        let mut files = Vec::new();
        let mut columns: Vec<Vec<ColumnPart>> = Vec::new();
        let mut rows_before = 0;
        let part_rows = if self.is_compressed().await? { rows } else { self.part_rows };
        while rows_before < rows {
            let constant = self.of_rows((rows - rows_before).min(part_rows)).await?;
            columns.resize(constant.file.columns().len(), Vec::new());
            for (column, parts) in constant.file.columns().iter().zip(&mut columns) {
                parts.push(ColumnPart {
                    file: files.len(),
                    column: Arc::clone(column),
                    rows_before,
                });
            }
            rows_before += constant.rows;
            files.push(Arc::clone(&constant.file));
        }
        let copied = page::copy(&files, &columns, writer, None, |_| throttle.wait()).await?;
        Ok(copied.columns)
    }

    /// Writes a file of `rows` rows of nothing else, as `spec` says; `None`, where it is too large to be kept, or
    /// has sidecars.
    ///
    /// On a disk it is another name for the bytes of an earlier one, since nobody ever writes into a data file; where
    /// a disk cannot do that, they are written.
    ///
    /// # Errors
    /// `Mismatch`, when it does not read back as it was encoded; `Failed`, when it cannot be written.
    ///
    /// # Crash
    /// A file that no journal names is left; its name tells whose it is.
    pub(super) async fn write_file(&self, rows: u64, spec: &FileSpec) -> Result<Option<Fragment>> {
        let has_blobs = !blob::columns(&spec.schema).is_empty();
        if rows == 0 || has_blobs || !self.is_compressed().await? {
            return Ok(None);
        }
        let constant = self.of_rows(rows).await?;
        if constant.bytes.len() as u64 > REPEATED_FILE_BYTES {
            return Ok(None);
        }
        let name = new_data_file(&spec.id);
        let (files, path) = (spec.files(), spec.path(&name));
        let first = constant.staged_path();
        if !first.is_some_and(|first| files.link(&first, &path)) {
            let mut writer = files.create(&path, &spec.throttle).await?;
            writer.write_all(&constant.bytes).await.doing(|| format!("write {name}"))?;
            // The trait's own: the other one leaves the file unfinished.
            Writer::shutdown(writer.as_mut()).await.doing(|| format!("finish {name}"))?;
            constant.set_staged_path(path);
        }
        let mut fragment = constant.fragment.clone();
        for file in &mut fragment.files {
            *file = DataFile { path: name.clone(), ..file.clone() };
        }
        Ok(Some(fragment))
    }

    /// Whether they are so small once encoded, as some rows of them show, that any number of rows can be encoded in
    /// one go. Vectors are not.
    async fn is_compressed(&self) -> Result<bool> {
        let some = self.of_rows(self.some_rows).await?;
        Ok(some.bytes.len() as u64 <= REPEATED_FILE_BYTES)
    }

    /// The constants of `rows` rows.
    async fn of_rows(&self, rows: u64) -> Result<Arc<Constant>> {
        let encoded = Box::pin(async { self.encode(rows).await.map(Arc::new) });
        self.encoded.get(rows, encoded, |constant| constant.bytes.len()).await
    }

    async fn encode(&self, rows: u64) -> Result<Constant> {
        let spec =
            FileSpec { store: Arc::new(ObjectStore::memory()), ..self.spec.as_ref().clone() };
        let mut wanted = Digests::of(self.transform.schema())?;
        let mut writer = EncodedFiles::of(&spec);
        let mut batches = bare(rows, self.batch_rows);
        while let Some(batch) = batches.try_next().await? {
            let values = self.values(batch).await?;
            wanted = self.pool.digest(wanted, values.clone()).await?;
            writer.encode(&values).await?;
        }
        let fragments = writer.finish().await?;
        let Some(file) = fragments.first().and_then(|fragment| fragment.files.first()) else {
            return Err(Error::failed("constants of no rows were asked for"));
        };
        let bytes = spec.files().read(&spec.path(&file.path)).await?;
        let opened = PageFile::open(&spec.store, &spec.directory, file).await?;
        let found = self.read_back(&opened).await?;
        if (found.rows(), found.finish()) != (rows, wanted.finish()) {
            return Err(Error::mismatch(format!(
                "{rows} rows of constants do not read back as they were encoded"
            )));
        }
        let fragment = fragments.into_iter().next().unwrap_or_else(|| Fragment::new(0));
        let staged = Mutex::default();
        Ok(Constant { rows, file: Arc::new(opened), fragment, bytes, staged })
    }

    async fn read_back(&self, file: &PageFile) -> Result<Digests> {
        let stored = blob::stored(&self.spec.schema);
        let projection = reader_projection_from_whole_schema(&stored, self.spec.version);
        let mut digests = Digests::of(self.transform.schema())?;
        let mut tasks =
            file.read(projection, u64::MAX, self.batch_rows, &Blocks::default()).await?;
        while let Some(task) = tasks.try_next().await.doing(|| "read constants".to_owned())? {
            let batch = task.task.await.doing(|| "read constants".to_owned())?;
            digests = self.pool.digest(digests, batch).await?;
        }
        Ok(digests)
    }

    async fn values(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let transform = Arc::clone(&self.transform);
        self.pool.run(move || transform.apply(&batch)).await
    }
}

/// What is the same for all files of so many rows: computed once, by whoever comes first. What was used last is kept.
#[derive(Debug)]
struct OncePerRows<T>(Arc<Mutex<Vec<(u64, Arc<OnceCell<T>>)>>>);

impl<T: Clone> OncePerRows<T> {
    /// What is known of `rows`, or what `compute` gives. Where all of it takes too many bytes, what was asked for
    /// longest ago is forgotten; `size` tells the bytes of one.
    async fn get(
        &self,
        rows: u64,
        compute: impl Future<Output = Result<T>>,
        size: impl Fn(&T) -> usize,
    ) -> Result<T> {
        let cell = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let place = known.iter().position(|(of, _)| *of == rows);
            let cell = place.map(|place| known.remove(place).1).unwrap_or_default();
            let bytes = |(_, cell): &(u64, Arc<OnceCell<T>>)| {
                CONSTANTS_EACH_BYTES + cell.get().map_or(0, &size)
            };
            while known.iter().map(bytes).sum::<usize>() > CONSTANTS_KEPT_BYTES {
                known.remove(0);
            }
            known.push((rows, Arc::clone(&cell)));
            cell
        };
        cell.get_or_try_init(|| compute).await.cloned()
    }
}

impl<T> Clone for OncePerRows<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for OncePerRows<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl Constant {
    fn staged_path(&self) -> Option<Path> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_staged_path(&self, path: Path) {
        *self.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }
}
