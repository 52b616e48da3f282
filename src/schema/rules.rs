//! Rules for one field: its type, what it can be cast to, and its name.

use std::collections::{HashMap, HashSet};

use arrow::datatypes::{DataType, Field as ArrowField};
use lance_core::datatypes::Field;

use crate::error::{Error, Result};
use crate::schema::cast::castable::is_castable;
use crate::schema::change::{CHANGES_MAX, Change};
use crate::schema::nulls::loses_not_null;
use crate::schema::path::split_last;
use crate::schema::show::type_text;

/// The most bytes of one value of a new column, and of a literal: values are held in memory a few rows at a time.
pub(super) const VALUE_BYTES_MAX: u64 = 16 << 20;

/// Refuses a type each of whose values takes more than [`VALUE_BYTES_MAX`], before one of them is made.
pub(super) fn expect_bounded(data_type: &DataType, path: &str) -> Result<()> {
    let bytes = fixed_bytes(data_type);
    if bytes <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let text = type_text(data_type);
    Err(Error::usage(format!("column `{path}`: one value of {text} takes {bytes} bytes"))
        .with_advice(&format!("{VALUE_BYTES_MAX} at most")))
}

/// Bytes that any value of `data_type` takes, null or not.
#[allow(clippy::wildcard_enum_match_arm, reason = "the types that hold others in place")]
fn fixed_bytes(data_type: &DataType) -> u64 {
    let size = |size: i32| u64::try_from(size).unwrap_or_default();
    match data_type {
        DataType::FixedSizeBinary(bytes) => size(*bytes),
        // Its items' validity is there even where they have no bytes.
        DataType::FixedSizeList(item, items) => {
            size(*items).saturating_mul(fixed_bytes(item.data_type()).max(1))
        }
        DataType::Struct(fields) => fields
            .iter()
            .fold(0, |sum: u64, field| sum.saturating_add(fixed_bytes(field.data_type()))),
        other => other.primitive_width().unwrap_or_default() as u64,
    }
}

/// Whether files of one field can be read as the other: ids, names, types and nullability are the same at every
/// depth.
pub(crate) fn same_field(one: &Field, other: &Field) -> bool {
    one.id == other.id
        && one.name == other.name
        && one.logical_type == other.logical_type
        && one.nullable == other.nullable
        && one.children.len() == other.children.len()
        && one.children.iter().zip(&other.children).all(|(one, other)| same_field(one, other))
}

/// The error of a field without its column, or the other way round.
pub(super) fn lost_column() -> Error {
    Error::failed("a column was lost while planning; this is a bug in relance")
}

/// `field` as Lance stores it, which does not keep some names and flags inside it.
pub(super) fn as_stored(field: &ArrowField, path: &str) -> Result<Field> {
    Field::try_from(field).map_err(|error| {
        Error::usage(format!("column `{path}` has a type that Lance does not store"))
            .caused_by(error)
    })
}

/// Refuses a type that forbids nulls where the type that is `stored` for it allows them: Lance keeps no `not null`
/// for the items of fixed-size lists (lance-core 14 `src/datatypes.rs`).
pub(super) fn expect_nulls_kept(asked: &DataType, stored: &DataType, path: &str) -> Result<()> {
    if !loses_not_null(asked, stored) {
        return Ok(());
    }
    let text = type_text(stored);
    Err(Error::refused(format!(
        "column `{path}`: Lance keeps no `not null` for the items of a fixed-size list"
    ))
    .with_advice(&format!("ask for {text}")))
}

/// Gives `field` the id `next_id`, and its children those after it; returns the id after all of these.
pub(super) fn renumber(field: &mut Field, parent: i32, next_id: i64) -> Result<i64> {
    field.parent_id = parent;
    field.id = i32::try_from(next_id)
        .map_err(|error| Error::refused("the table's field ids are used up").caused_by(error))?;
    let own = field.id;
    field.children.iter_mut().try_fold(next_id + 1, |next_id, child| renumber(child, own, next_id))
}

/// The metadata that a column keeps when its values are cast: all but how they are encoded, which depends on the
/// type.
pub(super) fn kept_metadata(field: &Field) -> HashMap<String, String> {
    let metadata = field.metadata.iter();
    let kept = metadata.filter(|(key, _)| !key.starts_with("lance-encoding:"));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Refuses to change values of an extension type: they mean more than their bytes say.
pub(super) fn refuse_extension(field: &Field, path: &str, verb: &str) -> Result<()> {
    let what = if field.is_blob() { Some("a blob") } else { field.extension_name() };
    match what {
        None => Ok(()),
        Some(what) => Err(Error::refused(format!(
            "column `{path}` is {what}: relance does not {verb} it, it would lose what it means"
        ))),
    }
}

/// As [`refuse_extension`], for all fields inside `field` too.
pub(super) fn refuse_extension_inside(field: &Field, path: &str, verb: &str) -> Result<()> {
    refuse_extension(field, path, verb)?;
    let mut children = field.children.iter();
    children.try_for_each(|child| {
        refuse_extension_inside(child, &format!("{path}.{}", child.name), verb)
    })
}

/// The error of a computed column that exists already with values that cannot be compared.
pub(super) fn not_comparable(name: &str, why: &str) -> Error {
    Error::refused(format!("column `{name}` exists already, and {why}")).with_advice(&format!(
        "leave --compute out to keep what is there; --set '{name}=SQL' changes the values of a column that exists"
    ))
}

pub(super) fn expect_castable(path: &str, from: &DataType, to: &DataType) -> Result<()> {
    if from == to || is_castable(from, to) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "column `{path}`: there is no way from {} to {}",
        type_text(from),
        type_text(to)
    )))
}

/// Refuses `name` for a new column, which is a field of a struct if `path` has an outer part.
pub(super) fn expect_name(name: &str, path: &str) -> Result<()> {
    let bad = if name.is_empty() {
        Some("a column needs a name")
    } else if name.contains('`') || name.contains('.') && split_last(path).0.is_none() {
        Some("a new name has no dot and no backtick, which LanceDB's queries do not take")
    } else if lance_core::is_system_column(name) {
        Some("Lance reserves this name")
    } else {
        None
    };
    bad.map_or(Ok(()), |bad| Err(Error::usage(format!("column `{path}`: {bad}"))))
}

/// Refuses to add one column twice, and more than [`CHANGES_MAX`] changes.
pub(super) fn refuse_twice(changes: &[Change]) -> Result<()> {
    if changes.len() > CHANGES_MAX {
        let message = format!("{} changes are asked for", changes.len());
        return Err(Error::usage(message).with_advice(&format!("{CHANGES_MAX} at most")));
    }
    let mut added: HashSet<String> = HashSet::new();
    for change in changes {
        let name = change.column();
        match change {
            Change::Add(_) | Change::Compute(_) | Change::Produce(_) | Change::Join(_) => {
                for name in change.columns_added().unwrap_or_default() {
                    // A join takes over what is there.
                    let new = added.insert(name.to_ascii_lowercase());
                    if !new && !matches!(change, Change::Join(_)) {
                        return Err(Error::usage(format!("column `{name}` is added twice")));
                    }
                }
            }
            Change::Drop { .. } | Change::Rename { .. } => {
                added.remove(&name.to_ascii_lowercase());
            }
            Change::Cast(_)
            | Change::Set { .. }
            | Change::Fill { .. }
            | Change::Nullable { .. }
            | Change::NotNull { .. } => {}
        }
    }
    Ok(())
}
