//! Refusals, one reason each. They run in a fixed order, so that the same request gives the same answer.

mod index_lost;
mod key_changed;
mod name_unusable;
mod no_space;
mod state_lost;
mod type_unsupported;

use crate::error::Result;
use crate::plan::Plan;
use crate::plan::facts::Facts;
use crate::plan::request::Request;

/// Refuses what cannot be carried out without loss.
///
/// # Errors
/// `Refused`, or `Usage` for an index name that is not there.
pub(crate) fn run(facts: &Facts, request: &Request, plan: &Plan) -> Result<()> {
    index_lost::check_names(facts, request)?;
    if plan.is_nothing() {
        return Ok(());
    }
    state_lost::check(facts, plan)?;
    key_changed::check(facts, request, plan)?;
    name_unusable::check(facts, plan)?;
    type_unsupported::check(facts, plan)?;
    index_lost::check(plan)?;
    no_space::check(plan)
}
