//! Stages a chunk by copying the encoded pages of the columns that stay as they are, with constants beside them.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance_core::datatypes::{Field, Schema};
use lance_encoding::decoder::ColumnInfo;
use lance_file::{version::ConcreteFileVersion, versions::physical_column_count};
use lance_table::format::{DataFile, Fragment};

use crate::chunk::Chunk;
use crate::error::{Error, Kind, Result};
use crate::limits::COPIED_FRAGMENT_BYTES_MIN;
use crate::plan::columns::{ColumnSource, is_encoded_alike};
use crate::progress::{Amount, Event};
use crate::retry::is_transient;
use crate::stage::file::FileBuilder;
use crate::stage::inside::Inside;
use crate::stage::{Expectation, Staged, Stager};
use crate::storage::page::{
    self, ColumnPart, CopiedColumns, OpenFile, PageFile, PartCopier, ReadBack, ReadBackHashes,
};
use crate::storage::part_copy::BegunUpload;
use crate::transform::digest::Digest;

/// A source fragment whose pages can be copied, as far as the manifest tells.
#[derive(Debug)]
pub(super) struct CopyableFragment {
    fragment: Fragment,
    /// For each column that is copied: the file that holds it, and its columns there.
    columns: Vec<(usize, Vec<usize>)>,
}

/// The files that are copied from, and what becomes of their columns.
struct CopyInputs {
    files: Vec<Arc<PageFile>>,
    /// The columns of the new file that come out of them, each in parts.
    columns: Vec<Vec<ColumnPart>>,
    /// As how many of those each column of the table is stored.
    counts: Vec<usize>,
}

impl Stager {
    /// The source fragments of `chunk`, if their pages can be copied as far as the manifest tells.
    pub(super) fn copyable(&self, chunk: &Chunk) -> Option<Vec<CopyableFragment>> {
        let count = chunk.fragments.len() as u64;
        let small = count > 1 && chunk.bytes() / count < COPIED_FRAGMENT_BYTES_MIN;
        let whole = chunk.fragments.iter().all(|fragment| {
            fragment.rows == fragment.physical_rows && fragment.origin.deletions.is_none()
        });
        let too_long = self.columns.rows_max.is_some_and(|rows_max| chunk.rows() > rows_max);
        if !self.columns.copies_pages() || small || !whole || too_long {
            return None;
        }
        let fragments = self.source.fragments_of(chunk).ok()?.into_iter();
        let wanted = chunk.fragments.iter().map(|fragment| usize::try_from(fragment.rows).ok());
        let copyable = fragments.zip(wanted).map(|(fragment, rows)| {
            let plain = fragment.overlays.is_empty() && fragment.deletion_file.is_none();
            if !plain || rows.is_none() || fragment.physical_rows != rows {
                return None;
            }
            let copied = self.columns.copied_fields().flatten();
            let columns = copied.map(|field| holder_of(field, &fragment, self.files.version));
            let columns = columns.collect::<Option<_>>()?;
            Some(CopyableFragment { fragment, columns })
        });
        copyable.collect()
    }

    /// Stages `chunk` by copying pages of its `sources`; `None`, when their files do not allow it, and
    /// nothing is written.
    pub(super) async fn stage_copied(
        &self,
        chunk: &Chunk,
        sources: &[CopyableFragment],
    ) -> Result<Option<Staged>> {
        let Some(inputs) = self.copy_inputs(sources).await? else { return Ok(None) };
        if let Some(inside) = self.inside(&inputs.files, &inputs.columns).await {
            let held = self.held_beside(&inside, page::bytes_of(&inputs.columns));
            let _share = self.budget.take(held).await;
            match self.stage_inputs(chunk, &inputs, Some(&inside)).await {
                Err((error, true)) => {
                    // What passes by itself has lasted for a minute.
                    let for_good = error.kind() == Kind::Mismatch || is_transient(&error);
                    self.send_after(&error, for_good);
                }
                staged => return staged.map(Some).map_err(|(error, _)| error),
            }
        }
        let _share = self.budget.take(self.files.files().held_bytes()).await;
        self.stage_inputs(chunk, &inputs, None).await.map(Some).map_err(|(error, _)| error)
    }

    /// Stages `chunk` by copying pages of `inputs`, those that are `inside` by the store. An error comes with whether it is that the store
    /// did not copy them, or not those that it was asked for.
    async fn stage_inputs(
        &self,
        chunk: &Chunk,
        inputs: &CopyInputs,
        inside: Option<&Inside>,
    ) -> std::result::Result<Staged, (Error, bool)> {
        let other = |error| (error, false);
        let bytes = inside.map_or(0, |inside| inside.parts.end);
        let mut file = FileBuilder::copied(&self.files, bytes).await.map_err(other)?;
        file.rows = chunk.rows();
        let begun = match inside {
            Some(inside) => Some(inside.begin(&file.path()).await.map_err(other)?),
            None => None,
        };
        let path = file.path();
        let both = inside.zip(begun.as_ref());
        let copied = self.copy_into(&mut file, chunk, inputs, both).await;
        let finished = match copied {
            Ok((columns, expectations, back)) => {
                let finished = file.finish(Some(&columns)).await;
                finished.map(|fragment| (vec![fragment], expectations, back))
            }
            Err(error) => {
                file.discard().await;
                Err(error)
            }
        };
        let mut failed = false;
        if let Some(begun) = begun {
            failed = begun.has_failed();
            begun.end(finished.is_ok()).await;
        }
        let (fragments, expectations, back) = finished.map_err(|error| (error, failed))?;
        if let Some(inside) = inside.filter(|_| !self.reads_back) {
            let compared = self.compare_ends((inside, &inputs.files), &path).await;
            if let Err(error) = compared {
                self.files.discard(fragments).await;
                let differs = error.kind() == Kind::Mismatch;
                return Err((error, differs));
            }
        }
        let seen = match back {
            Some(back) => back.finish().await,
            None => ReadBackHashes::default(),
        };
        self.files.throttle.wait().await;
        let (chunk, rows) = (chunk.id, chunk.rows());
        let inside = inside.is_some();
        Ok(Staged { chunk, fragments, expectations, rows, inside, seen, ..Staged::default() })
    }

    /// The files of `sources` and the columns in them, unless one of them cannot be copied from.
    async fn copy_inputs(&self, sources: &[CopyableFragment]) -> Result<Option<CopyInputs>> {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut wanted = Vec::new();
        for source in sources {
            for (place, _) in &source.columns {
                let Some(data_file) = source.fragment.files.get(*place) else { return Ok(None) };
                places.entry(data_file.path.as_str()).or_insert_with(|| {
                    wanted.push(data_file);
                    wanted.len() - 1
                });
            }
        }
        let files = self.open_all(wanted).await?;
        let mut all: Vec<Vec<Vec<ColumnPart>>> = vec![Vec::new(); self.columns.sources.len()];
        let mut rows_before = 0;
        for source in sources {
            let rows = source.fragment.physical_rows.unwrap_or_default() as u64;
            let copied = self.columns.copied_fields().zip(&mut all);
            let copied = copied.filter_map(|(field, parts)| Some((field?, parts)));
            for ((field, parts), (place, columns)) in copied.zip(&source.columns) {
                let Some(data_file) = source.fragment.files.get(*place) else { return Ok(None) };
                let file = places.get(data_file.path.as_str()).copied();
                let Some((file, opened)) = file.and_then(|at| Some((at, files.get(at)?))) else {
                    return Ok(None);
                };
                let found = columns_of(opened, field, columns, rows, self.files.version);
                let Some(found) = found else { return Ok(None) };
                parts.resize(found.len(), Vec::new());
                for (column, parts) in found.into_iter().zip(parts) {
                    let first: Option<&ColumnPart> = parts.first();
                    if first.is_some_and(|first| first.column.encoding != column.encoding) {
                        return Ok(None);
                    }
                    parts.push(ColumnPart { file, column, rows_before });
                }
            }
            rows_before += rows;
        }
        let counts = all.iter().map(Vec::len).collect();
        Ok(Some(CopyInputs { files, columns: all.into_iter().flatten().collect(), counts }))
    }

    /// Opens `files`, several at once where each waits for a store.
    async fn open_all(&self, files: Vec<&DataFile>) -> Result<Vec<Arc<PageFile>>> {
        let (store, directory) = self.source.place().await?;
        let opened = files.into_iter().map(|file| {
            let opened = async { PageFile::open(&store, &directory, file).await.map(Arc::new) };
            opened.boxed()
        });
        let opened: Vec<_> = opened.collect();
        stream::iter(opened).buffered(self.files.files().files_at_once()).try_collect().await
    }

    /// Copies the pages of `inputs` and those of the constants into `file`. Gives its columns, what they have to
    /// read back as, and what reads them back. What is `inside` is copied by the store.
    async fn copy_into(
        &self,
        file: &mut FileBuilder<'_>,
        chunk: &Chunk,
        inputs: &CopyInputs,
        inside: Option<(&Inside, &BegunUpload)>,
    ) -> Result<(Vec<Arc<ColumnInfo>>, Vec<Expectation>, Option<ReadBack>)> {
        let path = file.path();
        let back = self.reads_back.then(|| self.files.files().local_file(&path).ok()).flatten();
        let back = back.flatten().map(|file| OpenFile::Disk(Arc::new(file)));
        // What an object store writes is not there yet.
        let sent = file.sent.as_ref().map(|sent| OpenFile::Sent(Arc::clone(&sent.file)));
        let back = back.or(sent).map(ReadBack::of);
        let columns = &inputs.columns;
        let mut told = CopyProgress { rows: chunk.rows(), bytes: page::bytes_of(columns), done: 0 };
        let inside = inside.map(|(inside, upload)| PartCopier {
            parts: &inside.parts,
            upload,
            throttle: &self.files.throttle,
            reads: self.reads_back,
            sent: file.sent.as_ref().map(|sent| Arc::clone(&sent.file)),
        });
        let to = (&mut file.writer, inside);
        let copied = page::copy(&inputs.files, columns, to, back, |bytes| {
            self.progress.event(Event::Advanced(told.more(bytes)));
            self.files.throttle.wait()
        });
        let mut copied = copied.await?;
        let back = copied.back.take();
        if let Some(sent) = &file.sent {
            sent.file.keep_until(copied.end);
        }
        let mut constants = (Vec::new(), Vec::new());
        if self.columns.sources.iter().any(|source| matches!(source, ColumnSource::Constant)) {
            let throttle = &self.files.throttle;
            let rows = chunk.rows();
            constants = self.constants.copy_pages(rows, &mut file.writer, throttle).await?;
        }
        let (columns, expectations) = self.in_order(inputs, &copied, constants)?;
        Ok((columns, expectations, back))
    }

    /// The columns, and what they have to read back as, in the table's order: those that were `copied`, and the
    /// `constants`.
    fn in_order(
        &self,
        inputs: &CopyInputs,
        copied: &CopiedColumns,
        (pages, digests): (Vec<Arc<ColumnInfo>>, Vec<Digest>),
    ) -> Result<(Vec<Arc<ColumnInfo>>, Vec<Expectation>)> {
        let (mut columns, mut expectations) = (Vec::new(), Vec::new());
        let (mut own, mut hashes) = (copied.columns.iter(), copied.hashes.iter().flatten());
        let (mut pages, mut digests) = (pages.into_iter(), digests.into_iter());
        let fields = self.files.schema.fields.iter().zip(&self.columns.sources);
        for ((field, source), count) in fields.zip(&inputs.counts) {
            if matches!(source, ColumnSource::CopiedPages(_)) {
                columns.extend(own.by_ref().take(*count).cloned());
                let hashes: Vec<_> = hashes.by_ref().take(*count).copied().collect();
                expectations.push(Expectation::Pages(page::digest_of(&hashes)));
            } else {
                let count = physical_column_count(self.files.version, field);
                columns.extend(pages.by_ref().take(count));
                let digest = digests.next();
                let digest = digest.ok_or_else(|| Error::failed("a constant has no digest"))?;
                expectations.push(Expectation::Values(digest));
            }
        }
        if copied.hashes.is_none() {
            // Nothing can be expected of what nobody read.
            expectations.clear();
        }
        Ok((columns, expectations))
    }
}

/// How much of a chunk was told of.
struct CopyProgress {
    rows: u64,
    bytes: u64,
    done: u64,
}

impl CopyProgress {
    /// What `bytes` more are: rows by their share.
    fn more(&mut self, bytes: u64) -> Amount {
        let rows = |done: u64| {
            let rows = u128::from(self.rows) * u128::from(done.min(self.bytes));
            u64::try_from(rows / u128::from(self.bytes.max(1))).unwrap_or_default()
        };
        let before = rows(self.done);
        let rows = rows(self.done + bytes) - before;
        self.done += bytes;
        Amount { rows, bytes, chunks: 0 }
    }
}

/// The file of `fragment` that holds all of `field`, and its columns there.
fn holder_of(
    field: &Field,
    fragment: &Fragment,
    version: ConcreteFileVersion,
) -> Option<(usize, Vec<usize>)> {
    let schema = Schema { fields: vec![field.clone()], ..Schema::default() };
    let mut held = fragment.files.iter().enumerate().filter_map(|(place, file)| {
        let found = page::projection(file, &schema)?;
        let columns = found.column_indices.into_iter().map(usize::try_from);
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>().ok()?;
        (file.file_version().ok() == Some(version)).then_some((place, columns))
    });
    held.next()
}

/// The columns of `file` at `places`, which hold all `rows` of `field`; `None`, when they cannot be
/// copied: the conditions are those of Lance's own compaction.
fn columns_of(
    file: &PageFile,
    field: &Field,
    places: &[usize],
    rows: u64,
    version: ConcreteFileVersion,
) -> Option<Vec<Arc<ColumnInfo>>> {
    let metadata = file.metadata();
    let written = metadata.file_schema.field_by_id(field.id)?;
    let plain = metadata.version == version
        && metadata.num_rows == rows
        && metadata.file_buffers.len() <= 1
        && is_encoded_alike(field, written);
    let columns = places.iter().map(|place| {
        let column = file.columns().get(*place)?;
        column.buffer_offsets_and_sizes.is_empty().then(|| Arc::clone(column))
    });
    if plain { columns.collect() } else { None }
}
