//! Turns blob v1, whose bytes lie in the column, into blob v2, which Lance writes from storage version 2.2 on.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, LargeBinaryArray, StringArray, StructArray, UInt8Array, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::datatypes::DataType;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Doing, Error, Result};
use crate::schema::blob::{CARRIED, kind_of_size};

/// Blob v2, as the pipeline carries them, with the bytes of `array`, a column of blob v1. The bytes that will not
/// lie in the data file are carried as `fresh`: the writer puts them where they belong.
///
/// # Errors
/// `Failed`, when they are no bytes.
pub(super) fn blob_v2(array: &ArrayRef) -> Result<ArrayRef> {
    let bytes = arrow::compute::cast(array, &DataType::LargeBinary);
    let bytes = bytes.doing(|| "read blobs".to_owned())?;
    let bytes = bytes.as_binary_opt::<i64>().ok_or_else(|| Error::failed("blobs are no bytes"))?;
    let kinds: UInt8Array =
        bytes.iter().map(|blob| blob.map(|blob| kind_of_size(blob.len()))).collect();
    let lies_inside = |blob: &&[u8]| kind_of_size(blob.len()) == crate::schema::blob::INLINE;
    let data: LargeBinaryArray = bytes.iter().map(|blob| blob.filter(lies_inside)).collect();
    let fresh: LargeBinaryArray =
        bytes.iter().map(|blob| blob.filter(|blob| !lies_inside(blob))).collect();
    let sizes: UInt64Array = bytes.iter().map(|blob| blob.map(|blob| blob.len() as u64)).collect();
    let contents: UInt64Array = bytes.iter().map(|blob| blob.map(xxh3_64)).collect();
    let there = || bytes.iter().map(|blob| blob.map(|_| 0));
    let positions: UInt64Array = there().map(|zero| zero.map(u64::from)).collect();
    let ids: UInt32Array = there().collect();
    let children: Vec<ArrayRef> = vec![
        Arc::new(kinds),
        Arc::new(data),
        new_null_array(&DataType::Utf8, bytes.len()),
        Arc::new(sizes),
        Arc::new(contents),
        Arc::new(positions),
        Arc::new(ids),
        Arc::new(bytes.iter().map(|blob| blob.map(|_| "")).collect::<StringArray>()),
        Arc::new(fresh),
    ];
    let carried = StructArray::try_new(CARRIED.clone(), children, bytes.nulls().cloned());
    Ok(Arc::new(carried.doing(|| "carry blobs".to_owned())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_lie_inside_and_large_ones_are_fresh() {
        let large = vec![7; 100_000];
        let blobs: LargeBinaryArray =
            [Some(b"ab".as_slice()), None, Some(&[]), Some(&large)].into_iter().collect();
        let carried = blob_v2(&(Arc::new(blobs) as ArrayRef)).unwrap();
        let carried = carried.as_struct();
        assert_eq!((carried.len(), carried.null_count()), (4, 1));
        let data = carried.column_by_name("data").unwrap().as_binary::<i64>();
        let fresh = carried.column_by_name("fresh").unwrap().as_binary::<i64>();
        assert_eq!((data.value(0), data.value(2)), (b"ab".as_slice(), [].as_slice()));
        assert!(data.is_null(3) && fresh.is_null(0) && fresh.value(3) == large);
    }
}
