//! What becomes of a table's indices.

use serde::{Deserialize, Serialize};

use crate::plan::facts::{Facts, IndexFacts};
use crate::plan::{request::Request, strategy::Strategy};
use crate::schema::{path::find, target::Target};

/// What becomes of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IndexFate {
    /// As it is.
    Keep,
    /// Built again with the same parameters, because its column has other rows or other values, or because another
    /// column has the name now.
    Rebuild,
    /// Dropped, as asked for: by its name, or with its column.
    Drop,
}

/// An index that is built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rebuild {
    pub name: String,
    /// The name in the target of the column that it is on.
    pub column: String,
    pub other_values: bool,
}

/// What becomes of each index of a table when `strategy` takes it to `target`.
pub(super) fn fates(
    facts: &Facts,
    request: &Request,
    target: &Target,
    strategy: Strategy,
) -> Vec<(IndexFacts, IndexFate)> {
    let fate = |index: &IndexFacts| {
        let paths = || index.column.split(", ");
        let is_gone = paths().any(|path| target.path_indexed(path).is_none());
        if is_gone || request.drop_indices.contains(&index.name) {
            IndexFate::Drop
        } else if strategy == Strategy::Rewrite || paths().any(|path| is_derived(target, path)) {
            IndexFate::Rebuild
        } else {
            IndexFate::Keep
        }
    };
    facts.indices.iter().map(|index| (index.clone(), fate(index))).collect()
}

/// Whether the source's column at `path` gets other values, or another column gets its name.
pub(super) fn is_derived(target: &Target, path: &str) -> bool {
    let Some(now) = target.path_now(path) else { return true };
    if target.kept_beside.iter().any(|name| name == path) {
        return true;
    }
    let place = find(&target.schema.fields, &now);
    let column = place.and_then(|place| target.columns.get(*place.first()?));
    column.is_some_and(|column| !column.is_kept())
}
