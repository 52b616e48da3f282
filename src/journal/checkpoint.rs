//! Writing the journal, and making sure that it is still this run's own.

use crate::error::{Error, Result};
use crate::journal::config::{
    KEY_CHUNK, KEY_HEADER, KEY_LEASE, KEY_SCHEMA, chunk_key, newest_of, to_json,
};
use crate::journal::{Journal, beat::Lost, record::Lease, tidy};
use crate::storage::files::{DataFiles, Tree};
use crate::table::commit::{Outcome, exactly_next};
use crate::table::orphans::{self, Orphans, Removed};
use crate::{phase::Phase, storage::tree::clear_tree, table::open::data_files_of};
use lance::{Dataset, dataset::transaction::Operation};
use lance_table::format::Fragment;
use object_store::path::Path;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl Journal {
    /// Makes what was put and forgotten durable, and who stands where, in one strict commit; where nothing is new, it
    /// only makes sure that the journal is still this run's. One that lets go is not seen to be alive any more.
    ///
    /// # Errors
    /// `Locked`, when another run took the journal over: nothing was changed, and this run must stop.
    ///
    /// # Crash
    /// The staging table holds the commit before or the commit after, never a part.
    pub(crate) async fn checkpoint(&mut self, lease: Lease) -> Result<()> {
        if lease.released {
            self.end_beats().await;
        }
        self.expect_own().await?;
        let changes = self.config_changes(&lease)?;
        if self.lease.stands_at(&lease) && changes.keys().all(|key| key == KEY_LEASE) {
            return Ok(());
        }
        self.attempted = Some(lease.clone());
        // Lance takes no deletion files in an overwrite: the records tell of them.
        let fragments = self.all_fragments().into_iter();
        let fragments = fragments.map(|one| Fragment { deletion_file: None, ..one });
        let operation = Operation::Overwrite {
            fragments: fragments.collect(),
            schema: self.schema.clone().unwrap_or_else(|| self.staging.schema().clone()),
            config_upsert_values: Some(changes),
            initial_bases: None,
        };
        self.commit(operation, lease).await
    }

    /// Commits `operation`, which writes `lease`, as the next version of the staging table.
    async fn commit(&mut self, operation: Operation, lease: Lease) -> Result<()> {
        let committed = exactly_next(&self.staging, operation, None, HashMap::new()).await;
        if !matches!(committed, Ok(Outcome::LostRace { .. })) {
            // They may be durable by now, and others' to name.
            self.fresh.clear();
        }
        match committed? {
            Outcome::Landed(staging) => {
                // At the swap others may commit any moment: old versions can wait.
                let clears = lease.phase != Phase::Swap;
                let dated = tidy::tidy(&self.staging, &staging, clears).await?;
                self.staging = Arc::new(*staging);
                self.lease = lease;
                match dated {
                    Some(dated) => self.time.saw(dated),
                    None => self.see_time().await,
                }
                Ok(())
            }
            Outcome::LostRace { .. } => Err(Lost::TakenOver.error()),
            Outcome::Unknown { error, .. } => Err(Error::interrupted(
                "the store gave no answer to a checkpoint, which may or may not be written; what is there counts",
            )
            .caused_by(error)),
        }
    }

    /// Fails when the journal is not this run's own any more.
    ///
    /// # Errors
    /// `Locked` then; `Failed`, when it cannot be read.
    pub(crate) async fn expect_own(&mut self) -> Result<()> {
        let newest = newest_of(&self.staging, &self.header.id).await?;
        let (newest, lease) = newest.ok_or_else(|| Lost::Dropped.error())?;
        if Some(&lease) == self.attempted.as_ref()
            && newest.version_id() > self.staging.version_id()
        {
            // An attempt whose reply was lost has landed.
            self.staging = Arc::new(newest);
            self.lease = lease;
            return Ok(());
        }
        if lease == self.lease { Ok(()) } else { Err(Lost::Dropped.error()) }
    }

    /// Removes every file of the migration below `live` that is not in `keep` and that no version names, while the
    /// journal is this run's own.
    ///
    /// # Errors
    /// `Locked`, when another run took the journal over; nothing was removed then. `Failed`, when a directory cannot
    /// be listed, or a file is there and cannot be removed.
    ///
    /// # Crash
    /// Calling it again removes the rest.
    pub(crate) async fn remove_orphans(
        &mut self,
        live: &Dataset,
        keep: &HashSet<String>,
    ) -> Result<Removed> {
        let (id, since) = (&self.header.id, self.header.first_version);
        let found = orphans::find(live, id, keep, since, None).await?;
        self.clear_orphans(found).await
    }

    /// Removes the files that were `found` to be the migration's and nobody's any more, while the journal is this run's
    /// own.
    ///
    /// # Errors
    /// `Locked`, when another run took the journal over; nothing was removed then. `Failed`, when a file is there and
    /// cannot be removed.
    ///
    /// # Crash
    /// Finding and removing them again removes the rest.
    pub(crate) async fn clear_orphans(&mut self, found: Orphans) -> Result<Removed> {
        if found.are_none() {
            return Ok(Removed::default());
        }
        // Only after the search: whoever adopted a file since the newest version was read has taken the journal over.
        self.expect_own().await?;
        found.clear().await
    }

    /// What differs between the staging table's config and what this journal holds. A config entry
    /// cannot be removed by an overwrite, so a forgotten chunk's is emptied.
    fn config_changes(&self, lease: &Lease) -> Result<HashMap<String, String>> {
        let mut wanted = HashMap::new();
        wanted.insert(KEY_HEADER.to_owned(), to_json(&self.header)?);
        wanted.insert(KEY_LEASE.to_owned(), to_json(lease)?);
        if self.schema.is_some() {
            wanted.insert(KEY_SCHEMA.to_owned(), "target".to_owned());
        }
        for record in self.records.values() {
            wanted.insert(chunk_key(record.chunk), to_json(record)?);
        }
        let there = &self.staging.manifest().config;
        for key in there.keys().filter(|key| key.starts_with(KEY_CHUNK)) {
            wanted.entry(key.clone()).or_default();
        }
        wanted.retain(|key, text| there.get(key) != Some(text));
        Ok(wanted)
    }

    /// Removes the staging table; the staged files stay where they are. Gives the names of what is left in
    /// its folder: links, and what no table has.
    ///
    /// # Errors
    /// `Failed`, when it cannot be removed.
    ///
    /// # Crash
    /// The journal reads as it does now, or it is gone: its newest version goes last.
    pub(crate) async fn remove(mut self) -> Result<Vec<String>> {
        self.end_beats().await;
        let (files, root) = self.own_folder().await?;
        let tree = files.tree(&root).await?;
        self.remove_tree(files.as_ref(), &root, tree).await
    }

    /// The same, while the journal is this run's own.
    ///
    /// # Errors
    /// `Locked`, when another run took it over; nothing was removed then. `Failed`, when it cannot be removed.
    ///
    /// # Crash
    /// As [`remove`](Self::remove).
    pub(crate) async fn remove_own(mut self) -> Result<Vec<String>> {
        self.end_beats().await;
        let (files, root) = self.own_folder().await?;
        // At once, since a store takes its time.
        let (own, tree) = tokio::join!(self.expect_own(), files.tree(&root));
        own?;
        self.remove_tree(files.as_ref(), &root, tree?).await
    }

    async fn own_folder(&self) -> Result<(Arc<dyn DataFiles>, Path)> {
        Ok((data_files_of(&self.staging).await?, self.staging.branch_location().path))
    }

    /// Removes the `tree` of its folder at `root`.
    async fn remove_tree(
        self,
        files: &dyn DataFiles,
        root: &Path,
        tree: Tree,
    ) -> Result<Vec<String>> {
        let newest = &self.staging.manifest_location().path;
        // While the lock is there, no other run has anything here.
        let left = clear_tree(files, root, tree, Some(newest)).await?;
        files.remove(newest).await?;
        files.remove_empty(root);
        Ok(left)
    }
}
