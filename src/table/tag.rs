//! The tags that keep versions from cleanups: on the source while it is staged, which is the rollback point
//! after the swap, and on the swapped version.

use std::collections::HashMap;

use lance::{Dataset, dataset::refs::TagContents};
use object_store::{ObjectMeta, ObjectStoreExt as _, PutMode, UpdateVersion, path::Path};

use crate::clock::{Clock as _, SystemClock};
use crate::error::{Doing, Error, Result};
use crate::table::open::{at_version, data_files_of, store_of};

/// What the name of every tag of relance's begins with.
pub(crate) const TAG_PREFIX: &str = "relance-";

/// What the name of the tag on a swapped version ends with.
pub(crate) const SWAP_SUFFIX: &str = ".swap";

/// The tag of the migration `id`: it pins the source while staging, and is the rollback point after.
pub(crate) fn tag_of(id: &str) -> String {
    format!("{TAG_PREFIX}{id}")
}

/// The tag on the version that the migration `id` was swapped in as: what going back reads there stays as
/// long as the rollback point.
pub(crate) fn swap_tag_of(id: &str) -> String {
    format!("{TAG_PREFIX}{id}{SWAP_SUFFIX}")
}

/// Tags `version`, so that no cleanup can take it.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn pin(dataset: &Dataset, id: &str, version: u64) -> Result<()> {
    let tag = tag_of(id);
    if create(dataset, &tag, version).await? {
        return Ok(());
    }
    if is_damaged(dataset, &tag).await? {
        remove_tag_file(dataset, &tag).await?;
        if create(dataset, &tag, version).await? {
            return Ok(());
        }
    }
    // The reply to an earlier attempt may have been lost; the name is nobody else's.
    let there = dataset.tags().get_version(&tag).await;
    let there = there.doing(|| format!("read the tag {tag}"))?;
    if there == version {
        return Ok(());
    }
    Err(Error::failed(format!("the tag {tag} is at version {there} already, not {version}")))
}

/// Tags `version`, which the migration `id` was swapped in as, so that no cleanup takes it. Where the tag
/// is on another version, it is moved.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn pin_swap(dataset: &Dataset, id: &str, version: u64) -> Result<()> {
    let (tag, tags) = (swap_tag_of(id), dataset.tags());
    if create(dataset, &tag, version).await? {
        return Ok(());
    }
    let written = match tags.get_version(&tag).await {
        Ok(there) if there == version => return Ok(()),
        Ok(_) => tags.update(&tag, version).await,
        Err(lance::Error::RefNotFound { .. }) => {
            return Err(Error::failed(format!("something else is where the tag {tag} goes")));
        }
        Err(error) => Err(error),
    };
    written.doing(|| format!("tag version {version} as {tag}"))
}

/// Which writing of a tag's file was seen: another one of the same content differs.
#[derive(Debug, Clone)]
pub(crate) struct Seen(UpdateVersion);

/// The pin of the migration `id` as it stands; `None`, when it is not there.
///
/// # Errors
/// `Failed`, when it cannot be read.
pub(crate) async fn see_pin(dataset: &Dataset, id: &str) -> Result<Option<Seen>> {
    let tag = tag_of(id);
    let got = store_of(dataset).await?.inner.get(&tag_file(dataset, &tag)).await;
    match got {
        Ok(got) => {
            let ObjectMeta { e_tag, version, .. } = got.meta;
            Ok(Some(Seen(UpdateVersion { e_tag, version })))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).doing(|| format!("read the tag {tag}")),
    }
}

/// Moves the pin of the migration `id`, as it was `seen` before its journal was seen to be the caller's own, to the version
/// that `dataset` is at. Where the store can tell, it is not moved if another run has written it since: one that takes over
/// [writes it again](write_pin), so that a run which wakes up late cannot move it.
///
/// # Errors
/// `Locked`, when another run has written it; `Failed`, when it cannot be written.
pub(crate) async fn move_pin(dataset: &Dataset, id: &str, seen: Option<Seen>) -> Result<()> {
    use object_store::Error::{
        AlreadyExists, NotFound, NotImplemented, NotSupported, Precondition,
    };
    let version = dataset.version_id();
    let Some(Seen(seen)) = seen else { return pin(dataset, id, version).await };
    if seen.e_tag.is_none() && seen.version.is_none() {
        return write_pin(dataset, id).await;
    }
    let tag = tag_of(id);
    let doing = || format!("move the tag {tag} to version {version}");
    let contents = contents(dataset, version).await.doing(doing)?;
    let (files, file) = (data_files_of(dataset).await?, tag_file(dataset, &tag));
    match files.store().put_opts(&file, contents.into(), PutMode::Update(seen).into()).await {
        Ok(_) => Ok(()),
        Err(NotImplemented { .. } | NotSupported { .. }) => write_pin(dataset, id).await,
        Err(Precondition { .. } | NotFound { .. } | AlreadyExists { .. }) => {
            // The reply to an earlier attempt may have been lost.
            let there = dataset.tags().get_version(&tag).await;
            if there.is_ok_and(|there| there == version) {
                return Ok(());
            }
            Err(Error::locked("another run took this migration over; this one stops"))
        }
        Err(error) => Err(error).doing(doing),
    }
}

/// Writes the pin of the migration `id`, which the caller has just taken over, to the version that `dataset` is at: also
/// where it is there already, so that nobody who has seen it before can move it.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn write_pin(dataset: &Dataset, id: &str) -> Result<()> {
    let tag = tag_of(id);
    let doing = || format!("move the tag {tag} to version {}", dataset.version_id());
    let contents = contents(dataset, dataset.version_id()).await.doing(doing)?;
    let files = data_files_of(dataset).await?;
    let put = files.store().put(&tag_file(dataset, &tag), contents.into()).await;
    put.map(drop).doing(doing)
}

/// Writes `tag` as Lance does, if it is not there; false, when it is. Lance itself makes a folder beside the database
/// first, where the database's path has signs that are encoded in URLs, and fails where it cannot: the path of its
/// temporary file is encoded once too often (lance-io 14 `src/object_store.rs`, `put_if_absent`).
async fn create(dataset: &Dataset, tag: &str, version: u64) -> Result<bool> {
    let doing = || format!("tag version {version} as {tag}");
    let text = contents(dataset, version).await.doing(doing)?;
    let put = data_files_of(dataset).await?.put_new(&tag_file(dataset, tag), text.into()).await;
    put.doing(doing)
}

/// What a tag on `version` holds.
async fn contents(dataset: &Dataset, version: u64) -> Result<Vec<u8>> {
    let doing = || format!("tell the size of version {version}");
    let other;
    let manifest = if version == dataset.version_id() {
        dataset.manifest_location()
    } else {
        other = at_version(dataset, version).await?;
        other.manifest_location()
    };
    let size = match manifest.size {
        Some(size) => size,
        None => store_of(dataset).await?.size(&manifest.path).await.doing(doing)?,
    };
    let (manifest_size, now) = (usize::try_from(size).doing(doing)?, Some(SystemClock.now()));
    let metadata = HashMap::new();
    let (created_at, updated_at, branch) = (now, now, None);
    let tag_contents =
        TagContents { branch, version, created_at, updated_at, manifest_size, metadata };
    serde_json::to_vec_pretty(&tag_contents).doing(|| "write a tag as JSON".to_owned())
}

/// Removes the tags of the migration `id`; what is gone already is as good. The rollback point goes last:
/// as long as it is there, it can be removed again.
///
/// # Errors
/// `Failed`, when one is there and cannot be removed.
pub(crate) async fn unpin(dataset: &Dataset, id: &str) -> Result<()> {
    remove(dataset, &swap_tag_of(id)).await?;
    remove(dataset, &tag_of(id)).await?;
    remove_half_written(dataset, id).await
}

/// Removes the tag of the rollback point of the migration `id`, so that a cleanup takes that version. The tag of the swap still
/// tells of it, until [`unpin`].
///
/// # Errors
/// `Failed`, when it is there and cannot be removed.
pub(crate) async fn give_up_point(dataset: &Dataset, id: &str) -> Result<()> {
    remove(dataset, &tag_of(id)).await
}

async fn remove(dataset: &Dataset, tag: &str) -> Result<()> {
    match dataset.tags().delete(tag).await {
        Ok(()) | Err(lance::Error::RefNotFound { .. }) => Ok(()),
        // What is no tag any more goes as a file.
        Err(_) if is_damaged(dataset, tag).await? => remove_tag_file(dataset, tag).await,
        Err(error) => Err(error).doing(|| format!("remove the tag {tag}")),
    }
}

/// Removes the tags of the migration `id` that were not written to their end: a store on a disk writes a file under
/// another name first.
async fn remove_half_written(dataset: &Dataset, id: &str) -> Result<()> {
    let files = data_files_of(dataset).await?;
    let tags = [tag_of(id), swap_tag_of(id)].map(|tag| format!("{tag}.json"));
    let half = |name: &str| tags.iter().any(|tag| name.starts_with(tag) && name != tag);
    for meta in files.list_below(&tag_folder(dataset)).await? {
        if meta.location.filename().is_some_and(half) {
            files.remove(&meta.location).await?;
        }
    }
    Ok(())
}

/// Where the tags of `dataset` lie (lance 14 `src/dataset/refs.rs`).
fn tag_folder(dataset: &Dataset) -> Path {
    dataset.branch_location().path.join("_refs").join("tags")
}

fn tag_file(dataset: &Dataset, tag: &str) -> Path {
    tag_folder(dataset).join(format!("{tag}.json"))
}

/// Whether the file of `tag` is there and does not read as a tag.
///
/// # Errors
/// `Failed`, when it cannot be looked at.
pub(crate) async fn is_damaged(dataset: &Dataset, tag: &str) -> Result<bool> {
    let store = store_of(dataset).await?;
    let file = tag_file(dataset, tag);
    let text = match store.inner.get(&file).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(false),
        got => got.doing(|| format!("read the tag {tag}"))?.bytes().await,
    };
    let text = text.doing(|| format!("read the tag {tag}"))?;
    let read: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    let version = read.as_ref().and_then(|read| read.get("version"));
    Ok(version.and_then(serde_json::Value::as_u64).is_none())
}

async fn remove_tag_file(dataset: &Dataset, tag: &str) -> Result<()> {
    data_files_of(dataset).await?.remove(&tag_file(dataset, tag)).await
}

/// The names of the tags of `dataset`, read or not.
///
/// # Errors
/// `Failed`, when they cannot be listed.
pub(crate) async fn tag_names(dataset: &Dataset) -> Result<Vec<String>> {
    let files = data_files_of(dataset).await?.list_below(&tag_folder(dataset)).await?;
    let names = files.iter().filter_map(|meta| meta.location.filename()?.strip_suffix(".json"));
    Ok(names.map(str::to_owned).collect())
}
