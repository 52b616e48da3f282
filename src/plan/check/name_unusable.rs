//! Columns whose names Lance and LanceDB's client do not find.

use crate::error::{Error, Result};
use crate::plan::facts::Facts;
use crate::plan::{Plan, Strategy};
use crate::schema::unfound::{is_found, unfound};

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    let known = |name: &str| facts.schema.fields.iter().any(|field| field.name == name);
    let target = &plan.target.schema;
    let new = target.fields.iter().find(|field| !known(&field.name) && !is_found(target, field));
    if let Some(field) = new {
        let name = &field.name;
        return Err(Error::refused(format!(
            "column `{name}`: Lance finds no column by such a name, and LanceDB could not query the table; \
             leave the backtick out"
        )));
    }
    match unfound(&facts.schema).filter(|_| plan.strategy == Strategy::Rewrite) {
        None => Ok(()),
        Some(field) => Err(unread(&field.name)),
    }
}

/// The error of a column that would have to be read.
fn unread(name: &str) -> Error {
    Error::refused(format!(
        "column `{name}`: Lance does not find it by its name, so it cannot be read"
    ))
    .with_advice("a --rename before gives it another one, without a backtick")
}
