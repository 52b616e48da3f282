//! Writing a file on a disk.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use async_trait::async_trait;
use lance_io::object_writer::WriteResult;
use lance_io::traits::Writer;
use tokio::io::AsyncWrite;

/// Bytes of a write. The kernel caches a larger write in larger pieces of memory, which are rarely at
/// hand: on a virtual machine they are fetched from the host, at a sixth of the speed (measured with
/// `dd bs=256K` against `bs=2M`).
const WRITE_BYTES: usize = 256 << 10;

/// Bytes that wait for more before they are written.
const SMALL_BYTES: usize = 32 << 10;

/// Bytes after which the disk is given a head start.
const SYNC_EVERY_BYTES: usize = 64 << 20;

/// A local file that is removed unless it is finished.
///
/// Lance's own local writer works on a temporary file whose name tells nothing, and copies every byte once more on its way to another thread. Here a write is the system call itself:
/// it fills the page cache, which is as fast as the copy.
#[derive(Debug)]
pub(super) struct LocalFile {
    path: PathBuf,
    file: Arc<std::fs::File>,
    /// Small pieces that wait for more: a file's metadata is written in dozens of them.
    small: Vec<u8>,
    written: usize,
    synced: usize,
    finished: bool,
}

impl LocalFile {
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = match std::fs::File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::File::create_new(&path)?
            }
            file => file?,
        };
        let (file, small) = (Arc::new(file), Vec::new());
        Ok(Self { path, file, small, written: 0, synced: 0, finished: false })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.small.len() + bytes.len() <= SMALL_BYTES {
            self.small.extend_from_slice(bytes);
            return Ok(());
        }
        self.put_small()?;
        let mut file = self.file.as_ref();
        if bytes.len() <= WRITE_BYTES {
            // Over sooner than another thread would have taken this one's place.
            return file.write_all(bytes);
        }
        blocking(|| bytes.chunks(WRITE_BYTES).try_for_each(|piece| file.write_all(piece)))
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
        if self.written - self.synced < SYNC_EVERY_BYTES || Arc::strong_count(&self.file) > 1 {
            return;
        }
        self.synced = self.written;
        let file = Arc::clone(&self.file);
        // Only a head start: the sync that counts is `sync`, which tells of errors.
        tokio::task::spawn_blocking(move || drop(file.sync_data()));
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsyncWrite for LocalFile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.put(bytes)?;
        let count = bytes.len();
        self.written += count;
        self.sync_early();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.put_small())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.put_small())
    }
}

/// Does what may wait for a disk without keeping other tasks from this thread, where the runtime has
/// other threads.
fn blocking<R>(act: impl FnOnce() -> R) -> R {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(act),
        _ => act(),
    }
}

#[async_trait]
impl Writer for LocalFile {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        Ok(self.written)
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        self.put_small()?;
        self.finished = true;
        Ok(WriteResult { size: self.written, e_tag: None })
    }
}
