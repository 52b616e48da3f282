//! Indices that would be dropped without being asked for, and those that cannot be built again as they were.

use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::facts::{Facts, IndexFacts};
use crate::plan::indices::{IndexFate, Rebuild};
use crate::plan::request::Request;
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

/// Refuses to drop an index that nobody asked to drop, and to build one that would be another one.
pub(super) fn check(plan: &Plan) -> Result<()> {
    expect_asked(plan)?;
    for rebuild in plan.rebuilds().iter().filter(|rebuild| rebuild.other_values) {
        let index =
            plan.indices.iter().map(|(index, _)| index).find(|one| one.name == rebuild.name);
        if let Some(index) = index {
            expect_suited(plan, index, rebuild)?;
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

/// Refuses to drop an index with its column, unless its name was given.
fn expect_asked(plan: &Plan) -> Result<()> {
    let asked = &plan.request.drop_indices;
    let lost: Vec<&IndexFacts> = plan
        .indices
        .iter()
        .filter(|(index, fate)| *fate == IndexFate::Drop && !asked.contains(&index.name))
        .map(|(index, _)| index)
        .collect();
    if lost.is_empty() || plan.request.allow_index_loss {
        return Ok(());
    }
    let named = lost.iter().map(|index| {
        let IndexFacts { name, kind, column, .. } = index;
        format!("index `{name}` ({kind} on `{column}`)")
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let flags = lost.iter().map(|index| format!("--drop-index {}", index.name));
    let flags = flags.collect::<Vec<_>>().join(" ");
    let (table, them) = (&plan.table, if lost.len() == 1 { "it" } else { "them" });
    let message = format!("`{table}` would lose {named} with what is dropped");
    Err(Error::refused(message).with_advice(&format!("{flags} goes on without {them}")))
}

/// Refuses an index whose parts no longer divide the vectors.
fn expect_divisible(index: &IndexFacts, column: &str, data_type: &DataType) -> Result<()> {
    let (Some(parts), DataType::FixedSizeList(_, size)) = (index.sub_vectors, data_type) else {
        return Ok(());
    };
    let size = usize::try_from(*size).unwrap_or_default();
    if size % parts.max(1) == 0 {
        return Ok(());
    }
    let nearest = (1..=size).filter(|parts| size % parts == 0);
    let nearest = nearest.min_by_key(|other| other.abs_diff(parts)).unwrap_or(1);
    let (name, kind) = (&index.name, &index.kind);
    Err(Error::refused(format!(
        "index `{name}` ({kind}) cuts each vector into {parts} sub-vectors, which do not divide the {size} dimensions that \
         `{column}` gets"
    ))
    .with_advice(&format!(
        "--drop-index {name} goes on without it; build it then with {nearest} sub-vectors"
    )))
}

/// Refuses to rebuild an index that cannot be built on the column's new values.
fn expect_suited(plan: &Plan, index: &IndexFacts, rebuild: &Rebuild) -> Result<()> {
    let Some(field) = plan.target.after.field(&rebuild.column) else { return Ok(()) };
    expect_divisible(index, &rebuild.column, &field.data_type())?;
    let (name, kind, column) = (&index.name, &index.kind, &rebuild.column);
    let becomes = if !suits(kind, &field.data_type()) {
        type_text(&field.data_type())
    } else if is_of_vectors(kind) && plan.target.is_all_null(column) {
        // There is nothing that it could learn from.
        "null in every row".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::refused(format!(
        "index `{name}` ({kind}) cannot be built on `{column}`, which becomes {becomes}"
    ))
    .with_advice(&format!("--drop-index {name} goes on without it")))
}

fn is_of_vectors(kind: &str) -> bool {
    kind.starts_with("IVF") || kind == "Vector"
}

/// Whether an index of `kind` can be built on values of `data_type`.
fn suits(kind: &str, data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8);
    let is_list = matches!(data_type, DataType::List(_) | DataType::LargeList(_));
    if is_of_vectors(kind) {
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
