//! The old ways to call this room.
// for run/ and stage/ until they are moved

/// Files, each by a function that is given the store.
pub(crate) mod datafile {
    use std::sync::Arc;
    use std::time::SystemTime;

    use bytes::Bytes;
    use lance_io::object_store::ObjectStore;
    use lance_io::traits::Writer;
    use object_store::ObjectMeta;
    use object_store::path::Path;

    use crate::error::Result;
    use crate::storage::files;
    pub(crate) use crate::storage::names::{
        directory_of, is_data_file as is_of, new_data_file as new_name,
    };
    use crate::storage::throttle::Throttle;

    /// Data files of the migration `id`.
    pub(crate) async fn list(
        store: &ObjectStore,
        directory: &Path,
        id: &str,
    ) -> Result<Vec<ObjectMeta>> {
        files::of(store).list(directory, id).await
    }

    /// Files below `root`.
    pub(crate) async fn list_below(store: &ObjectStore, root: &Path) -> Result<Vec<ObjectMeta>> {
        files::of(store).list_below(root).await
    }

    /// Names in `directory`.
    pub(crate) async fn names(store: &ObjectStore, directory: &Path) -> Result<Vec<String>> {
        files::of(store).names(directory).await
    }

    /// What a listing tells of `file`.
    pub(crate) async fn look(store: &ObjectStore, file: &Path) -> Result<ObjectMeta> {
        files::of(store).head(file).await
    }

    /// All of `file`.
    pub(crate) async fn read(store: &ObjectStore, file: &Path) -> Result<Bytes> {
        files::of(store).read(file).await
    }

    /// Opens the new `file`.
    pub(crate) async fn create(
        store: &ObjectStore,
        file: &Path,
        throttle: &Arc<Throttle>,
    ) -> Result<Box<dyn Writer>> {
        files::of(store).create(file, throttle).await
    }

    /// `file`, to be read while it is written.
    pub(crate) fn read_along(store: &ObjectStore, file: &Path) -> Option<std::fs::File> {
        files::of(store).local_file(file).ok().flatten()
    }

    /// Gives `file` the further name `link`.
    pub(crate) fn link(store: &ObjectStore, file: &Path, link: &Path) -> bool {
        files::of(store).link(file, link)
    }

    /// Makes `file` young.
    pub(crate) async fn renew(
        store: &ObjectStore,
        file: &Path,
        id: &str,
        now: SystemTime,
    ) -> Result<Path> {
        files::of(store).renew(file, id, now).await
    }

    /// Makes `files` durable.
    pub(crate) async fn sync(
        store: &ObjectStore,
        files: Vec<Path>,
        with_sidecars: bool,
    ) -> Result<()> {
        files::of(store).sync(files, with_sidecars).await
    }

    /// Removes `file`.
    pub(crate) async fn remove(store: &ObjectStore, file: &Path) -> Result<()> {
        files::of(store).remove(file).await
    }

    /// Removes `file` and its sidecars.
    pub(crate) async fn remove_whole(store: &ObjectStore, file: &Path) -> Result<()> {
        files::of(store).remove_whole(file).await
    }

    /// Removes empty directories.
    pub(crate) fn remove_empty(store: &ObjectStore, root: &Path) {
        files::of(store).remove_empty(root);
    }

    /// Whether a link stands at `path`.
    pub(crate) fn is_link(store: &ObjectStore, path: &Path) -> bool {
        files::of(store).is_link(path)
    }
}

/// Pages, by their old names.
pub(crate) mod pages {
    use lance_io::object_store::ObjectStore;

    use crate::storage::files;
    pub(crate) use crate::storage::page::{
        Blocks, ColumnPart as Part, CopiedColumns as Copied, PageFile, ReadBack,
        ReadBackHashes as Seen, bytes_of, copy, digest_of, hashes, projection,
    };

    /// Bytes that a copy from or to `store` holds at once, about.
    pub(crate) fn held_bytes(store: &ObjectStore) -> u64 {
        files::of(store).held_bytes()
    }
}

/// Sidecars that are told where they are by each call.
pub(crate) mod sidecar {
    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use lance_core::datatypes::Schema;
    use lance_io::object_store::ObjectStore;
    use object_store::path::Path;

    use crate::error::Result;
    pub(crate) use crate::storage::blob::Blobs;
    use crate::storage::throttle::Throttle;
    use crate::storage::{blob, files};

    /// The sidecars of a staged file.
    pub(crate) struct Sidecars {
        name: String,
        throttle: Arc<Throttle>,
        own: Option<blob::Sidecars>,
    }

    impl Sidecars {
        /// None yet.
        pub(crate) fn of(name: &str, throttle: &Arc<Throttle>) -> Self {
            Self { name: name.to_owned(), throttle: Arc::clone(throttle), own: None }
        }

        /// Finishes what is open.
        pub(crate) async fn finish(&mut self) -> Result<()> {
            match &mut self.own {
                Some(own) => own.finish().await,
                None => Ok(()),
            }
        }

        /// `batch` as Lance's writer takes it.
        pub(crate) async fn prepare(
            &mut self,
            store: &ObjectStore,
            directory: &Path,
            schema: &Schema,
            batch: RecordBatch,
        ) -> Result<RecordBatch> {
            let (name, throttle) = (&self.name, &self.throttle);
            let own = || blob::Sidecars::of(&files::of(store), directory, name, throttle);
            self.own.get_or_insert_with(own).prepare(schema, batch).await
        }
    }
}

/// Deletion files, each by a function that is told where they are.
pub(crate) mod deletion {
    use lance::Dataset;
    use lance_io::object_store::ObjectStore;
    use lance_table::format::DeletionFile;
    use object_store::path::Path;
    use roaring::RoaringBitmap;

    use crate::error::{Context, Result};
    use crate::storage::deletion::Deletions;
    pub(crate) use crate::storage::deletion::{Deleted, Naming, STAGED, directory, name};

    /// The deleted rows of a fragment.
    pub(crate) async fn read(
        store: &ObjectStore,
        root: &Path,
        fragment: u64,
        file: Option<&DeletionFile>,
    ) -> Result<RoaringBitmap> {
        Deletions::of(store, root).read(fragment, file).await
    }

    /// The deleted rows that were written.
    pub(crate) async fn read_back(
        store: &ObjectStore,
        root: &Path,
        fragment: u64,
        deleted: &Deleted,
    ) -> Result<RoaringBitmap> {
        Deletions::of(store, root).read_back(fragment, deleted).await
    }

    /// Writes the deleted rows of a fragment.
    pub(crate) async fn write(
        store: &ObjectStore,
        root: &Path,
        naming: Naming,
        rows: &RoaringBitmap,
        id: &str,
    ) -> Result<Deleted> {
        Deletions::of(store, root).write(naming, rows, id).await
    }

    /// Copies a staged deletion file.
    pub(crate) async fn adopt(
        staging: &Dataset,
        deleted: &Deleted,
        fragment: u64,
        to: &Dataset,
        id: &str,
    ) -> Result<Deleted> {
        let naming = Naming::Of { fragment, version: to.version_id() };
        let (staging, to) = (of(staging).await?, of(to).await?);
        staging.copy_staged(deleted, &to, naming, id).await
    }

    async fn of(dataset: &Dataset) -> Result<Deletions> {
        let store = dataset.object_store(None).await.doing(|| "open a table's store".to_owned())?;
        Ok(Deletions::of(&store, &dataset.branch_location().path))
    }

    /// Where a deletion file lies.
    pub(crate) fn path(dataset: &Dataset, fragment: u64, file: &DeletionFile) -> Path {
        directory(&dataset.branch_location().path).join(name(fragment, file))
    }
}
