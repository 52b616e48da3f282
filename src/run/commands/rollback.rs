//! `rollback`: takes the last swap back.

use std::{collections::HashSet, sync::Arc, time::Instant};

use lance::{Dataset, dataset::transaction::Operation};

use crate::error::{Doing as _, Error, Result};
use crate::journal::{Journal, Undo};
use crate::plan::amounts::{count_text, counted};
use crate::run::hints::{command, command_with, unknown};
use crate::run::lease::{expect_free, take_over};
use crate::run::planning::open_live;
use crate::run::point::{cleaned, last_point, remove_leftovers, requested};
use crate::run::reclaim::{cleanup_of, files_removed};
use crate::run::report::{Ended, RolledBack, Unused, commits_text};
use crate::run::{
    commands::migrate::carry_out, context::Context, planning::plan_head, preflight::preflight,
    session::Session, staged::refuse_staged,
};
use crate::settings::{Hold, Settings};
use crate::table::commit::{Act, Outcome, exactly_next, properties};
use crate::table::history::{Other, RollbackPoint};
use crate::table::{facts, history, index, open, open::Opener, tag};
use crate::{chunk::SourceFragment, phase::Phase, plan::Request, verify::published::sync_commit};

/// What `rollback` does about what others wrote after the swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Writes {
    /// Refuses, if there is anything.
    #[default]
    Refuse,
    /// Gives it up.
    Discard,
    /// Keeps it: every row is carried back through the inverse of the changes.
    Keep,
}

pub(crate) async fn run(ctx: &Context, writes: Writes) -> Result<RolledBack> {
    ctx.settings.validate()?;
    let opener = ctx.opener();
    let live = open_live(ctx, &opener).await?;
    expect_tidied(ctx, &opener).await?;
    // A migration may have ended between the two.
    let live = open::newest(&live).await?;
    let (point, swapped) = last_point(ctx, &live).await?;
    let mut back = history::taken_back(&live, swapped).await?.into_iter();
    if let Some(back) = back.find(|back| back.id == point.id) {
        // It has landed already, and whoever did it died, or failed, before it had tidied up.
        return rolled_back(ctx, &live, point, swapped, (back.version, 0), Vec::new()).await;
    }
    let head = live.version_id();
    let others = history::others_since(&live, &point.id, swapped, head).await?;
    match writes {
        Writes::Refuse if others.iter().any(Other::changes_rows) => {
            return Err(refuse_writes(ctx, &live, swapped, &others).await?);
        }
        Writes::Keep if others.iter().any(Other::changes_rows) => {
            let commits = others.len() as u64;
            return Box::pin(carry_back(ctx, live, point, swapped, commits)).await;
        }
        Writes::Refuse | Writes::Discard | Writes::Keep => {}
    }
    let operation = Operation::Restore { version: point.version };
    let indices = index::names(&live).await.unwrap_or_default();
    let outcome =
        exactly_next(&live, operation, None, properties(&point.id, Act::Rollback)).await?;
    let back = match outcome {
        Outcome::Landed(back) => back,
        Outcome::LostRace { head } => {
            let message = format!(
                "somebody committed version {head} at this moment; nothing was rolled back"
            );
            return Err(Error::interrupted(message).with_advice("look at it, and try again"));
        }
        Outcome::Unknown { attempted, error } => {
            return Err(unknown(ctx, attempted).caused_by(error));
        }
    };
    let landed = (back.version_id(), others.len() as u64);
    rolled_back(ctx, &back, point, swapped, landed, indices).await
}

/// Tidies up after the version before the swap was put back, as `version`, with so many
/// commits discarded; the table had these `indices` before.
async fn rolled_back(
    ctx: &Context,
    live: &Dataset,
    point: RollbackPoint,
    swapped: u64,
    (version, discarded_commits): (u64, u64),
    indices: Vec<String>,
) -> Result<RolledBack> {
    let tidied = async {
        sync_commit(live).await?;
        remove_leftovers(live, &point, swapped).await?;
        tag::unpin(live, &point.id).await
    };
    tidied.await.map_err(|error| {
        let restored = point.version;
        Error::unfinished(format!(
            "version {version} reads as version {restored} did; tidying up after that failed"
        ))
        .with_advice(&format!("{} again does the rest", command(ctx, "rollback")))
        .knowing("version", version.into())
        .caused_by(error)
    })?;
    // The rows are back: an index list that cannot be read is no reason to fail.
    let has = index::names(live).await.unwrap_or_else(|_| indices.clone());
    Ok(RolledBack {
        table: ctx.table().to_owned(),
        id: point.id,
        restored: point.version,
        version,
        discarded_commits,
        kept_commits: 0,
        indices_dropped: indices.into_iter().filter(|name| !has.contains(name)).collect(),
        unused: unused(ctx, live, swapped, version).await,
    })
}

/// What only the versions `from..to` of `live`, taken back by `to`, use. `None`, when that cannot be
/// told: the rollback has landed all the same.
async fn unused(ctx: &Context, live: &Dataset, from: u64, to: u64) -> Option<Unused> {
    let versions: Vec<u64> = (from..to).collect();
    let stats = async {
        let cleanup = live.cleanup(cleanup_of(versions)?);
        let told = cleanup.with_max_candidate_files(0).explain().await;
        Ok(told.doing(|| "look for what is not used any more".to_owned())?.stats)
    };
    match stats.await {
        Ok(stats) => Some(Unused { files: files_removed(&stats), bytes: stats.bytes_removed }),
        Err(error) => {
            let error: Error = error;
            ctx.say(error.report(&[]).replace('\n', " "));
            None
        }
    }
}

/// Takes the changes back from every row of the table, those written since included: a migration of
/// its own, with the inverse changes.
async fn carry_back(
    ctx: &Context,
    live: Arc<Dataset>,
    point: RollbackPoint,
    swapped: u64,
    commits: u64,
) -> Result<RolledBack> {
    let began = Instant::now();
    let discard = format!(
        "{} gives up what was written since; nothing was changed",
        command_with(ctx, "rollback", &["--discard-writes"])
    );
    let Some(request) = requested(&live, swapped).await? else {
        return Err(cleaned(swapped).with_advice(&discard));
    };
    let Some(changes) = request.inverse() else {
        let message = "what was done cannot be taken back from what was written since: it has no \
                       inverse that gives every row and value back";
        return Err(Error::refused(message).with_advice(&discard));
    };
    let request =
        Request { changes, allow_key_change: true, allow_index_loss: true, ..Request::default() };
    let settings = Settings { hold: Hold::No, ..ctx.settings.clone() };
    let back = &Context { request, settings, ..ctx.clone() };
    let planned = preflight(back, plan_head(back, &back.opener()).await?).await?;
    let undo = Undo { id: point.id.clone(), version: point.version };
    let session = Session::begin(back, planned, Some(undo), began).await?;
    let Ended::Swapped(report) = Box::pin(carry_out(back, session)).await? else {
        return Err(Error::failed("the way back ended before its swap; this is a bug in relance"));
    };
    Ok(RolledBack {
        table: ctx.table().to_owned(),
        id: point.id,
        restored: point.version,
        version: report.version_after,
        discarded_commits: 0,
        kept_commits: commits,
        indices_dropped: report.indices_dropped,
        unused: None,
    })
}

/// Fails when a migration is staged, but for one whose swap has landed: its staging table is only in
/// the way, and is removed.
async fn expect_tidied(ctx: &Context, opener: &Opener) -> Result<()> {
    let Some(mut journal) = Journal::open(opener).await? else {
        return refuse_staged(ctx, opener).await;
    };
    expect_free(ctx, &journal).await?;
    let live = opener.live().await?;
    let id = journal.header().id.clone();
    let point = history::rollback_point(&live, &id).await?;
    // A way back that has landed is not taken back by asking for it again.
    let is_undo = journal.header().undo.is_some();
    let swapped = point.and_then(|point| point.swapped).filter(|_| !is_undo);
    let Some(swapped) = swapped else { return refuse_staged(ctx, opener).await };
    take_over(ctx, &live, &mut journal, Phase::Done).await?;
    // Whatever comes of the rollback, nobody else does this after the journal is gone.
    tag::pin_swap(&live, &id, swapped).await?;
    journal.remove().await.map(drop)
}

async fn refuse_writes(
    ctx: &Context,
    live: &Dataset,
    swapped: u64,
    others: &[Other],
) -> Result<Error> {
    let (commits, table) = (commits_text(others), ctx.table());
    let mut message = format!("`{table}` was written to after the swap: {commits} would be lost");
    let keep = command_with(ctx, "rollback", &["--keep-writes"]);
    let discard = command_with(ctx, "rollback", &["--discard-writes"]);
    let discard = format!("{discard} gives them up");
    // A cleanup may have taken the swapped version: then how much was written is not known.
    if let Ok(swapped) = open::at_version(live, swapped).await {
        let then = facts::source_fragments(&swapped).await?;
        let now = facts::source_fragments(live).await?;
        let rows = |all: &[SourceFragment]| all.iter().map(|one| one.rows).sum::<u64>();
        let known: HashSet<u64> = then.iter().map(|one| one.origin.id).collect();
        let new = now.iter().filter(|one| !known.contains(&one.origin.id));
        let written: u64 = new.map(|one| one.rows).sum();
        let (before, after) = (counted(rows(&then), "row"), count_text(rows(&now)));
        let written = counted(written, "row");
        let counts = format!(
            ", with {written} written since (the table had {before} then, and has \
             {after} now)"
        );
        message.push_str(&counts);
    }
    let advice = match requested(live, swapped).await? {
        Some(request) if request.inverse().is_some() => {
            format!("{keep} carries them back, {discard}")
        }
        Some(_) => format!("they cannot be carried back through what was done; {discard}"),
        None => format!(
            "they cannot be carried back: version {swapped}, which tells what was done, was cleaned \
             away; {discard}"
        ),
    };
    Ok(Error::refused(message).with_advice(&advice))
}
