//! Waiting before the swap.

use std::time::Duration;

use crate::error::{Kind, Result};
use crate::plan::catchup::{Need, Rounds};
use crate::run::copier::copy;
use crate::run::told::tell_verified;
use crate::run::{
    context::Context, hints::command, lease::store_time, report::Held, session::Session,
    supplying::close_supply,
};
use crate::{phase::Phase, progress::Amount, settings::Hold};

/// How often a migration that waits looks at the table.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Stages and verifies, and ends there, or goes on catching up until another run takes over.
pub(crate) async fn hold(ctx: &Context, session: &mut Session) -> Result<Held> {
    let mut whole = copy(ctx, session, Phase::Stage).await?;
    tell_verified(ctx, whole.session());
    close_supply(ctx, whole.session()).await?;
    ctx.begin_phase(Phase::Hold, Amount::default());
    let waits = ctx.settings.hold == Hold::Wait;
    keep_held(ctx, session, !waits).await?;
    if !waits {
        return Ok(held(ctx, session, false));
    }
    ctx.say(format!("waiting; {} swaps", command(ctx, "resume")));
    match wait(ctx, session).await {
        Ok(()) => {
            keep_held(ctx, session, true).await?;
            Ok(held(ctx, session, false))
        }
        Err(error) if error.kind() == Kind::Locked => {
            session.journal.end_beats().await;
            session.remove_fresh().await?;
            Ok(held(ctx, session, true))
        }
        Err(error) => Err(error),
    }
}

/// Catches up until it is asked to stop.
async fn wait(ctx: &Context, session: &mut Session) -> Result<()> {
    let mut lost = session.journal.lost();
    loop {
        tokio::select! {
            error = &mut lost => return Err(error),
            more = ctx.pause(LOOK_EVERY) => if !more { return Ok(()) },
        }
        if session.lags(ctx).await? || is_stale(ctx, session) {
            // However long it waits, no round before this one counts.
            session.staged_first = None;
            session.rounds = Rounds::default();
            copy(ctx, session, Phase::Hold).await?;
            keep_held(ctx, session, false).await?;
        }
    }
}

/// Makes everything durable, so that it can be looked at and taken over.
async fn keep_held(ctx: &Context, session: &mut Session, released: bool) -> Result<()> {
    session.save(ctx, Phase::Hold, released).await?;
    session.journal.show_deletions(&session.source).await
}

/// Whether staged files have grown too old while it waited.
fn is_stale(ctx: &Context, session: &Session) -> bool {
    let now = store_time(ctx, &session.journal);
    let mut chunks = session.plan.chunks.iter();
    chunks.any(|chunk| session.journal.need(chunk, now) != Need::Nothing)
}

fn held(ctx: &Context, session: &Session, taken_over: bool) -> Held {
    let header = session.journal.header();
    Held {
        table: ctx.table().to_owned(),
        id: header.id.clone(),
        rows: header.rows,
        values_nulled: session.values_nulled(),
        taken_over,
    }
}
