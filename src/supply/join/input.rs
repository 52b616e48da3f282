//! The other data of a join: files of several formats, on a disk or in a store, or a Lance table.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::json::reader::infer_json_schema;
use futures::{StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance_core::datatypes::Schema as LanceSchema;
use lance_io::object_store::ObjectStore;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Doing, Error, Result};
use crate::limits::LOOK_ROWS;
use crate::location::Location;
use crate::supply::join::rows::JOIN_ROWS;
use crate::table::facts::source_fragments;
use crate::table::open::Opener;
use crate::table::source::{Batches, ScanLimits, Source, What};

/// Rows of a file without types that are looked at to find them.
const INFERRED_ROWS: usize = 10_000;

/// Batches of a file that are read ahead.
const READ_AHEAD: usize = 2;

/// The other data of a join.
#[derive(Debug, Clone)]
pub(crate) struct OtherData {
    files: Vec<Input>,
    schema: SchemaRef,
    /// The number of each file's first row, once it is known.
    firsts: Arc<Mutex<Vec<(u64, String)>>>,
}

#[derive(Debug, Clone)]
enum Input {
    Local(PathBuf, Format),
    Object(Arc<ObjectStore>, Path, Format),
    Table(Arc<Dataset>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Parquet,
    Ipc,
    Csv(u8),
    Json,
}

impl Format {
    fn of(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Self::Ipc),
            "csv" => Some(Self::Csv(b',')),
            "tsv" => Some(Self::Csv(b'\t')),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Input {
    fn input_name(&self) -> String {
        match self {
            Self::Local(path, _) => path.display().to_string(),
            Self::Object(_, path, _) => path.to_string(),
            Self::Table(dataset) => dataset.uri().to_owned(),
        }
    }
}

impl OtherData {
    /// The data at `from`, which `opener` opens as it opens the table: files, the URI of a Lance table, or a table of the
    /// same database. Where a format has no types, the columns in `typed` have these.
    ///
    /// # Errors
    /// `Usage`, when there is none, or its format is not known; `Failed`, when it cannot be read.
    pub(crate) async fn find_data(
        opener: &Opener,
        location: &Location,
        from: &str,
        typed: &HashMap<String, DataType>,
    ) -> Result<Self> {
        let files = found(opener, location, from).await?;
        let Some(first) = files.first() else {
            return Err(Error::usage(format!("--join '{from}': there is no such file or table")));
        };
        let schema = schema_of(first.clone(), typed.clone()).await;
        let schema = Arc::new(schema.map_err(|error| error.about(&format!("--join '{from}'")))?);
        Ok(Self { files, schema, firsts: Arc::default() })
    }

    /// The column `name`.
    ///
    /// # Errors
    /// `Usage`, when there is none.
    pub(crate) fn column(&self, name: &str) -> Result<&Field> {
        self.schema.field_with_name(name).map_err(|_| no_column(name, &self.schema))
    }

    /// The rows of the columns `names`, in the order of the files.
    ///
    /// # Errors
    /// `Usage`, when it has no such column; the items carry what fails later.
    pub(super) fn read_columns(&self, names: &[String]) -> Result<Batches> {
        let fields = names.iter().map(|name| {
            let found = self.schema.field_with_name(name).cloned();
            found.map_err(|_| no_column(name, &self.schema))
        });
        let wanted = Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?));
        let (whole, firsts) = (Arc::clone(&self.schema), Arc::clone(&self.firsts));
        firsts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let next = Arc::new(Mutex::new(0_u64));
        let files = stream::iter(self.files.clone()).then(move |file| {
            let (wanted, whole) = (Arc::clone(&wanted), Arc::clone(&whole));
            let (firsts, next) = (Arc::clone(&firsts), Arc::clone(&next));
            async move {
                let (name, counted) = (file.input_name(), Arc::clone(&next));
                let first = *next.lock().unwrap_or_else(PoisonError::into_inner);
                firsts.lock().unwrap_or_else(PoisonError::into_inner).push((first, name.clone()));
                let rows = read_input(file, whole, Arc::clone(&wanted)).await?;
                Ok(rows.map(move |batch| {
                    let batch = in_order(&batch?, &wanted).map_err(|error| error.about(&name))?;
                    let mut rows = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    *rows += batch.num_rows() as u64;
                    Ok(batch)
                }))
            }
        });
        Ok(files.try_flatten().boxed())
    }

    /// Where the row number `row` is, in words.
    pub(super) fn row_place(&self, row: u64) -> String {
        let firsts = self.firsts.lock().unwrap_or_else(PoisonError::into_inner);
        let file = firsts.iter().rev().find(|(first, _)| *first <= row);
        file.map_or_else(
            || format!("row {row}"),
            |(first, name)| format!("row {} of {name}", row - first),
        )
    }
}

fn no_column(name: &str, schema: &Schema) -> Error {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_by_cached_key(|other| strsim::damerau_levenshtein(other, name));
    names.truncate(3);
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    Error::usage(format!("the other data has no column `{name}`"))
        .with_advice(&format!("did you mean {}?", names.join(", ")))
}

/// The columns of `batch` in the order of `wanted`, and of its types.
fn in_order(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch> {
    let columns = wanted.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name());
        let column = column.ok_or_else(|| no_column(field.name(), &batch.schema()))?;
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
        let cast = arrow::compute::cast_with_options(column, field.data_type(), &options);
        cast.doing(|| format!("read column `{}` as the first file has it", field.name()))
    });
    let fields = wanted.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.collect::<Result<_>>()?)
        .doing(|| "read the other data".to_owned())
}

/// What `from` names.
async fn found(opener: &Opener, location: &Location, from: &str) -> Result<Vec<Input>> {
    let trimmed = from.trim_end_matches('/');
    if let Some((database, table)) = trimmed.strip_suffix(".lance").map(split_place) {
        let place = Location::new(database, table)?;
        let place = place.with_storage_options(location.storage_options().clone());
        return table_at(opener, &place).await;
    }
    let local = from.strip_prefix("file://").unwrap_or(from);
    if !local.contains("://") {
        let files = local_files(local)?;
        if !files.is_empty() {
            return files
                .into_iter()
                .map(|path| {
                    format_of(&path.to_string_lossy(), from)
                        .map(|format| Input::Local(path, format))
                })
                .collect();
        }
        // A table of the database.
        return match location.sibling(from) {
            Ok(place) if Format::of(from).is_none() && !from.contains(['*', '?', '/']) => {
                table_at(opener, &place).await
            }
            _ => Ok(Vec::new()),
        };
    }
    objects(opener, from).await
}

/// The database and the name of the table at `place`.
fn split_place(place: &str) -> (&str, &str) {
    place.rsplit_once('/').unwrap_or((".", place))
}

async fn table_at(opener: &Opener, place: &Location) -> Result<Vec<Input>> {
    let found = opener.beside(place).found().await?;
    Ok(found.into_iter().map(Input::Table).collect())
}

fn local_files(pattern: &str) -> Result<Vec<PathBuf>> {
    if FilePath::new(pattern).is_file() {
        return Ok(vec![PathBuf::from(pattern)]);
    }
    let found = glob::glob(pattern);
    let found = found.map_err(|error| Error::usage(format!("--join '{pattern}': {error}")))?;
    let mut files = Vec::new();
    for path in found {
        let path = path.doing(|| format!("look for {pattern}"))?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn format_of(name: &str, from: &str) -> Result<Format> {
    Format::of(name).ok_or_else(|| {
        Error::usage(format!("--join '{from}': the format of {name} is not known"))
            .with_advice("there is .parquet, .arrow, .csv, .tsv, .jsonl and .lance")
    })
}

/// The objects that the URI `from` names.
async fn objects(opener: &Opener, from: &str) -> Result<Vec<Input>> {
    let wild = from.find(['*', '?', '[']).unwrap_or(from.len());
    let (before, _) = from.split_at(wild);
    let folder = before.rsplit_once('/').map_or(before, |(folder, _)| folder);
    let (store, root) = opener.store_at(folder).await?;
    let name = |path: &Path| {
        path.as_ref()
            .strip_prefix(root.as_ref())
            .unwrap_or(path.as_ref())
            .trim_start_matches('/')
            .to_owned()
    };
    let pattern = from.get(folder.len()..).unwrap_or_default().trim_start_matches('/');
    let glob = glob::Pattern::new(pattern);
    let glob = glob.map_err(|error| Error::usage(format!("--join '{from}': {error}")))?;
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let listed = store.list(Some(root.clone())).try_collect::<Vec<ObjectMeta>>().await;
    let mut files = Vec::new();
    for meta in listed.doing(|| format!("list {folder}"))? {
        if glob.matches_with(&name(&meta.location), options) {
            files.push(meta.location);
        }
    }
    files.sort();
    let input = |path: Path| {
        let format = format_of(path.as_ref(), from)?;
        Ok(Input::Object(Arc::clone(&store), path, format))
    };
    files.into_iter().map(input).collect()
}

/// The schema of `input`.
async fn schema_of(input: Input, typed: HashMap<String, DataType>) -> Result<Schema> {
    match input {
        Input::Table(dataset) => Ok(Schema::from(dataset.schema())),
        Input::Local(path, format) => {
            blocking(move || {
                file_schema(
                    File::open(&path).doing(|| format!("open {}", path.display()))?,
                    format,
                    &typed,
                )
            })
            .await
        }
        Input::Object(store, path, format) => {
            let copy = fetched(&store, &path).await?;
            blocking(move || {
                file_schema(copy.reopen().doing(|| "read a copy".to_owned())?, format, &typed)
            })
            .await
        }
    }
}

fn file_schema(file: File, format: Format, typed: &HashMap<String, DataType>) -> Result<Schema> {
    let doing = || "read its columns".to_owned();
    let mut schema = match format {
        Format::Parquet => crate::schema::parquet::read_parquet_schema(&file)?,
        Format::Ipc => crate::schema::ipc::read_ipc_schema(file)?,
        Format::Csv(delimiter) => {
            let format = CsvFormat::default().with_header(true).with_delimiter(delimiter);
            format.infer_schema(BufReader::new(file), Some(INFERRED_ROWS)).doing(doing)?.0
        }
        Format::Json => {
            infer_json_schema(BufReader::new(file), Some(INFERRED_ROWS)).doing(doing)?.0
        }
    };
    if matches!(format, Format::Csv(_) | Format::Json) {
        let fields = schema.fields().iter().map(|field| match typed.get(field.name()) {
            Some(wanted) => Field::new(field.name(), wanted.clone(), true),
            // A column of which nothing is seen is text.
            None if field.data_type().is_null() => Field::new(field.name(), DataType::Utf8, true),
            None => field.as_ref().clone(),
        });
        schema = Schema::new(fields.collect::<Vec<_>>());
    }
    Ok(schema)
}

/// A copy of an object, in a file of the system's.
async fn fetched(store: &ObjectStore, path: &Path) -> Result<NamedTempFile> {
    let doing = || format!("read {path}");
    let mut copy = NamedTempFile::new().doing(|| "make a file for a copy".to_owned())?;
    let mut bytes = store.inner.get(path).await.doing(doing)?.into_stream();
    while let Some(bytes) = bytes.try_next().await.doing(doing)? {
        copy.write_all(&bytes).doing(|| format!("copy {path}"))?;
    }
    Ok(copy)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(
        |error| Err(Error::failed("the other data cannot be read").caused_by(error)),
    )
}

/// The rows of `input`, which has the columns `whole`, as far as `wanted` has them.
async fn read_input(input: Input, whole: SchemaRef, wanted: SchemaRef) -> Result<Batches> {
    let name = input.input_name();
    let (format, open): (Format, Box<dyn FnOnce() -> Result<File> + Send>) = match input {
        Input::Table(dataset) => return scanned(dataset, &wanted).await,
        Input::Local(path, format) => {
            let name = name.clone();
            (format, Box::new(move || File::open(&path).doing(|| format!("open {name}"))))
        }
        Input::Object(store, path, format) => {
            let copy = fetched(&store, &path).await?;
            (format, Box::new(move || copy.reopen().doing(|| "read a copy".to_owned())))
        }
    };
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reading = move || {
        let read = open().and_then(|file| {
            for batch in
                file_rows(file, format, &whole, &wanted).doing(|| format!("read {name}"))?
            {
                // Nobody listens any more.
                if sender.blocking_send(batch.doing(|| format!("read {name}"))).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            let _ = sender.blocking_send(Err(error));
        }
    };
    let task = tokio::task::spawn_blocking(reading);
    let state = (receiver, Some(task));
    let rows = stream::unfold(state, |(mut receiver, mut task)| async move {
        if let Some(batch) = receiver.recv().await {
            return Some((batch, (receiver, task)));
        }
        // What others wrote is not to be taken for whole where reading it panicked.
        let panicked = task.take()?.await.err()?;
        let error = Error::failed("the other data cannot be read").caused_by(panicked);
        Some((Err(error), (receiver, None)))
    });
    Ok(rows.boxed())
}

/// The rows of a table.
async fn scanned(dataset: Arc<Dataset>, wanted: &SchemaRef) -> Result<Batches> {
    let names: Vec<&str> = wanted.fields().iter().map(|field| field.name().as_str()).collect();
    let fields = dataset.schema().fields.iter().filter(|one| names.contains(&one.name.as_str()));
    let schema = LanceSchema { fields: fields.cloned().collect(), metadata: HashMap::new() };
    let fragments = source_fragments(&dataset).await?;
    let chunk = Chunk { id: ChunkId(0), fragments };
    let what = What { schema: Arc::new(schema), aligned: false };
    let limits = ScanLimits { batch_rows: LOOK_ROWS, io_buffer_bytes: 16 << 20 };
    Source::of(dataset).scan(&chunk, &what, limits).await
}

type Rows = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

fn file_rows(
    mut file: File,
    format: Format,
    whole: &SchemaRef,
    wanted: &SchemaRef,
) -> std::result::Result<Rows, ArrowError> {
    let is_wanted = |field: &Field| wanted.field_with_name(field.name()).is_ok();
    let places = |schema: &Schema| -> Vec<usize> {
        let fields = schema.fields().iter().enumerate();
        fields.filter(|(_, field)| is_wanted(field)).map(|(place, _)| place).collect()
    };
    Ok(match format {
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
            let places = places(builder.schema());
            let mask = ProjectionMask::roots(builder.parquet_schema(), places);
            Box::new(builder.with_projection(mask).with_batch_size(JOIN_ROWS).build()?)
        }
        Format::Ipc => {
            let mut start = [0; 6];
            let is_file = file.read_exact(&mut start).is_ok() && &start == b"ARROW1";
            file.rewind()?;
            if is_file {
                let reader = FileReader::try_new(BufReader::new(file), None)?;
                let places = places(&reader.schema());
                Box::new(reader.map(move |batch| batch?.project(&places)))
            } else {
                let reader = StreamReader::try_new(BufReader::new(file), None)?;
                let places = places(&reader.schema());
                Box::new(reader.map(move |batch| batch?.project(&places)))
            }
        }
        Format::Csv(delimiter) => {
            let reader = arrow::csv::ReaderBuilder::new(Arc::clone(whole)).with_header(true);
            let reader = reader.with_delimiter(delimiter).with_batch_size(JOIN_ROWS);
            Box::new(reader.with_projection(places(whole)).build(BufReader::new(file))?)
        }
        Format::Json => {
            let reader = arrow::json::ReaderBuilder::new(Arc::clone(wanted));
            Box::new(reader.with_batch_size(JOIN_ROWS).build(BufReader::new(file))?)
        }
    })
}
