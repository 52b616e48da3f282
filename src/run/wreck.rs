//! Dropping what is left of a migration whose journal cannot be read: one command leads back to a table without
//! a migration, whatever is there.

use lance::Dataset;

use crate::error::{Error, Result};
use crate::history;
use crate::journal::Wreck;
use crate::leftover::{self, Removed};
use crate::process::ProcessId;
use crate::run::Migration;
use crate::run::reclaim::named_by_all;
use crate::run::report::Aborted;
use crate::source;

impl Migration {
    /// Drops the staging table that is no journal, and the files of its migration, as far as its id can be told.
    ///
    /// # Errors
    /// `Locked`, when a run of it is alive; `Failed`, when something cannot be removed.
    ///
    /// # Crash
    /// Calling it again removes the rest. The live table is not touched.
    pub(super) async fn abort_wreck(&self, live: &Dataset, wreck: &Wreck) -> Result<Aborted> {
        if wreck.is_running(self.clock.now(), &ProcessId::current()) {
            let table = self.location.table();
            return Err(Error::locked(format!("a migration of `{table}` is running"))
                .with_advice("wait for it, or stop it first"));
        }
        let mut ids: Vec<String> = wreck.id.iter().cloned().collect();
        for point in history::rollback_points(live).await? {
            if point.swapped.is_none() && !ids.contains(&point.id) {
                ids.push(point.id);
            }
        }
        let (keep, first) = named_by_all(live).await?;
        // The journal goes first: a run that is slow, not dead, finds that out before it names a file again.
        let mut left = wreck.remove().await?;
        let mut all = Removed::default();
        for id in &ids {
            let removed = leftover::remove(live, id, &keep, first, None).await?;
            all.files += removed.files;
            all.bytes += removed.bytes;
            let point = history::rollback_point(live, id).await?;
            if point.is_some_and(|point| point.swapped.is_none()) {
                source::unpin(live, id).await?;
            }
        }
        if ids.is_empty() {
            left.push(
                "which migration it was cannot be told: data files of it may be left, which LanceDB's own \
                 cleanup removes"
                    .to_owned(),
            );
        }
        let id = ids.first().cloned().unwrap_or_default();
        let table = self.location.table().to_owned();
        Ok(Aborted { table, id, pins: 0, files: all.files, bytes: all.bytes, left })
    }
}
