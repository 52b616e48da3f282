//! `migrate`: stages, catches up with what others write meanwhile, verifies and swaps.

use std::{sync::Arc, time::Instant};

use futures::FutureExt as _;
use futures::future::{Either, select};
use lance::Dataset;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::run::commands::dropped;
use crate::run::copier::copy;
use crate::run::cutover::{Swap, indices::build_indices, swap};
use crate::run::preflight::{preflight, quarantine::quarantine};
use crate::run::probe::probe;
use crate::run::told::tell_verified;
use crate::run::{
    after::finish, context::Context, head::on_what_is_there, hold::hold, planning::Planned,
    planning::plan_head, report::Ended, session::Session, staged::refuse_staged,
    supplying::close_supply,
};
use crate::{phase::Phase, settings::Hold, table::open::Opener};

pub(crate) async fn run(ctx: &Context) -> Result<Ended> {
    ctx.settings.validate()?;
    let opener = ctx.opener();
    let began = Instant::now();
    let planned = on_what_is_there(ctx, &opener, || plan_and_try(ctx, &opener).boxed()).await?;
    if planned.plan.is_nothing() {
        return Ok(Ended::Nothing(Box::new(planned.plan)));
    }
    let session = Box::pin(Session::begin(ctx, planned, None, began)).await?;
    Box::pin(carry_out(ctx, session)).await
}

/// Plans, and tries the plan on the rows; nothing is written for it but what shows whether anything can be.
async fn plan_and_try(ctx: &Context, opener: &Opener) -> Result<Planned> {
    let planning = Box::pin(plan_head(ctx, opener));
    let looking = Box::pin(refuse_staged(ctx, opener));
    // At once, since a store takes its time; what is wrong with the plan is told first.
    let planned = match select(planning, looking).await {
        Either::Left((planned, looking)) => {
            let planned = planned?;
            looking.await?;
            planned
        }
        Either::Right((free, planning)) => {
            let planned = planning.await?;
            free?;
            planned
        }
    };
    let (live, plan) = (Arc::clone(&planned.live), planned.plan.clone());
    let (preflight, probe) =
        (Box::pin(preflight(ctx, planned)), Box::pin(probe(ctx, &live, &plan)));
    tokio::try_join!(preflight, probe).map(|(planned, ())| planned)
}

/// Stage, catch up, verify, hold, swap, and what comes after.
///
/// # Errors
/// As [`migrate`](crate::Migration::migrate).
pub(crate) async fn carry_out(ctx: &Context, mut session: Box<Session>) -> Result<Ended> {
    if ctx.settings.hold != Hold::No {
        return match hold(ctx, &mut session).await {
            Ok(held) => Ok(Ended::Held(held)),
            Err(error) => Err(stopped(ctx, &mut session, error).await),
        };
    }
    match until_swapped(ctx, &mut session).await {
        Ok(swapped) => Box::pin(finish(ctx, session, swapped)).await,
        Err(error) => Err(stopped(ctx, &mut session, error).await),
    }
}

async fn until_swapped(ctx: &Context, session: &mut Session) -> Result<Arc<Dataset>> {
    let mut indexed = false;
    loop {
        let mut whole = copy(ctx, session, Phase::Stage).await?;
        tell_verified(ctx, whole.session());
        if !indexed {
            indexed = true;
            // Others may have written meanwhile.
            if Box::pin(build_indices(ctx, &mut whole)).await? {
                continue;
            }
        }
        if Box::pin(copy_bad_rows(ctx, whole.session())).await? {
            continue;
        }
        close_supply(ctx, whole.session()).await?;
        if let Swap::Landed(swapped) = swap(ctx, whole).await? {
            return Ok(swapped);
        }
        let since = session.staged_first.map(|first| first.elapsed()).unwrap_or_default();
        let pause = session.rounds.pause(since, Uuid::new_v4().as_u64_pair().1);
        // A run that is asked to stop does so where it looks for that next.
        ctx.pause(pause).await;
    }
}

/// Copies rows with bad values to the quarantine, if that is asked for. True, when others may have written meanwhile.
async fn copy_bad_rows(ctx: &Context, session: &mut Session) -> Result<bool> {
    let known = session.quarantined.take();
    let (source, plan, journal) = (&session.source, &session.plan, &session.journal);
    let with = (journal, session.supply.as_ref());
    let (known, again) = quarantine(ctx, source, plan, with, known).await?;
    session.quarantined = known;
    Ok(again)
}

/// The error to tell of a run that stops before its swap. One that was taken over removes the files
/// that it wrote and could not record: nobody else knows of them.
async fn stopped(ctx: &Context, session: &mut Session, error: Error) -> Error {
    // What stopped it is the error to tell.
    let _ = close_supply(ctx, session).await;
    session.journal.end_beats().await;
    if error.kind() == Kind::Locked {
        // Whoever took over removes by name what is left.
        let _ = session.remove_fresh().await;
    }
    dropped::kept_or_dropped(ctx, error).await
}
