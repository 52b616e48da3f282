//! Finds the changes that turn one schema into another. A dropped column and a new one are never taken for a
//! rename: only the user can know.

use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::error::{Error, Result};
use crate::schema::change::{Add, Cast, Change};

/// The changes from `source` to `target`. New columns are null in every row.
///
/// # Errors
/// `Refused`, when a new column may not be null: a schema does not say what it holds.
pub(crate) fn changes_between(source: &Schema, target: &Schema) -> Result<Vec<Change>> {
    compare("", source.fields(), target.fields())
}

fn compare(path: &str, source: &Fields, target: &Fields) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let full = |field: &Field| format!("{path}{}", field.name());
    for field in target {
        match source.find(field.name()) {
            Some((_, old)) => changes.extend(change_field(&full(field), old, field)?),
            None if !field.is_nullable() => {
                let name = full(field);
                return Err(Error::refused(format!(
                    "column `{name}` is new and may not be null, and a schema does not tell its value"
                ))
                .with_advice(&format!("add it with --add '{name}:TYPE not null=LITERAL' instead")));
            }
            None => changes.push(Change::Add(Add {
                name: full(field),
                data_type: field.data_type().clone(),
                nullable: true,
                default: None,
            })),
        }
    }
    let gone = source.iter().filter(|old| target.find(old.name()).is_none());
    changes.extend(gone.map(|old| Change::Drop { name: full(old) }));
    Ok(changes)
}

fn change_field(path: &str, old: &Field, new: &Field) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    if let (DataType::Struct(old), DataType::Struct(new)) = (old.data_type(), new.data_type()) {
        changes = compare(&format!("{path}."), old, new)?;
    } else if !old.data_type().equals_datatype(new.data_type()) {
        changes.push(Change::Cast(Cast {
            name: path.to_owned(),
            data_type: new.data_type().clone(),
            from: None,
        }));
    }
    let name = path.to_owned();
    match (old.is_nullable(), new.is_nullable()) {
        (true, false) => changes.push(Change::NotNull { name }),
        (false, true) => changes.push(Change::Nullable { name }),
        _ => {}
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::parse_type;

    fn schema(fields: &[(&str, &str, bool)]) -> Schema {
        let field = |(name, kind, null): &(&str, &str, bool)| {
            Field::new(*name, parse_type(kind).unwrap(), *null)
        };
        Schema::new(fields.iter().map(field).collect::<Vec<_>>())
    }

    #[test]
    fn every_difference_is_one_change() {
        let source = schema(&[
            ("a", "int32", true),
            ("b", "string", false),
            ("c", "struct<x: int32, y: string>", true),
            ("gone", "bool", true),
        ]);
        let target = schema(&[
            ("a", "int64", false),
            ("b", "string", true),
            ("c", "struct<x: int64, z: string>", true),
            ("new", "bool", true),
        ]);
        let changes = changes_between(&source, &target).unwrap();
        let texts: Vec<_> = changes.iter().map(Change::text).collect();
        assert_eq!(
            texts,
            [
                "cast a:int64",
                "not-null a",
                "nullable b",
                "cast c.x:int64",
                "add c.z:string",
                "drop c.y",
                "add new:bool",
                "drop gone"
            ]
        );
        assert!(changes_between(&target, &target).unwrap().is_empty());
        let strict = schema(&[("k", "int8", false)]);
        assert!(changes_between(&source, &strict).unwrap_err().to_string().contains("--add"));
    }
}
