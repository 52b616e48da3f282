//! The database through LanceDB's own client: which tables there are, and what a table looks like to
//! those who use it.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use futures::TryStreamExt;
use lance_core::datatypes::Schema;
use lancedb::query::{ExecutableQuery, QueryBase};

use crate::error::{Doing, Error, Result};
use crate::location::{Location, is_own};
use crate::schema::show::field_text;

/// Names that are suggested for one that is not there.
const SUGGESTIONS: usize = 3;

/// Rows of a sample.
const SAMPLE_ROWS: usize = 3;

/// Connects to the database of `location`. A directory is not made.
///
/// # Errors
/// `Failed`, when there is none.
pub(crate) async fn connect(location: &Location) -> Result<lancedb::Connection> {
    let database = location.database();
    if let Some(directory) = location.directory()
        && !directory.is_dir()
    {
        return Err(Error::failed(format!("there is no database at {database}")));
    }
    lancedb::connect(database)
        .storage_options(location.storage_options().clone())
        .execute()
        .await
        .doing(|| format!("connect to {database}"))
}

/// The tables of the database, staging tables left out.
///
/// # Errors
/// `Failed`, when they cannot be listed.
pub async fn table_names(location: &Location) -> Result<Vec<String>> {
    let mut names = all_names(location).await?;
    names.retain(|name| !is_own(name));
    Ok(names)
}

/// Fails with the nearest names when the table is not there.
///
/// # Errors
/// `Failed`, when the database or the table is not there.
pub(crate) async fn expect_table(location: &Location) -> Result<()> {
    let mut names = all_names(location).await?;
    let table = location.table();
    if names.iter().any(|name| name == table) {
        return Ok(());
    }
    names.retain(|name| !is_own(name));
    let near = nearest(table, names);
    let message = format!("no table is called `{table}` in {}", location.database());
    let advice = match near.as_slice() {
        [] => "the database has no tables".to_owned(),
        names => format!("did you mean {}?", names.join(", ")),
    };
    Err(Error::failed(message).with_advice(&advice))
}

async fn all_names(location: &Location) -> Result<Vec<String>> {
    let connection = connect(location).await?;
    let names = connection.table_names().execute().await;
    names.doing(|| format!("list the tables of {}", location.database()))
}

fn nearest(name: &str, mut names: Vec<String>) -> Vec<String> {
    names.sort_by_cached_key(|other| strsim::damerau_levenshtein(other, name));
    names.truncate(SUGGESTIONS);
    names.into_iter().map(|name| format!("`{name}`")).collect()
}

/// Looks at `version` of the table as its users do: count, fields, and the first rows.
///
/// # Errors
/// `Mismatch`, when the count or the fields are not the expected ones.
pub(crate) async fn look(
    location: &Location,
    version: u64,
    rows: u64,
    schema: &Schema,
) -> Result<Vec<RecordBatch>> {
    let table = location.table();
    let connection = connect(location).await?;
    let opened = connection.open_table(table).execute().await;
    let opened = opened.doing(|| format!("open `{table}` with LanceDB"))?;
    let at = opened.checkout(version).await;
    at.doing(|| format!("open version {version} of `{table}` with LanceDB"))?;
    let counted = opened.count_rows(None).await;
    let counted = counted.doing(|| format!("count the rows of `{table}` with LanceDB"))?;
    if counted as u64 != rows {
        let what = format!("LanceDB counts {counted} rows in `{table}`, not {rows}");
        return Err(Error::mismatch(what));
    }
    let seen = opened.schema().await;
    let seen = seen.doing(|| format!("read the schema of `{table}` with LanceDB"))?;
    let wanted = arrow::datatypes::Schema::from(schema);
    for field in wanted.fields() {
        let same = seen.field_with_name(field.name()).is_ok_and(|seen| {
            // LanceDB shows JSON as text, and blobs as places.
            (has_another_form_in_scans(field) || seen.data_type() == field.data_type())
                && seen.is_nullable() == field.is_nullable()
        });
        if !same {
            let field = field_text(field);
            let what = format!("LanceDB does not see the field `{field}` in `{table}`");
            return Err(Error::mismatch(what));
        }
    }
    let stream = opened.query().limit(SAMPLE_ROWS).execute().await;
    let stream = stream.doing(|| format!("query `{table}` with LanceDB"))?;
    stream.try_collect().await.doing(|| format!("query `{table}` with LanceDB"))
}

/// Whether `field`, or what is in it, is JSON or a blob.
fn has_another_form_in_scans(field: &Field) -> bool {
    let extension = field.metadata().get("ARROW:extension:name").map(String::as_str);
    matches!(extension, Some("lance.json" | "lance.blob.v2"))
        || field.metadata().contains_key("lance-encoding:blob")
        || match field.data_type() {
            DataType::Struct(fields) => fields.iter().any(|field| has_another_form_in_scans(field)),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                has_another_form_in_scans(item)
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["orders", "documents", "document_v2", "users"];
        let near = nearest("document", names.map(str::to_owned).to_vec());
        assert_eq!(near.first().map(String::as_str), Some("`documents`"));
        assert_eq!(near.len(), 3);
    }
}
