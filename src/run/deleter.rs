//! Deletes from what is staged the rows that were deleted from the source since.

use futures::{FutureExt, StreamExt, TryStreamExt};
use lance::Dataset;
use lance_table::{format::Fragment, io::commit::ManifestNamingScheme};
use roaring::RoaringBitmap;

use crate::chunk::{Chunk, ChunkId, Origin, SourceFragment};
use crate::error::{Error, Result};
use crate::journal::{ChunkRecord, Journal, own_file};
use crate::plan::catchup::{DeletedRows, staged_deletions};
use crate::storage::deletion::{Deleted, Deletions, Naming, STAGED};
use crate::{
    limits::DELETION_FILES_AT_ONCE, run::task::Done, table::open::deletions_of, verify::Left,
};

/// Reads the deletion files of the live table, and writes those of the staging table.
#[derive(Debug)]
pub(crate) struct Deleter {
    id: String,
    live: Deletions,
    staging: Deletions,
    /// Whether the swap can publish deletion files: it needs a detached version to.
    detachable: bool,
}

impl Deleter {
    /// Deletes from what is staged by `journal` what is deleted from `live`.
    ///
    /// # Errors
    /// `Failed`, when a table's store cannot be opened.
    pub(crate) async fn of(live: &Dataset, journal: &Journal) -> Result<Self> {
        Ok(Self {
            id: journal.header().id.clone(),
            live: deletions_of(live).await?,
            staging: deletions_of(journal.staging()).await?,
            detachable: live.manifest_location().naming_scheme == ManifestNamingScheme::V2,
        })
    }

    /// Deletes from what is staged the rows that were deleted from the source since, and gives what is left.
    /// `None`, when that cannot be told: an older deletion file is gone, or a row came back.
    ///
    /// # Errors
    /// `Mismatch`, when a deletion file does not read back as it was written; `Failed`, when one cannot be written.
    pub(crate) async fn delete(&self, chunk: &Chunk, done: Done) -> Result<Option<(Done, Left)>> {
        let Done { mut record, mut fragments } = done;
        let Some(all) = self.rows_to_delete(chunk, &record, &fragments).await? else {
            return Ok(None);
        };
        let mut left = Vec::new();
        let mut first: u32 = 0;
        for fragment in &mut fragments {
            let Some(end) = end_of(first, fragment) else { return Ok(None) };
            let own: RoaringBitmap = all.range(first..end).map(|row| row - first).collect();
            if !own.is_empty() {
                let (name, deleted) = self.write(record.chunk, fragment, &own).await?;
                fragment.deletion_file = Some(deleted.file.clone());
                record.deletions.insert(name, deleted);
            }
            left.push((fragment.clone(), own));
            first = end;
        }
        record.deleted = all.len();
        record.origins = chunk.origins();
        Ok(Some((Done { record, fragments }, left)))
    }

    /// The rows of a source fragment that are deleted.
    async fn deleted(&self, origin: &Origin) -> Result<RoaringBitmap> {
        self.live.read(origin.id, origin.deletions.as_ref()).await
    }

    /// The rows of a chunk's staged files that have to be deleted, those that are already included.
    async fn rows_to_delete(
        &self,
        chunk: &Chunk,
        record: &ChunkRecord,
        fragments: &[Fragment],
    ) -> Result<Option<RoaringBitmap>> {
        if !self.detachable {
            return Ok(None);
        }
        let mut reads = Vec::new();
        for (then, now) in record.origins.iter().zip(&chunk.fragments) {
            reads.push(self.deletions(then, now).boxed());
        }
        let reads = futures::stream::iter(reads).buffered(DELETION_FILES_AT_ONCE);
        let reads: Vec<Option<DeletedRows>> = reads.try_collect().await?;
        let Some(sources) = reads.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let Some(already) = self.deleted_already(record, fragments).await? else { return Ok(None) };
        let all = staged_deletions(&sources, &already);
        Ok(all.filter(|all| record.rows.saturating_sub(all.len()) == chunk.rows()))
    }

    /// The deleted rows of a source fragment, `then` and `now`; `None`, when those of then are gone.
    async fn deletions(&self, then: &Origin, now: &SourceFragment) -> Result<Option<DeletedRows>> {
        let (live, now) = (now.rows, self.deleted(&now.origin).await?);
        let rows = live + now.len();
        let then = self.deleted(then).await.ok();
        Ok(then.map(|then| DeletedRows { rows, then, now }))
    }

    /// The rows of a chunk's staged files that are deleted; `None`, when the files are too long to tell.
    async fn deleted_already(
        &self,
        record: &ChunkRecord,
        fragments: &[Fragment],
    ) -> Result<Option<RoaringBitmap>> {
        let mut all = RoaringBitmap::new();
        let mut first: u32 = 0;
        for fragment in fragments {
            let name = own_file(fragment, &self.id);
            if let Some(deleted) = name.and_then(|name| record.deletions.get(name)) {
                let own = self.staging.read_back(STAGED, deleted).await?;
                all.extend(own.iter().map(|row| row + first));
            }
            let Some(end) = end_of(first, fragment) else { return Ok(None) };
            first = end;
        }
        Ok(Some(all))
    }

    /// Writes which `rows` of a staged fragment are deleted into a new deletion file of the staging table,
    /// and gives it beside the name of the staged file.
    async fn write(
        &self,
        chunk: ChunkId,
        fragment: &Fragment,
        rows: &RoaringBitmap,
    ) -> Result<(String, Deleted)> {
        let name = own_file(fragment, &self.id).ok_or_else(|| {
            Error::mismatch(format!("chunk {chunk}: a staged fragment has no file"))
        })?;
        let deleted = self.staging.write(Naming::Staged, rows, &self.id).await?;
        Ok((name.to_owned(), deleted))
    }
}

/// The first row after those of `fragment`, whose own begin at `first`.
fn end_of(first: u32, fragment: &Fragment) -> Option<u32> {
    let rows = u32::try_from(fragment.physical_rows?).ok()?;
    first.checked_add(rows)
}
