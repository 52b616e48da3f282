//! Columns that a rewrite cannot carry, and new ones that the table's storage version cannot hold.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::{DataType, Field as ArrowField};
use lance_core::datatypes::Field;
use lance_file::version::ConcreteFileVersion;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::amounts::count_text;
use crate::plan::facts::Facts;
use crate::plan::strategy::Strategy;
use crate::schema::{column::Column, nulls::null_structs, show::type_text};
use crate::storage_version::{FIRST_WITH_MAPS, abilities};

pub(super) fn check(facts: &Facts, plan: &Plan) -> Result<()> {
    if plan.strategy == Strategy::Rewrite {
        expect_carried(facts, plan)?;
    }
    let new = plan.target.derived().chain(plan.written.iter().copied());
    for place in new {
        let (fields, columns) = (&plan.target.schema.fields, &plan.target.columns);
        let Some((field, column)) = fields.get(place).zip(columns.get(place)) else { continue };
        let (name, data_type) = (&field.name, field.data_type());
        let Some(why) = unstorable(&data_type, plan.storage_version) else {
            expect_null_structs_kept(plan, place, field, column)?;
            continue;
        };
        let text = type_text(&data_type);
        return Err(Error::refused(format!("column `{name}` is {text}: {why}")));
    }
    expect_blobs_left_alone(plan)
}

/// Refuses a constant with a null struct in it, where files keep none. Values that come from rows are tried.
fn expect_null_structs_kept(
    plan: &Plan,
    place: usize,
    field: &Field,
    column: &Column,
) -> Result<()> {
    let Column::Constant(value) = column else { return Ok(()) };
    let kept = abilities(plan.storage_version).keeps_null_structs || plan.rows == 0;
    if kept || !plan.written.contains(&place) {
        return Ok(());
    }
    let nulls = null_structs(value, &ArrowField::from(field));
    nulls.map_or(Ok(()), |_| {
        let (name, rows) = (&field.name, count_text(plan.rows));
        Err(Error::refused(format!(
            "column `{name}`: all {rows} values hold a null struct, which storage version 2.0 does not keep"
        ))
        .with_advice("add it with a literal, or with a later --storage-version"))
    })
}

/// Refuses to derive a struct or list that has a blob v2 in it: its bytes lie beside the column.
fn expect_blobs_left_alone(plan: &Plan) -> Result<()> {
    let read = plan.target.derived().filter_map(|place| plan.target.columns.get(place));
    let names: Vec<&str> = read.flat_map(Column::inputs).collect();
    let mut read = plan.before.fields.iter().filter(|field| names.contains(&field.name.as_str()));
    read.find(|field| field.children.iter().any(has_blob)).map_or(Ok(()), |field| {
        let name = &field.name;
        Err(Error::refused(format!(
            "column `{name}` has a blob in it: this version of relance changes nothing beside one"
        )))
    })
}

fn has_blob(field: &Field) -> bool {
    field.is_blob_v2() || field.children.iter().any(has_blob)
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

/// Why files of `version` cannot hold `data_type`: Lance's writer fails or panics at it, or nothing reads what it wrote
/// (tried on lance 14, one type after the other).
fn unstorable(data_type: &DataType, version: ConcreteFileVersion) -> Option<String> {
    match data_type {
        DataType::Map(..) if !abilities(version).has_maps => {
            let version = version.to_manifest_string();
            Some(format!("a map needs storage version {FIRST_WITH_MAPS}; the table has {version}"))
        }
        DataType::FixedSizeList(item, _) => match item.data_type() {
            DataType::FixedSizeList(..) => unstorable(item.data_type(), version),
            item if item.is_primitive() || item.is_null() => None,
            DataType::Boolean | DataType::FixedSizeBinary(_) => None,
            item => {
                let (item, version) = (type_text(item), version.to_manifest_string());
                Some(format!(
                    "Lance does not store fixed-size lists of {item} in storage version {version}"
                ))
            }
        },
        DataType::Struct(fields) if fields.is_empty() => {
            Some("Lance does not store structs without fields".to_owned())
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            unstorable(item.data_type(), version)
        }
        DataType::Struct(fields) => {
            fields.iter().find_map(|field| unstorable(field.data_type(), version))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;
    use ConcreteFileVersion::{V2_0, V2_1, V2_2};

    #[test]
    fn what_lance_writes_and_cannot_read_is_known() {
        let stored =
            |text: &str, version| unstorable(&parse_type(text).unwrap(), version).is_none();
        for version in [V2_0, V2_1, V2_2] {
            for text in [
                "fixed_size_list<bool>[2]",
                "fixed_size_list<item: fixed_size_list<halffloat>[2]>[2]",
                "fixed_size_list<decimal128(5, 2)>[2]",
                "fixed_size_list<fixed_size_binary[3]>[2]",
                "list<list<struct<a: int8>>>",
            ] {
                assert!(stored(text, version), "{text} in {version:?}");
            }
            for text in [
                "fixed_size_list<string>[2]",
                "list<fixed_size_list<binary>[2]>",
                "fixed_size_list<struct<a: int8>>[2]",
                "struct<a: fixed_size_list<dictionary<values=string, indices=int32>>[2]>",
            ] {
                assert!(!stored(text, version), "{text} in {version:?}");
            }
        }
        assert!(
            !stored("list<map<string, int8>>", V2_1) && stored("list<map<string, int8>>", V2_2)
        );
        assert!(!stored("map<string, fixed_size_list<string>[2]>", V2_2));
    }
}
