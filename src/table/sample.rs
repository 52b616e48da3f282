//! Creates a sample table to try things on: `text` and `vector`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, RecordBatchIterator,
    RecordBatchReader, StringArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use lance::dataset::WriteParams;
use lancedb::table::WriteOptions;
use serde::Serialize;

use crate::error::{Doing, Error, Result};
use crate::{location::Location, table::database};

const WORDS: &[&str] = &[
    "lance", "vector", "table", "column", "schema", "migrate", "stream", "batch", "arrow", "rust",
    "staging", "swap", "commit", "version", "index", "query", "search", "embed", "token", "model",
];
const WORDS_A_ROW: usize = 12;
const BATCH_ROWS: u64 = 8192;

/// The size of a sample table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Rows.
    pub rows: u64,
    /// Dimensions of the vector.
    pub dim: u32,
    /// Fragments.
    pub fragments: u64,
}

/// A sample table that was created.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Sampled {
    /// The table.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Dimensions of the vector.
    pub dim: u32,
}

impl Default for Sample {
    fn default() -> Self {
        Self { rows: 100_000, dim: 128, fragments: 4 }
    }
}

impl Sample {
    /// Creates the table at `location`, and its directory. The same sample has the same rows.
    ///
    /// # Errors
    /// `Usage`, for a size of zero; `Failed`, when the table is there already.
    pub async fn make(&self, location: &Location) -> Result<Sampled> {
        let Self { rows, dim, fragments } = *self;
        if dim == 0 || fragments == 0 {
            return Err(Error::usage("a sample has at least one dimension and one fragment"));
        }
        if let Some(directory) = location.directory() {
            let made = std::fs::create_dir_all(&directory);
            made.doing(|| format!("create {}", directory.display()))?;
        }
        let table = location.table();
        let connection = database::connect(location).await?;
        if database::table_names(location).await?.iter().any(|name| name == table) {
            let message = format!("`{table}` is there already; a sample never replaces a table");
            return Err(Error::failed(message));
        }
        let params = WriteParams {
            max_rows_per_file: usize::try_from(rows.div_ceil(fragments).max(1))
                .unwrap_or(usize::MAX),
            ..WriteParams::default()
        };
        let reader: Box<dyn RecordBatchReader + Send> = Box::new(reader(rows, dim));
        connection
            .create_table(table, reader)
            .write_options(WriteOptions { lance_write_params: Some(params) })
            .execute()
            .await
            .doing(|| format!("create `{table}`"))?;
        Ok(Sampled { table: table.to_owned(), rows, dim })
    }
}

fn reader(rows: u64, dim: u32) -> impl RecordBatchReader + Send {
    let item = DataType::new_fixed_size_list(DataType::Float32, dim_i32(dim), true);
    let fields = vec![Field::new("text", DataType::Utf8, true), Field::new("vector", item, true)];
    let schema = Arc::new(Schema::new(fields));
    let batch_schema = Arc::clone(&schema);
    let starts = (0..rows).step_by(usize::try_from(BATCH_ROWS).unwrap_or(1));
    let batches =
        starts.map(move |start| batch(&batch_schema, start, BATCH_ROWS.min(rows - start), dim));
    RecordBatchIterator::new(batches, schema)
}

fn batch(
    schema: &SchemaRef,
    start: u64,
    rows: u64,
    dim: u32,
) -> std::result::Result<RecordBatch, ArrowError> {
    let mut random = Random(start.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let texts = (0..rows).map(|_| {
        let words: Vec<&str> = (0..WORDS_A_ROW).map(|_| random.word()).collect();
        words.join(" ")
    });
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let values = Float32Array::from_iter_values((0..rows * u64::from(dim)).map(|_| random.unit()));
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(item, dim_i32(dim), Arc::new(values), None)?;
    RecordBatch::try_new(Arc::clone(schema), vec![texts, Arc::new(vectors)])
}

fn dim_i32(dim: u32) -> i32 {
    i32::try_from(dim).unwrap_or(i32::MAX)
}

/// A small generator (xorshift): the rows need to differ, not to be random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn word(&mut self) -> &'static str {
        let place = usize::try_from(self.next() % WORDS.len() as u64).unwrap_or_default();
        WORDS.get(place).copied().unwrap_or_default()
    }

    /// A number in [-1, 1).
    fn unit(&mut self) -> f32 {
        let bits = u16::try_from(self.next() >> 48).unwrap_or_default();
        f32::from(bits) / 32_768.0 - 1.0
    }
}
