//! Showing in the staging table which rows are deleted.

use crate::journal::{Journal, own_file};
use crate::storage::deletion::{Deleted, Naming};
use crate::table::commit::{Outcome, exactly_next};
use crate::{
    error::Result, limits::DELETION_FILES_AT_ONCE, plan::catchup::Follows,
    table::open::deletions_of,
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::{Dataset, dataset::transaction::Operation};
use lance_table::format::{DeletionFile, Fragment};
use std::{collections::HashMap, sync::Arc};

impl Journal {
    /// Lets those who open the staging table see that rows are deleted, until the next checkpoint.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint).
    pub(crate) async fn show_deletions(&mut self, live: &Dataset) -> Result<()> {
        let deleted = self.deletions(live);
        let shown = self.staging.iter_fragments().filter_map(|there| {
            let deletion = deleted.get(own_file(there, &self.header.id)?)?;
            Some(self.show(there, deletion, live).boxed())
        });
        let shown: Vec<_> = shown.collect();
        let fragments: Vec<Fragment> =
            stream::iter(shown).buffered(DELETION_FILES_AT_ONCE).try_collect().await?;
        if fragments.is_empty() {
            return Ok(());
        }
        let shown = deleted_rows(fragments);
        let shown = exactly_next(&self.staging, shown, None, HashMap::new()).await?;
        // Otherwise nothing: a run that lost its place finds out at its next checkpoint.
        if let Outcome::Landed(staging) = shown {
            self.staging = Arc::new(*staging);
        }
        Ok(())
    }

    /// The fragment `there` of the staging table with the rows deleted of which `deletion` tells.
    async fn show(
        &self,
        there: &Fragment,
        deletion: &Deletion<'_>,
        live: &Dataset,
    ) -> Result<Fragment> {
        let (own, id) = (deletions_of(&self.staging).await?, &self.header.id);
        let naming = Naming::Of { fragment: there.id, version: self.staging.version_id() };
        let deleted = match deletion {
            Deletion::Staged(deleted) => own.copy_staged(deleted, &own, naming, id).await?,
            Deletion::Source(number, file) => {
                let rows = deletions_of(live).await?.read(*number, Some(file)).await?;
                own.write(naming, &rows, id).await?
            }
        };
        Ok(Fragment { deletion_file: Some(deleted.file), ..there.clone() })
    }

    /// Where it stands which rows of each staged file are deleted, by the file's name.
    fn deletions<'a>(&'a self, live: &'a Dataset) -> HashMap<&'a str, Deletion<'a>> {
        if self.follows() != Follows::Aligned {
            let staged = self.records.values().flat_map(|record| &record.deletions);
            return staged.map(|(name, one)| (name.as_str(), Deletion::Staged(one))).collect();
        }
        // Those of the source, as it is now: what is staged stands beside all of its rows.
        let now = live.iter_fragments();
        let now = now.filter_map(|one| Some((one.id, one.deletion_file.as_ref()?)));
        let now: HashMap<u64, &DeletionFile> = now.collect();
        let beside = self.records.values().flat_map(|record| &record.beside);
        let found = beside.filter_map(|(name, source)| {
            Some((name.as_str(), Deletion::Source(*source, now.get(source)?)))
        });
        found.collect()
    }
}

/// Where it stands which rows of a staged file are deleted.
enum Deletion<'a> {
    /// In a deletion file of the staging table.
    Staged(&'a Deleted),
    /// In that of the source fragment of this number.
    Source(u64, &'a DeletionFile),
}

/// The operation that gives `fragments` their deletion files.
pub(crate) fn deleted_rows(fragments: Vec<Fragment>) -> Operation {
    Operation::Delete {
        updated_fragments: fragments,
        deleted_fragment_ids: Vec::new(),
        predicate: "deleted from the source while it was staged".to_owned(),
    }
}
