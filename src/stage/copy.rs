//! Stages a chunk by copying the pages of the columns that stay as they are. The others are written to a
//! file of their own first, and their pages are put beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lance_core::datatypes::{Field, Schema};
use lance_encoding::decoder::ColumnInfo;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::{create_lazy_writer, physical_column_count};
use lance_file::writer::FileWriter;
use lance_table::format::Fragment;
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::chunk::Chunk;
use crate::datafile;
use crate::error::{Context, Error, Result};
use crate::pages::{self, Copied, PageFile, Part, ReadBack};
use crate::plan::Plan;
use crate::plan::copies::{Copies, is_encoded_alike};
use crate::progress::{Amount, Event, Silent};
use crate::source::{ScanLimits, What};
use crate::stage::writer::{FileSpec, fragment_of, options};
use crate::stage::{Staged, Stager};
use crate::template::Templates;
use crate::transform::digest::Digest;

/// Bytes of a fragment, on average, below which several are put together row by row: their pages would
/// make a slow table.
const FRAGMENT_BYTES_MIN: u64 = 8 << 20;

/// Bytes in flight of the columns that are made, at most; their batches are small.
const MADE_BUDGET_BYTES: u64 = 4 << 20;

/// How pages are copied.
#[derive(Debug)]
pub(crate) struct Copying {
    copies: Arc<Copies>,
    /// What makes the other columns, if there are any.
    made: Option<Stager>,
}

/// A source fragment whose pages can be copied, as far as the manifest tells.
#[derive(Debug)]
pub(crate) struct Copyable {
    fragment: Fragment,
    /// For each column that is copied: the file that holds it, and its columns there.
    columns: Vec<(usize, Vec<usize>)>,
}

/// The files that are copied from, and what becomes of their columns.
#[derive(Default)]
struct Inputs {
    files: Vec<Arc<PageFile>>,
    /// For each column of the table, those of the file.
    columns: Vec<Vec<Vec<Part>>>,
}

impl Copying {
    /// Copies what `copies` says, and makes the rest as `stager` would, in batches of `made_rows`.
    pub(crate) fn of(copies: Copies, plan: &Plan, stager: &Stager, made_rows: u32) -> Self {
        let places = copies.made();
        let made = (!places.is_empty()).then(|| {
            let transform = copies.transform(plan);
            let fields = places.iter().filter_map(|place| stager.files.schema.fields.get(*place));
            let schema = Schema {
                fields: fields.cloned().collect(),
                metadata: stager.files.schema.metadata.clone(),
            };
            Stager {
                what: What { schema: Arc::new(transform.inputs()), aligned: false },
                transform: Arc::new(transform),
                scan: ScanLimits { batch_rows: made_rows, ..stager.scan },
                files: FileSpec { schema, rows_max: u64::MAX, ..stager.files.clone() },
                templates: Templates::default(),
                // What is copied may hold all of the other one until this is made.
                budget: Budget::of(MADE_BUDGET_BYTES),
                // Its rows are told of when they are copied.
                progress: Arc::new(Silent),
                copying: None,
                ..stager.clone()
            }
        });
        Self { copies: Arc::new(copies), made }
    }
}

impl Stager {
    /// The source fragments of `chunk`, if their pages can be copied as far as the manifest tells.
    pub(crate) fn copyable(&self, chunk: &Chunk) -> Option<Vec<Copyable>> {
        let copies = &self.copying.as_ref()?.copies;
        let count = chunk.fragments.len() as u64;
        let small = count > 1 && chunk.bytes() / count < FRAGMENT_BYTES_MIN;
        let whole = chunk.fragments.iter().all(|fragment| {
            fragment.rows == fragment.physical_rows && fragment.origin.deletions.is_none()
        });
        if small || !whole || copies.rows_max.is_some_and(|rows_max| chunk.rows() > rows_max) {
            return None;
        }
        let fragments = self.source.fragments_of(chunk).ok()?.into_iter();
        let wanted = chunk.fragments.iter().map(|fragment| usize::try_from(fragment.rows).ok());
        let copyable = fragments.zip(wanted).map(|(fragment, rows)| {
            let plain = fragment.overlays.is_empty() && fragment.deletion_file.is_none();
            if !plain || rows.is_none() || fragment.physical_rows != rows {
                return None;
            }
            let kept = copies.columns.iter().flatten();
            let columns = kept.map(|field| holder_of(field, &fragment, self.files.version));
            let columns = columns.collect::<Option<_>>()?;
            Some(Copyable { fragment, columns })
        });
        copyable.collect()
    }

    /// Stages `chunk` by copying pages of its `sources`; `None`, when their files do not allow it, and
    /// nothing is written.
    pub(super) async fn stage_copied(
        &self,
        chunk: &Chunk,
        sources: &[Copyable],
    ) -> Result<Option<Staged>> {
        let Some(copying) = self.copying.clone() else { return Ok(None) };
        let Some(inputs) = self.inputs(&copying.copies, sources).await? else {
            return Ok(None);
        };
        let mut making = JoinSet::new();
        if let Some(made) = copying.made.clone() {
            let chunk = chunk.clone();
            making.spawn(async move { made.stage_rows(&chunk, Vec::new()).await });
        }
        let mut made = Staged::default();
        let copied = self.copy_pages(chunk, &copying.copies, &inputs, &mut making, &mut made).await;
        if let Some(Ok(Ok(unused))) = making.join_next().await {
            made = unused;
        }
        for file in made.fragments.iter().flat_map(|fragment| &fragment.files) {
            let path = self.files.directory.clone().join(file.path.as_str());
            // What cannot be removed now is found by its name later.
            let _ = datafile::remove_whole(&self.files.store, &path).await;
        }
        copied.map(Some)
    }

    /// The files of `sources` and the columns in them, unless one of them cannot be copied from.
    async fn inputs(&self, copies: &Copies, sources: &[Copyable]) -> Result<Option<Inputs>> {
        let (store, directory) = self.source.place().await?;
        let mut inputs = Inputs::default();
        let mut opened: BTreeMap<String, usize> = BTreeMap::new();
        let mut parts: Vec<Vec<Vec<Part>>> = vec![Vec::new(); copies.columns.len()];
        let mut rows_before = 0;
        for source in sources {
            let rows = source.fragment.physical_rows.unwrap_or_default() as u64;
            let kept = copies.columns.iter().zip(&mut parts);
            let kept = kept.filter_map(|(field, parts)| Some((field.as_ref()?, parts)));
            for ((field, parts), (place, columns)) in kept.zip(&source.columns) {
                let Some(data_file) = source.fragment.files.get(*place) else { return Ok(None) };
                let file = if let Some(file) = opened.get(&data_file.path) {
                    *file
                } else {
                    let file = PageFile::open(&store, &directory, data_file).await?;
                    inputs.files.push(Arc::new(file));
                    opened.insert(data_file.path.clone(), inputs.files.len() - 1);
                    inputs.files.len() - 1
                };
                let Some(opened) = inputs.files.get(file) else { return Ok(None) };
                let Some(found) = columns_of(opened, field, columns, rows, self.files.version)
                else {
                    return Ok(None);
                };
                parts.resize(found.len(), Vec::new());
                for (column, parts) in found.into_iter().zip(parts) {
                    let first: Option<&Part> = parts.first();
                    if first.is_some_and(|first| first.column.encoding != column.encoding) {
                        return Ok(None);
                    }
                    parts.push(Part { file, column, rows_before });
                }
            }
            rows_before += rows;
        }
        inputs.columns = parts;
        Ok(Some(inputs))
    }

    /// Copies the pages of `inputs`, and those of the columns that `making` makes meanwhile, into one file.
    /// What was made is left in `made`.
    async fn copy_pages(
        &self,
        chunk: &Chunk,
        copies: &Copies,
        inputs: &Inputs,
        making: &mut JoinSet<Result<Staged>>,
        made: &mut Staged,
    ) -> Result<Staged> {
        let FileSpec { store, directory, version, throttle, .. } = &self.files;
        let _share = self.budget.take(pages::held_bytes(store)).await;
        let name = datafile::new_name(&self.files.id);
        let path = directory.clone().join(name.as_str());
        let object = datafile::create(store, &path, throttle).await?;
        let writer = create_lazy_writer(*version, object, options(&self.files));
        let mut writer = writer.doing(|| format!("write {name}"))?;
        let written = async {
            let back = self.reads_back.then(|| datafile::read_along(store, &path)).flatten();
            let back = back.map(ReadBack::of);
            let kept = self.copy_kept(chunk, inputs, &mut writer, back).await?;
            if let Some(done) = making.join_next().await {
                *made = done.map_err(|error| Error::failed("a task died").caused_by(error))??;
            }
            let others = self.copy_made(made, &mut writer).await?;
            // Lance's readers want what follows the pages aligned.
            writer.write_external_buffer(&[]).await.doing(|| format!("write {name}"))?;
            let woven = self.weave(copies, inputs, &kept, others, &made.digests)?;
            let schema = self.files.schema.clone();
            let begun =
                writer.initialize_with_external_columns(schema, &woven.columns, chunk.rows());
            begun.doing(|| format!("write {name}"))?;
            let summary = writer.finish().await.doing(|| format!("finish {name}"))?;
            throttle.wait().await;
            Ok((summary, woven.digests, kept.seen))
        };
        match written.await {
            Ok((summary, digests, seen)) => {
                let fragments = vec![fragment_of(&self.files, name, &summary)];
                let rows = chunk.rows();
                // What is made here is made of constants.
                let (left_out, nulled) = (0, made.nulled.clone());
                Ok(Staged { fragments, digests, rows, left_out, nulled, copied: true, seen })
            }
            Err(error) => {
                writer.abort().await;
                drop(writer);
                let _ = datafile::remove_whole(store, &path).await;
                Err(error)
            }
        }
    }

    async fn copy_kept(
        &self,
        chunk: &Chunk,
        inputs: &Inputs,
        writer: &mut FileWriter,
        back: Option<ReadBack>,
    ) -> Result<Copied> {
        let columns: Vec<_> = inputs.columns.iter().flatten().cloned().collect();
        let mut told = Told { rows: chunk.rows(), bytes: pages::bytes_of(&columns), done: 0 };
        let copied = pages::copy(&inputs.files, &columns, writer, back, |bytes| {
            self.progress.event(Event::Advanced(told.more(bytes)));
            self.files.throttle.wait()
        });
        copied.await
    }

    /// Copies the pages of what was `made`, and gives its columns as they lie now.
    async fn copy_made(
        &self,
        made: &Staged,
        writer: &mut FileWriter,
    ) -> Result<Vec<Arc<ColumnInfo>>> {
        let FileSpec { store, directory, throttle, .. } = &self.files;
        let Some(file) = made.fragments.first().and_then(|made| made.files.first()) else {
            return Ok(Vec::new());
        };
        let file = Arc::new(PageFile::open(store, directory, file).await?);
        let columns = file.columns().iter().cloned();
        let columns = columns.map(|column| vec![Part { file: 0, column, rows_before: 0 }]);
        let columns: Vec<_> = columns.collect();
        let copied = pages::copy(&[file], &columns, writer, None, |_| throttle.wait()).await?;
        Ok(copied.columns)
    }

    /// Columns and digests in the table's order: those that were `kept`, and the others.
    fn weave(
        &self,
        copies: &Copies,
        inputs: &Inputs,
        kept: &Copied,
        others: Vec<Arc<ColumnInfo>>,
        made: &[Digest],
    ) -> Result<Woven> {
        let mut woven = Woven::default();
        let mut kept = kept.columns.iter().zip(&kept.hashes);
        let (mut others, mut made) = (others.into_iter(), made.iter());
        let fields = self.files.schema.fields.iter().zip(&copies.columns).zip(&inputs.columns);
        for ((field, source), parts) in fields {
            if source.is_some() {
                let own = kept.by_ref().take(parts.len());
                let (columns, hashes): (Vec<_>, Vec<_>) =
                    own.map(|(c, h)| (Arc::clone(c), *h)).unzip();
                woven.columns.extend(columns);
                woven.digests.push(pages::digest_of(&hashes));
            } else {
                let count = physical_column_count(self.files.version, field);
                woven.columns.extend(others.by_ref().take(count));
                let digest = made.next().copied();
                woven
                    .digests
                    .push(digest.ok_or_else(|| Error::failed("a made column has no digest"))?);
            }
        }
        Ok(woven)
    }
}

/// What a file is finished with.
#[derive(Default)]
struct Woven {
    columns: Vec<Arc<ColumnInfo>>,
    digests: Vec<Digest>,
}

/// How much of a chunk was told of.
struct Told {
    rows: u64,
    bytes: u64,
    done: u64,
}

impl Told {
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
    let schema = Schema { fields: vec![field.clone()], metadata: std::collections::HashMap::new() };
    let mut held = fragment.files.iter().enumerate().filter_map(|(place, file)| {
        let found = pages::projection(file, &schema)?;
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
