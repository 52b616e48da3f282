//! The source: the live table at the version that was pinned when the migration began.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use lance::Dataset;
use lance_table::format::Fragment;

use arrow::array::RecordBatch;

use crate::chunk::Chunk;
use crate::error::{Context, Error, Result};

/// What the name of every tag of relance's begins with.
pub(crate) const TAG_PREFIX: &str = "relance-";

/// How a chunk is scanned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanLimits {
    /// Rows in a batch, at most.
    pub batch_rows: u32,
    /// Bytes that Lance reads ahead.
    pub io_buffer_bytes: u64,
}

/// Lance decodes this many batches of a chunk ahead.
const BATCH_READAHEAD: usize = 2;

/// The tag of the migration `id`: it pins the source while staging, and is the rollback point after.
pub(crate) fn tag_of(id: &str) -> String {
    format!("{TAG_PREFIX}{id}")
}

/// Tags `version`, so that no cleanup can take it.
///
/// # Errors
/// `Failed`, when the tag cannot be written.
pub(crate) async fn pin(dataset: &Dataset, id: &str, version: u64) -> Result<()> {
    let tag = tag_of(id);
    let created = dataset.tags().create(&tag, version).await;
    created.doing(|| format!("tag version {version} as {tag}"))
}

/// Removes the tag of the migration `id`; one that is gone already is as good.
///
/// # Errors
/// `Failed`, when it is there and cannot be removed.
pub(crate) async fn unpin(dataset: &Dataset, id: &str) -> Result<()> {
    let tag = tag_of(id);
    match dataset.tags().delete(&tag).await {
        Ok(()) | Err(lance::Error::RefNotFound { .. }) => Ok(()),
        Err(error) => Err(error).doing(|| format!("remove the tag {tag}")),
    }
}

/// A pinned version, ready to be scanned.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    dataset: Arc<Dataset>,
    places: Arc<HashMap<u64, usize>>,
}

impl Source {
    /// The version that `dataset` is at.
    pub(crate) fn of(dataset: Arc<Dataset>) -> Self {
        let ids = dataset.iter_fragments().map(|fragment| fragment.id);
        let places = ids.enumerate().map(|(place, id)| (id, place)).collect();
        Self { dataset, places: Arc::new(places) }
    }

    /// Streams the rows of `chunk`, in order, deleted ones left out.
    ///
    /// # Errors
    /// `Failed`, when the scan cannot be planned; the stream's items carry what fails later.
    pub(crate) async fn scan(
        &self,
        chunk: &Chunk,
        limits: ScanLimits,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let id = chunk.id;
        let uri = self.dataset.uri().to_owned();
        let mut scanner = self.dataset.scan();
        scanner
            .with_fragments(self.fragments_of(chunk)?)
            .scan_in_order(true)
            .batch_size(limits.batch_rows as usize)
            .batch_readahead(BATCH_READAHEAD)
            .io_buffer_size(limits.io_buffer_bytes);
        let stream = scanner.try_into_stream().await;
        let stream = stream.doing(|| format!("scan chunk {id} of {uri}"))?;
        let named = stream.map(move |batch| batch.doing(|| format!("read chunk {id} of {uri}")));
        Ok(named.boxed())
    }

    /// The manifest's own description of the chunk's fragments.
    fn fragments_of(&self, chunk: &Chunk) -> Result<Vec<Fragment>> {
        let fragments = chunk.fragments.iter().map(|wanted| {
            let place = self.places.get(&wanted.id);
            let fragment = place.and_then(|place| self.dataset.fragments().get(*place));
            fragment.cloned().ok_or_else(|| {
                let (id, version) = (wanted.id, self.dataset.version_id());
                Error::failed(format!("version {version} has no fragment {id}, which was planned"))
            })
        });
        fragments.collect()
    }
}
