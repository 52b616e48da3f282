//! The last look at a version: what those see of it who use the table.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use futures::TryStreamExt;
use lance::Dataset;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use lancedb::Connection;
use lancedb::query::{ExecutableQuery, QueryBase, Select};

use crate::chunk::{Chunk, ChunkId};
use crate::error::{Doing, Error, Kind, Result};
use crate::table::source::{ScanLimits, Source, What};
use crate::table::{database::connect, facts::source_fragments};
use crate::{
    guard::guarded, limits::SHOWN_BYTES, location::Location, schema::show::field_text,
    storage::page::PageFile,
};

/// Rows of a sample.
const SAMPLE_ROWS: u32 = 3;

/// Columns that are read, each by itself, where LanceDB reads none.
const READ_ALONE_MAX: usize = 32;

/// What was seen.
pub(crate) struct Look {
    /// The first rows, without the columns whose values are large.
    pub sample: Vec<RecordBatch>,
    /// What LanceDB could not do with the table, if anything: then the rows were read without it.
    pub failed: Option<Error>,
}

/// Looks at `version` of the table as its users do, by `connection` if it was made before: count, fields, and the first rows.
///
/// # Errors
/// `Mismatch`, when the count or the fields are not the expected ones; `Failed`, when the rows cannot be read, by
/// LanceDB or without it.
pub(crate) async fn look(
    location: &Location,
    connection: Option<Connection>,
    version: &Arc<Dataset>,
    rows: u64,
    schema: &Schema,
) -> Result<Look> {
    let doing = format!("look at `{}` with LanceDB", location.table());
    let opening = guarded(&doing, open_at(location, connection, version.version_id()));
    let (shown, opened) = tokio::join!(shown(version), opening);
    // Where files cannot be opened here, those who read them say why.
    let shown = shown.unwrap_or_else(|_| version.schema().clone());
    let seen = match opened {
        Ok(opened) => guarded(&doing, query(&opened, rows, schema, &shown)).await,
        Err(error) => Err(error),
    };
    match seen {
        Ok(sample) => Ok(Look { sample, failed: None }),
        Err(error) if error.kind() == Kind::Failed => match first_rows(version, &shown).await {
            Ok(sample) => Ok(Look { sample, failed: Some(error) }),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The table at `version`, as LanceDB opens it by `connection`, or by one that is made now.
async fn open_at(
    location: &Location,
    connection: Option<Connection>,
    version: u64,
) -> Result<lancedb::Table> {
    let table = location.table();
    let connection = match connection {
        Some(connection) => connection,
        None => connect(location).await?,
    };
    let opened = connection.open_table(table).execute().await;
    let opened = opened.doing(|| format!("open `{table}` with LanceDB"))?;
    let at = opened.checkout(version).await;
    at.doing(|| format!("open version {version} of `{table}` with LanceDB"))?;
    Ok(opened)
}

/// Looks at the `opened` table with LanceDB, which should have so many `rows` and the fields of `schema`.
async fn query(
    opened: &lancedb::Table,
    rows: u64,
    schema: &Schema,
    shown: &Schema,
) -> Result<Vec<RecordBatch>> {
    let table = opened.name();
    let counted = opened.count_rows(None).await;
    let counted = counted.doing(|| format!("count the rows of `{table}` with LanceDB"))?;
    if counted as u64 != rows {
        let what = format!("LanceDB counts {counted} rows in `{table}`, not {rows}");
        return Err(Error::mismatch(what));
    }
    let seen = opened.schema().await;
    let seen = seen.doing(|| format!("read the schema of `{table}` with LanceDB"))?;
    let wanted = arrow::datatypes::Schema::from(schema);
    for field in wanted.fields() {
        let same = seen.field_with_name(field.name()).is_ok_and(|seen| {
            // LanceDB shows JSON as text, and blobs as places.
            (has_another_form_in_scans(field) || seen.data_type() == field.data_type())
                && seen.is_nullable() == field.is_nullable()
        });
        if !same {
            let field = field_text(field);
            let what = format!("LanceDB does not see the field `{field}` in `{table}`");
            return Err(Error::mismatch(what));
        }
    }
    let mut query = opened.query().limit(SAMPLE_ROWS as usize);
    if shown.fields.len() < schema.fields.len() {
        let names: Vec<&str> = shown.fields.iter().map(|field| field.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        query = query.select(Select::columns(&names));
    }
    let doing = || format!("query `{table}` with LanceDB");
    query.execute().await.doing(doing)?.try_collect().await.doing(doing)
}

/// The first rows of `dataset`, without LanceDB: of the columns that can be read, each by itself.
async fn first_rows(dataset: &Arc<Dataset>, shown: &Schema) -> Result<Vec<RecordBatch>> {
    let mut fragments = source_fragments(dataset).await?;
    fragments.truncate(1);
    for fragment in &mut fragments {
        fragment.rows = fragment.rows.min(u64::from(SAMPLE_ROWS));
    }
    let limits = ScanLimits { batch_rows: SAMPLE_ROWS, io_buffer_bytes: SHOWN_BYTES.0 };
    let (chunk, source) = (Chunk { id: ChunkId(0), fragments }, Source::of(Arc::clone(dataset)));
    let (mut columns, mut failed) = (Vec::new(), None);
    for field in shown.fields.iter().take(READ_ALONE_MAX) {
        let schema = Schema { fields: vec![field.clone()], ..Schema::default() };
        let what = What { schema: Arc::new(schema), aligned: false };
        let read = guarded("read the first rows", async {
            source.scan(&chunk, &what, limits).await?.try_next().await
        });
        match read.await {
            Ok(Some(batch)) => columns.push((field.name.clone(), Arc::clone(batch.column(0)))),
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
    }
    match failed.filter(|_| columns.is_empty()) {
        Some(error) => Err(error),
        None => Ok(RecordBatch::try_from_iter(columns).ok().into_iter().collect()),
    }
}

/// The columns of `dataset` that a sample shows: all but those that have a large value in a fragment whose rows may be
/// the first.
async fn shown(dataset: &Arc<Dataset>) -> Result<Schema> {
    let (store, directory) = Source::of(Arc::clone(dataset)).place().await?;
    let mut tops = HashMap::new();
    for top in &dataset.schema().fields {
        let alone = Schema { fields: vec![top.clone()], ..Schema::default() };
        tops.extend(alone.fields_pre_order().map(|field| (field.id, top.id)));
    }
    let mut large: BTreeSet<i32> = BTreeSet::new();
    let fragments = dataset.iter_fragments().take(SAMPLE_ROWS as usize);
    for file in fragments.flat_map(|fragment| &fragment.files) {
        let version = file.file_version();
        if version.is_ok_and(|version| version == ConcreteFileVersion::V1) || file.base_id.is_some()
        {
            continue;
        }
        let opened = PageFile::open(&store, &directory, file).await?;
        for (field, column) in file.fields.iter().zip(file.column_indices.iter()) {
            let column = usize::try_from(*column).ok().and_then(|at| opened.columns().get(at));
            let mut pages = column.iter().flat_map(|column| column.page_infos.iter());
            if pages.any(|page| {
                let bytes = page.buffer_offsets_and_sizes.iter().map(|(_, size)| *size).sum();
                is_large(bytes, page.num_rows.min(opened.rows()))
            }) {
                large.extend(tops.get(field));
            }
        }
    }
    let mut shown = dataset.schema().clone();
    shown.fields.retain(|field| !large.contains(&field.id));
    Ok(shown)
}

/// Whether a page of so many bytes and rows may hold a value that is not read to show its beginning.
fn is_large(bytes: u64, rows: u64) -> bool {
    let (page, value) = SHOWN_BYTES;
    bytes > page && bytes / rows.max(1) > value
}

/// Whether `field`, or what is in it, is JSON or a blob.
fn has_another_form_in_scans(field: &Field) -> bool {
    let extension = field.metadata().get("ARROW:extension:name").map(String::as_str);
    matches!(extension, Some("lance.json" | "lance.blob.v2"))
        || field.metadata().contains_key("lance-encoding:blob")
        || match field.data_type() {
            DataType::Struct(fields) => fields.iter().any(|field| has_another_form_in_scans(field)),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                has_another_form_in_scans(item)
            }
            _ => false,
        }
}
