//! Where settings are tried: a folder for each run, beside the table, which is removed again.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lance_io::object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Doing as _, Result};
use crate::location::{Location, tried_table};
use crate::process::{Presence, ProcessId, Running};
use crate::storage::files;

/// Says whose a folder is. It is there before anything else is, and goes last.
const OWNER: &str = "owner.json";

/// After this long a run elsewhere, of which nothing else can be told, is taken for dead.
const LIFE: TimeDelta = TimeDelta::days(1);

/// A folder that only this run writes to.
#[derive(Debug)]
pub(crate) struct Scratch {
    store: Arc<ObjectStore>,
    root: Path,
    _running: Running,
}

/// Whose a folder is.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    process: ProcessId,
    run: String,
    began: DateTime<Utc>,
}

impl Owner {
    /// Whether it must be taken for alive, `now` and seen from the process `here`.
    fn is_alive(&self, now: DateTime<Utc>, here: &ProcessId) -> bool {
        match self.process.presence(here) {
            Presence::Running => true,
            Presence::Gone => false,
            Presence::Own => Running::is(&self.run),
            Presence::Elsewhere => (now - self.began).abs() < LIFE,
        }
    }
}

impl Scratch {
    /// A new one in `directory`, for the table at `location`. Removes those of runs that are dead.
    ///
    /// # Errors
    /// `Failed`, when the directory cannot be listed or written to.
    ///
    /// # Crash
    /// The next one removes it.
    pub(crate) async fn begin_in(
        store: &Arc<ObjectStore>,
        directory: &Path,
        location: &Location,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        remove_dead(store, directory, location.table(), now).await?;
        let run = Uuid::new_v4().simple().to_string().chars().take(12).collect::<String>();
        let root = directory.clone().join(format!("{}.lance", location.tune_table(&run)));
        let running = Running::start(&run);
        let owner = Owner { process: ProcessId::current(), run, began: now };
        let owner = serde_json::to_vec(&owner).doing(|| "say whose the trials are".to_owned())?;
        let path = root.clone().join(OWNER);
        store.put(&path, &owner).await.doing(|| format!("write {path}"))?;
        Ok(Self { store: Arc::clone(store), root, _running: running })
    }

    /// Where data files go.
    pub(crate) fn data(&self) -> Path {
        self.root.clone().join("data")
    }

    /// Removes what trials wrote.
    ///
    /// # Errors
    /// `Failed`, when something is there and cannot be removed.
    pub(crate) async fn clear(&self) -> Result<()> {
        clear(&self.store, &self.root).await.map(drop)
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// `Failed`, when something is there and cannot be removed.
    pub(crate) async fn remove(self) -> Result<()> {
        remove(&self.store, &self.root).await
    }
}

async fn remove_dead(
    store: &ObjectStore,
    directory: &Path,
    table: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let here = ProcessId::current();
    for name in files::of(store).names(directory).await? {
        if name.strip_suffix(".lance").and_then(tried_table) != Some(table) {
            continue;
        }
        let root = directory.clone().join(name);
        if files::of(store).is_link(&root) {
            continue;
        }
        let stays = match owner(store, &root).await? {
            Some(owner) => owner.is_alive(now, &here),
            // Its owner is about to be written, or was removed last.
            None => clear(store, &root).await? == 0,
        };
        if !stays {
            remove(store, &root).await?;
        }
    }
    Ok(())
}

/// Whose the folder at `root` is, if that can be read there.
async fn owner(store: &ObjectStore, root: &Path) -> Result<Option<Owner>> {
    let path = root.clone().join(OWNER);
    let doing = || format!("read {path}");
    let found = match store.inner.get(&path).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        found => found.doing(doing)?.bytes().await.doing(doing)?,
    };
    Ok(serde_json::from_slice(&found).ok())
}

/// Removes what trials wrote below `root`, and gives how many files that were.
async fn clear(store: &ObjectStore, root: &Path) -> Result<usize> {
    let files = files::of(store);
    let mut removed = 0;
    for meta in files.list_below(root).await? {
        let name = meta.location.filename().unwrap_or_default();
        if name.contains("-relance-") || meta.location.extension() == Some("blob") {
            files.remove(&meta.location).await?;
            removed += 1;
        }
    }
    files.remove_empty(&root.clone().join("data"));
    Ok(removed)
}

async fn remove(store: &ObjectStore, root: &Path) -> Result<()> {
    clear(store, root).await?;
    let files = files::of(store);
    files.remove(&root.clone().join(OWNER)).await?;
    files.remove_empty(root);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_lose_their_folder() {
        let (here, now) = (ProcessId::current(), DateTime::from_timestamp(1_000_000, 0).unwrap());
        let owner = |process: &ProcessId, hours: i64| Owner {
            process: process.clone(),
            run: "another".to_owned(),
            began: now - TimeDelta::hours(hours),
        };
        assert!(!owner(&here, 0).is_alive(now, &here), "a run of this process that is over");
        let running = Running::start("another");
        assert!(owner(&here, 99).is_alive(now, &here));
        drop(running);
        let elsewhere = ProcessId { host: "elsewhere".to_owned(), pid: 1, ..here.clone() };
        assert!(!owner(&elsewhere, 25).is_alive(now, &here));
    }
}
