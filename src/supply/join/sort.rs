//! Sorting more than memory holds: `DataFusion`'s, with what does not fit in files of a folder of its own.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SessionConfig, TaskContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use lance_datafusion::exec::OneShotExec;
use tempfile::TempDir;

use crate::error::{Doing, Error, Result};
use crate::supply::join::rows::JOIN_ROWS;

/// Share of the memory that is held back for putting sorted runs together.
const MERGE_SHARE: u64 = 4;

/// The least memory that a sort works with.
const BYTES_MIN: u64 = 24 << 20;

/// Sorts streams of batches.
#[derive(Debug)]
pub(super) struct Sorter {
    context: Arc<TaskContext>,
    folder: TempDir,
}

impl Sorter {
    /// One that holds about `memory_bytes`, whatever is sorted, all its streams together.
    ///
    /// # Errors
    /// `Failed`, when the system's folder for temporary files cannot be written to.
    pub(super) fn of(memory_bytes: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("relance-join-").tempdir();
        let folder = folder.doing(|| {
            let place = std::env::temp_dir();
            format!("make a folder in {} (TMPDIR names another one)", place.display())
        })?;
        let memory = usize::try_from(memory_bytes.max(BYTES_MIN)).unwrap_or(usize::MAX);
        let files = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![folder.path().to_owned()]))
            .with_max_temp_directory_size(u64::MAX);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(memory, 1.0)
            .with_disk_manager_builder(files)
            .build_arc();
        let merge = memory / usize::try_from(MERGE_SHARE).unwrap_or(1);
        let config = SessionConfig::new()
            .with_batch_size(JOIN_ROWS)
            .with_target_partitions(1)
            .with_sort_spill_reservation_bytes(merge);
        let runtime = runtime.doing(|| "prepare to sort".to_owned())?;
        let context = TaskContext::default().with_session_config(config).with_runtime(runtime);
        Ok(Self { context: Arc::new(context), folder })
    }

    /// Where files can be put that go with it.
    pub(super) fn sort_folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// `batches`, sorted by these columns, the least first.
    ///
    /// # Errors
    /// `Failed`, when they have no such columns; the items carry what fails later.
    pub(super) fn sort_by(
        &self,
        batches: SendableRecordBatchStream,
        by: &[&str],
    ) -> Result<SendableRecordBatchStream> {
        let doing = || "sort what is joined".to_owned();
        let schema = batches.schema();
        let by = by.iter().map(|name| {
            let expr = col(name, &schema).doing(doing)?;
            Ok(PhysicalSortExpr { expr, options: SortOptions::default() })
        });
        let by = LexOrdering::new(by.collect::<Result<Vec<_>>>()?);
        let by = by.ok_or_else(|| Error::failed("nothing to sort by"))?;
        let sort = SortExec::new(by, Arc::new(OneShotExec::new(batches)));
        sort.execute(0, Arc::clone(&self.context)).doing(doing)
    }
}
