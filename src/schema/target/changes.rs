//! Applies changes to a schema, one after the other.

use chrono::{DateTime, Utc};
use lance_core::datatypes::Schema;

use crate::error::Result;
use crate::schema::change::Change;
use crate::schema::column::Column;
use crate::schema::elsewhere::BY_VERSION;
use crate::schema::follow::{Renamed, followed, lost_functions, with_functions};
use crate::schema::rules::{refuse_twice, renumber};
use crate::schema::target::draft::Draft;
use crate::schema::target::{IfExists, Target};

impl Target {
    /// Applies `changes`, in order, to `source`. `field_id_max` is the highest field id that the table
    /// ever used; new fields come after it.
    ///
    /// # Errors
    /// `Usage` for a malformed change, a literal or an expression that does not fit; `Refused` for what
    /// this schema does not allow.
    pub fn derive(
        source: &Schema,
        field_id_max: i32,
        changes: &[Change],
        if_exists: IfExists,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        refuse_twice(changes)?;
        let mut draft = Draft {
            source,
            fields: source.fields.clone(),
            columns: source.fields.iter().map(Column::keep).collect(),
            next_id: field_id_max + 1,
            now,
            changes: Vec::new(),
            skipped: Vec::new(),
            existing: Vec::new(),
            elsewhere: Vec::new(),
            replaced: Vec::new(),
            kept_beside: Vec::new(),
        };
        for change in changes {
            draft.apply(change, if_exists)?;
        }
        draft.finish(field_id_max)
    }
}

impl Draft<'_> {
    /// Applies one change.
    fn apply(&mut self, change: &Change, if_exists: IfExists) -> Result<()> {
        match change {
            Change::Add(add) => self.add(add, if_exists),
            Change::Compute(compute) => self.compute(compute, if_exists),
            Change::Cast(cast) => self.cast(cast),
            Change::Set { name, sql } => self.set(name, sql),
            Change::Fill { name, value } => self.fill(name, value),
            Change::Rename { name, to } => self.rename(name, to, if_exists),
            Change::Drop { name } => self.remove(name),
            Change::Nullable { name } => self.nullable(name),
            Change::NotNull { name } => self.not_null(name),
            Change::Produce(produce) => self.produce(produce),
            Change::Join(join) => self.join(join),
        }
    }

    /// The target, with the ids that its fields will have.
    fn finish(mut self, field_id_max: i32) -> Result<Target> {
        for (column, field) in self.columns.iter_mut().zip(&self.fields) {
            column.settle(field);
        }
        for (column, field) in self.columns.iter().zip(&mut self.fields) {
            // Its values are others than those that were computed then.
            if !column.is_kept() && !self.replaced.contains(&field.name) {
                field.metadata.remove(BY_VERSION);
            }
        }
        let after = self.schema();
        let mut schema = after.clone();
        let mut next_id = i64::from(field_id_max) + 1;
        for (field, column) in schema.fields.iter_mut().zip(&self.columns) {
            if !column.is_kept() {
                next_id = renumber(field, -1, next_id)?;
            }
        }
        let was = self.columns.iter().zip(&after.fields).map(|(column, field)| {
            if let Column::Keep { name, .. } = column {
                return Some(name.clone());
            }
            // What is said of its values holds no more.
            if self.replaced.contains(&field.name) {
                return None;
            }
            self.source.fields.iter().find(|old| old.id == field.id).map(|old| old.name.clone())
        });
        let renamed = Renamed { source: self.source, target: &after, was: was.collect() };
        let mut followed = followed(&renamed);
        followed.extend(with_functions(&followed, &renamed, &self.changes));
        schema.metadata.extend(followed);
        let lost = lost_functions(&renamed)
            .into_iter()
            .map(|name| format!("the embedding function on `{name}` goes with the column"));
        let lost = lost.collect();
        Ok(Target {
            schema,
            columns: self.columns,
            changes: self.changes,
            skipped: self.skipped,
            lost,
            existing: self.existing,
            elsewhere: self.elsewhere,
            kept_beside: self.kept_beside,
            before: self.source.clone(),
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::schema::change::CHANGES_MAX;
    use crate::schema::follow::COLUMN_DEFINITIONS;
    use crate::schema::target::existing::RequestedValues;
    use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
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
        assert_eq!(target.skipped[0].name, "text");
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
    fn a_column_that_is_there_is_compared_with_what_was_asked() {
        let asked = |texts: &[&str]| -> Vec<RequestedValues> {
            let target = apply(texts, IfExists::Skip).unwrap();
            target.existing.into_iter().map(|one| one.requested).collect()
        };
        assert_eq!(
            asked(&["text:string=x", "n:int8=1"]),
            [RequestedValues::Default("x".to_owned())]
        );
        // Nothing is said of what it holds.
        assert_eq!(asked(&["text:string"]), []);
        let again = ["t:timestamp[us]=now"];
        let once = apply(&again, IfExists::Skip).unwrap();
        let now = DateTime::from_timestamp(9, 0).unwrap();
        let twice = Target::derive(&once.schema, 50, &adds(&again), IfExists::Skip, now).unwrap();
        assert_eq!(twice.existing[0].requested, RequestedValues::Now);
        assert!(twice.is_unchanged());
        let sides = twice.side_by_side();
        assert_eq!((sides.columns.len(), sides.schema.fields.len()), (2, 2));
    }

    #[test]
    fn what_an_extension_means_cannot_be_set() {
        let key = ("ARROW:extension:name".to_owned(), "lance.json".to_owned());
        let doc = ArrowField::new("doc", DataType::LargeBinary, true);
        let doc = doc.with_metadata(HashMap::from([key]));
        let inside = ArrowField::new("in", DataType::Struct(vec![doc.clone()].into()), true);
        let n = ArrowField::new("n", DataType::Int64, true);
        let source = Schema::try_from(&ArrowSchema::new(vec![doc, inside, n])).unwrap();
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let set = |text: &str| {
            let changes = [Change::parse("set", text).unwrap()];
            Target::derive(&source, 9, &changes, IfExists::Skip, now)
        };
        for refused in ["doc=doc", "in=in"] {
            assert_eq!(set(refused).unwrap_err().kind(), Kind::Refused, "{refused}");
        }
        let target = set("n=n + 1").unwrap();
        assert_eq!(target.path_now("n").as_deref(), Some("n"));
        assert_eq!(target.derived().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn bad_requests_are_usage_errors() {
        for texts in [
            &["a:int8=1", "a:int8=1"][..],
            &["a:int8=1", "A:int8=1"],
            &["a:int8=300"],
            &["_rowid:int8=1"],
            &["a:month_day_nano_interval"],
        ] {
            let error = apply(texts, IfExists::Skip).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{texts:?}");
        }
    }

    #[test]
    fn requests_and_values_have_bounds() {
        let many = vec!["a:int8"; CHANGES_MAX + 1];
        let large = format!("a:string={}", "x".repeat((16 << 20) + 1));
        for (texts, told) in [(many, "10000 at most"), (vec![large.as_str()], "at most 16 MiB")] {
            let error = apply(&texts, IfExists::Skip).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.to_string().contains(told), "{told}");
        }
    }

    #[test]
    fn now_is_spelled_out_in_the_changes() {
        let target = apply(&["t:timestamp[us]=now"], IfExists::Skip).unwrap();
        assert_eq!(target.changes[0].text(), "add t:timestamp[us]=1970-01-01T00:00:00.000000");
    }
}
