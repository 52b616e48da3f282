//! `LanceDB`'s schema metadata that names columns, and has to follow renames and drops.

use lance_core::datatypes::Schema;
use serde_json::{Value, json};

/// One definition a field, by position (lancedb 0.41 `src/table.rs`, `ColumnDefinition`).
pub(crate) const COLUMN_DEFINITIONS: &str = "lancedb::column_definitions";
/// Which function embeds which column, written by the Python and Node clients.
pub(crate) const EMBEDDING_FUNCTIONS: &str = "embedding_functions";

/// The top-level columns before and after.
#[derive(Debug)]
pub(crate) struct Renamed<'a> {
    pub source: &'a Schema,
    pub target: &'a Schema,
    /// For each column of the target, its name in the source, if it was there.
    pub was: Vec<Option<String>>,
}

impl Renamed<'_> {
    /// The name of the source's `name` in the target.
    fn now(&self, name: &str) -> Option<&str> {
        let place = self.was.iter().position(|was| was.as_deref() == Some(name))?;
        self.target.fields.get(place).map(|field| field.name.as_str())
    }
}

/// Metadata entries of the target that differ from the source's.
pub(crate) fn followed(renamed: &Renamed<'_>) -> Vec<(String, String)> {
    let metadata = &renamed.source.metadata;
    let mut changed = Vec::new();
    for (key, follow) in [
        (COLUMN_DEFINITIONS, definitions as fn(&Renamed<'_>, &[Value]) -> Vec<Value>),
        (EMBEDDING_FUNCTIONS, functions),
    ] {
        let list = metadata.get(key).and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
        if let Some(list) = list {
            let followed = follow(renamed, &list);
            if followed != list {
                changed.push((key.to_owned(), Value::Array(followed).to_string()));
            }
        }
    }
    changed
}

/// The definition of each column of the target. New columns are physical.
fn definitions(renamed: &Renamed<'_>, old: &[Value]) -> Vec<Value> {
    let definition = |was: &Option<String>| {
        let name = was.as_ref()?;
        let place = renamed.source.fields.iter().position(|field| &field.name == name)?;
        let mut definition = old.get(place)?.clone();
        if let Some(embedding) = definition.pointer_mut("/kind/Embedding") {
            let there = ["source_column", "dest_column"]
                .iter()
                .all(|key| follow_name(renamed, embedding, key));
            if !there {
                return None;
            }
        }
        Some(definition)
    };
    let physical = || json!({ "kind": "Physical" });
    renamed.was.iter().map(|was| definition(was).unwrap_or_else(physical)).collect()
}

/// The functions whose columns are all still there.
fn functions(renamed: &Renamed<'_>, old: &[Value]) -> Vec<Value> {
    let mut kept = Vec::new();
    for function in old {
        let mut function = function.clone();
        if ["source_column", "vector_column"]
            .iter()
            .all(|key| follow_name(renamed, &mut function, key))
        {
            kept.push(function);
        }
    }
    kept
}

/// Renames the column that `object` names under `key`; false, when that column was dropped.
fn follow_name(renamed: &Renamed<'_>, object: &mut Value, key: &str) -> bool {
    let Some(Value::String(name)) = object.get_mut(key) else {
        return true;
    };
    match renamed.now(name) {
        Some(now) => {
            now.clone_into(name);
            true
        }
        None => false,
    }
}

/// The dropped columns that embedding functions need.
pub(crate) fn lost_functions(renamed: &Renamed<'_>) -> Vec<String> {
    let text = renamed.source.metadata.get(EMBEDDING_FUNCTIONS);
    let list = text.and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let mut gone = Vec::new();
    for function in list.unwrap_or_default() {
        for key in ["source_column", "vector_column"] {
            let name = function.get(key).and_then(Value::as_str);
            gone.extend(name.filter(|name| renamed.now(name).is_none()).map(str::to_owned));
        }
    }
    gone.dedup();
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
    use std::collections::HashMap;

    fn schema(names: &[&str], metadata: &[(&str, &str)]) -> Schema {
        let fields: Vec<_> =
            names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let pairs = metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        let metadata: HashMap<_, _> = pairs.collect();
        Schema::try_from(&ArrowSchema::new_with_metadata(fields, metadata)).unwrap()
    }

    #[test]
    fn names_follow_renames_and_drops() {
        let embedding = r#"{"source_column":"text","dest_column":"vector","embedding_name":"e"}"#;
        let definitions = format!(
            r#"[{{"kind":"Physical"}},{{"kind":{{"Embedding":{embedding}}}}},{{"kind":"Physical"}}]"#
        );
        let functions =
            r#"[{"name":"e","model":{},"source_column":"text","vector_column":"vector"}]"#;
        let source = schema(
            &["text", "vector", "x"],
            &[(COLUMN_DEFINITIONS, &definitions), (EMBEDDING_FUNCTIONS, functions)],
        );
        let target = schema(&["body", "vector", "new"], &[]);
        let was = vec![Some("text".to_owned()), Some("vector".to_owned()), None];
        let renamed = Renamed { source: &source, target: &target, was };
        let changed: HashMap<_, _> = followed(&renamed).into_iter().collect();
        let list: Vec<Value> = serde_json::from_str(&changed[COLUMN_DEFINITIONS]).unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[1]["kind"]["Embedding"]["source_column"], "body");
        let list: Vec<Value> = serde_json::from_str(&changed[EMBEDDING_FUNCTIONS]).unwrap();
        assert_eq!(list[0]["source_column"], "body");
        assert!(lost_functions(&renamed).is_empty());

        let target = schema(&["vector"], &[]);
        let was = vec![Some("vector".to_owned())];
        let renamed = Renamed { source: &source, target: &target, was };
        let changed: HashMap<_, _> = followed(&renamed).into_iter().collect();
        assert_eq!(changed[EMBEDDING_FUNCTIONS], "[]");
        assert_eq!(changed[COLUMN_DEFINITIONS], r#"[{"kind":"Physical"}]"#);
        assert_eq!(lost_functions(&renamed), ["text"]);
    }
}
