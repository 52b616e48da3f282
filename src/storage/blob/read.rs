//! Reads the blobs that belong to the rows of a batch, from where the live table has them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::array::{
    Array, ArrayRef, AsArray, LargeBinaryBuilder, RecordBatch, StringArray, StructArray,
    UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::{
    DataType, Field as ArrowField, Schema as ArrowSchema, UInt8Type, UInt32Type, UInt64Type,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lance_core::datatypes::{Field, Schema};
use lance_core::{ROW_ADDR, utils::blob::blob_path};
use lance_io::object_store::ObjectStore;
use lance_table::format::Fragment;
use object_store::{ObjectStoreExt as _, path::Path};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Doing, Error, Result};
use crate::limits::{BLOB_READ_BYTES, BLOB_READS_AT_ONCE};
use crate::schema::blob::{self, DEDICATED, EXTERNAL, INLINE};
use crate::storage::names::stem;

/// The data file, without `.lance`, that the rows of a column come from.
#[derive(Debug, Clone)]
enum BlobFiles {
    /// This one.
    One(String),
    /// By fragment and field, told by each row's address.
    ByRow(Arc<HashMap<(u64, i32), String>>),
}

/// Reads what belongs to the blob columns of batches.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    store: Arc<ObjectStore>,
    directory: Path,
    columns: Arc<Vec<Field>>,
    files: BlobFiles,
}

/// A blob as a data file describes it.
#[derive(Debug, Clone)]
struct Described {
    kind: u8,
    position: u64,
    size: u64,
    id: u32,
    uri: String,
    file: String,
}

impl Blobs {
    /// The blobs of `schema` in `fragments`, whose rows carry their address; `None` where it has none.
    ///
    /// # Errors
    /// `Refused`, when a data file of theirs lies outside of the table.
    pub(crate) fn of_fragments(
        store: &Arc<ObjectStore>,
        directory: &Path,
        schema: &Schema,
        fragments: &[Fragment],
    ) -> Result<Option<Self>> {
        let columns = blob::columns(schema);
        let mut files = HashMap::new();
        let pairs =
            fragments.iter().flat_map(|one| columns.iter().map(move |column| (one, column)));
        for (fragment, column) in pairs {
            let file = fragment.files.iter().find(|file| file.fields.contains(&column.id));
            let Some(file) = file else { continue };
            if file.base_id.is_some() {
                let (name, id) = (&column.name, fragment.id);
                return Err(Error::refused(format!(
                    "column `{name}`: the blobs of fragment {id} lie in another table's folder, of which \
                     this one is a shallow clone"
                )));
            }
            files.insert((fragment.id, column.id), stem(&file.path).to_owned());
        }
        Ok(Self::new(store, directory, &columns, BlobFiles::ByRow(Arc::new(files))))
    }

    /// The blobs of `schema` in the data file `name`; `None` where it has none.
    pub(crate) fn of_file(
        store: &Arc<ObjectStore>,
        directory: &Path,
        schema: &Schema,
        name: &str,
    ) -> Option<Self> {
        let files = BlobFiles::One(stem(name).to_owned());
        Self::new(store, directory, &blob::columns(schema), files)
    }

    fn new(
        store: &Arc<ObjectStore>,
        directory: &Path,
        columns: &[&Field],
        files: BlobFiles,
    ) -> Option<Self> {
        (!columns.is_empty()).then(|| Self {
            store: Arc::clone(store),
            directory: directory.clone(),
            columns: Arc::new(columns.iter().copied().cloned().collect()),
            files,
        })
    }

    /// Turns `batch`, which is as Lance reads it, into one whose blobs are as they are carried from file to file
    /// (`schema/blob.rs`), without row addresses.
    ///
    /// # Errors
    /// `Failed`, when a blob cannot be read; `Refused`, for a kind that is not known.
    pub(crate) async fn carry(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let addresses = batch.column_by_name(ROW_ADDR).cloned();
        let schema = batch.schema();
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            if field.name() == ROW_ADDR {
                continue;
            }
            let Some(blob) = self.columns.iter().find(|blob| blob.name == *field.name()) else {
                fields.push(Arc::clone(field));
                columns.push(Arc::clone(column));
                continue;
            };
            let rows = self.described(blob, column, addresses.as_ref())?;
            columns.push(self.carried(&blob.name, &rows).await?);
            let logical = ArrowSchema::new(vec![ArrowField::from(blob)]);
            fields.extend(blob::carried(&logical).fields().iter().cloned());
        }
        let schema = ArrowSchema::new_with_metadata(fields, schema.metadata().clone());
        RecordBatch::try_new(Arc::new(schema), columns).doing(|| "carry blobs".to_owned())
    }

    fn described(
        &self,
        blob: &Field,
        column: &ArrayRef,
        addresses: Option<&ArrayRef>,
    ) -> Result<Vec<Option<Described>>> {
        let rows = column.as_struct();
        let malformed =
            || Error::failed(format!("the descriptors of `{}` are malformed", blob.name));
        let [kinds, positions, sizes, ids, uris] = rows.columns() else { return Err(malformed()) };
        let kinds = kinds.as_primitive_opt::<UInt8Type>().ok_or_else(malformed)?;
        let positions = positions.as_primitive_opt::<UInt64Type>().ok_or_else(malformed)?;
        let sizes = sizes.as_primitive_opt::<UInt64Type>().ok_or_else(malformed)?;
        let ids = ids.as_primitive_opt::<UInt32Type>().ok_or_else(malformed)?;
        let uris = uris.as_string_opt::<i32>().ok_or_else(malformed)?;
        let addresses = addresses.and_then(|addresses| addresses.as_primitive_opt::<UInt64Type>());
        let described = (0..rows.len()).map(|row| {
            if rows.is_null(row) || kinds.is_null(row) {
                return Ok(None);
            }
            let file = match &self.files {
                BlobFiles::One(file) => Some(file),
                BlobFiles::ByRow(files) => addresses
                    .and_then(|addresses| files.get(&(addresses.value(row) >> 32, blob.id))),
            };
            let kind = kinds.value(row);
            if kind > EXTERNAL {
                let name = &blob.name;
                return Err(Error::refused(format!(
                    "column `{name}` holds blobs of kind {kind}, which relance cannot rewrite"
                )));
            }
            Ok(Some(Described {
                kind,
                position: positions.value(row),
                size: sizes.value(row),
                id: ids.value(row),
                uri: uris.value(row).to_owned(),
                file: file.cloned().ok_or_else(malformed)?,
            }))
        });
        described.collect()
    }

    /// The carried form of `rows`: reads their bytes, a bounded number at a time.
    async fn carried(&self, name: &str, rows: &[Option<Described>]) -> Result<ArrayRef> {
        let mut data = LargeBinaryBuilder::new();
        let mut contents: Vec<Option<u64>> = Vec::with_capacity(rows.len());
        let runs = runs(rows);
        let reads = stream::iter(runs.iter().cloned()).map(|run| self.read(name, rows, run));
        let mut reads = reads.buffered(BLOB_READS_AT_ONCE);
        while let Some(run) = reads.try_next().await? {
            for (bytes, content) in run {
                data.append_option(bytes);
                contents.push(content);
            }
        }
        let is_outside = |row: &&Described| row.kind == EXTERNAL;
        let uris = rows.iter().map(|row| Some(&row.as_ref().filter(is_outside)?.uri));
        let files = rows.iter().map(|row| Some(&row.as_ref()?.file));
        let numbers = |of: fn(&Described) -> u64| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.as_ref().map(of)).collect::<UInt64Array>())
        };
        let kinds: UInt8Array = rows.iter().map(|row| row.as_ref().map(|row| row.kind)).collect();
        let ids: UInt32Array = rows.iter().map(|row| row.as_ref().map(|row| row.id)).collect();
        let nulls = rows.iter().map(Option::is_some).collect::<Vec<bool>>();
        let children: Vec<ArrayRef> = vec![
            Arc::new(kinds),
            Arc::new(data.finish()),
            Arc::new(uris.collect::<StringArray>()),
            numbers(|row| row.size),
            Arc::new(UInt64Array::from(contents)),
            numbers(|row| row.position),
            Arc::new(ids),
            Arc::new(files.collect::<StringArray>()),
            new_null_array(&DataType::LargeBinary, rows.len()),
        ];
        let nulls = Some(nulls.into()).filter(|_| rows.iter().any(Option::is_none));
        let carried = StructArray::try_new(blob::CARRIED.clone(), children, nulls);
        Ok(Arc::new(carried.doing(|| format!("carry the blobs of `{name}`"))?))
    }

    /// The bytes of inline blobs, and the hash of all that lie in the table, of a run of rows.
    async fn read(
        &self,
        name: &str,
        rows: &[Option<Described>],
        run: Range<usize>,
    ) -> Result<Vec<(Option<Bytes>, Option<u64>)>> {
        let rows = rows.get(run).unwrap_or_default();
        let Some((first, last)) = ends(rows) else {
            // Null, outside of the table, or empty.
            let empty = |row: &Described| match row.kind {
                EXTERNAL => (None, None),
                kind => ((kind == INLINE).then(Bytes::new), Some(xxh3_64(&[]))),
            };
            return Ok(rows.iter().map(|row| row.as_ref().map_or((None, None), empty)).collect());
        };
        let path = self.path(first);
        let doing = || format!("read a blob of `{name}` in {path}");
        let range = first.start()..last.end();
        if range.end - range.start > BLOB_READ_BYTES && first.kind != INLINE {
            let content = self.hash(&path, range).await.doing(doing)?;
            return Ok(vec![(None, Some(content))]);
        }
        let bytes = self.store.inner.get_range(&path, range.clone()).await.doing(doing)?;
        let of = |row: &Option<Described>| -> Result<(Option<Bytes>, Option<u64>)> {
            let Some(row) = row else { return Ok((None, None)) };
            let from = usize::try_from(row.start() - range.start).doing(doing)?;
            let to = usize::try_from(row.end() - range.start).doing(doing)?;
            if to > bytes.len() {
                return Err(Error::failed(format!("{path} ends before a blob of `{name}` does")));
            }
            let own = bytes.slice(from..to);
            let content = xxh3_64(&own);
            Ok(((row.kind == INLINE).then_some(own), Some(content)))
        };
        rows.iter().map(of).collect()
    }

    /// The hash of a large blob, read in pieces.
    async fn hash(&self, path: &Path, range: Range<u64>) -> object_store::Result<u64> {
        let mut hash = Xxh3::new();
        let mut from = range.start;
        while from < range.end {
            let to = range.end.min(from + BLOB_READ_BYTES);
            hash.update(&self.store.inner.get_range(path, from..to).await?);
            from = to;
        }
        Ok(hash.digest())
    }

    /// The object that holds the blob's bytes.
    fn path(&self, row: &Described) -> Path {
        if row.kind == INLINE {
            self.directory.clone().join(format!("{}.lance", row.file))
        } else {
            blob_path(&self.directory, &row.file, row.id)
        }
    }
}

impl Described {
    fn start(&self) -> u64 {
        if self.kind == DEDICATED { 0 } else { self.position }
    }

    fn end(&self) -> u64 {
        self.start().saturating_add(self.size)
    }

    fn is_read(&self) -> bool {
        self.kind != EXTERNAL && self.size > 0
    }

    /// Whether `next` lies right behind it.
    fn is_followed_by(&self, next: &Self) -> bool {
        let object = |row: &Self| (row.kind == INLINE, row.file.clone(), row.id);
        self.kind != DEDICATED && object(self) == object(next) && next.start() == self.end()
    }
}

fn ends(rows: &[Option<Described>]) -> Option<(&Described, &Described)> {
    let (first, last) = (rows.first()?.as_ref()?, rows.last()?.as_ref()?);
    first.is_read().then_some((first, last))
}

/// The runs of `rows` that are read at once: a row, or several whose bytes follow each other.
fn runs(rows: &[Option<Described>]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let goes_on = runs.last().is_some_and(|run| {
            let first = rows.get(run.start).and_then(Option::as_ref);
            let before = rows.get(place - 1).and_then(Option::as_ref);
            let all = first.zip(before).zip(row.as_ref());
            all.is_some_and(|((first, before), row)| {
                before.is_read()
                    && row.is_read()
                    && before.is_followed_by(row)
                    && row.end() - first.start() <= BLOB_READ_BYTES
            })
        });
        match runs.last_mut() {
            Some(run) if goes_on => run.end = place + 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::blob::PACKED;

    fn blob(kind: u8, id: u32, position: u64, size: u64) -> Described {
        Described { kind, position, size, id, uri: String::new(), file: "a".to_owned() }
    }

    #[test]
    fn blobs_that_follow_each_other_are_read_at_once() {
        let rows = [
            Some(blob(PACKED, 1, 0, 10)),
            Some(blob(PACKED, 1, 10, 5)),
            Some(blob(PACKED, 2, 15, 5)),
            None,
            Some(blob(PACKED, 2, 20, 5)),
            Some(blob(PACKED, 2, 25, BLOB_READ_BYTES)),
            Some(blob(DEDICATED, 2, 0, 5)),
            Some(blob(DEDICATED, 2, 0, 5)),
            Some(blob(INLINE, 0, 0, 0)),
            Some(blob(INLINE, 0, 64, 3)),
            Some(blob(INLINE, 0, 67, 3)),
        ];
        assert_eq!(runs(&rows), [0..2, 2..3, 3..4, 4..5, 5..6, 6..7, 7..8, 8..9, 9..11]);
    }
}
