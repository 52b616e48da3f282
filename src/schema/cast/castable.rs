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
        (DataType::Struct(a), DataType::Struct(b)) => {
            let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name());
            same && a.iter().zip(b).all(|(a, b)| is_castable(a.data_type(), b.data_type()))
        }
        // The date would be lost; a part of a time can be computed.
        (DataType::Timestamp(..), DataType::Time32(_) | DataType::Time64(_)) => false,
        // Lance writes keys this narrow even where there are more values than keys, and cannot read them back.
        (_, DataType::Dictionary(keys, _)) if keys.primitive_width() < Some(4) => false,
        (DataType::Struct(_) | DataType::Map(..), _)
        | (_, DataType::Struct(_) | DataType::Map(..)) => from == to,
        _ => from == to || can_cast_types(from, to),
    }
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
fn item_of(data_type: &DataType) -> Option<&Arc<Field>> {
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

/// Whether a cast can give a value, not null, that would be another one when cast back.
pub(super) fn may_lose(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, Decimal128, Decimal256, Dictionary, Time32, Time64, Timestamp,
    };
    match (from, to) {
        (Dictionary(_, from), to) => may_lose(from, to),
        (from, Dictionary(_, to)) => may_lose(from, to),
        (from, to) if from.is_floating() => to.is_integer() || to.is_decimal() || *to == Boolean,
        (from, to) if from.is_integer() && to.is_floating() => {
            // A float holds every integer of half its bits.
            let wide = from.primitive_width().unwrap_or(8) * 2;
            wide > to.primitive_width().unwrap_or(0)
        }
        (from, to) if from.is_integer() && to.is_decimal() => true,
        (from, Boolean) => is_number(from),
        (Decimal128(..) | Decimal256(..), to) => is_number(to),
        (Timestamp(..), Date32 | Date64)
        | (Date64, Date32)
        | (Date32 | Date64, Timestamp(..))
        | (Time64(_), Time32(_) | Time64(_))
        | (Time32(_), Time32(_))
        | (DataType::Duration(_), DataType::Duration(_)) => true,
        _ => false,
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
}
