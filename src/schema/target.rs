//! What the changes make of a table's schema: the target, and where each of its columns comes from.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field as ArrowField};
use chrono::{DateTime, Utc};
use lance_core::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::schema::change::{Add, Change};
use crate::schema::literal::{null_literal, parse_literal, settle_now};
use crate::schema::show::type_text;

/// Schema metadata in which LanceDB keeps one definition a field, by position
/// (lancedb 0.41 `src/materialized_view.rs`).
const COLUMN_DEFINITIONS: &str = "lancedb::column_definitions";

/// What to do about an added column that the table has already, with the same type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfExists {
    /// Leave the column alone, and say so.
    #[default]
    Skip,
    /// Refuse the migration.
    Error,
}

/// Where a column of the target comes from.
#[derive(Debug, Clone)]
pub enum Column {
    /// The source column of this name, unchanged.
    Keep(String),
    /// One value (an array of length one) in every row.
    Constant(ArrayRef),
}

/// What the changes make of a schema.
#[derive(Debug, Clone)]
pub struct Target {
    /// The schema after the swap; fields that were there keep their ids and metadata.
    pub schema: Schema,
    /// Where each top-level column comes from, in the schema's order.
    pub columns: Vec<Column>,
    /// The changes that are carried out, `now` spelled out.
    pub changes: Vec<Change>,
    /// Added columns that were there already, and are left alone.
    pub skipped: Vec<String>,
}

impl Target {
    /// Applies `changes`, in order, to `source`. `field_id_max` is the highest field id that the table
    /// ever used; new fields come after it.
    ///
    /// # Errors
    /// `Usage` for an empty list, a name given twice, a literal that does not fit; `Refused` for a column
    /// that is there with another type, or at all under [`IfExists::Error`].
    pub fn derive(
        source: &Schema,
        field_id_max: i32,
        changes: &[Change],
        if_exists: IfExists,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        if changes.is_empty() {
            return Err(Error::usage("no change was asked for; try --add 'NAME:TYPE=LITERAL'"));
        }
        refuse_twice(changes)?;
        let mut target = Self {
            schema: source.clone(),
            columns: source.fields.iter().map(|f| Column::Keep(f.name.clone())).collect(),
            changes: Vec::new(),
            skipped: Vec::new(),
        };
        for change in changes {
            match change {
                Change::Add(add) => target.add(source, add, if_exists, now)?,
                Change::Drop { name } => target.remove(name)?,
            }
        }
        let ids = target.schema.try_set_field_id(Some(field_id_max));
        ids.map_err(|error| Error::refused("the table's field ids are used up").caused_by(error))?;
        target.follow_column_definitions(source);
        Ok(target)
    }

    /// Whether the table is as asked already.
    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty()
    }

    fn add(
        &mut self,
        source: &Schema,
        add: &Add,
        if_exists: IfExists,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let value = match &add.default {
            Some(text) => parse_literal(text, &add.data_type, now)
                .map_err(|error| Error::usage(format!("column `{}`: {error}", add.name)))?,
            None => null_literal(&add.data_type),
        };
        let field = ArrowField::new(&add.name, add.data_type.clone(), add.nullable);
        let stored = stored_type(&field)?;
        if let Some(existing) = source.field_case_insensitive(&add.name) {
            refuse_different(&existing.name, &existing.data_type(), add, &stored, if_exists)?;
            self.skipped.push(add.name.clone());
            return Ok(());
        }
        self.schema.extend(&[field]).map_err(|error| bad_column(&add.name, error))?;
        self.columns.push(Column::Constant(value));
        let default = add.default.as_ref();
        self.changes.push(Change::Add(Add {
            default: default.map(|text| settle_now(text, &add.data_type, now)),
            ..add.clone()
        }));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        let place = self.schema.fields.iter().position(|field| field.name == name);
        let Some(place) = place else {
            return Err(Error::refused(format!("there is no column `{name}` to drop")));
        };
        if self.columns.len() == 1 {
            return Err(Error::refused(format!("column `{name}` is the only one")));
        }
        self.schema.fields.remove(place);
        self.columns.remove(place);
        self.changes.push(Change::Drop { name: name.to_owned() });
        Ok(())
    }

    /// LanceDB keeps a definition for each field, by position; a new field is a physical one.
    fn follow_column_definitions(&mut self, source: &Schema) {
        let Some(text) = source.metadata.get(COLUMN_DEFINITIONS) else {
            return;
        };
        let Ok(definitions) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
            return;
        };
        let definition = |column: &Column| {
            let name = match column {
                Column::Keep(name) => Some(name),
                Column::Constant(_) => None,
            };
            let place = source.fields.iter().position(|field| Some(&field.name) == name);
            let known = place.and_then(|place| definitions.get(place)).cloned();
            known.unwrap_or_else(|| serde_json::json!({ "kind": "Physical" }))
        };
        let text = serde_json::Value::Array(self.columns.iter().map(definition).collect());
        self.schema.metadata.insert(COLUMN_DEFINITIONS.to_owned(), text.to_string());
    }
}

/// The type that Lance gives back for `field`; some inner names and flags are not kept.
fn stored_type(field: &ArrowField) -> Result<DataType> {
    let stored = lance_core::datatypes::Field::try_from(field);
    let stored = stored.map_err(|error| bad_column(field.name(), error))?;
    Ok(stored.data_type())
}

fn bad_column(name: &str, error: lance_core::Error) -> Error {
    Error::usage(format!("column `{name}` has a type that Lance does not store")).caused_by(error)
}

fn refuse_twice(changes: &[Change]) -> Result<()> {
    for (position, change) in changes.iter().enumerate() {
        let name = change.column();
        let same = |other: &Change| other.column().eq_ignore_ascii_case(name);
        if changes.iter().take(position).any(same) {
            return Err(Error::usage(format!("column `{name}` is added twice")));
        }
        if name.contains('.') {
            let message = format!("column `{name}`: a top-level column's name has no dot");
            return Err(Error::usage(message));
        }
        if lance_core::is_system_column(name) {
            return Err(Error::usage(format!("column `{name}`: Lance reserves this name")));
        }
    }
    Ok(())
}

fn refuse_different(
    existing: &str,
    existing_type: &DataType,
    add: &Add,
    stored: &DataType,
    if_exists: IfExists,
) -> Result<()> {
    if existing != add.name {
        let message = format!(
            "column `{}` differs from the existing `{existing}` only in case, which LanceDB's \
             queries do not tell apart",
            add.name
        );
        return Err(Error::refused(message));
    }
    if existing_type != stored {
        return Err(Error::refused(format!(
            "column `{existing}` exists with another type: it is {}, not {}",
            type_text(existing_type),
            type_text(stored)
        )));
    }
    match if_exists {
        IfExists::Skip => Ok(()),
        IfExists::Error => {
            let message = format!("column `{existing}` exists already");
            Err(Error::refused(message).with_advice("--if-exists skip leaves it alone"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::collections::HashMap;

    fn source() -> Schema {
        let vector = DataType::new_fixed_size_list(DataType::Float32, 8, true);
        let fields = vec![
            ArrowField::new("text", DataType::Utf8, true),
            ArrowField::new("vector", vector, true),
        ];
        let definitions = r#"[{"kind":"Physical"},{"kind":{"Embedding":{"name":"e"}}}]"#;
        let metadata = HashMap::from([
            (COLUMN_DEFINITIONS.to_owned(), definitions.to_owned()),
            ("owner".to_owned(), "me".to_owned()),
        ]);
        let arrow = arrow::datatypes::Schema::new_with_metadata(fields, metadata);
        Schema::try_from(&arrow).unwrap()
    }

    fn adds(texts: &[&str]) -> Vec<Change> {
        let add = |text: &&str| Change::parse_add(text).unwrap();
        texts.iter().map(add).collect()
    }

    fn apply(texts: &[&str], if_exists: IfExists) -> Result<Target> {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        Target::derive(&source(), 41, &adds(texts), if_exists, now)
    }

    #[test]
    fn added_columns_come_last_in_the_order_given_with_new_ids() {
        let target = apply(&["b:int8=1", "a:string not null=x"], IfExists::Skip).unwrap();
        let fields = &target.schema.fields;
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["text", "vector", "b", "a"]);
        let ids: Vec<_> = fields.iter().map(|field| field.id).collect();
        assert_eq!(ids, [0, 1, 42, 43]);
        assert!(fields[2].nullable && !fields[3].nullable);
        assert_eq!(target.schema.metadata["owner"], "me");
    }

    #[test]
    fn column_definitions_grow_with_the_schema() {
        let target = apply(&["b:int8=1"], IfExists::Skip).unwrap();
        let text = &target.schema.metadata[COLUMN_DEFINITIONS];
        let definitions: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(definitions.len(), 3);
        assert_eq!(definitions[1]["kind"]["Embedding"]["name"], "e");
        assert_eq!(definitions[2]["kind"], "Physical");
    }

    #[test]
    fn a_column_that_is_there_is_skipped_or_refused() {
        let target = apply(&["text:string=x", "n:int8=1"], IfExists::Skip).unwrap();
        assert_eq!(target.skipped, ["text"]);
        assert_eq!(target.columns.len(), 3);
        let all_there = apply(&["text:string=x"], IfExists::Skip).unwrap();
        assert!(all_there.is_unchanged());
        let refused = |texts: &[&str], if_exists| apply(texts, if_exists).unwrap_err();
        let exists = refused(&["text:string=x"], IfExists::Error);
        assert_eq!(exists.kind(), Kind::Refused);
        let other = refused(&["text:int8=1"], IfExists::Skip);
        assert_eq!(other.kind(), Kind::Refused);
        assert!(other.to_string().contains("it is string, not int8"));
        let case = refused(&["Text:string=x"], IfExists::Skip);
        assert_eq!(case.kind(), Kind::Refused);
    }

    #[test]
    fn bad_requests_are_usage_errors() {
        for texts in [
            &[][..],
            &["a:int8=1", "a:int8=1"],
            &["a:int8=1", "A:int8=1"],
            &["a:int8=300"],
            &["a.b:int8=1"],
            &["_rowid:int8=1"],
            &["a:month_day_nano_interval"],
        ] {
            let error = apply(texts, IfExists::Skip).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{texts:?}");
        }
    }

    #[test]
    fn now_is_spelled_out_in_the_changes() {
        let target = apply(&["t:timestamp[us]=now"], IfExists::Skip).unwrap();
        assert_eq!(target.changes[0].text(), "add t:timestamp[us]=1970-01-01T00:00:00.000000");
    }
}
