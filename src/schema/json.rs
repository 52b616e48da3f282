//! Reads a schema as JSON: as Arrow's own JSON format writes it, or with types as text.
#![allow(clippy::wildcard_enum_match_arm, reason = "the kinds of JSON that matter here")]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::schema::types::parse_type;

/// Reads `text`: `{"fields": [{"name", "type", "nullable", "children"}, …]}`, or the list alone.
///
/// # Errors
/// `Usage`, naming the field that cannot be read.
pub(crate) fn parse_schema(text: &str) -> Result<Schema> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::usage(format!("not a schema as JSON: {error}")))?;
    let fields = value.get("fields").unwrap_or(&value).as_array();
    let fields = fields.ok_or_else(|| Error::usage("not a schema as JSON: it has no `fields`"))?;
    let fields: Result<Vec<Field>> = fields.iter().map(field_of).collect();
    Ok(Schema::new(fields?))
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
    Ok(Field::new(name, data_type, nullable))
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
            if number("bitWidth").unwrap_or(128) == 256 {
                DataType::Decimal256(precision, scale)
            } else {
                DataType::Decimal128(precision, scale)
            }
        }
        "date" if text("unit")? == "DAY" => DataType::Date32,
        "date" => DataType::Date64,
        "time" => match (unit_of(text("unit")?)?, number("bitWidth")?) {
            (unit, 32) => DataType::Time32(unit),
            (unit, _) => DataType::Time64(unit),
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
        for bad in [
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
