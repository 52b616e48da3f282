//! Finds the changes that turn one schema into another. A dropped column and a new one are never taken for a
//! rename: only the user can know. What no change can do is refused by name.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::discriminant;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::error::{Error, Result};
use crate::schema::change::{Add, Cast, Change};
use crate::schema::follow::DESCRIBES_COLUMNS;
use crate::schema::nulls::fields_of;
use crate::schema::path::part;

/// A schema to come to.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub schema: Schema,
    /// Whether it says what is special about a column, so that one of which it says nothing is plain.
    pub is_whole: bool,
    /// What new columns hold, by their paths, as literals in their types. Others are null.
    pub defaults: BTreeMap<String, String>,
}

impl Wanted {
    /// A schema that says what is special about its columns, and not what new ones hold.
    pub(crate) fn whole(schema: Schema) -> Self {
        Self { schema, is_whole: true, defaults: BTreeMap::new() }
    }
}

/// The changes from `source` to `target`. New columns hold their defaults, or are null in every row; they come last.
///
/// # Errors
/// `Refused`, when a new column without a default may not be null, since a schema does not say what it holds, and for what no
/// change does: another order of columns, other metadata, another meaning of the same bytes.
pub(crate) fn changes_between(source: &Schema, target: &Wanted) -> Result<Vec<Change>> {
    let own = target.schema.metadata.iter();
    let mut own = own.filter(|(key, _)| !DESCRIBES_COLUMNS.contains(&key.as_str()));
    if let Some((key, _)) = own.find(|(key, value)| source.metadata.get(*key) != Some(value)) {
        return Err(other_metadata("the schema", key));
    }
    compare("", source.fields(), target.schema.fields(), target)
}

fn other_metadata(what: &str, key: &str) -> Error {
    let message = format!("{what} asks for other metadata `{key}`, which relance does not change");
    Error::refused(message).with_advice("set it with LanceDB first, or leave it out of the schema")
}

fn compare(path: &str, source: &Fields, target: &Fields, all: &Wanted) -> Result<Vec<Change>> {
    let old: HashMap<&String, &Field> = source.iter().map(|old| (old.name(), &**old)).collect();
    let wanted: HashSet<&String> = target.iter().map(|field| field.name()).collect();
    let full = |name: &str| format!("{path}{}", part(name));
    let here = source.iter().map(|field| field.name()).filter(|name| wanted.contains(name));
    let there = target.iter().map(|field| field.name()).filter(|name| old.contains_key(name));
    if let Some((_, name)) = here.zip(there).find(|(here, there)| here != there) {
        let message = format!("column `{}` stands in another place in the schema", full(name));
        return Err(Error::refused(message)
            .with_advice("relance moves no columns: give them in the order that they have"));
    }
    let mut changes = Vec::new();
    for field in target {
        let name = full(field.name());
        match old.get(field.name()) {
            Some(old) => changes.extend(change_field(&name, old, field, all)?),
            None if !field.is_nullable() && !all.defaults.contains_key(&name) => {
                return Err(Error::refused(format!(
                    "column `{name}` is new and may not be null, and a schema does not tell its value"
                ))
                .with_advice(&format!("add it with --add '{name}:TYPE not null=LITERAL' instead")));
            }
            None => changes.push(new_column(name, field, &all.defaults)?),
        }
    }
    let gone = source.iter().filter(|old| !wanted.contains(old.name()));
    changes.extend(gone.map(|old| Change::Drop { name: full(old.name()) }));
    Ok(changes)
}

fn new_column(name: String, field: &Field, defaults: &BTreeMap<String, String>) -> Result<Change> {
    if is_blob(field) {
        return Err(Error::refused(format!("column `{name}` is new and a blob"))
            .with_advice("relance adds no blobs: add it with LanceDB"));
    }
    let (data_type, metadata) = (field.data_type().clone(), field.metadata().clone());
    let (metadata, nullable) = (metadata.into_iter().collect(), field.is_nullable());
    let default = defaults.get(&name).cloned();
    Ok(Change::Add(Add { name, data_type, nullable, default, metadata }))
}

/// Whether `field` is a blob, or has one in it.
fn is_blob(field: &Field) -> bool {
    let own = field.metadata().contains_key("lance-encoding:blob");
    own || field.extension_type_name() == Some("lance.blob.v2")
        || fields_of(field.data_type()).iter().any(|field| is_blob(field))
}

fn change_field(path: &str, old: &Field, new: &Field, all: &Wanted) -> Result<Vec<Change>> {
    expect_same_meaning(path, old, new, all.is_whole)?;
    let mut changes = Vec::new();
    if let (DataType::Struct(old), DataType::Struct(new)) = (old.data_type(), new.data_type()) {
        changes = compare(&format!("{path}."), old, new, all)?;
    } else {
        expect_same_inside(path, old.data_type(), new.data_type(), all.is_whole)?;
        if !same_type(old.data_type(), new.data_type()) {
            let (name, data_type) = (path.to_owned(), new.data_type().clone());
            changes.push(Change::Cast(Cast { name, data_type, from: None }));
        }
    }
    let name = path.to_owned();
    match (old.is_nullable(), new.is_nullable()) {
        (true, false) => changes.push(Change::NotNull { name }),
        (false, true) => changes.push(Change::Nullable { name }),
        _ => {}
    }
    Ok(changes)
}

/// Refuses other metadata, and another meaning of the same bytes. Metadata that only the table has stays.
fn expect_same_meaning(path: &str, old: &Field, new: &Field, is_whole: bool) -> Result<()> {
    let (is, asked) = (old.extension_type_name(), new.extension_type_name());
    if is != asked && (is_whole || asked.is_some()) {
        let plain = "a plain column";
        let (is, asked) = (is.unwrap_or(plain), asked.unwrap_or(plain));
        let message =
            format!("column `{path}` is {is} in the table and {asked} in the schema to come to");
        let advice = "relance does not turn one into the other: leave the column as it is";
        return Err(Error::refused(message).with_advice(advice));
    }
    let mut asked = new.metadata().iter();
    match asked.find(|(key, value)| old.metadata().get(*key) != Some(value)) {
        Some((key, _)) => Err(other_metadata(&format!("column `{path}`"), key)),
        None => Ok(()),
    }
}

/// As [`expect_same_meaning`], for what is in lists and maps. Lance keeps no metadata of the items of fixed-size lists.
fn expect_same_inside(path: &str, old: &DataType, new: &DataType, is_whole: bool) -> Result<()> {
    if discriminant(old) != discriminant(new) {
        return Ok(());
    }
    let mut pairs = fields_of(old).iter().zip(fields_of(new));
    pairs.try_for_each(|(old_field, new_field)| {
        let path = format!("{path}.{}", new_field.name());
        if !matches!(old, DataType::FixedSizeList(..)) || old_field.extension_type_name().is_some()
        {
            expect_same_meaning(&path, old_field, new_field, is_whole)?;
        }
        expect_same_inside(&path, old_field.data_type(), new_field.data_type(), is_whole)
    })
}

/// Whether both are stored alike. The names of a list's items and of a map's entries tell nothing, those of a
/// struct's fields do. Lance keeps no `not null` for the items of fixed-size lists.
fn same_type(one: &DataType, other: &DataType) -> bool {
    let nullable = |one: &Field, other: &Field| one.is_nullable() == other.is_nullable();
    let same = |one: &Field, other: &Field| same_type(one.data_type(), other.data_type());
    match (one, other) {
        (DataType::List(one), DataType::List(other))
        | (DataType::LargeList(one), DataType::LargeList(other)) => {
            nullable(one, other) && same(one, other)
        }
        (DataType::FixedSizeList(one, size), DataType::FixedSizeList(other, others)) => {
            size == others && same(one, other)
        }
        (DataType::Struct(one), DataType::Struct(other)) => {
            let pair = |(one, other): (&Arc<Field>, &Arc<Field>)| {
                one.name() == other.name() && nullable(one, other) && same(one, other)
            };
            one.len() == other.len() && one.iter().zip(other).all(pair)
        }
        (DataType::Map(one, _), DataType::Map(other, _)) => {
            let mut pairs = fields_of(one.data_type()).iter().zip(fields_of(other.data_type()));
            pairs.all(|(one, other)| nullable(one, other) && same(one, other))
        }
        _ => one == other,
    }
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
        let whole = Wanted::whole;
        let changes = changes_between(&source, &whole(target.clone())).unwrap();
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
        assert!(changes_between(&target, &whole(target.clone())).unwrap().is_empty());
        let strict = whole(schema(&[("k", "int8", false)]));
        let error = changes_between(&source, &strict).unwrap_err();
        assert!(error.to_string().contains("--add"));
        let defaults = BTreeMap::from([("k".to_owned(), "7".to_owned())]);
        let changes = changes_between(&source, &Wanted { defaults, ..strict }).unwrap();
        assert_eq!(changes[0].text(), "add k:int8 not null=7");
    }

    #[test]
    fn different_things_are_never_called_equal() {
        let with = |name: &str, kind: &str, pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let field = Field::new(name, parse_type(kind).unwrap(), true);
            Schema::new(vec![field.with_metadata(pairs.collect())])
        };
        let ask = |source: &Schema, schema: Schema, is_whole: bool| {
            changes_between(source, &Wanted { is_whole, ..Wanted::whole(schema) })
        };
        let says = |source: &Schema, schema: Schema, word: &str| {
            let text = ask(source, schema, true).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        };
        let json = [("ARROW:extension:name", "lance.json")];
        let (plain, doc) = (with("a", "large_binary", &[]), with("a", "large_binary", &json));
        says(&plain, doc.clone(), "lance.json");
        says(&doc, plain.clone(), "a plain column");
        assert!(ask(&doc, plain.clone(), false).unwrap().is_empty(), "nothing is said of it");
        says(&plain, with("a", "large_binary", &[("unit", "m")]), "`unit`");
        let marked = with("a", "large_binary", &[("unit", "m")]);
        assert!(ask(&marked, plain.clone(), true).unwrap().is_empty(), "what is there stays");
        let owned = Schema::new_with_metadata(
            plain.fields().clone(),
            HashMap::from([("owner".to_owned(), "me".to_owned())]),
        );
        says(&plain, owned, "`owner`");
        let places = |inner: &str| with("p", &format!("list<item: struct<{inner}>>"), &[]);
        let swapped =
            ask(&places("lat: double, lon: double"), places("lon: double, lat: double"), true);
        assert_eq!(swapped.unwrap().len(), 1, "a cast, which goes by name or not at all");
        let (ab, ba) = (["a", "b"], ["b", "a"]);
        let ordered = |names: [&str; 2]| schema(&names.map(|name| (name, "int8", true)));
        says(&ordered(ab), ordered(ba), "another place");
        let new = ask(&plain, with("b", "large_binary", &json), true).unwrap();
        assert!(matches!(&new[0], Change::Add(add) if add.metadata.len() == 1));
        let blob = with("b", "large_binary", &[("lance-encoding:blob", "true")]);
        says(&plain, blob, "a blob");
        let many: Vec<_> =
            (0..200_000).map(|at| Field::new(format!("c{at}"), DataType::Int8, true)).collect();
        assert_eq!(ask(&plain, Schema::new(many.clone()), true).unwrap().len(), 200_001);
        assert!(ask(&Schema::new(many.clone()), Schema::new(many), true).unwrap().is_empty());
    }
}
