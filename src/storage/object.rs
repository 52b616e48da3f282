//! Files in an object store.

use std::{future::ready, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::SubsecRound as _;
use futures::{StreamExt, TryStreamExt, stream};
use lance_io::{object_store::ObjectStore, traits::Writer};
use object_store::{ObjectMeta, ObjectStoreExt as _, path::Path};
use tokio::io::AsyncWriteExt as _;

use crate::error::{Doing, Result};
use crate::limits::{DISK_PACE, STORE_FILES_AT_ONCE, STORE_PACE};
use crate::storage::files::{DataFiles, Tree};
use crate::storage::names::{
    data_file_of, directory_of, is_data_file, is_probe, new_data_file, sidecars_of,
};
use crate::storage::{disk::is_link, throttle::Throttle};

/// Bytes of a read, when an object is copied through this process.
const COPY_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Objects {
    store: ObjectStore,
    /// Whether the objects are files on a disk: Lance's store for tests of stores lists them as a store does,
    /// and follows links.
    has_links: bool,
}

impl Objects {
    pub(super) fn of(store: &ObjectStore) -> Self {
        Self { store: store.clone(), has_links: store.scheme() == "file-object-store" }
    }

    /// Whether no link is on the way from `root` to `location`.
    fn is_without_links(&self, root: &Path, location: &Path) -> bool {
        let mut path = root.clone();
        !self.has_links
            || location.prefix_match(root).into_iter().flatten().all(|part| {
                path = path.clone().join(part);
                is_link(&path) == Some(false)
            })
    }

    /// Copies through this process: stores copy objects up to a size only (5 GB on S3).
    async fn copy_by_parts(&self, from: &Path, to: &Path) -> lance::Result<()> {
        let size = self.store.inner.head(from).await?.size;
        let mut writer = self.store.create(to).await?;
        let mut at = 0;
        while at < size {
            let end = size.min(at + COPY_BYTES);
            writer.write_all(&self.store.inner.get_range(from, at..end).await?).await?;
            at = end;
        }
        Writer::shutdown(writer.as_mut()).await?;
        Ok(())
    }
}

#[async_trait]
impl DataFiles for Objects {
    fn store(&self) -> &dyn object_store::ObjectStore {
        self.store.inner.as_ref()
    }

    fn held_bytes(&self) -> u64 {
        64 << 20
    }

    /// Memory answers at once: reads ahead would only hold more of it.
    fn read_pace(&self) -> (u64, usize) {
        if self.store.scheme() == "memory" { DISK_PACE } else { STORE_PACE }
    }

    fn files_at_once(&self) -> usize {
        if self.store.scheme() == "memory" { 1 } else { STORE_FILES_AT_ONCE }
    }

    fn is_link(&self, path: &Path) -> bool {
        self.has_links && is_link(path) == Some(true)
    }

    async fn list_whole(&self, directory: &Path, id: &str) -> Result<Vec<ObjectMeta>> {
        let listed = self.list_tagged(directory, id).await?;
        Ok(listed.into_iter().map(|(meta, _)| meta).collect())
    }

    async fn list_tagged(
        &self,
        directory: &Path,
        id: &str,
    ) -> Result<Vec<(ObjectMeta, Option<String>)>> {
        let listed = self.store.list(Some(directory.clone())).try_filter(|meta| {
            let name = data_file_of(&meta.location);
            let ours = is_data_file(&name, id) || is_probe(&name);
            ready(ours && self.is_without_links(directory, &meta.location))
        });
        listed
            .map_ok(|meta| (self.as_told(meta.clone()), meta.e_tag))
            .try_collect()
            .await
            .doing(|| format!("list {directory}"))
    }

    async fn tree(&self, root: &Path) -> Result<Tree> {
        let listed = self.store.list(Some(root.clone()));
        let listed = listed.try_filter(|meta| ready(self.is_without_links(root, &meta.location)));
        let files = match listed.try_collect().await {
            Err(error) if lance::Error::is_not_found(&error) => Vec::new(),
            listed => listed.doing(|| format!("list {root}"))?,
        };
        Ok(Tree { files, links: Vec::new() })
    }

    fn has_tags(&self) -> bool {
        true
    }

    /// As every answer of the store tells it: its tag without quotes, which not every answer has, and dated by whole seconds,
    /// since some list milliseconds (`GCS`, `MinIO`), and the header of an object never has any. A weak tag tells nothing of bytes.
    fn as_told(&self, meta: ObjectMeta) -> ObjectMeta {
        let seconds = meta.last_modified.trunc_subsecs(0);
        let last_modified = if self.has_links { meta.last_modified } else { seconds };
        let strong = meta.e_tag.filter(|tag| !tag.starts_with("W/"));
        let e_tag = strong.map(|tag| tag.trim_matches('"').to_ascii_lowercase());
        ObjectMeta { e_tag, last_modified, ..meta }
    }

    async fn names(&self, directory: &Path) -> Result<Vec<String>> {
        self.store.read_dir(directory.clone()).await.doing(|| format!("list {directory}"))
    }

    async fn head(&self, file: &Path) -> Result<ObjectMeta> {
        Ok(self.head_tagged(file).await?.0)
    }

    async fn head_tagged(&self, file: &Path) -> Result<(ObjectMeta, Option<String>)> {
        let meta = self.store.inner.head(file).await.doing(|| format!("look at {file}"))?;
        let tag = meta.e_tag.clone();
        Ok((self.as_told(meta), tag))
    }

    async fn read(&self, file: &Path) -> Result<Bytes> {
        Ok(self.read_dated(file).await?.0)
    }

    async fn read_dated(&self, file: &Path) -> Result<(Bytes, Option<ObjectMeta>)> {
        let doing = || format!("read {file}");
        let got = self.store.inner.get(file).await.doing(doing)?;
        let meta = self.as_told(got.meta.clone());
        Ok((got.bytes().await.doing(doing)?, Some(meta)))
    }

    async fn create(&self, file: &Path, throttle: &Arc<Throttle>) -> Result<Box<dyn Writer>> {
        let writer = self.store.create(file).await.doing(|| format!("create {file}"))?;
        Ok(throttle.counted(writer))
    }

    /// Without Lance's writer, whose buffer of 5 MiB would be held for as long as these bytes are.
    async fn put(&self, file: &Path, bytes: Bytes, throttle: &Arc<Throttle>) -> Result<()> {
        throttle.count(bytes.len() as u64);
        self.store.inner.put(file, bytes.into()).await.doing(|| format!("write {file}"))?;
        Ok(())
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        if self.store.inner.copy(from, to).await.is_ok() {
            return Ok(());
        }
        self.copy_by_parts(from, to).await.doing(|| format!("copy {from} to {to}"))
    }

    async fn renew(&self, file: &Path, id: &str, _: SystemTime) -> Result<Path> {
        let copy = directory_of(file).join(new_data_file(id));
        for sidecar in self.sidecars(file).await? {
            let name = sidecar.filename().unwrap_or_default();
            self.copy(&sidecar, &sidecars_of(&copy).join(name)).await?;
        }
        self.copy(file, &copy).await?;
        Ok(copy)
    }

    async fn sync(&self, _: Vec<Path>, _: bool) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, file: &Path) -> Result<()> {
        match self.store.inner.delete(file).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).doing(|| format!("remove {file}")),
        }
    }

    async fn remove_all(&self, files: Vec<Path>) -> Result<()> {
        let count = files.len();
        let mut removed = self.store.inner.delete_stream(stream::iter(files).map(Ok).boxed());
        while let Some(removed) = removed.next().await {
            match removed {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error).doing(|| format!("remove {count} files")),
            }
        }
        Ok(())
    }
}
