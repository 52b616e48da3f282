//! What is done for one chunk: staging it, reading it back, deleting from it, and looking after its files.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use lance_table::io::commit::ManifestNamingScheme;
use object_store::path::Path;
use roaring::RoaringBitmap;

use crate::budget::{Budget, Throttle};
use crate::chunk::{Chunk, ChunkId, Origin, SourceFragment};
use crate::clock::{Clock, StoreTime};
use crate::deletion::{Naming, STAGED};
use crate::error::{Context, Error, Result};
use crate::journal::{ChunkRecord, Journal, StagedFile, own_file};
use crate::pages::{self, Seen};
use crate::plan::Plan;
use crate::plan::catchup::{Deletions, Need, staged_deletions};
use crate::plan::copies::Copies;
use crate::progress::{SharedProgress, note};
use crate::readback::{Expected, Known, Reader};
use crate::run::{Migration, Underway};
use crate::schema::blob;
use crate::settings::{BatchSize, Settings, Verify};
use crate::source::{ScanLimits, Source, What};
use crate::stage::copy::Copying;
use crate::stage::{FileSpec, Stager};
use crate::template::Templates;
use crate::transform::pool::Pool;
use crate::{datafile, deletion, span};

/// Lance reads this far ahead for a chunk.
const IO_BUFFER_BYTES: u64 = 64 << 20;

/// Bytes that the largest chunk holds, about: as measured, a second one at once adds 80 to 150 MB to the peak.
const HELD_BYTES_MAX: u64 = 128 << 20;

/// Deletion files that are read at once.
const READS_AT_ONCE: usize = 16;

/// What stages and verifies one chunk.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    stager: Stager,
    reader: Reader,
    verify: Verify,
    /// The live table's root.
    live: Path,
    /// The staging table's root and store.
    staging: Path,
    staging_store: Arc<ObjectStore>,
    /// Whether rows can be deleted from what is staged: see `Prepared` in `prepare.rs`.
    deletes: bool,
    clock: Arc<dyn Clock>,
    time: Arc<StoreTime>,
}

/// A chunk that is done, and the fragments that hold it.
pub(super) type Done = (ChunkRecord, Vec<Fragment>);

/// The migration's files that are in the store, by name.
type FilesThere = BTreeMap<String, StagedFile>;

/// What is to be done for a chunk.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Its rows have to be staged.
    Stage(Chunk),
    /// Its files have to be read back.
    Verify(Box<ChunkRecord>, Vec<Fragment>),
    /// Rows have to be deleted from what is staged.
    Delete(Chunk, Box<ChunkRecord>, Vec<Fragment>),
    /// Its files have to be made young again.
    Renew(Box<ChunkRecord>, Vec<Fragment>),
}

impl Task {
    /// What `chunk` needs, if it needs anything.
    pub(super) fn of(chunk: &Chunk, journal: &Journal, now: DateTime<Utc>) -> Option<Self> {
        let fragments = || journal.fragments(chunk.id).to_vec();
        let record = || journal.record(chunk.id).cloned().map(Box::new);
        Some(match journal.need(chunk, now) {
            Need::Nothing => return None,
            Need::Stage => Self::Stage(chunk.clone()),
            Need::Verify => Self::Verify(record()?, fragments()),
            Need::Delete => Self::Delete(chunk.clone(), record()?, fragments()),
            Need::Renew => Self::Renew(record()?, fragments()),
        })
    }

    /// The chunk.
    pub(super) fn chunk(&self) -> ChunkId {
        match self {
            Self::Stage(chunk) => chunk.id,
            Self::Verify(record, _) | Self::Delete(_, record, _) | Self::Renew(record, _) => {
                record.chunk
            }
        }
    }

    /// The source fragments that the chunk will have been staged from.
    pub(super) fn origins(&self) -> Vec<Origin> {
        match self {
            Self::Stage(chunk) | Self::Delete(chunk, ..) => chunk.origins(),
            Self::Verify(record, _) | Self::Renew(record, _) => record.origins.clone(),
        }
    }

    /// Rows that have to be staged.
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Stage(chunk) => chunk.rows(),
            Self::Delete(chunk, record, _) => record.rows_left().saturating_sub(chunk.rows()),
            Self::Verify(..) | Self::Renew(..) => 0,
        }
    }

    /// The chunk, if it has to be staged.
    pub(super) fn staged(&self) -> Option<&Chunk> {
        match self {
            Self::Stage(chunk) => Some(chunk),
            Self::Delete(..) | Self::Verify(..) | Self::Renew(..) => None,
        }
    }
}

/// What a stager and its reader are made of.
pub(super) struct Pipeline<'a> {
    pub(super) plan: &'a Plan,
    /// Which columns' pages are copied, if any are.
    pub(super) copies: Option<Copies>,
    pub(super) settings: &'a Settings,
    pub(super) source: Source,
    /// The store that is written to.
    pub(super) store: Arc<ObjectStore>,
    /// Where the files go.
    pub(super) directory: Path,
    /// Whose they are.
    pub(super) id: String,
    /// Rows after which a file is closed.
    pub(super) rows_max: u64,
    pub(super) pool: Pool,
    pub(super) budget: Budget,
    pub(super) throttle: Arc<Throttle>,
    pub(super) progress: SharedProgress,
}

/// Bytes of a batch of columns that are made: with more, the memory of those that were freed by another
/// thread adds up before it is used again, as measured; with less, it takes longer.
const MADE_BYTES: u64 = 64 << 10;

/// The size of a batch of columns that are made, where nothing else is.
fn made_batch(batch_size: BatchSize) -> BatchSize {
    if batch_size == BatchSize::Auto { BatchSize::Bytes(MADE_BYTES) } else { batch_size }
}

impl Pipeline<'_> {
    /// What stages chunks of the plan, and what reads back what was staged.
    pub(super) fn parts(self) -> (Stager, Reader) {
        let Self { plan, settings, store, directory, pool, .. } = self;
        let batch_rows = settings.batch_size.rows(plan.width());
        let io_buffer_bytes = IO_BUFFER_BYTES;
        let transform = plan.transform();
        let what = What { schema: Arc::new(transform.inputs()), aligned: plan.is_aligned() };
        let (schema, version) = (plan.written_schema(), plan.storage_version);
        let files = FileSpec {
            id: self.id,
            store: Arc::clone(&store),
            directory: directory.clone(),
            schema: schema.clone(),
            version,
            rows_max: self.rows_max,
            cache_bytes: settings.memory_bytes / 4,
            throttle: self.throttle,
        };
        let mut stager = Stager {
            source: self.source,
            what,
            on_bad_value: plan.request.on_bad_value,
            transform: Arc::new(transform),
            pool: pool.clone(),
            scan: ScanLimits { batch_rows, io_buffer_bytes },
            transforms_max: 2,
            queue: settings.queue,
            budget: self.budget,
            files,
            templates: Templates::default(),
            copying: None,
            reads_back: settings.verify == Verify::Full,
            progress: self.progress,
        };
        let copies = self.copies.clone().map(Arc::new);
        let mut made_rows = batch_rows;
        if let Some(copies) = self.copies {
            made_rows = made_batch(settings.batch_size).rows(copies.made_width(plan));
            stager.copying = Some(Arc::new(Copying::of(copies, plan, &stager, made_rows)));
        }
        let reader = Reader {
            store,
            directory,
            schema,
            version,
            batch_rows,
            made_rows,
            blocks: stager.source.blocks.clone(),
            pool,
            copies,
            known: Known::default(),
        };
        (stager, reader)
    }
}

impl Migration {
    /// What stages and verifies the chunks of the plan.
    pub(super) async fn worker(&self, underway: &Underway) -> Result<Worker> {
        let live = &underway.source;
        let store = live.object_store(None).await;
        let header = underway.journal.header();
        let pipeline = Pipeline {
            plan: &underway.plan,
            copies: Copies::of(&underway.plan),
            settings: &self.settings,
            source: Source::of(Arc::clone(live)),
            store: store.doing(|| "open the live table's store".to_owned())?,
            directory: live.data_dir(),
            id: header.id.clone(),
            rows_max: if underway.plan.is_aligned() { u64::MAX } else { header.rows_per_file },
            pool: underway.pool.clone(),
            budget: underway.budget.clone(),
            throttle: Arc::clone(&underway.throttle),
            progress: Arc::clone(&self.progress),
        };
        let (stager, reader) = pipeline.parts();
        let staging = underway.journal.staging();
        let staging_store = staging.object_store(None).await;
        Ok(Worker {
            stager,
            reader,
            verify: self.settings.verify,
            live: live.branch_location().path,
            staging: staging.branch_location().path,
            staging_store: staging_store.doing(|| "open the staging table's store".to_owned())?,
            deletes: live.manifest_location().naming_scheme == ManifestNamingScheme::V2,
            clock: Arc::clone(&self.clock),
            time: Arc::clone(underway.journal.time()),
        })
    }

    /// Looks at the files of the chunks that are done: forgets chunks whose files are gone, has those
    /// verified again whose files were touched, and those that were verified less than is asked now.
    pub(super) async fn inspect(&self, underway: &mut Underway) -> Result<()> {
        let worker = self.worker(underway).await?;
        let there = worker.files_there(&underway.journal.header().id).await?;
        self.forget_changed(&there, &mut underway.journal);
        Ok(())
    }

    /// Forgets chunks whose files are gone; those whose files were touched since are verified again.
    fn forget_changed(&self, there: &FilesThere, journal: &mut Journal) {
        let mut gone: Vec<ChunkId> = Vec::new();
        let mut touched: Vec<ChunkId> = Vec::new();
        let mut quick: Vec<ChunkId> = Vec::new();
        for record in journal.records() {
            if record.files.iter().any(|file| !there.contains_key(&file.name)) {
                gone.push(record.chunk);
            } else if record.files.iter().any(|file| there.get(&file.name) != Some(file)) {
                touched.push(record.chunk);
            } else if self.settings.verify == Verify::Full && record.verified == Some(Verify::Quick)
            {
                quick.push(record.chunk);
            }
        }
        for chunk in gone {
            note(
                &self.progress,
                format!("the files of chunk {chunk} are gone; it is staged again"),
            );
            journal.forget(chunk);
        }
        if !quick.is_empty() {
            let count = quick.len();
            note(&self.progress, format!("{count} chunks were verified quickly; now in full"));
        }
        for chunk in quick {
            journal.distrust(chunk);
        }
        for chunk in touched {
            note(
                &self.progress,
                format!("files of chunk {chunk} were touched; it is verified again"),
            );
            journal.distrust(chunk);
        }
    }
}

impl Worker {
    /// Bytes that `task` holds at once, at most: pages that are read, decoded, encoded and read back.
    pub(super) fn held(&self, task: &Task) -> u64 {
        let bytes = match task {
            Task::Stage(_) if !self.stager.reads() => 0,
            Task::Stage(chunk) if self.stager.what.aligned => {
                chunk.fragments.iter().map(|fragment| fragment.bytes).max().unwrap_or_default()
            }
            Task::Stage(chunk) if self.stager.copyable(chunk).is_some() => {
                pages::held_bytes(self.store())
            }
            // What is left after deletions is compared, value by value.
            Task::Stage(chunk) | Task::Delete(chunk, ..) => chunk.bytes(),
            Task::Verify(record, _) if record.copied => pages::held_bytes(self.store()),
            Task::Verify(record, _) => record.files.iter().map(|file| file.bytes).sum(),
            Task::Renew(..) => 0,
        };
        bytes.min(HELD_BYTES_MAX)
    }

    /// Does `task`.
    ///
    /// # Errors
    /// `Mismatch`, when what was staged is not what was expected; `Failed`, when it could not be done.
    pub(super) async fn run(self, task: Task) -> Result<Done> {
        match task {
            Task::Stage(chunk) => self.stage_and_verify(&chunk).await,
            Task::Verify(record, fragments) => {
                self.verify(*record, fragments, &Seen::default()).await
            }
            Task::Renew(record, fragments) => self.renew(*record, fragments).await,
            Task::Delete(chunk, record, fragments) => {
                if let Some(done) = self.delete(&chunk, *record, fragments).await? {
                    return Ok(done);
                }
                self.stage_and_verify(&chunk).await
            }
        }
    }

    async fn stage_and_verify(&self, chunk: &Chunk) -> Result<Done> {
        let ((record, fragments), seen) = self.stage(chunk).await?;
        let (record, fragments) = self.verify(record, fragments, &seen).await?;
        self.wrote(&record);
        Ok((record, fragments))
    }

    /// Reads back what was staged, but for what was `seen` already, and makes it durable.
    async fn verify(
        &self,
        mut record: ChunkRecord,
        fragments: Vec<Fragment>,
        seen: &Seen,
    ) -> Result<Done> {
        let expected = Expected {
            chunk: record.chunk,
            rows: record.rows,
            digests: &record.digests,
            copied: record.copied,
            seen,
        };
        let paths = self.own_files(&fragments).map(|file| self.path(&file.path)).collect();
        let with_sidecars = !blob::columns(&self.stager.files.schema).is_empty();
        // The disk writes while the page cache is read.
        let reading = async {
            let _verifying = span::verify();
            self.reader.verify(&fragments, &expected, self.verify).await
        };
        let syncing = async {
            let _writing = span::write();
            datafile::sync(self.store(), paths, with_sidecars).await
        };
        futures::try_join!(reading, syncing)?;
        record.verified = Some(self.verify);
        record.files = self.files_of(&fragments).await?;
        Ok((record, fragments))
    }

    /// Stages `chunk`; with what was read back of it already.
    async fn stage(&self, chunk: &Chunk) -> Result<(Done, Seen)> {
        let mut hidden = Vec::new();
        if self.stager.what.aligned {
            let mut reads = Vec::new();
            for fragment in &chunk.fragments {
                reads.push(self.deleted(&fragment.origin).boxed());
            }
            let reads = futures::stream::iter(reads).buffered(READS_AT_ONCE);
            hidden = reads.try_collect().await?;
        }
        let staged = self.stager.stage(chunk, hidden).await?;
        let mut record = ChunkRecord {
            chunk: chunk.id,
            origins: chunk.origins(),
            rows: staged.rows,
            left_out: staged.left_out,
            nulled: staged.nulled,
            deleted: 0,
            deletions: BTreeMap::new(),
            beside: BTreeMap::new(),
            files: Vec::new(),
            digests: staged.digests,
            copied: staged.copied,
            verified: None,
        };
        let fragments = if self.stager.what.aligned {
            self.beside(chunk, staged.fragments, &mut record.beside)?
        } else {
            staged.fragments
        };
        Ok(((record, fragments), staged.seen))
    }

    /// The source's fragments with the staged file of each beside their own. Which stands beside which is
    /// put `beside`: from here on, they are joined by name.
    fn beside(
        &self,
        chunk: &Chunk,
        staged: Vec<Fragment>,
        beside: &mut BTreeMap<String, u64>,
    ) -> Result<Vec<Fragment>> {
        let sources = self.stager.source.fragments_of(chunk)?;
        let (count, wanted) = (staged.len(), sources.len());
        let unlike = |why: String| Error::mismatch(format!("chunk {}: {why}", chunk.id));
        if count != wanted {
            return Err(unlike(format!("{count} files were staged for {wanted} fragments")));
        }
        let mut fragments = Vec::new();
        let parts = chunk.fragments.iter().zip(sources).zip(staged);
        for ((part, source), staged) in parts {
            let rows = staged.physical_rows.unwrap_or_default() as u64;
            let own = own_file(&staged, &self.stager.files.id);
            let (true, Some(name)) = (rows == part.physical_rows, own) else {
                let (id, wanted) = (source.id, part.physical_rows);
                return Err(unlike(format!("fragment {id} has {wanted} rows, its file {rows}")));
            };
            beside.insert(name.to_owned(), source.id);
            let mut both = Fragment::new(0);
            both.physical_rows = staged.physical_rows;
            both.files = source.files.into_iter().chain(staged.files).collect();
            fragments.push(both);
        }
        Ok(fragments)
    }

    /// The files of `fragments` that the migration wrote.
    fn own_files<'a>(&'a self, fragments: &'a [Fragment]) -> impl Iterator<Item = &'a DataFile> {
        let files = fragments.iter().flat_map(|fragment| &fragment.files);
        files.filter(|file| datafile::is_of(&file.path, &self.stager.files.id))
    }

    /// Deletes from what is staged the rows that were deleted from the source since. `None`, when that
    /// cannot be told: an older deletion file is gone, or a row came back.
    async fn delete(
        &self,
        chunk: &Chunk,
        mut record: ChunkRecord,
        mut fragments: Vec<Fragment>,
    ) -> Result<Option<Done>> {
        if !self.deletes {
            return Ok(None);
        }
        let mut reads = Vec::new();
        for (then, now) in record.origins.iter().zip(&chunk.fragments) {
            reads.push(self.deletions(then, now).boxed());
        }
        let reads = futures::stream::iter(reads).buffered(READS_AT_ONCE);
        let reads: Result<Vec<_>> = reads.try_collect().await;
        let sources: Option<Vec<Deletions>> = reads?.into_iter().collect();
        let Some(sources) = sources else { return Ok(None) };
        let Some(already) = self.deleted_already(&record, &fragments).await? else {
            return Ok(None);
        };
        let Some(all) = staged_deletions(&sources, &already) else {
            return Ok(None);
        };
        if record.rows.saturating_sub(all.len()) != chunk.rows() {
            return Ok(None);
        }
        let mut left = Vec::new();
        let mut first: u32 = 0;
        for fragment in &mut fragments {
            let rows = fragment.physical_rows.and_then(|rows| u32::try_from(rows).ok());
            let Some(end) = rows.and_then(|rows| first.checked_add(rows)) else { return Ok(None) };
            let own: RoaringBitmap = all.range(first..end).map(|row| row - first).collect();
            self.write_deletions(fragment, &own, &mut record).await?;
            left.push((fragment.clone(), own));
            first = end;
        }
        record.deleted = all.len();
        record.origins = chunk.origins();
        self.verify_left(chunk, &left).await?;
        Ok(Some((record, fragments)))
    }

    /// Compares the rows of a chunk that are left once rows were deleted from what is staged for it with
    /// what its source gives now: the digests that were taken when it was staged are of other rows.
    async fn verify_left(&self, chunk: &Chunk, left: &[(Fragment, RoaringBitmap)]) -> Result<()> {
        if self.verify == Verify::Quick {
            return Ok(());
        }
        let _verifying = span::verify();
        let (wanted, found) =
            futures::try_join!(self.stager.expect(chunk), self.reader.left(chunk.id, left))?;
        self.reader.compare_left(chunk.id, &wanted, &found)
    }

    /// Writes which `rows` of a staged fragment are deleted, into a new deletion file of the staging table.
    async fn write_deletions(
        &self,
        fragment: &mut Fragment,
        rows: &RoaringBitmap,
        record: &mut ChunkRecord,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let (store, root, id) = (&self.staging_store, &self.staging, &self.stager.files.id);
        let Some(name) = own_file(fragment, id).map(str::to_owned) else {
            let chunk = record.chunk;
            return Err(Error::mismatch(format!("chunk {chunk}: a staged fragment has no file")));
        };
        let deleted = deletion::write(store, root, Naming::Staged, rows, id).await?;
        fragment.deletion_file = Some(deleted.file.clone());
        record.deletions.insert(name, deleted);
        Ok(())
    }

    /// The deleted rows of a source fragment, `then` and `now`; `None`, when those of then are gone.
    async fn deletions(&self, then: &Origin, now: &SourceFragment) -> Result<Option<Deletions>> {
        let (live, now) = (now.rows, self.deleted(&now.origin).await?);
        let rows = live + now.len();
        let then = self.deleted(then).await.ok();
        Ok(then.map(|then| Deletions { rows, then, now }))
    }

    /// The rows of a source fragment that are deleted.
    async fn deleted(&self, origin: &Origin) -> Result<RoaringBitmap> {
        deletion::read(self.store(), &self.live, origin.id, origin.deletions.as_ref()).await
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
            let (store, root) = (&self.staging_store, &self.staging);
            let name = own_file(fragment, &self.stager.files.id);
            if let Some(deleted) = name.and_then(|name| record.deletions.get(name)) {
                let own = deletion::read_back(store, root, STAGED, deleted).await?;
                all.extend(own.iter().map(|row| row + first));
            }
            let rows = fragment.physical_rows.and_then(|rows| u32::try_from(rows).ok());
            let Some(end) = rows.and_then(|rows| first.checked_add(rows)) else { return Ok(None) };
            first = end;
        }
        Ok(Some(all))
    }

    /// Makes the files of a chunk young again.
    async fn renew(&self, mut record: ChunkRecord, mut fragments: Vec<Fragment>) -> Result<Done> {
        let id = &self.stager.files.id;
        let now = self.time.now(self.clock.now());
        let files = fragments.iter_mut().flat_map(|fragment| &mut fragment.files);
        for file in files.filter(|file| datafile::is_of(&file.path, id)) {
            let path = self.path(&file.path);
            let renewed = datafile::renew(self.store(), &path, id, now.into()).await?;
            if let Some(name) = renewed.filename().filter(|name| **name != file.path) {
                record.rename(&file.path, name);
                name.clone_into(&mut file.path);
            }
        }
        record.files = self.files_of(&fragments).await?;
        self.wrote(&record);
        Ok((record, fragments))
    }

    /// The files of `record` are new: by whatever clock they are dated, they cannot be old.
    fn wrote(&self, record: &ChunkRecord) {
        if let Some(modified) = record.files.iter().map(|file| file.modified).min() {
            self.time.wrote(modified);
        }
    }

    /// Removes the staged files of these names.
    ///
    /// # Errors
    /// `Failed`, when one is there and cannot be removed.
    pub(super) async fn remove(&self, names: Vec<String>) -> Result<()> {
        for name in names {
            datafile::remove_whole(self.store(), &self.path(&name)).await?;
        }
        Ok(())
    }

    /// The files of `fragments`, as the store has them now.
    async fn files_of(&self, fragments: &[Fragment]) -> Result<Vec<StagedFile>> {
        let mut files = Vec::new();
        for file in self.own_files(fragments) {
            let path = self.path(&file.path);
            let meta = datafile::look(self.store(), &path).await?;
            files.push(StagedFile::of(&file.path, meta));
        }
        Ok(files)
    }

    /// Every file of the migration that is in the store, by name.
    async fn files_there(&self, id: &str) -> Result<FilesThere> {
        let directory = &self.stager.files.directory;
        let listed = datafile::list(self.store(), directory, id).await?;
        let files = listed.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            let file = StagedFile::of(&name, meta);
            Some((name, file))
        });
        Ok(files.collect())
    }

    fn store(&self) -> &ObjectStore {
        &self.stager.files.store
    }

    fn path(&self, name: &str) -> Path {
        self.stager.files.directory.clone().join(name)
    }
}
