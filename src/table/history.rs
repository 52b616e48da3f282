//! What was committed to a table, and by whom: finds a migration's swap, and what came after it.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};

use crate::error::{Doing, Error, Result};
use crate::limits::VERSIONS_AT_ONCE;
use crate::table::commit::{Act, id_of, is_of, is_ours};
use crate::table::tag::{SWAP_SUFFIX, TAG_PREFIX, is_damaged, swap_tag_of, tag_names, tag_of};
use crate::{retry::is_gone, storage::names::is_data_file, table::open::newest};

/// Commits after a swap that are looked at where it only matters about how many there are, and after which
/// nobody looks for what a swap left behind.
pub(crate) const LOOK_MAX: u64 = 64;
/// Commits among which a rollback is looked for.
const ROLLBACK_MAX: u64 = 256;

/// A migration whose rollback point is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RollbackPoint {
    pub id: String,
    /// The version before the swap.
    pub version: u64,
    /// The version that is the swap; `None` while it is only pinned.
    pub swapped: Option<u64>,
}

/// A commit that is not this migration's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Other {
    pub version: u64,
    /// Lance's name for what it did.
    pub operation: String,
}

impl Other {
    /// Whether it may have changed a row: compactions and index builds do not.
    pub(crate) fn changes_rows(&self) -> bool {
        !matches!(self.operation.as_str(), "Rewrite" | "ReserveFragments" | "CreateIndex")
    }
}

/// The rollback points of a table, oldest first.
///
/// # Errors
/// `Failed`, when tags or transactions cannot be read.
pub(crate) async fn rollback_points(live: &Dataset) -> Result<Vec<RollbackPoint>> {
    let mut points = Vec::new();
    for (tag, version) in read_tags(live).await? {
        let Some(id) = tag.strip_prefix(TAG_PREFIX).filter(|id| !id.ends_with(SWAP_SUFFIX)) else {
            continue;
        };
        points.push(point_of(live, id, version).await?);
    }
    points.sort_by_key(|point| point.version);
    Ok(points)
}

/// Those of the `points` that were never swapped, and what is left of others' tags: they keep a version for a
/// migration that is not there, or, where they are of a swap, for a rollback point that was not given up to its end. That of
/// the migration `staged` is at work.
///
/// # Errors
/// `Failed`, when the tags cannot be read.
pub(crate) async fn strays(
    live: &Dataset,
    points: &[RollbackPoint],
    staged: Option<&str>,
) -> Result<Vec<RollbackPoint>> {
    let unswapped = points.iter().filter(|point| point.swapped.is_none()).cloned();
    let mut strays: Vec<_> = unswapped.collect();
    for (tag, version) in read_tags(live).await? {
        let id = tag.strip_prefix(TAG_PREFIX).and_then(|rest| rest.strip_suffix(SWAP_SUFFIX));
        let lone = id.filter(|id| points.iter().all(|point| point.id != *id));
        let Some(id) = lone.map(str::to_owned) else { continue };
        let there = transaction(live, version).await?;
        let is_swap = there.is_some_and(|there| is_ours(&there, &id, Act::Swap));
        strays.push(match version.checked_sub(1) {
            Some(before) if is_swap => {
                RollbackPoint { id, version: before, swapped: Some(version) }
            }
            _ => RollbackPoint { id, version, swapped: None },
        });
    }
    strays.retain(|stray| Some(stray.id.as_str()) != staged);
    strays.sort_by(|a, b| (a.version, &a.id).cmp(&(b.version, &b.id)));
    Ok(strays)
}

/// The tags of a table, and their versions; without those that are damaged.
///
/// # Errors
/// `Failed`, when they cannot be read.
pub(crate) async fn read_tags(live: &Dataset) -> Result<HashMap<String, u64>> {
    if let Ok(tags) = live.tags().list().await {
        return Ok(tags.into_iter().map(|(tag, contents)| (tag, contents.version)).collect());
    }
    // Lance lists all or none.
    let mut tags = HashMap::new();
    for tag in tag_names(live).await? {
        if let Some(version) = tagged(live, &tag).await? {
            tags.insert(tag, version);
        }
    }
    Ok(tags)
}

/// The version of `tag`, if it is there and not damaged.
async fn tagged(live: &Dataset, tag: &str) -> Result<Option<u64>> {
    match live.tags().get_version(tag).await {
        Ok(version) => Ok(Some(version)),
        Err(lance::Error::RefNotFound { .. }) => Ok(None),
        Err(_) if is_damaged(live, tag).await? => Ok(None),
        Err(error) => Err(error).doing(|| format!("read the tag {tag}")),
    }
}

/// The rollback point of the migration `id`.
///
/// # Errors
/// `Failed`, when the tag or a transaction cannot be read.
pub(crate) async fn rollback_point(live: &Dataset, id: &str) -> Result<Option<RollbackPoint>> {
    let Some(version) = tagged(live, &tag_of(id)).await? else { return Ok(None) };
    point_of(live, id, version).await.map(Some)
}

/// The rollback point of the migration `id`, whose pin is on `version`. Where the tag of its swap says otherwise, that is
/// right: a run that was taken over, and woke up late, may have moved the pin.
async fn point_of(live: &Dataset, id: &str, version: u64) -> Result<RollbackPoint> {
    let point = |version, swapped| RollbackPoint { id: id.to_owned(), version, swapped };
    if let Some(swapped) = swap_after(live, id, version).await? {
        return Ok(point(version, Some(swapped)));
    }
    let swapped = tagged(live, &swap_tag_of(id)).await?;
    if let Some((swapped, before)) = swapped.and_then(|at| Some((at, at.checked_sub(1)?)))
        && transaction(live, swapped).await?.is_some_and(|there| is_ours(&there, id, Act::Swap))
    {
        return Ok(point(before, Some(swapped)));
    }
    Ok(point(version, None))
}

/// Whether `version` has the tag of the swap of the migration `id`, which it gets once it was seen to be whole.
///
/// # Errors
/// `Failed`, when the tag cannot be read.
pub(crate) async fn is_tagged_swap(live: &Dataset, id: &str, version: u64) -> Result<bool> {
    Ok(tagged(live, &swap_tag_of(id)).await? == Some(version))
}

/// The version that is the swap of the migration `id`: it is the one after its rollback point, since
/// the swap commits exactly that version or nothing.
async fn swap_after(live: &Dataset, id: &str, version: u64) -> Result<Option<u64>> {
    let next = version + 1;
    if next > head(live).await? {
        return Ok(None);
    }
    let ours = match transaction(live, next).await? {
        Some(transaction) => is_ours(&transaction, id, Act::Swap),
        // A cleanup has taken it: its own tag tells, or the table itself.
        None => {
            tagged(live, &swap_tag_of(id)).await? == Some(next) || names_files_of(live, id).await?
        }
    };
    Ok(ours.then_some(next))
}

/// The version that is the swap of the migration `id`, which pinned version `first` first: by its tags, and
/// whatever became of those, looked for when the newest version names files of the migration.
///
/// # Errors
/// `Failed`, when a tag or a transaction cannot be read; `Refused`, when the swap has landed and its version is gone.
pub(crate) async fn find_swap(live: &Dataset, id: &str, first: u64) -> Result<Option<u64>> {
    let point = rollback_point(live, id).await?;
    if let Some(version) = point.and_then(|point| point.swapped) {
        return Ok(Some(version));
    }
    // One that is newer than the table came of another table of this name, which others have dropped.
    if let Some(version) = tagged(live, &swap_tag_of(id)).await?
        && version <= head(live).await?
    {
        let there = transaction(live, version).await?;
        if there.is_none_or(|there| is_ours(&there, id, Act::Swap)) {
            return Ok(Some(version));
        }
    }
    if !names_files_of(live, id).await? {
        return Ok(None);
    }
    for version in (first + 1..=head(live).await?).rev() {
        let transaction = transaction(live, version).await?;
        if transaction.is_some_and(|transaction| is_ours(&transaction, id, Act::Swap)) {
            return Ok(Some(version));
        }
    }
    Err(Error::refused(format!(
        "the swap of migration {id} has landed, and its version was cleaned away. The live table is whole"
    ))
    .with_advice("drop the staging table with LanceDB; nothing else is left to do"))
}

/// Whether the newest version of `live` names data files of the migration `id`.
async fn names_files_of(live: &Dataset, id: &str) -> Result<bool> {
    let newest = newest(live).await?;
    let mut fragments = newest.iter_fragments();
    Ok(fragments.any(|one| one.files.iter().any(|file| is_data_file(&file.path, id))))
}

/// The newest version of the table.
///
/// # Errors
/// `Failed`, when it cannot be read.
pub(crate) async fn head(live: &Dataset) -> Result<u64> {
    let head = live.latest_version_id().await;
    head.doing(|| format!("read the newest version of {}", live.uri()))
}

/// Everybody else's commits after `version`, up to `head`. Rebuilding an index is the migration's own.
///
/// # Errors
/// `Failed`, when a transaction cannot be read.
pub(crate) async fn others_since(
    live: &Dataset,
    id: &str,
    version: u64,
    head: u64,
) -> Result<Vec<Other>> {
    let transactions = transactions(live, version + 1, head).await?;
    let others = transactions.into_iter().filter_map(|(version, transaction)| {
        let operation = match transaction {
            Some(transaction) if is_of(&transaction, id) => return None,
            // Another migration's commit that changes nothing.
            Some(transaction) if id_of(&transaction, Act::Fence).is_some() => return None,
            Some(transaction) => transaction.operation.name().to_owned(),
            None => "unknown".to_owned(),
        };
        Some(Other { version, operation })
    });
    Ok(others.collect())
}

/// How many commits are others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since {
    /// Commits, whosever they are.
    pub commits: u64,
    /// Those that are known to be others'.
    pub others: u64,
    /// Whether there may be more: not every one was looked at.
    pub at_least: bool,
}

/// As [`others_since`], but only how many there are. Reads the first [`LOOK_MAX`] only: what this migration
/// commits after its swap comes soon.
///
/// # Errors
/// `Failed`, when a transaction cannot be read.
pub(crate) async fn count_since(live: &Dataset, id: &str, version: u64) -> Result<Since> {
    let head = live.version_id();
    let last = head.min(version.saturating_add(LOOK_MAX));
    let others = others_since(live, id, version, last).await?.len() as u64;
    Ok(Since { commits: head.saturating_sub(version), others, at_least: last < head })
}

/// A swap that was taken back by one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenBack {
    pub id: String,
    /// The version before the swap, which was put back.
    pub restored: u64,
    /// The version that put it back.
    pub version: u64,
}

impl TakenBack {
    /// The versions from the swap on, up to what took it back.
    pub(crate) fn versions(&self) -> impl Iterator<Item = u64> {
        self.restored + 1..self.version
    }
}

/// The swaps that were taken back after the version `after`, in the last [`ROLLBACK_MAX`] commits, oldest first.
///
/// # Errors
/// `Failed`, when a transaction cannot be read.
pub(crate) async fn taken_back(live: &Dataset, after: u64) -> Result<Vec<TakenBack>> {
    Ok(taken_back_in(&last_transactions(live, after).await?))
}

/// The transactions of the last [`ROLLBACK_MAX`] commits, as far as they come after the version `after`.
async fn last_transactions(live: &Dataset, after: u64) -> Result<Vec<(u64, Option<Transaction>)>> {
    let head = live.version_id();
    transactions(live, head.saturating_sub(ROLLBACK_MAX).max(after) + 1, head).await
}

fn taken_back_in(made: &[(u64, Option<Transaction>)]) -> Vec<TakenBack> {
    let back = made.iter().filter_map(|(version, made)| {
        let made = made.as_ref()?;
        let id = id_of(made, Act::Rollback)?.to_owned();
        let Operation::Restore { version: restored } = made.operation else { return None };
        Some(TakenBack { id, restored, version: *version })
    });
    back.collect()
}

/// Whether `version` is the swap of any migration.
///
/// # Errors
/// `Failed`, when its transaction cannot be read.
pub(crate) async fn is_swap(live: &Dataset, version: u64) -> Result<bool> {
    let made = transaction(live, version).await?;
    Ok(made.is_some_and(|made| id_of(&made, Act::Swap).is_some()))
}

/// The swaps of any migration after the version `after` that were not taken back, in the last [`ROLLBACK_MAX`] commits.
///
/// # Errors
/// `Failed`, when a transaction cannot be read.
pub(crate) async fn swaps_since(live: &Dataset, after: u64) -> Result<Vec<u64>> {
    let made = last_transactions(live, after).await?;
    let back = taken_back_in(&made);
    let swaps = made.iter().filter(|(_, made)| {
        let id = made.as_ref().and_then(|made| id_of(made, Act::Swap));
        id.is_some_and(|id| back.iter().all(|back| back.id != id))
    });
    Ok(swaps.map(|(version, _)| *version).collect())
}

/// The transactions that made the versions from `first` to `last`.
async fn transactions(
    live: &Dataset,
    first: u64,
    last: u64,
) -> Result<Vec<(u64, Option<Transaction>)>> {
    stream::iter(first..=last)
        .map(|version| async move { Ok((version, transaction(live, version).await?)) })
        .buffered(VERSIONS_AT_ONCE)
        .try_collect()
        .await
}

/// The transaction that made `version`; `None`, when it tells of none or a cleanup has taken it.
async fn transaction(live: &Dataset, version: u64) -> Result<Option<Transaction>> {
    match live.read_transaction_by_version(version).await {
        Err(error) if is_gone(&error) => Ok(None),
        read => read.doing(|| format!("read the transaction of version {version}")),
    }
}
