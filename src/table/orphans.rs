//! What killed runs left in a table's folder, found by name: files of the migration that no version
//! names. Nobody else's file is touched.

use std::{collections::HashSet, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream, try_join};
use lance::Dataset;
use lance_io::object_store::ObjectStore;
use lance_table::{format::Manifest, io::manifest::read_manifest};
use object_store::{ObjectMeta, path::Path};

use crate::error::{Doing, Result};
use crate::limits::VERSIONS_AT_ONCE;
use crate::retry::is_gone;
use crate::storage::files::{self, DataFiles};
use crate::storage::names::{data_file_of, directory_of, is_deletion_file, is_uuid};
use crate::table::open::{indices_of, newest, store_of};
use crate::{storage::deletion, table::history};

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub files: u64,
    pub bytes: u64,
}

/// The names of the data files and deletion files that `live` is made of, and of its transaction.
pub(crate) fn named_by(live: &Dataset) -> HashSet<String> {
    let mut names: HashSet<String> = live.manifest().transaction_file.iter().cloned().collect();
    for fragment in live.iter_fragments() {
        names.extend(fragment.files.iter().map(|file| file.path.clone()));
        let deletions = fragment.deletion_file.as_ref();
        names.extend(deletions.map(|file| deletion::name(fragment.id, file)));
    }
    names
}

/// Files of a migration that nothing names.
#[derive(Debug)]
pub(crate) struct Orphans {
    files: Arc<dyn DataFiles>,
    found: Vec<ObjectMeta>,
}

/// Finds every file of the migration `id` below `live` that is not in `keep` (names of data files, deletion
/// files and transactions) and that no version names. Transactions and indices are looked for in the versions from `since` on; where
/// there are more than `at_most` of these, if that is given, they are left to Lance's cleanup.
///
/// # Errors
/// `Failed`, when a directory cannot be listed.
pub(crate) async fn find(
    live: &Dataset,
    id: &str,
    keep: &HashSet<String>,
    since: u64,
    at_most: Option<u64>,
) -> Result<Orphans> {
    let store = store_of(live).await?;
    let files = files::of(&store);
    let root = live.branch_location().path;
    let (data_dir, deletions_dir, versions_dir) =
        (live.data_dir(), deletion::directory(&root), live.versions_dir());
    let (mut found, deletions, versions, mut uncommitted) = try_join!(
        files.list_whole(&data_dir, id),
        files.list_below(&deletions_dir),
        files.list_below(&versions_dir),
        uncommitted(live, files.as_ref(), id, keep, (since, at_most)),
    )?;
    found.retain(|meta| !keep.contains(&data_file_of(&meta.location)));
    found.extend(
        deletions
            .into_iter()
            .filter(|meta| is_deletion_file(name_of(meta), id) && !keep.contains(name_of(meta))),
    );
    for meta in versions {
        let ours = is_no_version(&meta) && is_manifest_of(&store, &meta, id).await;
        found.extend(ours.then_some(meta));
    }
    found.append(&mut uncommitted);
    // Only now: a file written after the listing is not in it, and one adopted before is in the newest version.
    let named = named_by(&*newest(live).await?);
    found.retain(|meta| !named.contains(&data_file_of(&meta.location)));
    Ok(Orphans { files, found })
}

impl Orphans {
    /// Whether there are none.
    pub(crate) fn are_none(&self) -> bool {
        self.found.is_empty()
    }

    /// Removes them. Whoever has a journal makes sure first that it is still its own: another run that adopts one of
    /// these files has taken the journal over.
    ///
    /// # Errors
    /// `Failed`, when one is there and cannot be removed.
    ///
    /// # Crash
    /// Finding and removing them again removes the rest.
    pub(crate) async fn clear(self) -> Result<Removed> {
        let mut removed = Removed::default();
        let places = self.found.iter().map(|meta| meta.location.clone());
        self.files.remove_all(places.collect()).await?;
        for meta in self.found {
            if meta.location.extension() == Some("blob") {
                self.files.remove_empty(&directory_of(&meta.location));
            }
            removed.files += 1;
            removed.bytes += meta.size;
        }
        Ok(removed)
    }
}

/// Finds and removes orphans, for those who have no journal.
///
/// # Errors
/// As [`find`] and [`Orphans::clear`].
pub(crate) async fn clear(
    live: &Dataset,
    id: &str,
    keep: &HashSet<String>,
    since: u64,
) -> Result<Removed> {
    find(live, id, keep, since, Some(history::LOOK_MAX)).await?.clear().await
}

/// The transaction files and index files of the migration that no version names, as [`find`] looks for them, but for
/// transactions that are in `keep`.
async fn uncommitted(
    live: &Dataset,
    files: &dyn DataFiles,
    id: &str,
    keep: &HashSet<String>,
    (since, at_most): (u64, Option<u64>),
) -> Result<Vec<ObjectMeta>> {
    let (transactions_dir, indices_dir) = (live.transactions_dir(), live.indices_dir());
    let (mut transactions, mut indices) =
        try_join!(files.list_below(&transactions_dir), files.list_below(&indices_dir))?;
    transactions
        .retain(|meta| is_uuid(transaction_of(meta).1, id) && !keep.contains(name_of(meta)));
    indices.retain(|meta| is_uuid(&uuid_of(meta, &live.indices_dir()), id));
    let names = transactions.iter().map(|meta| name_of(meta).to_owned());
    let uuids = indices.iter().map(|meta| uuid_of(meta, &live.indices_dir()));
    let wanted: HashSet<String> = names.chain(uuids).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    // A transaction is committed as a version after the one that it read.
    let first = transactions.iter().filter_map(|meta| transaction_of(meta).0).min();
    let since = first.map_or(since, |first| since.min(first + 1));
    let left = never_committed(live, since, at_most, wanted).await?;
    transactions.retain(|meta| left.contains(name_of(meta)));
    indices.retain(|meta| left.contains(&uuid_of(meta, &live.indices_dir())));
    transactions.append(&mut indices);
    Ok(transactions)
}

/// The version that a transaction read, and its id.
fn transaction_of(meta: &ObjectMeta) -> (Option<u64>, &str) {
    let stem = name_of(meta).strip_suffix(".txn").unwrap_or_default();
    let (version, uuid) = stem.split_once('-').unwrap_or_default();
    (version.parse().ok(), uuid)
}

/// Those of the transaction files and indices `wanted` that no version names, of those from `since` on that are
/// still there; none, where there are more than `at_most` versions. Stops once all are found to be named.
async fn never_committed(
    live: &Dataset,
    since: u64,
    at_most: Option<u64>,
    wanted: HashSet<String>,
) -> Result<HashSet<String>> {
    let head = history::head(live).await?;
    let last = at_most.map_or(head, |most| head.min(since.saturating_add(most)));
    let mut left = wanted;
    let named = (since..=last).map(|version| committed_by(live, version).boxed());
    let mut named = stream::iter(named).buffered(VERSIONS_AT_ONCE);
    while !left.is_empty()
        && let Some(named) = named.try_next().await?
    {
        left.retain(|name| !named.contains(name));
    }
    drop(named);
    // A version beyond may name them.
    if last < head {
        left.clear();
    }
    Ok(left)
}

/// The transaction file and the indices that `version` names; nothing, where it is gone.
async fn committed_by(live: &Dataset, version: u64) -> Result<Vec<String>> {
    let at = match live.checkout_version(version).await {
        Ok(at) => at,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("open version {version}")),
    };
    let mut named: Vec<String> = at.manifest().transaction_file.iter().cloned().collect();
    named.extend(indices_of(&at).await?.iter().map(|index| index.uuid.to_string()));
    Ok(named)
}

fn name_of(meta: &ObjectMeta) -> &str {
    meta.location.filename().unwrap_or_default()
}

/// The name of the index's directory that `meta` lies in.
fn uuid_of(meta: &ObjectMeta, indices: &Path) -> String {
    let below = meta.location.prefix_match(indices).and_then(|mut parts| parts.next());
    below.map(|part| part.as_ref().to_owned()).unwrap_or_default()
}

/// Whether `meta` is a manifest that is no version: under the name that Lance gives it before it is
/// committed by a rename, or detached (lance-table 14 `src/io/commit.rs`).
fn is_no_version(meta: &ObjectMeta) -> bool {
    name_of(meta).contains(".manifest-") || name_of(meta).starts_with('d')
}

/// Whether the manifest is one of a commit of the migration `id`. One that was not written to its end
/// cannot be told from others', and is left to Lance's cleanup.
async fn is_manifest_of(store: &ObjectStore, meta: &ObjectMeta, id: &str) -> bool {
    let manifest: lance::Result<Manifest> =
        read_manifest(store, &meta.location, Some(meta.size)).await;
    let file = manifest.ok().and_then(|manifest| manifest.transaction_file);
    file.is_some_and(|file| is_uuid(file.trim_end_matches(".txn"), id))
}
