//! Decodes the rows of a data file, by Lance's own decoder.

use std::{collections::BTreeMap, sync::Arc};

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lance_core::{cache::LanceCache, datatypes::Schema};
use lance_encoding::EncodingsIo;
use lance_encoding::decoder::{DecoderPlugins, FilterExpression, ReadBatchTask};
use lance_file::LanceEncodingsIo;
use lance_file::reader::{FileReader, FileReaderOptions, ReaderProjection};
use lance_file::versions::{physical_column_count, reader_projection_from_field_ids};
use lance_io::ReadBatchParams;
use lance_table::format::DataFile;

use crate::error::{Doing, Result};
use crate::limits::{DECODED_READ_BYTES, FEW_COLUMNS, READ_AT_ONCE_PAGE_BYTES};
use crate::storage::page::file::{Access, PageFile};
use crate::storage::page::{blocks::Blocks, io::DiskIo};
use crate::storage_version::abilities;

/// Where the fields of `schema` lie in `file`. `None`, when it does not hold all of them whole, lies in another
/// table's folder, or is of a version whose columns cannot be told by number.
pub(crate) fn projection(file: &DataFile, schema: &Schema) -> Option<ReaderProjection> {
    let version = file.file_version().ok()?;
    if !abilities(version).reads_directly || file.base_id.is_some() {
        return None;
    }
    let columns = file.fields.iter().zip(file.column_indices.iter());
    let columns = columns.filter_map(|(field, column)| {
        Some((u32::try_from(*field).ok()?, u32::try_from(*column).ok()?))
    });
    let columns = columns.collect::<BTreeMap<_, _>>();
    let found = reader_projection_from_field_ids(version, schema, &columns).ok()?;
    let wanted = schema.fields.iter().map(|field| physical_column_count(version, field));
    (found.column_indices.len() == wanted.sum::<usize>()).then_some(found)
}

impl PageFile {
    pub(crate) fn rows(&self) -> u64 {
        self.metadata.num_rows
    }

    /// Decodes the first `rows` of the columns of `projection`, in batches of `batch_rows`, in order, using
    /// memory of `blocks`.
    ///
    /// # Errors
    /// `Failed`, when it has no such columns; the tasks carry what fails later.
    pub(crate) async fn read(
        &self,
        projection: ReaderProjection,
        rows: u64,
        batch_rows: u32,
        blocks: &Blocks,
    ) -> Result<BoxStream<'static, lance::Result<ReadBatchTask>>> {
        let rows = rows.min(self.rows());
        let step = self.step_rows(&projection, batch_rows);
        let io: Arc<dyn EncodingsIo> = match &self.access {
            Access::Disk(file) => Arc::new(DiskIo::of(Arc::clone(file), blocks.clone())),
            Access::Store(file) => Arc::new(LanceEncodingsIo::new(file.clone())),
        };
        let reader = FileReader::try_open_with_file_metadata(
            io,
            self.path.clone(),
            Some(projection.clone()),
            Arc::<DecoderPlugins>::default(),
            Arc::clone(&self.metadata),
            &LanceCache::no_cache(),
            FileReaderOptions::default(),
        )
        .await;
        let reader = Arc::new(reader.doing(|| format!("open {}", self.name))?);
        let starts = (0..rows.div_ceil(step)).map(move |read| read * step);
        // One after the other: from a store, two would share the buffer, and each could wait for what the
        // other has taken.
        let begun = stream::iter(starts).then(move |start| {
            let (reader, projection) = (Arc::clone(&reader), projection.clone());
            let range = place(start)..place(rows.min(start + step));
            async move {
                let params = ReadBatchParams::Range(range);
                let filter = FilterExpression::no_filter();
                reader.read_tasks(params, batch_rows, Some(projection), filter).await
            }
        });
        Ok(begun.map_ok(|tasks| tasks.map(Ok)).try_flatten().boxed())
    }

    /// Rows that are asked for at once: all, where that holds little; or about [`DECODED_READ_BYTES`],
    /// in whole batches.
    fn step_rows(&self, projection: &ReaderProjection, batch_rows: u32) -> u64 {
        let (mut held, mut bytes, mut columns): (u64, u64, usize) = (0, 0, 0);
        for place in &projection.column_indices {
            let column = usize::try_from(*place).ok().and_then(|place| self.columns().get(place));
            let Some(column) = column else { continue };
            let pages = column.page_infos.iter().map(|page| {
                page.buffer_offsets_and_sizes.iter().map(|(_, size)| *size).sum::<u64>()
            });
            let (largest, all) =
                pages.fold((0, 0), |(largest, all), page| (page.max(largest), all + page));
            held = held.saturating_add(largest);
            bytes = bytes.saturating_add(all);
            columns += 1;
        }
        let rows = self.rows().max(1);
        if abilities(self.metadata.version).reads_lazily && held <= READ_AT_ONCE_PAGE_BYTES {
            return rows;
        }
        let (few, many) = DECODED_READ_BYTES;
        let read = if columns <= FEW_COLUMNS { few } else { many };
        let batch = u64::from(batch_rows.max(1));
        let wanted = read / (bytes / rows).max(1);
        (wanted / batch).max(1) * batch
    }
}

fn place(row: u64) -> usize {
    usize::try_from(row).unwrap_or(usize::MAX)
}
