//! The staging table as the journal: what is committed to it is done, and nothing else is.
//!
//! It is a Lance table beside the live one. Its fragments are the staged ones, whose files lie in the
//! live table's `data/` (base path 1); its table config holds the header, the lease and one record a
//! chunk. Every checkpoint is one strict commit, so a run that lost its lease finds out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lance::Dataset;
use lance::dataset::CommitBuilder;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_table::format::{BasePath, Fragment};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkId, Signature};
use crate::commit::{Outcome, exactly_next};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::phase::Phase;
use crate::plan::Request;
use crate::table::Opener;

/// The layout of what is written here. Another layout is not resumed.
pub(crate) const LAYOUT: u32 = 1;

const KEY_HEADER: &str = "relance.header";
const KEY_LEASE: &str = "relance.lease";
const KEY_CHUNK: &str = "relance.chunk.";

/// The base path of the live table in the staging table's manifest.
const LIVE_BASE: u32 = 1;

/// What the migration is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The layout of the journal.
    pub layout: u32,
    /// The migration's id, in its files' names, its tag and its commits.
    pub id: String,
    /// The version of relance that began it.
    pub relance: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// The pinned version of the live table.
    pub source_version: u64,
    /// What was asked, `now` spelled out.
    pub request: Request,
    /// Rows after which a staged file is closed.
    pub rows_per_file: u64,
    /// Chunks in all.
    pub chunks: u64,
    /// Rows in all.
    pub rows: u64,
}

/// Who runs the migration, and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The machine.
    pub host: String,
    /// The process on it.
    pub pid: u32,
    /// Tells two runs of one process apart.
    pub run: String,
    /// When it was last seen.
    pub beat: DateTime<Utc>,
    /// Where it stood.
    pub phase: Phase,
    /// Whether it let go in an orderly way.
    pub released: bool,
}

/// A staged file as it was when it was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// Its name in the live table's `data/`.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// When the store says that it was last modified.
    pub modified: DateTime<Utc>,
}

/// A chunk that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRecord {
    /// Which.
    pub chunk: ChunkId,
    /// The source fragments that it holds, in order.
    pub sources: Vec<Signature>,
    /// Rows.
    pub rows: u64,
    /// Its files, in row order.
    pub files: Vec<StagedFile>,
    /// A digest for each column of the expected rows.
    pub digests: Vec<Digest>,
    /// Whether its files were compared with the digests.
    pub verified: bool,
}

/// The journal of one migration, at the version that this run last wrote or read.
#[derive(Debug)]
pub(crate) struct Journal {
    staging: Arc<Dataset>,
    header: Header,
    lease: Lease,
    records: BTreeMap<ChunkId, ChunkRecord>,
    fragments: BTreeMap<ChunkId, Vec<Fragment>>,
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
        let mut config = HashMap::new();
        config.insert(KEY_HEADER.to_owned(), to_json(&header)?);
        config.insert(KEY_LEASE.to_owned(), to_json(&lease)?);
        let base = BasePath {
            id: LIVE_BASE,
            name: None,
            is_dataset_root: true,
            path: live.uri().to_owned(),
        };
        let operation = Operation::Overwrite {
            fragments: Vec::new(),
            schema: schema.clone(),
            config_upsert_values: Some(config),
            initial_bases: Some(vec![base]),
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
            Err(error) => {
                if let Ok(Some(_)) = opener.staging().await {
                    return Err(locked(opener));
                }
                return Err(error).doing(|| format!("create the staging table {uri}"));
            }
        };
        Ok(Self {
            staging: Arc::new(staging),
            header,
            lease,
            records: BTreeMap::new(),
            fragments: BTreeMap::new(),
        })
    }

    /// Reads the journal of the migration that is staged, if one is.
    ///
    /// # Errors
    /// `Refused`, when another version of relance wrote it; `Failed`, when it could not be looked at.
    pub(crate) async fn open(opener: &Opener) -> Result<Option<Self>> {
        let Some(staging) = opener.staging().await? else {
            return Ok(None);
        };
        let config = &staging.manifest().config;
        let header: serde_json::Value = from_config(config, KEY_HEADER)?;
        let layout = header.get("layout").and_then(serde_json::Value::as_u64);
        if layout != Some(u64::from(LAYOUT)) {
            let table = opener.location().table();
            return Err(Error::refused(format!(
                "the staged migration of `{table}` was written by another version of relance, in a \
                 layout that this one does not read"
            ))
            .with_advice("resume it with that version, or abort it with that version"));
        }
        let header: Header = from_config(config, KEY_HEADER)?;
        let lease: Lease = from_config(config, KEY_LEASE)?;
        let mut records = BTreeMap::new();
        let chunks = config.iter().filter(|(key, _)| key.starts_with(KEY_CHUNK));
        for (key, _) in chunks.filter(|(_, text)| !text.is_empty()) {
            let record: ChunkRecord = from_config(config, key)?;
            records.insert(record.chunk, record);
        }
        let fragments = fragments_by_chunk(&staging, &mut records);
        Ok(Some(Self { staging, header, lease, records, fragments }))
    }

    /// What the migration is.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Who runs it.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The target schema.
    pub(crate) fn schema(&self) -> &Schema {
        self.staging.schema()
    }

    /// The chunks that are done, in row order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &ChunkRecord> {
        self.records.values()
    }

    /// The record of `chunk`, if it is done.
    pub(crate) fn record(&self, chunk: ChunkId) -> Option<&ChunkRecord> {
        self.records.get(&chunk)
    }

    /// The staged fragments of `chunk`, named relative to the live table.
    pub(crate) fn fragments(&self, chunk: ChunkId) -> &[Fragment] {
        self.fragments.get(&chunk).map_or(&[], Vec::as_slice)
    }

    /// All staged fragments, in row order, named relative to the live table.
    pub(crate) fn all_fragments(&self) -> Vec<Fragment> {
        self.fragments.values().flatten().cloned().collect()
    }

    /// Forgets `chunk`: its files are not what they were. Durable with the next checkpoint.
    pub(crate) fn forget(&mut self, chunk: ChunkId) {
        self.records.remove(&chunk);
        self.fragments.remove(&chunk);
    }

    /// Has the files of `chunk` verified again. Durable with the next checkpoint.
    pub(crate) fn distrust(&mut self, chunk: ChunkId) {
        if let Some(record) = self.records.get_mut(&chunk) {
            record.verified = false;
        }
    }

    /// Moves the journal to another version of the source, cut into `chunks`: what was staged for the
    /// same source fragments is kept, under its new place; the rest is forgotten. Durable with the next
    /// checkpoint.
    pub(crate) fn move_to(&mut self, source_version: u64, chunks: &[Chunk]) {
        let old = std::mem::take(&mut self.records);
        let mut old_fragments = std::mem::take(&mut self.fragments);
        let mut by_sources: HashMap<Vec<Signature>, ChunkRecord> = HashMap::new();
        for record in old.into_values() {
            by_sources.insert(record.sources.clone(), record);
        }
        for chunk in chunks {
            let Some(record) = by_sources.remove(&chunk.signatures()) else {
                continue;
            };
            let fragments = old_fragments.remove(&record.chunk).unwrap_or_default();
            self.fragments.insert(chunk.id, fragments);
            self.records.insert(chunk.id, ChunkRecord { chunk: chunk.id, ..record });
        }
        self.header.source_version = source_version;
        self.header.chunks = chunks.len() as u64;
        self.header.rows = chunks.iter().map(Chunk::rows).sum();
    }

    /// Makes `done` durable, and shows that the run is alive, in one strict commit.
    ///
    /// # Errors
    /// `Locked`, when another run took the journal over: nothing was changed, and this run must stop.
    ///
    /// # Crash
    /// The staging table holds the commit before or the commit after, never a part.
    pub(crate) async fn checkpoint(
        &mut self,
        done: Vec<(ChunkRecord, Vec<Fragment>)>,
        lease: Lease,
    ) -> Result<()> {
        for (record, fragments) in done {
            self.fragments.insert(record.chunk, fragments);
            self.records.insert(record.chunk, record);
        }
        let config = self.config_changes(&lease)?;
        let in_staging = |mut fragment: Fragment| {
            for file in &mut fragment.files {
                file.base_id = Some(LIVE_BASE);
            }
            fragment
        };
        let operation = Operation::Overwrite {
            fragments: self.all_fragments().into_iter().map(in_staging).collect(),
            schema: self.staging.schema().clone(),
            config_upsert_values: Some(config),
            initial_bases: None,
        };
        let committed = exactly_next(&self.staging, operation, HashMap::new()).await;
        match committed? {
            Outcome::Landed(staging) => {
                self.staging = Arc::new(*staging);
                self.lease = lease;
                Ok(())
            }
            Outcome::LostRace { .. } => Err(Error::locked(
                "another run took this migration over; this one stops, and has changed nothing since",
            )),
            Outcome::Unknown { error, .. } => {
                Err(Error::failed("a checkpoint may or may not have been written").caused_by(error))
            }
        }
    }

    /// What differs between the staging table's config and what this journal holds. A config entry
    /// cannot be removed by an overwrite, so a forgotten chunk's is emptied.
    fn config_changes(&self, lease: &Lease) -> Result<HashMap<String, String>> {
        let mut wanted = HashMap::new();
        wanted.insert(KEY_HEADER.to_owned(), to_json(&self.header)?);
        wanted.insert(KEY_LEASE.to_owned(), to_json(lease)?);
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

    /// Removes the staging table; the staged files stay where they are.
    ///
    /// # Errors
    /// `Failed`, when it cannot be removed.
    pub(crate) async fn remove(self) -> Result<()> {
        let store = self.staging.object_store(None).await;
        let store = store.doing(|| "open the staging table's store".to_owned())?;
        let root = self.staging.branch_location().path;
        let removed = store.remove_dir_all(root).await;
        removed.doing(|| format!("remove the staging table {}", self.staging.uri()))
    }
}

impl Lease {
    /// Whether another run must be taken for alive: it was seen within the lease's time, and, if it
    /// ran on this machine, its process is still there.
    pub(crate) fn is_held(
        &self,
        now: DateTime<Utc>,
        host: &str,
        is_alive: impl Fn(u32) -> bool,
    ) -> bool {
        if self.released {
            return false;
        }
        if self.host == host {
            return is_alive(self.pid);
        }
        now - self.beat < LEASE_TIME
    }
}

/// A run that was not seen for this long is taken for dead. Runs are seen at least every few seconds.
const LEASE_TIME: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// The error of those who find a migration staged.
pub(crate) fn locked(opener: &Opener) -> Error {
    let table = opener.location().table();
    Error::locked(format!("a migration of `{table}` is staged already"))
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

/// The staging table's fragments by the chunk that names their file, relative to the live table. A
/// record whose files the manifest does not name was forgotten, and is left out.
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
        let names = record.files.iter().map(|file| file.name.as_str());
        let found: Option<Vec<&Fragment>> = names.map(|name| by_file.get(name).copied()).collect();
        let Some(found) = found else { return false };
        chunks.insert(*chunk, found.into_iter().map(relative_to_live).collect());
        true
    });
    chunks
}

/// A fragment without what its place in a table gave it.
fn relative_to_live(fragment: &Fragment) -> Fragment {
    let mut plain = Fragment::new(0);
    plain.physical_rows = fragment.physical_rows;
    plain.files.clone_from(&fragment.files);
    for file in &mut plain.files {
        file.base_id = None;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(host: &str, seconds_ago: i64, released: bool) -> (Lease, DateTime<Utc>) {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let lease = Lease {
            host: host.to_owned(),
            pid: 7,
            run: "r".to_owned(),
            beat: now - chrono::TimeDelta::seconds(seconds_ago),
            phase: Phase::Stage,
            released,
        };
        (lease, now)
    }

    #[test]
    fn a_lease_is_held_by_the_living() {
        let held = |host: &str, ago, released, alive| {
            let (lease, now) = lease(host, ago, released);
            lease.is_held(now, "here", |_| alive)
        };
        assert!(held("here", 500, false, true), "a slow run on this machine");
        assert!(!held("here", 1, false, false), "a run that was killed");
        assert!(held("there", 10, false, false), "a run elsewhere, seen lately");
        assert!(!held("there", 500, false, true), "a run elsewhere, not seen");
        assert!(!held("here", 1, true, true), "a run that let go");
    }
}
