//! The one commit that makes the staged fragments the live table, and the look before it.

pub(crate) mod indices;
mod prepare;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lance::Dataset;

use crate::error::{Doing as _, Error, Result};
use crate::run::session::{Session, touched_text};
use crate::run::{
    context::Context, copier::Whole, cutover::prepare::Prepared, head::lags, hints::unknown,
    lease::checkpoint, point::PROPERTY_REQUEST, report::seconds,
};
use crate::table::commit::{Act, Outcome, exactly_next, properties};
use crate::table::database::connect;
use crate::{
    chunk::ChunkId, phase::Phase, progress::Amount, retry::Backoff, span, verify::published,
    verify::there,
};

/// What became of the swap.
pub(crate) enum Swap {
    Landed(Arc<Dataset>),
    /// Somebody was first: there is something to catch up with, or to verify again.
    Lost,
}

/// How often files may be touched between their verification and the swap.
const TOUCHED_MAX: u32 = 3;

/// What became of one try.
enum Attempt {
    Committed(Outcome),
    /// Nothing was tried: files of these chunks were touched after they were verified.
    Touched(Vec<ChunkId>),
}

/// How long a look at all staged files of a store holds, for a swap that is tried again. Files that were staged since were dated
/// before they were read back, and the look after the swap sees what was written over.
const LISTED_FOR: Duration = Duration::from_mins(1);

/// Makes the staged fragments the live table, if nobody was faster.
///
/// # Errors
/// `Mismatch`, when what it would publish is not what was staged; `OutcomeUnknown`, when the store gave no
/// answer; `Locked`, when another run took over.
///
/// # Crash
/// The live table is the version before, or the swapped one.
pub(crate) async fn swap(ctx: &Context, mut whole: Whole<'_>) -> Result<Swap> {
    let session = whole.session();
    let began = Instant::now();
    let _committing = span::commit();
    ctx.begin_phase(Phase::Swap, Amount::default());
    if session.connecting.is_empty() {
        // A store takes its time, and it is wanted at once then.
        let location = ctx.location.clone();
        session.connecting.spawn(async move { connect(&location).await });
    }
    if session.lists_slowly(ctx) {
        // Before it is looked whether others committed: they would do so meanwhile.
        let chunks = touched(ctx, session).await?;
        if !chunks.is_empty() {
            return verify_again(ctx, session, chunks);
        }
    }
    let source = Arc::clone(&session.source);
    let (saved, behind) =
        tokio::join!(checkpoint(ctx, &mut session.journal, Phase::Swap, false), lags(ctx, &source));
    saved?;
    if ctx.cancel.is_cancelled() {
        checkpoint(ctx, &mut session.journal, Phase::Verify, true).await?;
        return Err(ctx.interrupted());
    }
    if behind? {
        return Ok(Swap::Lost);
    }
    let outcome = match try_swap(ctx, session).await? {
        Attempt::Committed(outcome) => outcome,
        Attempt::Touched(chunks) => return verify_again(ctx, session, chunks),
    };
    match outcome {
        Outcome::Landed(live) => {
            let (version, took) = (live.version_id(), seconds(began.elapsed()));
            let since = seconds(session.began.elapsed());
            ctx.say(format!(
                "swapped in as version {version}: the swap took {took} s, {since} s after the start"
            ));
            session.took(Phase::Swap, began);
            session.swapped_after = Some(since);
            Ok(Swap::Landed(Arc::new(*live)))
        }
        Outcome::LostRace { head } => {
            ctx.say(format!("version {head} was first; catching up with it"));
            Ok(Swap::Lost)
        }
        Outcome::Unknown { attempted, error } => Err(unknown(ctx, attempted).caused_by(error)),
    }
}

/// Has chunks verified again whose files were touched after they were.
fn verify_again(ctx: &Context, session: &mut Session, chunks: Vec<ChunkId>) -> Result<Swap> {
    session.touched += 1;
    if session.touched > TOUCHED_MAX {
        return Err(Error::interrupted(
            "staged files are touched again and again after they were verified, by something other \
             than relance",
        ));
    }
    for chunk in chunks {
        ctx.say(touched_text(chunk));
        session.journal.distrust(chunk);
    }
    Ok(Swap::Lost)
}

async fn try_swap(ctx: &Context, session: &mut Session) -> Result<Attempt> {
    let header = session.journal.header();
    let mut properties = properties(&header.id, Act::Swap);
    let request = serde_json::to_string(&header.request);
    let request = request.doing(|| "write the request as JSON".to_owned())?;
    properties.insert(PROPERTY_REQUEST.to_owned(), request);
    let live = &Arc::clone(&session.source);
    let mut backoff = Backoff::of(&ctx.progress, &ctx.cancel, "swap");
    loop {
        let outcome = async {
            let swap = Prepared::of(session).await?;
            match inspect(ctx, session, &swap).await {
                Ok(touched) if touched.is_empty() => {}
                other => {
                    // Nothing was tried: nobody can name what was prepared.
                    swap.tidy(live, true).await?;
                    return other.map(Attempt::Touched);
                }
            }
            let (operation, version) = (swap.operation.clone(), swap.storage_version);
            let outcome = exactly_next(live, operation, version, properties.clone()).await?;
            // What cannot be removed now is found by name later; the outcome stands.
            let _ = match &outcome {
                Outcome::Landed(_) => swap.tidy(live, false).await,
                Outcome::LostRace { .. } => swap.tidy(live, true).await,
                Outcome::Unknown { .. } => Ok(()),
            };
            Ok(Attempt::Committed(outcome))
        };
        match outcome.await {
            Err(error) => backoff.after(error).await?,
            outcome => return outcome,
        }
    }
}

/// Compares everything that `swap` will publish with what was staged and verified. Gives the chunks whose
/// files were touched since.
async fn inspect(ctx: &Context, session: &mut Session, swap: &Prepared) -> Result<Vec<ChunkId>> {
    let intent = session.intent();
    let published = swap.published(intent.live).await?;
    published::compare(intent, &published)?;
    published::expect_deletions(intent.live, intent.journal, &published).await?;
    swap.expect_indices(session).await?;
    if session.lists_slowly(ctx) { Ok(Vec::new()) } else { touched(ctx, session).await }
}

/// The chunks whose staged files were touched since they were verified, unless a store was listed lately.
async fn touched(ctx: &Context, session: &mut Session) -> Result<Vec<ChunkId>> {
    let nothing = session.journal.records().all(|record| record.files.is_empty());
    let in_store = ctx.location.directory().is_none();
    let fresh = session.listed.is_some_and(|listed| listed.elapsed() < LISTED_FOR);
    if nothing || (in_store && fresh) {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let touched = there::touched(&session.source, &session.journal).await?;
    session.listed = Some(began);
    Ok(touched)
}
