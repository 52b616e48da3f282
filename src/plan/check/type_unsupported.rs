//! Columns that the pipeline cannot carry, and added ones that the table's file version cannot hold.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::DataType;
use lance_core::datatypes::Field;
use lance_file::version::ConcreteFileVersion;

use crate::error::{Error, Result};
use crate::plan::{Facts, Plan};
use crate::schema::change::Change;
use crate::schema::show::type_text;

/// Field metadata that names an extension type.
const EXTENSION: &str = "ARROW:extension:name";

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    for field in facts.schema.fields_pre_order() {
        let Some(what) = not_carried(field) else {
            continue;
        };
        let (table, name) = (&facts.table, &field.name);
        return Err(Error::refused(format!(
            "column `{name}` of `{table}` holds {what}, which this version of relance cannot rewrite"
        )));
    }
    for change in &plan.target.changes {
        let Change::Add(add) = change else { continue };
        if let Some(needed) = needs_version(&add.data_type, facts.storage_version) {
            return Err(Error::refused(format!(
                "column `{}`: a {} needs storage version {needed}; the table has {}",
                add.name,
                type_text(&add.data_type),
                facts.storage_version
            )));
        }
    }
    Ok(())
}

fn not_carried(field: &Field) -> Option<&'static str> {
    if field.is_blob() {
        return Some("blobs");
    }
    match field.metadata.get(EXTENSION).map(String::as_str) {
        Some("lance.json" | "arrow.json") => Some("JSON"),
        _ => None,
    }
}

/// The storage version that `data_type` needs, if the table's is older
/// (lance-file 14 `src/versions/v2_1/mod.rs`).
fn needs_version(data_type: &DataType, version: ConcreteFileVersion) -> Option<&'static str> {
    let old = matches!(version, ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1);
    let structured =
        |field: &arrow::datatypes::Field| matches!(field.data_type(), DataType::Struct(_));
    let new = match data_type {
        DataType::Map(..) => true,
        DataType::FixedSizeList(item, _) => structured(item),
        DataType::List(item) | DataType::LargeList(item) => {
            return needs_version(item.data_type(), version);
        }
        DataType::Struct(fields) => {
            return fields.iter().find_map(|field| needs_version(field.data_type(), version));
        }
        _ => false,
    };
    (new && old).then_some("2.2")
}
