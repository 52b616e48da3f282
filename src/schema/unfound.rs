//! Columns that Lance does not find by their names.

use lance_core::datatypes::{Field, Schema};

/// The first column of `schema` that Lance takes its own name for another path, as one with a backtick in it: its
/// readers give nulls in place of such a column where a fragment has several files (lance-core 14
/// `src/datatypes/schema.rs`, `do_intersection`), and its scanners fail.
pub(crate) fn unfound(schema: &Schema) -> Option<&Field> {
    let is_found = |field: &&Field| schema.field(&field.name).is_some_and(|one| one.id == field.id);
    schema.fields.iter().find(|field| !is_found(field))
}
