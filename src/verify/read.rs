//! Reads staged files to verify them: from the store, or what is held of them.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use lance_file::reader::ReaderProjection;
use lance_file::versions::reader_projection_from_whole_schema;
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::{ObjectMeta, ObjectStoreExt as _, PutPayload};

use crate::error::{Doing, Error, Result};
use crate::limits::{DECODED_AHEAD, REPEATED_FILE_BYTES, SMALL_FILE_BYTES};
use crate::schema::blob;
use crate::storage::{blob::Blobs, page::PageFile};
use crate::table::source::{Batches, joined, with_blobs};
use crate::verify::Verifier;

impl Verifier {
    /// What the store told of the file `name` when it gave the bytes that were verified, if it did: told once.
    pub(crate) fn take_dated(&self, name: &str) -> Option<ObjectMeta> {
        self.dated.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
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
        held: Option<PutPayload>,
        fragment: &Fragment,
        rows: u64,
    ) -> Result<Batches> {
        let file = file_of(fragment)?;
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
        if self.are_constant && size <= REPEATED_FILE_BYTES {
            let bytes = match &held {
                Some(held) => held.clone().into(),
                None => self.read_dated(&file.path).await?,
            };
            let in_file = fragment.physical_rows.unwrap_or_default() as u64;
            if let Some(batches) = self.constants.rows_of(&bytes, in_file, rows).await? {
                return Ok(batches);
            }
        }
        let Some(held) = held else {
            let (store, all) = (&self.files.store, self.everything());
            return self.read(store, fragment, rows, all, self.batch_rows).await;
        };
        let store = ObjectStore::memory();
        let put = store.inner.put(&self.files.path(&file.path), held).await;
        put.doing(|| format!("hold {}", file.path))?;
        self.read(&Arc::new(store), fragment, rows, self.everything(), self.batch_rows).await
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
        let size = file.file_size_bytes.get().map_or(u64::MAX, u64::from);
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
