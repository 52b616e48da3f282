//! Finds texts that say more than the values they are cast to: digits, times and offsets that the cast leaves out.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, TimeUnit};

use crate::error::{Doing, Result};
use crate::schema::cast::problem::Problem;

/// `array` as text, if it is.
pub(super) fn texts_of(array: &ArrayRef) -> Result<Option<StringArray>> {
    let is_text = match array.data_type() {
        DataType::Dictionary(_, values) => is_text(values),
        other => is_text(other),
    };
    if !is_text {
        return Ok(None);
    }
    let texts = arrow::compute::cast(array, &DataType::Utf8).doing(|| "read texts".to_owned())?;
    Ok(Some(texts.as_string::<i32>().clone()))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8)
}

/// Texts of times with their seconds, where they have hours and minutes only: `2024-01-01T12:00` is one.
pub(super) fn completed(array: &ArrayRef) -> ArrayRef {
    let complete = |text: &str| -> Option<String> {
        let (minutes, rest) = text.split_at_checked(16)?;
        let colon = minutes.as_bytes().get(13) == Some(&b':');
        let ends = rest.is_empty() || rest.starts_with(['Z', 'z', '+', '-', ' ']);
        (colon && ends).then(|| format!("{minutes}:00{rest}"))
    };
    let texts = array.as_string::<i32>();
    if !texts.iter().flatten().any(|text| complete(text.trim()).is_some()) {
        return Arc::clone(array);
    }
    let whole = |text: &str| complete(text.trim()).unwrap_or_else(|| text.to_owned());
    Arc::new(texts.iter().map(|text| text.map(whole)).collect::<StringArray>())
}

/// Rows whose text says something else than the value that it was cast to.
pub(super) fn text_problems(
    texts: &StringArray,
    values: &ArrayRef,
) -> Vec<(Problem, BooleanArray)> {
    let problem = |row: usize| {
        let there = texts.is_valid(row) && values.is_valid(row);
        there.then(|| text_problem(texts.value(row).trim(), values, row)).flatten()
    };
    let found: Vec<Option<Problem>> = (0..texts.len()).map(problem).collect();
    let rows_of = |wanted: Problem| {
        let rows = found.iter().map(|found| *found == Some(wanted));
        (wanted, BooleanArray::from(rows.collect::<Vec<_>>()))
    };
    [Problem::NotAValue, Problem::Overflow, Problem::Lossy].map(rows_of).into()
}

fn text_problem(text: &str, values: &ArrayRef, row: usize) -> Option<Problem> {
    let digits = |text: &str| text.bytes().any(|byte| byte.is_ascii_digit());
    let fraction = || {
        let rest = text.split_once('.').map_or("", |(_, rest)| rest);
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default().trim_end_matches('0').len()
    };
    match values.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            if !digits(text) {
                return Some(Problem::NotAValue);
            }
            let scale = usize::try_from(*scale).unwrap_or_default();
            (fraction() > scale).then_some(Problem::Lossy)
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let value = float_at(values, row);
            if value.is_infinite() && digits(text) {
                return Some(Problem::Overflow);
            }
            // A fraction is rounded, as in every cast to a float; a whole number has to stay the same.
            let whole = text.parse::<i128>().ok()?;
            (format!("{value:.0}").parse::<i128>() != Ok(whole)).then_some(Problem::Lossy)
        }
        DataType::Date32 | DataType::Date64 => (text.contains(':')
            || text.len() > 10 && !text.starts_with(['+', '-']))
        .then_some(Problem::Lossy),
        DataType::Time32(unit) | DataType::Time64(unit) => {
            if leaps(text) || !text.contains(':') {
                return Some(Problem::NotAValue);
            }
            (fraction() > decimal_places(*unit)).then_some(Problem::Lossy)
        }
        DataType::Timestamp(unit, zone) => {
            // The offset or the zone of a text would be gone in a column without one.
            let time = text.get(11..).unwrap_or_default();
            let time = time.strip_suffix(['Z', 'z']).unwrap_or(time);
            let named = |c: char| c.is_alphabetic() || matches!(c, '+' | '-');
            let offset = zone.is_none() && time.contains(named);
            if leaps(text) {
                return Some(Problem::NotAValue);
            }
            (offset || fraction() > decimal_places(*unit)).then_some(Problem::Lossy)
        }
        _ => None,
    }
}

/// Whether a time has a second 60, which Arrow takes for the first of the next minute.
fn leaps(text: &str) -> bool {
    text.split(':').nth(2).is_some_and(|second| second.starts_with("60"))
}

/// Digits after the point of seconds in `unit`.
fn decimal_places(unit: TimeUnit) -> usize {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

pub(super) fn float_at(values: &ArrayRef, row: usize) -> f64 {
    match values.data_type() {
        DataType::Float16 => values.as_primitive::<Float16Type>().value(row).to_f64(),
        DataType::Float32 => f64::from(values.as_primitive::<Float32Type>().value(row)),
        _ => values.as_primitive::<Float64Type>().value(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::cast::cast;

    #[test]
    fn a_text_says_what_its_value_says() {
        let bad = |texts: &[&str], to: &str| -> Vec<usize> {
            let array: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
            let to = crate::schema::types::parse_type(to).unwrap();
            let bad = cast(&array, &to).unwrap().bad;
            let mut rows: Vec<usize> =
                bad.iter().flat_map(|(_, rows)| rows.values().set_indices()).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(bad(&["1.50", "", "-", ".", "1.005", "7"], "decimal128(10, 2)"), [1, 2, 3, 4]);
        assert_eq!(bad(&["2020-01-01", "2020-01-01T12:34:56"], "date32"), [1]);
        assert_eq!(bad(&["2020-01-01T00:00:00.5", "2020-01-01"], "timestamp[s]"), [0]);
        assert_eq!(
            bad(&["2020-01-01T00:00:00+02:00", "2020-01-01T00:00:00Z"], "timestamp[us]"),
            [0]
        );
        assert_eq!(bad(&["2020-01-01T00:00:00+02:00"], "timestamp[us, tz=UTC]"), [0_usize; 0]);
        assert_eq!(bad(&["0.1", "1e400", "inf", "9007199254740993", "-0"], "double"), [1, 3]);
        assert_eq!(bad(&["16777217", "16777216"], "float"), [0]);
        assert_eq!(bad(&["20200101", "10:00:00"], "time64[us]"), [0]);
        let times = ["12:30:00.5", "12:30", "23:59:60", "12:30:60", "24:00:00", "23:59:59.0"];
        assert_eq!(bad(&times, "time32[s]"), [0, 2, 3, 4]);
        assert_eq!(bad(&["12:30:00.123456789", "12:30:00.123456000"], "time64[us]"), [0]);
        let zones =
            ["2024-01-01 12:00:00 America/New_York", "2024-01-01T12:00", "2024-01-01T12:00Z"];
        assert_eq!(bad(&zones, "timestamp[us]"), [0]);
        assert_eq!(bad(&zones, "timestamp[us, tz=Asia/Tokyo]"), [0_usize; 0]);
        assert_eq!(bad(&["2024-01-01T23:59:60", "2024-01-01T23:59:59"], "timestamp[s]"), [0]);
    }
}
