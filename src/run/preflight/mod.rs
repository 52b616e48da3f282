//! Tries the changes on the data before anything is written: what would not go through is counted, and
//! shown with a few rows.

mod produced;
pub(crate) mod quarantine;
mod there;
mod trial;

use std::{collections::BTreeMap, sync::Arc};

use lance::Dataset;
use serde_json::json;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::plan::{Finding, Plan};
use crate::run::preflight::produced::try_elsewhere;
use crate::run::preflight::trial::{RowTrial, TrialFindings, trial_of, tried_at_once};
use crate::run::preflight::{quarantine::expect_quarantine, there::compare_there};
use crate::run::{context::Context, planning::Planned};
use crate::settings::{OnBadValue, Preflight};
use crate::{
    chunk::SourceFragment, phase::Phase, progress::Amount, schema::cast::Problem, span,
    table::facts::source_fragments,
};

/// Rows of each fragment that a sample looks at.
const SAMPLE_ROWS: u64 = 1_000;

/// Tries what is `planned` on the rows of the table, and puts what it finds into the plan.
///
/// # Errors
/// `Refused`, when a value does not go through that has to.
pub(crate) async fn preflight(ctx: &Context, planned: Planned) -> Result<Planned> {
    let Planned { mut plan, live, data, .. } = planned;
    plan.skipped_values = compare_there(ctx, &live, &plan).await?;
    let rows_max = match plan.request.preflight {
        Preflight::Full => u64::MAX,
        Preflight::Sample => SAMPLE_ROWS,
    };
    let trying = span::plan();
    let tried = try_rows(ctx, &live, &plan, rows_max).await?;
    drop(trying);
    plan.findings = tried.findings.into_values().collect();
    refuse(&plan)?;
    expect_quarantine(ctx, &plan).await?;
    for finding in &plan.findings {
        ctx.say(format!("{}; they become null", finding.text()));
    }
    let supply = try_elsewhere(ctx, &live, &mut plan, data).await?;
    Ok(Planned { plan, live, data: Vec::new(), supply })
}

/// Tries the changes of `plan` on the first `rows_max` rows of every fragment of `live`.
async fn try_rows(
    ctx: &Context,
    live: &Arc<Dataset>,
    plan: &Plan,
    rows_max: u64,
) -> Result<TrialFindings> {
    let trial = trial_of(ctx, live, plan, rows_max, None)?;
    let Some(trial) = trial else { return Ok(TrialFindings::default()) };
    let fragments = source_fragments(live).await?;
    let rows = fragments.iter().map(|fragment| fragment.physical_rows.min(rows_max)).sum();
    ctx.begin_phase(Phase::Plan, Amount { rows, ..Amount::default() });
    try_fragments(ctx, &trial, fragments).await
}

/// Tries `fragments` side by side, each on a task of its own.
async fn try_fragments(
    ctx: &Context,
    trial: &RowTrial,
    fragments: Vec<SourceFragment>,
) -> Result<TrialFindings> {
    let at_once = tried_at_once(ctx, &fragments);
    let mut waiting = fragments.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut done: BTreeMap<usize, TrialFindings> = BTreeMap::new();
    loop {
        while running.len() < at_once
            && let Some((place, fragment)) = waiting.next()
        {
            let (trial, progress) = (trial.clone(), Arc::clone(&ctx.progress));
            running.spawn(async move {
                let tried = trial.fragment(&fragment, TrialFindings::default(), &progress).await;
                (place, tried)
            });
        }
        tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => {
                return Err(Error::interrupted("interrupted; nothing was written"));
            }
            next = running.join_next() => match next {
                None => break,
                Some(Ok((place, tried))) => drop(done.insert(place, tried?)),
                Some(Err(error)) => {
                    let died = Error::failed("a trial died; this is a bug in relance");
                    return Err(died.caused_by(error));
                }
            },
        }
    }
    let mut tried = TrialFindings::default();
    for one in done.into_values() {
        tried.merge(one);
    }
    Ok(tried)
}

/// Refuses what may not become null.
fn refuse(plan: &Plan) -> Result<()> {
    let fails = plan.request.on_bad_value == OnBadValue::Fail;
    let bad = |finding: &&Finding| fails || finding.problem.is_of_nulls();
    let bad: Vec<&Finding> = plan.findings.iter().filter(bad).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let error = Error::refused(format!(
        "values of `{}` do not go through, the first in column `{}`; nothing was written",
        plan.table, first.column
    ))
    .with_lines(bad.iter().map(|finding| finding.text()))
    .knowing("findings", json!(bad));
    if bad.iter().all(|finding| finding.problem == Problem::Null) {
        return Err(error.with_advice("--fill 'NAME=LITERAL' before --not-null gives them a value"));
    }
    if bad.iter().all(|finding| finding.problem.is_of_nulls()) {
        return Err(error.with_advice("a later storage version keeps null structs"));
    }
    Err(error.with_advice(
        "--on-bad-value null makes them null, --on-bad-value quarantine copies their rows as well",
    ))
}
