//! Writes the blobs of a staged file: its sidecars.

use std::{collections::HashMap, sync::Arc};

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Schema as ArrowSchema, UInt8Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use lance::{BlobDescriptor, BlobDescriptorArrayBuilder};
use lance_core::{datatypes::Schema, utils::blob::blob_path};
use lance_io::traits::Writer;
use object_store::path::Path;
use tokio::io::AsyncWriteExt as _;

use crate::error::{Doing, Error, Result};
use crate::limits::BLOB_PACK_BYTES;
use crate::schema::blob::{self, DEDICATED, EXTERNAL, INLINE, PACKED};
use crate::storage::files::DataFiles;
use crate::storage::names::stem;
use crate::storage::throttle::Throttle;

/// The sidecars of a staged file that is being written.
pub(crate) struct Sidecars {
    files: Arc<dyn DataFiles>,
    throttle: Arc<Throttle>,
    /// Where the data file lies.
    directory: Path,
    /// Its name without `.lance`.
    file: String,
    /// How many there are.
    count: u32,
    /// Those that are copies, by what they are copies of.
    copies: HashMap<(String, u32), u32>,
    /// The one that new blobs are put into side by side.
    pack: Option<Pack>,
}

/// A sidecar of several blobs that is being written.
struct Pack {
    id: u32,
    bytes: u64,
    writer: Box<dyn Writer>,
}

impl Sidecars {
    /// None yet, for the data file `name` in `directory`.
    pub(crate) fn of(
        files: &Arc<dyn DataFiles>,
        directory: &Path,
        name: &str,
        throttle: &Arc<Throttle>,
    ) -> Self {
        Self {
            files: Arc::clone(files),
            throttle: Arc::clone(throttle),
            directory: directory.clone(),
            file: stem(name).to_owned(),
            count: 0,
            copies: HashMap::new(),
            pack: None,
        }
    }

    /// Finishes what is open; before this, nothing may name the file.
    ///
    /// # Errors
    /// `Failed`, when a sidecar cannot be finished.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        let Some(mut pack) = self.pack.take() else { return Ok(()) };
        let finished = Writer::shutdown(pack.writer.as_mut()).await;
        finished.doing(|| format!("finish sidecar {} of {}", pack.id, self.file)).map(drop)
    }

    /// Puts the bytes of a new blob where blobs of its `kind` lie.
    async fn put(&mut self, kind: u8, bytes: &[u8]) -> Result<BlobDescriptor> {
        let size = bytes.len() as u64;
        if kind == DEDICATED {
            let mut alone = self.open().await?;
            alone.put(bytes).await?;
            let finished = Writer::shutdown(alone.writer.as_mut()).await;
            finished.doing(|| format!("finish sidecar {} of {}", alone.id, self.file))?;
            return Ok(BlobDescriptor::Dedicated { blob_id: alone.id, size });
        }
        let full = |pack: &Pack| pack.bytes > 0 && pack.bytes + size > BLOB_PACK_BYTES;
        if self.pack.as_ref().is_some_and(full) {
            self.finish().await?;
        }
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.open().await?,
        };
        let (blob_id, offset) = (pack.id, pack.bytes);
        let put = pack.put(bytes).await;
        self.pack = Some(pack);
        put?;
        Ok(BlobDescriptor::Packed { blob_id, offset, size })
    }

    async fn open(&mut self) -> Result<Pack> {
        let id = self.next_id()?;
        let path = blob_path(&self.directory, &self.file, id);
        let writer = self.files.create(&path, &self.throttle).await?;
        Ok(Pack { id, bytes: 0, writer })
    }

    fn next_id(&mut self) -> Result<u32> {
        let next = self.count.checked_add(1);
        self.count = next.ok_or_else(|| Error::failed("a file has too many sidecars"))?;
        Ok(self.count)
    }

    /// Turns `batch`, whose blobs are as they are carried, into one that Lance's writer takes. Copies the
    /// sidecars that its rows name, unless the file has its copy already.
    ///
    /// # Errors
    /// `Failed`, when a sidecar cannot be copied.
    pub(crate) async fn prepare(
        &mut self,
        schema: &Schema,
        batch: RecordBatch,
    ) -> Result<RecordBatch> {
        let blobs = blob::columns(schema);
        if blobs.is_empty() {
            return Ok(batch);
        }
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if !blobs.iter().any(|blob| blob.name == *field.name()) {
                fields.push(Arc::clone(field));
                columns.push(Arc::clone(column));
                continue;
            }
            let rows = column.as_struct();
            let mut builder = BlobDescriptorArrayBuilder::new(field.name());
            for row in 0..rows.len() {
                let blob = self.blob(rows, row).await?;
                builder.push(blob).doing(|| format!("write a blob of `{}`", field.name()))?;
            }
            let built = builder.finish().doing(|| format!("write blobs of `{}`", field.name()))?;
            let (_, column) = built.into_parts();
            let kind = column.data_type().clone();
            fields.push(Arc::new(field.as_ref().clone().with_data_type(kind)));
            columns.push(column);
        }
        let schema = ArrowSchema::new_with_metadata(fields, batch.schema().metadata().clone());
        RecordBatch::try_new(Arc::new(schema), columns).doing(|| "write blobs".to_owned())
    }

    async fn blob(&mut self, rows: &StructArray, row: usize) -> Result<BlobDescriptor> {
        if rows.is_null(row) {
            return Ok(BlobDescriptor::Null);
        }
        let malformed = || Error::failed("a carried blob is malformed");
        let [kinds, data, uris, sizes, _, positions, ids, files, fresh] = rows.columns() else {
            return Err(malformed());
        };
        if fresh.is_valid(row) {
            let kind = kinds.as_primitive::<UInt8Type>().value(row);
            return self.put(kind, fresh.as_binary::<i64>().value(row)).await;
        }
        let size = sizes.as_primitive::<UInt64Type>().value(row);
        let offset = positions.as_primitive::<UInt64Type>().value(row);
        let id = ids.as_primitive::<UInt32Type>().value(row);
        let file = files.as_string::<i32>().value(row);
        Ok(match kinds.as_primitive::<UInt8Type>().value(row) {
            INLINE => {
                let data = Bytes::copy_from_slice(data.as_binary::<i64>().value(row));
                BlobDescriptor::Inline { data }
            }
            PACKED => {
                BlobDescriptor::Packed { blob_id: self.sidecar(file, id).await?, offset, size }
            }
            DEDICATED => BlobDescriptor::Dedicated { blob_id: self.sidecar(file, id).await?, size },
            EXTERNAL => {
                let uri = uris.as_string::<i32>().value(row).to_owned();
                BlobDescriptor::External { base_id: id, uri, offset, size }
            }
            _ => return Err(malformed()),
        })
    }

    /// The staged file's own sidecar for `id` of `file`.
    async fn sidecar(&mut self, file: &str, id: u32) -> Result<u32> {
        let key = (file.to_owned(), id);
        if let Some(own) = self.copies.get(&key) {
            return Ok(*own);
        }
        let own = self.next_id()?;
        let from = blob_path(&self.directory, file, id);
        self.files.copy(&from, &blob_path(&self.directory, &self.file, own)).await?;
        self.copies.insert(key, own);
        Ok(own)
    }
}

impl Pack {
    async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.writer.write_all(bytes).await;
        written.doing(|| format!("write sidecar {}", self.id))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
