//! Calls of a producer: a few at once, each tried again when it fails, and what it gives is looked at.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt8Array, new_null_array,
};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field as ArrowField, Float16Type, Float32Type, Float64Type};
use arrow_select::concat::concat;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use crate::error::{Doing, Error, Result};
use crate::plan::amounts::counted;
use crate::progress::{SharedProgress, note};
use crate::schema::show::type_text;
use crate::settings::{OnBadValue, Settings};
use crate::supply::producer::{Called, Failure};
use crate::transform::elsewhere::{Given, Provided};
use crate::transform::retype;

/// The pause before a call is tried again; it doubles with each try.
const PAUSE: Duration = Duration::from_millis(500);
/// A batch of so many rows of which none gets a value is not taken for bad rows.
const BAD_ROWS_MAX: usize = 8;

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Calls of the producer of one column.
#[derive(Debug)]
pub(super) struct Calls {
    pub called: Called,
    /// The column, as it is declared: whether it may be null is that of the table's column.
    field: ArrowField,
    batch_rows: usize,
    turns: Semaphore,
    /// Why no more calls are made.
    failed: OnceLock<Error>,
    parallel: usize,
    timeout: Option<Duration>,
    retries: u32,
    finite: bool,
    on_bad_value: OnBadValue,
    progress: SharedProgress,
}

impl Calls {
    pub(super) fn of(
        called: Called,
        field: ArrowField,
        batch_rows: u32,
        (settings, on_bad_value): (&Settings, OnBadValue),
        progress: &SharedProgress,
    ) -> Self {
        let own = if matches!(called, Called::Program(_)) { settings.workers } else { 1 };
        let parallel = settings.by_parallel.unwrap_or(own).max(1);
        Self {
            called,
            field,
            batch_rows: batch_rows as usize,
            turns: Semaphore::new(parallel),
            failed: OnceLock::new(),
            parallel,
            timeout: settings.by_timeout,
            retries: settings.by_retries,
            finite: settings.finite,
            on_bad_value,
            progress: Arc::clone(progress),
        }
    }

    /// Rows that are worth being asked for at once.
    pub(super) fn rows_at_once(&self) -> usize {
        self.batch_rows.saturating_mul(self.parallel.min(8))
    }

    /// The values for the `pieces` of `inputs`, in order. Each is kept by `keep` as soon as it is there, whatever comes
    /// before it. After one that failed no other begins: with the run that ends, what it gave would be lost.
    ///
    /// # Errors
    /// `Failed`, when the producer does, however often it is tried, and bad values are not to become null.
    pub(super) async fn each<F>(
        &self,
        inputs: &RecordBatch,
        pieces: Vec<Range<usize>>,
        keep: impl Fn(Range<usize>, Provided) -> F,
    ) -> Result<Vec<Provided>>
    where
        F: Future<Output = Result<()>>,
    {
        let keep = &keep;
        let calls = pieces.into_iter().map(|piece| {
            let rows = inputs.slice(piece.start, piece.len());
            async move {
                // Until it is kept: so no more calls are lost with a run than are made at once.
                let turn = self.turns.acquire().await;
                let _turn = turn.doing(|| "call a producer".to_owned())?;
                self.failed.get().map_or(Ok(()), |failed| Err(failed.again()))?;
                let provided = self.one(rows).await.inspect_err(|error| {
                    self.failed.get_or_init(|| error.again());
                })?;
                keep(piece, provided.clone()).await?;
                Ok(provided)
            }
        });
        stream::iter(calls).buffered(self.parallel).try_collect().await
    }

    /// Cuts `rows` into pieces that a producer takes at once.
    pub(super) fn pieces(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let starts = rows.clone().step_by(self.batch_rows.max(1));
        starts.map(|start| start..rows.end.min(start + self.batch_rows)).collect()
    }

    async fn one(&self, inputs: RecordBatch) -> Result<Provided> {
        let mut tried = 0;
        loop {
            let failure = match self.attempt(&inputs).await {
                Ok(provided) => return Ok(provided),
                Err(failure) => failure,
            };
            if tried >= self.retries || failure.0.is_of_all {
                let (rows, why) = (inputs.num_rows(), failure.0.why.clone());
                let provided = self.give_up(inputs, failure).await?;
                return self.expect_some(provided, rows, &why);
            }
            tried += 1;
            let pause = PAUSE.saturating_mul(1 << (tried - 1).min(16)).min(PAUSE_MAX);
            let (name, why, of) = (self.field.name(), &failure.0.why, self.retries);
            note(
                &self.progress,
                format!(
                    "the producer of `{name}`: {why}; trying again in {:.1} s ({tried} of {of})",
                    pause.as_secs_f64()
                ),
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Refuses what has no value in any of its `rows`, where they are many: it is the producer that is bad then.
    fn expect_some(&self, provided: Provided, rows: usize, why: &str) -> Result<Provided> {
        let bad = provided.that_are(Given::Bad).true_count();
        if bad < rows || rows < BAD_ROWS_MAX {
            return Ok(provided);
        }
        let name = self.field.name();
        let message = format!(
            "the producer of column `{name}` fails for each of {rows} rows by itself: {why}"
        );
        Err(Error::failed(message)
            .with_advice("when it is back, go on; for rows that it never takes, have it give null"))
    }

    /// One call. What it gives although some rows have no value comes with the failure.
    async fn attempt(
        &self,
        inputs: &RecordBatch,
    ) -> std::result::Result<Provided, (Failure, Option<ArrayRef>)> {
        let failed = |failure| (failure, None);
        let call = self.called.call(inputs.clone());
        let values = match self.timeout {
            None => call.await,
            Some(time) => tokio::time::timeout(time, call).await.unwrap_or_else(|_| {
                Err(Failure::of(format!("it gave no answer in {} s", time.as_secs_f64())))
            }),
        };
        let values = values.map_err(failed)?;
        let values = self.expected(&values, inputs.num_rows()).map_err(failed)?;
        let bad = self.bad_rows(&values);
        if bad.1.is_empty() {
            let given = UInt8Array::from(vec![Given::Value as u8; values.len()]);
            return Ok(Provided { values: vec![values], given });
        }
        let (what, rows) = bad;
        let count = counted(rows.len() as u64, "row");
        let failure = Failure { rows, ..Failure::of(format!("it gave {what} for {count}")) };
        Err((failure, Some(values)))
    }

    /// `values`, as those of the column.
    fn expected(&self, values: &ArrayRef, rows: usize) -> std::result::Result<ArrayRef, Failure> {
        if values.len() != rows {
            let count = counted(values.len() as u64, "value");
            let rows = counted(rows as u64, "row");
            return Err(Failure::of(format!("it gave {count} for {rows}")));
        }
        let (is, wanted) = (values.data_type(), self.field.data_type());
        if !is_alike(is, wanted) {
            let (is, wanted) = (type_text(is), type_text(wanted));
            return Err(Failure::of(format!("it gave {is}, not {wanted}")));
        }
        retype(values, wanted).map_err(|error| Failure::of(error.line()))
    }

    /// What is wrong with `values`, and in which rows.
    fn bad_rows(&self, values: &ArrayRef) -> (&'static str, Vec<usize>) {
        if !self.field.is_nullable() && values.null_count() > 0 {
            let nulls = (0..values.len()).filter(|row| values.is_null(*row));
            return ("no value", nulls.collect());
        }
        if self.finite {
            let bad = (0..values.len()).filter(|row| !is_finite(&values.slice(*row, 1)));
            return ("a value that is not finite", bad.collect());
        }
        ("", Vec::new())
    }

    /// What becomes of the rows of a call that failed for good.
    fn give_up(
        &self,
        inputs: RecordBatch,
        (failure, values): (Failure, Option<ArrayRef>),
    ) -> BoxFuture<'_, Result<Provided>> {
        async move {
            let stops = failure.is_of_all || !self.field.is_nullable();
            if self.on_bad_value == OnBadValue::Fail || stops {
                return Err(self.error(&failure, inputs.num_rows()));
            }
            if let Some(values) = values {
                return self.without(&values, &failure.rows);
            }
            let rows = inputs.num_rows();
            if rows <= 1 {
                let (name, why) = (self.field.name(), &failure.why);
                note(
                    &self.progress,
                    format!("the producer of `{name}` gives a row no value: {why}"),
                );
                return self.without(&new_null_array(self.field.data_type(), rows), &[0]);
            }
            // One row may be what it fails at, and the others not.
            let half = rows / 2;
            let mut halves = Vec::new();
            for part in [inputs.slice(0, half), inputs.slice(half, rows - half)] {
                halves.push(match self.attempt(&part).await {
                    Ok(provided) => provided,
                    Err(failed) => self.give_up(part, failed).await?,
                });
            }
            joined(&halves)
        }
        .boxed()
    }

    /// `values`, but for those of `rows`.
    fn without(&self, values: &ArrayRef, rows: &[usize]) -> Result<Provided> {
        let bad: Vec<bool> = (0..values.len()).map(|row| rows.contains(&row)).collect();
        let given = bad.iter().map(|bad| if *bad { Given::Bad } else { Given::Value } as u8);
        let given = UInt8Array::from(given.collect::<Vec<_>>());
        let values = nullif(values, &BooleanArray::from(bad));
        let values = values.doing(|| format!("leave out values of `{}`", self.field.name()))?;
        Ok(Provided { values: vec![values], given })
    }

    fn error(&self, failure: &Failure, rows: usize) -> Error {
        let (name, rows) = (self.field.name(), counted(rows as u64, "row"));
        let message = format!("the producer of column `{name}` failed for {rows}: {}", failure.why);
        let lines = failure.lines.iter().map(|line| format!("| {line}"));
        Error::failed(message).with_lines(lines)
    }
}

/// One after the other.
pub(super) fn joined(parts: &[Provided]) -> Result<Provided> {
    let doing = || "put together what a producer gave".to_owned();
    let columns = parts.first().map_or(0, |part| part.values.len());
    let values = (0..columns).map(|column| {
        let parts = parts.iter().filter_map(|part| part.values.get(column).map(AsRef::as_ref));
        concat(&parts.collect::<Vec<_>>()).doing(doing)
    });
    let values = values.collect::<Result<_>>()?;
    let given = parts.iter().flat_map(|part| part.given.values().iter().copied());
    Ok(Provided { values, given: UInt8Array::from(given.collect::<Vec<_>>()) })
}

/// Whether both types differ in nothing but the names, the nullability and the metadata of what is inside.
#[allow(clippy::wildcard_enum_match_arm, reason = "the types that hold others")]
fn is_alike(one: &DataType, other: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    let fields =
        |one: &ArrowField, other: &ArrowField| is_alike(one.data_type(), other.data_type());
    match (one, other) {
        (List(one), List(other))
        | (LargeList(one), LargeList(other))
        | (Map(one, _), Map(other, _)) => fields(one, other),
        (FixedSizeList(one, size), FixedSizeList(other, wanted)) => {
            size == wanted && fields(one, other)
        }
        (Struct(one), Struct(other)) => {
            let mut pairs = one.iter().zip(other);
            one.len() == other.len()
                && pairs.all(|(one, other)| one.name() == other.name() && fields(one, other))
        }
        (one, other) => one == other,
    }
}

/// Whether no number in `values` is infinite or none; nulls are no numbers.
#[allow(clippy::wildcard_enum_match_arm, reason = "the types that hold such numbers")]
fn is_finite(values: &ArrayRef) -> bool {
    match values.data_type() {
        DataType::Float16 => {
            values.as_primitive::<Float16Type>().iter().flatten().all(half::f16::is_finite)
        }
        DataType::Float32 => {
            values.as_primitive::<Float32Type>().iter().flatten().all(f32::is_finite)
        }
        DataType::Float64 => {
            values.as_primitive::<Float64Type>().iter().flatten().all(f64::is_finite)
        }
        DataType::FixedSizeList(_, size) => {
            let (list, size) = (values.as_fixed_size_list(), usize::try_from(*size).unwrap_or(0));
            let row = |row| list.is_null(row) || is_finite(&list.values().slice(row * size, size));
            (0..list.len()).all(row)
        }
        DataType::List(_) => {
            let list = values.as_list::<i32>();
            (0..list.len()).all(|row| list.is_null(row) || is_finite(&list.value(row)))
        }
        DataType::LargeList(_) => {
            let list = values.as_list::<i64>();
            (0..list.len()).all(|row| list.is_null(row) || is_finite(&list.value(row)))
        }
        DataType::Struct(_) => values.as_struct().columns().iter().all(is_finite),
        _ => true,
    }
}
