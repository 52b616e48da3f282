//! What is left of a migration of a table that others have dropped.

use std::collections::HashSet;

use lance::Dataset;
use object_store::{ObjectMeta, path::Path};

use crate::error::{Error, Result};
use crate::journal::{Journal, Opened, Wreck, clear_unversioned};
use crate::process::ProcessId;
use crate::retry::is_of_gone;
use crate::run::context::Context;
use crate::run::head::is_dropped;
use crate::run::hints::{command, kept};
use crate::run::lease::expect_free_or_waiting;
use crate::storage::names::{directory_of, is_data_file, is_of};
use crate::storage::{files, files::DataFiles};
use crate::table::open::{Opener, at_version, data_files_of};
use crate::table::{orphans::Removed, tag};

/// `error`, which stopped a run before its swap: with what is kept, or that others have dropped the table.
pub(super) async fn kept_or_dropped(ctx: &Context, error: Error) -> Error {
    if !is_dropped(ctx, &error).await {
        return kept(ctx, error);
    }
    let (table, abort) = (ctx.table(), command(ctx, "abort"));
    let message = format!("others have dropped `{table}`; nothing was swapped in");
    let advice = format!("{abort} removes what is staged");
    Error::new(error.kind(), message).with_advice(&advice).caused_by(error)
}

/// Drops what is staged of a table that is `gone`, and what the migration left in its folder. Gives the migration's id, what was
/// removed, and the names of what is left of the staging table.
///
/// # Errors
/// `gone`, where nothing is staged; `Locked`, when a run of it is alive; `Failed`, when something cannot be removed.
///
/// # Crash
/// Calling it again removes the rest: the journal goes last.
pub(super) async fn abort_dropped(
    ctx: &Context,
    opener: &Opener,
    gone: Error,
) -> Result<(String, Removed, Vec<String>)> {
    let journal = match Opened::look(opener).await? {
        Opened::Journal(journal) => *journal,
        Opened::Wreck(wreck) => return clear_wreck(ctx, opener, &wreck).await,
        Opened::Nothing => {
            let files = clear_unversioned(opener).await?.ok_or(gone)?;
            return Ok(("unknown".to_owned(), Removed { files, bytes: 0 }, Vec::new()));
        }
    };
    expect_free_or_waiting(ctx, &journal).await?;
    ctx.say(format!("`{}` was dropped by others", ctx.table()));
    clear_both(opener, journal, None).await
}

/// The same of a table that others dropped as `live`, its newest version, was swapped in, which goes as well.
///
/// # Errors
/// `Failed`, when something cannot be removed.
pub(super) async fn abort_swapped(
    ctx: &Context,
    opener: &Opener,
    live: &Dataset,
    journal: Journal,
) -> Result<(String, Removed, Vec<String>)> {
    let version = live.version_id();
    ctx.say(format!("`{}` was dropped by others as version {version} was swapped in", ctx.table()));
    clear_both(opener, journal, Some(&live.manifest_location().path)).await
}

/// Whether others have dropped the table as `live`, its newest version, was swapped in: the version before it is gone, and so is
/// every file that it names and was there before; where it names none, every file of its own. Nothing can be read of it then,
/// whatever others have made under its name since.
///
/// # Errors
/// `Failed`, when it cannot be looked at.
pub(super) async fn is_swapped_alone(live: &Dataset, id: &str) -> Result<bool> {
    match at_version(live, live.version_id().saturating_sub(1)).await {
        Err(error) if is_of_gone(&error) => {}
        other => return other.map(|_| false),
    }
    let there = data_files_of(live).await?.names(&live.data_dir()).await?;
    let there: HashSet<&str> = there.iter().map(String::as_str).collect();
    let fragments = live.iter_fragments();
    let named: Vec<&str> =
        fragments.flat_map(|one| &one.files).map(|file| file.path.as_str()).collect();
    let (own, others): (Vec<&str>, Vec<&str>) =
        named.into_iter().partition(|name| is_data_file(name, id));
    let wanted = if others.is_empty() { own } else { others };
    Ok(!wanted.is_empty() && !wanted.iter().any(|name| there.contains(name)))
}

/// Drops `wreck`, a journal that cannot be read, and what its migration left in the table's folder.
async fn clear_wreck(
    ctx: &Context,
    opener: &Opener,
    wreck: &Wreck,
) -> Result<(String, Removed, Vec<String>)> {
    expect_dead(ctx, wreck)?;
    let (store, root) = opener.store_at(&opener.location().uri()).await?;
    let id = wreck.id.clone().unwrap_or_default();
    let mut removed = Removed::default();
    if !id.is_empty() {
        removed = remove_own(files::of(&store).as_ref(), &root, &id).await?;
    }
    Ok((id, removed, wreck.remove().await?))
}

/// Fails where a run of `wreck` must be taken for alive.
///
/// # Errors
/// `Locked` then.
pub(super) fn expect_dead(ctx: &Context, wreck: &Wreck) -> Result<()> {
    if wreck.is_running(ctx.clock.now(), &ProcessId::current()) {
        let table = ctx.table();
        return Err(Error::locked(format!("a migration of `{table}` is running"))
            .with_advice("wait for it, or stop it first"));
    }
    Ok(())
}

fn is_manifest(name: &str) -> bool {
    name.ends_with(".manifest")
}

async fn clear_both(
    opener: &Opener,
    journal: Journal,
    last: Option<&Path>,
) -> Result<(String, Removed, Vec<String>)> {
    let id = journal.header().id.clone();
    let (store, root) = opener.store_at(&opener.location().uri()).await?;
    let files = files::of(&store);
    let removed = remove_own(files.as_ref(), &root, &id).await?;
    let left = journal.remove().await?;
    if let Some(manifest) = last {
        let folder = directory_of(manifest);
        let hints = files.names(&folder).await?.into_iter().filter(|name| !is_manifest(name));
        files.remove_all(hints.map(|name| folder.clone().join(name)).collect()).await?;
        files.remove(manifest).await?;
    }
    files.remove_empty(&root);
    Ok((id, removed, left))
}

/// Removes whatever of the migration `id` lies below `root`.
async fn remove_own(files: &dyn DataFiles, root: &Path, id: &str) -> Result<Removed> {
    let tags = [tag::tag_of(id), tag::swap_tag_of(id)].map(|tag| format!("{tag}.json"));
    let is_own = |meta: &ObjectMeta| {
        let name = meta.location.filename().unwrap_or_default();
        is_of(&meta.location, id) || tags.iter().any(|tag| tag == name)
    };
    let mut own = files.tree(root).await?.files;
    own.retain(is_own);
    let bytes = own.iter().map(|meta| meta.size).sum();
    let removed = Removed { files: own.len() as u64, bytes };
    files.remove_all(own.into_iter().map(|meta| meta.location).collect()).await?;
    Ok(removed)
}
