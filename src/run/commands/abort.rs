//! `abort`: drops what is staged.

use std::{collections::HashSet, sync::Arc};

use lance::Dataset;

use crate::error::{Error, Result, is_storage_full};
use crate::journal::{Journal, Opened, Wreck, clear_unversioned};
use crate::run::commands::dropped;
use crate::run::hints::{landed, tell_left};
use crate::run::lease::{checkpoint, expect_free_or_waiting, take_over};
use crate::run::planning::open_live;
use crate::run::reclaim::{named_by_all, stray_ids};
use crate::run::uploads::Unfinished;
use crate::run::{context::Context, report::Aborted, staged::nothing_staged};
use crate::table::open::{Opener, newest};
use crate::table::{history, orphans, tag};
use crate::{phase::Phase, table::orphans::Removed};

pub(crate) async fn run(ctx: &Context) -> Result<Aborted> {
    let opener = ctx.opener();
    let live = match open_live(ctx, &opener).await {
        // Some stores list the folder of a table that was dropped, and a run may have left something in it.
        Err(gone) if opener.found().await?.is_none() => {
            let (id, removed, left) = dropped::abort_dropped(ctx, &opener, gone).await?;
            return Ok(aborted(ctx, id, removed, left));
        }
        live => live?,
    };
    let unfinished = Unfinished::uploads_now(ctx, &opener, &live).await;
    let aborted = drop_all(ctx, &opener, &live).await?;
    unfinished.give_up(ctx, aborted.id.split(", ")).await;
    Ok(aborted)
}

async fn drop_all(ctx: &Context, opener: &Opener, live: &Arc<Dataset>) -> Result<Aborted> {
    let journal = match Opened::look(opener).await? {
        Opened::Nothing => return abort_nothing(ctx, live, opener).await,
        Opened::Wreck(wreck) => return abort_wreck(ctx, live, &wreck).await,
        Opened::Journal(journal) => *journal,
    };
    expect_free_or_waiting(ctx, &journal).await?;
    match abort_staged(ctx, opener, live, journal).await {
        Err(error) if is_storage_full(&error) => abort_full(ctx, live, opener, error).await,
        done => done,
    }
}

/// Removes what is left of migrations that are not there, where nothing is staged.
async fn abort_nothing(ctx: &Context, live: &Arc<Dataset>, opener: &Opener) -> Result<Aborted> {
    let pins = abort_pins(ctx, live).await?;
    let files = clear_unversioned(opener).await?;
    if let Some(aborted) = pins {
        let files = aborted.files + files.unwrap_or_default();
        return Ok(Aborted { files, ..aborted });
    }
    let files = files.ok_or_else(|| nothing_staged(ctx))?;
    Ok(aborted(ctx, "unknown".to_owned(), Removed { files, bytes: 0 }, Vec::new()))
}

/// Drops the migration of `journal`, which is not running.
async fn abort_staged(
    ctx: &Context,
    opener: &Opener,
    live: &Arc<Dataset>,
    mut journal: Journal,
) -> Result<Aborted> {
    let header = journal.header().clone();
    let point = history::rollback_point(live, &header.id).await?;
    let alone = async |live: &Dataset, version| {
        Ok::<_, Error>(
            live.version_id() == version && dropped::is_swapped_alone(live, &header.id).await?,
        )
    };
    if let Some(version) = point.and_then(|point| point.swapped)
        && !alone(live, version).await?
    {
        return Err(landed(ctx, version));
    }
    // Taking the migration over stops a run that is slow, not dead, before it can name a file that is removed here.
    let live = take_over(ctx, live, &mut journal, Phase::Plan).await?;
    if let Some(version) = history::find_swap(&live, &header.id, header.first_version).await? {
        if alone(&live, version).await? {
            let (id, removed, left) = dropped::abort_swapped(ctx, opener, &live, journal).await?;
            return Ok(aborted(ctx, id, removed, left));
        }
        return Err(landed(ctx, version));
    }
    // Nobody adopts what the journal does not name: forgotten first, removed then.
    journal.forget_all();
    checkpoint(ctx, &mut journal, Phase::Plan, false).await?;
    let removed = journal.remove_orphans(&live, &HashSet::new()).await?;
    tag::unpin(&live, &header.id).await?;
    let left = journal.remove().await?;
    Ok(aborted(ctx, header.id, removed, left))
}

/// Drops what is staged where the disk has no room for a commit that says so: the staging table goes first,
/// so that a run which is slow, not dead, finds that out.
async fn abort_full(
    ctx: &Context,
    live: &Arc<Dataset>,
    opener: &Opener,
    full: Error,
) -> Result<Aborted> {
    let Some(journal) = Journal::open(opener).await? else { return Err(full) };
    let (header, lease) = (journal.header().clone(), journal.lease());
    if lease.phase == Phase::Swap && !lease.released {
        // It may be asleep just before its commit, and only a commit keeps it out.
        let advice = "the run died at its swap: free a few KB first, then abort again";
        return Err(full.with_advice(advice));
    }
    if let Some(version) = history::find_swap(live, &header.id, header.first_version).await? {
        return Err(landed(ctx, version));
    }
    let left = journal.remove().await?;
    let removed = orphans::clear(live, &header.id, &HashSet::new(), header.first_version).await?;
    tag::unpin(live, &header.id).await?;
    Ok(aborted(ctx, header.id, removed, left))
}

/// Removes the pins of migrations that are not there, where nothing is staged, and what they left that no
/// version names. `None`, when there are none.
async fn abort_pins(ctx: &Context, live: &Arc<Dataset>) -> Result<Option<Aborted>> {
    let before = stray_ids(live).await?;
    if before.is_empty() {
        return Ok(None);
    }
    // What was pinned before the look, and is not swapped after it, is nobody's: a migration that began
    // meanwhile has another id, one that ended is swapped.
    let live = newest(live).await?;
    let mut ids = stray_ids(&live).await?;
    ids.retain(|id| before.contains(id));
    let (keep, first) = named_by_all(&live).await?;
    let mut all = Removed::default();
    for id in &ids {
        let removed = orphans::clear(&live, id, &keep, first).await?;
        all.files += removed.files;
        all.bytes += removed.bytes;
        tag::unpin(&live, id).await?;
    }
    let pins = ids.len() as u64;
    let id = ids.into_iter().collect::<Vec<_>>().join(", ");
    Ok((pins > 0).then_some(Aborted { pins, ..aborted(ctx, id, all, Vec::new()) }))
}

/// Drops the staging table that is no journal, and the files of its migration, as far as its id can be told.
///
/// # Errors
/// `Locked`, when a run of it is alive; `Failed`, when something cannot be removed.
///
/// # Crash
/// Calling it again removes the rest. The live table is not touched.
async fn abort_wreck(ctx: &Context, live: &Dataset, wreck: &Wreck) -> Result<Aborted> {
    dropped::expect_dead(ctx, wreck)?;
    let mut ids: Vec<String> = wreck.id.iter().cloned().collect();
    for point in history::rollback_points(live).await? {
        if point.swapped.is_none() && !ids.contains(&point.id) {
            ids.push(point.id);
        }
    }
    let (keep, first) = named_by_all(live).await?;
    // The journal goes first: a run that is slow, not dead, finds that out before it names a file again.
    let left = wreck.remove().await?;
    let mut all = Removed::default();
    for id in &ids {
        let removed = orphans::clear(live, id, &keep, first).await?;
        all.files += removed.files;
        all.bytes += removed.bytes;
        let point = history::rollback_point(live, id).await?;
        if point.is_some_and(|point| point.swapped.is_none()) {
            tag::unpin(live, id).await?;
        }
    }
    let id = ids.first().cloned().unwrap_or_default();
    let mut aborted = aborted(ctx, id, all, left);
    if ids.is_empty() {
        let unknown = "which migration it was cannot be told: data files of it may be left, which \
                       LanceDB's own cleanup removes";
        aborted.left.push(unknown.to_owned());
    }
    Ok(aborted)
}

/// What is told of a migration that was dropped, of whose staging table the files called `left` are left.
fn aborted(ctx: &Context, id: String, removed: Removed, left: Vec<String>) -> Aborted {
    tell_left(ctx, &left);
    let (table, Removed { files, bytes }) = (ctx.table().to_owned(), removed);
    Aborted { table, id, pins: 0, files, bytes, left }
}
