//! Old versions of the staging table: nobody needs them, and each holds all that is staged.

use chrono::{DateTime, Utc};
use lance::Dataset;
use object_store::ObjectMeta;

use crate::error::{Error, Result};
use crate::{storage::files::DataFiles, table::open::data_files_of};

/// Versions that are kept: readers may be about to open the newest they know, and the last one before a new
/// version shows that nobody dropped the journal meanwhile.
const KEPT: u64 = 4;

/// Makes sure that `landed` follows on `before`, and removes old versions then, if it `clears`. It does not follow where another run
/// removed the journal at this very moment, so that `landed` would bring it back; or where others are far ahead, and
/// `landed` took the number of an old version that they had removed. Gives how the store dates `landed`, if that was seen.
///
/// # Errors
/// `Locked`; `landed` is gone then.
///
/// # Crash
/// The oldest go first, so that no gap is left but the one after the first version, which stays: it is the lock.
pub(super) async fn tidy(
    before: &Dataset,
    landed: &Dataset,
    clears: bool,
) -> Result<Option<DateTime<Utc>>> {
    // What cannot be listed now is tidied next time.
    let Ok(files) = data_files_of(landed).await else { return Ok(None) };
    let Ok(mut versions) = versions(files.as_ref(), landed).await else { return Ok(None) };
    let dated = versions.iter().find(|(version, _)| *version == landed.version_id());
    let dated = dated.map(|(_, meta)| meta.last_modified);
    let (last, now) = (before.version_id(), landed.version_id());
    let is_there = versions.iter().any(|(version, _)| *version == last);
    let is_newest = versions.iter().all(|(version, _)| *version <= now);
    if !is_there || !is_newest {
        files.remove(&landed.manifest_location().path).await?;
        let what = if is_newest { "dropped this migration" } else { "took this migration over" };
        return Err(Error::locked(format!("another run {what}; this one stops")));
    }
    if !clears {
        return Ok(dated);
    }
    versions.sort_unstable_by_key(|(version, _)| *version);
    versions.retain(|(version, _)| is_old(*version, now));
    for (_, meta) in &versions {
        if files.remove(&meta.location).await.is_err() {
            return Ok(dated);
        }
    }
    if !versions.is_empty() {
        remove_transactions(files.as_ref(), landed).await;
    }
    Ok(dated)
}

fn is_old(version: u64, now: u64) -> bool {
    version > 1 && now.checked_sub(version).is_some_and(|age| age >= KEPT)
}

/// The versions that are there, and where.
async fn versions(files: &dyn DataFiles, staging: &Dataset) -> Result<Vec<(u64, ObjectMeta)>> {
    let scheme = staging.manifest_location().naming_scheme;
    let listed = files.list_below(&staging.versions_dir()).await?;
    let versions = listed.into_iter().filter_map(|meta| {
        let name = meta.location.filename().filter(|name| name.ends_with(".manifest"))?;
        Some((scheme.parse_version(name)?, meta))
    });
    Ok(versions.collect())
}

/// Removes the transactions of old versions. Each is named for the version that it read.
async fn remove_transactions(files: &dyn DataFiles, staging: &Dataset) {
    let now = staging.version_id();
    let listed = files.list_below(&staging.transactions_dir()).await;
    for meta in listed.unwrap_or_default() {
        let name = meta.location.filename().and_then(|name| name.split_once('-'));
        let from = name.and_then(|(from, _)| from.parse::<u64>().ok());
        if from.is_some_and(|from| is_old(from.saturating_add(1), now)) {
            // The next tidying finds what is left.
            let _ = files.remove(&meta.location).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_and_the_newest_are_kept() {
        let kept =
            |now: u64| (1..=now).filter(|version| !is_old(*version, now)).collect::<Vec<_>>();
        assert_eq!(kept(4), [1, 2, 3, 4]);
        assert_eq!(kept(5), [1, 2, 3, 4, 5]);
        assert_eq!(kept(900), [1, 897, 898, 899, 900]);
    }
}
