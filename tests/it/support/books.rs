//! Writers that keep books: what they wrote, row by row, beside the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchIterator};
use arrow::datatypes::Int64Type;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::{MergeInsertBuilder, UpdateBuilder, WhenMatched, WhenNotMatched};

use crate::support::documents;

/// The rows that a writer knows of: texts by id.
pub type Books = BTreeMap<i64, Option<String>>;

/// The books of a table that holds `rows`.
pub fn books_of(rows: &RecordBatch) -> Books {
    let ids = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    let texts = rows.column_by_name("text").unwrap().as_string::<i32>();
    let books: Books = ids
        .values()
        .iter()
        .copied()
        .zip(texts.iter().map(|text| text.map(str::to_owned)))
        .collect();
    assert_eq!(books.len(), rows.num_rows(), "an id stands twice in the table");
    books
}

/// Sets the text of the rows that `which` picks.
pub async fn update(live: Dataset, which: &str, text: &str) -> lance::Result<Dataset> {
    let job = UpdateBuilder::new(Arc::new(live)).update_where(which)?;
    let updated = job.set("text", &format!("'{text}'"))?.build()?.execute().await?;
    Ok(updated.new_dataset.as_ref().clone())
}

/// Upserts `batch` by id, on this very version: tried again on a later one, rows could lack its columns.
pub async fn merge(live: Dataset, batch: RecordBatch) -> lance::Result<Dataset> {
    let mut builder = MergeInsertBuilder::try_new(Arc::new(live), vec!["id".to_owned()])?;
    builder.when_matched(WhenMatched::UpdateAll).when_not_matched(WhenNotMatched::InsertAll);
    builder.conflict_retries(0);
    let schema = batch.schema();
    let reader = Box::new(RecordBatchIterator::new([Ok(batch)], schema));
    let (merged, _) = builder.try_build()?.execute_reader(reader).await?;
    Ok(merged.as_ref().clone())
}

/// A writer of its own range of ids, and its books.
#[derive(Debug)]
pub struct Writer {
    uri: String,
    first: i64,
    next: i64,
    random: u64,
    pub books: Books,
    /// Writes that landed, by kind.
    pub landed: BTreeMap<&'static str, u64>,
    /// Writes that the table refused because of another commit, and that were tried again.
    pub refused: u64,
}

impl Writer {
    /// The writer `number` of the table at `uri`.
    pub fn new(uri: &str, number: i64) -> Self {
        let first = (number + 1) * 1_000_000;
        let random = 0x9e37_79b9_7f4a_7c15 ^ first.unsigned_abs();
        let (books, landed) = (Books::new(), BTreeMap::new());
        Self { uri: uri.to_owned(), first, next: first, random, books, landed, refused: 0 }
    }

    /// Writes once, in a way that its own dice choose, and books it.
    pub async fn write(&mut self) {
        match self.roll(8) {
            0..=2 => self.append().await,
            3 | 4 => self.delete().await,
            5 => self.update().await,
            6 => self.merge().await,
            _ => self.compact().await,
        }
    }

    async fn append(&mut self) {
        let count = 1 + i64::try_from(self.roll(30)).unwrap();
        let batch = documents(self.next, count);
        self.until_landed("append", |live| {
            let batch = batch.clone();
            async move { append(live, batch).await }
        })
        .await;
        self.books.extend(books_of(&batch));
        self.next += count;
    }

    async fn delete(&mut self) {
        let (low, high) = self.range();
        let which = format!("id >= {low} and id < {high}");
        self.until_landed("delete", |mut live| {
            let which = which.clone();
            async move { live.delete(&which).await.map(drop) }
        })
        .await;
        self.books.retain(|id, _| !(low..high).contains(id));
    }

    async fn update(&mut self) {
        let (low, high) = self.range();
        let (which, text) = (format!("id >= {low} and id < {high}"), format!("at {}", self.random));
        self.until_landed("update", |live| {
            let (which, text) = (which.clone(), text.clone());
            async move { update(live, &which, &text).await.map(drop) }
        })
        .await;
        for (_, booked) in self.books.range_mut(low..high) {
            *booked = Some(text.clone());
        }
    }

    async fn merge(&mut self) {
        // Rows that are there and rows that are not.
        let first = (self.next - 10).max(self.first);
        let batch = documents(first, 20);
        self.until_landed("merge", |live| {
            let batch = batch.clone();
            async move {
                let with_all = complete(&live, &batch)?;
                merge(live, with_all).await.map(drop)
            }
        })
        .await;
        self.books.extend(books_of(&batch));
        self.next = first + 20;
    }

    async fn compact(&mut self) {
        self.until_landed("compact", |mut live| async move {
            let options =
                CompactionOptions { target_rows_per_fragment: 500, ..CompactionOptions::default() };
            compact_files(&mut live, options, None).await.map(drop)
        })
        .await;
    }

    /// Does `act` on the newest version until it lands. Only a conflict with another commit is tried
    /// again: then nothing was written.
    async fn until_landed<F>(&mut self, kind: &'static str, act: impl Fn(Dataset) -> F)
    where
        F: Future<Output = lance::Result<()>>,
    {
        loop {
            let live = Dataset::open(&self.uri).await.unwrap();
            match act(live).await {
                Ok(()) => break,
                Err(error) if is_conflict(&error) => self.refused += 1,
                Err(error) => panic!("{kind}: {error}"),
            }
        }
        *self.landed.entry(kind).or_default() += 1;
    }

    /// A few of its ids.
    fn range(&mut self) -> (i64, i64) {
        let span = (self.next - self.first).unsigned_abs() + 1;
        let low = self.first + i64::try_from(self.roll(span)).unwrap();
        (low, low + 1 + i64::try_from(self.roll(9)).unwrap())
    }

    /// A number below `sides`: xorshift, so that a run can be had again.
    fn roll(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % sides
    }
}

async fn append(live: Dataset, batch: RecordBatch) -> lance::Result<()> {
    let batch = complete(&live, &batch)?;
    let schema = batch.schema();
    let mut live = live;
    live.append(RecordBatchIterator::new([Ok(batch)], schema), None).await
}

/// `batch` with the columns that the table has got meanwhile, as their writer would fill them.
fn complete(live: &Dataset, batch: &RecordBatch) -> lance::Result<RecordBatch> {
    let schema = Arc::new(arrow::datatypes::Schema::from(live.schema()));
    let mut columns = batch.columns().to_vec();
    for field in schema.fields().iter().skip(columns.len()) {
        assert_eq!(field.name(), "n", "nobody adds another column");
        columns.push(Arc::new(arrow::array::Int64Array::from(vec![7; batch.num_rows()])));
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn is_conflict(error: &lance::Error) -> bool {
    matches!(
        error,
        lance::Error::CommitConflict { .. }
            | lance::Error::RetryableCommitConflict { .. }
            | lance::Error::IncompatibleTransaction { .. }
            | lance::Error::TooMuchWriteContention { .. }
    )
}
