//! An object store that dies, or loses a reply, at a chosen write, or refuses some files.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart,
};

/// What happens at the chosen write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The process dies, and nothing was written.
    DiesBefore,
    /// It is written, and the process dies.
    DiesAfter,
    /// It is written, and the reply is lost; the process lives.
    LosesReply,
    /// From this write on, so many calls get no connection; then the store is back.
    IsAwayFor(usize),
    /// From this write on, nothing can be put; what is there can be removed.
    IsFull,
}

/// What is done after each write, with its path.
type Then = Box<dyn Fn(&Path) + Send + Sync>;

/// Counts writes (put, copy, rename, delete), and does away with one of them.
pub struct Mortal {
    at: usize,
    how: How,
    /// Files whose path has this in it are not written.
    refused: Option<&'static str>,
    writes: AtomicUsize,
    calls: AtomicUsize,
    away: AtomicUsize,
    dead: AtomicBool,
    then: Option<Then>,
}

impl fmt::Debug for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mortal")
            .field("at", &self.at)
            .field("how", &self.how)
            .finish_non_exhaustive()
    }
}

impl Mortal {
    /// At the write `at`, counted from 0.
    pub fn at(at: usize, how: How) -> Arc<Self> {
        Arc::new(Self::new(at, how, None))
    }

    /// Never; but what is below `directory` cannot be written.
    pub fn refusing(directory: &'static str) -> Arc<Self> {
        Arc::new(Self::new(usize::MAX, How::DiesBefore, Some(directory)))
    }

    fn new(at: usize, how: How, refused: Option<&'static str>) -> Self {
        Self {
            at,
            how,
            refused,
            writes: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            then: None,
        }
    }

    fn takes(&self, to: &Path) -> Result<()> {
        if self.refused.is_some_and(|refused| to.as_ref().contains(refused)) {
            let source = "it is refused".into();
            return Err(Error::PermissionDenied { path: to.to_string(), source });
        }
        Ok(())
    }

    /// Never; `then` is done after each object that is put under a name.
    pub fn watched(then: impl Fn(&Path) + Send + Sync + 'static) -> Arc<Self> {
        let never = Arc::into_inner(Self::never()).unwrap();
        Arc::new(Self { then: Some(Box::new(then)), ..never })
    }

    fn tell(&self, path: &Path) {
        if let Some(then) = &self.then {
            then(path);
        }
    }

    /// Never.
    pub fn never() -> Arc<Self> {
        Self::at(usize::MAX, How::DiesBefore)
    }

    /// Writes so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Calls so far, reads included.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.dead.load(Ordering::SeqCst) {
            return Err(dead());
        }
        let left = |away: usize| away.checked_sub(1);
        match self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
            Ok(_) => Err(away()),
            Err(_) => Ok(()),
        }
    }

    /// Fails when there is no room for one more object.
    fn room(&self) -> Result<()> {
        if self.how != How::IsFull || self.writes() < self.at {
            return Ok(());
        }
        let full = std::io::ErrorKind::StorageFull;
        let source = std::io::Error::new(full, "No space left on device (os error 28)");
        Err(Error::Generic { store: "mortal", source: source.into() })
    }

    async fn write<T>(&self, act: impl Future<Output = Result<T>>) -> Result<T> {
        self.alive()?;
        let ours = self.writes.fetch_add(1, Ordering::SeqCst) == self.at;
        if !ours {
            return act.await;
        }
        match self.how {
            How::DiesBefore => {
                self.dead.store(true, Ordering::SeqCst);
                Err(dead())
            }
            How::DiesAfter => {
                act.await?;
                self.dead.store(true, Ordering::SeqCst);
                Err(dead())
            }
            How::LosesReply => {
                act.await?;
                Err(away())
            }
            How::IsFull => act.await,
            How::IsAwayFor(calls) => {
                self.away.store(calls - 1, Ordering::SeqCst);
                Err(away())
            }
        }
    }
}

/// An error that is not tried again: the dead do nothing.
fn dead() -> Error {
    Error::PermissionDenied { path: "dead".to_owned(), source: "the process is dead".into() }
}

/// An error that may pass.
fn away() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Error::Generic { store: "mortal", source: source.into() }
}

#[derive(Debug)]
struct Store {
    inner: Arc<dyn ObjectStore>,
    mortal: Arc<Mortal>,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mortal {}", self.inner)
    }
}

/// Hands `mortal` to relance.
#[derive(Debug)]
pub struct Wrap(pub Arc<Mortal>);

impl WrappingObjectStore for Wrap {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Store { inner, mortal: Arc::clone(&self.0) })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.mortal.room()?;
        self.mortal.takes(to)?;
        let put = self.mortal.write(self.inner.put_opts(to, payload, options)).await?;
        self.mortal.tell(to);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.mortal.takes(to)?;
        self.mortal.alive()?;
        let inner = self.inner.put_multipart_opts(to, options).await?;
        Ok(Box::new(Upload { inner, mortal: Arc::clone(&self.mortal) }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.mortal.alive()?;
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (mortal, inner) = (Arc::clone(&self.mortal), Arc::clone(&self.inner));
        let deleted = paths.and_then(move |path| {
            let (mortal, inner) = (Arc::clone(&mortal), Arc::clone(&inner));
            async move {
                let one = futures::stream::once(async move { Ok(path) }).boxed();
                let act = async { inner.delete_stream(one).try_next().await };
                Ok(mortal.write(act).await?.expect("one path in, one path out"))
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.mortal.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async move { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.mortal.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.mortal.write(self.inner.copy_opts(from, to, options)).await?;
        self.mortal.tell(to);
        Ok(())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.mortal.write(self.inner.rename_opts(from, to, options)).await?;
        self.mortal.tell(to);
        Ok(())
    }
}

/// A file in parts: it is written when it is completed.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    mortal: Arc<Mortal>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.mortal.room()?;
        let mortal = Arc::clone(&self.mortal);
        mortal.write(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.mortal.alive()?;
        self.inner.abort().await
    }
}
