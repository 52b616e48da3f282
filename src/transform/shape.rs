//! Arrays in another shape: some children left out, others renamed, the values unchanged.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayDataBuilder, ArrayRef, AsArray, FixedSizeListArray, GenericListArray,
    OffsetSizeTrait, StructArray, make_array, new_null_array,
};
use arrow::compute::{is_null, nullif};
use arrow::datatypes::{DataType, Field as ArrowField, FieldRef};
use arrow::error::ArrowError;
use lance_core::datatypes::Field;

use crate::error::{Doing, Result};

/// The values of `array`, a column of the field `from`, as a column of the field `to`, whose children are some of
/// `from`'s, found by id.
///
/// # Errors
/// `Failed`, when `array` is not of the field.
pub(crate) fn select(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef> {
    if to.is_blob_v2() {
        // It is in the form that the pipeline carries.
        return Ok(Arc::clone(array));
    }
    let selected = if same_children(from, to) { Arc::clone(array) } else { pick(array, from, to)? };
    let selected = if to.is_packed_struct() { packable(&selected)? } else { selected };
    // Blobs inside it are descriptors.
    let mut stored = to.clone();
    stored.unload_blobs_recursive();
    retype(&selected, &stored.data_type())
}

/// `array` without the nulls that its children have only where the struct is null: Lance's writer of packed structs
/// accepts nulls of the struct, and none of its children (lance-encoding 14 `src/encodings/logical/primitive.rs`).
fn packable(array: &ArrayRef) -> Result<ArrayRef> {
    let Some(structs) = array.as_struct_opt().filter(|structs| structs.null_count() > 0) else {
        return Ok(Arc::clone(array));
    };
    let own = structs.nulls();
    let children = structs.columns().iter().map(|child| {
        let nulls = child.nulls();
        let is_own = own.zip(nulls).is_some_and(|(own, nulls)| own.contains(nulls));
        if is_own { without_nulls(child) } else { Ok(Arc::clone(child)) }
    });
    let children = children.collect::<Result<Vec<_>>>()?;
    let packed = StructArray::try_new(structs.fields().clone(), children, own.cloned());
    Ok(Arc::new(packed.doing(|| "pack structs".to_owned())?))
}

fn same_children(from: &Field, to: &Field) -> bool {
    let mut pairs = from.children.iter().zip(&to.children);
    from.children.len() == to.children.len()
        && pairs.all(|(from, to)| from.id == to.id && same_children(from, to))
}

fn pick(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef> {
    let doing = || format!("leave out children of `{}`", to.name);
    match (array.data_type(), from.children.first().zip(to.children.first())) {
        (DataType::Struct(_), _) => {
            let structs = array.as_struct();
            let (mut fields, mut columns) = (Vec::new(), Vec::new());
            for child in &to.children {
                let place = from.children.iter().position(|old| old.id == child.id);
                let place = place.and_then(|place| {
                    Some((from.children.get(place)?, structs.columns().get(place)?))
                });
                let Some((old, column)) = place else { continue };
                let column = select(column, old, child)?;
                fields.push(field_of(child, &column));
                columns.push(column);
            }
            let nulls = structs.nulls().cloned();
            let structs =
                StructArray::try_new_with_length(fields.into(), columns, nulls, array.len());
            Ok(Arc::new(structs.doing(doing)?))
        }
        (DataType::List(_), Some(items)) => pick_items::<i32>(array, items, doing),
        (DataType::LargeList(_), Some(items)) => pick_items::<i64>(array, items, doing),
        (DataType::FixedSizeList(_, size), Some((old, new))) => {
            let list = array.as_fixed_size_list();
            let items = select(list.values(), old, new)?;
            let (field, nulls) = (field_of(new, &items), list.nulls().cloned());
            let list = FixedSizeListArray::try_new(field, *size, items, nulls);
            Ok(Arc::new(list.doing(doing)?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

fn pick_items<O: OffsetSizeTrait>(
    array: &ArrayRef,
    (old, new): (&Field, &Field),
    doing: impl FnOnce() -> String,
) -> Result<ArrayRef> {
    let list = array.as_list::<O>();
    let items = select(list.values(), old, new)?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    let list = GenericListArray::<O>::try_new(field_of(new, &items), offsets, items, nulls);
    Ok(Arc::new(list.doing(doing)?))
}

/// `field`, of the type that its `values` have.
fn field_of(field: &Field, values: &ArrayRef) -> FieldRef {
    Arc::new(ArrowField::new(&field.name, values.data_type().clone(), field.nullable))
}

/// `array` as `to`, a type that differs only in the names, the nullability and the metadata of what is inside.
///
/// # Errors
/// `Failed`, when the types differ in more, or a null lies where `to` allows none.
pub(crate) fn retype(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    Ok(make_array(retype_data(array.to_data(), to)?))
}

fn retype_data(data: ArrayData, to: &DataType) -> Result<ArrayData> {
    if data.data_type() == to {
        return Ok(data);
    }
    let inner: Vec<&DataType> = match to {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field.data_type()],
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::Dictionary(_, values) => vec![values],
        _ => Vec::new(),
    };
    let children = data.child_data().iter().zip(inner);
    let children = children.map(|(child, to)| retype_data(child.clone(), to));
    let children = children.collect::<Result<Vec<_>>>()?;
    let from = data.data_type().clone();
    let retyped = data.into_builder().data_type(to.clone()).child_data(children).build();
    retyped.doing(|| format!("turn {from} into {to}"))
}

/// `array` with the nulls of each struct in its children too: an expression that names a child sees only the
/// child's own nulls.
///
/// # Errors
/// `Failed`, when it cannot be built.
pub(crate) fn with_nulls_inside(array: &ArrayRef) -> Result<ArrayRef> {
    let Some(structs) = array.as_struct_opt() else { return Ok(Arc::clone(array)) };
    let doing = || "look for null structs".to_owned();
    let nulls = is_null(array).doing(doing)?;
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in structs.fields().iter().zip(structs.columns()) {
        let column = nullif(column, &nulls).doing(doing)?;
        columns.push(with_nulls_inside(&column)?);
        fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
    }
    let nulls = structs.nulls().cloned();
    let structs = StructArray::try_new_with_length(fields.into(), columns, nulls, array.len());
    Ok(Arc::new(structs.doing(doing)?))
}

/// `array` without its nulls, with whatever values lie under them. For rows that nobody can see.
///
/// # Errors
/// `Failed`, when it cannot be built.
pub(crate) fn without_nulls(array: &ArrayRef) -> Result<ArrayRef> {
    let doing = || "fill deleted rows".to_owned();
    if array.null_count() == 0 {
        return Ok(Arc::clone(array));
    }
    let mut data = array.to_data();
    // The keys under nulls point at a first value, which a dictionary of nulls alone does not have.
    if let DataType::Dictionary(_, values) = array.data_type()
        && data.child_data().iter().all(ArrayData::is_empty)
    {
        let first = without_nulls(&new_null_array(values, 1))?.to_data();
        data = data.into_builder().child_data(vec![first]).build().doing(doing)?;
    }
    let filled = without_nulls_inside(data).and_then(|data| data.nulls(None).build());
    Ok(make_array(filled.doing(doing)?))
}

/// `data` without the nulls in those of its children that may have none: the nulls around them hid these.
fn without_nulls_inside(data: ArrayData) -> std::result::Result<ArrayDataBuilder, ArrowError> {
    let fields: Vec<FieldRef> = match data.data_type() {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            vec![Arc::clone(field)]
        }
        DataType::Struct(fields) => fields.iter().map(Arc::clone).collect(),
        _ => Vec::new(),
    };
    let children = data.child_data().iter().enumerate().map(|(at, child)| match fields.get(at) {
        Some(field) if field.is_nullable() => without_nulls_inside(child.clone())?.build(),
        Some(_) => without_nulls_inside(child.clone())?.nulls(None).build(),
        None => Ok(child.clone()),
    });
    let children = children.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(data.into_builder().child_data(children))
}
