//! Constants: columns whose values come from no row. They are encoded once for each number of rows, in memory, and
//! read back from there before anything relies on them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lance_encoding::decoder::ColumnInfo;
use lance_file::versions::{physical_column_count, reader_projection_from_whole_schema};
use lance_file::writer::FileWriter;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Doing, Error, Result};
use crate::limits::{
    CONSTANT_PART_BYTES, CONSTANT_TRIAL_BYTES, CONSTANTS_EACH_BYTES, CONSTANTS_KEPT_BYTES,
    REPEATED_FILE_BYTES, REPEATED_FILE_ROWS, TRANSFORMED_HERE_ROWS,
};
use crate::stage::file::{EncodedFiles, FileSpec};
use crate::storage::page::{self, Blocks, ColumnPart, PageFile};
use crate::storage::sent::{Keeps, Sending};
use crate::storage::{names::new_data_file, throttle::Throttle};
use crate::table::source::{Batches, bare};
use crate::transform::pool::{Digests, Pool};
use crate::transform::{Transform, digest::Digest};
use crate::{schema::blob, settings::Width};

/// The constant columns of the files of one plan; shared by all tasks, those that stage and those that verify.
#[derive(Debug, Clone)]
pub(crate) struct Constants {
    transform: Arc<Transform>,
    /// How files of the constants alone are written.
    spec: Arc<FileSpec>,
    /// Rows of a batch of them.
    pub batch_rows: u32,
    /// Rows that are encoded to see how large that is.
    some_rows: u64,
    /// Rows that are encoded at once, at most, where they are large.
    part_rows: u64,
    pool: Pool,
    encoded: Arc<OncePerRows<Arc<Constant>>>,
    /// The digests of the values of what is put together from parts, by column.
    digests: Arc<OncePerRows<Vec<Digest>>>,
    /// Digests of pages, and of the values that were decoded from them.
    decoded: Arc<Mutex<HashSet<(Digest, Digest)>>>,
    /// Whether they are small once encoded, however many rows they have.
    compressed: Arc<OnceCell<bool>>,
}

/// Constants of so many rows, encoded.
#[derive(Debug)]
struct Constant {
    rows: u64,
    /// The digests of their values, by column.
    digests: Vec<Digest>,
    /// The file, in a store of its own in memory, which goes when this does.
    file: Arc<PageFile>,
    fragment: Fragment,
    bytes: Bytes,
    /// What they were when they were read back.
    hash: u128,
    /// The first staged file that has these bytes: on a disk, others are further names of it.
    staged: Mutex<Option<Path>>,
}

impl Constant {
    /// Whether `bytes` are those that were read back, as far as a hash tells: they do not only equal each other.
    fn is(&self, bytes: &Bytes) -> bool {
        self.bytes == *bytes && xxh3_128(bytes) == self.hash
    }
}

impl Constants {
    /// Those that `transform` gives, whose rows have this `width`, for files as `spec` says but for the schema, which
    /// is theirs alone.
    pub(super) fn of(
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
            encoded: Arc::new(OncePerRows::nothing_yet()),
            digests: Arc::new(OncePerRows::nothing_yet()),
            decoded: Arc::default(),
            compressed: Arc::default(),
        }
    }

    /// Whether `values` were decoded from `pages`: the same bytes hold the same values, and are not decoded again.
    pub(crate) fn were_decoded(&self, pages: Digest, values: Digest) -> bool {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner).contains(&(pages, values))
    }

    /// Takes in that `values` were decoded from `pages`.
    pub(crate) fn learn(&self, pages: Digest, values: Digest) {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner).insert((pages, values));
    }

    /// Copies the pages of `rows` rows to `writer`, and gives the columns as they lie there, and the digests of the
    /// values of each column of the table.
    ///
    /// # Errors
    /// `Mismatch`, when they do not read back as they were encoded; `Failed`, when they cannot be written.
    pub(super) async fn copy_pages(
        &self,
        rows: u64,
        writer: &mut FileWriter,
        throttle: &Throttle,
    ) -> Result<(Vec<Arc<ColumnInfo>>, Vec<Digest>)> {
        let parts = self.parts(rows).await?;
        let mut files = Vec::new();
        let mut columns: Vec<Vec<ColumnPart>> = Vec::new();
        let mut rows_before = 0;
        for (part, file) in parts.iter().zip(0..) {
            if !part.is(&part.bytes) {
                return Err(Error::mismatch("encoded constants are not as they were read back"));
            }
            columns.resize(part.file.columns().len(), Vec::new());
            for (column, parts) in part.file.columns().iter().zip(&mut columns) {
                parts.push(ColumnPart { file, column: Arc::clone(column), rows_before });
            }
            rows_before += part.rows;
            files.push(Arc::clone(&part.file));
        }
        let copied =
            page::copy(&files, &columns, (writer, None), None, |_| throttle.wait()).await?;
        let [whole] = parts.as_slice() else {
            return Ok((copied.columns, self.digests(rows).await?));
        };
        // What is put together from parts was not read back as a whole: whoever verifies the first one does.
        let fields = self.spec.schema.fields.iter();
        let counts = fields.map(|field| physical_column_count(self.spec.version, field));
        let hashes = copied.hashes.unwrap_or_default();
        for (pages, values) in page::digests_of(&hashes, counts).zip(&whole.digests) {
            self.learn(pages, *values);
        }
        Ok((copied.columns, whole.digests.clone()))
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
    pub(super) async fn write_file(
        &self,
        rows: u64,
        spec: &FileSpec,
    ) -> Result<Option<ConstantFile>> {
        let Some(constant) = self.repeated(rows).await? else { return Ok(None) };
        let name = new_data_file(&spec.id);
        let (files, path) = (spec.files(), spec.path(&name));
        let mut sending = None;
        let first = constant.staged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !first.is_some_and(|first| files.link(&first, &path)) {
            let sent = spec.sent.as_ref();
            sending = sent.and_then(|sent| sent.keep_sent(&path, Keeps::All, false));
            files.put(&path, constant.bytes.clone(), &spec.throttle).await?;
            *constant.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        }
        let mut fragment = constant.fragment.clone();
        for file in &mut fragment.files {
            *file = DataFile { path: name.clone(), ..file.clone() };
        }
        Ok(Some(ConstantFile { fragment, sending }))
    }

    /// The first `first` rows of a staged file of nothing else that holds `rows`, if its `bytes` are those that were
    /// read back when they were encoded.
    ///
    /// # Errors
    /// `Mismatch`, when they do not read back as they were encoded; `Failed`, when a value cannot be computed.
    pub(crate) async fn rows_of(
        &self,
        bytes: &Bytes,
        rows: u64,
        first: u64,
    ) -> Result<Option<Batches>> {
        if rows > REPEATED_FILE_ROWS {
            return Ok(None);
        }
        let constant = self.repeated(rows).await?;
        if constant.is_none_or(|constant| !constant.is(bytes)) {
            return Ok(None);
        }
        let constants = self.clone();
        let values = bare(first.min(rows), self.batch_rows).and_then(move |batch| {
            let constants = constants.clone();
            async move { constants.values(batch).await }
        });
        Ok(Some(values.boxed()))
    }

    /// What a file of `rows` rows of nothing else holds; `None`, where it is too large to be kept, or has sidecars.
    async fn repeated(&self, rows: u64) -> Result<Option<Arc<Constant>>> {
        if rows == 0 || self.spec.has_blobs() || !self.fit_in_one(rows).await? {
            return Ok(None);
        }
        let constant = self.of_rows(rows).await?;
        Ok((constant.bytes.len() as u64 <= REPEATED_FILE_BYTES).then_some(constant))
    }

    /// Whether `rows` rows of them can be encoded in one go.
    async fn fit_in_one(&self, rows: u64) -> Result<bool> {
        Ok(rows <= self.part_rows || self.are_compressed().await?)
    }

    /// Whether they are so small once encoded, as some rows of them show, that any number of rows can be encoded in
    /// one go. Vectors are not.
    async fn are_compressed(&self) -> Result<bool> {
        let small = Box::pin(async {
            let some = self.encode(self.some_rows).await?;
            Ok(some.bytes.len() as u64 <= REPEATED_FILE_BYTES)
        });
        self.compressed.get_or_try_init(|| small).await.copied()
    }

    /// The constants of `rows` rows, in parts where they are large.
    async fn parts(&self, rows: u64) -> Result<Vec<Arc<Constant>>> {
        let part_rows = if self.fit_in_one(rows).await? { rows } else { self.part_rows };
        let (mut parts, mut left) = (Vec::new(), rows);
        while left > 0 {
            let part = self.of_rows(left.min(part_rows)).await?;
            left -= part.rows;
            parts.push(part);
        }
        Ok(parts)
    }

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
            // A batch is so small that another thread would take longer to wake up.
            wanted.update(&values, true)?;
            writer.encode(&values).await?;
        }
        let fragment =
            writer.finish().await?.into_iter().next().unwrap_or_else(|| Fragment::new(0));
        let Some(data_file) = fragment.files.first() else {
            return Err(Error::failed("constants of no rows were asked for"));
        };
        let bytes = spec.files().read(&spec.path(&data_file.path)).await?;
        let hash = xxh3_128(&bytes);
        let file = PageFile::open(&spec.store, &spec.directory, data_file).await?;
        let (digests, found) = (wanted.finish(), self.read_back(&file).await?);
        if (found.rows(), found.finish()) != (rows, digests.clone()) {
            return Err(Error::mismatch(format!(
                "{rows} rows of constants do not read back as they were encoded"
            )));
        }
        let file = Arc::new(file);
        Ok(Constant { rows, digests, file, fragment, bytes, hash, staged: Mutex::default() })
    }

    /// The digests of the values of `rows` rows, by column.
    async fn digests(&self, rows: u64) -> Result<Vec<Digest>> {
        let computed = Box::pin(async {
            let mut digests = Digests::of(self.transform.schema())?;
            let mut batches = bare(rows, self.batch_rows);
            while let Some(batch) = batches.try_next().await? {
                digests.update(&self.values(batch).await?, true)?;
            }
            Ok(digests.finish())
        });
        self.digests.get(rows, computed, |_| 0).await
    }

    async fn read_back(&self, file: &PageFile) -> Result<Digests> {
        let stored = blob::stored(&self.spec.schema);
        let projection = reader_projection_from_whole_schema(&stored, self.spec.version);
        let mut digests = Digests::of(self.transform.schema())?;
        let mut tasks =
            file.read(projection, u64::MAX, self.batch_rows, &Blocks::default()).await?;
        while let Some(task) = tasks.try_next().await.doing(|| "read constants".to_owned())? {
            let batch = task.task.await.doing(|| "read constants".to_owned())?;
            digests.update(&batch, true)?;
        }
        Ok(digests)
    }

    async fn values(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let transform = Arc::clone(&self.transform);
        let here = batch.num_rows() <= TRANSFORMED_HERE_ROWS;
        let apply = move || transform.apply(&batch);
        if here { apply() } else { self.pool.run(apply).await }
    }
}

/// A file of nothing but constants. What is kept of it goes with this, unless it is staged.
pub(super) struct ConstantFile {
    fragment: Fragment,
    sending: Option<Sending>,
}

impl ConstantFile {
    /// It is staged from here on.
    pub(super) fn finished(self) -> Fragment {
        if let Some(sending) = self.sending {
            sending.finish();
        }
        self.fragment
    }
}

/// What is the same for all files of so many rows: computed once, by whoever comes first. What was used last is kept.
#[derive(Debug)]
struct OncePerRows<T>(Mutex<Vec<ForRows<T>>>);

/// A number of rows, and what is computed for it.
type ForRows<T> = (u64, Arc<OnceCell<T>>);

impl<T: Clone> OncePerRows<T> {
    fn nothing_yet() -> Self {
        Self(Mutex::new(Vec::new()))
    }

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
            let bytes = |(_, cell): &ForRows<T>| CONSTANTS_EACH_BYTES + cell.get().map_or(0, &size);
            while known.iter().map(bytes).sum::<usize>() > CONSTANTS_KEPT_BYTES {
                known.remove(0);
            }
            known.push((rows, Arc::clone(&cell)));
            cell
        };
        cell.get_or_try_init(|| compute).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::change::Change;
    use crate::schema::target::{IfExists, Target};
    use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
    use lance_core::datatypes::Schema;
    use lance_file::version::ConcreteFileVersion;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn constants(add: &str, bytes: u64, compressed: bool) -> Constants {
        let arrow = ArrowSchema::new(vec![Field::new("n", DataType::Int32, false)]);
        let source = Schema::try_from(&arrow).unwrap();
        let changes = [Change::parse_add(add).unwrap()];
        let now = chrono::DateTime::from_timestamp(0, 0).unwrap();
        let target = Target::derive(&source, 0, &changes, IfExists::Skip, now).unwrap();
        let spec = FileSpec {
            id: "0123abcd".to_owned(),
            store: Arc::new(ObjectStore::memory()),
            directory: Path::from("data"),
            schema: Schema { fields: vec![target.schema.fields[1].clone()], ..Schema::default() },
            version: ConcreteFileVersion::V2_1,
            rows_max: u64::MAX,
            cache_bytes: 8 << 20,
            throttle: Arc::new(Throttle::of(None)),
            sent: None,
            part_copies: None,
        };
        let transform = Transform::of(&target, &[1], None);
        let (width, pool) = (Width { bytes, columns: 1 }, Pool::of(1).unwrap());
        let constants = Constants::of(transform, spec, width, 100, pool);
        Constants { compressed: Arc::new(OnceCell::new_with(Some(compressed))), ..constants }
    }

    async fn count(batches: Batches) -> usize {
        let rows = batches.map_ok(|batch| batch.num_rows());
        rows.try_fold(0, |sum, rows| std::future::ready(Ok(sum + rows))).await.unwrap()
    }

    #[tokio::test]
    async fn a_file_is_known_by_its_bytes_and_rows_alone() {
        let constants = constants("s:string not null=x", 9, true);
        let of = async |rows| constants.repeated(rows).await.unwrap().unwrap();
        let bytes = of(250).await.bytes.clone();
        for (rows, first, found) in [(250, 250, Some(250)), (250, 7, Some(7)), (251, 7, None)] {
            let batches = constants.rows_of(&bytes, rows, first).await.unwrap();
            assert_eq!((batches.is_some(), rows), (found.is_some(), rows));
            if let Some(batches) = batches {
                assert_eq!(Some(count(batches).await), found);
            }
        }
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 1;
        assert!(constants.rows_of(&flipped.into(), 250, 250).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn wide_constants_lie_in_parts_and_in_no_file_of_their_own() {
        // Of a width that they only claim to have, parts of 1,000 rows.
        let constants = constants("z:int64=7", CONSTANT_PART_BYTES / 1_000, false);
        let parts = constants.parts(2_500).await.unwrap();
        assert_eq!(parts.iter().map(|part| part.rows).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert!(Arc::ptr_eq(&parts[0], &parts[1]) && constants.parts(0).await.unwrap().is_empty());
        assert!(constants.repeated(2_500).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_was_used_last_is_kept() {
        let (known, computed) = (OncePerRows::nothing_yet(), AtomicU32::new(0));
        let half = CONSTANTS_KEPT_BYTES / 2;
        let get = async |rows| {
            let compute = async { Ok(computed.fetch_add(1, Ordering::Relaxed)) };
            known.get(rows, compute, |_| half).await.unwrap()
        };
        // The first is asked for between the others, of which one goes each time.
        let mut found = Vec::new();
        for rows in [1, 2, 1, 3, 1, 2] {
            found.push(get(rows).await);
        }
        assert_eq!(found, [0, 1, 0, 2, 0, 3]);
    }
}
