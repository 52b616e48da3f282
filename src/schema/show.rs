//! Prints types and fields as `PyArrow` does, so that what is printed can be typed in again.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::{DataType, Field, TimeUnit};

/// `data_type` as `PyArrow` prints it.
pub(crate) fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Float16 => "halffloat".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::FixedSizeBinary(size) => format!("fixed_size_binary[{size}]"),
        DataType::Date32 => "date32[day]".to_owned(),
        DataType::Date64 => "date64[ms]".to_owned(),
        DataType::Time32(unit) => format!("time32[{}]", unit_text(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", unit_text(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_text(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_text(*unit)),
        DataType::Timestamp(unit, Some(zone)) => {
            format!("timestamp[{}, tz={zone}]", unit_text(*unit))
        }
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::List(item) => format!("list<{}>", field_text(item)),
        DataType::LargeList(item) => format!("large_list<{}>", field_text(item)),
        DataType::FixedSizeList(item, size) => {
            format!("fixed_size_list<{}>[{size}]", field_text(item))
        }
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| field_text(field)).collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => map_text(entries),
        DataType::Dictionary(indices, values) => {
            let (indices, values) = (type_text(indices), type_text(values));
            format!("dictionary<values={values}, indices={indices}, ordered=0>")
        }
        other => other.to_string().to_lowercase(),
    }
}

/// `data_type` with its article: `an int8`.
pub(crate) fn a_type(data_type: &DataType) -> String {
    let text = type_text(data_type);
    // `uint8` begins as `you` does.
    let article = if text.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {text}")
}

/// `name: type`, with ` not null` where it is so.
pub(crate) fn field_text(field: &Field) -> String {
    let null = if field.is_nullable() { "" } else { " not null" };
    format!("{}: {}{null}", field.name(), type_text(field.data_type()))
}

fn map_text(entries: &Field) -> String {
    let DataType::Struct(fields) = entries.data_type() else {
        return "map".to_owned();
    };
    let types: Vec<_> = fields.iter().map(|f| type_text(f.data_type())).collect();
    format!("map<{}>", types.join(", "))
}

fn unit_text(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}
