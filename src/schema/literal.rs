//! Reads a default value as text, in a column's type.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::schema::cast::cast;
use crate::schema::show::a_type;

/// The word that stands for the moment of planning, in columns of times.
const NOW: &str = "now";

/// `text` as a column of one value of `data_type`. For times, the word `now` stands for the time `now` in UTC. Lists,
/// structs and maps are written as JSON, all other values as their usual text.
///
/// # Errors
/// `Usage`, when the text is no value of the type.
pub(crate) fn parse_literal(
    text: &str,
    data_type: &DataType,
    now: DateTime<Utc>,
) -> Result<ArrayRef> {
    let bad = |why: String| Error::usage(format!("`{text}` is not {}: {why}", a_type(data_type)));
    if let Some(bytes) = bytes_of(text, data_type) {
        let value: ArrayRef = Arc::new(BinaryArray::from(vec![bytes.as_slice()]));
        let value = arrow::compute::cast(&value, data_type).map_err(|e| bad(e.to_string()))?;
        // Where the length is another, the cast gives null.
        return if value.is_null(0) {
            Err(bad(format!("it has {} bytes", bytes.len())))
        } else {
            Ok(value)
        };
    }
    let array = match data_type {
        DataType::Null => return Err(bad("a null column takes no literal".to_owned())),
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..) => from_json(text, data_type).map_err(bad)?,
        DataType::FixedSizeBinary(size) if usize::try_from(*size).ok() != Some(text.len()) => {
            return Err(bad(format!("it has {} bytes, not {size}", text.len())));
        }
        _ if is_time(data_type) && text.trim() == NOW => {
            from_text(&now_text(data_type, now), data_type).map_err(bad)?
        }
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::BinaryView
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::FixedSizeBinary(_)
        | DataType::Dictionary(..) => from_text(text, data_type).map_err(bad)?,
        _ => from_text(text.trim(), data_type).map_err(bad)?,
    };
    if array.len() != 1 || array.is_null(0) {
        let advice = "it reads as null; leave the literal out for an all-null column";
        return Err(bad(advice.to_owned()));
    }
    Ok(array)
}

/// The bytes that `text` is in a type of bytes: in hexadecimal after `\x`, as `PostgreSQL` prints them; where there are 16, those
/// of a UUID too.
fn bytes_of(text: &str, data_type: &DataType) -> Option<Vec<u8>> {
    if !matches!(
        data_type,
        DataType::Binary
            | DataType::BinaryView
            | DataType::LargeBinary
            | DataType::FixedSizeBinary(_)
    ) {
        return None;
    }
    if matches!(data_type, DataType::FixedSizeBinary(16)) && text.len() == 36 {
        return uuid::Uuid::parse_str(text).ok().map(|id| id.as_bytes().to_vec());
    }
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// A column of one null of `data_type`.
pub(crate) fn null_literal(data_type: &DataType) -> ArrayRef {
    new_null_array(data_type, 1)
}

/// `text` with the time in place of `now`, so that a resumed migration writes the same value.
pub(crate) fn settle_now(text: &str, data_type: &DataType, now: DateTime<Utc>) -> String {
    if is_time(data_type) && text.trim() == NOW {
        return now_text(data_type, now);
    }
    text.to_owned()
}

fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
    )
}

fn now_text(data_type: &DataType, now: DateTime<Utc>) -> String {
    let format = match data_type {
        DataType::Date32 | DataType::Date64 => "%Y-%m-%d",
        DataType::Time32(TimeUnit::Second) => "%H:%M:%S",
        DataType::Time32(_) => "%H:%M:%S%.3f",
        DataType::Time64(_) => "%H:%M:%S%.6f",
        DataType::Timestamp(TimeUnit::Second, None) => "%Y-%m-%dT%H:%M:%S",
        DataType::Timestamp(_, None) => "%Y-%m-%dT%H:%M:%S%.6f",
        _ => "%Y-%m-%dT%H:%M:%S%.6fZ",
    };
    now.format(format).to_string()
}

/// What a cast of `text` gives: a literal takes nothing that a cast refuses.
fn from_text(text: &str, data_type: &DataType) -> std::result::Result<ArrayRef, String> {
    from_texts(&(Arc::new(StringArray::from(vec![text])) as ArrayRef), data_type)
}

fn from_texts(texts: &ArrayRef, data_type: &DataType) -> std::result::Result<ArrayRef, String> {
    let cast = cast(texts, data_type).map_err(|error| error.line())?;
    match cast.bad.first() {
        None => Ok(cast.values),
        Some((problem, _)) => Err(problem.of_one().to_owned()),
    }
}

/// Reads JSON as nested texts first, so that every number in it is cast as it is written.
fn from_json(text: &str, data_type: &DataType) -> std::result::Result<ArrayRef, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| {
        "a nested literal is written as JSON, such as [1, 2] or {\"a\": 1}".to_owned()
    })?;
    if value.is_null() {
        return Ok(new_null_array(data_type, 1));
    }
    let line = format!("{{\"v\": {}}}", text.replace(['\n', '\r'], " "));
    let schema = Arc::new(Schema::new(vec![Field::new("v", of_texts(data_type), true)]));
    let reader = ReaderBuilder::new(schema).with_strict_mode(true).with_coerce_primitive(true);
    let mut batches = reader.build(line.as_bytes()).map_err(|error| error.to_string())?;
    let batch = batches.next().transpose().map_err(|error| error.to_string())?;
    let texts = batch.and_then(|batch| batch.columns().first().cloned());
    from_texts(&texts.ok_or_else(|| "it holds no value".to_owned())?, data_type)
}

/// `data_type` with texts in place of all that is not nested.
fn of_texts(data_type: &DataType) -> DataType {
    let inside = |field: &FieldRef| -> FieldRef {
        Arc::new(Field::new(field.name(), of_texts(field.data_type()), true))
    };
    match data_type {
        DataType::List(item) => DataType::List(inside(item)),
        DataType::LargeList(item) => DataType::LargeList(inside(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inside(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inside).collect::<Fields>()),
        DataType::Map(entries, sorted) => {
            let mut inner: Vec<FieldRef> = match entries.data_type() {
                DataType::Struct(fields) => fields.iter().map(inside).collect(),
                _ => Vec::new(),
            };
            if let Some(key) = inner.first_mut() {
                *key = Arc::new(key.as_ref().clone().with_nullable(false));
            }
            let entries = Field::new(entries.name(), DataType::Struct(inner.into()), false);
            DataType::Map(Arc::new(entries), *sorted)
        }
        _ => DataType::Utf8,
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;
    use arrow::util::display::array_value_to_string;
    use chrono::TimeZone;

    fn moment() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap()
    }

    fn read(literal: &str, type_text: &str) -> Result<String> {
        let array = parse_literal(literal, &parse_type(type_text).unwrap(), moment())?;
        Ok(array_value_to_string(&array, 0).unwrap())
    }

    #[test]
    fn literals_read_in_their_type() {
        let cases = [
            ("general", "string", "general"),
            (" padded ", "large_string", " padded "),
            ("", "string", ""),
            ("true", "bool", "true"),
            ("-7", "int8", "-7"),
            ("1.5", "halffloat", "1.5"),
            ("1e3", "double", "1000.0"),
            ("2026-01-01", "date32", "2026-01-01"),
            ("2026-01-01", "timestamp[us]", "2026-01-01T00:00:00"),
            ("2026-01-01 10:00:00", "timestamp[ms, tz=UTC]", "2026-01-01T10:00:00Z"),
            ("now", "timestamp[us]", "2026-01-02T03:04:05"),
            ("now", "date32", "2026-01-02"),
            ("now", "time64[us]", "03:04:05"),
            ("now", "string", "now"),
            ("90", "duration[s]", "PT90S"),
            ("12.50", "decimal128(10, 2)", "12.50"),
            ("ab", "fixed_size_binary[2]", "6162"),
            (r"\x00ff", "fixed_size_binary[2]", "00ff"),
            (r"\x00FF", "large_binary", "00ff"),
            (r"\x", "binary", ""),
            (r"\x0", "binary", "5c7830"),
            (
                "00112233-4455-6677-8899-aabbccddeeff",
                "fixed_size_binary[16]",
                "00112233445566778899aabbccddeeff",
            ),
            (r"\x00", "string", r"\x00"),
            ("[1, null]", "list<int32>", "[1, ]"),
            ("{\"a\": 1}", "struct<a: int32>", "{a: 1}"),
            ("x", "dictionary<values=string, indices=int32>", "x"),
            ("2024-01-01T12:00", "timestamp[s]", "2024-01-01T12:00:00"),
            ("2024-01-01T12:00+02:00", "timestamp[s, tz=UTC]", "2024-01-01T10:00:00Z"),
            ("[\"2026-01-01\", 1.50]", "list<string>", "[2026-01-01, 1.50]"),
            ("[7, null]", "list<duration[s]>", "[PT7S, ]"),
            (
                "{\"a\": [{\"b\": 0.10}]}",
                "struct<a: list<struct<b: decimal128(9, 2)>>>",
                "{a: [{b: 0.10}]}",
            ),
            ("{\"k\": 1}", "map<string, int8>", "{k: 1}"),
        ];
        for (literal, type_text, shown) in cases {
            assert_eq!(read(literal, type_text).unwrap(), shown, "{literal} as {type_text}");
        }
    }

    #[test]
    fn literals_that_do_not_fit_are_usage_errors() {
        let cases = [
            ("300", "int8"),
            ("-1", "uint8"),
            ("yesterday", "timestamp[us]"),
            ("maybe", "bool"),
            ("1.234", "decimal128(10, 2)"),
            ("123456", "decimal128(4, 2)"),
            ("abc", "fixed_size_binary[2]"),
            (r"\x00", "fixed_size_binary[2]"),
            ("1", "null"),
            ("1, 2", "list<int32>"),
            ("{\"b\": 1}", "struct<a: int32>"),
            ("", "int32"),
            ("null", "list<int32>"),
            ("[1, null]", "list<item: int32 not null>"),
            ("{\"a\": null}", "struct<a: int32 not null>"),
            ("[1.5]", "list<int64>"),
            ("[1.234]", "list<decimal128(9, 2)>"),
            ("{\"k\": 300}", "map<string, int8>"),
            ("-", "decimal128(9, 2)"),
            (".", "decimal128(9, 2)"),
            ("1e400", "double"),
            ("65520", "halffloat"),
            ("9007199254740993", "double"),
            ("[9007199254740993]", "list<double>"),
            ("2024-01-01 10:00:00", "date32"),
            ("10:00:00.5", "time32[s]"),
            ("10:00:00.1234567", "time64[us]"),
            ("23:59:60", "time64[us]"),
            ("1704110400.5", "duration[s]"),
            ("2024-01-01T00:00:00+02:00", "timestamp[us]"),
            ("2024-01-01T00:00:00 America/New_York", "timestamp[us]"),
        ];
        for (literal, type_text) in cases {
            let error = read(literal, type_text).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{literal} as {type_text}");
        }
    }

    #[test]
    fn now_is_settled_once() {
        let timestamp = parse_type("timestamp[us, tz=UTC]").unwrap();
        let text = settle_now("now", &timestamp, moment());
        assert_eq!(text, "2026-01-02T03:04:05.000000Z");
        assert_eq!(read(&text, "timestamp[us, tz=UTC]").unwrap(), "2026-01-02T03:04:05Z");
        assert_eq!(settle_now("now", &DataType::Utf8, moment()), "now");
    }
}
