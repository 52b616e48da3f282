//! Giving up versions, and the space that only they use.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use lance::Dataset;
use lance::dataset::cleanup::{CleanupPolicy, CleanupPolicyBuilder, RemovalStats};

use crate::error::{Doing as _, Result};
use crate::limits::VERSIONS_AT_ONCE;
use crate::table::{history, open, orphans};

/// The ids of the migrations that pinned a version of `live` and are not there, if nothing is staged.
pub(crate) async fn stray_ids(live: &Arc<Dataset>) -> Result<BTreeSet<String>> {
    let points = history::rollback_points(live).await?;
    let strays = history::strays(live, &points, None).await?;
    // What is left of a rollback point is `finalize`'s.
    let of_none = strays.into_iter().filter(|stray| stray.swapped.is_none());
    Ok(of_none.map(|stray| stray.id).collect())
}

/// The names of the files that any version of `live` is made of, and the oldest version.
pub(crate) async fn named_by_all(live: &Dataset) -> Result<(HashSet<String>, u64)> {
    let versions = versions_of(live).await?;
    let mut names = HashSet::new();
    let opened = versions.iter().map(|version| open::at_version(live, *version).boxed());
    let mut opened = stream::iter(opened.collect::<Vec<_>>()).buffered(VERSIONS_AT_ONCE);
    while let Some(version) = opened.try_next().await? {
        names.extend(orphans::named_by(&version));
    }
    Ok((names, versions.first().copied().unwrap_or(live.version_id())))
}

/// The versions of `live`, oldest first.
pub(crate) async fn versions_of(live: &Dataset) -> Result<Vec<u64>> {
    // Lance's list of all that it knows of them would read each manifest, one after the other.
    let versions = live.version_refs().await.doing(|| "list the table's versions".to_owned())?;
    Ok(versions.iter().map(|version| version.version).collect())
}

/// Removes `versions`, those under a tag excepted, and what only they use.
pub(crate) async fn remove_versions(live: &Dataset, versions: Vec<u64>) -> Result<RemovalStats> {
    let names: Vec<String> = versions.iter().map(u64::to_string).collect();
    let stats = live.cleanup(cleanup_of(versions)?).execute().await;
    stats.doing(|| format!("remove the versions {}", names.join(", ")))
}

pub(crate) fn cleanup_of(versions: Vec<u64>) -> Result<CleanupPolicy> {
    let policy = CleanupPolicyBuilder::default().versions(versions);
    let policy = policy.doing(|| "plan the cleanup".to_owned())?;
    Ok(policy.error_if_tagged_old_versions(false).build())
}

/// The files that `stats` tells of, manifests and transactions left out.
pub(crate) fn files_removed(stats: &RemovalStats) -> u64 {
    stats.data_files_removed + stats.index_files_removed + stats.deletion_files_removed
}
