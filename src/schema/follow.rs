//! Schema metadata that describes columns, and has to follow renames, casts and drops.

use arrow::datatypes::DataType;
use lance_core::datatypes::{Field, Schema};
use serde_json::{Value, json};

use crate::schema::change::Change;

/// One definition a field, by position (lancedb 0.41 `src/table.rs`, `ColumnDefinition`).
pub(crate) const COLUMN_DEFINITIONS: &str = "lancedb::column_definitions";
/// Which function embeds which column, written by the Python and Node clients.
pub(crate) const EMBEDDING_FUNCTIONS: &str = "embedding_functions";
/// How columns become those of a data frame, written by pandas through `PyArrow`.
const PANDAS: &str = "pandas";
/// What `datasets` makes of columns.
const HUGGING_FACE: &str = "huggingface";

/// Metadata that says nothing but what the columns are.
pub(crate) const DESCRIBES_COLUMNS: [&str; 3] = [COLUMN_DEFINITIONS, PANDAS, HUGGING_FACE];

/// The top-level columns before and after.
#[derive(Debug)]
pub(crate) struct Renamed<'a> {
    pub source: &'a Schema,
    pub target: &'a Schema,
    /// For each column of the target, its name in the source, if it was there.
    pub was: Vec<Option<String>>,
}

impl Renamed<'_> {
    /// The source's column `name` in the target.
    fn field(&self, name: &str) -> Option<&Field> {
        let place = self.was.iter().position(|was| was.as_deref() == Some(name))?;
        self.target.fields.get(place)
    }

    /// The name of the source's `name` in the target.
    fn now(&self, name: &str) -> Option<&str> {
        self.field(name).map(|field| field.name.as_str())
    }

    /// The type of the source's `name` in the target, if it is another one there.
    fn cast(&self, name: &str) -> Option<DataType> {
        let is = self.field(name)?.data_type();
        (self.source.field(name)?.data_type() != is).then_some(is)
    }
}

/// Metadata entries of the target that differ from the source's.
pub(crate) fn followed(renamed: &Renamed<'_>) -> Vec<(String, String)> {
    type Follow = fn(&Renamed<'_>, &Value) -> Option<Value>;
    let follows: [(&str, Follow); 4] = [
        (COLUMN_DEFINITIONS, |renamed, old| Some(definitions(renamed, old.as_array()?).into())),
        (EMBEDDING_FUNCTIONS, |renamed, old| Some(functions(renamed, old.as_array()?).into())),
        (PANDAS, pandas),
        (HUGGING_FACE, features),
    ];
    let changed = follows.into_iter().filter_map(|(key, follow)| {
        let old: Value = serde_json::from_str(renamed.source.metadata.get(key)?).ok()?;
        let new = follow(renamed, &old)?;
        (new != old).then(|| (key.to_owned(), new.to_string()))
    });
    changed.collect()
}

/// What pandas needs of each column that is still there, by the name that it has now. New columns need nothing.
fn pandas(renamed: &Renamed<'_>, old: &Value) -> Option<Value> {
    let mut new = old.clone();
    new.get_mut("columns")?.as_array_mut()?.retain_mut(|column| {
        let Some(name) = column.get("field_name").and_then(Value::as_str).map(str::to_owned) else {
            return true;
        };
        if let Some(data_type) = renamed.cast(&name) {
            let (pandas, numpy) = pandas_type(&data_type);
            column["pandas_type"] = pandas.into();
            column["numpy_type"] = numpy.into();
            let zone =
                if let DataType::Timestamp(_, Some(zone)) = &data_type { Some(zone) } else { None };
            column["metadata"] = zone.map_or(Value::Null, |zone| json!({ "timezone": &**zone }));
        }
        // The label of the column, which an index may not have.
        let label = column.get("name").and_then(Value::as_str) != Some(&name);
        (label || follow_name(renamed, column, "name"))
            && follow_name(renamed, column, "field_name")
    });
    let index = new.get_mut("index_columns")?.as_array_mut()?;
    index.retain_mut(|column| {
        let Value::String(name) = column else { return true };
        let now = renamed.now(name);
        now.unwrap_or_default().clone_into(name);
        now.is_some()
    });
    // Labels of columns that are no text, or of several levels, are read back from the columns' names.
    let mut pairs = renamed.was.iter().zip(&renamed.target.fields);
    let other_names = pairs.any(|(was, field)| was.as_ref() != Some(&field.name));
    let levels = new.get_mut("column_indexes")?.as_array_mut()?;
    let text = |level: &Value| level.get("pandas_type").and_then(Value::as_str) == Some("unicode");
    if other_names && (levels.len() != 1 || !levels.iter().all(text)) {
        levels.clear();
    }
    Some(new)
}

/// What pandas calls a type, and the type of `NumPy`'s that it becomes (pyarrow `pandas_compat.py`).
#[allow(clippy::wildcard_enum_match_arm, reason = "all other types are objects")]
fn pandas_type(data_type: &DataType) -> (&'static str, &'static str) {
    match data_type {
        DataType::Boolean => ("bool", "bool"),
        DataType::Int8 => ("int8", "int8"),
        DataType::Int16 => ("int16", "int16"),
        DataType::Int32 => ("int32", "int32"),
        DataType::Int64 => ("int64", "int64"),
        DataType::UInt8 => ("uint8", "uint8"),
        DataType::UInt16 => ("uint16", "uint16"),
        DataType::UInt32 => ("uint32", "uint32"),
        DataType::UInt64 => ("uint64", "uint64"),
        DataType::Float16 => ("float16", "float16"),
        DataType::Float32 => ("float32", "float32"),
        DataType::Float64 => ("float64", "float64"),
        DataType::Utf8 | DataType::LargeUtf8 => ("unicode", "object"),
        DataType::Binary | DataType::LargeBinary => ("bytes", "object"),
        DataType::Date32 | DataType::Date64 => ("date", "object"),
        DataType::Timestamp(_, None) => ("datetime", "datetime64[ns]"),
        DataType::Timestamp(_, Some(_)) => ("datetimetz", "datetime64[ns]"),
        DataType::Duration(_) => ("timedelta", "timedelta64[ns]"),
        _ => ("object", "object"),
    }
}

/// The features of the columns that are still there with their type. `datasets` finds those of the others itself.
fn features(renamed: &Renamed<'_>, old: &Value) -> Option<Value> {
    let mut new = old.clone();
    let features = new.pointer_mut("/info/features")?.as_object_mut()?;
    let kept = std::mem::take(features).into_iter().filter_map(|(name, feature)| {
        let now = renamed.now(&name).filter(|_| renamed.cast(&name).is_none())?;
        Some((now.to_owned(), feature))
    });
    features.extend(kept);
    Some(new)
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

/// The entry of the metadata that tells of embedding functions, with those of the producers among `changes`, where
/// these have any; `followed` is what became of it otherwise.
pub(crate) fn with_functions(
    followed: &[(String, String)],
    renamed: &Renamed<'_>,
    changes: &[Change],
) -> Option<(String, String)> {
    let produced = changes.iter().filter_map(Change::produced);
    let new = produced.filter_map(|one| serde_json::from_str(one.embedding.as_deref()?).ok());
    let new: Vec<Value> = new.collect();
    if new.is_empty() {
        return None;
    }
    let own = followed.iter().find(|(key, _)| key == EMBEDDING_FUNCTIONS).map(|(_, text)| text);
    let text = own.or_else(|| renamed.source.metadata.get(EMBEDDING_FUNCTIONS));
    let old = text.and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let all: Vec<Value> = old.unwrap_or_default().into_iter().chain(new).collect();
    Some((EMBEDDING_FUNCTIONS.to_owned(), Value::from(all).to_string()))
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
    use arrow::datatypes::{Field as ArrowField, Schema as ArrowSchema};
    use std::collections::HashMap;

    fn schema(names: &[&str], metadata: &[(&str, &str)]) -> Schema {
        let fields: Vec<_> =
            names.iter().map(|name| ArrowField::new(*name, DataType::Utf8, true)).collect();
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

    #[test]
    fn what_data_frames_need_follows_renames_casts_and_drops() {
        let column = |name: &str| json!({"name": name, "field_name": name, "pandas_type": "unicode", "numpy_type": "object", "metadata": null});
        let index = json!({"name": null, "field_name": "k", "pandas_type": "unicode", "numpy_type": "object", "metadata": null});
        let pandas = json!({"index_columns": ["k"], "column_indexes": [{"pandas_type": "int64"}],
            "columns": [column("a"), column("b"), column("gone"), index]});
        let value = || json!({"dtype": "string", "_type": "Value"});
        let features = json!({"info": {"features": {"a": value(), "b": value(), "gone": value()}}});
        let pairs = [(PANDAS, pandas.to_string()), (HUGGING_FACE, features.to_string())];
        let pairs = pairs.each_ref().map(|(key, text)| (*key, text.as_str()));
        let source = schema(&["a", "b", "gone", "k"], &pairs);
        let mut target = schema(&["x", "b", "l", "new"], &[]);
        target.fields[1] = Field::try_from(&ArrowField::new("b", DataType::Int64, true)).unwrap();
        let was = ["a", "b", "k"].map(|name| Some(name.to_owned()));
        let was = was.into_iter().chain([None]).collect();
        let renamed = Renamed { source: &source, target: &target, was };
        let changed: HashMap<_, _> = followed(&renamed).into_iter().collect();
        let pandas: Value = serde_json::from_str(&changed[PANDAS]).unwrap();
        let columns = pandas["columns"].as_array().unwrap();
        let names: Vec<_> = columns.iter().map(|column| &column["field_name"]).collect();
        assert_eq!(names, ["x", "b", "l"]);
        assert_eq!(
            (&columns[0]["name"], &columns[1]["pandas_type"]),
            (&json!("x"), &json!("int64"))
        );
        assert_eq!((&columns[2]["name"], &pandas["index_columns"]), (&Value::Null, &json!(["l"])));
        assert_eq!(pandas["column_indexes"], json!([]));
        let features: Value = serde_json::from_str(&changed[HUGGING_FACE]).unwrap();
        assert_eq!(features["info"]["features"], json!({ "x": value() }));

        let same = ["a", "b", "gone", "k"].map(|name| Some(name.to_owned())).to_vec();
        let renamed = Renamed { source: &source, target: &source, was: same };
        assert_eq!(followed(&renamed), []);
    }
}
