//! An index whose parameters cannot be known would come back different.

use crate::error::{Error, Result};
use crate::plan::{Facts, IndexFate, Plan, Request};

/// Refuses names that are no index of the table.
pub(super) fn check_names(facts: &Facts, request: &Request) -> Result<()> {
    for name in &request.drop_indices {
        if !facts.indices.iter().any(|index| &index.name == name) {
            let names: Vec<_> = facts.indices.iter().map(|index| index.name.as_str()).collect();
            let there = match names.as_slice() {
                [] => "the table has none".to_owned(),
                names => format!("the table has {}", names.join(", ")),
            };
            return Err(Error::usage(format!("no index is called `{name}`; {there}")));
        }
    }
    Ok(())
}

/// Refuses to lose an index without being asked.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let rebuilt = plan.indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
    for (index, _) in rebuilt {
        let Some(why) = &index.unknown else { continue };
        let (name, kind, column) = (&index.name, &index.kind, &index.column);
        return Err(Error::refused(format!(
            "index `{name}` ({kind} on `{column}`) cannot be built again as it was: {why}"
        ))
        .with_advice(&format!("--drop-index {name} goes on without it")));
    }
    Ok(())
}
