//! Whether an object store takes writes, and commits safely, tried before hours are spent on reading it.

use lance::Dataset;
use object_store::path::Path;
use object_store::{Error as StoreError, PutMode, PutPayload};

use crate::error::{Doing as _, Error, Kind, Result};
use crate::plan::Plan;
use crate::retry::{is_denied, retrying};
use crate::run::context::Context;
use crate::schema::column::Column;
use crate::storage::{files::DataFiles, names};
use crate::table::open::data_files_of;

/// Tries the store of `live`, as [`try_store`] does, where it is one of which it cannot be known whether it commits safely, and
/// where `plan` is one that reads rows before it writes any.
///
/// # Errors
/// Those of [`try_store`].
///
/// # Crash
/// As [`try_store`].
pub(crate) async fn probe(ctx: &Context, live: &Dataset, plan: &Plan) -> Result<()> {
    let reads = plan.target.columns.iter().any(Column::is_checked);
    if plan.is_nothing() || !(ctx.location.has_unknown_commits() || reads) {
        return Ok(());
    }
    try_store(ctx, live).await
}

/// Tries whether an empty object can be written beside the data of `live`, not twice, and removed. On a disk, nothing is tried.
///
/// # Errors
/// `Refused`, when it may not be written or removed, or is written twice: then two writers of the table can both believe
/// that they committed.
///
/// # Crash
/// The object is left; whatever looks for a migration's leftovers in this table removes it, and so does LanceDB's cleanup.
pub(crate) async fn try_store(ctx: &Context, live: &Dataset) -> Result<()> {
    if !ctx.location.is_tried() {
        return Ok(());
    }
    let is_known = !ctx.location.has_unknown_commits();
    // Twice, since somebody may remove the first object before the second one comes, as who drops the table does.
    if goes_twice(ctx, live, is_known).await? && goes_twice(ctx, live, is_known).await? {
        let message = "this store overwrites objects that are to be written only where none is, so two writers of a \
                       table can both believe that they committed";
        let advice = "ask for a newer version of its server: LanceDB's own commits are not safe on this one either";
        return Err(Error::refused(message).with_advice(advice));
    }
    if !is_known {
        ctx.say("the store commits safely: a second object of one name was refused");
    }
    Ok(())
}

/// Writes an object of a new name, twice unless `is_known` what becomes of it, and removes it. True, if it was written twice.
async fn goes_twice(ctx: &Context, live: &Dataset, is_known: bool) -> Result<bool> {
    let files = data_files_of(live).await?;
    let name = live.data_dir().join(names::new_probe());
    let writing = || twice(files.as_ref(), &name, is_known);
    let written =
        retrying(&ctx.progress, &ctx.cancel, "trying whether this can be written", writing).await;
    let removed = files.remove(&name).await;
    let written = written.map_err(|error| not_allowed(ctx, "write", error))?;
    removed.map_err(|error| not_allowed(ctx, "remove", error)).map(|()| written)
}

/// Writes a new object, and, unless it is known what becomes of it, a second one in its place at the same time. True, if both went.
async fn twice(files: &dyn DataFiles, name: &Path, once: bool) -> Result<bool> {
    let new = || async {
        match files.store().put_opts(name, PutPayload::new(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            // Also where a reply was lost, and the request sent again by the store's client.
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(error) => Err(error).doing(|| format!("write {name}")),
        }
    };
    if once {
        return new().await.map(|_| false);
    }
    let (first, second) = tokio::try_join!(new(), new())?;
    Ok(first && second)
}

/// `error`, where it is that these credentials may not `what`: nothing has been written then.
pub(crate) fn not_allowed(ctx: &Context, what: &str, error: Error) -> Error {
    if error.kind() != Kind::Failed || !is_denied(&error) {
        return error;
    }
    let uri = ctx.location.uri();
    let advice = format!(
        "relance lists, reads, writes and removes objects below {uri} and {}: let these credentials do so",
        ctx.location.staging_uri()
    );
    Error::refused(format!("these credentials may not {what} objects of {uri}"))
        .with_advice(&advice)
        .caused_by(error)
}
