//! `plan`: what a migration would do, and what it would cost.

use crate::run::{context::Context, planning::plan_head, preflight::preflight, probe::try_store};
use crate::{error::Result, plan::Plan, plan::requests::Commits};

pub(crate) async fn run(ctx: &Context) -> Result<Plan> {
    ctx.settings.validate()?;
    let mut planned = plan_head(ctx, &ctx.opener()).await?;
    if ctx.settings.try_store {
        try_store(ctx, &planned.live).await?;
        if let Some(store) = &mut planned.plan.store
            && ctx.location.has_unknown_commits()
        {
            store.commits = Commits::Tried;
        }
    }
    let planned = preflight(ctx, planned).await?;
    if let Some(supply) = planned.supply {
        supply.close().await?;
    }
    Ok(planned.plan)
}
