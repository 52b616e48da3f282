//! Columns that a rewrite cannot carry, and new ones that the table's storage version cannot hold.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::DataType;
use lance_core::datatypes::Field;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::facts::Facts;
use crate::plan::strategy::Strategy;
use crate::schema::show::a_type;
use crate::storage_version::{FIRST_WITH_MAPS, abilities};

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    if plan.strategy == Strategy::Rewrite {
        expect_carried(facts, plan)?;
    }
    let loses_nulls = !abilities(plan.storage_version).keeps_null_structs
        && plan.storage_version != facts.storage_version;
    let mut fields = facts.schema.fields_pre_order();
    if let Some(field) = fields.find(|field| loses_nulls && is_nullable_struct(field)) {
        let name = &field.name;
        return Err(Error::refused(format!(
            "column `{name}`: storage version 2.0 keeps no null structs"
        )));
    }
    let new = plan.target.derived().chain(plan.written.iter().copied());
    for field in new.filter_map(|place| plan.target.schema.fields.get(place)) {
        let (name, data_type) = (&field.name, field.data_type());
        if has_maps(&data_type) && !abilities(plan.storage_version).has_maps {
            return Err(Error::refused(format!(
                "column `{name}`: {} needs storage version {FIRST_WITH_MAPS}; the table has {}",
                a_type(&data_type),
                plan.storage_version
            )));
        }
    }
    Ok(())
}

/// Refuses columns that cannot be read from one file and written to another.
fn expect_carried(facts: &Facts, plan: &Plan) -> Result<()> {
    let promotes = abilities(plan.storage_version).has_blob_v2;
    for field in facts.schema.fields_pre_order() {
        let is_top = facts.schema.fields.iter().any(|top| top.id == field.id);
        let is_list = matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_));
        // Top-level blobs are carried: see `schema/blob.rs`.
        let what = if field.is_blob_v2() || (field.is_blob() && promotes) {
            (!is_top).then_some("blobs inside another type")
        } else if is_list && field.children.iter().any(Field::is_blob) {
            // Lance itself reads them wrong in 2.1.
            Some("lists of blobs")
        } else {
            None
        };
        let Some(what) = what else { continue };
        let (table, name) = (&facts.table, &field.name);
        return Err(Error::refused(format!(
            "column `{name}` of `{table}` holds {what}, which this version of relance cannot rewrite"
        ))
        .with_advice("the strategies columns and metadata leave it where it is"));
    }
    Ok(())
}

fn is_nullable_struct(field: &Field) -> bool {
    field.nullable && matches!(field.data_type(), DataType::Struct(_)) && !field.is_blob()
}

/// Whether `data_type` has a map in it, or a struct as the item of a fixed-size list.
fn has_maps(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::FixedSizeList(item, _) => matches!(item.data_type(), DataType::Struct(_)),
        DataType::List(item) | DataType::LargeList(item) => has_maps(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_maps(field.data_type())),
        _ => false,
    }
}
