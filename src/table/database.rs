//! The database: which tables there are. On a disk LanceDB's own client tells; what that asks of a store is not watched.

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::{Doing, Error, Kind, Result};
use crate::location::{Location, is_own};
use crate::progress::{SharedProgress, Silent};
use crate::storage::{files, watch::Watch};
use crate::table::{open::Opener, reach::advised};

/// Names that are suggested for one that is not there.
const SUGGESTIONS: usize = 3;

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
    Err(Error::new(Kind::NoTable, message).with_advice(&advice))
}

async fn all_names(location: &Location) -> Result<Vec<String>> {
    if location.directory().is_none() {
        let (progress, tally): (SharedProgress, _) = (Arc::new(Silent), Arc::default());
        let (state, timeout) = (Arc::default(), location.store_timeout());
        let watch = Watch::of(&state, (&progress, &tally), &Cancel::default(), timeout);
        location.check_options()?;
        return folders(&Opener::of(location, Some(Arc::new(watch)))).await;
    }
    let connection = connect(location).await?;
    let names = connection.table_names().execute().await;
    names.doing(|| format!("list the tables of {}", location.database()))
}

/// The names of the tables that have a folder in the database's.
async fn folders(opener: &Opener) -> Result<Vec<String>> {
    let location = opener.location();
    let (store, root) = opener.store_at(location.database()).await?;
    let names = files::of(&store).names(&root).await;
    let names = names.map_err(|error| advised(error, location))?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".lance")).map(str::to_owned).collect())
}

fn nearest(name: &str, mut names: Vec<String>) -> Vec<String> {
    names.sort_by_cached_key(|other| strsim::damerau_levenshtein(other, name));
    names.truncate(SUGGESTIONS);
    names.into_iter().map(|name| format!("`{name}`")).collect()
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
