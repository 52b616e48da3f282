//! Nulls inside columns: which rows have one where a type allows none, and how many there are at each depth. It
//! shares no code with the casts, so that it finds their errors.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{filter, is_not_null};
use arrow::datatypes::{DataType, Field, FieldRef};

use crate::error::{Doing, Result};

/// The children of an array, and which of their values belong to which row.
struct Inside {
    children: Vec<ArrayRef>,
    /// The first value of each row, and the end of the last one; `None`, where each row has one value.
    offsets: Option<Vec<usize>>,
}

impl Inside {
    fn of(array: &ArrayRef) -> Self {
        let lists = |offsets: Vec<usize>, values: &ArrayRef| {
            let (first, last) =
                (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
            let values = values.slice(first, last - first);
            let offsets = offsets.into_iter().map(|offset| offset - first).collect();
            Self { children: vec![values], offsets: Some(offsets) }
        };
        let wide = |offset: &i64| usize::try_from(*offset).unwrap_or_default();
        let narrow = |offset: &i32| usize::try_from(*offset).unwrap_or_default();
        match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                lists(list.offsets().iter().map(narrow).collect(), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                lists(list.offsets().iter().map(wide).collect(), list.values())
            }
            DataType::FixedSizeList(_, size) => {
                let list = array.as_fixed_size_list();
                let size = usize::try_from(*size).unwrap_or_default();
                let first = usize::try_from(list.value_offset(0)).unwrap_or_default();
                let offsets = (0..=list.len()).map(|row| first + row * size).collect();
                lists(offsets, list.values())
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
                lists(map.offsets().iter().map(narrow).collect(), &entries)
            }
            DataType::Struct(_) => {
                Self { children: array.as_struct().columns().to_vec(), offsets: None }
            }
            _ => Self { children: Vec::new(), offsets: None },
        }
    }
}

/// The fields inside a type.
pub(super) fn fields_of(data_type: &DataType) -> &[FieldRef] {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => std::slice::from_ref(item),
        DataType::Struct(fields) => fields,
        _ => &[],
    }
}

/// The children of `array`, one for each of `fields`; those of a struct by name.
fn children_for<'a>(
    array: &ArrayRef,
    inside: &'a Inside,
    fields: &'a [FieldRef],
) -> Vec<(&'a ArrayRef, &'a FieldRef)> {
    let own = fields_of(array.data_type());
    let is_struct = matches!(array.data_type(), DataType::Struct(_));
    let child = |(at, field): (usize, &'a FieldRef)| {
        let named = || own.iter().position(|own| own.name() == field.name());
        let place = if is_struct { named() } else { Some(at) };
        Some((inside.children.get(place?)?, field))
    };
    let mut children: Vec<_> = fields.iter().enumerate().filter_map(child).collect();
    if is_struct {
        children.sort_by_key(|(_, field)| field.name());
    }
    children
}

/// Whether arrays of the two types have children that can be compared in pairs, those of structs by name.
fn same_shape(one: &DataType, other: &DataType) -> bool {
    let is_struct = |data_type: &DataType| matches!(data_type, DataType::Struct(_));
    let (inside, others) = (fields_of(one).len(), fields_of(other).len());
    let both = is_struct(one) && is_struct(other);
    inside > 0 && (both || inside == others) && is_struct(one) == is_struct(other)
}

/// Whether `data_type` forbids a null somewhere inside.
fn forbids(data_type: &DataType) -> bool {
    let inside = |field: &FieldRef| !field.is_nullable() || forbids(field.data_type());
    // A map's entries and keys are never null, whatever holds them.
    match data_type {
        DataType::Map(entries, _) => fields_of(entries.data_type()).iter().skip(1).any(inside),
        other => fields_of(other).iter().any(inside),
    }
}

/// The rows of `array`, the values of `field`, that hold a null struct at any depth; `None`, when there is none.
pub(crate) fn null_structs(array: &ArrayRef, field: &Field) -> Option<BooleanArray> {
    let (strict, has_struct) = without_null_structs(field);
    let rows = has_struct.then(|| bad_values(array, &strict))?;
    rows.contains(&true).then(|| BooleanArray::from(rows))
}

/// `field`, where only structs forbid nulls, and whether there is a struct in it.
fn without_null_structs(field: &Field) -> (Field, bool) {
    let is_struct = matches!(field.data_type(), DataType::Struct(_));
    let mut has_struct = is_struct;
    let mut strict = |field: &FieldRef| {
        let (field, has) = without_null_structs(field);
        has_struct |= has;
        FieldRef::new(field)
    };
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(strict).collect()),
        DataType::List(item) => DataType::List(strict(item)),
        DataType::LargeList(item) => DataType::LargeList(strict(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(strict(item), *size),
        other => other.clone(),
    };
    (Field::new(field.name(), data_type, !is_struct), has_struct)
}

/// Whether `one` forbids a null somewhere inside where `other`, a type of the same shape, allows it.
pub(crate) fn loses_not_null(one: &DataType, other: &DataType) -> bool {
    let mut pairs = fields_of(one).iter().zip(fields_of(other));
    same_shape(one, other)
        && pairs.any(|(one, other)| {
            (!one.is_nullable() && other.is_nullable())
                || loses_not_null(one.data_type(), other.data_type())
        })
}

/// The rows of `array` that hold a null where `to`, a type of the same shape, allows none; `None`, when there is no
/// such row. Values inside a null do not count.
pub(crate) fn forbidden(array: &ArrayRef, to: &DataType) -> Option<BooleanArray> {
    if !forbids(to) {
        return None;
    }
    let rows = forbidden_rows(array, to);
    rows.contains(&true).then(|| BooleanArray::from(rows))
}

fn forbidden_rows(array: &ArrayRef, to: &DataType) -> Vec<bool> {
    let mut rows = vec![false; array.len()];
    if array.is_empty() || !same_shape(array.data_type(), to) || !forbids(to) {
        return rows;
    }
    let inside = Inside::of(array);
    let nulls = array.logical_nulls();
    for (child, field) in children_for(array, &inside, fields_of(to)) {
        let bad = bad_values(child, field);
        for (row, marked) in rows.iter_mut().enumerate() {
            let null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            *marked |= !null && any_of(&bad, inside.offsets.as_deref(), row);
        }
    }
    rows
}

/// The values of `child` that `field` does not allow.
fn bad_values(child: &ArrayRef, field: &Field) -> Vec<bool> {
    let mut bad = forbidden_rows(child, field.data_type());
    if !field.is_nullable()
        && let Some(nulls) = child.logical_nulls()
    {
        bad.iter_mut().enumerate().for_each(|(at, bad)| *bad |= nulls.is_null(at));
    }
    bad
}

/// Whether any value of `row` is marked.
fn any_of(marked: &[bool], offsets: Option<&[usize]>, row: usize) -> bool {
    let Some(offsets) = offsets else { return marked.get(row).copied().unwrap_or_default() };
    let ends = offsets.get(row).zip(offsets.get(row + 1));
    ends.and_then(|(from, to)| marked.get(*from..*to)).is_some_and(|own| own.contains(&true))
}

/// How many nulls `array` holds at each depth that it has in common with `other`: at the top, and then in each
/// child. Nulls inside a null do not count.
///
/// # Errors
/// `Failed`, when Arrow cannot leave the nulls out.
pub(crate) fn counts(array: &ArrayRef, other: &DataType) -> Result<Vec<u64>> {
    let nulls = array.logical_null_count();
    let mut all = vec![nulls as u64];
    if !same_shape(array.data_type(), other) {
        return Ok(all);
    }
    let doing = || "count nulls".to_owned();
    let there = if nulls == 0 {
        ArrayRef::clone(array)
    } else {
        filter(array, &is_not_null(array).doing(doing)?).doing(doing)?
    };
    let inside = Inside::of(&there);
    for (child, field) in children_for(&there, &inside, fields_of(other)) {
        all.extend(counts(child, field.data_type())?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;
    use arrow::datatypes::Schema;
    use arrow::json::ReaderBuilder;
    use std::sync::Arc;

    fn read(kind: &str, rows: &[&str]) -> ArrayRef {
        let lines: Vec<_> = rows.iter().map(|row| format!("{{\"v\": {row}}}\n")).collect();
        let lines = lines.concat();
        let field = Field::new("v", parse_type(kind).unwrap(), true);
        let reader = ReaderBuilder::new(Arc::new(Schema::new(vec![field])));
        let batch = reader.build(lines.as_bytes()).unwrap().next().unwrap().unwrap();
        Arc::clone(batch.column(0))
    }

    fn rows(array: &ArrayRef, to: &str) -> Vec<usize> {
        let found = forbidden(array, &parse_type(to).unwrap());
        found.map(|rows| rows.values().set_indices().collect()).unwrap_or_default()
    }

    #[test]
    fn nulls_are_found_where_none_may_be() {
        let lists = read("list<int64>", &["[1, null]", "[2]", "null", "[]", "[null]"]);
        assert_eq!(rows(&lists, "list<item: int64 not null>"), [0, 4]);
        assert_eq!(rows(&lists.slice(1, 3), "list<item: int64 not null>"), [0_usize; 0]);
        assert_eq!(rows(&lists.slice(3, 2), "large_list<item: int64 not null>"), [1]);
        assert_eq!(rows(&lists, "list<int64>"), [0_usize; 0]);
        let structs = read(
            "struct<a: list<struct<b: int8>>>",
            &["{\"a\": [{\"b\": 1}, null]}", "{\"a\": [{\"b\": null}]}", "{\"a\": null}", "null"],
        );
        let inner = "struct<a: list<item: struct<b: int8 not null>>>";
        assert_eq!(rows(&structs, inner), [1]);
        assert_eq!(rows(&structs, "struct<a: list<item: struct<b: int8> not null>>"), [0]);
        assert_eq!(rows(&structs, "struct<a: list<struct<b: int8>> not null>"), [2]);
        assert_eq!(rows(&structs.slice(1, 2), inner), [0]);
    }

    #[test]
    fn null_structs_are_found_at_each_depth() {
        let rows = |kind: &str, rows: &[&str]| -> Vec<usize> {
            let field = Field::new("v", parse_type(kind).unwrap(), true);
            let found = null_structs(&read(kind, rows), &field);
            found.map(|rows| rows.values().set_indices().collect()).unwrap_or_default()
        };
        let structs = ["{\"a\": {\"b\": null}}", "null", "{\"a\": null}"];
        assert_eq!(rows("struct<a: struct<b: int8>>", &structs), [1, 2]);
        assert_eq!(rows("list<struct<a: int8>>", &["[{}]", "null", "[{}, null]"]), [2]);
        assert_eq!(rows("list<int8>", &["[null]", "null"]), [0_usize; 0]);
    }

    #[test]
    fn nulls_are_counted_at_each_depth() {
        let lists = read("list<struct<a: int8>>", &["[{\"a\": null}, null]", "null", "[]", "[{}]"]);
        let same = lists.data_type().clone();
        assert_eq!(counts(&lists, &same).unwrap(), [1, 1, 2]);
        assert_eq!(counts(&lists.slice(1, 2), &same).unwrap(), [1, 0, 0]);
        assert_eq!(counts(&lists, &DataType::Utf8).unwrap(), [1]);
    }
}
