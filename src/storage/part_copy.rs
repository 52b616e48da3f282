//! An upload whose first parts the store copies out of other objects of the bucket, and which goes on with bytes that are
//! sent: what stays as it is does not pass through this machine (S3's `UploadPartCopy`).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, pin::Pin};

use async_trait::async_trait;
use lance_io::{object_store::ObjectStoreParams, object_writer::WriteResult, traits::Writer};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{
    Error, Extensions, MultipartId, MultipartUpload, ObjectStoreExt as _, PutPayload, PutResult,
    Result, UploadPart,
};
use serde::Deserialize;
use tokio::io::AsyncWrite;
use tokio::sync::{OnceCell, Semaphore};

use crate::limits::PART_COPIES_AT_ONCE;
use crate::retry::Away;
use crate::storage::bucket::{Bucket, unexpected};
use crate::storage::traffic::Request;
use crate::storage::watch::Watch;

/// How long it may take to open the bucket once more, and to look at an object in it.
const OPENING: Duration = Duration::from_secs(20);

/// Files of which a store may fail to copy parts: one may have met an odd moment.
const FAILURES_MAX: u32 = 3;

/// Begins uploads whose first parts are copied, in the bucket of one table.
#[derive(Debug)]
pub(crate) struct PartCopies {
    uri: String,
    params: ObjectStoreParams,
    watch: Watch,
    /// Opened before the first upload; `None`, where parts are not copied, or it cannot be opened once more.
    bucket: OnceCell<Option<Arc<Bucket>>>,
    /// Copies at once, of all files.
    turns: Arc<Semaphore>,
}

impl PartCopies {
    /// Those in the bucket of `uri`, which is opened with `params`.
    pub(crate) fn of(uri: String, params: ObjectStoreParams, watch: Watch) -> Self {
        let turns = Arc::new(Semaphore::new(PART_COPIES_AT_ONCE));
        Self { uri, params, watch, bucket: OnceCell::new(), turns }
    }

    /// Whether parts can be copied, as far as is known, out of objects such as the one at `path`, which has so many `bytes`: a
    /// profile of the user's may lead Lance to another store than it leads here.
    pub(crate) async fn are_on(&self, path: &Path, bytes: u64) -> bool {
        if self.are_off() {
            return false;
        }
        // Whatever looks for credentials is a large future.
        let opened = Box::pin(async {
            let bucket = Bucket::of(&self.uri, &self.params).await.ok().flatten()?;
            if !bucket.copies_parts() {
                return None;
            }
            let look =
                self.watch.aside((Request::Head, path.as_ref()), || bucket.objects().head(path));
            (look.await.ok()?.size == bytes).then(|| Arc::new(bucket))
        });
        let opening = async { tokio::time::timeout(OPENING, opened).await.ok().flatten() };
        self.bucket.get_or_init(|| opening).await.is_some()
    }

    /// Whether it was seen that the store does not copy parts.
    pub(crate) fn are_off(&self) -> bool {
        self.watch.state.copies_failed.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    /// The store did not copy parts of one file, and after a few of them, or `for_good`, is not asked to any more in this run. True the
    /// first time.
    pub(crate) fn failed(&self, for_good: bool) -> bool {
        let more = if for_good { FAILURES_MAX } else { 1 };
        self.watch.state.copies_failed.fetch_add(more, Ordering::Relaxed) == 0
    }

    /// Begins the upload of `to`. What is written to `to`, by whatever writer, goes on with it, until what is given is gone.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Crash
    /// The upload is unfinished, as any other: a later run gives it up by its object's name.
    pub(crate) async fn begin(&self, to: &Path) -> Result<BegunUpload> {
        let bucket = self.bucket.get().cloned().flatten();
        let bucket = bucket.ok_or_else(|| unexpected("it does not copy parts of objects"))?;
        let (watch, path) = (self.watch.clone(), to.clone());
        watch.state.began_uploads.store(true, Ordering::Relaxed);
        let what = (Request::Post, to.as_ref());
        let id = watch.again(what, || bucket.uploads().create_multipart(to)).await?;
        let (turns, failed) = (Arc::clone(&self.turns), AtomicBool::new(false));
        let parts = Mutex::default();
        let upload = Arc::new(CopiedUpload { bucket, watch, path, id, parts, turns, failed });
        upload.watch.state.keep_rest(to.clone(), Box::new(Rest(Arc::clone(&upload))));
        Ok(BegunUpload { upload, ended: false })
    }
}

/// An upload that was begun. It is given up where this goes before it ended.
#[derive(Debug)]
pub(crate) struct BegunUpload {
    upload: Arc<CopiedUpload>,
    ended: bool,
}

impl BegunUpload {
    /// Has the store write `range` of `from` as part `number`, of 0 and more.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn copy(&self, number: usize, from: &Path, range: Range<u64>) -> Result<()> {
        self.upload.copy(number, from, range).await
    }

    /// Whether the store failed to copy a part, or to make an object of the parts, although it answered, and not since something is
    /// gone, or credentials ended.
    pub(crate) fn has_failed(&self) -> bool {
        self.upload.failed.load(Ordering::Relaxed)
    }

    /// Its object is there, or it is given up, as far as that goes.
    pub(crate) async fn end(mut self, is_there: bool) {
        self.ended = true;
        if !is_there {
            self.upload.give_up().await;
        }
    }
}

impl Drop for BegunUpload {
    fn drop(&mut self) {
        drop(self.upload.watch.state.rest_of(&self.upload.path));
        if let (false, Ok(runtime)) = (self.ended, tokio::runtime::Handle::try_current()) {
            let upload = Arc::clone(&self.upload);
            runtime.spawn(async move { upload.give_up().await });
        }
    }
}

#[derive(Debug)]
struct CopiedUpload {
    bucket: Arc<Bucket>,
    watch: Watch,
    path: Path,
    id: MultipartId,
    /// What the store told of each part, as soon as it did.
    parts: Mutex<Vec<Option<PartId>>>,
    turns: Arc<Semaphore>,
    failed: AtomicBool,
}

impl CopiedUpload {
    fn parts(&self) -> MutexGuard<'_, Vec<Option<PartId>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, number: usize, part: Option<PartId>) {
        let mut parts = self.parts();
        if parts.len() <= number {
            parts.resize_with(number + 1, || None);
        }
        if let Some(place) = parts.get_mut(number) {
            *place = part;
        }
    }

    async fn give_up(&self) {
        let Self { watch, bucket, path, id, .. } = self;
        let what = (Request::Delete, path.as_ref());
        let _ = watch.aside(what, || bucket.uploads().abort_multipart(path, id)).await;
    }

    async fn copy(&self, number: usize, from: &Path, range: Range<u64>) -> Result<()> {
        self.keep(number, None);
        let query = vec![("partNumber", (number + 1).to_string()), ("uploadId", self.id.clone())];
        let copied = || self.bucket.copy_part((from, range.clone()), &self.path, query.clone());
        let _turn = self.turns.acquire().await;
        let told = self.watch.again((Request::Copy, from.as_ref()), copied).await;
        let content_id =
            told.and_then(|told| tag_of(&told)).inspect_err(|error| self.blame(error))?;
        self.keep(number, Some(PartId { content_id }));
        Ok(())
    }

    /// Takes in that the store failed by its own word.
    fn blame(&self, error: &Error) {
        let is_away = matches!(error, Error::Generic { source, .. } if source.is::<Away>());
        let other =
            is_away || matches!(error, Error::NotFound { .. } | Error::Unauthenticated { .. });
        if !other {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Makes an object of the parts. Where that seems to have failed, it may have been done, and the reply lost.
    async fn complete(&self) -> Result<PutResult> {
        let Self { bucket, path, id, .. } = self;
        let parts = self.parts().iter().cloned().collect::<Option<Vec<_>>>();
        let parts = parts.ok_or_else(|| unexpected("a part of the upload is not there"))?;
        let completed = bucket.uploads().complete_multipart(path, id, parts).await;
        let Err(error) = completed else { return completed };
        if let Ok(there) = bucket.objects().head(path).await {
            let (e_tag, version, extensions) = (there.e_tag, there.version, Extensions::default());
            return Ok(PutResult { e_tag, version, extensions });
        }
        self.blame(&error);
        Err(error)
    }
}

/// The tag of the part that was copied.
fn tag_of(answer: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Copied {
        #[serde(rename = "ETag")]
        tag: String,
    }
    let is_one = answer.windows(COPIED.len()).any(|word| word == COPIED);
    let copied: Option<Copied> = is_one.then(|| quick_xml::de::from_reader(answer).ok()).flatten();
    let tag = copied.map(|copied| copied.tag).filter(|tag| !tag.is_empty());
    tag.ok_or_else(|| unexpected("its answer to the copy of a part cannot be read"))
}

/// What such an answer is called.
const COPIED: &[u8] = b"<CopyPartResult";

/// The rest of an upload: parts that are sent, after those that were copied.
#[derive(Debug)]
struct Rest(Arc<CopiedUpload>);

#[async_trait]
impl MultipartUpload for Rest {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let upload = Arc::clone(&self.0);
        let number = upload.parts().len();
        upload.keep(number, None);
        Box::pin(async move {
            let CopiedUpload { bucket, path, id, .. } = &*upload;
            let part = bucket.uploads().put_part(path, id, number, data).await?;
            upload.keep(number, Some(part));
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.0.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        let CopiedUpload { bucket, path, id, .. } = &*self.0;
        bucket.uploads().abort_multipart(path, id).await
    }
}

/// Writes what comes after so many bytes of a file.
pub(crate) struct WriterAfter {
    inner: Box<dyn Writer>,
    before: u64,
}

impl WriterAfter {
    /// `writer`, or one that writes what comes after so many bytes `before`.
    pub(crate) fn of(inner: Box<dyn Writer>, before: u64) -> Box<dyn Writer> {
        if before == 0 { inner } else { Box::new(Self { inner, before }) }
    }

    /// Bytes of the file, of which so many were written by this.
    fn whole(&self, written: usize) -> usize {
        usize::try_from(self.before).unwrap_or(usize::MAX).saturating_add(written)
    }
}

impl AsyncWrite for WriterAfter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Writer for WriterAfter {
    async fn tell(&mut self) -> lance::Result<usize> {
        let written = self.inner.tell().await?;
        Ok(self.whole(written))
    }

    async fn shutdown(&mut self) -> lance::Result<WriteResult> {
        let written = Writer::shutdown(self.inner.as_mut()).await?;
        Ok(WriteResult { size: self.whole(written.size), ..written })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_copied_part_is_read() {
        let answer = b"<?xml version=\"1.0\"?>\n<CopyPartResult xmlns=\"http://s3\"><LastModified>2026-01-01T00:00:00Z\
            </LastModified><ETag>&quot;0123&quot;</ETag></CopyPartResult>";
        assert_eq!(tag_of(answer).unwrap(), "\"0123\"");
        for other in [&b""[..], b"<Error><ETag>a</ETag></Error>", b"<CopyPartResult/>"] {
            assert!(tag_of(other).is_err(), "{other:?}");
        }
    }
}
