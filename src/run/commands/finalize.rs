//! `finalize`: gives up the rollback point.

use std::collections::{BTreeSet, HashMap, HashSet};

use lance::Dataset;

use crate::error::{Error, Result};
use crate::run::planning::open_live;
use crate::run::point::{find_last_left, remove_leftovers};
use crate::run::reclaim::{files_removed, remove_versions, versions_of};
use crate::run::report::{Finalized, KeptVersion};
use crate::run::{context::Context, staged::refuse_staged};
use crate::table::history::TakenBack;
use crate::table::{history, open::newest, tag};

pub(crate) async fn run(ctx: &Context, history: bool) -> Result<Finalized> {
    let opener = ctx.opener();
    let live = open_live(ctx, &opener).await?;
    refuse_staged(ctx, &opener).await?;
    // A migration may have ended between the two.
    let live = newest(&live).await?;
    let Some((point, swapped)) = find_last_left(&live).await? else {
        return finalize_taken_back(ctx, &live, history).await;
    };
    remove_leftovers(&live, &point, swapped).await?;
    // The other tag goes last: with it a second `finalize` finds what a killed one left.
    tag::give_up_point(&live, &point.id).await?;
    let (there, tags) = (versions_of(&live).await?, history::read_tags(&live).await?);
    let kept = kept_up_to(&tags, point.version);
    let tagged = |version: &u64| kept.iter().any(|kept| kept.version == *version);
    let older = there.iter().copied();
    let older = older.filter(|version| *version < point.version && !tagged(version));
    let older: Vec<u64> = older.collect();
    let mut gone = vec![point.version];
    if history {
        gone.extend(older.iter().copied());
    }
    let stats = remove_versions(&live, gone).await?;
    tag::unpin(&live, &point.id).await?;
    let (mut files, mut bytes) = (files_removed(&stats), stats.bytes_removed);
    let theirs = tags.into_iter().filter(|(tag, _)| *tag != tag::swap_tag_of(&point.id));
    let theirs = theirs.map(|(_, version)| version).collect();
    let between = left_between(&live, point.version, (there, theirs), history).await?;
    if !between.is_empty() {
        let stats = remove_versions(&live, between).await?;
        files += files_removed(&stats);
        bytes += stats.bytes_removed;
    }
    Ok(Finalized {
        table: ctx.table().to_owned(),
        id: point.id,
        version: point.version,
        rolled_back: false,
        files,
        bytes,
        older_versions: if history { 0 } else { older.len() as u64 },
        kept,
    })
}

/// What only the tags of a migration kept, which are gone: of its rollback point, the version `before`, and of its swap, the
/// next one. That is the swapped version, where it was the rollback point of the migration after it, and so on; with `history`
/// every version before the last swap.
///
/// Versions that are `there` go, but for those that are `tagged` by others.
async fn left_between(
    live: &Dataset,
    before: u64,
    (mut there, tagged): (Vec<u64>, HashSet<u64>),
    history: bool,
) -> Result<Vec<u64>> {
    let (first, head) = (before + 1, live.version_id());
    there.retain(|version| (first..head).contains(version) && !tagged.contains(version));
    // What others still tag goes with the last of their tags, and what is after it then. The commits are read only where
    // anything may go: they can be many.
    let goes = !there.is_empty()
        && (history || !tagged.contains(&before) && history::is_swap(live, first + 1).await?);
    if !goes {
        return Ok(Vec::new());
    }
    let swaps = history::swaps_since(live, first).await?;
    let last = swaps.iter().max().copied().unwrap_or_default();
    let points = (first..last).take_while(|version| swaps.contains(&(version + 1))).count() as u64;
    let end = if history { last } else { first + points };
    there.retain(|version| *version < end);
    Ok(there)
}

/// The versions up to `last` that tags keep, and the tags.
fn kept_up_to(tags: &HashMap<String, u64>, last: u64) -> Vec<KeptVersion> {
    let kept = tags.iter().filter(|(_, version)| **version <= last);
    let kept = kept.map(|(tag, version)| KeptVersion { version: *version, tag: tag.clone() });
    let mut kept: Vec<_> = kept.collect();
    kept.sort();
    kept
}

/// Reclaims what swaps that were rolled back left, where there is no rollback point.
async fn finalize_taken_back(
    ctx: &Context,
    live: &Dataset,
    with_history: bool,
) -> Result<Finalized> {
    let table = ctx.table();
    let there: BTreeSet<u64> = versions_of(live).await?.into_iter().collect();
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
    let mut kept = kept_up_to(&history::read_tags(live).await?, version);
    kept.retain(|kept| gone.contains(&kept.version));
    let stats = remove_versions(live, gone.into_iter().collect()).await?;
    Ok(Finalized {
        table: table.to_owned(),
        id,
        version: restored + 1,
        rolled_back: true,
        files: files_removed(&stats),
        bytes: stats.bytes_removed,
        // They cannot hold what came after them.
        older_versions: 0,
        kept,
    })
}
