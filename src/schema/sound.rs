//! Bounds of a type that was read from a file: Arrow's own formats can write down types that no array can have.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::error::{Error, Result};
use crate::schema::types::DEPTH_MAX;

/// Refuses a schema with a type that no array can have, or with two columns of one name.
///
/// # Errors
/// `Usage`, naming the column.
pub(crate) fn expect_sound(schema: &Schema) -> Result<()> {
    let mut names = HashSet::new();
    for field in schema.fields() {
        let wrong = if names.insert(field.name()) {
            unsound(field, DEPTH_MAX)
        } else {
            Some("is there twice".to_owned())
        };
        if let Some(wrong) = wrong {
            let message = format!("field `{}` of the schema {wrong}", field.name());
            return Err(Error::usage(message));
        }
    }
    Ok(())
}

/// What is wrong with `field` or with what is in it, in words.
fn unsound(field: &Field, depth: usize) -> Option<String> {
    let inside = |field: &Field| unsound(field, depth.saturating_sub(1));
    let wrong = |wrong: bool, why: &str| wrong.then(|| format!("has {why}"));
    if depth == 0 {
        return wrong(true, "a type that is nested too deep");
    }
    match field.data_type() {
        DataType::FixedSizeBinary(size) => wrong(*size < 1, "a size that is not at least 1"),
        DataType::FixedSizeList(item, size) => {
            wrong(*size < 1, "a size that is not at least 1").or_else(|| inside(item))
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => inside(item),
        DataType::Time32(unit) => {
            let is_fine = matches!(unit, TimeUnit::Microsecond | TimeUnit::Nanosecond);
            wrong(is_fine, "a time of 32 bits whose unit is not s or ms")
        }
        DataType::Time64(unit) => {
            let is_coarse = matches!(unit, TimeUnit::Second | TimeUnit::Millisecond);
            wrong(is_coarse, "a time of 64 bits whose unit is not us or ns")
        }
        DataType::Decimal128(precision, scale) => decimal(*precision, *scale, 38),
        DataType::Decimal256(precision, scale) => decimal(*precision, *scale, 76),
        DataType::Dictionary(keys, values) => {
            wrong(!keys.is_dictionary_key_type(), "a dictionary whose indices are no integers")
                .or_else(|| inside(&Field::new("values", values.as_ref().clone(), true)))
        }
        DataType::Struct(fields) => {
            let mut names = HashSet::new();
            let twice = fields.iter().any(|field| !names.insert(field.name()));
            wrong(fields.is_empty(), "a struct without fields")
                .or_else(|| wrong(twice, "a struct with two fields of one name"))
                .or_else(|| fields.iter().find_map(|field| inside(field)))
        }
        DataType::Map(entries, _) => {
            let pair = matches!(entries.data_type(), DataType::Struct(pair)
                if pair.len() == 2 && pair.first().is_some_and(|key| !key.is_nullable()));
            wrong(!pair, "a map whose entries are no struct of a key, never null, and a value")
                .or_else(|| inside(entries))
        }
        _ => None,
    }
}

fn decimal(precision: u8, scale: i8, precision_max: u8) -> Option<String> {
    let sound = (1..=precision_max).contains(&precision) && i16::from(scale) <= precision.into();
    (!sound).then(|| {
        format!("has a decimal({precision}, {scale}): its precision is from 1 to {precision_max}, and its scale no larger")
    })
}
