//! Copies columns page by page from data files into another one, without decoding them, as Lance's own
//! compaction can do (lance-file 14 `src/concat.rs`), in the order in which the pages lie in their file.

use std::sync::Arc;

use futures::TryStreamExt;
use lance_encoding::decoder::{ColumnInfo, PageInfo};
use lance_file::writer::FileWriter;

use crate::error::{Doing, Error, Result};
use crate::span;
use crate::storage::page::cut::{BufferPlace, ColumnPart, Piece, places_of};
use crate::storage::page::file::{PageFile, read_ahead};
use crate::storage::page::hash::{BufferHashes, hash_of};
use crate::storage::page::parts::PartCopier;
use crate::storage::page::read_along::ReadBack;

/// Columns as they lie in the file that they were copied to, and the hash of each.
#[derive(Debug)]
pub(crate) struct CopiedColumns {
    pub columns: Vec<Arc<ColumnInfo>>,
    /// `None`, where the store copied bytes that were not read.
    pub hashes: Option<Vec<u128>>,
    /// Where the last of their bytes lies, and one further.
    pub end: u64,
    /// What reads them back: once the file is finished, it [tells](ReadBack::finish) what was seen.
    pub back: Option<ReadBack>,
}

/// Copies `columns`, each put together from parts in row order, from `files` to `writer`, after what `inside` has the store
/// copy. `wrote` is called with bytes as they are written, and waited for. What is written is read by `back` meanwhile, if it
/// is there.
///
/// # Errors
/// `Failed`, when a file cannot be read, or the new one cannot be written.
///
/// # Crash
/// The file is not finished; its name tells whose it is.
pub(crate) async fn copy<W: Future<Output = ()>>(
    files: &[Arc<PageFile>],
    columns: &[Vec<ColumnPart>],
    (writer, inside): (&mut FileWriter, Option<PartCopier<'_>>),
    mut back: Option<ReadBack>,
    mut wrote: impl FnMut(u64) -> W,
) -> Result<CopiedColumns> {
    let parts = columns.iter().flatten();
    let places: Vec<BufferPlace> =
        parts.flat_map(|part| places_of(part.file, &part.column)).collect();
    let mut written: Vec<Option<u64>> = vec![None; places.len()];
    let mut hashes = BufferHashes::of(places.len());
    if let Some(inside) = &inside {
        written = inside.parts.places(places.len());
        inside.copy(files, (&mut hashes, back.as_mut()), &mut wrote).await?;
    }
    let by_hand = places.iter().enumerate().filter(|(place, _)| written.get(*place) == Some(&None));
    let (by_hand, rest): (Vec<usize>, Vec<BufferPlace>) =
        by_hand.map(|(place, buffer)| (place, buffer.clone())).unzip();
    let mut taken = read_ahead(files, &rest);
    loop {
        let scanning = (span::scan(), span::starved());
        let next = taken.try_next().await?;
        drop(scanning);
        let Some(mut taken) = next else { break };
        for piece in &mut taken.read.pieces {
            piece.buffer = by_hand.get(piece.buffer).copied().unwrap_or(piece.buffer);
        }
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
    let end = at.iter().map(|(at, bytes)| at + bytes).max().unwrap_or_default();
    let back = back.map(|back| back.of_buffers(at.clone()));
    let mut at = at.into_iter();
    let columns = columns.iter().zip(0..).map(|(parts, index)| moved(parts, index, &mut at));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let mut hashes = hashes.finish();
    let hashes = columns.iter().map(|column| hash_of(column, &mut hashes));
    let are_read = inside.is_none_or(|inside| inside.reads);
    let hashes = are_read.then(|| hashes.collect::<Result<Vec<_>>>()).transpose()?;
    Ok(CopiedColumns { columns, hashes, end, back })
}

/// Bytes of the pages of `columns`.
pub(crate) fn bytes_of(columns: &[Vec<ColumnPart>]) -> u64 {
    let parts = columns.iter().flatten();
    parts.flat_map(|part| places_of(part.file, &part.column)).map(|place| place.bytes).sum()
}

/// The column that `parts` become, whose buffers lie where `at` says.
fn moved(
    parts: &[ColumnPart],
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
