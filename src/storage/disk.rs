//! Files on a disk, by the system's own calls.

use std::fs::{self, File, Metadata};
use std::io::Write as _;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime};
use std::{collections::BTreeSet, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use lance_io::{local::to_local_path, object_store::ObjectStore, traits::Writer};
use object_store::{ObjectMeta, path::Path};

use crate::error::{Doing, Result};
use crate::limits::{DISK_PACE, STORE_PACE, SYNCS_AT_ONCE};
use crate::storage::files::{DataFiles, Tree};
use crate::storage::names::{is_data_file, sidecars_of};
use crate::storage::{disk_writer::DiskWriter, throttle::Throttle};

/// Age after which a file gets no further names: what is staged has to be young, and they have one age.
const LINKED_AGE_MAX: Duration = Duration::from_hours(12);

#[derive(Debug)]
pub(super) struct Disk {
    store: Arc<dyn object_store::ObjectStore>,
}

impl Disk {
    /// Those of `store`, if its paths are the system's own.
    pub(super) fn of(store: &ObjectStore) -> Option<Self> {
        store.has_direct_local_paths().then(|| Self { store: Arc::clone(&store.inner) })
    }
}

#[async_trait]
impl DataFiles for Disk {
    fn store(&self) -> &dyn object_store::ObjectStore {
        self.store.as_ref()
    }

    fn held_bytes(&self) -> u64 {
        12 << 20
    }

    fn read_pace(&self) -> (u64, usize) {
        if self.has_local_files() { DISK_PACE } else { STORE_PACE }
    }

    /// Elsewhere a file cannot be read at an offset by several at once.
    fn has_local_files(&self) -> bool {
        cfg!(unix)
    }

    fn local_file(&self, file: &Path) -> io::Result<Option<File>> {
        self.has_local_files().then(|| File::open(local(file))).transpose()
    }

    fn is_link(&self, path: &Path) -> bool {
        is_link(path) == Some(true)
    }

    /// Only the files of the migration are looked at: a store's listing looks at each file three times, and
    /// follows links.
    async fn list_whole(&self, directory: &Path, id: &str) -> Result<Vec<ObjectMeta>> {
        list_whole(directory, id).doing(|| format!("list {directory}"))
    }

    async fn tree(&self, root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        grow(&mut tree, root).doing(|| format!("list {root}"))?;
        Ok(tree)
    }

    async fn names(&self, directory: &Path) -> Result<Vec<String>> {
        let names = names_in(directory).doing(|| format!("list {directory}"))?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    async fn head(&self, file: &Path) -> Result<ObjectMeta> {
        let doing = || format!("look at {file}");
        let meta = meta_of(file.clone(), &local(file)).doing(doing)?;
        meta.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).doing(doing)
    }

    async fn read(&self, file: &Path) -> Result<Bytes> {
        Ok(fs::read(local(file)).doing(|| format!("read {file}"))?.into())
    }

    async fn create(&self, file: &Path, throttle: &Arc<Throttle>) -> Result<Box<dyn Writer>> {
        let writer = DiskWriter::create(local(file)).doing(|| format!("create {file}"))?;
        Ok(throttle.counted(Box::new(writer)))
    }

    async fn append(&self, file: &Path, bytes: &[u8], sync: bool) -> Result<bool> {
        let doing = || format!("write {file}");
        let file = local(file);
        if let Some(folder) = file.parent().filter(|folder| !folder.is_dir()) {
            // The table's own folder is not made again: whoever removed it dropped what would be in it.
            folder.parent().map_or(Ok(()), make_folder).doing(doing)?;
            make_folder(folder).doing(doing)?;
        }
        let mut open = File::options().create(true).append(true).open(&file).doing(doing)?;
        open.write_all(bytes).doing(doing)?;
        if sync {
            blocking(move || open.sync_data()).await.doing(doing)?;
        }
        Ok(true)
    }

    fn link(&self, file: &Path, link: &Path) -> bool {
        let file = local(file);
        let written = fs::metadata(&file).and_then(|meta| meta.modified());
        let young = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LINKED_AGE_MAX));
        young && fs::hard_link(&file, local(link)).is_ok()
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let (source, target) = (local(from), local(to));
        let copied = blocking(move || {
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            // Not every file system knows second names.
            if fs::hard_link(&source, &target).is_err() || !is_made_young(&target) {
                let _ = fs::remove_file(&target);
                fs::copy(&source, &target)?;
            }
            Ok(())
        });
        copied.await.doing(|| format!("copy {from} to {to}"))
    }

    async fn renew(&self, file: &Path, _: &str, now: SystemTime) -> Result<Path> {
        for file in self.sidecars(file).await?.iter().chain([file]) {
            let touched = File::options().append(true).open(local(file));
            let touched = touched.and_then(|file| file.set_modified(now));
            touched.doing(|| format!("touch {file}"))?;
        }
        Ok(file.clone())
    }

    async fn sync(&self, mut files: Vec<Path>, with_sidecars: bool) -> Result<()> {
        for file in files.clone().iter().filter(|_| with_sidecars) {
            files.append(&mut self.sidecars(file).await?);
        }
        let files: Vec<_> = files.iter().map(local).collect();
        let directories = files.iter().filter_map(|file| file.parent().map(FilePath::to_path_buf));
        let directories: BTreeSet<_> = directories.filter(|_| cfg!(unix)).collect();
        let files = without_further_names(files).doing(|| "look at the staged files".to_owned())?;
        let share = files.len().div_ceil(SYNCS_AT_ONCE).max(1);
        let shares = files.chunks(share).map(|share| sync_each(share.to_vec(), File::sync_data));
        let synced = futures::future::try_join_all(shares).await;
        synced.doing(|| "sync the staged files to the disk".to_owned())?;
        let synced = sync_each(directories.into_iter().collect(), File::sync_all).await;
        synced.doing(|| "sync the directory of the staged files to the disk".to_owned())
    }

    /// A store would leave files whose name says that they were not written to their end.
    async fn remove(&self, file: &Path) -> Result<()> {
        match fs::remove_file(local(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.doing(|| format!("remove {file}")),
        }
    }

    fn remove_empty(&self, root: &Path) -> bool {
        remove_empty(&local(root))
    }

    async fn sidecars(&self, file: &Path) -> Result<Vec<Path>> {
        let folder = sidecars_of(file);
        // Not where a link leads.
        if !is_directory(&local(&folder)) {
            return Ok(Vec::new());
        }
        let listed = self.list_below(&folder).await?;
        Ok(listed.into_iter().map(|meta| meta.location).collect())
    }
}

/// Dates `file` anew if it is old: another name of an old file is as old from its first moment, and the next cleanup would take it
/// for abandoned. False, where that may not be done.
fn is_made_young(file: &FilePath) -> bool {
    let Ok(file) = File::options().append(true).open(file) else { return false };
    let Ok(written) = file.metadata().and_then(|meta| meta.modified()) else { return false };
    // One that is dated in the future is young.
    let age = written.elapsed().unwrap_or_default();
    age < LINKED_AGE_MAX || file.set_modified(written + age).is_ok()
}

/// Makes `folder`, if it is not there; not what is around it.
fn make_folder(folder: &FilePath) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The system's name of `path`.
fn local(path: &Path) -> PathBuf {
    PathBuf::from(to_local_path(path))
}

/// Whether what stands at `path` is a link; `None`, when nothing does.
pub(super) fn is_link(path: &Path) -> Option<bool> {
    fs::symlink_metadata(local(path)).ok().map(|meta| meta.is_symlink())
}

/// Whether `path` is a directory, and not a link to one.
fn is_directory(path: &FilePath) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn list_whole(directory: &Path, id: &str) -> io::Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    for (name, path) in names_in(directory)? {
        if is_data_file(&name, id) {
            found.extend(meta_of(directory.clone().join(name), &path)?);
        } else if is_data_file(&format!("{name}.lance"), id) && is_directory(&path) {
            let folder = directory.clone().join(name);
            for (name, path) in names_in(&folder)? {
                found.extend(meta_of(folder.clone().join(name), &path)?);
            }
        }
    }
    Ok(found)
}

/// The names in `directory`, and their paths; none, when it is not there.
fn names_in(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(local(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let named = entries.map(|entry| {
        let entry = entry?;
        Ok(entry.file_name().into_string().ok().map(|name| (name, entry.path())))
    });
    named.filter_map(io::Result::transpose).collect()
}

fn grow(tree: &mut Tree, directory: &Path) -> io::Result<()> {
    for (name, path) in names_in(directory)? {
        let Ok(location) = Path::parse(format!("{directory}/{name}")) else { continue };
        let Some(meta) = look_at(&path)? else { continue };
        if meta.is_symlink() {
            tree.links.push(location);
        } else if meta.is_dir() {
            grow(tree, &location)?;
        } else {
            tree.files.extend(meta_of(location, &path)?);
        }
    }
    Ok(())
}

/// What the system tells of what stands at `path`, which may be a link; nothing, when it is gone since.
fn look_at(path: &FilePath) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        meta => meta.map(Some),
    }
}

/// What a listing tells of a file, its tag being its inode; nothing, when it is gone since, or a link stands
/// in its place.
fn meta_of(location: Path, path: &FilePath) -> io::Result<Option<ObjectMeta>> {
    let meta = look_at(path)?.filter(|meta| !meta.is_symlink());
    let Some(meta) = meta else { return Ok(None) };
    let last_modified = meta.modified()?.into();
    let (e_tag, version) = (inode(&meta).map(|(_, inode)| inode.to_string()), None);
    Ok(Some(ObjectMeta { location, last_modified, size: meta.len(), e_tag, version }))
}

/// The device and the number there that tell a file from others, under whatever name.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "others have none")]
fn inode(meta: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    Some((meta.dev(), meta.ino()))
}

/// Nothing: this system has no such numbers.
#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<(u64, u64)> {
    None
}

fn remove_empty(directory: &FilePath) -> bool {
    if !is_directory(directory) {
        return false;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        remove_empty(&entry.path());
    }
    // Fails when it is not empty, which is the point.
    let _ = fs::remove_dir(directory);
    true
}

/// One name of each of `files`: their bytes are synced once.
fn without_further_names(files: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mut first = Vec::with_capacity(files.len());
    for file in files {
        if inode(&fs::metadata(&file)?).is_none_or(|inode| seen.insert(inode)) {
            first.push(file);
        }
    }
    Ok(first)
}

async fn sync_each(paths: Vec<PathBuf>, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    blocking(move || paths.iter().try_for_each(|path| sync(&File::open(path)?))).await
}

/// Does `work` on a thread that may wait for the disk.
async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}
