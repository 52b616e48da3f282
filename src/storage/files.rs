//! Files in a table's store: the same operations on a disk and in an object store.
//!
//! What differs between the two is in `disk.rs` and `object.rs`, and nothing else asks which one a table is
//! in. The migration's data files lie in the live table's own `data/`, beside other writers' files; `names.rs`
//! says how they are told apart.

use std::{fmt::Debug, fs::File, io, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lance_io::{object_store::ObjectStore, traits::Writer};
use object_store::{ObjectMeta, ObjectStoreExt as _, PutMode, path::Path};
use tokio::io::AsyncWriteExt as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Doing, Result};
use crate::retry::passes;
use crate::storage::{disk::Disk, names, object::Objects, throttle::Throttle};

/// How often a small new file is written whose reply is lost.
const WRITES: u32 = 6;

/// The files of `store`. Cheap: nothing is read.
pub(crate) fn of(store: &ObjectStore) -> Arc<dyn DataFiles> {
    match Disk::of(store) {
        Some(disk) => Arc::new(disk),
        None => Arc::new(Objects::of(store)),
    }
}

/// What lies below a folder.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Every file, however deep.
    pub files: Vec<ObjectMeta>,
    /// Links, which only a disk has. They are not followed: what one leads to is somebody else's.
    pub links: Vec<Path>,
}

/// Files in a store. Errors are of the kind `Failed` and name the file.
#[async_trait]
pub(crate) trait DataFiles: Debug + Send + Sync {
    /// The store, for what a disk and an object store do alike.
    fn store(&self) -> &dyn object_store::ObjectStore;

    /// Bytes that a copy of pages from or to here holds at once, about: what is read ahead, and what is
    /// written.
    fn held_bytes(&self) -> u64;

    /// Bytes of a read of pages, and reads ahead, that suit it.
    fn read_pace(&self) -> (u64, usize);

    /// Files that are written, read or looked at at once: one where it answers at once.
    fn files_at_once(&self) -> usize {
        1
    }

    /// Whether [`Self::local_file`] gives files: reading them takes no store then.
    fn has_local_files(&self) -> bool {
        false
    }

    /// `file`, opened to be read at any offset, even while it is being written; `None` where no file of the
    /// system is behind it.
    ///
    /// # Errors
    /// The system's, when it cannot be opened.
    fn local_file(&self, _file: &Path) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// Whether a link stands at `path`, which only a disk can have.
    fn is_link(&self, path: &Path) -> bool;

    /// Every data file of the migration `id` in `directory`, and its sidecars; in a store also what is there to see whether it
    /// can be written.
    async fn list_whole(&self, directory: &Path, id: &str) -> Result<Vec<ObjectMeta>>;

    /// What lies below `root`; nothing, when it is not there.
    async fn tree(&self, root: &Path) -> Result<Tree>;

    /// The names of what is in `directory`, but for what lies deeper.
    async fn names(&self, directory: &Path) -> Result<Vec<String>>;

    /// What a listing tells of `file`. An error, when it is not there.
    async fn head(&self, file: &Path) -> Result<ObjectMeta>;

    /// `meta`, which came of whatever answer, as [`Self::head`] tells it.
    fn as_told(&self, meta: ObjectMeta) -> ObjectMeta {
        meta
    }

    /// Whether what [`Self::head`] tells has the store's own tag of the bytes; otherwise it has a disk's inode.
    fn has_tags(&self) -> bool {
        false
    }

    /// What tells the sidecars of a file from others, which are `told` as by [`Self::as_told`]: a hash of their names, sizes, and tags or
    /// dates; `None`, where there are none.
    fn mark(&self, told: &[ObjectMeta]) -> Option<String> {
        let lines = told.iter().map(|meta| {
            let date = (!self.has_tags() || meta.e_tag.is_none()).then_some(meta.last_modified);
            let name = meta.location.filename().unwrap_or_default();
            format!("{name} {} {date:?} {:?}", meta.size, meta.e_tag)
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort_unstable();
        (!lines.is_empty()).then(|| format!("{:032x}", xxh3_128(lines.join("\n").as_bytes())))
    }

    /// [`Self::mark`] of the sidecars that `file` has now.
    async fn mark_of(&self, file: &Path) -> Result<Option<String>> {
        let found = self.list_below(&names::sidecars_of(file)).await?.into_iter();
        let told: Vec<_> = found.map(|meta| self.as_told(meta)).collect();
        Ok(self.mark(&told))
    }

    /// The same, and the store's tag of what it has, where it has one.
    async fn head_tagged(&self, file: &Path) -> Result<(ObjectMeta, Option<String>)> {
        Ok((self.head(file).await?, None))
    }

    /// The same of every data file of the migration `id` in `directory`.
    async fn list_tagged(
        &self,
        directory: &Path,
        id: &str,
    ) -> Result<Vec<(ObjectMeta, Option<String>)>> {
        Ok(self.list(directory, id).await?.into_iter().map(|meta| (meta, None)).collect())
    }

    /// All of `file`, which is a small one.
    async fn read(&self, file: &Path) -> Result<Bytes>;

    /// All of `file`, which is a small one, and what a listing would tell of it, where the store says that with it.
    async fn read_dated(&self, file: &Path) -> Result<(Bytes, Option<ObjectMeta>)> {
        Ok((self.read(file).await?, None))
    }

    /// Opens the new `file` for writing. On a disk it is written under its own name, and durable after
    /// [`Self::sync`]; in an object store it appears when it is finished. `throttle` counts its bytes.
    async fn create(&self, file: &Path, throttle: &Arc<Throttle>) -> Result<Box<dyn Writer>>;

    /// Writes the new `file`, which is a small one, as [`Self::create`] does.
    async fn put(&self, file: &Path, bytes: Bytes, throttle: &Arc<Throttle>) -> Result<()> {
        let mut writer = self.create(file, throttle).await?;
        writer.write_all(&bytes).await.doing(|| format!("write {file}"))?;
        // The trait's own: the other one leaves the file unfinished.
        Writer::shutdown(writer.as_mut()).await.doing(|| format!("finish {file}"))?;
        Ok(())
    }

    /// Appends `bytes` to `file`, which may not be there yet, and makes it durable if `sync` is asked, where the store
    /// is a disk; false, when it is not. What is appended survives this process. Of the folders around it, the two nearest
    /// are made.
    async fn append(&self, _file: &Path, _bytes: &[u8], _sync: bool) -> Result<bool> {
        Ok(false)
    }

    /// Gives `file`, if it is young, the further name `link`, where the store is a disk that can; false,
    /// when not.
    fn link(&self, _file: &Path, _link: &Path) -> bool {
        false
    }

    /// Copies `from` to `to` inside the store. On a disk that is a second name for the same bytes, which
    /// nobody ever writes into.
    async fn copy(&self, from: &Path, to: &Path) -> Result<()>;

    /// Makes `file` of the migration `id`, and its sidecars, young again, so that no cleanup takes it for
    /// abandoned, and gives its name, which may be a new one: a disk's file is dated `now`, an object is
    /// copied.
    ///
    /// # Crash
    /// The file is there as it was; a copy that nobody names yet has the migration's id in its name.
    async fn renew(&self, file: &Path, id: &str, now: SystemTime) -> Result<Path>;

    /// Makes the bytes and the names of `files` durable, where the store is a disk: what the journal names
    /// after this is there after a power loss. `with_sidecars`, when they may have any: looking for them
    /// costs a call for each file.
    async fn sync(&self, files: Vec<Path>, with_sidecars: bool) -> Result<()>;

    /// Removes `file`; one that is gone already is as good.
    async fn remove(&self, file: &Path) -> Result<()>;

    /// Removes `files`, in any order; those that are gone already are as good. On a disk one after the other, in a store
    /// many by a request where it can, and several requests at once.
    async fn remove_all(&self, files: Vec<Path>) -> Result<()> {
        for file in &files {
            self.remove(file).await?;
        }
        Ok(())
    }

    /// Removes the directories below `root`, and it, as far as they are empty. Only a disk has any; what is
    /// left does no harm, and what somebody makes there meanwhile stays. Gives whether `root` was one.
    fn remove_empty(&self, _root: &Path) -> bool {
        false
    }

    /// Every data file of the migration `id` in `directory`.
    async fn list(&self, directory: &Path, id: &str) -> Result<Vec<ObjectMeta>> {
        let mut files = self.list_whole(directory, id).await?;
        let is_data_file = |name: &str| names::is_data_file(name, id);
        files.retain(|meta| meta.location.filename().is_some_and(is_data_file));
        Ok(files)
    }

    /// Every file below `root`, however deep; none, when it is not there.
    async fn list_below(&self, root: &Path) -> Result<Vec<ObjectMeta>> {
        Ok(self.tree(root).await?.files)
    }

    /// The sidecars of the data file `file`.
    async fn sidecars(&self, file: &Path) -> Result<Vec<Path>> {
        let listed = self.list_below(&names::sidecars_of(file)).await?;
        Ok(listed.into_iter().map(|meta| meta.location).collect())
    }

    /// Writes a small `file` that is not there yet. False, when it is, with other bytes: then it stays as it is. Where the
    /// reply is lost, it is looked at what is there, for which a store that is away is waited for.
    async fn put_new(&self, file: &Path, bytes: Bytes) -> Result<bool> {
        use object_store::Error::{AlreadyExists, NotFound, NotImplemented, NotSupported};
        let (store, doing) = (self.store(), || format!("write {file}"));
        for left in (0..WRITES).rev() {
            match store.put_opts(file, bytes.clone().into(), PutMode::Create.into()).await {
                Ok(_) => return Ok(true),
                Err(AlreadyExists { .. }) => return Ok(false),
                // A store without conditional writes: its names are random enough to look first.
                Err(NotImplemented { .. } | NotSupported { .. }) => match store.head(file).await {
                    Ok(_) => return Ok(false),
                    Err(NotFound { .. }) => {
                        return store.put(file, bytes.into()).await.doing(doing).map(|_| true);
                    }
                    Err(error) => return Err(error).doing(doing),
                },
                Err(error) if left == 0 || !passes(&error) => return Err(error).doing(doing),
                Err(_) => {}
            }
            match store.get(file).await {
                Ok(there) => return Ok(there.bytes().await.doing(doing)? == bytes),
                Err(NotFound { .. }) => {}
                Err(error) => return Err(error).doing(doing),
            }
        }
        Ok(false)
    }

    /// Removes `files` and their sidecars, those first; what is gone already is as good. `with_sidecars`, when they may have any:
    /// looking for them costs a request for each file.
    async fn remove_whole(&self, files: Vec<Path>, with_sidecars: bool) -> Result<()> {
        if with_sidecars {
            let looks: Vec<_> = files.iter().map(|file| self.sidecars(file)).collect();
            let looks = stream::iter(looks).buffered(self.files_at_once());
            let sidecars: Vec<Vec<Path>> = looks.try_collect().await?;
            self.remove_all(sidecars.concat()).await?;
            for file in &files {
                self.remove_empty(&names::sidecars_of(file));
            }
        }
        self.remove_all(files).await
    }
}
