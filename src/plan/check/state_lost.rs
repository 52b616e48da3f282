//! State that Lance keeps beside the rows, and that a migration would lose.

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::facts::Facts;
use crate::plan::strategy::Strategy;

/// Schema metadata that makes a table a materialised view (lancedb 0.41 `src/materialized_view.rs`).
const VIEW: &str = "mv.definition";
/// Schema metadata with functions that write columns (lancedb 0.41 `src/table/computed_columns.rs`).
const FUNCTIONS: &str = "lancedb::function_bindings";
/// Field metadata of a computed column (same file).
const COMPUTED: &str = "computed_column";

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    let state = facts.state;
    let schema = &facts.schema;
    let computed = schema.fields_pre_order().find(|field| field.metadata.contains_key(COMPUTED));
    let rewrites = plan.strategy == Strategy::Rewrite;
    // New columns leave alone what others are computed from.
    let adds = plan.target.changes.iter().all(|change| change.columns_added().is_some());
    let touches = rewrites || !adds;
    let computed = computed.filter(|_| touches).map(|field| {
        format!(
            "column `{}` is computed by LanceDB, which would compute all of it again",
            field.name
        )
    });
    let found = [
        (state.unknown_writer_flags, "it uses features that this version of Lance does not know"),
        (state.mem_wal, "it has a MemWAL index: rows in its shards would be lost to readers"),
        (schema.metadata.contains_key(VIEW), "it is a materialised view: refresh it instead"),
        (touches && schema.metadata.contains_key(FUNCTIONS), "functions are bound to its columns"),
        (
            rewrites && state.stable_row_ids,
            "it has stable row ids, and a rewrite would give its rows other ids",
        ),
        (
            state.non_reusable_field_ids,
            "its field ids are never reused, which a swap has to do that is prepared in full",
        ),
        (
            plan.strategy != Strategy::Metadata && state.overlays,
            "it has data overlay files: compact it first",
        ),
        (
            rewrites && state.tagged_fragment_reuse,
            "it has a tagged fragment-reuse index: optimize its indices first",
        ),
    ];
    let lost = found.into_iter().find(|(found, _)| *found);
    let lost = lost.map(|(_, why)| why.to_owned()).or(computed);
    match lost {
        None => Ok(()),
        Some(why) => {
            let table = &facts.table;
            Err(Error::refused(format!("`{table}` cannot be migrated without loss: {why}")))
        }
    }
}
