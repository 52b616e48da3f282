//! Which types can be cast to which, and which of these casts can lose something.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, TimeUnit};

/// Whether values of `from` can be cast to `to` at all.
pub(crate) fn is_castable(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (
            DataType::List(a) | DataType::LargeList(a),
            DataType::List(b) | DataType::LargeList(b),
        )
        | (DataType::FixedSizeList(a, _), DataType::FixedSizeList(b, _)) => {
            lengths_agree(from, to) && is_castable(a.data_type(), b.data_type())
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            fields.iter().all(|to| match child(from, to.name()) {
                Some(from) => is_castable(from.data_type(), to.data_type()),
                None => to.is_nullable(),
            })
        }
        (DataType::Map(a, one), DataType::Map(b, other)) => {
            one == other
                && entries(a).zip(entries(b)).is_some_and(|((key, a), (other, b))| {
                    key.data_type() == other.data_type()
                        && is_castable(a.data_type(), b.data_type())
                })
        }
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, from), DataType::Dictionary(keys, to)) => {
            keys.primitive_width() >= Some(4) && is_castable(from, to)
        }
        // The date would be lost; a part of a time can be computed. Arrow counts a `date64` of 32 bits in days.
        (DataType::Timestamp(..), DataType::Time32(_) | DataType::Time64(_))
        | (DataType::Int32, DataType::Date64)
        | (DataType::Date64, DataType::Int32) => false,
        // A text of several values is none that they can be read from again.
        (from, DataType::Utf8 | DataType::LargeUtf8) if from.is_nested() => false,
        // Lance writes keys this narrow even where there are more values than keys, and cannot read them back.
        (_, DataType::Dictionary(keys, _)) if keys.primitive_width() < Some(4) => false,
        (DataType::Struct(_) | DataType::Map(..), _)
        | (_, DataType::Struct(_) | DataType::Map(..)) => from == to,
        _ => from == to || can_cast_types(from, to),
    }
}

/// The field `name` of a struct.
fn child<'a>(of: &'a DataType, name: &str) -> Option<&'a Field> {
    let DataType::Struct(fields) = of else { return None };
    fields.iter().find(|field| field.name() == name).map(AsRef::as_ref)
}

/// The key and the value of a map's entries.
fn entries(of: &Field) -> Option<(&Field, &Field)> {
    let DataType::Struct(fields) = of.data_type() else { return None };
    let [key, value] = fields.as_ref() else { return None };
    Some((key, value))
}

/// `to`, with items of the type that those of `from` have: a list becomes another kind of list first, and then its
/// items are cast.
pub(super) fn with_items_of(from: &DataType, to: &DataType) -> Option<DataType> {
    let items = item_of(from)?.data_type().clone();
    let renamed = |item: &Arc<Field>| Arc::new(Field::new(item.name(), items.clone(), true));
    Some(match to {
        DataType::List(item) => DataType::List(renamed(item)),
        DataType::LargeList(item) => DataType::LargeList(renamed(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(renamed(item), *size),
        _ => return None,
    })
}

/// The items of a list.
pub(super) fn item_of(data_type: &DataType) -> Option<&Arc<Field>> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

fn lengths_agree(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::FixedSizeList(_, a), DataType::FixedSizeList(_, b)) => a == b,
        _ => true,
    }
}

/// Whether every value of `from` can be cast to `to` and back without a change.
pub(crate) fn is_exact(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Date32, Date64, Dictionary, LargeUtf8, Timestamp, Utf8};
    let width = |data_type: &DataType| data_type.primitive_width().unwrap_or_default();
    match (from, to) {
        (Dictionary(_, from), to) => from.as_ref() == to || is_exact(from, to),
        (from, Dictionary(_, to)) => from == to.as_ref() || is_exact(from, to),
        (Utf8 | LargeUtf8, Utf8 | LargeUtf8) => true,
        (from, Utf8 | LargeUtf8) => from.is_integer() || matches!(from, Boolean | Date32),
        (from, to) if from.is_integer() && to.is_integer() => {
            width(to) > width(from) && (from.is_unsigned_integer() || to.is_signed_integer())
        }
        (from, to) if from.is_floating() && to.is_floating() => width(to) > width(from),
        (Timestamp(from, one), Timestamp(to, other)) => one == other && ticks(*to) > ticks(*from),
        (Date32, Timestamp(_, None) | Date64) => true,
        (DataType::List(from), DataType::List(to))
        | (DataType::LargeList(from), DataType::LargeList(to))
        | (DataType::FixedSizeList(from, _), DataType::FixedSizeList(to, _)) => {
            is_exact(from.data_type(), to.data_type())
        }
        _ => false,
    }
}

/// Whether a cast of a value that is no text can give one, not null, that would be another one when cast back.
pub(super) fn may_lose(from: &DataType, to: &DataType) -> bool {
    use DataType::{Binary, Boolean, Date32, FixedSizeBinary, LargeBinary, Timestamp};
    let bytes = |of: &DataType| matches!(of, Binary | LargeBinary | FixedSizeBinary(_));
    match (from, to) {
        (DataType::Dictionary(_, from), to) => may_lose(from, to),
        (from, DataType::Dictionary(_, to)) => may_lose(from, to),
        // Far from today, a date has no such time.
        (Date32, Timestamp(..)) => true,
        // A text shows all of a value, and nothing is lost of what may be one byte or another.
        (_, DataType::Utf8 | DataType::LargeUtf8) | (Boolean, _) => false,
        (from, to) if bytes(from) && bytes(to) => false,
        // The items are cast for themselves.
        (from, to) if from.is_nested() || to.is_nested() => false,
        _ => from != to && !is_exact(from, to),
    }
}

pub(super) fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type.is_decimal()
}

pub(super) fn narrows_float(from: &DataType, to: &DataType) -> bool {
    from.is_floating() && to.is_floating() && to.primitive_width() < from.primitive_width()
}

/// Ticks in a second.
pub(super) fn ticks(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;

    #[test]
    fn exact_casts_can_be_taken_back() {
        let exact =
            |from: &str, to: &str| is_exact(&parse_type(from).unwrap(), &parse_type(to).unwrap());
        for (from, to) in [
            ("int32", "int64"),
            ("int64", "string"),
            ("float", "double"),
            ("string", "large_string"),
            ("timestamp[s]", "timestamp[us]"),
            ("uint8", "int16"),
            ("fixed_size_list<halffloat>[4]", "fixed_size_list<float>[4]"),
        ] {
            assert!(exact(from, to), "{from} to {to}");
        }
        for (from, to) in [
            ("string", "int64"),
            ("int64", "int32"),
            ("double", "float"),
            ("double", "string"),
            ("uint64", "int64"),
            ("string", "timestamp[us]"),
            ("int64", "double"),
        ] {
            assert!(!exact(from, to), "{from} to {to}");
        }
    }

    /// The table in the guide is what these functions say.
    #[test]
    fn the_guide_has_the_table_of_casts() {
        let types = [
            "bool",
            "int32",
            "int64",
            "uint64",
            "float",
            "double",
            "decimal128(10, 2)",
            "string",
            "binary",
            "date32",
            "date64",
            "time64[us]",
            "timestamp[us]",
            "timestamp[us, tz=UTC]",
            "duration[us]",
        ];
        let read = types.map(|text| parse_type(text).unwrap());
        let kind = |from: &DataType, to: &DataType| match (from, to) {
            _ if from == to => "",
            _ if !is_castable(from, to) => "no",
            _ if is_exact(from, to) => "exact",
            _ => "checked",
        };
        let head = types.map(|to| format!(" `{to}` |")).concat();
        let line = "| --- ".repeat(types.len() + 1);
        let rows = types.iter().zip(&read).map(|(text, from)| {
            let cells = read.each_ref().map(|to| format!(" {} |", kind(from, to)));
            format!("| `{text}` |{}\n", cells.concat())
        });
        let table = format!("| from \\ to |{head}\n{line}|\n{}", rows.collect::<String>());
        assert!(include_str!("../../guide/casts.md").contains(&table), "{table}");
    }
}
