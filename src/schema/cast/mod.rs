//! Casts that report every value that does not go through: it fails to parse, overflows, or would be another
//! value when cast back.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

pub(crate) mod castable;
mod flat;
mod problem;
mod text;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, StructArray, make_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{filter, is_not_null, not, or};
use arrow::datatypes::{DataType, Field};

use crate::error::{Doing, Error, Result};
use crate::schema::cast::castable::{item_of, with_items_of};
use crate::schema::cast::flat::{CastArray, cast_flat};
pub use crate::schema::cast::problem::Problem;
use crate::schema::nulls::{counts, forbidden};

/// Casts `array` to `to`. Rounding to a narrower float is what such a cast is for, and no problem. Any other value
/// that would be another one when cast back is a problem, and so is a null where `to` allows none, at whatever
/// depth.
///
/// # Errors
/// `Failed`, when the types cannot be cast at all; `Mismatch`, when a value became null or a null a value
/// and was not reported, which would be an error of the cast itself.
pub(crate) fn cast(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let mut cast = convert(array, to)?;
    if let Some(rows) = forbidden(array, to) {
        cast.leave_out(Problem::Null, rows)?;
    }
    expect_same_nulls(array, &cast)?;
    Ok(cast)
}

/// Fails unless `cast` has as many nulls at each depth as `before` has, bad rows left out. Digests cannot find such
/// an error: they are taken of the values after the cast.
fn expect_same_nulls(before: &ArrayRef, cast: &CastArray) -> Result<()> {
    let doing = || "compare the nulls of a cast".to_owned();
    let mut pair = [Arc::clone(before), Arc::clone(&cast.values)];
    let mut bad: Option<BooleanArray> = None;
    for (_, rows) in &cast.bad {
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

/// Casts `array` to `to`, whatever nulls `to` allows.
fn convert(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    if array.data_type() == to {
        return Ok(CastArray::of(Arc::clone(array)));
    }
    match (array.data_type(), to) {
        (DataType::FixedSizeList(..), DataType::FixedSizeList(..)) => cast_fixed(array, to),
        (DataType::List(_), DataType::List(_)) => cast_list::<i32>(array, to),
        (DataType::LargeList(_), DataType::LargeList(_)) => cast_list::<i64>(array, to),
        (DataType::Struct(_), DataType::Struct(_)) => cast_struct(array, to),
        (DataType::Map(..), DataType::Map(..)) => cast_map(array, to),
        (DataType::Null, _) => Ok(CastArray::of(new_null_array(to, array.len()))),
        (from, to) => match (with_items_of(from, to), item_of(from), item_of(to)) {
            (Some(between), ..) => cast_between(array, &between, to),
            (None, None, Some(item)) => cast_to_list(array, item, to),
            _ => cast_flat(array, to),
        },
    }
}

/// Casts values to lists of one value each; a null stays null.
fn cast_to_list(array: &ArrayRef, item: &Arc<Field>, to: &DataType) -> Result<CastArray> {
    let doing = || format!("cast to {to}");
    let field = Arc::new(Field::new(item.name(), array.data_type().clone(), true));
    let (values, nulls) = (Arc::clone(array), array.logical_nulls());
    let one = FixedSizeListArray::try_new(Arc::clone(&field), 1, values, nulls);
    let one: ArrayRef = Arc::new(one.doing(doing)?);
    if matches!(to, DataType::FixedSizeList(..)) {
        return convert(&one, to);
    }
    // Lists have no room for what lies under nulls.
    let there = filter(array, &is_not_null(array).doing(doing)?).doing(doing)?;
    let lengths = (0..array.len()).map(|row| usize::from(one.is_valid(row)));
    let (offsets, nulls) = (OffsetBuffer::<i64>::from_lengths(lengths), one.nulls().cloned());
    let lists = GenericListArray::<i64>::try_new(field, offsets, there, nulls);
    convert(&(Arc::new(lists.doing(doing)?) as ArrayRef), to)
}

/// Casts one kind of list to another, and then its items.
fn cast_between(array: &ArrayRef, between: &DataType, to: &DataType) -> Result<CastArray> {
    let array = match array.data_type() {
        DataType::List(_) => from_the_start::<i32>(array)?,
        DataType::LargeList(_) => from_the_start::<i64>(array)?,
        _ => Arc::clone(array),
    };
    let list = cast_flat(&array, between)?;
    let mut cast = convert(&list.values, to)?;
    cast.bad.extend(list.bad);
    Ok(cast)
}

/// The lists `array` with their own items alone: Arrow's casts to fixed lengths take a slice's items from the start.
fn from_the_start<O: OffsetSizeTrait>(array: &ArrayRef) -> Result<ArrayRef> {
    let list = array.as_list::<O>();
    let first = list.offsets().first().map_or(0, |first| first.as_usize());
    if first == 0 {
        return Ok(Arc::clone(array));
    }
    let lengths = OffsetBuffer::<O>::from_lengths(list.offsets().lengths());
    let items = list.values().slice(first, list.offsets().lengths().sum());
    let (DataType::List(field) | DataType::LargeList(field)) = array.data_type() else {
        return Ok(Arc::clone(array));
    };
    let moved =
        GenericListArray::<O>::try_new(Arc::clone(field), lengths, items, list.nulls().cloned());
    Ok(Arc::new(moved.doing(|| "cut out a slice of lists".to_owned())?))
}

/// Items that may not be null, without nulls. Nulls are here in rows that could not be cast, and in rows that hold a
/// null where none is allowed: both kinds of rows are reported, and become null as a whole.
fn items_for(field: &Field, items: ArrayRef) -> Result<ArrayRef> {
    if field.is_nullable() || items.null_count() == 0 {
        return Ok(items);
    }
    let bare = items.to_data().into_builder().nulls(None).build();
    Ok(make_array(bare.doing(|| format!("build items of `{}`", field.name()))?))
}

fn cast_fixed(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let DataType::FixedSizeList(field, size) = to else { return cast_flat(array, to) };
    let list = array.as_fixed_size_list();
    if list.value_length() != *size {
        return cast_flat(array, to);
    }
    let length = usize::try_from(*size).unwrap_or_default();
    let items = list.values().slice(0, list.len() * length);
    let items = convert(&items, field.data_type())?;
    let values = FixedSizeListArray::try_new(
        Arc::clone(field),
        *size,
        items_for(field, items.values)?,
        list.nulls().cloned(),
    );
    let values: ArrayRef = Arc::new(values.doing(|| format!("cast to {to}"))?);
    let row_of = |item: usize| item.checked_div(length);
    leave_out(values, array, &items.bad, row_of)
}

fn cast_list<O: OffsetSizeTrait>(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let (DataType::List(field) | DataType::LargeList(field)) = to else {
        return cast_flat(array, to);
    };
    let list = array.as_list::<O>();
    let items = convert(list.values(), field.data_type())?;
    let offsets = list.offsets().clone();
    let values = GenericListArray::<O>::try_new(
        Arc::clone(field),
        offsets.clone(),
        items_for(field, items.values)?,
        list.nulls().cloned(),
    );
    let values: ArrayRef = Arc::new(values.doing(|| format!("cast to {to}"))?);
    leave_out(values, array, &items.bad, |item| row_at(&offsets, O::from_usize(item)?))
}

/// Casts the entries of maps, whose keys stay.
fn cast_map(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let DataType::Map(field, sorted) = to else { return cast_flat(array, to) };
    let map = array.as_map();
    let entries = convert(&(Arc::new(map.entries().clone()) as ArrayRef), field.data_type())?;
    let offsets = map.offsets().clone();
    let values = MapArray::try_new(
        Arc::clone(field),
        offsets.clone(),
        // An entry is never null: its row becomes null instead.
        items_for(field, entries.values)?.as_struct().clone(),
        map.nulls().cloned(),
        *sorted,
    );
    let values: ArrayRef = Arc::new(values.doing(|| format!("cast to {to}"))?);
    leave_out(values, array, &entries.bad, |entry| row_at(&offsets, i32::try_from(entry).ok()?))
}

/// The row that the value `at` belongs to; in a slice, it may lie before the first row or after the last.
fn row_at<O: OffsetSizeTrait>(offsets: &[O], at: O) -> Option<usize> {
    let row = offsets.partition_point(|offset| *offset <= at).checked_sub(1)?;
    (row + 1 < offsets.len()).then_some(row)
}

/// Casts structs by the names of their fields: those that `to` has besides are null.
fn cast_struct(array: &ArrayRef, to: &DataType) -> Result<CastArray> {
    let DataType::Struct(fields) = to else { return cast_flat(array, to) };
    let structs = array.as_struct();
    let (mut columns, mut bad) = (Vec::new(), Vec::new());
    for field in fields {
        let Some(column) = structs.column_by_name(field.name()) else {
            columns.push(new_null_array(field.data_type(), array.len()));
            continue;
        };
        let child = convert(column, field.data_type())?;
        columns.push(items_for(field, child.values)?);
        bad.extend(child.bad);
    }
    let nulls = structs.nulls().cloned();
    let values = StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len());
    let values: ArrayRef = Arc::new(values.doing(|| format!("cast to {to}"))?);
    leave_out(values, array, &bad, Some)
}

/// Makes each row null that holds one of the bad `items`.
fn leave_out(
    values: ArrayRef,
    before: &ArrayRef,
    items: &[(Problem, BooleanArray)],
    row_of: impl Fn(usize) -> Option<usize>,
) -> Result<CastArray> {
    let mut cast = CastArray::of(values);
    for (problem, items) in items {
        let mut rows = vec![false; before.len()];
        for item in items.values().set_indices() {
            if let Some(row) = row_of(item)
                && before.is_valid(row)
                && let Some(row) = rows.get_mut(row)
            {
                *row = true;
            }
        }
        cast.leave_out(*problem, BooleanArray::from(rows))?;
    }
    Ok(cast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Int64Type, TimeUnit};

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

    /// `rows` of JSON as an array of the type, from the second row on: a slice.
    fn slice(kind: &str, rows: &[&str]) -> ArrayRef {
        let field = Field::new("v", crate::schema::types::parse_type(kind).unwrap(), true);
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
        let lines: Vec<_> = rows.iter().map(|row| format!("{{\"v\": {row}}}\n")).collect();
        let lines = lines.concat();
        let reader = arrow::json::ReaderBuilder::new(schema).build(lines.as_bytes());
        let batch = reader.unwrap().next().unwrap().unwrap();
        batch.column(0).slice(1, rows.len() - 1)
    }

    /// What rows become, and which are refused.
    fn shown(array: &ArrayRef, to: &str) -> (Vec<String>, Vec<usize>) {
        let made = cast(array, &crate::schema::types::parse_type(to).unwrap()).unwrap();
        let text = |row| arrow::util::display::array_value_to_string(&made.values, row).unwrap();
        let bad = made.bad.iter().flat_map(|(_, rows)| rows.values().set_indices());
        ((0..array.len()).map(text).collect(), bad.collect())
    }

    #[test]
    fn slices_keep_their_own_items() {
        let lists = slice("list<int64>", &["[1000, 9]", "[1, 2]", "null", "[3, 2000]"]);
        assert_eq!(
            shown(&lists, "list<int8>"),
            (["[1, 2]", "", ""].map(String::from).into(), vec![2])
        );
        let fixed = shown(&lists, "fixed_size_list<int64>[2]");
        assert_eq!(fixed, (["[1, 2]", "", "[3, 2000]"].map(String::from).into(), vec![]));
        let texts = slice("string", &["\"x\"", "null", "\"7\"", "\"y\""]);
        for to in ["list<int8>", "large_list<int8>", "fixed_size_list<int8>[1]"] {
            assert_eq!(
                shown(&texts, to),
                (["", "[7]", ""].map(String::from).into(), vec![2]),
                "{to}"
            );
        }
    }

    #[test]
    fn fields_are_found_by_name_and_values_of_maps_are_cast() {
        let rows = ["null", "[{\"lat\": 1, \"lon\": 2, \"z\": 3}]", "[null]", "[{\"lat\": 900}]"];
        let places = slice("list<struct<lat: int64, lon: int64, z: int64>>", &rows);
        let (texts, bad) = shown(&places, "list<struct<lon: string, name: string, lat: int8>>");
        assert_eq!((texts[0].as_str(), bad), ("[{lon: 2, name: , lat: 1}]", vec![2]));
        let rows = ["null", "{\"a\": null, \"b\": 1}", "{\"a\": 2, \"b\": null}", "null"];
        let swapped =
            shown(&slice("struct<a: int64, b: int64>", &rows), "struct<b: int8, a: int8>");
        assert_eq!(swapped.0, ["{b: 1, a: }", "{b: , a: 2}", ""]);
        let rows = ["{\"a\": 1000}", "{\"a\": 1, \"b\": null}", "null", "{\"c\": 500}"];
        let (texts, bad) = shown(&slice("map<string, int64>", &rows), "map<string, int8>");
        assert_eq!((texts[0].as_str(), bad), ("{a: 1, b: }", vec![2]));
        let nothing: ArrayRef = Arc::new(arrow::array::NullArray::new(2));
        assert_eq!(shown(&nothing, "struct<a: int8>").0, ["", ""]);
        let words = slice("string", &["\"1\"", "\"2\"", "null", "\"x\""]);
        let (texts, bad) = shown(&words, "dictionary<values=int64, indices=int32>");
        assert_eq!((texts[0].as_str(), bad), ("2", vec![2]));
    }

    /// A cast that loses a null is found by counting, whatever it says itself.
    #[test]
    fn a_cast_that_changes_nulls_is_a_mismatch() {
        let before: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 0.0]));
        let error = expect_same_nulls(&before, &CastArray::of(values)).unwrap_err();
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
}
