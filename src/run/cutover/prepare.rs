//! The operation that swaps: what the one commit on the live table will be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_table::format::{DataFile, Fragment, IndexMetadata};
use object_store::path::Path;

use crate::error::{Error, Result};
use crate::journal::{Journal, deleted_rows, own_file};
use crate::limits::DELETION_FILES_AT_ONCE;
use crate::plan::fragment_ids::FragmentIds;
use crate::plan::{Plan, Strategy};
use crate::run::prebuilt::left_behind;
use crate::run::session::Session;
use crate::storage::deletion::{Deleted, Naming};
use crate::storage::names::is_data_file;
use crate::table::commit::detach;
use crate::table::open::{data_files_of, deletions_of};
use crate::table::{index, row_version};
use crate::verify::published;
use crate::verify::published::Published;

/// The swap's operation, and the files that it was prepared with.
pub(crate) struct Prepared {
    pub(crate) operation: Operation,
    /// The storage version that the table gets, where it changes.
    pub(crate) storage_version: Option<ConcreteFileVersion>,
    /// Detached versions, each made from the one before.
    pub(super) versions: Vec<Arc<Dataset>>,
    deletions: Vec<Path>,
    /// The indices that were built before the swap, as they are put into the last version.
    new_indices: Vec<IndexMetadata>,
}

impl Prepared {
    /// The operation for what is planned and staged. Where Lance needs more than one, they are prepared as
    /// detached versions, and the last one is restored: the live table still goes from the old to the new
    /// in one commit, indices included.
    pub(crate) async fn of(session: &mut Session) -> Result<Self> {
        let indexed = !session.prebuilt.indices.is_empty();
        let mut prepared = Self::rows(session, indexed).await?;
        if let (true, Some(last)) = (indexed, prepared.versions.last().cloned()) {
            let version = session.source.version_id() + 1;
            let new_indices = session.prebuilt.fitting(&last, version);
            prepared.new_indices.clone_from(&new_indices);
            let operation = Operation::CreateIndex { new_indices, removed_indices: Vec::new() };
            let id = session.journal.header().id.clone();
            prepared.versions.push(detach(&last, operation, None, &id).await?);
            prepared.restore();
        }
        Ok(prepared)
    }

    /// As [`of`](Self::of), without indices. With `detached`, prepared as a detached version in any case.
    pub(super) async fn rows(session: &mut Session, detached: bool) -> Result<Self> {
        let (live, plan, journal) = (&session.source, &session.plan, &session.journal);
        match plan.strategy {
            Strategy::Nothing => {
                Err(Error::failed("there is nothing to swap; this is a bug in relance"))
            }
            Strategy::Rewrite if detached => {
                let numbering = &mut session.prebuilt.numbering;
                Self::numbered(live, plan, journal, numbering).await
            }
            Strategy::Rewrite => Self::rewritten(live, plan, journal).await,
            Strategy::Metadata | Strategy::Columns => {
                // An earlier release left numbers in the rows that no version had.
                let version = live.version_id() + 1;
                let stamped = row_version::restamped(live.fragments(), version)?;
                Self::beside(live, plan, journal, detached || stamped.is_some()).await
            }
        }
    }

    fn plain(operation: Operation) -> Self {
        Self {
            operation,
            storage_version: None,
            versions: Vec::new(),
            deletions: Vec::new(),
            new_indices: Vec::new(),
        }
    }

    /// An overwrite, where no staged row is deleted. Lance allows no deletion files in one.
    async fn rewritten(live: &Arc<Dataset>, plan: &Plan, journal: &Journal) -> Result<Self> {
        let staged = journal.all_fragments();
        let overwrite = overwrite(plan, staged.iter().map(whole).collect());
        let storage_version = new_storage_version(plan);
        if staged.iter().all(|fragment| fragment.deletion_file.is_none()) {
            return Ok(Self { storage_version, ..Self::plain(overwrite) });
        }
        let all = detach(live, overwrite, storage_version, &journal.header().id).await?;
        let mut prepared = Self { versions: vec![all], ..Self::plain(restore_of(0)) };
        prepared.delete(live, journal).await?;
        prepared.stamp(live, &journal.header().id).await?;
        prepared.restore();
        Ok(prepared)
    }

    /// An overwrite whose fragments have the ids that were chosen for them: Lance numbers those of an
    /// `Overwrite` itself, and takes those of an `Append` as they are.
    async fn numbered(
        live: &Arc<Dataset>,
        plan: &Plan,
        journal: &Journal,
        numbering: &mut FragmentIds,
    ) -> Result<Self> {
        let id = &journal.header().id;
        let staged = journal.all_fragments();
        let names: Option<Vec<&str>> = staged.iter().map(|one| own_file(one, id)).collect();
        let names = names.ok_or_else(|| Error::mismatch("a staged fragment has no file"))?;
        let used = u64::from(live.manifest().max_fragment_id.unwrap_or_default());
        let ids = numbering.assign(&names, used);
        let numbered = staged.iter().zip(ids).map(|(one, id)| Fragment { id, ..whole(one) });
        let fragments = numbered.collect();
        let empty = overwrite(plan, Vec::new());
        let empty = detach(live, empty, new_storage_version(plan), id).await?;
        let all = detach(&empty, Operation::Append { fragments }, None, id).await?;
        let mut prepared = Self { versions: vec![empty, all], ..Self::plain(restore_of(0)) };
        prepared.delete(live, journal).await?;
        prepared.stamp(live, &journal.header().id).await?;
        prepared.restore();
        Ok(prepared)
    }

    /// Deletes the rows that are deleted from what is staged, in one more version.
    async fn delete(&mut self, live: &Arc<Dataset>, journal: &Journal) -> Result<()> {
        let Some(all) = self.versions.last().cloned() else { return Ok(()) };
        let id = &journal.header().id;
        let staged = journal.records().flat_map(|record| &record.deletions);
        let staged: HashMap<&str, &Deleted> =
            staged.map(|(name, deleted)| (name.as_str(), deleted)).collect();
        let staging = &deletions_of(journal.staging()).await?;
        let own = &deletions_of(live).await?;
        let version = live.version_id();
        let adopted = all.iter_fragments().filter_map(|there| {
            let deleted = *staged.get(own_file(there, id)?)?;
            let adopt = async move {
                let naming = Naming::Of { fragment: there.id, version };
                let adopted = staging.copy_staged(deleted, own, naming, id).await?;
                Ok::<_, Error>((there.clone(), adopted))
            };
            Some(adopt.boxed())
        });
        let adopted: Vec<_> = adopted.collect();
        let mut adopted = stream::iter(adopted).buffered(DELETION_FILES_AT_ONCE);
        let mut deleted = Vec::new();
        while let Some((there, adopted)) = adopted.try_next().await? {
            self.deletions.push(own.path(there.id, &adopted.file));
            deleted.push(Fragment { deletion_file: Some(adopted.file), ..there });
        }
        drop(adopted);
        if !deleted.is_empty() {
            self.versions.push(detach(&all, deleted_rows(deleted), None, id).await?);
        }
        Ok(())
    }

    /// Has the rows bear the number of the swap, where Lance gave them that of a version which is only prepared: one more
    /// version, with the same files.
    async fn stamp(&mut self, live: &Dataset, id: &str) -> Result<()> {
        let Some(last) = self.versions.last().cloned() else { return Ok(()) };
        if let Some(fragments) = row_version::restamped(last.fragments(), live.version_id() + 1)? {
            let schema = last.schema().clone();
            let same = Operation::Merge { fragments, schema, preserves_nullability: false };
            self.versions.push(detach(&last, same, None, id).await?);
        }
        Ok(())
    }

    /// What is new goes beside what is there: names, nullability and dropped columns by a `Project`, new
    /// columns by a `Merge`. Lance's `Merge` takes no other name and no other nullability for a field, nor
    /// the name of one that goes (lance-table 14 `src/transaction/validate.rs`).
    async fn beside(
        live: &Arc<Dataset>,
        plan: &Plan,
        journal: &Journal,
        detached: bool,
    ) -> Result<Self> {
        let id = &journal.header().id;
        let kept = kept_schema(plan);
        let adds = kept.fields.len() < plan.target.schema.fields.len();
        let project = Operation::Project { schema: kept, preserves_nullability: true };
        if !adds && !detached {
            return Ok(Self::plain(project));
        }
        let projects = !adds || plan.target.renames_or_drops();
        if !projects && !detached {
            return Ok(Self::plain(merge(live, plan, journal)?));
        }
        let mut versions = Vec::new();
        if projects {
            versions.push(detach(live, project, None, id).await?);
        }
        if adds {
            let on = versions.last().unwrap_or(live);
            let operation = merge(on, plan, journal)?;
            versions.push(detach(on, operation, None, id).await?);
        }
        let last = versions.last().unwrap_or(live);
        let removed_indices = left_behind(last, plan).await?;
        if !removed_indices.is_empty() {
            let operation = Operation::CreateIndex { new_indices: Vec::new(), removed_indices };
            versions.push(detach(last, operation, None, id).await?);
        }
        let mut prepared = Self { versions, ..Self::plain(restore_of(0)) };
        prepared.stamp(live, id).await?;
        prepared.restore();
        Ok(prepared)
    }

    /// What the swap will publish, as it lies in the store.
    ///
    /// # Errors
    /// `Mismatch`, when the last of the prepared versions is not the one that was written.
    pub(crate) async fn published(&self, live: &Dataset) -> Result<Published> {
        match self.versions.last() {
            Some(last) => published::read_prepared(last, &self.new_indices, live).await,
            None => published::of_operation(live, &self.operation),
        }
    }

    /// Compares the files of the indices that were built before the swap with what they were then, and sees
    /// that Lance opens them.
    ///
    /// # Errors
    /// `Mismatch`, naming the index.
    pub(crate) async fn expect_indices(&self, session: &Session) -> Result<()> {
        let prebuilt = &session.prebuilt;
        let (Some(last), false) = (self.versions.last(), prebuilt.indices.is_empty()) else {
            return Ok(());
        };
        let as_they_were = prebuilt.expect_files(&session.source).await;
        as_they_were
            .map_err(|error| error.with_advice("not swapped; `resume` builds them again"))?;
        let opened = index::facts(last).await?;
        match opened.into_iter().find_map(|one| Some((one.name, one.unknown?))) {
            None => Ok(()),
            Some((name, why)) => Err(Error::mismatch(format!(
                "index `{name}` was built for the swap and cannot be opened: {why}"
            ))),
        }
    }

    /// Puts the last of the detached versions in place.
    fn restore(&mut self) {
        self.operation = restore_of(self.versions.last().map_or(0, |last| last.version_id()));
    }

    /// Removes what nobody can reach any more: the detached versions and, of a swap that was `lost`, its
    /// deletion files.
    pub(crate) async fn tidy(&self, live: &Dataset, lost: bool) -> Result<()> {
        let files = data_files_of(live).await?;
        let lost = if lost { self.deletions.as_slice() } else { &[] };
        let manifests =
            self.versions.iter().map(|version| version.manifest_location().path.clone());
        let transactions = self.versions.iter().filter_map(|version| {
            let name = version.manifest().transaction_file.as_deref()?;
            Some(version.transactions_dir().join(name))
        });
        let lost = lost.iter().cloned();
        files.remove_all(manifests.chain(transactions).chain(lost).collect()).await
    }
}

fn restore_of(version: u64) -> Operation {
    Operation::Restore { version }
}

fn overwrite(plan: &Plan, fragments: Vec<Fragment>) -> Operation {
    Operation::Overwrite {
        fragments,
        schema: plan.target.schema.clone(),
        config_upsert_values: None,
        initial_bases: None,
    }
}

/// A staged fragment as the live table has it before any of its rows are deleted.
fn whole(staged: &Fragment) -> Fragment {
    let mut whole = Fragment { deletion_file: None, ..staged.clone() };
    for file in &mut whole.files {
        file.base_id = None;
    }
    whole
}

fn new_storage_version(plan: &Plan) -> Option<ConcreteFileVersion> {
    (plan.storage_version != plan.storage_version_before).then_some(plan.storage_version)
}

/// The target without the columns that are new.
fn kept_schema(plan: &Plan) -> Schema {
    let target = &plan.target;
    let pairs = target.schema.fields.iter().zip(&target.columns);
    let kept = pairs.filter(|(_, column)| column.is_kept()).map(|(field, _)| field.clone());
    Schema { fields: kept.collect(), metadata: target.schema.metadata.clone() }
}

/// The fragments of `on` with the staged file of each beside their own; files that hold nothing any more
/// are named no more, as Lance's own casts do it.
fn merge(on: &Dataset, plan: &Plan, journal: &Journal) -> Result<Operation> {
    let schema = plan.target.schema.clone();
    let ids: HashSet<i32> = schema.fields_pre_order().map(|field| field.id).collect();
    let mut staged = files_beside(journal);
    let mut fragments = on.fragments().as_ref().clone();
    if plan.strategy == Strategy::Columns {
        for fragment in &mut fragments {
            let id = fragment.id;
            let file = staged
                .remove(&id)
                .ok_or_else(|| Error::mismatch(format!("nothing is staged for fragment {id}")))?;
            let spilled = fragment.spilled_row_lineage_field_ids();
            fragment.files.retain(|file| {
                file.fields.iter().any(|field| ids.contains(field) || spilled.contains(field))
            });
            fragment.files.push(file);
        }
    }
    Ok(Operation::Merge { fragments, schema, preserves_nullability: false })
}

/// The staged file of each source fragment, by its id.
fn files_beside(journal: &Journal) -> HashMap<u64, DataFile> {
    let id = &journal.header().id;
    let mut files = HashMap::new();
    for record in journal.records() {
        for fragment in journal.fragments(record.chunk) {
            let own = fragment.files.iter().find(|file| is_data_file(&file.path, id));
            if let Some(file) = own
                && let Some(source) = record.beside.get(&file.path)
            {
                files.insert(*source, DataFile { base_id: None, ..file.clone() });
            }
        }
    }
    files
}
