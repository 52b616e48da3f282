//! A staging table that is no journal which this relance can read: damaged, cut short, or of another version.
//! What can still be told of it, so that it can be dropped.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lance_io::object_store::ObjectStore;
use lance_table::{format::Manifest, io::manifest::read_manifest};
use object_store::{ObjectMeta, path::Path};

use crate::error::{Doing, Error, Result};
use crate::journal::config::{KEY_HEADER, KEY_LEASE, is_id};
use crate::journal::{Journal, LastSeen, Lease, Life};
use crate::storage::tree::{clear_table, list_table};
use crate::{guard::guarded, process::ProcessId, storage::files, table::open::Opener};

/// What stands where the staging table is.
#[derive(Debug)]
pub(crate) enum Opened {
    Nothing,
    Journal(Box<Journal>),
    /// Something else.
    Wreck(Box<Wreck>),
}

/// A staging table that cannot be read as a journal.
#[derive(Debug)]
pub(crate) struct Wreck {
    pub why: Error,
    /// The migration's id, if it can be told.
    pub id: Option<String>,
    /// Who ran it, if that can be told.
    pub lease: Option<Lease>,
    /// When a file of it was last written, by the store's clock.
    pub written: Option<DateTime<Utc>>,
    store: Arc<ObjectStore>,
    root: Path,
}

impl Opened {
    /// Looks at the staging table of the table that `opener` opens.
    ///
    /// # Errors
    /// `Failed`, when it could not be looked at: what is there is not known then.
    pub(crate) async fn look(opener: &Opener) -> Result<Self> {
        let why = match Journal::open(opener).await {
            Ok(Some(journal)) => return Ok(Self::Journal(Box::new(journal))),
            // What a run left that died before its first version is in nobody's way.
            Ok(None) => return Ok(Self::Nothing),
            Err(why) => why,
        };
        let (store, root) = opener.staging_place().await?;
        let mut files = list_table(files::of(&store).as_ref(), &root).await?;
        files.sort_by_key(|meta| std::cmp::Reverse(meta.last_modified));
        let written = files.first().map(|meta| meta.last_modified);
        let (mut id, mut lease) = (None, None);
        let manifests = files.iter().filter(|meta| meta.location.extension() == Some("manifest"));
        for (place, meta) in manifests.enumerate() {
            let (told, run_by) = hints_in(&store, meta).await?;
            // Who runs it stands in the newest one only.
            lease = if place == 0 { run_by } else { lease };
            id = told;
            if id.is_some() {
                break;
            }
        }
        Ok(Self::Wreck(Box::new(Wreck { why, id, lease, written, store, root })))
    }
}

/// Removes what a run left in the staging table's folder that died before its first version, or after its last
/// one was gone; versions are left alone. Gives the number of files; `None`, when there was not even a folder.
///
/// # Errors
/// `Failed`, when one cannot be removed.
///
/// # Crash
/// Calling it again removes the rest.
pub(crate) async fn clear_unversioned(opener: &Opener) -> Result<Option<u64>> {
    let (store, root) = opener.staging_place().await?;
    let files = files::of(&store);
    let mut removed = 0;
    for file in list_table(files.as_ref(), &root).await? {
        if file.location.extension() != Some("manifest") {
            files.remove(&file.location).await?;
            removed += 1;
        }
    }
    let folder = files.remove_empty(&root);
    Ok((folder || removed > 0).then_some(removed))
}

impl Wreck {
    /// Whether a run of it must be taken for alive, as far as that can be told, seen `now` from the process `here`.
    pub(crate) fn is_running(&self, now: DateTime<Utc>, here: &ProcessId) -> bool {
        let Some(lease) = &self.lease else { return false };
        let seen = self.written.unwrap_or(lease.beat).max(lease.beat);
        match lease.life(here) {
            Life::Alive => true,
            Life::Dead => false,
            Life::Unknown => matches!(LastSeen::of(now - seen), LastSeen::Lately),
        }
    }

    /// Removes the staging table, and gives the names of what is left alone in its folder.
    ///
    /// # Errors
    /// `Failed`, when a file of it cannot be removed.
    ///
    /// # Crash
    /// Calling it again removes the rest.
    pub(crate) async fn remove(&self) -> Result<Vec<String>> {
        let files = files::of(&self.store);
        let left = clear_table(files.as_ref(), &self.root, None).await?;
        files.remove_empty(&self.root);
        Ok(left)
    }
}

/// The migration's id, and who ran it, as the manifest at `meta` tells them, however damaged it is.
async fn hints_in(
    store: &ObjectStore,
    meta: &ObjectMeta,
) -> Result<(Option<String>, Option<Lease>)> {
    // An error here is the store's, and nothing is known then.
    let bytes = files::of(store).read(&meta.location).await?;
    let manifest = guarded("read a manifest", async {
        let read = read_manifest(store, &meta.location, Some(meta.size)).await;
        read.doing(|| format!("read {}", meta.location))
    });
    let manifest: Result<Manifest> = manifest.await;
    let Ok(manifest) = manifest else { return Ok((id_in(&String::from_utf8_lossy(&bytes)), None)) };
    let header = manifest.config.get(KEY_HEADER).map(String::as_str).unwrap_or_default();
    let lease = manifest.config.get(KEY_LEASE).and_then(|text| serde_json::from_str(text).ok());
    Ok((id_in(header), lease))
}

/// The migration's id in the text of a header, however damaged the rest is.
fn id_in(text: &str) -> Option<String> {
    let after = text.split("\"layout\"").nth(1)?;
    let id = after.split("\"id\":\"").nth(1)?.split('"').next()?;
    is_id(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_what_is_left_of_a_header() {
        let header = r#"..{"layout":9,"id":"0123456789ab","relance":"7","request":{"chan"#;
        assert_eq!(id_in(header).as_deref(), Some("0123456789ab"));
        for odd in ["", r#"{"layout":5,"id":""}"#, r#"{"layout":5,"id":"../../../../x"}"#, "{}"] {
            assert_eq!(id_in(odd), None, "{odd}");
        }
    }
}
