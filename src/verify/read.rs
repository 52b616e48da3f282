//! Reads staged files to verify them: from the store, or what is held of them.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance_file::reader::ReaderProjection;
use lance_file::versions::reader_projection_from_whole_schema;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::{ObjectMeta, ObjectStoreExt as _};

use crate::error::{Doing, Error, Result};
use crate::limits::{DECODED_AHEAD, REPEATED_FILE_BYTES, SMALL_FILE_BYTES};
use crate::schema::blob;
use crate::stage::Staged;
use crate::storage::{blob::Blobs, page::PageFile, sent::TakenBytes};
use crate::table::source::{Batches, joined, with_blobs};
use crate::verify::Verifier;

impl Verifier {
    /// What the store told of the file `name` when it gave the bytes that were verified, if it did: told once.
    pub(crate) fn take_dated(&self, name: &str) -> Option<ObjectMeta> {
        self.dated.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// Dates those files of `staged` of which nothing was told, before they are read: what is written over them after that shows.
    pub(super) async fn date(&self, staged: &Staged) -> Result<()> {
        let files = self.files.files();
        let own = staged.fragments.iter().filter_map(|fragment| fragment.files.last());
        // A store dates what it gives.
        let is_dated_later = |file: &DataFile| self.is_repeated(file) && !files.has_local_files();
        let untold = own.filter(|file| !is_dated_later(file) && !self.is_dated(&file.path));
        let looks = untold.map(|file| {
            let (files, path) = (Arc::clone(&files), self.files.path(&file.path));
            async move { Ok((&file.path, files.head(&path).await?)) }.boxed()
        });
        let looks: Vec<_> = looks.collect();
        let mut looks = stream::iter(looks).buffered(files.files_at_once());
        while let Some((name, meta)) = looks.try_next().await? {
            self.keep_dated(name, meta);
        }
        if !self.files.has_blobs() {
            return Ok(());
        }
        let own = staged.fragments.iter().filter_map(|fragment| fragment.files.last());
        let looks = own.map(|file| {
            let (files, path) = (Arc::clone(&files), self.files.path(&file.path));
            async move { Ok((file.path.clone(), files.mark_of(&path).await?)) }.boxed()
        });
        let looks: Vec<_> = looks.collect();
        let mut looks = stream::iter(looks).buffered(files.files_at_once());
        while let Some((name, mark)) = looks.try_next().await? {
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.insert(name, mark.unwrap_or_default());
        }
        Ok(())
    }

    /// What marked the sidecars of the file `name` before they were verified, if it was looked at: told once. Empty, where it had none.
    pub(crate) fn take_mark(&self, name: &str) -> Option<String> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    fn is_dated(&self, name: &str) -> bool {
        self.dated.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Whether `file` is so small that it is compared with others as a whole, and dated as it is read.
    fn is_repeated(&self, file: &DataFile) -> bool {
        self.are_constant && size_of(file) <= REPEATED_FILE_BYTES
    }

    pub(super) fn keep_dated(&self, name: &str, meta: ObjectMeta) {
        let mut dated = self.dated.lock().unwrap_or_else(PoisonError::into_inner);
        dated.insert(name.to_owned(), meta);
    }

    /// Every column that was staged.
    pub(super) fn everything(&self) -> ReaderProjection {
        reader_projection_from_whole_schema(&blob::stored(&self.files.schema), self.files.version)
    }

    /// The first `rows` of the staged file of a fragment, which is read here where it is `held`. A small file that is byte for
    /// byte one that was read back when it was encoded is not decoded again.
    pub(super) async fn read_unless(
        &self,
        held: Option<TakenBytes>,
        fragment: &Fragment,
        rows: u64,
    ) -> Result<Batches> {
        let file = file_of(fragment)?;
        if self.is_repeated(file) {
            let bytes = match &held {
                Some(held) => held.bytes.clone(),
                None => self.read_dated(&file.path).await?,
            };
            let in_file = fragment.physical_rows.unwrap_or_default() as u64;
            if let Some(batches) = self.constants.rows_of(&bytes, in_file, rows).await? {
                return Ok(batches);
            }
        }
        let Some(TakenBytes { bytes, share }) = held else {
            let (store, all) = (&self.files.store, self.everything());
            return self.read(store, fragment, rows, all, self.batch_rows).await;
        };
        let store = ObjectStore::memory();
        let put = store.inner.put(&self.files.path(&file.path), bytes.into()).await;
        put.doing(|| format!("hold {}", file.path))?;
        let store = Arc::new(store);
        let read = self.read(&store, fragment, rows, self.everything(), self.batch_rows).await?;
        // They are held until the last batch was decoded.
        let held = read.map(move |batch| {
            let _share = &share;
            batch
        });
        Ok(held.boxed())
    }

    /// The small file `name`, and when the store dates it.
    async fn read_dated(&self, name: &str) -> Result<Bytes> {
        let (bytes, meta) = self.files.files().read_dated(&self.files.path(name)).await?;
        if let Some(meta) = meta {
            self.keep_dated(name, meta);
        }
        Ok(bytes)
    }

    /// The first `rows` of some columns of the staged file of a fragment, which lies in `store`.
    pub(super) async fn read(
        &self,
        store: &Arc<ObjectStore>,
        fragment: &Fragment,
        rows: u64,
        projection: ReaderProjection,
        batch_rows: u32,
    ) -> Result<Batches> {
        let file = file_of(fragment)?;
        let directory = &self.files.directory;
        let name = file.path.clone();
        let opened = PageFile::open(store, directory, file).await?;
        let held = opened.rows();
        if held != fragment.physical_rows.unwrap_or_default() as u64 {
            return Err(Error::mismatch(format!(
                "{name} holds {held} rows, not those that were staged"
            )));
        }
        let blobs = Blobs::of_file(&self.files.store, directory, &self.files.schema, &name);
        let size = size_of(file);
        // Decoding is most of the work: each batch on a task of its own, in order, but for those of small files.
        let here = size <= SMALL_FILE_BYTES;
        let tasks = opened.read(projection, rows, batch_rows, &self.blocks).await?;
        let batches = tasks.map(move |task| match task {
            Ok(task) if here => task.task,
            Ok(task) => tokio::spawn(task.task).map(joined).boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        });
        let named = batches.buffered(DECODED_AHEAD);
        let named = named.map(move |batch| batch.doing(|| format!("read {name}")));
        Ok(with_blobs(named.boxed(), blobs))
    }
}

/// The staged file of `fragment`: its last one.
pub(super) fn file_of(fragment: &Fragment) -> Result<&DataFile> {
    let file = fragment.files.last();
    file.ok_or_else(|| Error::mismatch("a staged fragment names no file"))
}

fn size_of(file: &DataFile) -> u64 {
    file.file_size_bytes.get().map_or(u64::MAX, u64::from)
}
