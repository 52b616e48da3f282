//! An index whose parameters cannot be known would come back different.

use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::plan::{Facts, IndexFate, Plan, Request};
use crate::schema::show::type_text;

/// Refuses names that are no index of the table.
pub(super) fn check_names(facts: &Facts, request: &Request) -> Result<()> {
    for name in &request.drop_indices {
        if !facts.indices.iter().any(|index| &index.name == name) {
            let names: Vec<_> = facts.indices.iter().map(|index| index.name.as_str()).collect();
            let there = match names.as_slice() {
                [] => "the table has none".to_owned(),
                names => format!("the table has {}", names.join(", ")),
            };
            return Err(Error::usage(format!("no index is called `{name}`; {there}")));
        }
    }
    Ok(())
}

/// Refuses to lose an index without being asked.
pub(super) fn check(plan: &Plan) -> Result<()> {
    for rebuild in plan.rebuilds().iter().filter(|rebuild| rebuild.other_values) {
        let index =
            plan.indices.iter().map(|(index, _)| index).find(|one| one.name == rebuild.name);
        let field = plan.target.after.field(&rebuild.column);
        let Some((index, field)) = index.zip(field) else { continue };
        if !suits(&index.kind, &field.data_type()) {
            let (name, kind, column) = (&index.name, &index.kind, &rebuild.column);
            let data_type = type_text(&field.data_type());
            return Err(Error::refused(format!(
                "index `{name}` ({kind}) cannot be built on `{column}`, which becomes {data_type}"
            ))
            .with_advice(&format!("--drop-index {name} goes on without it")));
        }
    }
    let rebuilt = plan.indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
    for (index, _) in rebuilt {
        let Some(why) = &index.unknown else { continue };
        let (name, kind, column) = (&index.name, &index.kind, &index.column);
        return Err(Error::refused(format!(
            "index `{name}` ({kind} on `{column}`) cannot be built again as it was: {why}"
        ))
        .with_advice(&format!("--drop-index {name} goes on without it")));
    }
    Ok(())
}

/// Whether an index of `kind` can be built on values of `data_type`.
fn suits(kind: &str, data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8);
    let is_list = matches!(data_type, DataType::List(_) | DataType::LargeList(_));
    if kind.starts_with("IVF") || kind == "Vector" {
        return matches!(data_type, DataType::FixedSizeList(item, _)
            if item.data_type().is_floating() || item.data_type().is_integer());
    }
    match kind {
        "Inverted" | "FTS" => is_text || is_list,
        "NGram" => is_text,
        "LabelList" => is_list,
        _ => !data_type.is_nested(),
    }
}
