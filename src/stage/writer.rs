//! Writes staged files.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::RecordBatch;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::{create_writer, data_file_columns};
use lance_file::writer::{FileWriteSummary, FileWriter, FileWriterOptions};
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;

use crate::budget::Throttle;
use crate::datafile;
use crate::error::{Context, Result};
use crate::sidecar::Sidecars;

/// Where staged files go, and how they are written.
#[derive(Debug, Clone)]
pub(crate) struct FileSpec {
    /// The migration whose files they are.
    pub id: String,
    /// The live table's store.
    pub store: Arc<ObjectStore>,
    /// The live table's `data/`.
    pub directory: Path,
    /// The schema of what is written.
    pub schema: Schema,
    /// The format.
    pub version: ConcreteFileVersion,
    /// Rows after which a file is closed.
    pub rows_max: u64,
    /// Bytes that wait for their page to be full, all columns of a file together.
    pub cache_bytes: u64,
    /// Bytes a second.
    pub throttle: Arc<Throttle>,
}

/// Removes what was written, as far as that goes: a later `abort` finds the rest by name.
pub(super) async fn discard(spec: &FileSpec, fragments: Vec<Fragment>) {
    for file in fragments.iter().flat_map(|fragment| &fragment.files) {
        let path = spec.directory.clone().join(file.path.as_str());
        let _ = datafile::remove_whole(&spec.store, &path).await;
    }
}

/// Writes batches into files of at most so many rows.
pub(super) struct StagedWriter<'a> {
    spec: &'a FileSpec,
    open: Option<OpenFile>,
    done: Vec<Fragment>,
}

struct OpenFile {
    name: String,
    rows: u64,
    writer: FileWriter,
    sidecars: Sidecars,
}

impl OpenFile {
    async fn write(&mut self, spec: &FileSpec, batch: RecordBatch) -> Result<()> {
        let (store, directory) = (&spec.store, &spec.directory);
        let batch = self.sidecars.prepare(store, directory, &spec.schema, batch).await?;
        self.writer.write_batch(&batch).await.doing(|| format!("write {}", self.name))
    }
}

impl<'a> StagedWriter<'a> {
    pub(super) fn new(spec: &'a FileSpec) -> Self {
        Self { spec, open: None, done: Vec::new() }
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => open_file(self.spec).await?,
            };
            let room = self.spec.rows_max.saturating_sub(open.rows);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let rows = room.min(batch.num_rows() - from);
            let part = batch.slice(from, rows);
            let written = open.write(self.spec, part).await;
            open.rows += rows as u64;
            let full = open.rows >= self.spec.rows_max;
            self.open = Some(open);
            written?;
            from += rows;
            if full {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.sidecars.finish().await?;
        let summary = open.writer.finish().await;
        let summary = summary.doing(|| format!("finish {}", open.name))?;
        self.done.push(fragment_of(self.spec, open.name, &summary));
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Vec<Fragment>> {
        if let Err(error) = self.close().await {
            self.discard().await;
            return Err(error);
        }
        Ok(self.done)
    }

    pub(super) async fn discard(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.writer.abort().await;
            // What lies beside it is finished already.
            let path = self.spec.directory.clone().join(open.name.as_str());
            let _ = datafile::remove_whole(&self.spec.store, &path).await;
        }
        discard(self.spec, std::mem::take(&mut self.done)).await;
    }
}

/// The fragment of one file that was written.
pub(super) fn fragment_of(spec: &FileSpec, name: String, summary: &FileWriteSummary) -> Fragment {
    let (fields, columns) = data_file_columns(spec.version, &spec.schema);
    let size = NonZeroU64::new(summary.size_bytes);
    let mut fragment = Fragment::new(0);
    fragment.physical_rows = usize::try_from(summary.num_rows).ok();
    fragment.files.push(DataFile::new(name, fields, columns, spec.version, size, None));
    fragment
}

/// Opens the next file, under a name that tells whose it is.
async fn open_file(spec: &FileSpec) -> Result<OpenFile> {
    let name = datafile::new_name(&spec.id);
    let path = spec.directory.clone().join(name.as_str());
    let object = datafile::create(&spec.store, &path, &spec.throttle).await?;
    let writer = create_writer(spec.version, object, spec.schema.clone(), options(spec));
    let writer = writer.doing(|| format!("write {name}"))?;
    let sidecars = Sidecars::of(&name, &spec.throttle);
    Ok(OpenFile { name, rows: 0, writer, sidecars })
}

/// Bytes that wait for a page of one column, at most, which is Lance's default, and at least.
const PAGE_BYTES: (u64, u64) = (8 << 20, 64 << 10);

/// Batches are ours alone, so their arrays can be kept until their page is full instead of copied.
pub(super) fn options(spec: &FileSpec) -> FileWriterOptions {
    let columns = spec.schema.fields.len() as u64;
    let (most, least) = PAGE_BYTES;
    // Lance gives each column an equal share.
    let cache_bytes = spec.cache_bytes.clamp(columns * least, columns * most);
    FileWriterOptions {
        keep_original_array: Some(true),
        data_cache_bytes: (columns > 0).then_some(cache_bytes),
        ..FileWriterOptions::default()
    }
}
