//! The staging table as the journal: what is committed to it is done, and nothing else is.
//!
//! It is a Lance table beside the live one. Its fragments are the staged ones, whose files lie in the
//! live table's `data/` (its last base path), and whose deletion files lie in its own directory; its table config
//! holds the header, the lease and one record a chunk. Every checkpoint is one strict commit, so a run
//! that lost its lease finds out.

mod beat;
mod record;
mod tidy;
mod wreck;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_table::format::{BasePath, DeletionFile, Fragment};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chunk::{Chunk, ChunkId, Signature, signatures};
use crate::clock::StoreTime;
use crate::error::{Context, Error, Result};
use crate::journal::beat::Beats;
pub(crate) use crate::journal::record::{
    ChunkRecord, Header, LEASE_TIME, Lease, Life, Seen, StagedFile, Undo,
};
pub(crate) use crate::journal::wreck::{Opened, Wreck, clear_unversioned};
use crate::limits::DELETION_FILES_AT_ONCE;
use crate::plan::Strategy;
use crate::plan::catchup::{Follows, Need, Standing, need};
use crate::storage::deletion::{Deleted, Naming};
use crate::storage::files;
use crate::storage::names::is_data_file;
use crate::storage::tree::clear_table;
use crate::table::commit::{Outcome, exactly_next};
use crate::table::open::{Opener, deletions_of};
use crate::table::orphans::{self, Removed};
use crate::transform::digest::DIGEST_VERSION;

/// The layout of what is written here. Another layout is not resumed.
pub(crate) const LAYOUT: u32 = 5;

const KEY_HEADER: &str = "relance.header";
const KEY_LEASE: &str = "relance.lease";
const KEY_CHUNK: &str = "relance.chunk.";
/// Says that the staging table has the target schema.
const KEY_SCHEMA: &str = "relance.schema";

/// The journal of one migration, at the version that this run last wrote or read.
#[derive(Debug)]
pub(crate) struct Journal {
    staging: Arc<Dataset>,
    header: Header,
    lease: Lease,
    /// The target schema, if it is known. Lance numbers the fields of a new table itself: in storage they
    /// have the target's ids from the first checkpoint on.
    schema: Option<Schema>,
    records: BTreeMap<ChunkId, ChunkRecord>,
    /// As they are in the staging table.
    fragments: BTreeMap<ChunkId, Vec<Fragment>>,
    /// The lease of the last checkpoint that was tried.
    attempted: Option<Lease>,
    /// Files that were put since the last checkpoint: nobody else knows of them.
    fresh: Vec<String>,
    /// Files that nothing names any more once the next checkpoint is written.
    doomed: Vec<String>,
    /// What the store's clock says.
    time: Arc<StoreTime>,
    /// What shows that this run is alive.
    beats: Option<Beats>,
}

impl Journal {
    /// Creates the staging table. Only one run can: this is the lock.
    ///
    /// # Errors
    /// `Locked`, when there is one already.
    ///
    /// # Crash
    /// The staging table is there, empty, or it is not.
    pub(crate) async fn create(
        opener: &Opener,
        live: &Dataset,
        header: Header,
        lease: Lease,
        schema: &Schema,
        version: ConcreteFileVersion,
    ) -> Result<Self> {
        let uri = opener.location().staging_uri();
        let text = to_json(&header)?;
        expect_readable(&text, &header)?;
        let mut config = HashMap::new();
        config.insert(KEY_HEADER.to_owned(), text);
        config.insert(KEY_LEASE.to_owned(), to_json(&lease)?);
        let mut bases: Vec<BasePath> = live.manifest().base_paths.values().cloned().collect();
        let id = bases.iter().map(|base| base.id).max().unwrap_or_default() + 1;
        bases.push(BasePath { id, name: None, is_dataset_root: true, path: live.uri().to_owned() });
        let operation = Operation::Overwrite {
            fragments: Vec::new(),
            schema: schema.clone(),
            config_upsert_values: Some(config),
            initial_bases: Some(bases),
        };
        let created = CommitBuilder::new(uri.as_str())
            .with_session(Arc::clone(opener.session()))
            .with_store_params(opener.params().clone())
            .with_storage_format(version.to_selector())
            .with_max_retries(0)
            .with_skip_auto_cleanup(true)
            .execute(TransactionBuilder::new(0, operation).build())
            .await;
        let staging = match created {
            Ok(staging) if staging.version_id() == 1 => staging,
            Ok(_) => return Err(locked(opener)),
            Err(error) => match opener.staging().await {
                // The reply may have been lost: then it is ours.
                Ok(Some(there)) if is_of(&there, &header) => there.as_ref().clone(),
                Ok(Some(_)) => return Err(locked(opener)),
                _ => return Err(error).doing(|| format!("create the staging table {uri}")),
            },
        };
        // As others will read it, who have nothing of this run's in their memory.
        let there = opener.anew().staging().await?;
        let there = there.map(|there| Self::read(there, opener.location().table())).transpose()?;
        if there.is_none_or(|there| there.header != header || there.lease != lease) {
            return Err(Error::failed("the journal does not read back as it was written"));
        }
        Ok(Self {
            staging: Arc::new(staging),
            header,
            lease,
            schema: Some(schema.clone()),
            records: BTreeMap::new(),
            fragments: BTreeMap::new(),
            attempted: None,
            fresh: Vec::new(),
            doomed: Vec::new(),
            time: Arc::default(),
            beats: None,
        })
    }

    /// Reads the journal of the migration that is staged, if one is.
    ///
    /// # Errors
    /// `Refused`, when another version of relance wrote it; `Failed`, when it could not be looked at.
    pub(crate) async fn open(opener: &Opener) -> Result<Option<Self>> {
        match opener.staging().await? {
            None => Ok(None),
            Some(staging) => Self::read(staging, opener.location().table()).map(Some),
        }
    }

    /// Reads the journal in `staging`, the staging table of `table`.
    fn read(staging: Arc<Dataset>, table: &str) -> Result<Self> {
        let config = &staging.manifest().config;
        let header: serde_json::Value = from_config(config, KEY_HEADER)?;
        let number = |name| header.get(name).and_then(serde_json::Value::as_u64);
        let known = [("layout", LAYOUT), ("digests", DIGEST_VERSION)];
        if known.into_iter().any(|(name, ours)| number(name) != Some(u64::from(ours))) {
            return Err(Error::refused(format!(
                "the staged migration of `{table}` was written by another version of relance, in a \
                 layout that this one does not read"
            ))
            .with_advice("resume it with that version, or drop it with `relance abort`"));
        }
        let header: Header = from_config(config, KEY_HEADER)?;
        let lease: Lease = from_config(config, KEY_LEASE)?;
        let mut records = BTreeMap::new();
        let chunks = config.iter().filter(|(key, _)| key.starts_with(KEY_CHUNK));
        for (key, _) in chunks.filter(|(_, text)| !text.is_empty()) {
            let record: ChunkRecord = from_config(config, key)?;
            records.insert(record.chunk, record);
        }
        validate(&header, &records)?;
        let fragments = fragments_by_chunk(&staging, &mut records);
        let (fresh, doomed) = (Vec::new(), Vec::new());
        let attempted = None;
        let schema = config.contains_key(KEY_SCHEMA).then(|| staging.schema().clone());
        Ok(Self {
            staging,
            header,
            lease,
            schema,
            records,
            fragments,
            attempted,
            fresh,
            doomed,
            time: Arc::default(),
            beats: None,
        })
    }

    /// What the migration is.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Who runs it.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The target schema, if it is known: a run that died before its first checkpoint did not tell.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    /// Tells the target schema, if it is not known. Durable with the next checkpoint.
    pub(crate) fn expect_schema(&mut self, schema: &Schema) {
        self.schema.get_or_insert_with(|| schema.clone());
    }

    /// How what is staged follows the source.
    fn follows(&self) -> Follows {
        if self.header.strategy == Strategy::Columns {
            Follows::Aligned
        } else if self.header.request.filter.is_some() {
            Follows::Unmapped
        } else {
            Follows::Mapped
        }
    }

    /// The base path of the live table: the last one.
    fn live_base(&self) -> Option<u32> {
        self.staging.manifest().base_paths.keys().max().copied()
    }

    /// The chunks that are done, in row order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &ChunkRecord> {
        self.records.values()
    }

    /// The record of `chunk`, if it is done.
    pub(crate) fn record(&self, chunk: ChunkId) -> Option<&ChunkRecord> {
        self.records.get(&chunk)
    }

    /// The staged fragments of `chunk`, as they are in the staging table.
    pub(crate) fn fragments(&self, chunk: ChunkId) -> &[Fragment] {
        self.fragments.get(&chunk).map_or(&[], Vec::as_slice)
    }

    /// The staging table.
    pub(crate) fn staging(&self) -> &Arc<Dataset> {
        &self.staging
    }

    /// All staged fragments, in row order, as they are in the staging table.
    pub(crate) fn all_fragments(&self) -> Vec<Fragment> {
        self.fragments.values().flatten().cloned().collect()
    }

    /// What `chunk` needs.
    pub(crate) fn need(&self, chunk: &Chunk, now: DateTime<Utc>) -> Need {
        let standing = self.records.get(&chunk.id).map(|record| Standing {
            origins: &record.origins,
            rows: record.rows,
            verified: record.verified.is_some(),
            modified: record.files.iter().map(|file| file.modified).min(),
        });
        need(chunk, standing, self.follows(), now)
    }

    /// The runs of source fragments that are staged.
    pub(crate) fn runs(&self) -> Vec<Vec<Signature>> {
        self.records.values().map(|record| signatures(&record.origins)).collect()
    }

    /// Takes in what was staged for a chunk, in place of what there was. Durable with the next
    /// checkpoint.
    pub(crate) fn put(&mut self, record: ChunkRecord, mut fragments: Vec<Fragment>) {
        let base = self.live_base();
        for fragment in &mut fragments {
            for file in &mut fragment.files {
                file.base_id = file.base_id.or(base);
            }
        }
        let chunk = record.chunk;
        let names = |record: ChunkRecord| record.files.into_iter().map(|file| file.name);
        let new: HashSet<_> = names(record.clone()).collect();
        let old = self.records.insert(chunk, record);
        let old: HashSet<_> = old.into_iter().flat_map(names).collect();
        self.fresh.extend(new.difference(&old).cloned());
        self.doomed.extend(old.difference(&new).cloned());
        self.fragments.insert(chunk, fragments);
    }

    /// The files that were put since the last checkpoint.
    pub(crate) fn take_fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// Has `files` removed after the next checkpoint: nothing names them.
    pub(crate) fn doom(&mut self, files: impl IntoIterator<Item = String>) {
        self.doomed.extend(files);
    }

    /// The files that nothing names since the last checkpoint.
    pub(crate) fn take_doomed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.doomed)
    }

    /// Forgets `chunk`: its files are not what they were. Durable with the next checkpoint.
    pub(crate) fn forget(&mut self, chunk: ChunkId) {
        if let Some(record) = self.records.remove(&chunk) {
            self.doomed.extend(record.files.into_iter().map(|file| file.name));
        }
        self.fragments.remove(&chunk);
    }

    /// Forgets every chunk. Durable with the next checkpoint.
    pub(crate) fn forget_all(&mut self) {
        self.records.clear();
        self.fragments.clear();
    }

    /// Has the files of `chunk` verified again. Durable with the next checkpoint.
    pub(crate) fn distrust(&mut self, chunk: ChunkId) {
        if let Some(record) = self.records.get_mut(&chunk) {
            record.verified = None;
        }
    }

    /// Moves the journal to another version of the source, cut into `chunks`: what was staged for the
    /// same source fragments is kept, under its new place; the rest is forgotten. Durable with the next
    /// checkpoint.
    pub(crate) fn move_to(&mut self, source_version: u64, chunks: &[Chunk]) {
        let old = std::mem::take(&mut self.records);
        let mut old_fragments = std::mem::take(&mut self.fragments);
        let mut by_run: HashMap<Vec<Signature>, ChunkRecord> = HashMap::new();
        for record in old.into_values() {
            by_run.insert(signatures(&record.origins), record);
        }
        for chunk in chunks {
            let Some(record) = by_run.remove(&chunk.signatures()) else {
                continue;
            };
            let fragments = old_fragments.remove(&record.chunk).unwrap_or_default();
            self.fragments.insert(chunk.id, fragments);
            self.records.insert(chunk.id, ChunkRecord { chunk: chunk.id, ..record });
        }
        let gone = by_run.into_values().flat_map(|record| record.files);
        self.doomed.extend(gone.map(|file| file.name));
        self.header.source_version = source_version;
        self.header.chunks = chunks.len() as u64;
        self.header.rows = chunks.iter().map(Chunk::rows).sum();
    }

    /// Makes what was put and forgotten durable, and who stands where, in one strict commit; where nothing
    /// is new, it only makes sure that the journal is still this run's. One that lets go is not seen to be
    /// alive any more.
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
        let mut fragments = self.all_fragments();
        for fragment in &mut fragments {
            fragment.deletion_file = None;
        }
        let operation = Operation::Overwrite {
            fragments,
            schema: self.schema.clone().unwrap_or_else(|| self.staging.schema().clone()),
            config_upsert_values: Some(changes),
            initial_bases: None,
        };
        self.commit(operation, lease).await
    }

    /// Commits `operation`, which writes `lease`, as the next version of the staging table.
    async fn commit(&mut self, operation: Operation, lease: Lease) -> Result<()> {
        let committed = exactly_next(&self.staging, operation, HashMap::new()).await;
        if !matches!(committed, Ok(Outcome::LostRace { .. })) {
            // They may be durable by now, and others' to name.
            self.fresh.clear();
        }
        match committed? {
            Outcome::Landed(staging) => {
                tidy::tidy(&self.staging, &staging).await?;
                self.staging = Arc::new(*staging);
                self.lease = lease;
                self.see_time().await;
                Ok(())
            }
            Outcome::LostRace { .. } => Err(Error::locked(
                "another run took this migration over; this one stops, and has changed nothing since",
            )),
            Outcome::Unknown { error, .. } => Err(Error::interrupted(
                "the store gave no answer to a checkpoint, which may or may not be written; what is there counts",
            )
            .caused_by(error)),
        }
    }

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
        let committed = exactly_next(&self.staging, deleted_rows(fragments), HashMap::new()).await;
        match committed? {
            Outcome::Landed(staging) => self.staging = Arc::new(*staging),
            // Only a view: a run that lost its place finds out at its next checkpoint.
            Outcome::LostRace { .. } | Outcome::Unknown { .. } => {}
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

    /// Fails when the staging table is not the one that this journal was read from: another run may have
    /// dropped it, and another migration may stand in its place, at the same version.
    ///
    /// # Errors
    /// `Locked` then; `Failed`, when it cannot be read.
    pub(crate) async fn expect_own(&mut self) -> Result<()> {
        let lost = || {
            Error::locked(
                "another run dropped this migration; this one stops, and has changed nothing since",
            )
        };
        let mut newest = self.staging.as_ref().clone();
        match newest.checkout_latest().await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Err(lost()),
            Err(error) => return Err(error).doing(|| "read the journal".to_owned()),
        }
        let config = &newest.manifest().config;
        let header: Result<Header> = from_config(config, KEY_HEADER);
        let lease: Result<Lease> = from_config(config, KEY_LEASE);
        let lease = lease.map_err(|_| lost())?;
        if header.map_or(true, |header| header.id != self.header.id) {
            return Err(lost());
        }
        if Some(&lease) == self.attempted.as_ref()
            && newest.version_id() > self.staging.version_id()
        {
            // An attempt whose reply was lost has landed.
            self.staging = Arc::new(newest);
            self.lease = lease;
            return Ok(());
        }
        if lease == self.lease { Ok(()) } else { Err(lost()) }
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
        self.expect_own().await?;
        found.remove().await
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
        let store = self.staging.object_store(None).await;
        let store = store.doing(|| "open the staging table's store".to_owned())?;
        let root = self.staging.branch_location().path;
        let newest = &self.staging.manifest_location().path;
        // While the lock is there, no other run has anything here.
        let files = files::of(&store);
        let left = clear_table(files.as_ref(), &root, Some(newest)).await?;
        files.remove(newest).await?;
        files.remove_empty(&root);
        Ok(left)
    }
}

/// Where it stands which rows of a staged file are deleted.
enum Deletion<'a> {
    /// In a deletion file of the staging table.
    Staged(&'a Deleted),
    /// In that of the source fragment of this number.
    Source(u64, &'a DeletionFile),
}

/// The name of the file of `staged` that the migration `id` wrote.
pub(crate) fn own_file<'a>(staged: &'a Fragment, id: &str) -> Option<&'a str> {
    let mut names = staged.files.iter().map(|file| file.path.as_str());
    names.find(|name| is_data_file(name, id))
}

/// Fails when `text` does not read as `header`: nobody could go on with such a journal, or drop it.
fn expect_readable(text: &str, header: &Header) -> Result<()> {
    let read: std::result::Result<Header, _> = serde_json::from_str(text);
    match read {
        Ok(read) if read == *header => Ok(()),
        Ok(_) => {
            Err(Error::failed("the request does not read back as it is; this is a bug in relance"))
        }
        Err(error) => {
            let message = "the request cannot be read back; this is a bug in relance";
            Err(Error::failed(message).caused_by(error))
        }
    }
}

/// The error of those who find a migration staged.
pub(crate) fn locked(opener: &Opener) -> Error {
    let table = opener.location().table();
    Error::locked(format!("a migration of `{table}` is staged already"))
}

/// The operation that gives `fragments` their deletion files.
pub(crate) fn deleted_rows(fragments: Vec<Fragment>) -> Operation {
    Operation::Delete {
        updated_fragments: fragments,
        deleted_fragment_ids: Vec::new(),
        predicate: "deleted from the source while it was staged".to_owned(),
    }
}

/// Whether `id` is one that relance gives a migration: what it names is found by it, and an empty one would
/// match everything.
pub(crate) fn is_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Fails unless every name and number is one that relance writes: files are removed by what stands here.
fn validate(header: &Header, records: &BTreeMap<ChunkId, ChunkRecord>) -> Result<()> {
    let damaged = |what: &str| Error::refused(format!("the journal is damaged: {what}"));
    let undone = header.undo.as_ref().map(|undo| undo.id.as_str());
    if !is_id(&header.id) || undone.is_some_and(|id| !is_id(id)) {
        return Err(damaged("its migration's id is none"));
    }
    let own = |name: &str| is_data_file(name, &header.id) && !name.contains(['/', '\\']);
    for record in records.values() {
        let known = |name: &String| record.files.iter().any(|file| file.name == *name);
        let names = record.files.iter().all(|file| own(&file.name));
        let deleted = record.deletions.keys().all(known) && record.deleted <= record.rows;
        if !names || !deleted || !record.beside.keys().all(known) {
            return Err(damaged(&format!(
                "chunk {} names files that are not its own",
                record.chunk
            )));
        }
    }
    Ok(())
}

fn is_of(staging: &Dataset, header: &Header) -> bool {
    let there: Result<Header> = from_config(&staging.manifest().config, KEY_HEADER);
    there.is_ok_and(|there| there.id == header.id)
}

fn chunk_key(chunk: ChunkId) -> String {
    format!("{KEY_CHUNK}{:08}", chunk.0)
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).doing(|| "write the journal as JSON".to_owned())
}

fn from_config<T: DeserializeOwned>(config: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = config.get(key).ok_or_else(|| {
        let what = format!("the staging table is not a journal of relance's: it has no `{key}`");
        Error::refused(what).with_advice("if nobody needs it, drop that table with LanceDB")
    })?;
    serde_json::from_str(text).doing(|| format!("read `{key}` of the journal"))
}

/// The staging table's fragments by the chunk that names their file. A record whose files the manifest
/// does not name was forgotten, and is left out.
fn fragments_by_chunk(
    staging: &Dataset,
    records: &mut BTreeMap<ChunkId, ChunkRecord>,
) -> BTreeMap<ChunkId, Vec<Fragment>> {
    let mut by_file: HashMap<&str, &Fragment> = HashMap::new();
    for fragment in staging.iter_fragments() {
        for file in &fragment.files {
            by_file.insert(&file.path, fragment);
        }
    }
    let mut chunks = BTreeMap::new();
    records.retain(|chunk, record| {
        let found = record.files.iter().map(|file| {
            let fragment = by_file.get(file.name.as_str())?;
            let deleted = record.deletions.get(&file.name);
            Some(staged(fragment, deleted.map(|deleted| deleted.file.clone())))
        });
        let Some(found) = found.collect::<Option<Vec<_>>>() else { return false };
        chunks.insert(*chunk, found);
        true
    });
    chunks
}

/// A fragment without what Lance adds to it.
fn staged(fragment: &Fragment, deletions: Option<DeletionFile>) -> Fragment {
    let mut plain = Fragment::new(0);
    plain.physical_rows = fragment.physical_rows;
    plain.files.clone_from(&fragment.files);
    plain.deletion_file = deletions;
    plain
}
