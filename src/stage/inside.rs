//! What of a chunk's copied pages the store itself copies, and what becomes of a store that does not.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, path::Path};

use crate::error::{Doing, Error, Result};
use crate::limits::{SEEN_PART_COPY_BYTES, UNSEEN_PART_COPY_BYTES};
use crate::progress::note;
use crate::stage::Stager;
use crate::storage::page::{ColumnPart, PageFile, StoreParts};
use crate::storage::part_copy::{BegunUpload, PartCopies};

/// Ends of parts that are looked at at once, for one file.
const LOOKS_AT_ONCE: usize = 16;

/// The parts of a staged file that the store copies.
pub(super) struct Inside {
    copies: Arc<PartCopies>,
    pub parts: StoreParts,
}

impl Inside {
    /// Begins the upload of the file at `path` with them.
    pub(super) async fn begin(&self, path: &Path) -> Result<BegunUpload> {
        self.copies.begin(path).await.doing(|| format!("begin the upload of {path}"))
    }
}

impl Stager {
    /// What the store itself copies of `columns` of `files`, if it does, and takes parts of different sizes.
    pub(super) async fn inside(
        &self,
        files: &[Arc<PageFile>],
        columns: &[Vec<ColumnPart>],
    ) -> Option<Inside> {
        let copies = self.files.part_copies.clone()?;
        let (first, alike) = (files.first()?, self.files.store.use_constant_size_upload_parts);
        let bytes = if self.reads_back { SEEN_PART_COPY_BYTES } else { UNSEEN_PART_COPY_BYTES };
        let parts = StoreParts::of(files, columns, bytes);
        if parts.is_empty() || alike {
            return None;
        }
        let size = first.metadata().file_size_bytes;
        copies.are_on(first.path(), size).await.then_some(Inside { copies, parts })
    }

    /// Bytes that are held at once while the store copies what is `inside` of `all` bytes: those of what is read, and sent.
    pub(super) fn held_beside(&self, inside: &Inside, all: u64) -> u64 {
        let most = self.files.files().held_bytes();
        if self.reads_back { most } else { all.saturating_sub(inside.parts.end).min(most) }
    }

    /// Whether a chunk whose pages can be copied holds next to nothing, as far as is known: the store copies them, and nobody reads.
    pub(super) fn holds_nothing(&self) -> bool {
        let copies = self.files.part_copies.as_ref();
        !self.reads_back && copies.is_some_and(|copies| !copies.are_off())
    }

    /// Compares the end of each part that is `inside` the file at `path` with what it was copied from.
    ///
    /// # Errors
    /// `Mismatch`, when they differ: such a store cannot be relied on to copy.
    pub(super) async fn compare_ends(
        &self,
        (inside, from): (&Inside, &[Arc<PageFile>]),
        path: &Path,
    ) -> Result<()> {
        let files = self.files.files();
        let looks = inside.parts.ends().map(|(file, was, is)| {
            let files = Arc::clone(&files);
            async move {
                let source = from.get(file).map(|file| file.path());
                let source =
                    source.ok_or_else(|| Error::failed("a part of no file was asked for"))?;
                let (was, is) = futures::try_join!(
                    files.store().get_range(source, was),
                    files.store().get_range(path, is)
                )
                .doing(|| format!("compare the parts of {path}"))?;
                Ok(was == is)
            }
            .boxed()
        });
        let looks: Vec<_> = looks.collect();
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        while let Some(same) = looks.try_next().await? {
            if !same {
                let text = format!("it copied other bytes into {path} than it was asked to");
                return Err(Error::mismatch(text));
            }
        }
        Ok(())
    }

    /// What the store was asked to copy is sent: `error` says that it did not, or, `for_good`, that it cannot be relied on to.
    pub(crate) fn send_after(&self, error: &Error, for_good: bool) {
        if self.files.part_copies.as_ref().is_some_and(|copies| copies.failed(for_good)) {
            let why = error.report(&[]).replace('\n', " ");
            let text = "the store does not copy parts inside itself, so they are sent";
            note(&self.progress, format!("{text}: {why}"));
        }
    }
}
