//! Data files of a migration: their names, their writers, and finding them again.
//!
//! They lie in the live table's own `data/`, beside other writers' files. Their name holds the
//! migration's id before their first byte is written, so that whatever a killed run left behind can
//! be told from everybody else's.

mod local;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use lance_io::local::to_local_path;
use lance_io::object_store::ObjectStore;
use lance_io::traits::Writer;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode};
use uuid::Uuid;

use crate::datafile::local::LocalFile;
pub(crate) use crate::datafile::tree::{
    clear_table, is_folder, is_link, list_below, list_table, names, remove_empty,
};
use crate::datafile::tree::{is_directory, is_without_links};
use crate::error::{Context, Result};
use crate::storage::throttle::Throttle;

/// A new file name of the migration `id`. It begins with 24 random bits, as Lance's own names do,
/// so that an object store spreads the files over its partitions.
pub(crate) fn new_name(id: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    let (bits, rest) = random.split_at(6);
    let bits = u32::from_str_radix(bits, 16).unwrap_or_default();
    let rest = rest.get(..16).unwrap_or(rest);
    format!("{bits:024b}-relance-{id}-{rest}.lance")
}

/// The name of the data file that the object at `location` is, or lies beside as a sidecar: those are in a
/// folder of its name.
pub(crate) fn owner(location: &Path) -> String {
    let name = location.filename().unwrap_or_default();
    if location.extension() != Some("blob") {
        return name.to_owned();
    }
    let folder = location.parts().rev().nth(1);
    folder.map(|folder| format!("{}.lance", folder.as_ref())).unwrap_or_default()
}

/// Whether `name` is a file of the migration `id`.
pub(crate) fn is_of(name: &str, id: &str) -> bool {
    let stem = name.strip_suffix(".lance").unwrap_or_default();
    stem.contains(&format!("-relance-{id}-"))
}

/// Every data file of the migration `id` in `directory`.
///
/// # Errors
/// `Failed`, when the directory cannot be listed.
pub(crate) async fn list(
    store: &ObjectStore,
    directory: &Path,
    id: &str,
) -> Result<Vec<ObjectMeta>> {
    let mut files = list_whole(store, directory, id).await?;
    files.retain(|meta| meta.location.filename().is_some_and(|name| is_of(name, id)));
    Ok(files)
}

/// Every data file of the migration `id` in `directory`, and its sidecars.
///
/// # Errors
/// `Failed`, when the directory cannot be listed.
pub(crate) async fn list_whole(
    store: &ObjectStore,
    directory: &Path,
    id: &str,
) -> Result<Vec<ObjectMeta>> {
    if store.has_direct_local_paths() {
        return list_local(directory, id).doing(|| format!("list {directory}"));
    }
    let files: Result<Vec<_>> = store
        .list(Some(directory.clone()))
        .try_filter(|meta| {
            let ours = is_of(&owner(&meta.location), id);
            std::future::ready(ours && is_without_links(store, directory, &meta.location))
        })
        .map_ok(untagged)
        .try_collect()
        .await
        .doing(|| format!("list {directory}"));
    files
}

/// The same on a disk, where only the files of the migration are looked at: a store's listing looks at
/// each file three times, and follows links.
fn list_local(directory: &Path, id: &str) -> io::Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    for (name, path) in names_in(directory)? {
        let folder = format!("{name}.lance");
        if is_of(&name, id) {
            found.extend(meta_of(directory.clone().join(name), &path)?);
        } else if is_of(&folder, id) && is_directory(&path) {
            let folder = directory.clone().join(name);
            for (name, path) in names_in(&folder)? {
                found.extend(meta_of(folder.clone().join(name), &path)?);
            }
        }
    }
    Ok(found)
}

/// The names in `directory`, and their paths. What is not there has none.
fn names_in(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(to_local_path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let named = entries.map(|entry| {
        let entry = entry?;
        Ok(entry.file_name().into_string().ok().map(|name| (name, entry.path())))
    });
    named.filter_map(io::Result::transpose).collect()
}

/// What tells a file from others of its size and age, under whatever name.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "others have none")]
fn inode(meta: &std::fs::Metadata) -> Option<String> {
    Some(std::os::unix::fs::MetadataExt::ino(meta).to_string())
}

/// What tells a file from others of its size and age: nothing.
#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> Option<String> {
    None
}

/// What a listing says of a file, its tag being its inode; nothing, when it is gone since, or a link stands
/// in its place.
fn meta_of(location: Path, path: &FilePath) -> io::Result<Option<ObjectMeta>> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if meta.is_symlink() {
        return Ok(None);
    }
    let last_modified = meta.modified()?.into();
    let (e_tag, version) = (inode(&meta), None);
    Ok(Some(ObjectMeta { location, last_modified, size: meta.len(), e_tag, version }))
}

/// What the store has under the name of `file`, as a listing tells.
///
/// # Errors
/// `Failed`, when it is not there.
pub(crate) async fn look(store: &ObjectStore, file: &Path) -> Result<ObjectMeta> {
    let doing = || format!("look at {file}");
    if store.has_direct_local_paths() {
        let meta = meta_of(file.clone(), &PathBuf::from(to_local_path(file))).doing(doing)?;
        return meta.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)).doing(doing);
    }
    Ok(untagged(store.inner.head(file).await.doing(doing)?))
}

/// Without its tag: stores write it differently in a listing and elsewhere.
fn untagged(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta { e_tag: None, ..meta }
}

/// All of `file`, which is a small one.
///
/// # Errors
/// `Failed`, when it cannot be read.
pub(crate) async fn read(store: &ObjectStore, file: &Path) -> Result<Bytes> {
    let doing = || format!("read {file}");
    if store.has_direct_local_paths() {
        return Ok(std::fs::read(to_local_path(file)).doing(doing)?.into());
    }
    store.inner.get(file).await.doing(doing)?.bytes().await.doing(doing)
}

/// Writes a small `file` that is not there yet. False, when it is: then it stays as it is.
///
/// # Errors
/// `Failed`, when it cannot be written.
pub(crate) async fn put_new(store: &ObjectStore, file: &Path, bytes: Bytes) -> Result<bool> {
    let doing = || format!("write {file}");
    let put = store.inner.put_opts(file, bytes.clone().into(), PutMode::Create.into()).await;
    match put {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
        // A store without conditional writes: its names are random enough to look first.
        Err(
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
        ) => {
            match store.inner.head(file).await {
                Ok(_) => return Ok(false),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error).doing(doing),
            }
            store.inner.put(file, bytes.into()).await.doing(doing)?;
            Ok(true)
        }
        Err(error) => Err(error).doing(doing),
    }
}

/// Removes `file`; one that is gone already is as good.
///
/// # Errors
/// `Failed`, when it is there and cannot be removed.
pub(crate) async fn remove(store: &ObjectStore, file: &Path) -> Result<()> {
    if store.has_direct_local_paths() {
        // A store removes nothing under the names of what was not written to its end.
        return match std::fs::remove_file(to_local_path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove {file}"))
            }
            _ => Ok(()),
        };
    }
    match store.inner.delete(file).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error).doing(|| format!("remove {file}")),
    }
}

/// Removes `file` and its sidecars; what is gone already is as good.
///
/// # Errors
/// `Failed`, when something is there and cannot be removed.
pub(crate) async fn remove_whole(store: &ObjectStore, file: &Path) -> Result<()> {
    for sidecar in sidecars(store, file).await? {
        remove(store, &sidecar).await?;
    }
    remove_empty(store, &folder(file));
    remove(store, file).await
}

/// Where the sidecars of the data file `file` lie.
fn folder(file: &Path) -> Path {
    let name = file.filename().unwrap_or_default();
    let stem = name.strip_suffix(".lance").unwrap_or(name);
    directory_of(file).join(stem)
}

/// The directory that `file` lies in.
pub(crate) fn directory_of(file: &Path) -> Path {
    let parts: Vec<_> = file.parts().collect();
    let directory = parts.split_last().map_or(&[][..], |(_, directory)| directory);
    directory.iter().cloned().collect()
}

/// The sidecars of the data file `file`.
async fn sidecars(store: &ObjectStore, file: &Path) -> Result<Vec<Path>> {
    let folder = folder(file);
    // Few files have any, and a look at a disk costs nothing.
    if store.has_direct_local_paths() && !is_directory(&PathBuf::from(to_local_path(&folder))) {
        return Ok(Vec::new());
    }
    let listed = list_below(store, &folder).await?;
    Ok(listed.into_iter().map(|meta| meta.location).collect())
}

/// Makes `file` of the migration `id`, and its sidecars, young again, so that no cleanup takes it for abandoned, and gives
/// its name, which may be a new one: a disk's file is dated `now`, an object is copied inside its store.
///
/// # Errors
/// `Failed`, when it is gone or cannot be copied.
///
/// # Crash
/// The file is there as it was; a copy that nobody names yet has the migration's id in its name.
pub(crate) async fn renew(
    store: &ObjectStore,
    file: &Path,
    id: &str,
    now: SystemTime,
) -> Result<Path> {
    if store.has_direct_local_paths() {
        for file in sidecars(store, file).await?.iter().chain([file]) {
            let path = PathBuf::from(to_local_path(file));
            let touched = std::fs::File::options().append(true).open(path);
            let touched = touched.and_then(|file| file.set_modified(now));
            touched.doing(|| format!("touch {file}"))?;
        }
        return Ok(file.clone());
    }
    let copy = directory_of(file).join(new_name(id));
    for sidecar in sidecars(store, file).await? {
        let copied = folder(&copy).join(sidecar.filename().unwrap_or_default());
        let doing = || format!("copy {sidecar} to {copied}");
        store.inner.copy(&sidecar, &copied).await.doing(doing)?;
    }
    store.inner.copy(file, &copy).await.doing(|| format!("copy {file} to {copy}"))?;
    Ok(copy)
}

/// Opens `file` for writing. On a disk it is written under its own name, and durable after [`sync`]; in
/// an object store it appears when it is finished. `throttle` counts its bytes.
///
/// # Errors
/// `Failed`, when it cannot be created.
pub(crate) async fn create(
    store: &ObjectStore,
    file: &Path,
    throttle: &Arc<Throttle>,
) -> Result<Box<dyn Writer>> {
    let inner: Box<dyn Writer> = if store.has_direct_local_paths() {
        let writer = LocalFile::create(PathBuf::from(to_local_path(file)));
        Box::new(writer.doing(|| format!("create {file}"))?)
    } else {
        store.create(file).await.doing(|| format!("create {file}"))?
    };
    Ok(throttle.counted(inner))
}

/// Opens `file`, which is being written, to be read meanwhile: what an object store writes is not there yet.
pub(crate) fn read_along(store: &ObjectStore, file: &Path) -> Option<std::fs::File> {
    let reads = cfg!(unix) && store.has_direct_local_paths();
    reads.then(|| std::fs::File::open(to_local_path(file)).ok()).flatten()
}

/// Age after which a file gets no further names: what is staged has to be young, and they have one age.
const LINKED_AGE_MAX: Duration = Duration::from_hours(12);

/// Gives `file`, if it is young, the further name `link`, where the store is a disk that can; false, when not.
pub(crate) fn link(store: &ObjectStore, file: &Path, link: &Path) -> bool {
    let (file, link) = (to_local_path(file), to_local_path(link));
    let written = || std::fs::metadata(&file).and_then(|meta| meta.modified());
    let young = || written().is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LINKED_AGE_MAX));
    store.has_direct_local_paths() && young() && std::fs::hard_link(&file, link).is_ok()
}

/// Makes the bytes and the names of `files` durable, where the store is a disk: what the journal names
/// after this is there after a power loss. `with_sidecars`, when they may have any: looking for them costs
/// a call for each file.
///
/// # Errors
/// `Failed`, when the disk reports an error.
pub(crate) async fn sync(store: &ObjectStore, files: Vec<Path>, with_sidecars: bool) -> Result<()> {
    if !store.has_direct_local_paths() {
        return Ok(());
    }
    let mut files = files;
    let looked_at = if with_sidecars { files.len() } else { 0 };
    for place in 0..looked_at {
        let Some(file) = files.get(place).cloned() else { break };
        files.extend(sidecars(store, &file).await?);
    }
    let directories: BTreeSet<PathBuf> = files
        .iter()
        .filter_map(|file| PathBuf::from(to_local_path(file)).parent().map(FilePath::to_path_buf))
        .collect();
    let files = files.iter().map(to_local_path).map(PathBuf::from).collect();
    let files = without_further_names(files).doing(|| "look at the staged files".to_owned())?;
    // A disk takes many at once in hardly more time than one.
    let share = files.len().div_ceil(SYNCS_AT_ONCE).max(1);
    let shares = files.chunks(share).map(|share| sync_each(share.to_vec(), false));
    let synced = futures::future::try_join_all(shares).await;
    synced.doing(|| "sync the staged files to the disk".to_owned())?;
    let directories = directories.into_iter().filter(|_| cfg!(unix)).collect();
    let synced = sync_each(directories, true).await;
    synced.doing(|| "sync the directory of the staged files to the disk".to_owned())
}

/// One name of each of `files`: their bytes are synced once.
fn without_further_names(mut files: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mut seen = BTreeSet::new();
        let mut first = Vec::with_capacity(files.len());
        for file in files {
            let meta = std::fs::metadata(&file)?;
            if seen.insert((meta.dev(), meta.ino())) {
                first.push(file);
            }
        }
        files = first;
    }
    Ok(files)
}

/// Files that are synced at once.
const SYNCS_AT_ONCE: usize = 16;

async fn sync_each(paths: Vec<PathBuf>, all: bool) -> io::Result<()> {
    let synced = tokio::task::spawn_blocking(move || {
        paths.into_iter().try_for_each(|path| {
            let file = std::fs::File::open(path)?;
            if all { file.sync_all() } else { file.sync_data() }
        })
    });
    synced.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        let name = new_name("0123abcd");
        assert!(is_of(&name, "0123abcd"));
        assert!(!is_of(&name, "0123abce"));
        assert!(!is_of("101100101101010011010110a1b2c3d4e5f6a7b8c9d0e1f2a3.lance", "0123abcd"));
        assert_ne!(name, new_name("0123abcd"));
    }
}
