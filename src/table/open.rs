//! Opens tables and their versions.

use std::{collections::HashMap, sync::Arc};

use lance::{Dataset, dataset::builder::DatasetBuilder, index::DatasetIndexExt, session::Session};
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, StorageOptionsAccessor, WrappingObjectStore,
};
use lance_table::format::IndexMetadata;
use object_store::path::Path;

use crate::error::{Doing, Error, Result};
use crate::limits::{INDEX_CACHE_BYTES, METADATA_CACHE_BYTES};
use crate::storage::files::{self, DataFiles};
use crate::table::reach::advised;
use crate::{guard::guarded, location::Location, storage::deletion::Deletions};

/// Time that the store's client gives one request.
const CLIENT_TIMEOUT: &str = "300s";

/// Opens datasets of one database, with one set of options and caches.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    location: Location,
    session: Arc<Session>,
    params: ObjectStoreParams,
}

impl Opener {
    /// Opens datasets beside `location`; `wrapper`, if any, stands between Lance and the store.
    pub(crate) fn of(location: &Location, wrapper: Option<Arc<dyn WrappingObjectStore>>) -> Self {
        let mut options: HashMap<_, _> = location.storage_options().clone().into_iter().collect();
        let is_timed = |name: &String| name.eq_ignore_ascii_case("timeout");
        if location.directory().is_none() && !options.keys().any(is_timed) {
            // The client's own 30 s are too little for a slow link; what takes too long is watched here.
            options.insert("timeout".to_owned(), CLIENT_TIMEOUT.to_owned());
        }
        let accessor = (!options.is_empty())
            .then(|| Arc::new(StorageOptionsAccessor::with_static_options(options)));
        let params = ObjectStoreParams {
            storage_options_accessor: accessor,
            object_store_wrapper: wrapper,
            ..ObjectStoreParams::default()
        };
        let session = Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, Arc::default());
        Self { location: location.clone(), session: Arc::new(session), params }
    }

    /// The same, with nothing in its caches.
    pub(crate) fn without_caches(&self) -> Self {
        let session = Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, Arc::default());
        Self { session: Arc::new(session), ..self.clone() }
    }

    /// The store and the root of the staging table, whether it can be read or not.
    ///
    /// # Errors
    /// `Failed`, when the store cannot be opened.
    pub(crate) async fn staging_place(&self) -> Result<(Arc<ObjectStore>, Path)> {
        let (uri, registry) = (self.location.staging_uri(), self.session.store_registry());
        let opened = ObjectStore::from_uri_and_params(registry, &uri, &self.params).await;
        opened.doing(|| format!("open the store of {uri}"))
    }

    /// The store at `uri`, with the same options, and the path there.
    ///
    /// # Errors
    /// `Failed`, when it cannot be opened.
    pub(crate) async fn store_at(&self, uri: &str) -> Result<(Arc<ObjectStore>, Path)> {
        let registry = self.session.store_registry();
        let opened = ObjectStore::from_uri_and_params(registry, uri, &self.params).await;
        opened.doing(|| format!("open the store of {uri}"))
    }

    /// What opens the table at `location`, with the same options and caches.
    pub(crate) fn beside(&self, location: &Location) -> Self {
        Self { location: location.clone(), ..self.clone() }
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The options and wrapper that datasets are opened with.
    pub(crate) fn params(&self) -> &ObjectStoreParams {
        &self.params
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The newest version of the live table.
    ///
    /// # Errors
    /// `Failed`, when it is not there or cannot be read; `Refused`, when this Lance cannot read it.
    pub(crate) async fn live(&self) -> Result<Arc<Dataset>> {
        let table = self.location.table();
        let found = self.found().await?;
        found.ok_or_else(|| Error::failed(format!("no table is called `{table}`")))
    }

    /// The newest version of the table, if it is there.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read.
    pub(crate) async fn found(&self) -> Result<Option<Arc<Dataset>>> {
        self.open(&self.location.uri()).await
    }

    /// The newest version of the staging table, if there is one.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read.
    pub(crate) async fn staging(&self) -> Result<Option<Arc<Dataset>>> {
        self.open(&self.location.staging_uri()).await
    }

    async fn open(&self, uri: &str) -> Result<Option<Arc<Dataset>>> {
        self.location.check_options()?;
        let opened = DatasetBuilder::from_uri(uri)
            .with_session(Arc::clone(&self.session))
            .with_store_params(self.params.clone())
            .load();
        // Lance panics at some manifests that were cut short.
        match guarded(&format!("open {uri}"), async { Ok(opened.await) }).await? {
            Ok(dataset) => Ok(Some(Arc::new(dataset))),
            Err(lance::Error::DatasetNotFound { .. } | lance::Error::NotFound { .. }) => Ok(None),
            Err(error @ lance::Error::NotSupported { .. }) => {
                let table = self.location.table();
                let what = format!("`{table}` uses features that this version of Lance lacks");
                Err(Error::refused(what).caused_by(error))
            }
            Err(error) => {
                let opened = Err(error).doing(|| format!("open {uri}"));
                opened.map_err(|error| advised(error, &self.location))
            }
        }
    }
}

/// Opens `version` of `dataset`.
///
/// # Errors
/// `Failed`, when it is gone or cannot be read.
pub(crate) async fn at_version(dataset: &Dataset, version: u64) -> Result<Arc<Dataset>> {
    let opened = dataset.checkout_version(version).await;
    let opened = opened.doing(|| format!("open version {version} of {}", dataset.uri()))?;
    Ok(Arc::new(opened))
}

/// Opens the newest version of `dataset`.
///
/// # Errors
/// `Failed`, when it cannot be read.
pub(crate) async fn newest(dataset: &Dataset) -> Result<Arc<Dataset>> {
    let mut newest = dataset.clone();
    let opened = newest.checkout_latest().await;
    opened.doing(|| format!("open the newest version of {}", dataset.uri()))?;
    Ok(Arc::new(newest))
}

/// The store that `dataset` is in.
///
/// # Errors
/// `Failed`, when it cannot be opened.
pub(crate) async fn store_of(dataset: &Dataset) -> Result<Arc<ObjectStore>> {
    let store = dataset.object_store(None).await;
    store.doing(|| format!("open the store of {}", dataset.uri()))
}

/// The files in the store that `dataset` is in.
///
/// # Errors
/// `Failed`, when the store cannot be opened.
pub(crate) async fn data_files_of(dataset: &Dataset) -> Result<Arc<dyn DataFiles>> {
    Ok(files::of(&*store_of(dataset).await?))
}

/// The indices of `dataset`, one for each of their segments, and those of Lance's own.
///
/// # Errors
/// `Failed`, when they cannot be read.
pub(crate) async fn indices_of(dataset: &Dataset) -> Result<Arc<Vec<IndexMetadata>>> {
    let indices = dataset.load_indices().await;
    let (version, uri) = (dataset.version_id(), dataset.uri());
    indices.doing(|| format!("read the index list of version {version} of {uri}"))
}

/// The deletion files of `dataset`.
///
/// # Errors
/// `Failed`, when its store cannot be opened.
pub(crate) async fn deletions_of(dataset: &Dataset) -> Result<Deletions> {
    Ok(Deletions::of(store_of(dataset).await?.as_ref(), &dataset.branch_location().path))
}
