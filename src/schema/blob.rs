//! Lance's blob v2, whose bytes lie beside the column: in the data file itself, in files of
//! their own next to it ("sidecars"), or wherever a URI points (lance-core 14 `src/datatypes.rs`).
//!
//! A data file stores a descriptor for each blob, which means nothing without that file. The pipeline carries the
//! descriptor together with the file's name, so that rows of many files can be filtered, cut and put together. It
//! also carries a hash of the bytes, so that blobs can be compared.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema as ArrowSchema};
use lance_core::datatypes::{Field, Schema};

use crate::error::{Doing, Result};

/// The children of a blob column while it is carried. The first [`COMPARED`] are the same wherever the
/// blob is stored.
pub(crate) static CARRIED: LazyLock<Fields> = LazyLock::new(|| {
    let child = |name, kind| ArrowField::new(name, kind, true);
    Fields::from(vec![
        child("kind", DataType::UInt8),
        // Its bytes, if they lie in the data file.
        child("data", DataType::LargeBinary),
        // Where it lies, if that is outside of the table.
        child("uri", DataType::Utf8),
        child("size", DataType::UInt64),
        // A hash of its bytes, if they lie in the table.
        child("content", DataType::UInt64),
        child("position", DataType::UInt64),
        child("blob_id", DataType::UInt32),
        // The data file that it was read from, without `.lance`.
        child("file", DataType::Utf8),
        // Its bytes, if the writer still has to put them outside of the data file.
        child("fresh", DataType::LargeBinary),
    ])
});

/// Where a blob's bytes lie (lance-core 14 `BlobKind`): in the data file, beside others in a sidecar, alone
/// in one, or outside of the table.
pub(crate) const INLINE: u8 = 0;
pub(crate) const PACKED: u8 = 1;
pub(crate) const DEDICATED: u8 = 2;
pub(crate) const EXTERNAL: u8 = 3;

/// Where Lance itself puts the bytes of a new blob of this size (lance 14 `src/dataset/blob/write.rs`).
pub(crate) fn kind_of_size(bytes: usize) -> u8 {
    match bytes {
        0..=65_536 => INLINE,
        65_537..=4_194_304 => PACKED,
        _ => DEDICATED,
    }
}

/// Whether `field` is a blob v1 column, in which the bytes themselves lie.
pub(crate) fn is_blob_v1(field: &Field) -> bool {
    field.is_blob() && !field.is_blob_v2()
}

/// How many children of [`CARRIED`] are compared when staged rows are read back.
const COMPARED: usize = 5;

/// The top-level columns of blob v2 in `schema`.
pub(crate) fn columns(schema: &Schema) -> Vec<&Field> {
    schema.fields.iter().filter(|field| field.is_blob_v2()).collect()
}

/// Whether files of `schema` may have sidecars.
pub(crate) fn has_any(schema: &Schema) -> bool {
    schema.fields.iter().any(Field::is_blob_v2)
}

/// `schema` with the descriptors of blobs in place of the blobs, which is what Lance's readers are asked for.
pub(crate) fn stored(schema: &Schema) -> Schema {
    let mut stored = schema.clone();
    stored.fields.iter_mut().for_each(Field::unload_blobs_recursive);
    stored
}

/// `schema` with descriptors in place of the blobs inside other columns, which stay where they are.
pub(crate) fn nested_stored(mut schema: Schema) -> Schema {
    let children = schema.fields.iter_mut().flat_map(|field| &mut field.children);
    children.for_each(Field::unload_blobs_recursive);
    schema
}

/// `schema` with blobs as they are carried.
pub(crate) fn carried(schema: &ArrowSchema) -> ArrowSchema {
    with_blobs_as(schema, &CARRIED)
}

/// `schema` with blobs as they are compared.
pub(crate) fn compared(schema: &ArrowSchema) -> ArrowSchema {
    let fields: Fields = CARRIED.iter().take(COMPARED).cloned().collect();
    with_blobs_as(schema, &fields)
}

fn with_blobs_as(schema: &ArrowSchema, children: &Fields) -> ArrowSchema {
    let fields = schema.fields().iter().map(|field| {
        if is_blob(field) {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Struct(children.clone())))
        } else {
            Arc::clone(field)
        }
    });
    ArrowSchema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

fn is_blob(field: &ArrowField) -> bool {
    field.extension_type_name() == Some("lance.blob.v2")
}

/// The part of `batch`, whose blobs are carried, that is compared.
///
/// # Errors
/// `Failed`, when it is not of the carried form.
pub(crate) fn comparable(batch: RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_blob(field)) {
        return Ok(batch);
    }
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if !is_blob(field) {
            return Ok(Arc::clone(column));
        }
        let (fields, children, nulls) = column.as_struct().clone().into_parts();
        let fields: Fields = fields.iter().take(COMPARED).cloned().collect();
        let children: Vec<ArrayRef> = children.into_iter().take(COMPARED).collect();
        let compared = StructArray::try_new(fields, children, nulls);
        Ok(Arc::new(compared.doing(|| format!("compare the blobs of `{}`", field.name()))?)
            as ArrayRef)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let schema = Arc::new(compared(&schema));
    RecordBatch::try_new(schema, columns).doing(|| "compare blobs".to_owned())
}
