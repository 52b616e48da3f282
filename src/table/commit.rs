//! Commits that land on one version or not at all, and what became of them.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lance::dataset::transaction::{Operation, Transaction, TransactionBuilder};
use lance::dataset::{CommitBuilder, Dataset};
use lance_core::Result as LanceResult;
use lance_file::version::ConcreteFileVersion;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest, Transaction as StoredTransaction};
use lance_table::io::commit::{
    CommitError, CommitHandler, ManifestLocation, ManifestNamingScheme, ManifestWriter,
    commit_handler_from_url,
};
use object_store::path::Path;
use uuid::Uuid;

use crate::error::{Doing, Error, Result};
use crate::{retry::is_gone, storage::names::new_uuid};

/// Transaction property that names the migration whose commit it is.
pub(crate) const PROPERTY_ID: &str = "relance.migration";
/// Transaction property that says what the commit does.
pub(crate) const PROPERTY_ACT: &str = "relance.act";

/// What a commit of relance's does, in its transaction properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Makes the staged fragments the live table.
    Swap,
    /// Builds an index again.
    Index,
    /// Puts the version before the swap back.
    Rollback,
    /// Changes nothing: takes the version that a run which may be asleep would have swapped in as.
    Fence,
}

impl Act {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Index => "index",
            Self::Rollback => "rollback",
            Self::Fence => "fence",
        }
    }
}

/// What became of a commit.
#[must_use]
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It landed: the dataset is at the new version.
    Landed(Box<Dataset>),
    /// Someone else committed that version first; nothing changed.
    LostRace {
        /// The newest version.
        head: u64,
    },
    /// The reply was lost and the table could not be read: it may or may not have landed.
    Unknown {
        /// The version that it would be.
        attempted: u64,
        error: Error,
    },
}

pub(crate) fn properties(id: &str, act: Act) -> HashMap<String, String> {
    HashMap::from([
        (PROPERTY_ID.to_owned(), id.to_owned()),
        (PROPERTY_ACT.to_owned(), act.name().to_owned()),
    ])
}

fn property<'a>(transaction: &'a Transaction, name: &str) -> Option<&'a str> {
    transaction.transaction_properties.as_ref()?.get(name).map(String::as_str)
}

/// Whether `transaction` is a commit of the migration `id`, whatever it does.
pub(crate) fn is_of(transaction: &Transaction, id: &str) -> bool {
    property(transaction, PROPERTY_ID) == Some(id)
}

/// The id of the migration whose commit `transaction` is, if it does `act`.
pub(crate) fn id_of(transaction: &Transaction, act: Act) -> Option<&str> {
    let id = property(transaction, PROPERTY_ID);
    id.filter(|_| property(transaction, PROPERTY_ACT) == Some(act.name()))
}

/// Whether `transaction` is a commit of the migration `id` that does `act`.
pub(crate) fn is_ours(transaction: &Transaction, id: &str, act: Act) -> bool {
    id_of(transaction, act) == Some(id)
}

/// Commits `operation` as the version after `dataset`'s, and as no other; an `Overwrite` gives the table another
/// `storage_version` too, if one is given.
///
/// Lance rebases a commit over others' commits where it thinks that they do not matter; for an
/// `Overwrite` and a `Restore` it thinks so of appends and deletes, and loses them
/// (lance 14 `src/io/commit/conflict_resolver.rs`). Zero retries switch that off for an `Overwrite`;
/// for every operation the commit handler here refuses any version but the next.
///
/// # Errors
/// `Failed`, when it certainly did not land and nobody else was first.
///
/// # Crash
/// The table holds the version before, or the new one whole.
pub(crate) async fn exactly_next(
    dataset: &Arc<Dataset>,
    operation: Operation,
    storage_version: Option<ConcreteFileVersion>,
    properties: HashMap<String, String>,
) -> Result<Outcome> {
    let read_version = dataset.version_id();
    let attempted = read_version + 1;
    let uuid = properties.get(PROPERTY_ID).map_or_else(Uuid::new_v4, |id| new_uuid(id));
    let transaction = TransactionBuilder::new(read_version, operation)
        .uuid(uuid.to_string())
        .transaction_properties(Some(Arc::new(properties.clone())))
        .build();
    let ours = Ours { uuid: transaction.uuid.clone(), properties };
    let params = dataset.store_params().cloned();
    let inner = commit_handler_from_url(dataset.uri(), &params)
        .await
        .doing(|| "find out how this store commits".to_owned())?;
    let result = builder(dataset, storage_version)
        .with_commit_handler(Arc::new(OnlyVersion { attempted, inner }))
        .with_max_retries(0)
        .with_skip_auto_cleanup(true)
        .execute(transaction)
        .await;
    let committed = match result {
        Ok(committed) => committed,
        Err(error) => return settle(dataset, attempted, &ours, error).await,
    };
    if committed.version_id() == attempted {
        return Ok(Outcome::Landed(Box::new(committed)));
    }
    Err(Error::failed(format!(
        "committed version {} instead of {attempted}; this is a bug in relance",
        committed.version_id()
    )))
}

/// Commits `operation` on `dataset` for the migration `id` as a version that is not part of its history:
/// no reader sees it.
///
/// # Errors
/// `Failed`, when it cannot be committed.
pub(crate) async fn detach(
    dataset: &Arc<Dataset>,
    operation: Operation,
    storage_version: Option<ConcreteFileVersion>,
    id: &str,
) -> Result<Arc<Dataset>> {
    let transaction = TransactionBuilder::new(dataset.version_id(), operation)
        .uuid(new_uuid(id).to_string())
        .build();
    let committed = builder(dataset, storage_version)
        .with_detached(true)
        .with_skip_auto_cleanup(true)
        .execute(transaction)
        .await;
    Ok(Arc::new(committed.doing(|| "prepare the swap".to_owned())?))
}

fn builder(
    dataset: &Arc<Dataset>,
    storage_version: Option<ConcreteFileVersion>,
) -> CommitBuilder<'static> {
    let builder = CommitBuilder::new(Arc::clone(dataset));
    match storage_version {
        None => builder,
        Some(version) => builder.with_storage_format(version.to_selector()),
    }
}

/// What tells a commit from others'.
struct Ours {
    uuid: String,
    properties: HashMap<String, String>,
}

impl Ours {
    /// Whether `theirs` is this commit, or an earlier attempt of the same act, which may have become visible late.
    fn are(&self, theirs: &Transaction) -> bool {
        let properties = theirs.transaction_properties.as_ref();
        let same = |name: &str| {
            let ours = self.properties.get(name);
            ours.is_some() && properties.and_then(|all| all.get(name)) == ours
        };
        theirs.uuid == self.uuid || (same(PROPERTY_ID) && same(PROPERTY_ACT))
    }
}

/// Looks at what is there before it believes an error.
async fn settle(
    dataset: &Dataset,
    attempted: u64,
    ours: &Ours,
    error: lance::Error,
) -> Result<Outcome> {
    let unsure = error.is_commit_status_unknown() || matches!(error, lance::Error::Timeout { .. });
    let error = Error::failed(format!("cannot commit version {attempted}")).caused_by(error);
    let head = match dataset.latest_version_id().await {
        Ok(head) => head,
        Err(gone) if is_gone(&gone) => {
            let message =
                format!("cannot commit version {attempted}: others have dropped the table");
            return Err(Error::failed(message).caused_by(gone));
        }
        Err(_) => return Ok(Outcome::Unknown { attempted, error }),
    };
    if head < attempted {
        return if unsure { Ok(Outcome::Unknown { attempted, error }) } else { Err(error) };
    }
    match dataset.read_transaction_by_version(attempted).await {
        Err(_) => Ok(Outcome::Unknown { attempted, error }),
        Ok(theirs) if !theirs.as_ref().is_some_and(|theirs| ours.are(theirs)) => {
            Ok(Outcome::LostRace { head })
        }
        Ok(_) => {
            let landed = dataset.checkout_version(attempted).await;
            let landed = landed.doing(|| format!("open version {attempted}, which landed"))?;
            Ok(Outcome::Landed(Box::new(landed)))
        }
    }
}

/// A commit handler that commits one version and conflicts on every other.
#[derive(Debug)]
struct OnlyVersion {
    attempted: u64,
    inner: Arc<dyn CommitHandler>,
}

#[async_trait]
impl CommitHandler for OnlyVersion {
    fn is_version_not_found_definitive(&self) -> bool {
        self.inner.is_version_not_found_definitive()
    }

    fn propagate_commit_error_after_success(&self) -> bool {
        self.inner.propagate_commit_error_after_success()
    }

    async fn resolve_latest_location(
        &self,
        base: &Path,
        store: &ObjectStore,
    ) -> LanceResult<ManifestLocation> {
        self.inner.resolve_latest_location(base, store).await
    }

    async fn resolve_version_location(
        &self,
        base: &Path,
        version: u64,
        store: &dyn object_store::ObjectStore,
    ) -> LanceResult<ManifestLocation> {
        self.inner.resolve_version_location(base, version, store).await
    }

    async fn version_exists(
        &self,
        base: &Path,
        version: u64,
        store: &dyn object_store::ObjectStore,
        scheme: ManifestNamingScheme,
    ) -> LanceResult<bool> {
        self.inner.version_exists(base, version, store, scheme).await
    }

    fn list_manifest_locations<'a>(
        &self,
        base: &Path,
        store: &'a ObjectStore,
        descending: bool,
    ) -> BoxStream<'a, LanceResult<ManifestLocation>> {
        self.inner.list_manifest_locations(base, store, descending)
    }

    fn list_manifest_locations_since<'a>(
        &self,
        base: &Path,
        store: &'a ObjectStore,
        since: u64,
    ) -> BoxStream<'a, LanceResult<ManifestLocation>> {
        self.inner.list_manifest_locations_since(base, store, since)
    }

    async fn commit(
        &self,
        manifest: &mut Manifest,
        indices: Option<Vec<IndexMetadata>>,
        base: &Path,
        store: &ObjectStore,
        writer: ManifestWriter,
        scheme: ManifestNamingScheme,
        transaction: Option<StoredTransaction>,
    ) -> std::result::Result<ManifestLocation, CommitError> {
        if manifest.version != self.attempted {
            return Err(CommitError::CommitConflict);
        }
        let inner = &self.inner;
        inner.commit(manifest, indices, base, store, writer, scheme, transaction).await
    }
}
