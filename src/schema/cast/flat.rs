//! Casts values that hold no other values, and finds those that cannot be cast: they do not parse, are out of
//! range, or would be other values when cast back.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float16Array, StringArray, make_array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{and, concat, is_not_null, nullif};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float16Type, Float32Type, Float64Type, Int64Type,
    i256,
};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Doing, Result};
use crate::schema::cast::castable::{is_number, may_lose, narrows_float, ticks};
use crate::schema::cast::problem::Problem;
use crate::schema::cast::text::{completed, float_at, text_problems, texts_of};

/// A cast column, and the rows that could not be cast, which are null in it.
#[derive(Debug)]
pub(crate) struct CastArray {
    pub(crate) values: ArrayRef,
    pub(crate) bad: Vec<(Problem, BooleanArray)>,
}

impl CastArray {
    /// A column without bad rows.
    pub(super) fn of(values: ArrayRef) -> Self {
        Self { values, bad: Vec::new() }
    }

    /// Makes `rows` null, and notes their problem, unless one is noted of them already.
    pub(super) fn leave_out(&mut self, problem: Problem, rows: BooleanArray) -> Result<()> {
        let rows = self.bad.iter().fold(rows, |rows, (_, known)| difference(&rows, known));
        if rows.true_count() > 0 {
            self.values = with_nulls(&self.values, &rows)?;
            self.bad.push((problem, rows));
        }
        Ok(())
    }
}

/// `values` with nulls in these `rows`.
fn with_nulls(values: &ArrayRef, rows: &BooleanArray) -> Result<ArrayRef> {
    nullif(values, rows).doing(|| "leave out what cannot be cast".to_owned())
}

/// Casts `array` to `to`, and every value without an error: those that do not go through are bad rows.
pub(super) fn cast_flat(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let values = match narrowed(array, to) {
        Some(values) => values,
        None => safe_cast(array, to)?,
    };
    let doing = || "look for nulls".to_owned();
    let (before, after) = (is_not_null(array).doing(doing)?, is_not_null(&values).doing(doing)?);
    let problem = if is_number(array.data_type()) { Problem::Overflow } else { Problem::NotAValue };
    let failed = (problem, difference(&before, &after));
    let lost = lost(array, &values, to)?;
    let mut cast = CastArray::of(values);
    for (problem, rows) in [failed].into_iter().chain(lost) {
        cast.leave_out(problem, rows)?;
    }
    Ok(cast)
}

/// The rows of `array` whose cast `values` are not null, but other values.
fn lost(
    array: &ArrayRef,
    values: &ArrayRef,
    to: &DataType,
) -> Result<Vec<(Problem, BooleanArray)>> {
    if let DataType::Dictionary(_, to) = to {
        return lost(array, &safe_cast(values, to)?, to);
    }
    let from = array.data_type();
    let mut lost = vec![(Problem::Overflow, out_of_range(values)?)];
    if let Some(texts) = texts_of(array)? {
        lost.extend(text_problems(&texts, values));
    } else if let (DataType::Timestamp(from, _), DataType::Timestamp(unit, _)) = (from, to) {
        // The instant counts, whatever the zone.
        lost.push((Problem::Lossy, finer_than(array, ticks(*from) / ticks(*unit))?));
    } else if narrows_float(from, to) {
        lost.push((Problem::Overflow, became_infinite(array, values)));
    } else if may_lose(from, to) {
        let rows = without_zeros(changed_back(array, values)?, array);
        lost.push((Problem::Lossy, rows));
    }
    if let (DataType::Duration(_), Some(texts)) = (from, texts_of(values)?) {
        // What Arrow writes for a duration that has no text.
        let rows = texts.iter().map(|text| Some(text.is_some_and(|text| text.starts_with('<'))));
        lost.push((Problem::Overflow, rows.collect()));
    }
    if *to == DataType::Date64 {
        lost.push((Problem::Lossy, finer_than(values, MILLIS_A_DAY)?));
    }
    Ok(lost)
}

/// The rows whose cast `values` are not null, and other values when they are cast back.
fn changed_back(array: &ArrayRef, values: &ArrayRef) -> Result<BooleanArray> {
    let (from, to) = (array.data_type(), values.data_type());
    let changed = |back: &ArrayRef| {
        let doing = || "compare what was cast".to_owned();
        let differs = distinct(back, array).doing(doing)?;
        and(&differs, &is_not_null(values).doing(doing)?).doing(doing)
    };
    // A float is asked for to the digits of the decimal, not to its own.
    let back = if from.is_decimal() { plain_cast(values, from) } else { safe_cast(values, from) };
    let rows = changed(&back?)?;
    if rows.true_count() == 0 || !from.is_floating() || !to.is_decimal() {
        return Ok(rows);
    }
    // Arrow divides to get a float of a decimal, and can miss by a bit; the text is read exactly.
    changed(&plain_cast(&plain_cast(values, &DataType::Utf8)?, from)?)
}

/// Milliseconds in a day: a `date64` holds whole days.
const MILLIS_A_DAY: i64 = 86_400_000;

/// The rows whose times of day are before or after the day.
fn out_of_range(values: &ArrayRef) -> Result<BooleanArray> {
    let (DataType::Time32(unit) | DataType::Time64(unit)) = values.data_type() else {
        return Ok(BooleanArray::new(BooleanBuffer::new_unset(values.len()), None));
    };
    let day = 0..86_400 * ticks(*unit);
    rows_where(values, |time| !day.contains(&time))
}

/// `array` as `to`; values that cannot be cast are null.
///
/// # Errors
/// `Failed`, when the types cannot be cast at all.
pub(super) fn safe_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    use DataType::{Date32, Date64, Dictionary, Timestamp, Utf8};
    let from = array.data_type();
    let via = |between: &DataType| safe_cast(&safe_cast(array, between)?, to);
    match (from, to) {
        (Dictionary(_, values), _) if to != values.as_ref() => via(values),
        (_, Dictionary(_, values)) if from != values.as_ref() => via(values),
        (Utf8, DataType::Duration(_)) => via(&DataType::Int64),
        (Utf8, DataType::FixedSizeBinary(_)) => via(&DataType::Binary),
        (Utf8, Timestamp(..)) => plain_cast(&completed(array), to),
        (DataType::LargeUtf8, _) if *to != Utf8 => via(&Utf8),
        // `date64` as `date32`, which has no time of day to print.
        (Date64, Utf8 | DataType::LargeUtf8) => via(&Date32),
        // Without a zone it is UTC, so that the instant stays. Arrow takes it for the zone's local time.
        (Timestamp(one, None), Timestamp(_, Some(zone))) => {
            plain_cast(&with_zone(array, Timestamp(*one, Some(Arc::clone(zone))))?, to)
        }
        (Date32 | Date64, Timestamp(unit, Some(_)))
        | (Timestamp(unit, Some(_)), Date32 | Date64) => via(&Timestamp(*unit, None)),
        (from, DataType::Decimal128(..) | DataType::Decimal256(..)) if from.is_floating() => {
            with_exact_digits(array, plain_cast(array, to)?)
        }
        _ => plain_cast(array, to),
    }
}

/// A time as one of `to`, which differs in its zone alone: the instant stays.
fn with_zone(array: &ArrayRef, to: DataType) -> Result<ArrayRef> {
    let data = array.to_data().into_builder().data_type(to);
    Ok(make_array(data.build().doing(|| "set a time zone".to_owned())?))
}

/// `array` as Arrow casts it to `to`; values that cannot be cast are null. Where one value fails the whole of
/// Arrow's cast, as a date does that has no text, it is found by halving.
fn plain_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    let cast = arrow::compute::cast(array, to);
    if cast.is_ok() || array.is_empty() || !arrow::compute::can_cast_types(from, to) {
        return cast.doing(|| format!("cast {from} to {to}"));
    }
    if array.len() == 1 {
        return Ok(new_null_array(to, 1));
    }
    let half = array.len() / 2;
    let first = plain_cast(&array.slice(0, half), to)?;
    let second = plain_cast(&array.slice(half, array.len() - half), to)?;
    concat(&[&first, &second]).doing(|| format!("cast {from} to {to}"))
}

/// `decimals` that were cast from `floats`, with the digits that the floats really have where Arrow computes more
/// digits than a float holds.
fn with_exact_digits(floats: &ArrayRef, decimals: ArrayRef) -> Result<ArrayRef> {
    const EXACT: u128 = 1 << 53;
    let (scale, long): (i8, Vec<bool>) = match decimals.data_type() {
        DataType::Decimal128(_, scale) => {
            let values = decimals.as_primitive::<Decimal128Type>();
            (*scale, values.iter().map(|v| v.unwrap_or(0).unsigned_abs() > EXACT).collect())
        }
        DataType::Decimal256(_, scale) => {
            let values = decimals.as_primitive::<Decimal256Type>();
            let exact = i256::from_parts(EXACT, 0);
            (*scale, values.iter().map(|v| v.is_some_and(|v| v.wrapping_abs() > exact)).collect())
        }
        _ => return Ok(decimals),
    };
    if !long.contains(&true) {
        return Ok(decimals);
    }
    let scale = usize::try_from(scale).unwrap_or_default();
    let texts: StringArray = (long.iter().enumerate())
        .map(|(row, long)| long.then(|| format!("{:.scale$}", float_at(floats, row))))
        .collect();
    let exact = plain_cast(&(Arc::new(texts) as ArrayRef), decimals.data_type())?;
    let long = BooleanArray::from(long);
    arrow::compute::kernels::zip::zip(&long, &exact, &decimals)
        .doing(|| "write the digits of floats".to_owned())
}

/// Floats as narrower ones, the same values as Arrow's own cast gives, but many at a time: Arrow checks each value
/// for one that the narrower type cannot hold, and every float has one, if need be infinity.
fn narrowed(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    match (array.data_type(), to) {
        (DataType::Float32, DataType::Float16) => {
            let array = array.as_primitive::<Float32Type>();
            // In pieces: filling the whole result with zeros first would touch its memory twice.
            let mut halves = Vec::with_capacity(array.len());
            let mut piece = [f16::ZERO; 1024];
            for values in array.values().chunks(piece.len()) {
                let Some(piece) = piece.get_mut(..values.len()) else { continue };
                piece.convert_from_f32_slice(values);
                halves.extend_from_slice(piece);
            }
            Some(Arc::new(Float16Array::new(halves.into(), array.nulls().cloned())))
        }
        (DataType::Float64, DataType::Float32) => {
            let array = array.as_primitive::<Float64Type>();
            #[allow(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
            let narrow = |value: f64| value as f32;
            Some(Arc::new(array.unary::<_, Float32Type>(narrow)))
        }
        _ => None,
    }
}

/// The rows that are in `one` and not in `other`.
fn difference(one: &BooleanArray, other: &BooleanArray) -> BooleanArray {
    let gone = !other.values();
    BooleanArray::new(one.values() & &gone, None)
}

/// `rows` without those whose value is zero: losing the sign of a zero loses nothing.
fn without_zeros(rows: BooleanArray, array: &ArrayRef) -> BooleanArray {
    if !array.data_type().is_floating() || rows.true_count() == 0 {
        return rows;
    }
    let left = (0..rows.len()).map(|row| rows.value(row) && float_at(array, row) != 0.0);
    BooleanArray::from(left.collect::<Vec<_>>())
}

/// Rows that were finite and are infinite now.
fn became_infinite(before: &ArrayRef, after: &ArrayRef) -> BooleanArray {
    let finite = |array: &ArrayRef, row: usize| match array.data_type() {
        DataType::Float16 => array.as_primitive::<Float16Type>().value(row).is_finite(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).is_finite(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).is_finite(),
        _ => true,
    };
    // There is nearly never one, which one fast pass over the result shows.
    if all_finite(after) {
        return BooleanArray::new(BooleanBuffer::new_unset(after.len()), None);
    }
    let rows = 0..after.len();
    let lost = rows.map(|row| before.is_valid(row) && finite(before, row) && !finite(after, row));
    BooleanArray::from(lost.collect::<Vec<_>>())
}

fn all_finite(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Float16 => all_of(array.as_primitive::<Float16Type>().values(), f16::is_finite),
        DataType::Float32 => all_of(array.as_primitive::<Float32Type>().values(), f32::is_finite),
        _ => false,
    }
}

/// Whether `holds` for every value. It looks at a whole piece at a time, which the compiler vectorises.
fn all_of<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> bool {
    let mut pieces = values.chunks(1024);
    pieces.all(|piece| piece.iter().fold(true, |all, value| all & holds(*value)))
}

/// The rows whose values are not whole multiples of `factor`.
fn finer_than(array: &ArrayRef, factor: i64) -> Result<BooleanArray> {
    rows_where(array, |value| value % factor.max(1) != 0)
}

/// The rows of times whose number of ticks is as `wanted`.
fn rows_where(array: &ArrayRef, wanted: impl Fn(i64) -> bool) -> Result<BooleanArray> {
    let ticks = match array.data_type() {
        // Arrow has no cast of these to 64 bits.
        DataType::Time32(_) => plain_cast(&plain_cast(array, &DataType::Int32)?, &DataType::Int64)?,
        _ => plain_cast(array, &DataType::Int64)?,
    };
    let ticks = ticks.as_primitive::<Int64Type>();
    Ok(ticks.iter().map(|value| Some(value.is_some_and(&wanted))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use arrow::datatypes::TimeUnit;

    #[test]
    fn narrowed_floats_are_those_of_arrow() {
        let odd = [0.0, -0.0, 1.0e-8, 65_504.0, 65_519.9, 65_520.0, 1e39, f64::NAN, f64::INFINITY];
        let values = odd.into_iter().chain((0..1_000).map(|n| f64::from(n).sin() * 7e4));
        let doubles: Float64Array = values.map(Some).chain([None]).collect();
        let doubles: ArrayRef = Arc::new(doubles);
        let singles = safe_cast(&doubles, &DataType::Float32).unwrap();
        let text = |array: &ArrayRef| format!("{array:?}");
        assert_eq!(text(&narrowed(&doubles, &DataType::Float32).unwrap()), text(&singles));
        let halves = safe_cast(&singles, &DataType::Float16).unwrap();
        let narrow = narrowed(&singles, &DataType::Float16).unwrap();
        assert!((0..halves.len()).all(|row| {
            let (one, other) =
                (halves.as_primitive::<Float16Type>(), narrow.as_primitive::<Float16Type>());
            one.value(row).to_bits() == other.value(row).to_bits()
                && one.is_null(row) == other.is_null(row)
        }));
    }

    /// Rows that are bad, and the values of the others.
    fn cast_of(array: &ArrayRef, to: &str) -> (Vec<usize>, Vec<Option<String>>) {
        use arrow::util::display::array_value_to_string;
        let cast = cast_flat(array, &crate::schema::types::parse_type(to).unwrap()).unwrap();
        let rows = |rows: &BooleanArray| rows.values().set_indices().collect::<Vec<_>>();
        let mut bad: Vec<usize> = cast.bad.iter().flat_map(|(_, bad)| rows(bad)).collect();
        bad.sort_unstable();
        let text = |row| array_value_to_string(&cast.values, row).unwrap();
        let values = (0..array.len()).map(|row| cast.values.is_valid(row).then(|| text(row)));
        (bad, values.collect())
    }

    /// Casts that lose something without an error of Arrow's.
    #[test]
    fn nothing_is_lost_without_a_word() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1_704_110_400.5, 60.0, 1e300]));
        for to in ["timestamp[s]", "duration[s]", "int64"] {
            assert_eq!(cast_of(&floats, to).0, [0, 2], "{to}");
        }
        let decimals = safe_cast(&floats.slice(0, 2), &DataType::Decimal128(20, 3)).unwrap();
        assert_eq!(cast_of(&decimals, "timestamp[s]").0, [0]);
        let exact = (1 << 53) + 1;
        let ints: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![exact, 86_400, -1, 7]));
        let times = safe_cast(&ints, &DataType::Timestamp(TimeUnit::Nanosecond, None)).unwrap();
        assert_eq!(cast_of(&times, "double").0, [0]);
        assert_eq!(cast_of(&times, "halffloat").0, [0, 1]);
        assert_eq!(cast_of(&times, "decimal128(5, -2)").0, [0, 2, 3]);
        assert_eq!(cast_of(&times, "date64").0, [0, 1, 2, 3]);
        assert_eq!(cast_of(&ints, "time64[us]").0, [0, 2]);
        assert_eq!(cast_of(&ints, "date64").0, [0, 1, 2, 3]);
        let long = safe_cast(&ints.slice(0, 1), &DataType::Duration(TimeUnit::Second)).unwrap();
        assert_eq!(cast_of(&long, "string").1, [Some(format!("PT{exact}S"))]);
    }

    #[test]
    fn a_float_has_its_own_digits_as_a_wide_decimal() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.1, 2049.0, 2.5]));
        let digits = "0.10000000000000000555111512312578270211815834045410";
        let (bad, values) = cast_of(&floats, "decimal256(76, 50)");
        assert_eq!((bad, values[0].as_deref()), (Vec::new(), Some(digits)));
        assert_eq!(values[1].as_deref().map(|text| text.trim_end_matches('0')), Some("2049."));
    }

    #[test]
    fn one_date_without_a_text_is_one_bad_row() {
        let days =
            arrow::array::Date32Array::from(vec![Some(0), Some(i32::MAX), None, Some(19_723)]);
        let days: ArrayRef = Arc::new(days);
        let shown = |text: &str| Some(text.to_owned());
        let texts = vec![shown("1970-01-01"), None, None, shown("2024-01-01")];
        assert_eq!(cast_of(&days, "string"), (vec![1], texts.clone()));
        let wide = cast_of(&days.slice(2, 2), "date64");
        assert_eq!(wide.1, [None, shown("2024-01-01T00:00:00")]);
        assert_eq!(cast_of(&days, "timestamp[ns]").0, [1]);
    }

    #[test]
    fn an_instant_survives_every_zone() {
        let naive = DataType::Timestamp(TimeUnit::Second, None);
        let ints: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![0, 1_711_846_800]));
        let times = safe_cast(&ints, &naive).unwrap();
        for zone in ["UTC", "Europe/Paris", "+05:30", "America/New_York"] {
            let to = format!("timestamp[us, tz={zone}]");
            let to = crate::schema::types::parse_type(&to).unwrap();
            let zoned = cast_flat(&times, &to).unwrap();
            let back = cast_flat(&zoned.values, &naive).unwrap();
            assert!(zoned.bad.is_empty() && back.bad.is_empty(), "{zone}");
            assert_eq!(back.values.as_ref(), times.as_ref(), "{zone}");
        }
        let days: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![0, 19_723]));
        let paris = crate::schema::types::parse_type("timestamp[s, tz=Europe/Paris]").unwrap();
        let zoned = cast_flat(&days, &paris).unwrap().values;
        let back = cast_flat(&zoned, &DataType::Date32).unwrap();
        assert!(back.bad.is_empty() && back.values.as_ref() == days.as_ref());
    }
}
