//! What is staged of the table, and the errors of those whom it stands in the way of.

use std::sync::Arc;

use lance::Dataset;

use crate::error::{Error, Result};
use crate::journal::{ChunkRecord, Journal, Opened, locked};
use crate::plan::amounts::{count_text, counted};
use crate::run::hints::{command, next_steps};
use crate::run::{context::Context, planning::open_live, planning::request_difference};
use crate::schema::change::Change;
use crate::table::{history, open::Opener};

/// The staged migration, and the live table.
pub(crate) async fn open_staged(ctx: &Context) -> Result<(Arc<Dataset>, Journal)> {
    let opener = ctx.opener();
    let live = open_live(ctx, &opener).await?;
    let journal = Journal::open(&opener).await?;
    Ok((live, journal.ok_or_else(|| nothing_staged(ctx))?))
}

pub(crate) fn nothing_staged(ctx: &Context) -> Error {
    Error::failed(format!("no migration of `{}` is staged", ctx.table()))
}

/// Fails when a migration is staged.
pub(crate) async fn refuse_staged(ctx: &Context, opener: &Opener) -> Result<()> {
    match Opened::look(opener).await? {
        Opened::Nothing => Ok(()),
        Opened::Journal(_) => Err(describe_locked(ctx, opener, locked(opener)).await),
        Opened::Wreck(wreck) => {
            let abort = command(ctx, "abort");
            let error = locked(opener).caused_by(wreck.why);
            Err(error.with_advice(&format!("its journal cannot be read; {abort} drops it")))
        }
    }
}

/// `error`, with what is staged and what to do.
pub(crate) async fn describe_locked(ctx: &Context, opener: &Opener, mut error: Error) -> Error {
    if let Ok(Some(journal)) = Journal::open(opener).await {
        let header = journal.header();
        let rows = count_text(journal.records().map(ChunkRecord::rows_left).sum());
        let changes: Vec<_> = header.request.changes.iter().map(Change::text).collect();
        let began = header.began.format("%Y-%m-%d %H:%M:%S");
        error = error.with_advice(&format!(
            "migration {}, begun {began} UTC: {}; {rows} of {} staged",
            header.id,
            changes.join(", "),
            counted(header.rows, "row")
        ));
        if let Ok(live) = opener.live().await
            && !ctx.request.changes.is_empty()
        {
            let lines = request_difference(live.schema(), &ctx.request, &header.request);
            if !lines.is_empty() {
                error = error.with_advice("(- staged, + asked)").with_lines(lines);
            }
        }
    }
    match swap_landed(opener).await {
        Some(version) => error.with_advice(&format!(
            "its swap has landed as version {version}; {} finishes it",
            command(ctx, "resume")
        )),
        None => error.with_advice(&next_steps(ctx)),
    }
}

/// The version that the staged migration has been swapped in as, as far as that can be seen.
async fn swap_landed(opener: &Opener) -> Option<u64> {
    let journal = Journal::open(opener).await.ok()??;
    let live = opener.live().await.ok()?;
    history::rollback_point(&live, &journal.header().id).await.ok()??.swapped
}

/// Fails when the table's directory cannot be written to, before anything is.
pub(crate) fn expect_writable(ctx: &Context) -> Result<()> {
    let Some(directory) = ctx.location.directory() else { return Ok(()) };
    let data = std::path::PathBuf::from(ctx.location.uri()).join("data");
    for place in [directory, data].into_iter().filter(|place| place.is_dir()) {
        // A file without a name, which goes with this process: permissions alone do not tell of a read-only file system.
        if let Err(error) = tempfile::tempfile_in(&place) {
            let place = place.display();
            return Err(Error::refused(format!("cannot write to {place}")).caused_by(error));
        }
    }
    Ok(())
}
