//! An object store whose writes can be made to wait, or to fail, by their path; and a clock that does not.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use relance::{Change, Clock, Event, Location, Migration, Progress};
use tokio::sync::Semaphore;

use crate::support::{Db, small};

/// Writes of paths that hold `part` wait, or fail.
#[derive(Debug)]
pub struct Gate {
    part: &'static str,
    /// So many of them pass first.
    pass: AtomicUsize,
    /// So many of them fail then.
    fail: AtomicUsize,
    /// Then they wait until there are permits.
    open: Semaphore,
    /// How many have come here to wait.
    waiting: AtomicUsize,
}

impl Gate {
    /// The first `pass` writes of paths with `part` pass; the others wait until it opens.
    pub fn after(part: &'static str, pass: usize) -> Arc<Self> {
        let (pass, fail, waiting) = (pass.into(), 0.into(), 0.into());
        Arc::new(Self { part, pass, fail, open: Semaphore::new(0), waiting })
    }

    /// The first `fail` writes of paths with `part` fail.
    pub fn failing(part: &'static str, fail: usize) -> Arc<Self> {
        let (pass, fail, waiting) = (0.into(), fail.into(), 0.into());
        Arc::new(Self { part, pass, fail, open: Semaphore::new(1 << 20), waiting })
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.open.add_permits(1 << 20);
    }

    /// How many writes have waited.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self, to: &Path) -> Result<()> {
        if !to.as_ref().contains(self.part) || take(&self.pass) {
            return Ok(());
        }
        if take(&self.fail) {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(Error::Generic { store: "gate", source: source.into() });
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
        Ok(())
    }
}

/// Takes one of `left`, if there is one.
fn take(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
}

/// Hands the gate to relance.
#[derive(Debug)]
pub struct Gated(pub Arc<Gate>);

impl WrappingObjectStore for Gated {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Store { inner, gate: Arc::clone(&self.0) })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

#[derive(Debug)]
struct Store {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
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
        self.gate.pass(to).await?;
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.gate.pass(to).await?;
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.gate.pass(to).await?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.gate.pass(to).await?;
        self.inner.rename_opts(from, to, options).await
    }
}

/// A migration through a store, some of whose writes wait or fail, with quick beats.
pub fn gated(db: &Db, gate: &Arc<Gate>) -> Migration {
    let location = Location::new(&format!("file-object-store://{}", db.text()), "t").unwrap();
    let migration = Migration::of(location).change(Change::parse_add("n:int64=7").unwrap());
    let migration = migration.rows_per_file(100).settings(small());
    migration.clock(Arc::new(Quick::default())).store_wrapper(Arc::new(Gated(Arc::clone(gate))))
}

/// What a run says.
#[derive(Debug, Default)]
pub struct Told(Mutex<Vec<String>>);

impl Told {
    pub fn says(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|note| note.contains(text))
    }
}

impl Progress for Told {
    fn event(&self, event: Event) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A clock that is `ahead` by so many seconds, and by which a second is over in 5 ms.
#[derive(Debug, Default)]
pub struct Quick {
    pub ahead: i64,
}

impl Clock for Quick {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::seconds(self.ahead)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time / 200))
    }
}
