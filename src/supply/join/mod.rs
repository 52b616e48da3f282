//! Joins by a key. Where memory holds the other data, rows are looked up as they are staged. Otherwise both sides are sorted
//! by a hash of the key, on a disk where they are larger than memory, and walked together; what is found is sorted back
//! into the order of the table's rows, and kept fragment by fragment.

mod counts;
mod input;
mod other;
mod rows;
mod small;
mod sort;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::Mutex;

use crate::error::{Doing, Error, Result};
use crate::plan::JoinTrial;
use crate::plan::amounts::counted;
use crate::schema::elsewhere::{Elsewhere, Join, OnDuplicate, OnMissing, Source};
use crate::supply::frame::{Frame, Key};
use crate::supply::join::counts::Counts;
pub(crate) use crate::supply::join::input::OtherData;
use crate::supply::join::other::Other;
pub(crate) use crate::supply::join::rows::Row;
use crate::supply::join::rows::{
    given_of, joining, keys_in, matched_schema, other_rows, other_schema, own_rows, own_schema,
    places_of, told,
};
use crate::supply::join::small::{Gathered, Small};
use crate::supply::join::sort::Sorter;
use crate::transform::elsewhere::{Given, Provided};

/// Set in the place of a row that is left out: it needs no key.
pub(crate) const NOT_NEEDED: u64 = 1 << 63;

/// Rows that an error names.
const EXAMPLES: usize = 3;

/// A join, and the other data once it is sorted.
#[derive(Debug)]
pub(super) struct Joined {
    join: Join,
    /// The types of the keys, as the table has them.
    keys: Vec<DataType>,
    outputs: Vec<Field>,
    /// `None`, when it is not there any more.
    data: Option<OtherData>,
    /// Bytes that it may take in memory.
    memory_bytes: u64,
    there: Mutex<Option<Arc<There>>>,
}

/// The other data, once it was read.
#[derive(Debug)]
struct There {
    counts: Counts,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Small(Small),
    Sorted { other: Arc<Other>, sorter: Sorter },
}

impl Joined {
    pub(super) fn of(
        what: &Elsewhere,
        join: &Join,
        data: Option<OtherData>,
        memory_bytes: u64,
    ) -> Self {
        let keys = what.inputs.iter().map(|(field, _)| {
            let own = field.data_type();
            let values = if let DataType::Dictionary(_, values) = own { values } else { own };
            values.clone()
        });
        Self {
            join: join.clone(),
            keys: keys.collect(),
            outputs: what.outputs.clone(),
            data,
            memory_bytes,
            there: Mutex::default(),
        }
    }

    /// The other data; it is read once.
    ///
    /// # Errors
    /// `Failed`, when it cannot be read; `Refused`, when its values are not of the columns' types, or keys are twice there.
    async fn there(&self) -> Result<Arc<There>> {
        let mut there = self.there.lock().await;
        if let Some(there) = there.as_ref() {
            return Ok(Arc::clone(there));
        }
        let mut rows = self.rows_there()?;
        let mut gathered = Gathered::default();
        let mut is_large = false;
        while let Some(batch) = rows.try_next().await? {
            is_large = gathered.take_in(&batch)? > self.memory_bytes;
            if is_large {
                break;
            }
        }
        let last = self.join.on_duplicate == OnDuplicate::Last;
        let read = if is_large {
            let schema = other_schema(&self.outputs);
            let first = stream::iter(gathered.into_batches(Arc::clone(&schema)));
            let all = streamed(schema, first.chain(rows));
            let sorter = Sorter::of(self.memory_bytes)?;
            let all = sorter.sort_by(all, &["key", "place"])?;
            let other = Other::write_sorted(all, sorter.sort_folder(), last).await?;
            There {
                counts: other.counts.clone(),
                data: Data::Sorted { other: Arc::new(other), sorter },
            }
        } else {
            let (small, counts) = Small::of(gathered, last);
            There { counts, data: Data::Small(small) }
        };
        self.expect_single(&read.counts)?;
        Ok(Arc::clone(there.insert(Arc::new(read))))
    }

    /// The rows of the other data, as they are sorted.
    fn rows_there(&self) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (keys, takes) = (self.join.on.iter().map(|(_, there)| there), &self.join.take);
        let names: Vec<String> =
            keys.cloned().chain(takes.iter().map(|take| take.from.clone())).collect();
        let gone = || {
            let message =
                format!("--join '{}': the other data is not there any more", self.join.from);
            Error::usage(message)
                .with_advice("it is needed for rows that are not joined yet: give it again")
        };
        let batches = self.data.as_ref().ok_or_else(gone)?.read_columns(&names)?;
        let (types, outputs) = (self.keys.clone(), self.outputs.clone());
        let (schema, mut next) = (other_schema(&self.outputs), 0_u64);
        let rows = batches.map(move |batch| {
            let batch = batch?;
            let first = next;
            next += batch.num_rows() as u64;
            other_rows(&schema, &batch, first, &types, &outputs)
        });
        Ok(rows.boxed())
    }

    /// Whether memory holds the other data, so that nothing needs to be joined before it is staged.
    ///
    /// # Errors
    /// As [`there`](Self::there).
    pub(super) async fn is_small(&self) -> Result<bool> {
        Ok(matches!(self.there().await?.data, Data::Small(_)))
    }

    /// What is found for `keys`, in their order; `None`, where memory does not hold the other data.
    ///
    /// # Errors
    /// `Refused`, when a key is missing that may not be; as [`there`](Self::there).
    pub(super) async fn provide(&self, keys: &[Key]) -> Result<Option<Provided>> {
        let there = self.there().await?;
        let Data::Small(small) = &there.data else { return Ok(None) };
        let provided = small.provide_keys(keys, &self.outputs)?;
        let missing = provided.that_are(Given::Missing).true_count();
        if self.expects_all() && missing > 0 {
            return Err(self.missing_keys(missing as u64, "rows that others wrote meanwhile"));
        }
        Ok(Some(provided))
    }

    /// Looks which rows find their key, and refuses what is not to be.
    ///
    /// # Errors
    /// `Refused`, when keys are missing or twice there; as [`there`](Self::there).
    pub(super) async fn try_rows(
        &self,
        rows: impl Stream<Item = Result<Vec<Row>>> + Send + 'static,
    ) -> Result<JoinTrial> {
        let there = self.there().await?;
        let mut trial = JoinTrial {
            from: self.join.from.clone(),
            rows: there.counts.rows,
            keys: there.counts.keys,
            duplicates: there.counts.duplicates,
            ..JoinTrial::default()
        };
        let mut count = |place: u64, found: bool| match (place & NOT_NEEDED == 0, found) {
            (true, true) => trial.matched += 1,
            (true, false) => {
                trial.missing += 1;
                if trial.examples.len() < EXAMPLES {
                    trial.examples.push(place);
                }
            }
            (false, _) => {}
        };
        if let Data::Small(small) = &there.data {
            let mut rows = std::pin::pin!(rows);
            while let Some(rows) = rows.try_next().await? {
                for row in rows {
                    count(row.place, !row.is_null && small.has_key(row.key));
                }
            }
            return Ok(trial);
        }
        let mut matched = self.matched(rows, false).await?;
        while let Some(batch) = matched.try_next().await.map_err(told)? {
            let given = given_of(&batch)?.values().iter().map(|one| *one == Given::Value as u8);
            let places = places_of(&batch)?.values().iter();
            places.zip(given).for_each(|(place, found)| count(*place, found));
        }
        Ok(trial)
    }

    /// Refuses keys that are twice there, unless one of them counts.
    fn expect_single(&self, counts: &Counts) -> Result<()> {
        if self.join.on_duplicate != OnDuplicate::Error || counts.duplicates == 0 {
            return Ok(());
        }
        let count = counted(counts.duplicates, "row");
        let place = |row: &u64| self.data.as_ref().map(|data| data.row_place(*row));
        let rows: Vec<String> = counts.twice.iter().filter_map(place).collect();
        let (from, rows) = (&self.join.from, rows.join(", "));
        Err(Error::refused(format!("--join '{from}': {count} there repeat a key, such as {rows}"))
            .with_advice("--on-duplicate first or last takes one of them"))
    }

    pub(super) fn expects_all(&self) -> bool {
        self.join.on_missing == OnMissing::Error
    }

    pub(super) fn missing_keys(&self, count: u64, examples: &str) -> Error {
        let (from, have) = (&self.join.from, if count == 1 { "has" } else { "have" });
        let count = counted(count, "row");
        Error::refused(format!("--join '{from}': {count} {have} no key there, such as {examples}"))
            .with_advice("--on-missing null makes their values null, keep leaves those of columns that exist")
    }

    /// What is found for `rows`, in the order of their places: frames of at most some thousand rows, each with the
    /// places of its rows.
    ///
    /// # Errors
    /// As [`there`](Self::there); the items carry what fails later.
    pub(super) async fn filled(
        &self,
        rows: impl Stream<Item = Result<Vec<Row>>> + Send + 'static,
    ) -> Result<impl Stream<Item = Result<(Vec<u64>, Frame)>>> {
        let matched = self.matched(rows, true).await?;
        let there = self.there().await?;
        let Data::Sorted { sorter, .. } = &there.data else { return Err(not_sorted()) };
        let sorted = sorter.sort_by(matched, &["place"])?;
        Ok(sorted.map(|batch| {
            let batch = batch.map_err(told)?;
            let (places, given) = (places_of(&batch)?.values().to_vec(), given_of(&batch)?.clone());
            let keys = keys_in(&batch)?;
            let values = batch.columns().get(3..).unwrap_or_default().to_vec();
            Ok((places, Frame { keys, provided: Provided { values, given } }))
        }))
    }

    /// Walks `rows`, sorted by their keys, beside the other data.
    async fn matched(
        &self,
        rows: impl Stream<Item = Result<Vec<Row>>> + Send + 'static,
        with_values: bool,
    ) -> Result<SendableRecordBatchStream> {
        let there = self.there().await?;
        let Data::Sorted { other, sorter } = &there.data else {
            return Err(not_sorted());
        };
        let own = own_schema();
        let schema = Arc::clone(&own);
        let batches = rows.map(move |rows| own_rows(&schema, &rows?));
        let sorted = sorter.sort_by(streamed(own, batches), &["key"])?;
        let outputs = if with_values { self.outputs.clone() } else { Vec::new() };
        let schema = matched_schema(&outputs);
        let walked = Arc::clone(&schema);
        let mut walk = Arc::clone(other).begin_walk();
        let matched = sorted.map(move |batch| {
            let batch = batch.map_err(told)?;
            let wanted = keys_in(&batch)?;
            // A key of which a part is null is like no other.
            let nulls = batch.column(2).as_boolean();
            let found = walk.look_up(&wanted, |row| nulls.value(row), &outputs)?;
            let columns = vec![Arc::clone(batch.column(1)), Arc::clone(batch.column(0))];
            let given: ArrayRef = Arc::new(found.given);
            let columns = columns.into_iter().chain([given]).chain(found.values).collect();
            RecordBatch::try_new(Arc::clone(&walked), columns).doing(joining)
        });
        Ok(streamed(schema, matched))
    }
}

fn not_sorted() -> Error {
    Error::failed("what memory holds is not sorted; this is a bug in relance")
}

/// `batches` as `DataFusion` takes them.
fn streamed(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    let batches = batches.map_err(|error| DataFusionError::External(Box::new(error)));
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

/// The joins among `what`.
pub(super) fn join_of(what: &Elsewhere) -> Option<&Join> {
    match &what.from {
        Source::Join(join) => Some(join),
        Source::Producer(_) => None,
    }
}
