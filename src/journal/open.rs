//! Creating the journal, which is the lock, and reading it.

use crate::error::{Doing, Error, Result};
use crate::journal::config::{
    KEY_CHUNK, KEY_HEADER, KEY_LEASE, KEY_SCHEMA, expect_readable, from_config, is_of, to_json,
    validate,
};
use crate::journal::record::{ChunkRecord, Header, Lease};
use crate::journal::{Journal, LAYOUT};
use crate::{chunk::ChunkId, table::open::Opener, transform::digest::DIGEST_VERSION};
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::{Dataset, dataset::CommitBuilder};
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_table::format::{BasePath, DeletionFile, Fragment};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

impl Journal {
    /// Creates the staging table. Only one run can: this is the lock. It is to be [read back](Self::read_back) before anything
    /// relies on it.
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
        let text = to_json(&header)?;
        expect_readable(&text, &header)?;
        let config = [(KEY_HEADER, text), (KEY_LEASE, to_json(&lease)?)];
        let config = config.map(|(key, text)| (key.to_owned(), text));
        let mut bases: Vec<BasePath> = live.manifest().base_paths.values().cloned().collect();
        let id = bases.iter().map(|base| base.id).max().unwrap_or_default() + 1;
        bases.push(BasePath { id, name: None, is_dataset_root: true, path: live.uri().to_owned() });
        let operation = Operation::Overwrite {
            fragments: Vec::new(),
            schema: schema.clone(),
            config_upsert_values: Some(HashMap::from(config)),
            initial_bases: Some(bases),
        };
        let staging = create_staging(opener, operation, version, &header.id).await?;
        let written = Self::read(staging, opener.location().table())?;
        Ok(Self { schema: Some(schema.clone()), ..written })
    }

    /// What makes sure that this journal reads back as it was written: as others will read it, who have nothing of this run's
    /// in their memory.
    pub(crate) fn read_back(&self, opener: &Opener) -> impl Future<Output = Result<()>> + use<> {
        let (header, lease) = (self.header.clone(), self.lease.clone());
        let opener = opener.without_caches();
        async move {
            let there = Self::open(&opener).await?;
            if there.is_some_and(|there| there.header == header && there.lease == lease) {
                return Ok(());
            }
            Err(Error::failed("the journal does not read back as it was written"))
        }
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
        let schema = config.contains_key(KEY_SCHEMA).then(|| staging.schema().clone());
        Ok(Self {
            staging,
            header,
            lease,
            schema,
            records,
            fragments,
            attempted: None,
            fresh: Vec::new(),
            doomed: Vec::new(),
            time: Arc::default(),
            beats: None,
        })
    }
}

/// Commits the first version of the staging table, whose header names the migration `id`.
async fn create_staging(
    opener: &Opener,
    operation: Operation,
    version: ConcreteFileVersion,
    id: &str,
) -> Result<Arc<Dataset>> {
    let uri = opener.location().staging_uri();
    let created = CommitBuilder::new(uri.as_str())
        .with_session(Arc::clone(opener.session()))
        .with_store_params(opener.params().clone())
        .with_storage_format(version.to_selector())
        .with_max_retries(0)
        .with_skip_auto_cleanup(true)
        .execute(TransactionBuilder::new(0, operation).build())
        .await;
    match created {
        Ok(staging) if staging.version_id() == 1 => Ok(Arc::new(staging)),
        Ok(_) => Err(locked(opener)),
        Err(error) => match opener.staging().await {
            // The reply may have been lost: then it is ours.
            Ok(Some(there)) if is_of(&there, id) => Ok(there),
            Ok(Some(_)) => Err(locked(opener)),
            // Somebody's was there, and has ended since.
            Ok(None) if matches!(error, lance::Error::DatasetAlreadyExists { .. }) => {
                Err(locked(opener))
            }
            _ => Err(error).doing(|| format!("create the staging table {uri}")),
        },
    }
}

/// The error of those who find a migration staged.
pub(crate) fn locked(opener: &Opener) -> Error {
    let table = opener.location().table();
    Error::locked(format!("a migration of `{table}` is staged already"))
}

/// The staging table's fragments by the chunk that names their file. A record whose files the manifest
/// does not name was forgotten, and is left out.
fn fragments_by_chunk(
    staging: &Dataset,
    records: &mut BTreeMap<ChunkId, ChunkRecord>,
) -> BTreeMap<ChunkId, Vec<Fragment>> {
    let by_file: HashMap<&str, &Fragment> = staging
        .iter_fragments()
        .flat_map(|one| one.files.iter().map(move |file| (file.path.as_str(), one)))
        .collect();
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
    let (files, physical_rows) = (fragment.files.clone(), fragment.physical_rows);
    Fragment { files, physical_rows, deletion_file: deletions, ..Fragment::new(0) }
}
