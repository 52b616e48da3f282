//! Casts that tell of every value that does not go through: what fails to parse, overflows, or would
//! come back as another value.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float16Array, GenericListArray,
    OffsetSizeTrait, StructArray, make_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{
    CastOptions, and, can_cast_types, cast_with_options, filter, is_not_null, is_null, not, nullif,
    or,
};
use arrow::datatypes::{
    DataType, Field, Float16Type, Float32Type, Float64Type, Int64Type, TimeUnit,
};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Context, Error, Result};
use crate::schema::nulls::{counts, forbidden};
use crate::schema::text::{float_at, text_problems, texts_of};

/// Why a value does not go through.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// It is null, where no null may be.
    Null,
    /// It is not a value of the type.
    NotAValue,
    /// It is out of the type's range.
    Overflow,
    /// It would come back as another value.
    Lossy,
}

impl Problem {
    /// The problem in words, after a count of values.
    pub fn text(self) -> &'static str {
        match self {
            Self::Null => "are null",
            Self::NotAValue => "are not of the type",
            Self::Overflow => "are out of range",
            Self::Lossy => "would lose digits or parts",
        }
    }
}

/// A cast column, and the rows that did not go through, which are null in it.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) values: ArrayRef,
    pub(crate) bad: Vec<(Problem, BooleanArray)>,
}

/// Whether there is a way from `from` to `to` at all.
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
        // Lance writes such keys where they do not suffice, and cannot read them back.
        (_, DataType::Dictionary(keys, _)) if keys.primitive_width() < Some(4) => false,
        (DataType::Struct(_) | DataType::Map(..), _)
        | (_, DataType::Struct(_) | DataType::Map(..)) => from == to,
        _ => from == to || can_cast_types(from, to),
    }
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

/// `to`, with items as those of `from`: what a list is cast to before its items are.
fn with_items_of(from: &DataType, to: &DataType) -> Option<DataType> {
    let items = item_of(from)?.data_type().clone();
    let renamed = |item: &Arc<Field>| Arc::new(Field::new(item.name(), items.clone(), true));
    Some(match to {
        DataType::List(item) => DataType::List(renamed(item)),
        DataType::LargeList(item) => DataType::LargeList(renamed(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(renamed(item), *size),
        _ => return None,
    })
}

fn lengths_agree(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::FixedSizeList(_, a), DataType::FixedSizeList(_, b)) => a == b,
        _ => true,
    }
}

/// Casts `array` to `to`. Rounding to a narrower float is what such a cast is asked for, and is no
/// problem; everything else that would not come back is, and so is a null where `to` allows none, at whatever
/// depth.
///
/// # Errors
/// `Failed`, when the types cannot be cast at all; `Mismatch`, when a value became null or a null a value
/// without being told as a problem, which would be an error of the cast's own.
pub(crate) fn cast(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    let mut made = convert(array, to)?;
    if let Some(rows) = forbidden(array, to) {
        made.values = without(&made.values, &rows)?;
        note(&mut made.bad, Problem::Null, rows);
    }
    expect_same_nulls(array, &made)?;
    Ok(made)
}

/// Fails unless each depth of what was made has as many nulls as `before`, bad rows left out. Digests are taken
/// of what was made: they cannot see an error that was made in making it.
fn expect_same_nulls(before: &ArrayRef, made: &Cast) -> Result<()> {
    let doing = || "compare the nulls of a cast".to_owned();
    let mut pair = [Arc::clone(before), Arc::clone(&made.values)];
    let mut bad: Option<BooleanArray> = None;
    for (_, rows) in &made.bad {
        bad = Some(match bad {
            None => rows.clone(),
            Some(bad) => or(&bad, rows).doing(doing)?,
        });
    }
    if let Some(bad) = bad {
        let good = not(&bad).doing(doing)?;
        let [before, after] = pair;
        pair = [filter(&before, &good).doing(doing)?, filter(&after, &good).doing(doing)?];
    }
    let [before, after] = pair;
    let (then, now) = (counts(&before, after.data_type())?, counts(&after, before.data_type())?);
    if then == now {
        return Ok(());
    }
    let (from, to) = (before.data_type(), after.data_type());
    Err(Error::mismatch(format!(
        "casting {from} to {to} changed which values are null ({then:?} nulls by depth before, {now:?} \
         after); this is a bug in relance"
    )))
}

fn convert(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    if array.data_type() == to {
        return Ok(Cast { values: Arc::clone(array), bad: Vec::new() });
    }
    match (array.data_type(), to) {
        (DataType::FixedSizeList(..), DataType::FixedSizeList(..)) => cast_fixed(array, to),
        (DataType::List(_), DataType::List(_)) => cast_list::<i32>(array, to),
        (DataType::LargeList(_), DataType::LargeList(_)) => cast_list::<i64>(array, to),
        (DataType::Struct(_), DataType::Struct(_)) => cast_struct(array, to),
        (from, to) => match with_items_of(from, to) {
            Some(between) => cast_between(array, &between, to),
            None => cast_flat(array, to),
        },
    }
}

pub(super) fn safe_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let from = array.data_type().clone();
    cast_with_options(array, to, &options).doing(|| format!("cast {from} to {to}"))
}

fn cast_flat(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    let mut values = match narrowed(array, to) {
        Some(values) => values,
        None => safe_cast(array, to)?,
    };
    let mut bad = Vec::new();
    let there = is_not_null(array).doing(|| "look for nulls".to_owned())?;
    let here = is_not_null(&values).doing(|| "look for nulls".to_owned())?;
    let failed = difference(&there, &here);
    let problem = if is_number(array.data_type()) { Problem::Overflow } else { Problem::NotAValue };
    note(&mut bad, problem, failed);
    if let Some(texts) = texts_of(array)? {
        for (problem, rows) in text_problems(&texts, &values) {
            note(&mut bad, problem, rows);
        }
    } else if let (DataType::Timestamp(from, _), DataType::Timestamp(unit, _)) =
        (array.data_type(), to)
    {
        // The instant counts, whatever the zone.
        note(&mut bad, Problem::Lossy, finer_than(array, *from, *unit)?);
    } else if narrows_float(array.data_type(), to) {
        let infinite = became_infinite(array, &values);
        note(&mut bad, Problem::Overflow, infinite);
    } else if may_lose(array.data_type(), to) {
        let back = safe_cast(&values, array.data_type())?;
        let differs = distinct(&back, array).doing(|| "compare what was cast".to_owned())?;
        let lost = and(&differs, &here).doing(|| "compare what was cast".to_owned())?;
        let lost = without_zeros(lost, array);
        note(&mut bad, Problem::Lossy, lost);
    }
    // Arrow makes a list of one null of a null.
    let invented = difference(&is_not_null(&values).doing(|| "look for nulls".to_owned())?, &there);
    if invented.true_count() > 0 {
        values = without(&values, &is_null(array).doing(|| "look for nulls".to_owned())?)?;
    }
    for (_, rows) in &bad {
        values = without(&values, rows)?;
    }
    Ok(Cast { values, bad })
}

/// `values` with nulls in these `rows`.
fn without(values: &ArrayRef, rows: &BooleanArray) -> Result<ArrayRef> {
    nullif(values, rows).doing(|| "leave out what cannot be cast".to_owned())
}

/// Floats as narrower ones, which are the same values as Arrow's own cast gives, many at a time: Arrow
/// looks at each value for one that has no place in the type, which no float lacks.
fn narrowed(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    match (array.data_type(), to) {
        (DataType::Float32, DataType::Float16) => {
            let array = array.as_primitive::<Float32Type>();
            // By the piece: fresh memory that is filled with zeros first is touched twice.
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

fn note(bad: &mut Vec<(Problem, BooleanArray)>, problem: Problem, rows: BooleanArray) {
    if rows.true_count() > 0 {
        bad.push((problem, rows));
    }
}

/// Casts one kind of list to another, and then its items.
fn cast_between(array: &ArrayRef, between: &DataType, to: &DataType) -> Result<Cast> {
    let list = cast_flat(array, between)?;
    let mut made = convert(&list.values, to)?;
    made.bad.extend(list.bad);
    Ok(made)
}

/// Items that may not be null, without nulls: of what could not be cast, and of rows that hold a null where
/// none may be. Both kinds of rows are told, and become null.
fn items_for(field: &Field, items: ArrayRef) -> Result<ArrayRef> {
    if field.is_nullable() || items.null_count() == 0 {
        return Ok(items);
    }
    let made = items.to_data().into_builder().nulls(None).build();
    Ok(make_array(made.doing(|| format!("make items of `{}`", field.name()))?))
}

fn cast_fixed(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    let DataType::FixedSizeList(field, size) = to else { return cast_flat(array, to) };
    let list = array.as_fixed_size_list();
    if list.value_length() != *size {
        return cast_flat(array, to);
    }
    let length = usize::try_from(*size).unwrap_or_default();
    let items = list.values().slice(0, list.len() * length);
    let items = convert(&items, field.data_type())?;
    let made = FixedSizeListArray::try_new(
        Arc::clone(field),
        *size,
        items_for(field, items.values)?,
        list.nulls().cloned(),
    );
    let made: ArrayRef = Arc::new(made.doing(|| format!("cast to {to}"))?);
    let row_of = |item: usize| item.checked_div(length);
    leave_out(made, array, &items.bad, row_of)
}

fn cast_list<O: OffsetSizeTrait>(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    let (DataType::List(field) | DataType::LargeList(field)) = to else {
        return cast_flat(array, to);
    };
    let list = array.as_list::<O>();
    let items = convert(list.values(), field.data_type())?;
    let offsets = list.offsets().clone();
    let made = GenericListArray::<O>::try_new(
        Arc::clone(field),
        offsets.clone(),
        items_for(field, items.values)?,
        list.nulls().cloned(),
    );
    let made: ArrayRef = Arc::new(made.doing(|| format!("cast to {to}"))?);
    let row_of = |item: usize| {
        let item = O::from_usize(item)?;
        offsets.partition_point(|offset| *offset <= item).checked_sub(1)
    };
    leave_out(made, array, &items.bad, row_of)
}

fn cast_struct(array: &ArrayRef, to: &DataType) -> Result<Cast> {
    let DataType::Struct(fields) = to else { return cast_flat(array, to) };
    let structs = array.as_struct();
    let (mut columns, mut bad) = (Vec::new(), Vec::new());
    for (field, column) in fields.iter().zip(structs.columns()) {
        let made = convert(column, field.data_type())?;
        columns.push(items_for(field, made.values)?);
        bad.extend(made.bad);
    }
    let made = StructArray::try_new(fields.clone(), columns, structs.nulls().cloned());
    let made: ArrayRef = Arc::new(made.doing(|| format!("cast to {to}"))?);
    leave_out(made, array, &bad, Some)
}

/// Makes the rows of nested values null that hold a bad one.
fn leave_out(
    mut made: ArrayRef,
    before: &ArrayRef,
    items: &[(Problem, BooleanArray)],
    row_of: impl Fn(usize) -> Option<usize>,
) -> Result<Cast> {
    let mut bad = Vec::new();
    for (problem, items) in items {
        let mut rows = vec![false; made.len()];
        for item in items.values().set_indices() {
            if let Some(row) = row_of(item)
                && before.is_valid(row)
                && let Some(row) = rows.get_mut(row)
            {
                *row = true;
            }
        }
        let rows = BooleanArray::from(rows);
        made = without(&made, &rows)?;
        note(&mut bad, *problem, rows);
    }
    Ok(Cast { values: made, bad })
}

/// `rows` without those whose value is zero: its sign is no digit.
fn without_zeros(rows: BooleanArray, array: &ArrayRef) -> BooleanArray {
    if !array.data_type().is_floating() || rows.true_count() == 0 {
        return rows;
    }
    let left = (0..rows.len()).map(|row| rows.value(row) && float_at(array, row) != 0.0);
    BooleanArray::from(left.collect::<Vec<_>>())
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type.is_decimal()
}

fn narrows_float(from: &DataType, to: &DataType) -> bool {
    from.is_floating() && to.is_floating() && to.primitive_width() < from.primitive_width()
}

/// Rows that were finite and are infinite now.
fn became_infinite(before: &ArrayRef, after: &ArrayRef) -> BooleanArray {
    let finite = |array: &ArrayRef, row: usize| match array.data_type() {
        DataType::Float16 => array.as_primitive::<Float16Type>().value(row).is_finite(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).is_finite(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).is_finite(),
        _ => true,
    };
    // Nearly always none: one pass over the result tells.
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

/// Whether `holds` for every value, looked at many at a time.
fn all_of<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> bool {
    let mut pieces = values.chunks(1024);
    pieces.all(|piece| piece.iter().fold(true, |all, value| all & holds(*value)))
}

/// Whether every value of `from` is a value of `to`, and comes back from it as it was.
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

/// Ticks in a second.
fn ticks(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// The rows whose times are no whole number of `to`.
fn finer_than(array: &ArrayRef, from: TimeUnit, to: TimeUnit) -> Result<BooleanArray> {
    let factor = ticks(from).checked_div(ticks(to)).unwrap_or(1).max(1);
    let raw = safe_cast(array, &DataType::Int64)?;
    let raw = raw.as_primitive::<Int64Type>();
    let lost = (0..raw.len()).map(|row| raw.is_valid(row) && raw.value(row) % factor != 0);
    Ok(BooleanArray::from(lost.collect::<Vec<_>>()))
}

/// Whether a cast can give a value that does not come back, without being null.
fn may_lose(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, Decimal128, Decimal256, Dictionary, Time32, Time64, Timestamp,
    };
    match (from, to) {
        (Dictionary(_, from), to) => may_lose(from, to),
        (from, Dictionary(_, to)) => may_lose(from, to),
        (from, to) if from.is_floating() => to.is_integer() || to.is_decimal() || *to == Boolean,
        (from, to) if from.is_integer() && to.is_floating() => {
            // A float of so many bits holds integers of half as many at least.
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, Int64Array, StringArray};

    #[allow(clippy::needless_pass_by_value, reason = "shorter calls")]
    fn problems(array: ArrayRef, to: &DataType) -> Vec<(Problem, Vec<usize>)> {
        let made = cast(&array, to).unwrap();
        let bad = made.bad.iter();
        bad.map(|(problem, rows)| (*problem, rows.values().set_indices().collect())).collect()
    }

    #[test]
    fn every_value_that_does_not_go_through_is_told() {
        let strings: ArrayRef =
            Arc::new(StringArray::from(vec![Some("1"), Some("x"), None, Some("2.5")]));
        assert_eq!(
            problems(Arc::clone(&strings), &DataType::Int32),
            [(Problem::NotAValue, vec![1, 3])]
        );
        assert_eq!(problems(strings, &DataType::Float64), [(Problem::NotAValue, vec![1])]);
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.5, 1e300, f64::NAN]));
        assert_eq!(
            problems(Arc::clone(&floats), &DataType::Int64),
            [(Problem::Overflow, vec![2, 3]), (Problem::Lossy, vec![1])]
        );
        assert_eq!(problems(floats, &DataType::Float32), [(Problem::Overflow, vec![2])]);
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 300, (1 << 53) + 1]));
        assert_eq!(problems(Arc::clone(&ints), &DataType::Int8), [(Problem::Overflow, vec![1, 2])]);
        assert_eq!(problems(Arc::clone(&ints), &DataType::Float64), [(Problem::Lossy, vec![2])]);
        assert!(problems(ints, &DataType::Utf8).is_empty());
    }

    #[test]
    fn times_lose_what_their_unit_lacks() {
        let us = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times =
            cast_flat(&(Arc::new(Int64Array::from(vec![1_500, 2_000])) as ArrayRef), &us).unwrap();
        let ms = DataType::Timestamp(TimeUnit::Millisecond, None);
        assert_eq!(problems(times.values, &ms), [(Problem::Lossy, vec![0])]);
    }

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

    #[test]
    fn a_row_with_a_bad_item_is_bad() {
        let item = |kind| Arc::new(Field::new("item", kind, true));
        let values = Float32Array::from(vec![1.0, 2.0, 70_000.0, 0.1]);
        let list = FixedSizeListArray::try_new(item(DataType::Float32), 2, Arc::new(values), None);
        let to = DataType::FixedSizeList(item(DataType::Float16), 2);
        let made = cast(&(Arc::new(list.unwrap()) as ArrayRef), &to).unwrap();
        assert_eq!(made.values.data_type(), &to);
        assert!(made.values.is_valid(0) && made.values.is_null(1));
        assert_eq!(made.bad.len(), 1);
        let lists = arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1)]),
            None,
            Some(vec![]),
            Some(vec![Some(2), Some(1000)]),
        ]);
        let to = DataType::List(item(DataType::Int8));
        let array: ArrayRef = Arc::new(lists);
        assert_eq!(problems(array, &to), [(Problem::Overflow, vec![3])]);
    }

    /// Every way in which a null can lie where the new type allows none.
    #[test]
    fn a_null_where_none_may_be_is_told_at_every_depth() {
        use crate::schema::types::parse_type;
        use arrow::json::ReaderBuilder;
        type Wrap = (&'static str, &'static str, fn(&str) -> String);
        let wraps: [Wrap; 4] = [
            ("list<item: {}{null}>", "list", |one| format!("[{one}]")),
            ("large_list<item: {}{null}>", "large_list", |one| format!("[{one}]")),
            ("fixed_size_list<item: {}{null}>[1]", "fixed", |one| format!("[{one}]")),
            ("struct<a: {}{null}>", "struct", |one| format!("{{\"a\": {one}}}")),
        ];
        let leaves = [("int64", "7"), ("string", "\"x\""), ("bool", "true")];
        let mut tried = 0;
        for (leaf, value) in leaves {
            for (inner, inner_name, inner_json) in wraps {
                for (outer, outer_name, outer_json) in wraps {
                    // Lance stores neither: a fixed-size list of lists.
                    if outer_name == "fixed" && inner_name != "struct" {
                        continue;
                    }
                    let kind = |null: &str| {
                        let inner = inner.replace("{}", leaf).replace("{null}", null);
                        outer.replace("{}", &inner).replace("{null}", "")
                    };
                    let (from, to) = (parse_type(&kind("")), parse_type(&kind(" not null")));
                    let row = |leaf: &str| outer_json(&inner_json(leaf));
                    let rows = [row(value), row("null"), "null".to_owned(), row(value)];
                    let lines = rows.map(|row| format!("{{\"v\": {row}}}\n")).concat();
                    let field = Field::new("v", from.unwrap(), true);
                    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
                    let reader = ReaderBuilder::new(schema).build(lines.as_bytes());
                    let batch = reader.unwrap().next().unwrap().unwrap();
                    let to = to.unwrap();
                    let made = cast(batch.column(0), &to).unwrap();
                    assert_eq!(made.values.data_type(), &to);
                    let bad: Vec<_> = made
                        .bad
                        .iter()
                        .map(|(problem, rows)| (*problem, rows.values().set_indices().collect()))
                        .collect();
                    assert_eq!(bad, [(Problem::Null, vec![1_usize])], "{}", kind(" not null"));
                    let nulls: Vec<_> = (0..4).map(|row| made.values.is_null(row)).collect();
                    assert_eq!(nulls, [false, true, true, false]);
                    tried += 1;
                }
            }
        }
        assert_eq!(tried, 39);
    }

    #[test]
    fn a_null_text_is_no_list_of_a_null() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let made = cast(&texts, &DataType::List(item)).unwrap();
        assert!(made.bad.is_empty() && made.values.is_valid(0) && made.values.is_null(1));
    }

    /// A cast that loses a null is found by counting, whatever it says itself.
    #[test]
    fn a_cast_that_changes_nulls_is_a_mismatch() {
        let before: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 0.0]));
        let error = expect_same_nulls(&before, &Cast { values, bad: Vec::new() }).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Mismatch);
    }

    #[test]
    fn a_zone_is_no_loss() {
        let us = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times: ArrayRef = Arc::new(Int64Array::from(vec![1_577_880_000_000_000]));
        let times = cast_flat(&times, &us).unwrap().values;
        let paris = DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Paris".into()));
        assert!(problems(Arc::clone(&times), &paris).is_empty());
        let zoned = cast(&times, &paris).unwrap().values;
        assert!(problems(zoned, &us).is_empty());
    }

    #[test]
    fn exact_casts_can_be_taken_back() {
        use crate::schema::types::parse_type;
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
