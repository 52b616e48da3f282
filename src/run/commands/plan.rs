//! `plan`: what a migration would do, and what it would cost.

use crate::error::Result;
use crate::plan::Plan;
use crate::run::context::Context;
use crate::run::planning::plan_head;
use crate::run::preflight::preflight;

pub(crate) async fn run(ctx: &Context) -> Result<Plan> {
    ctx.settings.validate()?;
    let planned = plan_head(ctx, &ctx.opener()).await?;
    Ok(preflight(ctx, planned).await?.plan)
}
