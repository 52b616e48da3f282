//! Reads a schema as JSON: as Arrow's own JSON format writes it, or with types as text.
#![allow(clippy::wildcard_enum_match_arm, reason = "the kinds of JSON that matter here")]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::schema::{sound::expect_sound, types::parse_type};

/// Reads `text`: `{"fields": [{"name", "type", "nullable", "children", "metadata"}, …], "metadata"}`, or the list
/// alone.
///
/// # Errors
/// `Usage`, naming the field that cannot be read, or whose type no array can have.
pub(crate) fn parse_schema(text: &str) -> Result<Schema> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::usage(format!("not a schema as JSON: {error}")))?;
    let fields = value.get("fields").unwrap_or(&value).as_array();
    let fields = fields.ok_or_else(|| Error::usage("not a schema as JSON: it has no `fields`"))?;
    let fields = fields.iter().map(field_of).collect::<Result<Vec<Field>>>()?;
    let schema = Schema::new_with_metadata(fields, metadata_of(&value));
    expect_sound(&schema)?;
    Ok(schema)
}

/// The texts under `metadata`, as an object or as Arrow writes them (`[{"key", "value"}, …]`).
fn metadata_of(value: &Value) -> HashMap<String, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value.get("metadata") {
        Some(Value::Object(pairs)) => {
            pairs.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
        }
        Some(Value::Array(pairs)) => {
            let pair = |pair: &Value| Some((text(pair.get("key")?)?, text(pair.get("value")?)?));
            pairs.iter().filter_map(pair).collect()
        }
        _ => HashMap::new(),
    }
}

fn field_of(value: &Value) -> Result<Field> {
    let name = value.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| Error::usage("a field of the schema has no `name`"))?;
    let nullable = value.get("nullable").and_then(Value::as_bool).unwrap_or(true);
    let bad = || Error::usage(format!("field `{name}` of the schema has a type that is not known"));
    let children = value.get("children").and_then(Value::as_array);
    let children = children.map_or(&[][..], Vec::as_slice);
    let children: Vec<Field> = children.iter().map(field_of).collect::<Result<_>>()?;
    let kind = value.get("type").ok_or_else(bad)?;
    let mut data_type = match kind {
        Value::String(text) => parse_type(text)
            .map_err(|error| error.about(&format!("field `{name}` of the schema")))?,
        kind => type_of(kind, children).ok_or_else(bad)?,
    };
    if let Some(dictionary) = value.get("dictionary") {
        let index = dictionary.get("indexType");
        let index = index.map_or(Some(DataType::Int32), |index| type_of(index, Vec::new()));
        data_type = DataType::Dictionary(Box::new(index.ok_or_else(bad)?), Box::new(data_type));
    }
    Ok(Field::new(name, data_type, nullable).with_metadata(metadata_of(value)))
}

/// A type as Arrow's JSON format writes it (`{"name": "int", "bitWidth": 64, "isSigned": true}`).
fn type_of(kind: &Value, children: Vec<Field>) -> Option<DataType> {
    let text = |key: &str| kind.get(key).and_then(Value::as_str);
    let number = |key: &str| kind.get(key).and_then(Value::as_i64);
    let item = |children: Vec<Field>| children.into_iter().next().map(Arc::new);
    Some(match text("name")? {
        "null" => DataType::Null,
        "bool" => DataType::Boolean,
        "utf8" => DataType::Utf8,
        "largeutf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "largebinary" => DataType::LargeBinary,
        "fixedsizebinary" => DataType::FixedSizeBinary(i32::try_from(number("byteWidth")?).ok()?),
        "int" => int_of(kind)?,
        "floatingpoint" => match text("precision")? {
            "HALF" => DataType::Float16,
            "SINGLE" => DataType::Float32,
            "DOUBLE" => DataType::Float64,
            _ => return None,
        },
        "decimal" => {
            let precision = u8::try_from(number("precision")?).ok()?;
            let scale = i8::try_from(number("scale")?).ok()?;
            match number("bitWidth").unwrap_or(128) {
                128 => DataType::Decimal128(precision, scale),
                256 => DataType::Decimal256(precision, scale),
                _ => return None,
            }
        }
        "date" if text("unit")? == "DAY" => DataType::Date32,
        "date" => DataType::Date64,
        "time" => match (unit_of(text("unit")?)?, number("bitWidth")?) {
            (unit, 32) => DataType::Time32(unit),
            (unit, 64) => DataType::Time64(unit),
            _ => return None,
        },
        "timestamp" => {
            DataType::Timestamp(unit_of(text("unit")?)?, text("timezone").map(Arc::from))
        }
        "duration" => DataType::Duration(unit_of(text("unit")?)?),
        "list" => DataType::List(item(children)?),
        "largelist" => DataType::LargeList(item(children)?),
        "fixedsizelist" => {
            let size = i32::try_from(number("listSize")?).ok()?;
            DataType::FixedSizeList(item(children)?, size)
        }
        "struct" => DataType::Struct(Fields::from(children)),
        "map" => DataType::Map(item(children)?, false),
        _ => return None,
    })
}

fn int_of(kind: &Value) -> Option<DataType> {
    Some(match (kind.get("bitWidth")?.as_i64()?, kind.get("isSigned")?.as_bool()?) {
        (8, true) => DataType::Int8,
        (16, true) => DataType::Int16,
        (32, true) => DataType::Int32,
        (64, true) => DataType::Int64,
        (8, false) => DataType::UInt8,
        (16, false) => DataType::UInt16,
        (32, false) => DataType::UInt32,
        (64, false) => DataType::UInt64,
        _ => return None,
    })
}

fn unit_of(text: &str) -> Option<TimeUnit> {
    Some(match text {
        "SECOND" => TimeUnit::Second,
        "MILLISECOND" => TimeUnit::Millisecond,
        "MICROSECOND" => TimeUnit::Microsecond,
        "NANOSECOND" => TimeUnit::Nanosecond,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read() {
        let text = r#"{"fields": [
            {"name": "id", "nullable": false, "type": {"name": "int", "bitWidth": 64, "isSigned": true}},
            {"name": "v", "type": {"name": "fixedsizelist", "listSize": 8}, "children": [
                {"name": "item", "type": {"name": "floatingpoint", "precision": "SINGLE"}}]},
            {"name": "at", "type": {"name": "timestamp", "unit": "MICROSECOND", "timezone": "UTC"}},
            {"name": "tags", "type": "list<string>"}]}"#;
        let schema = parse_schema(text).unwrap();
        let types: Vec<_> =
            schema.fields().iter().map(|f| crate::schema::show::type_text(f.data_type())).collect();
        assert_eq!(
            types,
            [
                "int64",
                "fixed_size_list<item: float>[8]",
                "timestamp[us, tz=UTC]",
                "list<item: string>"
            ]
        );
        assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
        let odd = [
            r#""type": {"name": "fixedsizebinary", "byteWidth": -1}"#,
            r#""type": {"name": "fixedsizelist", "listSize": -5}, "children": [{"name": "i", "type": "int8"}]"#,
            r#""type": {"name": "time", "unit": "SECOND", "bitWidth": 64}"#,
            r#""type": {"name": "time", "unit": "NANOSECOND", "bitWidth": 32}"#,
            r#""type": {"name": "map"}, "children": [{"name": "i", "type": "int8"}]"#,
            r#""type": {"name": "decimal", "precision": 0, "scale": 0}"#,
            r#""type": {"name": "struct"}"#,
            r#""type": "string", "dictionary": {"indexType": {"name": "floatingpoint", "precision": "HALF"}}"#,
        ];
        for odd in odd {
            let error = parse_schema(&format!(r#"[{{"name": "a", {odd}}}]"#)).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{odd}");
        }
        for bad in [
            r#"[{"name": "a", "type": "int8"}, {"name": "a", "type": "int8"}]"#,
            "",
            "{}",
            r#"[{"name": "a"}]"#,
            r#"[{"name": "a", "type": "int9"}]"#,
            r#"[{"type": "int8"}]"#,
        ] {
            assert!(parse_schema(bad).is_err(), "{bad}");
        }
    }
}
