//! Columns that Lance does not find by their names.

use crate::error::{Error, Result};
use crate::plan::facts::Facts;
use crate::plan::{Plan, Strategy};
use crate::schema::unfound::unfound;

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    match unfound(&facts.schema).filter(|_| plan.strategy == Strategy::Rewrite) {
        None => Ok(()),
        Some(field) => Err(Error::refused(format!(
            "column `{}`: Lance does not find it by its name, so it cannot be read",
            field.name
        ))
        .with_advice("a --rename before gives it another one, without a backtick")),
    }
}
