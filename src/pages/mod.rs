//! Encoded pages: what the values of a column are stored as. Where values stay as they are, pages are copied
//! from one data file into another without being decoded, as Lance's own compaction can do (lance-file 14
//! `src/concat.rs`), in the order in which they lie in their file.
//!
//! A column of pages has a hash: over how many rows each page has, how it is encoded, and every byte of its
//! buffers. Two columns with one hash hold the same values, since they are decoded from the same bytes.

mod blocks;
mod cut;
mod encoding;
mod file;
mod io;
mod read;
mod seen;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lance_encoding::decoder::{ColumnInfo, PageInfo};
use lance_file::writer::FileWriter;
use lance_io::object_store::ObjectStore;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::digest::Digest;
use crate::error::{Context, Error, Result};
pub(crate) use crate::pages::blocks::Blocks;
use crate::pages::cut::{Piece, Place, reads};
use crate::pages::encoding::hash_of;
pub(crate) use crate::pages::file::PageFile;
use crate::pages::file::Taken;
pub(crate) use crate::pages::read::projection;
pub(crate) use crate::pages::seen::{ReadBack, Seen};
use crate::span;
use crate::storage::files;

/// Bytes that a copy from or to `store` holds at once, about: what is read ahead, and what is written.
pub(crate) fn held_bytes(store: &ObjectStore) -> u64 {
    files::of(store).held_bytes()
}

/// A part of a column: the column of one of the files, and how many rows come before its own.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Which of the files.
    pub file: usize,
    /// The column there.
    pub column: Arc<ColumnInfo>,
    /// Rows before it.
    pub rows_before: u64,
}

/// Columns as they lie in the file that they were copied to, and the hash of each.
#[derive(Debug)]
pub(crate) struct Copied {
    /// The columns.
    pub columns: Vec<Arc<ColumnInfo>>,
    /// Their hashes.
    pub hashes: Vec<u128>,
    /// What was read back of them meanwhile.
    pub seen: Seen,
}

/// Copies `columns`, each put together from parts in row order, from `files` to `writer`. `wrote` is called
/// with bytes as they are written, and waited for. What is written is read by `back` meanwhile, if it is there.
///
/// # Errors
/// `Failed`, when a file cannot be read, or the new one cannot be written.
///
/// # Crash
/// The file is not finished; its name tells whose it is.
pub(crate) async fn copy<W: Future<Output = ()>>(
    files: &[Arc<PageFile>],
    columns: &[Vec<Part>],
    writer: &mut FileWriter,
    mut back: Option<ReadBack>,
    mut wrote: impl FnMut(u64) -> W,
) -> Result<Copied> {
    let parts = columns.iter().flatten();
    let places: Vec<Place> = parts.flat_map(|part| places_of(part.file, &part.column)).collect();
    let mut written: Vec<Option<u64>> = vec![None; places.len()];
    let mut hashes = Hashes::of(places.len());
    let mut taken = pieces(files, &places);
    loop {
        let scanning = span::scan();
        let next = taken.try_next().await?;
        drop(scanning);
        let Some(taken) = next else { break };
        let writing = span::write();
        let mut moved = Vec::with_capacity(taken.read.pieces.len());
        for piece in &taken.read.pieces {
            let bytes = taken.block.of(&taken.read, piece);
            // Pieces are multiples of the alignment, but for the last one: nothing comes between them.
            let put = writer.write_external_buffer(bytes).await;
            let (at, _) = put.doing(|| "write a page".to_owned())?;
            if let Some(first) = written.get_mut(piece.buffer) {
                first.get_or_insert(at);
            }
            moved.push(Piece { buffer: piece.buffer, range: at..at + bytes.len() as u64 });
        }
        drop(writing);
        hashes.add(&taken);
        if let Some(back) = &mut back {
            back.wrote(moved).await;
        }
        wrote(taken.read.range.end - taken.read.range.start).await;
    }
    drop(taken);
    let at = places.iter().zip(&written).map(|(place, at)| (at.unwrap_or_default(), place.bytes));
    let at: Vec<_> = at.collect();
    let seen = match back {
        Some(back) => back.finish(at.iter().copied()).await,
        None => Seen::default(),
    };
    let mut at = at.into_iter();
    let columns = columns.iter().zip(0..).map(|(parts, index)| moved(parts, index, &mut at));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let mut hashes = hashes.0.into_iter();
    let hashes = columns.iter().map(|column| hash_of(column, &mut hashes));
    let hashes = hashes.collect::<Result<Vec<_>>>()?;
    Ok(Copied { columns, hashes, seen })
}

/// Bytes of the pages of `columns`.
pub(crate) fn bytes_of(columns: &[Vec<Part>]) -> u64 {
    let parts = columns.iter().flatten();
    parts.flat_map(|part| places_of(part.file, &part.column)).map(|place| place.bytes).sum()
}

/// The hashes of those `columns` of `file`; what was `seen` of it is not read again.
///
/// # Errors
/// `Failed`, when it has no such column, or cannot be read.
pub(crate) async fn hashes(
    file: &Arc<PageFile>,
    columns: &[usize],
    seen: &Seen,
) -> Result<Vec<u128>> {
    let found = columns.iter().map(|place| {
        let column = file.columns().get(*place);
        column.ok_or_else(|| Error::failed(format!("there is no column {place} in the file")))
    });
    let columns = found.collect::<Result<Vec<_>>>()?;
    let places: Vec<Place> = columns.iter().flat_map(|column| places_of(0, column)).collect();
    let unseen: Vec<Place> =
        places.iter().filter(|place| seen.hash(place).is_none()).cloned().collect();
    let mut hashes = Hashes::of(unseen.len());
    let files = [Arc::clone(file)];
    let mut taken = pieces(&files, &unseen);
    while let Some(taken) = taken.try_next().await? {
        hashes.add(&taken);
    }
    let mut read = hashes.0.into_iter();
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

fn places_of(file: usize, column: &ColumnInfo) -> impl Iterator<Item = Place> {
    let buffers = column.page_infos.iter().flat_map(|page| page.buffer_offsets_and_sizes.iter());
    buffers.map(move |(offset, bytes)| Place { file, offset: *offset, bytes: *bytes })
}

/// Reads the buffers at `places`, some of them ahead.
fn pieces<'a>(
    files: &'a [Arc<PageFile>],
    places: &[Place],
) -> impl futures::Stream<Item = Result<Taken>> + Unpin + use<'a> {
    let (bytes, ahead) = files.first().map_or((1, 1), |file| file.pace());
    let blocks = Blocks::default();
    let reads = futures::stream::iter(reads(places, bytes)).map(move |read| {
        let (file, blocks) = (files.get(read.file).cloned(), blocks.clone());
        async move {
            let file = file.ok_or_else(|| Error::failed("a page of no file was asked for"))?;
            file.take(read, blocks).await
        }
    });
    reads.buffered(ahead).boxed()
}

/// The hash of each buffer, over those of its pieces.
#[derive(Debug)]
struct Hashes(Vec<u128>);

impl Hashes {
    fn of(buffers: usize) -> Self {
        Self(vec![0; buffers])
    }

    fn add(&mut self, taken: &Taken) {
        for (piece, hash) in taken.read.pieces.iter().zip(&taken.hashes) {
            if self.0.len() <= piece.buffer {
                self.0.resize(piece.buffer + 1, 0);
            }
            if let Some(buffer) = self.0.get_mut(piece.buffer) {
                *buffer = xxh3_128(&[buffer.to_le_bytes(), hash.to_le_bytes()].concat());
            }
        }
    }
}

/// The column that `parts` become, whose buffers lie where `at` says.
fn moved(
    parts: &[Part],
    index: u32,
    at: &mut impl Iterator<Item = (u64, u64)>,
) -> Result<Arc<ColumnInfo>> {
    let mut pages = Vec::new();
    for part in parts {
        for page in part.column.page_infos.iter() {
            let count = page.buffer_offsets_and_sizes.len();
            pages.push(PageInfo {
                num_rows: page.num_rows,
                priority: page.priority + part.rows_before,
                encoding: page.encoding.clone(),
                buffer_offsets_and_sizes: at.by_ref().take(count).collect(),
            });
        }
    }
    let first =
        parts.first().ok_or_else(|| Error::failed("a column without a part was asked for"))?;
    let encoding = first.column.encoding.clone();
    Ok(Arc::new(ColumnInfo::new(index, pages.into(), Vec::new(), encoding)))
}
