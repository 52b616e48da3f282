//! Writes a file on a disk.

use std::io::{self, Write as _};
use std::task::{Context as TaskContext, Poll};
use std::{path::PathBuf, pin::Pin, sync::Arc};

use async_trait::async_trait;
use lance_io::{object_writer::WriteResult, traits::Writer};
use tokio::io::AsyncWrite;

use crate::limits::{
    DISK_SMALL_WRITE_BYTES, DISK_SYNC_EVERY_BYTES, DISK_TURN_BYTES, DISK_WRITE_BYTES,
};

/// A local file that is removed unless it is finished.
///
/// Lance's own local writer works on a temporary file whose name tells nothing, and copies every byte once
/// more on its way to another thread. Here a write is the system call itself: it fills the page cache, which
/// is as fast as the copy.
#[derive(Debug)]
pub(super) struct DiskWriter {
    path: PathBuf,
    file: Arc<std::fs::File>,
    /// Small pieces that wait for more: a file's metadata is written in dozens of them.
    small: Vec<u8>,
    written: usize,
    synced: usize,
    /// Written since other tasks had their turn.
    turn: usize,
    finished: bool,
}

impl DiskWriter {
    /// Creates the new file `path`, and the directory that it lies in.
    ///
    /// # Errors
    /// The system's; a file that is there already is one, and stays.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = match std::fs::File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::File::create_new(&path)?
            }
            file => file?,
        };
        let (file, small) = (Arc::new(file), Vec::new());
        Ok(Self { path, file, small, written: 0, synced: 0, turn: 0, finished: false })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.small.len() + bytes.len() <= DISK_SMALL_WRITE_BYTES {
            self.small.extend_from_slice(bytes);
            return Ok(());
        }
        self.put_small()?;
        let mut file = self.file.as_ref();
        // Here, not in `block_in_place`: that gives this thread's work to another one each time, and every
        // thread that ever had some keeps the memory of it (650 MB in 59 threads, as measured).
        bytes.chunks(DISK_WRITE_BYTES).try_for_each(|piece| file.write_all(piece))
    }

    fn put_small(&mut self) -> io::Result<()> {
        let mut file = self.file.as_ref();
        let written = file.write_all(&self.small);
        self.small.clear();
        written
    }

    /// Has the disk begin with what is written so far, so that it does not all wait for the end. One at
    /// a time: a slow disk is not helped by more.
    fn sync_early(&mut self) {
        if self.written - self.synced < DISK_SYNC_EVERY_BYTES || Arc::strong_count(&self.file) > 1 {
            return;
        }
        self.synced = self.written;
        let file = Arc::clone(&self.file);
        // Only a head start: the sync that counts is `sync`, which tells of errors.
        tokio::task::spawn_blocking(move || drop(file.sync_data()));
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsyncWrite for DiskWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.turn >= DISK_TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = bytes.get(..DISK_TURN_BYTES).unwrap_or(bytes);
        self.put(bytes)?;
        self.written += bytes.len();
        self.turn += bytes.len();
        self.sync_early();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.put_small())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.put_small())
    }
}

#[async_trait]
impl Writer for DiskWriter {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        Ok(self.written)
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        self.put_small()?;
        self.finished = true;
        Ok(WriteResult { size: self.written, e_tag: None })
    }
}
