//! The hash of a column of pages: what is hashed, byte by byte.
//!
//! It is kept in the journal, and may be compared by another release of relance over another release of Lance:
//! so it is a hash of bytes whose meaning the file format fixes, and of nothing that Lance's code is free to
//! change. Each item stands after its length, as 8 bytes; all numbers are little-endian. In this order:
//!
//! 1. The version of the definition, 4 bytes.
//! 2. The column's encoding: the message `lance.encodings.ColumnEncoding`.
//! 3. For each page: one byte, the grammar of its encoding (0 for `lance.encodings.ArrayEncoding`, 1 for
//!    `lance.encodings21.PageLayout`, 2 for `lance.encodings23.PlanarLayout`), and that message; its rows and
//!    its priority, 8 bytes each; and for each of its buffers, 8 bytes of length and the 16 of the hash of its
//!    bytes.
//!
//! Messages are written as Protocol Buffers write them, fields by their number, none that has its default:
//! equal ones have equal bytes, as none of them holds a map.

use std::sync::Arc;

use futures::TryStreamExt;
use lance_encoding::decoder::{ColumnInfo, PageEncoding};
use lance_encoding::format::pb21::PageLayout;
use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::error::{Doing, Error, Result};
use crate::storage::page::cut::{BufferPlace, places_of};
use crate::storage::page::file::{HashedRead, PageFile, read_ahead};
use crate::storage::page::read_along::ReadBackHashes;
use crate::transform::digest::{DIGEST_VERSION, Digest};

/// The hashes of the columns of `file` at the places `columns`; what was `seen` of it is not read again.
///
/// # Errors
/// `Failed`, when it has no such column, or cannot be read.
pub(crate) async fn hashes(
    file: &Arc<PageFile>,
    columns: &[usize],
    seen: &ReadBackHashes,
) -> Result<Vec<u128>> {
    let found = columns.iter().map(|place| {
        let column = file.columns().get(*place);
        column.ok_or_else(|| Error::failed(format!("there is no column {place} in the file")))
    });
    let columns = found.collect::<Result<Vec<_>>>()?;
    let places: Vec<BufferPlace> = columns.iter().flat_map(|column| places_of(0, column)).collect();
    let unseen: Vec<BufferPlace> =
        places.iter().filter(|place| seen.hash(place).is_none()).cloned().collect();
    let mut hashes = BufferHashes::of(unseen.len());
    let files = [Arc::clone(file)];
    let mut taken = read_ahead(&files, &unseen);
    while let Some(taken) = taken.try_next().await? {
        hashes.add(&taken);
    }
    let mut read = hashes.finish();
    let hashes = places.iter().map(|place| seen.hash(place).or_else(|| read.next()));
    let mut hashes = hashes.map(Option::unwrap_or_default);
    columns.iter().map(|column| hash_of(column, &mut hashes)).collect()
}

/// The digest of a column of the table that is stored as columns of these `hashes`.
pub(crate) fn digest_of(hashes: &[u128]) -> Digest {
    let mut whole = Xxh3::new();
    for hash in hashes {
        whole.update(&hash.to_le_bytes());
    }
    Digest::of(&whole)
}

/// The digests of columns of the table, each of which is stored as the next `counts` of the columns of these `hashes`.
pub(crate) fn digests_of(
    mut hashes: &[u128],
    counts: impl Iterator<Item = usize>,
) -> impl Iterator<Item = Digest> {
    counts.map(move |count| {
        let (own, rest) = hashes.split_at_checked(count).unwrap_or((hashes, &[]));
        hashes = rest;
        digest_of(own)
    })
}

/// The hash of `column`, whose buffers have the next of the hashes `buffers`.
///
/// # Errors
/// `Failed`, when a page is encoded in a way that its format has no words for.
pub(super) fn hash_of(
    column: &ColumnInfo,
    buffers: &mut impl Iterator<Item = u128>,
) -> Result<u128> {
    let mut whole = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        whole.update(&(bytes.len() as u64).to_le_bytes());
        whole.update(bytes);
    };
    add(&DIGEST_VERSION.to_le_bytes());
    add(&column.encoding.encode_to_vec());
    for page in column.page_infos.iter() {
        let (grammar, message) = message_of(&page.encoding)?;
        add(&[grammar]);
        add(&message);
        add(&page.num_rows.to_le_bytes());
        add(&page.priority.to_le_bytes());
        for (_, bytes) in page.buffer_offsets_and_sizes.iter() {
            add(&bytes.to_le_bytes());
            add(&buffers.next().unwrap_or_default().to_le_bytes());
        }
    }
    Ok(whole.digest128())
}

/// The grammar of a page's encoding, and the message that says it.
fn message_of(encoding: &PageEncoding) -> Result<(u8, Vec<u8>)> {
    Ok(match encoding {
        PageEncoding::Legacy(encoding) => (0, encoding.encode_to_vec()),
        PageEncoding::Structural(layout) => {
            let layout = PageLayout::try_from(layout.clone());
            (1, layout.doing(|| "tell how a page is encoded".to_owned())?.encode_to_vec())
        }
        PageEncoding::Planar(layout) => (2, layout.encode_to_vec()),
    })
}

/// The hash of each buffer, over those of its pieces, and the bytes of it that were read.
#[derive(Debug)]
pub(super) struct BufferHashes(pub(super) Vec<(u128, u64)>);

impl BufferHashes {
    /// Those of so many `buffers`, none of which was read yet.
    pub(super) fn of(buffers: usize) -> Self {
        Self(vec![(0, 0); buffers])
    }

    /// Takes in what was read; the pieces of a buffer come in their order.
    pub(super) fn add(&mut self, taken: &HashedRead) {
        for (piece, hash) in taken.read.pieces.iter().zip(&taken.hashes) {
            if self.0.len() <= piece.buffer {
                self.0.resize(piece.buffer + 1, (0, 0));
            }
            if let Some((buffer, bytes)) = self.0.get_mut(piece.buffer) {
                *buffer = xxh3_128(&[buffer.to_le_bytes(), hash.to_le_bytes()].concat());
                *bytes += piece.range.end - piece.range.start;
            }
        }
    }

    /// The hash of each.
    pub(super) fn finish(self) -> impl Iterator<Item = u128> {
        self.0.into_iter().map(|(hash, _)| hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_encoding::{decoder::PageInfo, format::pb};

    fn column(encoding: PageEncoding) -> ColumnInfo {
        let buffer_offsets_and_sizes: Arc<[(u64, u64)]> = vec![(64, 3)].into();
        let page = PageInfo { num_rows: 5, priority: 2, encoding, buffer_offsets_and_sizes };
        let values = pb::column_encoding::ColumnEncoding::Values(());
        let whole = pb::ColumnEncoding { column_encoding: Some(values) };
        ColumnInfo::new(0, vec![page].into(), Vec::new(), whole)
    }

    fn constant(value: u8) -> PageEncoding {
        let value = vec![value].into();
        let constant = pb::array_encoding::ArrayEncoding::Constant(pb::Constant { value });
        PageEncoding::Legacy(pb::ArrayEncoding { array_encoding: Some(constant) })
    }

    /// What the definition above says, written down by hand: whoever changes it raises its version.
    #[test]
    fn what_is_hashed_is_fixed() {
        let legacy = message_of(&constant(7)).unwrap();
        // Field 13 of an array's encoding, of 3 bytes: field 1 of a constant, of 1 byte.
        assert_eq!(legacy, (0, vec![13 << 3 | 2, 3, 1 << 3 | 2, 1, 7]));
        let mut bytes = Vec::new();
        let mut add = |item: &[u8]| {
            bytes.extend_from_slice(&(item.len() as u64).to_le_bytes());
            bytes.extend_from_slice(item);
        };
        add(&[1, 0, 0, 0]);
        add(&[1 << 3 | 2, 0]);
        add(&[0]);
        add(&legacy.1);
        add(&5_u64.to_le_bytes());
        add(&2_u64.to_le_bytes());
        add(&3_u64.to_le_bytes());
        add(&9_u128.to_le_bytes());
        let hash = hash_of(&column(constant(7)), &mut [9].into_iter()).unwrap();
        assert_eq!(hash, xxh3_128(&bytes));
        let other = hash_of(&column(constant(8)), &mut [9].into_iter()).unwrap();
        assert_ne!(hash, other);
    }
}
