//! Giving up what is kept for going back, and the space that only it uses.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use lance::Dataset;
use lance::dataset::cleanup::{CleanupPolicy, CleanupPolicyBuilder, RemovalStats};

use crate::error::{Context, Error, Result};
use crate::history::{self, TakenBack};
use crate::leftover::{self, Removed};
use crate::progress::note;
use crate::run::Migration;
use crate::run::report::{Aborted, Finalized, Unused};
use crate::source;
use crate::table::{self, newest};

impl Migration {
    /// What only the versions `from..to` of `live`, taken back by `to`, use. `None`, when that cannot be
    /// told: the rollback has landed all the same.
    pub(super) async fn unused(&self, live: &Dataset, from: u64, to: u64) -> Option<Unused> {
        let versions: Vec<u64> = (from..to).collect();
        let stats = async {
            let cleanup = live.cleanup(policy(versions)?);
            let told = cleanup.with_max_candidate_files(0).explain().await;
            Ok(told.doing(|| "look for what is not used any more".to_owned())?.stats)
        };
        match stats.await {
            Ok(stats) => Some(Unused { files: files(&stats), bytes: stats.bytes_removed }),
            Err(error) => {
                let error: Error = error;
                note(&self.progress, error.report(&[]).replace('\n', " "));
                None
            }
        }
    }

    /// Reclaims what swaps that were rolled back left, where there is no rollback point.
    pub(super) async fn finalize_taken_back(
        &self,
        live: &Dataset,
        with_history: bool,
    ) -> Result<Finalized> {
        let table = self.location.table();
        let there: BTreeSet<u64> = versions(live).await?.into_iter().collect();
        let mut gone = BTreeSet::new();
        let mut last = None;
        for back in history::taken_back(live, 0).await? {
            let known = gone.len();
            gone.extend(back.versions().filter(|version| there.contains(version)));
            if gone.len() > known {
                last = Some(back);
            }
        }
        let Some(TakenBack { id, restored, version }) = last else {
            return Err(Error::failed(format!(
                "`{table}` has no rollback point, and no swap was rolled back lately whose files could be \
                 reclaimed"
            )));
        };
        if with_history {
            gone.extend(there.into_iter().filter(|older| *older < version));
        }
        let stats = remove(live, gone.into_iter().collect()).await?;
        Ok(Finalized {
            table: table.to_owned(),
            id,
            version: restored + 1,
            rolled_back: true,
            files: files(&stats),
            bytes: stats.bytes_removed,
            // They cannot hold what came after them.
            older_versions: 0,
        })
    }

    /// Removes the pins of migrations that are not there, where nothing is staged, and what they left that no
    /// version names. `None`, when there are none.
    pub(super) async fn abort_pins(&self, live: &Arc<Dataset>) -> Result<Option<Aborted>> {
        let before = strays(live).await?;
        if before.is_empty() {
            return Ok(None);
        }
        // What was pinned before the look, and is not swapped after it, is nobody's: a migration that began
        // meanwhile has another id, one that ended is swapped.
        let live = newest(live).await?;
        let mut ids = strays(&live).await?;
        ids.retain(|id| before.contains(id));
        let (keep, first) = named_by_all(&live).await?;
        let mut all = Removed::default();
        for id in &ids {
            let removed = leftover::remove(&live, id, &keep, first, None).await?;
            all.files += removed.files;
            all.bytes += removed.bytes;
            source::unpin(&live, id).await?;
        }
        let (table, pins) = (self.location.table().to_owned(), ids.len() as u64);
        let id = ids.into_iter().collect::<Vec<_>>().join(", ");
        let (Removed { files, bytes }, left) = (all, Vec::new());
        Ok((pins > 0).then_some(Aborted { table, id, pins, files, bytes, left }))
    }
}

/// The ids of the migrations that pinned a version of `live` and are not there, if nothing is staged.
async fn strays(live: &Arc<Dataset>) -> Result<BTreeSet<String>> {
    let points = history::rollback_points(live).await?;
    let strays = history::strays(live, &points, None).await?;
    Ok(strays.into_iter().map(|stray| stray.id).collect())
}

/// The names of the files that any version of `live` is made of, and the oldest version.
pub(super) async fn named_by_all(live: &Dataset) -> Result<(HashSet<String>, u64)> {
    let versions = versions(live).await?;
    let mut names = HashSet::new();
    for version in &versions {
        names.extend(leftover::named_by(&*table::at_version(live, *version).await?));
    }
    Ok((names, versions.first().copied().unwrap_or(live.version_id())))
}

/// The versions of `live`, oldest first.
pub(super) async fn versions(live: &Dataset) -> Result<Vec<u64>> {
    let versions = live.versions().await.doing(|| "list the table's versions".to_owned())?;
    Ok(versions.iter().map(|version| version.version).collect())
}

/// Removes `versions`, those under a tag excepted, and what only they use.
pub(super) async fn remove(live: &Dataset, versions: Vec<u64>) -> Result<RemovalStats> {
    let names: Vec<String> = versions.iter().map(u64::to_string).collect();
    let stats = live.cleanup(policy(versions)?).execute().await;
    stats.doing(|| format!("remove the versions {}", names.join(", ")))
}

fn policy(versions: Vec<u64>) -> Result<CleanupPolicy> {
    let policy = CleanupPolicyBuilder::default().versions(versions);
    let policy = policy.doing(|| "plan the cleanup".to_owned())?;
    Ok(policy.error_if_tagged_old_versions(false).build())
}

/// The files that `stats` tells of, manifests and transactions left out.
pub(super) fn files(stats: &RemovalStats) -> u64 {
    stats.data_files_removed + stats.index_files_removed + stats.deletion_files_removed
}
