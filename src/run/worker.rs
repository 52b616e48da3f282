//! Does tasks in this process: stages a chunk and verifies it, deletes from it, and looks after its files.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance_table::format::{DataFile, Fragment};

use crate::chunk::{Chunk, Origin};
use crate::clock::{Clock, StoreTime};
use crate::error::{Error, Kind, Result};
use crate::journal::{ChunkRecord, StagedFile, own_file};
use crate::run::task::{Done, Task};
use crate::run::{context::Context, deleter::Deleter, executor::Executor, session::Session};
use crate::stage::{FileSpec, Staged, Stager, StagerParts};
use crate::table::{open::store_of, source::Source};
use crate::{
    limits::TASK_BYTES_MAX, plan::columns::WrittenColumns, retry::is_of_store, settings::Verify,
    storage::names::is_data_file, verify::Verifier,
};

/// Does the tasks of one session.
#[derive(Debug)]
pub(crate) struct Worker {
    stager: Stager,
    verifier: Verifier,
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
    pub(crate) async fn of(ctx: &Context, session: &Session) -> Result<Self> {
        let (live, plan, header) = (&session.source, &session.plan, session.journal.header());
        let store = store_of(live).await?;
        let parts = StagerParts {
            settings: &ctx.settings,
            columns: WrittenColumns::of(plan),
            source: Source::of(Arc::clone(live)),
            files: FileSpec {
                id: header.id.clone(),
                store: Arc::clone(&store),
                directory: live.data_dir(),
                rows_max: if plan.is_aligned() { u64::MAX } else { header.rows_per_file },
                throttle: Arc::clone(&session.throttle),
                sent: ctx.keeps_sent(),
                part_copies: ctx.part_copies(),
                ..FileSpec::of(plan, &ctx.settings)
            },
            pool: session.pool.clone(),
            budget: session.budget.clone(),
            supply: session.supply.clone(),
            progress: Arc::clone(&ctx.progress),
        };
        let stager = Stager::of(plan, parts);
        Ok(Self {
            verifier: Verifier::of(&stager),
            stager,
            verify: ctx.settings.verify,
            deleter: Deleter::of(live, &session.journal).await?,
            clock: Arc::clone(&ctx.clock),
            time: Arc::clone(session.journal.time()),
        })
    }

    /// Stages a chunk, and verifies what was staged. Where a store that copied parts of it copied them wrongly, once more.
    async fn stage_and_verify(&self, chunk: &Chunk) -> Result<Done> {
        let staged = self.stager.stage(chunk).await?;
        let inside = staged.inside.then(|| staged.fragments.clone());
        match (self.verify_new(chunk, staged).await, inside) {
            (Err(error), Some(wrong)) if error.kind() == Kind::Mismatch && !is_of_store(&error) => {
                self.stager.send_after(&error, true);
                self.stager.files.discard(wrong).await;
                self.verify_new(chunk, self.stager.stage(chunk).await?).await
            }
            (done, _) => done,
        }
    }

    async fn verify_new(&self, chunk: &Chunk, mut staged: Staged) -> Result<Done> {
        let mut beside = BTreeMap::new();
        if self.stager.what.aligned {
            let fragments = std::mem::take(&mut staged.fragments);
            (staged.fragments, beside) = self.beside(chunk, fragments)?;
        }
        let done = self.verify(staged, self.verify, (chunk.origins(), beside)).await?;
        self.wrote(&done.record);
        Ok(done)
    }

    /// Verifies what was `staged`, and makes a record of it.
    async fn verify(
        &self,
        staged: Staged,
        how: Verify,
        (origins, beside): (Vec<Origin>, BTreeMap<String, u64>),
    ) -> Result<Done> {
        let (staged, how, confirmed) = self.verifier.verify(staged, how).await?.into_parts();
        let (digests, copied) = (staged.digests(), staged.is_copied());
        let record = ChunkRecord {
            chunk: staged.chunk,
            origins,
            rows: staged.rows,
            left_out: staged.left_out,
            nulled: staged.nulled,
            deleted: 0,
            deletions: BTreeMap::new(),
            beside,
            files: self.files_of(&staged.fragments).await?,
            digests,
            copied,
            verified: Some(how.as_recorded()),
            confirmed,
        };
        Ok(Done { record, fragments: staged.fragments })
    }

    /// Verifies what was staged by another task, or before its files were touched.
    async fn verify_again(&self, done: Done) -> Result<Done> {
        let Done { record, fragments } = done;
        let columns = &self.stager.columns;
        let staged = Staged {
            chunk: record.chunk,
            fragments,
            expectations: Staged::expectations(&record.digests, record.copied, columns)?,
            rows: record.rows,
            left_out: record.left_out,
            nulled: record.nulled.clone(),
            ..Staged::default()
        };
        let ChunkRecord { origins, deleted, deletions, beside, .. } = record;
        // Files that somebody touched are not judged by their first rows.
        let how = self.verify.at_least_full();
        let Done { record, fragments } = self.verify(staged, how, (origins, beside)).await?;
        Ok(Done { record: ChunkRecord { deleted, deletions, ..record }, fragments })
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
            let physical_rows = staged.physical_rows;
            let files = source.files.into_iter().chain(staged.files).collect();
            fragments.push(Fragment { files, physical_rows, ..Fragment::new(0) });
        }
        Ok((fragments, beside))
    }

    /// Deletes from what is staged the rows that were deleted from the source since; stages the chunk again,
    /// where that cannot be told.
    async fn delete(&self, chunk: &Chunk, done: Done) -> Result<Done> {
        let Some((done, left)) = self.deleter.delete(chunk, done).await? else {
            return self.stage_and_verify(chunk).await;
        };
        if self.verify.is_full() {
            // The digests that were taken when it was staged are of other rows.
            let expected = self.stager.expect(chunk).await?;
            self.verifier.verify_left(chunk.id, &left, expected).await?;
        }
        Ok(done)
    }

    /// Makes the files of a chunk young again. What was written over since they were verified does not count as verified then, and
    /// neither do copies of objects, which nobody has looked at.
    async fn renew(&self, done: Done) -> Result<Done> {
        let Done { mut record, mut fragments } = done;
        let spec = &self.stager.files;
        let now = self.time.now(self.clock.now());
        let is_copied = spec.files().has_tags();
        let are_known = !is_copied && self.files_of(&fragments).await? == record.files;
        let files = fragments.iter_mut().flat_map(|fragment| &mut fragment.files);
        for file in files.filter(|file| is_data_file(&file.path, &spec.id)) {
            let path = spec.path(&file.path);
            let renewed = spec.files().renew(&path, &spec.id, now.into()).await?;
            if let Some(name) = renewed.filename().filter(|name| **name != file.path) {
                record.rename(&file.path, name);
                name.clone_into(&mut file.path);
            }
        }
        if !are_known {
            (record.verified, record.confirmed) = (None, 0);
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

    /// The files of `fragments` that the migration wrote, as the store has them now.
    async fn files_of(&self, fragments: &[Fragment]) -> Result<Vec<StagedFile>> {
        let spec = &self.stager.files;
        let files = spec.files();
        let own = |file: &&DataFile| is_data_file(&file.path, &spec.id);
        let names = fragments.iter().flat_map(|fragment| &fragment.files).filter(own);
        let looks = names.map(|file| {
            let (files, path, name) = (Arc::clone(&files), spec.path(&file.path), &file.path);
            let told = self.verifier.take_dated(name);
            let marked = self.verifier.take_mark(name);
            async move {
                let meta = match told {
                    Some(meta) => meta,
                    None => files.head(&path).await?,
                };
                let sidecars = match marked {
                    Some(mark) => Some(mark).filter(|mark| !mark.is_empty()),
                    None if spec.has_blobs() => files.mark_of(&path).await?,
                    None => None,
                };
                Ok(StagedFile::of(files.as_ref(), name, meta, sidecars))
            }
            .boxed()
        });
        stream::iter(looks.collect::<Vec<_>>()).buffered(files.files_at_once()).try_collect().await
    }
}

#[async_trait]
impl Executor for Worker {
    fn held_bytes(&self, task: &Task) -> u64 {
        let bytes = match task {
            Task::Stage(chunk) => self.stager.held_for(chunk),
            // What is left after deletions is compared, value by value.
            Task::Delete(chunk, _) => chunk.bytes(),
            Task::Verify(done) if done.record.copied => self.stager.files.files().held_bytes(),
            Task::Verify(done) => done.record.files.iter().map(|file| file.bytes).sum(),
            Task::Renew(_) => 0,
        };
        bytes.min(TASK_BYTES_MAX)
    }

    async fn execute(&self, task: Task) -> Result<Done> {
        match task {
            Task::Stage(chunk) => self.stage_and_verify(&chunk).await,
            Task::Verify(done) => self.verify_again(done).await,
            Task::Delete(chunk, done) => self.delete(&chunk, done).await,
            Task::Renew(done) => self.renew(done).await,
        }
    }
}
