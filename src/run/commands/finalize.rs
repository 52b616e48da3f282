//! `finalize`: gives up the rollback point.

use std::collections::BTreeSet;

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
    let (mut older, kept) = (versions_of(&live).await?, kept_up_to(&live, point.version).await?);
    let tagged = |version: &u64| kept.iter().any(|kept| kept.version == *version);
    older.retain(|version| *version < point.version && !tagged(version));
    let mut gone = vec![point.version];
    if history {
        gone.extend(older.iter().copied());
    }
    let stats = remove_versions(&live, gone).await?;
    tag::unpin(&live, &point.id).await?;
    Ok(Finalized {
        table: ctx.table().to_owned(),
        id: point.id,
        version: point.version,
        rolled_back: false,
        files: files_removed(&stats),
        bytes: stats.bytes_removed,
        older_versions: if history { 0 } else { older.len() as u64 },
        kept,
    })
}

/// The versions up to `last` that tags keep, and the tags.
async fn kept_up_to(live: &Dataset, last: u64) -> Result<Vec<KeptVersion>> {
    let tags = history::read_tags(live).await?.into_iter();
    let kept = tags.map(|(tag, version)| KeptVersion { version, tag });
    let mut kept: Vec<_> = kept.filter(|kept| kept.version <= last).collect();
    kept.sort();
    Ok(kept)
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
    let mut kept = kept_up_to(live, version).await?;
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
