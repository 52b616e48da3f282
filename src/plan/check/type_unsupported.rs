//! Columns that the pipeline cannot carry, and added ones that the table's file version cannot hold.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::DataType;
use lance_core::datatypes::Field;
use lance_file::version::ConcreteFileVersion;

use crate::error::{Error, Result};
use crate::plan::{Facts, Plan, Strategy};
use crate::schema::show::type_text;

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    for field in facts.schema.fields_pre_order() {
        let carried = plan.strategy != Strategy::Rewrite;
        let nested = !facts.schema.fields.iter().any(|top| top.id == field.id);
        let Some(what) = not_carried(field, nested, plan.storage_version).filter(|_| !carried)
        else {
            continue;
        };
        let (table, name) = (&facts.table, &field.name);
        return Err(Error::refused(format!(
            "column `{name}` of `{table}` holds {what}, which this version of relance cannot rewrite"
        ))
        .with_advice("the strategies columns and metadata leave it where it is"));
    }
    let structs = || facts.schema.fields_pre_order().find(|field| is_nullable_struct(field));
    if plan.storage_version == ConcreteFileVersion::V2_0
        && facts.storage_version != ConcreteFileVersion::V2_0
        && let Some(field) = structs()
    {
        let name = &field.name;
        return Err(Error::refused(format!(
            "column `{name}`: storage version 2.0 keeps no null structs"
        )));
    }
    let new = plan.target.derived().chain(plan.written.iter().copied());
    for place in new {
        let Some(field) = plan.target.schema.fields.get(place) else { continue };
        let (name, data_type) = (&field.name, field.data_type());
        if let Some(needed) = needs_version(&data_type, plan.storage_version) {
            return Err(Error::refused(format!(
                "column `{name}`: a {} needs storage version {needed}; the table has {}",
                type_text(&data_type),
                plan.storage_version
            )));
        }
    }
    Ok(())
}

fn is_nullable_struct(field: &Field) -> bool {
    field.nullable && matches!(field.data_type(), DataType::Struct(_)) && !field.is_blob()
}

/// What `field` holds that cannot be read from one file and written to another, if it does.
fn not_carried(field: &Field, nested: bool, version: ConcreteFileVersion) -> Option<&'static str> {
    let old = matches!(version, ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1);
    let is_list = matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_));
    if field.is_blob_v2() {
        // At the top level they are carried: see `schema/blob.rs`.
        nested.then_some("blobs inside another type")
    } else if field.is_blob() && !old {
        // At the top level they become those of the second kind.
        nested.then_some("blobs inside another type")
    } else if is_list && field.children.iter().any(Field::is_blob) {
        // Lance itself reads them wrong in 2.1.
        Some("lists of blobs")
    } else {
        None
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
