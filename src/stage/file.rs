//! Writes staged data files: columns from any source become one file.

use std::{num::NonZeroU64, sync::Arc};

use arrow::array::RecordBatch;
use lance_core::datatypes::Schema;
use lance_encoding::decoder::ColumnInfo;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::{create_lazy_writer, create_writer, data_file_columns};
use lance_file::writer::{FileWriteSummary, FileWriter, FileWriterOptions};
use lance_io::{object_store::ObjectStore, traits::Writer};
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;

use crate::error::{Doing, Result};
use crate::limits::{MemoryPlan, PAGE_BYTES};
use crate::schema::blob;
use crate::storage::files::{self, DataFiles};
use crate::storage::part_copy::{PartCopies, WriterAfter};
use crate::storage::sent::{Keeps, KeepsSent, Sending, SentFile};
use crate::storage::{blob::Sidecars, names::new_data_file, throttle::Throttle};
use crate::{plan::Plan, settings::Settings};

/// Where staged files go, and how they are written.
#[derive(Debug, Clone)]
pub(crate) struct FileSpec {
    /// The migration whose files they are.
    pub id: String,
    /// The live table's store.
    pub store: Arc<ObjectStore>,
    /// The live table's `data/`.
    pub directory: Path,
    pub schema: Schema,
    pub version: ConcreteFileVersion,
    /// Rows after which a file is closed.
    pub rows_max: u64,
    /// Bytes that wait for their page to be full, all columns of a file together.
    pub cache_bytes: u64,
    pub throttle: Arc<Throttle>,
    /// Where what is sent is kept until it is verified, if it is.
    pub sent: Option<KeepsSent>,
    /// What has the store copy parts of files, if there is one that may.
    pub part_copies: Option<Arc<PartCopies>>,
}

impl FileSpec {
    /// What `plan` writes, in a store in memory so far.
    pub(crate) fn of(plan: &Plan, settings: &Settings) -> Self {
        Self {
            id: String::new(),
            store: Arc::new(ObjectStore::memory()),
            directory: Path::default(),
            schema: plan.written_schema(),
            version: plan.storage_version,
            rows_max: u64::MAX,
            cache_bytes: MemoryPlan::of(settings).open_pages,
            throttle: Arc::new(Throttle::of(settings.max_rate)),
            sent: None,
            part_copies: None,
        }
    }

    /// Where the file `name` lies.
    pub(crate) fn path(&self, name: &str) -> Path {
        self.directory.clone().join(name)
    }

    pub(crate) fn files(&self) -> Arc<dyn DataFiles> {
        files::of(&self.store)
    }

    /// Whether a file may have sidecars.
    pub(crate) fn has_blobs(&self) -> bool {
        blob::has_any(&self.schema)
    }

    /// Removes the files of `fragments`, as far as that goes: a later `abort` finds the rest by name.
    pub(crate) async fn discard(&self, fragments: Vec<Fragment>) {
        let files = fragments.iter().flat_map(|fragment| &fragment.files);
        files.clone().for_each(|file| drop(self.take_sent(&file.path)));
        let paths = files.map(|file| self.path(&file.path)).collect();
        let _ = self.files().remove_whole(paths, self.has_blobs()).await;
    }

    /// What was sent of the file `name`, if it was kept.
    pub(crate) fn take_sent(&self, name: &str) -> Option<Arc<SentFile>> {
        self.sent.as_ref()?.files.take(&self.path(name))
    }

    /// The fragment of the file `name`, which has `rows` and `bytes`.
    pub(super) fn fragment(&self, name: String, summary: &FileWriteSummary) -> Fragment {
        let (fields, columns) = data_file_columns(self.version, &self.schema);
        let size = NonZeroU64::new(summary.size_bytes);
        let mut fragment = Fragment::new(0);
        fragment.physical_rows = usize::try_from(summary.num_rows).ok();
        fragment.files.push(DataFile::new(name, fields, columns, self.version, size, None));
        fragment
    }

    /// Batches are ours alone, so their arrays can be kept until their page is full instead of copied.
    fn options(&self) -> FileWriterOptions {
        let columns = self.schema.fields.len() as u64;
        let (most, least) = PAGE_BYTES;
        // Lance gives each column an equal share.
        let cache_bytes = self.cache_bytes.clamp(columns * least, columns * most);
        FileWriterOptions {
            keep_original_array: Some(true),
            data_cache_bytes: (columns > 0).then_some(cache_bytes),
            ..FileWriterOptions::default()
        }
    }
}

/// A staged file that is being written, under a name that tells whose it is.
pub(super) struct FileBuilder<'a> {
    spec: &'a FileSpec,
    name: String,
    pub rows: u64,
    /// What pages are copied to.
    pub writer: FileWriter,
    /// What is sent of it, if that is kept.
    pub sent: Option<Sending>,
    sidecars: Sidecars,
}

impl<'a> FileBuilder<'a> {
    /// A file whose columns are encoded from batches.
    pub(super) async fn encoded(spec: &'a FileSpec) -> Result<Self> {
        let (version, schema) = (spec.version, spec.schema.clone());
        let create = |object| create_writer(version, object, schema, spec.options());
        Self::create(spec, (Keeps::All, false), create).await
    }

    /// A file whose columns are copied as pages, after `bytes` that the store copies.
    pub(super) async fn copied(spec: &'a FileSpec, bytes: u64) -> Result<Self> {
        let create = |object| {
            create_lazy_writer(spec.version, WriterAfter::of(object, bytes), spec.options())
        };
        Self::create(spec, (Keeps::Unread, bytes > 0), create).await
    }

    async fn create(
        spec: &'a FileSpec,
        (keeps, is_copied): (Keeps, bool),
        writer: impl FnOnce(Box<dyn Writer>) -> lance::Result<FileWriter>,
    ) -> Result<Self> {
        let name = new_data_file(&spec.id);
        let (files, path) = (spec.files(), spec.path(&name));
        let object = files.create(&path, &spec.throttle).await?;
        let writer = writer(object).doing(|| format!("write {name}"))?;
        let sidecars = Sidecars::of(&files, &spec.directory, &name, &spec.throttle);
        let sent = spec.sent.as_ref().and_then(|sent| sent.keep_sent(&path, keeps, is_copied));
        Ok(Self { spec, name, rows: 0, writer, sent, sidecars })
    }

    pub(super) fn path(&self) -> Path {
        self.spec.path(&self.name)
    }

    /// Encodes `batch` after the rows before it.
    pub(super) async fn encode(&mut self, batch: RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let batch = self.sidecars.prepare(&self.spec.schema, batch).await?;
        self.writer.write_batch(&batch).await.doing(|| format!("write {}", self.name))
    }

    /// Finishes it; where its `columns` were copied as pages, they are all of its `rows`.
    pub(super) async fn finish(mut self, columns: Option<&[Arc<ColumnInfo>]>) -> Result<Fragment> {
        match self.finish_in_place(columns).await {
            Ok(summary) => {
                if let Some(sent) = self.sent {
                    sent.finish();
                }
                Ok(self.spec.fragment(self.name, &summary))
            }
            Err(error) => {
                self.discard().await;
                Err(error)
            }
        }
    }

    async fn finish_in_place(
        &mut self,
        columns: Option<&[Arc<ColumnInfo>]>,
    ) -> Result<FileWriteSummary> {
        let name = &self.name;
        self.sidecars.finish().await?;
        if let Some(columns) = columns {
            // Lance's readers want what follows the pages aligned.
            let aligned = self.writer.write_external_buffer(&[]).await;
            aligned.doing(|| format!("write {name}"))?;
            let schema = self.spec.schema.clone();
            let begun = self.writer.initialize_with_external_columns(schema, columns, self.rows);
            begun.doing(|| format!("write {name}"))?;
        }
        self.writer.finish().await.doing(|| format!("finish {name}"))
    }

    /// Removes it, as far as that goes.
    pub(super) async fn discard(mut self) {
        self.writer.abort().await;
        let (spec, path) = (self.spec, self.path());
        drop(self);
        // What lies beside it is finished already.
        let _ = spec.files().remove_whole(vec![path], spec.has_blobs()).await;
    }
}

/// Encodes batches into files of at most so many rows.
pub(super) struct EncodedFiles<'a> {
    spec: &'a FileSpec,
    open: Option<FileBuilder<'a>>,
    done: Vec<Fragment>,
}

impl<'a> EncodedFiles<'a> {
    pub(super) fn of(spec: &'a FileSpec) -> Self {
        Self { spec, open: None, done: Vec::new() }
    }

    pub(super) async fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let open = match &mut self.open {
                Some(open) => open,
                none => none.insert(FileBuilder::encoded(self.spec).await?),
            };
            let room = self.spec.rows_max.saturating_sub(open.rows);
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let rows = room.min(batch.num_rows() - from);
            open.encode(batch.slice(from, rows)).await?;
            from += rows;
            if open.rows >= self.spec.rows_max {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.done.push(open.finish(None).await?);
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Vec<Fragment>> {
        if let Err(error) = self.close().await {
            self.discard().await;
            return Err(error);
        }
        Ok(std::mem::take(&mut self.done))
    }

    pub(super) async fn discard(mut self) {
        if let Some(open) = self.open.take() {
            open.discard().await;
        }
        self.spec.discard(std::mem::take(&mut self.done)).await;
    }
}

impl Drop for EncodedFiles<'_> {
    /// Where their task is stopped, nobody asks for what was kept of those that are done.
    fn drop(&mut self) {
        let files = self.done.iter().flat_map(|fragment| &fragment.files);
        files.for_each(|file| drop(self.spec.take_sent(&file.path)));
    }
}
