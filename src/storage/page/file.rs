//! A data file that is read page by page.

use std::{io, sync::Arc};

use futures::{Stream, StreamExt};
use lance_encoding::decoder::ColumnInfo;
use lance_file::reader::{CachedFileMetadata, FileReader};
use lance_io::object_store::ObjectStore;
use lance_io::scheduler::{FileScheduler, ScanScheduler, SchedulerConfig};
use lance_table::format::DataFile;
use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Doing, Error, Result};
use crate::storage::page::blocks::{Block, Blocks};
use crate::storage::page::cut::{BufferPlace, Read, reads};
use crate::{limits::STORE_AHEAD_BYTES, storage::files};

/// A data file that is read page by page.
#[derive(Debug)]
pub(crate) struct PageFile {
    pub(super) name: String,
    pub(super) metadata: Arc<CachedFileMetadata>,
    pub(super) access: Access,
    pub(super) path: Path,
    /// Bytes of a read, and reads ahead, that suit it.
    pace: (u64, usize),
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone)]
pub(super) enum Access {
    Disk(Arc<std::fs::File>),
    Store(FileScheduler),
}

/// What was read, and a hash of each of its pieces.
#[derive(Debug)]
pub(super) struct HashedRead {
    pub read: Read,
    pub block: Block,
    pub hashes: Vec<u128>,
}

impl PageFile {
    /// Opens `file` in `directory`.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read, or is no data file.
    pub(crate) async fn open(
        store: &Arc<ObjectStore>,
        directory: &Path,
        file: &DataFile,
    ) -> Result<Self> {
        let name = file.path.clone();
        let opening = || format!("open {name}");
        let path = directory.clone().join(name.as_str());
        let files = files::of(store);
        let config = SchedulerConfig::new(STORE_AHEAD_BYTES);
        // For a few bytes of a disk, tasks that wait for each other are not worth it.
        let lite = files.has_local_files();
        let config = if lite { config.with_lite_scheduler() } else { config };
        let scheduler = ScanScheduler::new(Arc::clone(store), config);
        let opened = scheduler.open_file(&path, &file.file_size_bytes).await.doing(opening)?;
        let metadata = FileReader::read_all_metadata(&opened).await.doing(opening)?;
        let access = match files.local_file(&path).doing(opening)? {
            Some(file) => Access::Disk(Arc::new(file)),
            None => Access::Store(opened),
        };
        let file =
            Self { name, metadata: Arc::new(metadata), access, path, pace: files.read_pace() };
        file.check_places()?;
        Ok(file)
    }

    /// Every buffer lies inside the file.
    fn check_places(&self) -> Result<()> {
        let end = self.metadata.file_size_bytes;
        let inside =
            |(offset, size): &(u64, u64)| offset.checked_add(*size).is_some_and(|e| e <= end);
        if self.buffers().all(inside) {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::failed(format!("{name} is damaged: a page of it lies beyond its end")))
    }

    /// Every buffer of a page: its offset and its bytes.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &(u64, u64)> {
        let pages = self.columns().iter().flat_map(|column| column.page_infos.iter());
        pages.flat_map(|page| page.buffer_offsets_and_sizes.iter())
    }

    /// The offset of every buffer, those of whole columns and of the file among them.
    pub(super) fn all_buffers(&self) -> impl Iterator<Item = u64> {
        let columns = self.columns().iter();
        let of_columns = columns.flat_map(|column| column.buffer_offsets_and_sizes.iter());
        let of_file = self.metadata.file_buffers.iter().map(|buffer| buffer.position);
        self.buffers().chain(of_columns).map(|(offset, _)| *offset).chain(of_file)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub(crate) fn metadata(&self) -> &CachedFileMetadata {
        &self.metadata
    }

    pub(crate) fn columns(&self) -> &[Arc<ColumnInfo>] {
        &self.metadata.column_infos
    }

    /// Reads, and hashes each piece, on a task of its own.
    async fn read_hashed(self: Arc<Self>, read: Read, blocks: Blocks) -> Result<HashedRead> {
        let name = self.name.clone();
        let died = |error| Err(io::Error::other(error));
        let taken = match self.access.clone() {
            Access::Disk(file) => {
                let taken = tokio::task::spawn_blocking(move || read_disk(&file, read, &blocks));
                taken.await.unwrap_or_else(died)
            }
            Access::Store(file) => tokio::spawn(async move {
                let place = |at| usize::try_from(at).map_err(io::Error::other);
                let range = place(read.range.start)?..place(read.range.end)?;
                let bytes = if range.is_empty() {
                    bytes::Bytes::new()
                } else {
                    file.reader().get_range(range).await?
                };
                if bytes.len() != length(&read) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(hashed(read, Block::whole(bytes.into())))
            })
            .await
            .unwrap_or_else(died),
        };
        taken.doing(|| format!("read {name}"))
    }
}

/// Reads the buffers of `files` at `places`, a few reads ahead.
pub(super) fn read_ahead<'a>(
    files: &'a [Arc<PageFile>],
    places: &[BufferPlace],
) -> impl Stream<Item = Result<HashedRead>> + Unpin + use<'a> {
    let bytes = files.first().map_or(1, |file| file.pace.0);
    read_each(files, reads(places, bytes))
}

/// Does these `reads` of `files`, a few ahead: as many bytes as suit the files, whatever one of the reads has.
pub(super) fn read_each(
    files: &[Arc<PageFile>],
    reads: Vec<Read>,
) -> impl Stream<Item = Result<HashedRead>> + Unpin + use<'_> {
    let (bytes, ahead) = files.first().map_or((1, 1), |file| file.pace);
    let largest = reads.iter().map(|read| read.range.end - read.range.start).max();
    let at_once = bytes * ahead as u64 / largest.unwrap_or(1).max(1);
    let ahead = ahead.min(usize::try_from(at_once).unwrap_or(ahead)).max(2);
    let blocks = Blocks::default();
    let reads = futures::stream::iter(reads).map(move |read| {
        let (file, blocks) = (files.get(read.file).cloned(), blocks.clone());
        async move {
            let file = file.ok_or_else(|| Error::failed("a page of no file was asked for"))?;
            file.read_hashed(read, blocks).await
        }
    });
    reads.buffered(ahead).boxed()
}

/// Reads a file on a disk, and hashes each piece.
pub(super) fn read_disk(
    file: &std::fs::File,
    read: Read,
    blocks: &Blocks,
) -> io::Result<HashedRead> {
    let mut block = blocks.take(length(&read));
    read_at(file, block.bytes_mut(), read.range.start)?;
    Ok(hashed(read, block))
}

pub(super) fn length(read: &Read) -> usize {
    usize::try_from(read.range.end - read.range.start).unwrap_or(usize::MAX)
}

/// Fills `into` with the bytes of `file` from `at` on.
#[cfg(unix)]
pub(super) fn read_at(file: &std::fs::File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

/// Fills `into` with the bytes of `file` from `at` on.
#[cfg(not(unix))]
pub(super) fn read_at(_: &std::fs::File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn hashed(read: Read, block: Block) -> HashedRead {
    let hashes = read.pieces.iter().map(|piece| xxh3_128(block.of(&read, piece)));
    let hashes = hashes.collect();
    HashedRead { read, block, hashes }
}
