//! Who does tasks: this process, so far.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::run::task::{Done, Task};

/// Does tasks, somewhere. A task can be done again: what an attempt wrote that is in no record is found by its
/// name, and removed.
#[async_trait]
pub(crate) trait Executor: Debug + Send + Sync {
    /// Bytes that `task` holds at once, at most: pages that are read, decoded, encoded and read back.
    fn held_bytes(&self, task: &Task) -> u64;

    /// Does `task`.
    ///
    /// # Errors
    /// `Mismatch`, when what was staged is not what was expected; `Failed`, when it could not be done.
    ///
    /// # Crash
    /// Files that no record names are left; their names tell whose they are.
    async fn execute(&self, task: Task) -> Result<Done>;
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use arrow::array::{Int64Array, RecordBatch, RecordBatchIterator};
    use lance::{Dataset, dataset::WriteParams};
    use serde::{Serialize, de::DeserializeOwned};

    use super::*;
    use crate::run::cutover::{Swap, swap};
    use crate::run::{
        context::Context, copier::copy, lease::store_time, planning::plan_head, session::Session,
        worker::Worker,
    };
    use crate::{location::Location, phase::Phase, schema::change::Change};

    fn sent<T: Serialize + DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    /// A table of five fragments, one of them with a deleted row.
    async fn table(path: &str) -> Context {
        let ids = Int64Array::from_iter_values(0..50);
        let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as _)]).unwrap();
        let rows = RecordBatchIterator::new([Ok(batch.clone())], batch.schema());
        let params = WriteParams { max_rows_per_file: 10, ..WriteParams::default() };
        let uri = format!("{path}/t.lance");
        let mut written = Dataset::write(rows, &uri, Some(params)).await.unwrap();
        written.delete("id = 17").await.unwrap();
        let mut context = Context::of(Location::new(path, "t").unwrap());
        for change in ["a:string=x", "b:float32"] {
            context.request.changes.push(Change::parse_add(change).unwrap());
        }
        context
    }

    /// What is done for each chunk elsewhere, and sent there and back as JSON, is swapped in as any other.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tasks_go_through_json_and_back() {
        for rows_per_file in [None, Some(20)] {
            let directory = tempfile::tempdir().unwrap();
            let mut ctx = table(directory.path().to_str().unwrap()).await;
            ctx.request.rows_per_file = rows_per_file;
            let planned = plan_head(&ctx, &ctx.opener()).await.unwrap();
            let mut session = Session::begin(&ctx, planned, None, Instant::now()).await.unwrap();
            let worker = Worker::of(&ctx, &session).await.unwrap();
            for chunk in session.plan.chunks.clone() {
                let now = store_time(&ctx, &session.journal);
                let task = Task::of(&chunk, &session.journal, now).unwrap();
                assert_eq!(sent(&task), task);
                let done = worker.execute(sent(&task)).await.unwrap();
                assert_eq!(sent(&done), done);
                let Done { record, fragments } = sent(&done);
                let again = Task::Verify(Done { record, fragments });
                let Done { record, fragments } = worker.execute(sent(&again)).await.unwrap();
                assert_eq!(record, done.record);
                session.journal.put(record, fragments);
                assert_eq!(Task::of(&chunk, &session.journal, now), None);
            }
            let whole = copy(&ctx, &mut session, Phase::Stage).await.unwrap();
            let Swap::Landed(swapped) = swap(&ctx, whole).await.unwrap() else { panic!("lost") };
            let filled = swapped.count_rows(Some("a = 'x' AND b IS NULL".to_owned())).await;
            assert_eq!(filled.unwrap(), 49);
        }
    }
}
