//! `resume`: goes on with the migration that is staged, wherever it stopped.

use std::time::Instant;

use lance::Dataset;

use crate::run::head::pin_head;
use crate::run::hints::kept;
use crate::run::lease::{expect_free_or_waiting, take_over};
use crate::run::planning::{expect_same_request, plan_staged};
use crate::run::session::Session;
use crate::run::supplying::resume_supply;
use crate::run::uploads::Unfinished;
use crate::run::{
    after::finish, after::left_undone, commands::migrate::carry_out, context::Context,
    report::Ended, staged::open_staged,
};
use crate::table::{history, open};
use crate::{error::Result, journal::Journal, phase::Phase, process::Running};

pub(crate) async fn run(ctx: &Context) -> Result<Ended> {
    ctx.settings.validate()?;
    let began = Instant::now();
    let (live, mut journal) = open_staged(ctx).await?;
    expect_free_or_waiting(ctx, &journal).await?;
    expect_same_request(ctx, &live, &journal)?;
    let running = Running::start(&ctx.run);
    let unfinished = Unfinished::uploads_now(ctx, &ctx.opener(), &live).await;
    let live = take_over(ctx, &live, &mut journal, Phase::Plan).await?;
    let header = journal.header();
    unfinished.give_up(ctx, [&*header.id].into_iter()).await;
    if let Some(version) = history::find_swap(&live, &header.id, header.first_version).await? {
        return Box::pin(resume_swapped(ctx, &live, journal, version, (began, running))).await;
    }
    pin_head(ctx, &live, &journal).await?;
    let plan = plan_staged(ctx, &live, &journal).await?;
    let mut session = Session::of(ctx, live, plan, journal, (began, running))?;
    let of = (&session.plan, session.source.schema());
    let supply = resume_supply(ctx, &session.journal, of).await;
    session.supply = supply.map_err(|error| kept(ctx, error))?;
    session.keep_staged(ctx);
    session.inspect(ctx).await.map_err(|error| kept(ctx, error))?;
    session.remove_orphans().await.map_err(|error| kept(ctx, error))?;
    Box::pin(carry_out(ctx, session)).await
}

/// Tidies up after a swap that landed.
async fn resume_swapped(
    ctx: &Context,
    live: &Dataset,
    journal: Journal,
    version: u64,
    run: (Instant, Running),
) -> Result<Ended> {
    ctx.say(format!("the swap landed as version {version}; tidying up"));
    let landed = async {
        // What it was swapped in on, whatever a journal says that a run wrote which was taken over.
        let source = open::at_version(live, version.saturating_sub(1)).await?;
        let plan = plan_staged(ctx, &source, &journal).await?;
        let swapped = open::at_version(live, version).await?;
        Ok((Session::of(ctx, source, plan, journal, run)?, swapped))
    };
    match landed.await {
        Ok((session, swapped)) => Box::pin(finish(ctx, session, swapped)).await,
        Err(error) => Err(left_undone(ctx, version, error).await),
    }
}
