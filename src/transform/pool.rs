//! The one place where rayon meets async: jobs run on the pool's threads, and async code awaits their results.

use std::sync::Arc;

use arrow::array::RecordBatch;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::error::{Doing, Error, Result};
use crate::schema::blob;
use crate::transform::digest::{ColumnDigest, Digest};

/// The transform pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    threads: Arc<ThreadPool>,
}

impl Pool {
    /// A pool of `workers` threads.
    ///
    /// # Errors
    /// `Failed`, when the machine gives no threads.
    pub(crate) fn of(workers: usize) -> Result<Self> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(workers)
            .thread_name(|index| format!("transform-{index}"))
            // A panic drops the job's sender, which its caller gets as an error.
            .panic_handler(|_| {})
            .build()
            .doing(|| format!("start {workers} transform threads"))?;
        Ok(Self { threads: Arc::new(threads) })
    }

    /// Runs `job` on one of the threads.
    ///
    /// # Errors
    /// The job's own, or `Failed` when it panicked.
    ///
    /// # Cancellation
    /// The job runs to its end; its result is dropped.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (reply, result) = oneshot::channel();
        self.threads.spawn(move || {
            let _ = reply.send(job());
        });
        let panicked = "a transform thread panicked; this is a bug in relance";
        result.await.unwrap_or_else(|_| Err(Error::failed(panicked)))
    }

    /// Runs `job` on one of the threads, or `here`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn run_or_here<R: Send + 'static>(
        &self,
        here: bool,
        job: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if here { job() } else { self.run(job).await }
    }

    /// Takes `batch` into `digests`, the columns in parallel.
    ///
    /// # Errors
    /// `Failed`, when the batch is of another schema.
    pub(crate) async fn digest(&self, mut digests: Digests, batch: RecordBatch) -> Result<Digests> {
        let here = batch.num_rows().saturating_mul(batch.num_columns()) <= HERE_VALUES_MAX;
        let update = move || digests.update(&batch, here).map(|()| digests);
        self.run_or_here(here, update).await
    }
}

/// Up to so many values, going to another thread costs more than taking the digests here.
const HERE_VALUES_MAX: usize = 8_192;

/// The digests of all columns of a run of batches.
#[derive(Debug)]
pub(crate) struct Digests {
    columns: Vec<ColumnDigest>,
    rows: u64,
}

impl Digests {
    /// The digests of no rows yet.
    ///
    /// # Errors
    /// `Refused`, for a type that Lance does not store.
    pub(crate) fn of(schema: &arrow::datatypes::Schema) -> Result<Self> {
        let schema = blob::compared(schema);
        let columns = schema.fields().iter().map(|field| ColumnDigest::new(field));
        Ok(Self { columns: columns.collect::<Result<_>>()?, rows: 0 })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in the next rows, the columns `in_turn` on this thread, or else in parallel on the current pool.
    ///
    /// # Errors
    /// `Failed`, when the batch is of another schema.
    pub(crate) fn update(&mut self, batch: &RecordBatch, in_turn: bool) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let batch = blob::comparable(batch.clone())?;
        let update = |(digest, column): (&mut ColumnDigest, _)| digest.update(column);
        if in_turn {
            return self.columns.iter_mut().zip(batch.columns()).try_for_each(update);
        }
        self.columns.par_iter_mut().zip(batch.columns()).try_for_each(update)
    }

    /// A digest for each column.
    pub(crate) fn finish(self) -> Vec<Digest> {
        self.columns.into_iter().map(ColumnDigest::finish).collect()
    }
}
