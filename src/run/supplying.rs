//! What gives values from elsewhere, for a migration that is under way.

use std::sync::Arc;

use lance_core::datatypes::Schema;

use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::phase::Phase;
use crate::plan::Plan;
use crate::run::{context::Context, lease::checkpoint, other_data::data_of, session::Session};
use crate::schema::change::Change;
use crate::schema::elsewhere::{By, Source as From};
use crate::supply::{Supply, function_of};
use crate::table::open::data_files_of;

/// Has the values of `supply` kept with what is staged, those that it has already among them.
///
/// # Errors
/// `Failed`, when they cannot be read or written.
pub(crate) async fn begin_supply(
    journal: &Journal,
    plan: &Plan,
    supply: Option<Supply>,
) -> Result<Option<Arc<Supply>>> {
    let Some(supply) = supply else { return Ok(None) };
    let staging = journal.staging();
    let files = data_files_of(staging).await?;
    let supply = supply.kept(files, &staging.branch_location().path).await?;
    supply.expect_fragments(&plan.chunks);
    Ok(Some(Arc::new(supply)))
}

/// The same for a run that goes on.
///
/// # Errors
/// `Usage`, when a function is not given that gives values, or a program would be run that nobody asks for; `Failed`, when
/// what is kept cannot be read.
pub(crate) async fn resume_supply(
    ctx: &Context,
    journal: &Journal,
    (plan, live): (&Plan, &Schema),
) -> Result<Option<Arc<Supply>>> {
    let mut request = journal.header().request.clone();
    for staged in &mut request.changes {
        // What is joined may lie elsewhere by now.
        let asked = ctx.request.changes.iter().find(|asked| asked.asks(staged));
        if let (Change::Join(staged), Some(Change::Join(asked))) = (staged, asked) {
            staged.from.clone_from(&asked.from);
        }
    }
    let data = data_of(ctx, live, &request).await?;
    let asked = plan_by(ctx, plan)?;
    let supply = Supply::of(&asked, &ctx.functions, data, &ctx.settings, &ctx.progress)?;
    begin_supply(journal, plan, supply).await
}

/// `plan`, with what gives values as it is asked for now, where it is: a program may lie elsewhere by now.
///
/// # Errors
/// `Usage`, when a program would be run that stands in an object store, where others may have written it, and nobody asks
/// for it here.
fn plan_by(ctx: &Context, plan: &Plan) -> Result<Plan> {
    let mut plan = plan.clone();
    for what in &mut plan.target.elsewhere {
        let From::Producer(produce) = &mut what.from else { continue };
        let asked = ctx.request.changes.iter().filter_map(Change::produced);
        let asked = asked.into_iter().find(|asked| asked.asks(produce));
        if let Some(asked) = asked {
            produce.by = asked.by.clone();
            produce.batch_rows = asked.batch_rows;
        } else if function_of(&ctx.functions, &produce.name, 0).is_some() {
            produce.by = By::Function(produce.name.clone());
        } else if let By::Program(line) = &produce.by
            && ctx.location.directory().is_none()
        {
            let message = format!(
                "column `{}` is computed by a program that stands in the journal, in an object store: `{line}`",
                produce.name
            );
            return Err(Error::usage(message)
                .with_advice("repeat --replace or --add with --by: what others may have written is not run unasked"));
        }
    }
    Ok(plan)
}

/// Lets the programs end that give values from elsewhere.
///
/// # Errors
/// `Mismatch`, when one did not give one batch for each; what is staged is forgotten then, since values of it may stand in
/// other rows.
pub(crate) async fn close_supply(ctx: &Context, session: &mut Session) -> Result<()> {
    let Some(supply) = session.supply.clone() else { return Ok(()) };
    let closed = supply.close().await;
    if closed.is_err() {
        session.journal.forget_all();
        checkpoint(ctx, &mut session.journal, Phase::Stage, false).await?;
    }
    closed
}
