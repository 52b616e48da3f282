//! Casts values that hold no other values, and finds those that cannot be cast: they do not parse, are out of
//! range, or would be other values when cast back.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float16Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{and, is_not_null, is_null, nullif};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Int64Type, TimeUnit};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Doing, Result};
use crate::schema::cast::castable::{is_number, may_lose, narrows_float, ticks};
use crate::schema::cast::problem::Problem;
use crate::schema::cast::text::{float_at, text_problems, texts_of};

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

    /// Makes `rows` null, and notes their problem.
    pub(super) fn leave_out(&mut self, problem: Problem, rows: BooleanArray) -> Result<()> {
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
    let mut values = match narrowed(array, to) {
        Some(values) => values,
        None => safe_cast(array, to)?,
    };
    let doing = || "look for nulls".to_owned();
    let (before, after) = (is_not_null(array).doing(doing)?, is_not_null(&values).doing(doing)?);
    let problem = if is_number(array.data_type()) { Problem::Overflow } else { Problem::NotAValue };
    let failed = (problem, difference(&before, &after));
    let lost = lost(array, &values, to)?;
    // Arrow casts a null to a list of one null.
    if difference(&after, &before).true_count() > 0 {
        values = with_nulls(&values, &is_null(array).doing(doing)?)?;
    }
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
    let from = array.data_type();
    if let Some(texts) = texts_of(array)? {
        return Ok(text_problems(&texts, values));
    }
    if let (DataType::Timestamp(from, _), DataType::Timestamp(unit, _)) = (from, to) {
        // The instant counts, whatever the zone.
        return Ok(vec![(Problem::Lossy, finer_than(array, *from, *unit)?)]);
    }
    if narrows_float(from, to) {
        return Ok(vec![(Problem::Overflow, became_infinite(array, values))]);
    }
    if !may_lose(from, to) {
        return Ok(Vec::new());
    }
    let doing = || "compare what was cast".to_owned();
    let back = safe_cast(values, from)?;
    let differs = distinct(&back, array).doing(doing)?;
    let lost = and(&differs, &is_not_null(values).doing(doing)?).doing(doing)?;
    Ok(vec![(Problem::Lossy, without_zeros(lost, array))])
}

/// `array` as `to`; values that cannot be cast are null.
pub(super) fn safe_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    arrow::compute::cast(array, to).doing(|| format!("cast {from} to {to}"))
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

/// The rows whose times are not whole numbers of the unit `to`.
fn finer_than(array: &ArrayRef, from: TimeUnit, to: TimeUnit) -> Result<BooleanArray> {
    let factor = ticks(from).checked_div(ticks(to)).unwrap_or(1).max(1);
    let raw = safe_cast(array, &DataType::Int64)?;
    let raw = raw.as_primitive::<Int64Type>();
    let lost = (0..raw.len()).map(|row| raw.is_valid(row) && raw.value(row) % factor != 0);
    Ok(BooleanArray::from(lost.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;

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
}
