//! Does tasks in this process: stages a chunk and verifies it, deletes from it, and looks after its files.

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

use lance_io::object_store::ObjectStore;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;
use roaring::RoaringBitmap;

use crate::chunk::Chunk;
use crate::clock::{Clock, StoreTime};
use crate::error::{Error, Result};
use crate::journal::{ChunkRecord, StagedFile, own_file};
use crate::pages::Seen;
use crate::plan::copies::Copies;
use crate::readback::{Expected, Reader};
use crate::run::context::Context;
use crate::run::deleter::Deleter;
use crate::run::executor::Executor;
use crate::run::pipeline::Pipeline;
use crate::run::session::Session;
use crate::run::task::{Done, Task};
use crate::schema::blob;
use crate::settings::Verify;
use crate::source::Source;
use crate::stage::Stager;
use crate::table::store_of;
use crate::{datafile, pages, span};

/// Bytes that the largest chunk holds, about: as measured, a second one at once adds 80 to 150 MB to the peak.
const HELD_BYTES_MAX: u64 = 128 << 20;

/// Deletion files that are read at once.
const READS_AT_ONCE: usize = 16;

/// Does the tasks of one session.
#[derive(Debug)]
pub(in crate::run) struct Worker {
    stager: Stager,
    reader: Reader,
    verify: Verify,
    deleter: Deleter,
    clock: Arc<dyn Clock>,
    time: Arc<StoreTime>,
}

impl Worker {
    /// What does the tasks of `session`, whose plan it is made for.
    ///
    /// # Errors
    /// `Failed`, when a store cannot be opened.
    pub(in crate::run) async fn of(ctx: &Context, session: &Session) -> Result<Self> {
        let (live, header) = (&session.source, session.journal.header());
        let store = store_of(live).await?;
        let pipeline = Pipeline {
            plan: &session.plan,
            copies: Copies::of(&session.plan),
            settings: &ctx.settings,
            source: Source::of(Arc::clone(live)),
            store: Arc::clone(&store),
            directory: live.data_dir(),
            id: header.id.clone(),
            rows_max: if session.plan.is_aligned() { u64::MAX } else { header.rows_per_file },
            pool: session.pool.clone(),
            budget: session.budget.clone(),
            throttle: Arc::clone(&session.throttle),
            progress: Arc::clone(&ctx.progress),
        };
        let (stager, reader) = pipeline.parts();
        Ok(Self {
            stager,
            reader,
            verify: ctx.settings.verify,
            deleter: Deleter::of(live, store, &session.journal).await?,
            clock: Arc::clone(&ctx.clock),
            time: Arc::clone(session.journal.time()),
        })
    }

    async fn stage_and_verify(&self, chunk: &Chunk) -> Result<Done> {
        let (done, seen) = self.stage(chunk).await?;
        let done = self.verify(done, &seen).await?;
        self.wrote(&done.record);
        Ok(done)
    }

    /// Verifies what was staged, but for what was `seen` already, and makes it durable.
    async fn verify(&self, mut done: Done, seen: &Seen) -> Result<Done> {
        let Done { record, fragments } = &done;
        let expected = Expected {
            chunk: record.chunk,
            rows: record.rows,
            digests: &record.digests,
            copied: record.copied,
            seen,
        };
        let paths = self.own_files(fragments).map(|file| self.path_of(&file.path)).collect();
        let with_sidecars = !blob::columns(&self.stager.files.schema).is_empty();
        // The disk writes while the page cache is read.
        let reading = async {
            let _verifying = span::verify();
            self.reader.verify(fragments, &expected, self.verify).await
        };
        let syncing = async {
            let _writing = span::write();
            datafile::sync(self.store(), paths, with_sidecars).await
        };
        futures::try_join!(reading, syncing)?;
        done.record.verified = Some(self.verify);
        done.record.files = self.files_of(&done.fragments).await?;
        Ok(done)
    }

    /// Stages `chunk`; with what was read back of it already.
    async fn stage(&self, chunk: &Chunk) -> Result<(Done, Seen)> {
        let mut hidden = Vec::new();
        if self.stager.what.aligned {
            let mut reads = Vec::new();
            for fragment in &chunk.fragments {
                reads.push(self.deleter.deleted(&fragment.origin).boxed());
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
        let mut fragments = staged.fragments;
        if self.stager.what.aligned {
            (fragments, record.beside) = self.beside(chunk, fragments)?;
        }
        Ok((Done { record, fragments }, staged.seen))
    }

    /// The source's fragments with the staged file of each beside their own, and by the name of each staged
    /// file the source fragment that it stands beside: from here on, they are joined by name.
    fn beside(
        &self,
        chunk: &Chunk,
        staged: Vec<Fragment>,
    ) -> Result<(Vec<Fragment>, BTreeMap<String, u64>)> {
        let sources = self.stager.source.fragments_of(chunk)?;
        let (count, wanted) = (staged.len(), sources.len());
        let unlike = |why: String| Error::mismatch(format!("chunk {}: {why}", chunk.id));
        if count != wanted {
            return Err(unlike(format!("{count} files were staged for {wanted} fragments")));
        }
        let (mut fragments, mut beside) = (Vec::new(), BTreeMap::new());
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
        Ok((fragments, beside))
    }

    /// Deletes from what is staged the rows that were deleted from the source since; stages the chunk again,
    /// where that cannot be told.
    async fn delete(&self, chunk: &Chunk, done: Done) -> Result<Done> {
        let Some((done, left)) = self.deleter.delete(chunk, done).await? else {
            return self.stage_and_verify(chunk).await;
        };
        self.verify_left(chunk, &left).await?;
        Ok(done)
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

    /// Makes the files of a chunk young again.
    async fn renew(&self, done: Done) -> Result<Done> {
        let Done { mut record, mut fragments } = done;
        let id = &self.stager.files.id;
        let now = self.time.now(self.clock.now());
        let files = fragments.iter_mut().flat_map(|fragment| &mut fragment.files);
        for file in files.filter(|file| datafile::is_of(&file.path, id)) {
            let path = self.path_of(&file.path);
            let renewed = datafile::renew(self.store(), &path, id, now.into()).await?;
            if let Some(name) = renewed.filename().filter(|name| **name != file.path) {
                record.rename(&file.path, name);
                name.clone_into(&mut file.path);
            }
        }
        record.files = self.files_of(&fragments).await?;
        self.wrote(&record);
        Ok(Done { record, fragments })
    }

    /// The files of `record` are new: by whatever clock they are dated, they cannot be old.
    fn wrote(&self, record: &ChunkRecord) {
        if let Some(modified) = record.files.iter().map(|file| file.modified).min() {
            self.time.wrote(modified);
        }
    }

    /// The files of `fragments` that the migration wrote.
    fn own_files<'a>(&'a self, fragments: &'a [Fragment]) -> impl Iterator<Item = &'a DataFile> {
        let files = fragments.iter().flat_map(|fragment| &fragment.files);
        files.filter(|file| datafile::is_of(&file.path, &self.stager.files.id))
    }

    /// The files of `fragments`, as the store has them now.
    async fn files_of(&self, fragments: &[Fragment]) -> Result<Vec<StagedFile>> {
        let mut files = Vec::new();
        for file in self.own_files(fragments) {
            let path = self.path_of(&file.path);
            let meta = datafile::look(self.store(), &path).await?;
            files.push(StagedFile::of(&file.path, meta));
        }
        Ok(files)
    }

    fn store(&self) -> &ObjectStore {
        &self.stager.files.store
    }

    fn path_of(&self, name: &str) -> Path {
        self.stager.files.directory.clone().join(name)
    }
}

#[async_trait]
impl Executor for Worker {
    fn held_bytes(&self, task: &Task) -> u64 {
        let bytes = match task {
            Task::Stage(_) if !self.stager.reads() => 0,
            Task::Stage(chunk) if self.stager.what.aligned => {
                chunk.fragments.iter().map(|fragment| fragment.bytes).max().unwrap_or_default()
            }
            Task::Stage(chunk) if self.stager.copyable(chunk).is_some() => {
                pages::held_bytes(self.store())
            }
            // What is left after deletions is compared, value by value.
            Task::Stage(chunk) | Task::Delete(chunk, _) => chunk.bytes(),
            Task::Verify(done) if done.record.copied => pages::held_bytes(self.store()),
            Task::Verify(done) => done.record.files.iter().map(|file| file.bytes).sum(),
            Task::Renew(_) => 0,
        };
        bytes.min(HELD_BYTES_MAX)
    }

    async fn execute(&self, task: Task) -> Result<Done> {
        match task {
            Task::Stage(chunk) => self.stage_and_verify(&chunk).await,
            Task::Verify(done) => self.verify(done, &Seen::default()).await,
            Task::Delete(chunk, done) => self.delete(&chunk, done).await,
            Task::Renew(done) => self.renew(done).await,
        }
    }
}
