//! Which strategy carries out a request: the cheapest that can do every change.

use lance_file::version::ConcreteFileVersion;

use crate::error::{Error, Result};
use crate::plan::{amounts::counted, facts::Facts, request::Request, strategy::Strategy};
use crate::schema::change::{Add, Change};
use crate::schema::{column::Column, target::Target};
use crate::storage_version::{self, abilities};

/// A strategy, and the reasons for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub strategy: Strategy,
    /// Why it and not a cheaper one.
    pub why: String,
    pub possible: Vec<Strategy>,
}

/// The cheapest strategy that can do everything that is asked for.
///
/// # Errors
/// `Refused`, when another one is asked for that cannot; `Usage`, when there is no such storage version.
pub(super) fn choose(facts: &Facts, request: &Request, target: &Target) -> Result<Choice> {
    let (needed, why) = needed(facts, request, target)?;
    let possible: Vec<Strategy> = [Strategy::Metadata, Strategy::Columns, Strategy::Rewrite]
        .into_iter()
        .filter(|strategy| *strategy >= needed)
        // Without a derived column there is nothing to write.
        .filter(|strategy| *strategy != Strategy::Columns || target.derived().next().is_some())
        .collect();
    // A rewrite without changes is wanted for itself; one for changes that the table has already is not needed.
    let rewrites = request.strategy == Some(Strategy::Rewrite) && request.changes.is_empty();
    if needed == Strategy::Nothing && !rewrites {
        return Ok(Choice { strategy: needed, why, possible: vec![needed] });
    }
    match request.strategy {
        None => Ok(Choice { strategy: needed, why, possible }),
        Some(asked) if possible.contains(&asked) => {
            let why = if asked == needed { why } else { "asked for".to_owned() };
            Ok(Choice { strategy: asked, why, possible })
        }
        Some(asked) => {
            let table = &facts.table;
            let message = format!("strategy `{asked}` cannot do what is asked of `{table}`: {why}");
            Err(Error::refused(message).with_advice(&format!("--strategy auto takes `{needed}`")))
        }
    }
}

fn needed(facts: &Facts, request: &Request, target: &Target) -> Result<(Strategy, String)> {
    if let Some(filter) = &request.filter {
        return Ok((Strategy::Rewrite, format!("rows are left out (--where '{filter}')")));
    }
    if let Some(rows) = request.rows_per_file {
        return Ok((Strategy::Rewrite, format!("files of {} are asked for", counted(rows, "row"))));
    }
    let version = version_of_new_files(facts, request)?;
    let text = version.to_manifest_string();
    let old = facts.file_versions.iter().find(|there| **there != text);
    if request.storage_version.is_some() && (old.is_some() || version != facts.storage_version) {
        let from =
            old.cloned().unwrap_or_else(|| facts.storage_version.to_manifest_string().to_owned());
        let why = format!("data files of storage version {from} become {text}");
        return Ok((Strategy::Rewrite, why));
    }
    if target.is_unchanged() {
        return Ok((Strategy::Nothing, "the table is as asked already".to_owned()));
    }
    if !abilities(facts.storage_version).is_writable {
        let why = "files of the legacy version take no new columns beside them".to_owned();
        return Ok((Strategy::Rewrite, why));
    }
    let new = target.derived().next().is_some();
    if new && target.renames_or_drops() && !facts.state.detachable {
        let why = "its manifests have the old names of Lance's, so that only a rewrite takes new \
                   columns and other names in one commit";
        return Ok((Strategy::Rewrite, why.to_owned()));
    }
    let valued = target.derived().find(|place| !is_manifest_only(target, *place));
    let name = valued.and_then(|place| target.schema.fields.get(place)).map(|field| &field.name);
    if let Some(name) = name {
        let why = format!("the values of `{name}` are new; all other columns stay where they are");
        return Ok((Strategy::Columns, why));
    }
    if !target.columns.iter().any(Column::is_kept) {
        return Ok((Strategy::Columns, "no column of the source is left".to_owned()));
    }
    Ok((Strategy::Metadata, "no value of any row changes".to_owned()))
}

/// Whether the column at `place` of the target needs no file, because it is null in every row.
fn is_manifest_only(target: &Target, place: usize) -> bool {
    let column = target.columns.get(place).is_some_and(Column::is_all_null);
    column && target.schema.fields.get(place).is_some_and(|field| field.nullable)
}

/// The strategy that `change` needs, taken alone, and why.
pub(super) fn of_change(change: &Change) -> (Strategy, &'static str) {
    match change {
        Change::Rename { .. } => (Strategy::Metadata, "names stand in the manifest"),
        Change::Drop { .. } => (Strategy::Metadata, "the manifest names it no more"),
        Change::Nullable { .. } => (Strategy::Metadata, "nullability stands in the manifest"),
        Change::Add(Add { default: None, name, .. }) if !name.contains('.') => {
            (Strategy::Metadata, "a column that no file holds is null")
        }
        Change::Add(_) => (Strategy::Columns, "its value is written for every row"),
        Change::Compute(_) | Change::Set { .. } => {
            (Strategy::Columns, "it is computed for every row")
        }
        Change::Produce(_) => (Strategy::Columns, "its producer gives every value"),
        Change::Join(_) => (Strategy::Columns, "every row gets the values of its key"),
        Change::Cast(_) => (Strategy::Columns, "every value is cast"),
        Change::Fill { .. } => (Strategy::Columns, "its nulls are filled"),
        Change::NotNull { .. } => (Strategy::Columns, "every value is looked at"),
    }
}

/// The storage version that `request` asks for, or the table's.
///
/// # Errors
/// `Usage`, when there is none of that name.
pub(super) fn version_of_new_files(
    facts: &Facts,
    request: &Request,
) -> Result<ConcreteFileVersion> {
    let Some(text) = &request.storage_version else {
        return Ok(storage_version::of_new_files(facts.storage_version));
    };
    storage_version::named(text).ok_or_else(|| {
        Error::usage(format!("no storage version is called `{text}`; there is 2.0, 2.1 and 2.2"))
    })
}
