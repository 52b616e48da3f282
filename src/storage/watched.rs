//! Every request to an object store, Lance's own among them, passes here, where it is watched.
//!
//! What is not done twice: to write a new object only where none is (what commits are made of), and parts of an upload.
//! Who asks for these looks at what is there first.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use crate::storage::sent::SentFile;
use crate::storage::traffic::Request;
use crate::storage::watch::Watch;

/// Objects that are removed by one call, and such calls at once.
const REMOVED_AT_ONCE: (usize, usize) = (1_000, 4);

impl WrappingObjectStore for Watch {
    fn wrap(&self, _: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Watched { inner, watch: self.clone() })
    }

    /// Whole listings are watched, so none is asked for by pages beside this.
    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

#[derive(Debug, Clone)]
struct Watched {
    inner: Arc<dyn ObjectStore>,
    watch: Watch,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A listing that goes on.
struct Listing {
    listed: BoxStream<'static, Result<ObjectMeta>>,
    last: Option<Path>,
    /// Whether the objects came by name so far: what does not has no "after the last one".
    ordered: bool,
    ended: bool,
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if let Some(rest) = self.watch.state.rest_of(to) {
            let mut upload = self.upload(to, rest);
            upload.put_part(payload).await?;
            return upload.complete().await;
        }
        let what = (Request::Put, to.as_ref());
        self.watch.sent(payload.content_length() as u64);
        if let Some(file) = self.watch.state.sent.file(to) {
            file.put(&payload).await;
        }
        if options.mode == PutMode::Overwrite {
            return self
                .watch
                .again(what, || self.inner.put_opts(to, payload.clone(), options.clone()))
                .await;
        }
        self.watch.once(what, self.inner.put_opts(to, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if let Some(rest) = self.watch.state.rest_of(to) {
            return Ok(Box::new(self.upload(to, rest)));
        }
        let what = (Request::Post, to.as_ref());
        self.watch.state.began_uploads.store(true, Ordering::Relaxed);
        let inner =
            self.watch.again(what, || self.inner.put_multipart_opts(to, options.clone())).await?;
        Ok(Box::new(self.upload(to, inner)))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let request = if options.head { Request::Head } else { Request::Get };
        let got = self
            .watch
            .again((request, from.as_ref()), || self.inner.get_opts(from, options.clone()));
        let got = got.await?;
        if !options.head {
            self.watch.received(got.range.end - got.range.start);
        }
        Ok(got)
    }

    async fn get_ranges(&self, from: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        let what = (Request::Get, from.as_ref());
        let got = self.watch.again(what, || self.inner.get_ranges(from, ranges)).await?;
        self.watch.received(got.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(got)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (store, (many, calls)) = (self.clone(), REMOVED_AT_ONCE);
        let removed = paths.try_ready_chunks(many).map(move |paths| {
            let store = store.clone();
            async move {
                let paths = paths.map_err(|error| error.1)?;
                let first = paths.first().map(ToString::to_string).unwrap_or_default();
                store.watch.again((Request::Delete, &first), || store.remove(&paths)).await
            }
        });
        let removed = removed.buffered(calls);
        removed.map_ok(|paths| stream::iter(paths).map(Ok)).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let what = (Request::List, prefix.map_or("", AsRef::as_ref));
        self.watch.again(what, || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let what = (Request::Copy, from.as_ref());
        if options.mode == CopyMode::Overwrite {
            return self
                .watch
                .again(what, || self.inner.copy_opts(from, to, options.clone()))
                .await;
        }
        self.watch.once(what, self.inner.copy_opts(from, to, options)).await
    }
}

impl Watched {
    /// The upload `inner` of `to`.
    fn upload(&self, to: &Path, inner: Box<dyn MultipartUpload>) -> Upload {
        let sent = self.watch.state.sent.file(to);
        Upload { inner, watch: self.watch.clone(), path: to.to_string(), sent }
    }

    /// Removes `paths`; those that are gone already are as good.
    async fn remove(&self, paths: &[Path]) -> Result<Vec<Path>> {
        let asked = stream::iter(paths.to_vec()).map(Ok).boxed();
        let mut removed = self.inner.delete_stream(asked);
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(paths.to_vec())
    }

    /// Lists what is below `prefix`, after `offset`; where that is cut short, goes on after the last object that came.
    fn list_from(
        &self,
        prefix: Option<Path>,
        offset: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let listing = Listing {
            listed: store.listed(prefix.as_ref(), offset.as_ref()),
            last: offset,
            ordered: true,
            ended: false,
        };
        let objects = stream::unfold(listing, move |mut listing| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                if listing.ended {
                    return None;
                }
                let next = store.next_of(&mut listing, prefix.as_ref()).await;
                match &next {
                    Ok(Some(meta)) => {
                        let last = listing.last.replace(meta.location.clone());
                        listing.ordered &= last.is_none_or(|last| last < meta.location);
                    }
                    Ok(None) | Err(_) => listing.ended = true,
                }
                next.transpose().map(|next| (next, listing))
            }
        });
        objects.boxed()
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        offset: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match offset {
            Some(offset) => self.inner.list_with_offset(prefix, offset),
            None => self.inner.list(prefix),
        }
    }

    /// The next object of a listing.
    async fn next_of(
        &self,
        listing: &mut Listing,
        prefix: Option<&Path>,
    ) -> Result<Option<ObjectMeta>> {
        // What lies in the page that was fetched takes no request.
        let at_once = listing.listed.next().now_or_never();
        let failed = match at_once {
            Some(Some(Ok(meta))) => return Ok(Some(meta)),
            Some(None) => return Ok(None),
            Some(Some(Err(error))) => Some(error),
            None => None,
        };
        let place = prefix.map(ToString::to_string).unwrap_or_default();
        let (last, ordered) = (listing.last.clone(), listing.ordered);
        let listed = std::mem::replace(&mut listing.listed, stream::empty().boxed());
        let first = Mutex::new(Some((failed, listed)));
        let ask = || {
            let begun = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (failed, mut listed) =
                begun.unwrap_or_else(|| (None, self.listed(prefix, last.as_ref())));
            async move {
                if let Some(error) = failed {
                    return Err(error);
                }
                let next = listed.try_next().await?;
                Ok((next, listed))
            }
        };
        let what = (Request::List, place.as_str());
        let watch = &self.watch;
        let (next, listed) =
            if ordered { watch.again(what, ask).await? } else { watch.once(what, ask()).await? };
        listing.listed = listed;
        Ok(next)
    }
}

/// An upload in parts. As many are sent at once as the link carries.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    watch: Watch,
    path: String,
    /// What is kept of it, if anything is.
    sent: Option<Arc<SentFile>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (watch, path, bytes) = (self.watch.clone(), self.path.clone(), data.content_length());
        let kept = self.sent.clone().and_then(|file| Some((file.part(&data)?, file)));
        let part: BoxFuture<'static, Result<()>> = self.inner.put_part(data);
        Box::pin(async move {
            if let Some(((number, kept), file)) = kept {
                file.sum(number, kept).await;
            }
            let turn = watch.state.pace.turn().await;
            let began = Instant::now();
            watch.sent(bytes as u64);
            let sent = watch.once((Request::Part, &path), part).await;
            turn.took(began.elapsed(), sent.is_ok());
            sent
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.watch.once((Request::Post, &self.path), self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.watch.once((Request::Delete, &self.path), self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, RenameOptions};

    use crate::cancel::Cancel;
    use crate::progress::Silent;

    use super::*;

    /// Cuts every listing short after so many objects; names them backwards, if asked to.
    #[derive(Debug)]
    struct Cutting {
        inner: InMemory,
        after: usize,
        backwards: bool,
    }

    impl fmt::Display for Cutting {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cutting")
        }
    }

    impl Cutting {
        fn cut(
            &self,
            all: BoxStream<'static, Result<ObjectMeta>>,
        ) -> BoxStream<'static, Result<ObjectMeta>> {
            let (after, backwards) = (self.after, self.backwards);
            let cut = async move {
                let mut all: Vec<_> = all.collect().await;
                if backwards {
                    all.reverse();
                }
                let more = all.len() > after;
                all.truncate(after);
                let source = Box::new(io::Error::from(io::ErrorKind::ConnectionReset));
                all.extend(more.then(|| Err(Error::Generic { store: "cutting", source })));
                stream::iter(all)
            };
            cut.flatten_stream().boxed()
        }
    }

    #[async_trait]
    impl ObjectStore for Cutting {
        async fn put_opts(&self, to: &Path, put: PutPayload, how: PutOptions) -> Result<PutResult> {
            self.inner.put_opts(to, put, how).await
        }

        async fn put_multipart_opts(
            &self,
            to: &Path,
            how: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(to, how).await
        }

        async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(from, how).await
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.cut(self.inner.list(prefix))
        }

        fn list_with_offset(
            &self,
            prefix: Option<&Path>,
            offset: &Path,
        ) -> BoxStream<'static, Result<ObjectMeta>> {
            self.cut(self.inner.list_with_offset(prefix, offset))
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, how).await
        }

        async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
            self.inner.rename_opts(from, to, how).await
        }
    }

    async fn listed(after: usize, backwards: bool) -> Result<Vec<String>> {
        let inner = InMemory::new();
        for n in 0..10 {
            inner.put(&Path::from(format!("a/{n}")), PutPayload::new()).await?;
        }
        let state = Arc::default();
        let progress: crate::progress::SharedProgress = Arc::new(Silent);
        let watch = Watch::of(
            &state,
            (&progress, &Arc::default()),
            &Cancel::default(),
            Duration::from_mins(1),
        );
        let store = watch.wrap("", Arc::new(Cutting { inner, after, backwards }));
        let names = store.list(Some(&Path::from("a"))).map_ok(|meta| meta.location.to_string());
        names.try_collect().await
    }

    #[tokio::test]
    async fn a_listing_that_is_cut_short_goes_on_after_the_last_object() {
        let whole: Vec<_> = (0..10).map(|n| format!("a/{n}")).collect();
        for after in [3, 10, 11] {
            assert_eq!(listed(after, false).await.ok(), Some(whole.clone()), "cut after {after}");
        }
        assert_eq!(listed(11, true).await.map(|names| names.len()).ok(), Some(10));
        assert!(listed(3, true).await.is_err(), "what would be the rest is not known");
    }
}
