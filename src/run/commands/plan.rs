//! `plan`: what a migration would do, and what it would cost.

use crate::run::{context::Context, planning::plan_head, preflight::preflight};
use crate::{error::Result, plan::Plan};

pub(crate) async fn run(ctx: &Context) -> Result<Plan> {
    ctx.settings.validate()?;
    let planned = plan_head(ctx, &ctx.opener()).await?;
    let planned = preflight(ctx, planned).await?;
    if let Some(supply) = planned.supply {
        supply.close().await?;
    }
    Ok(planned.plan)
}
