//! Stages chunks: the columns of each come from copied pages, constants or encoded rows, and become data files that
//! no table names yet.

mod constant;
mod copied;
mod encoded;
mod file;
mod inside;
mod staged;

use std::sync::Arc;

use crate::chunk::Chunk;
use crate::error::Result;
use crate::limits::{CONSTANT_BATCH_BYTES, MemoryPlan};
use crate::plan::{Plan, columns::WrittenColumns};
use crate::settings::{BatchSize, OnBadValue, Settings};
pub(crate) use crate::stage::staged::{Expectation, Staged};
pub(crate) use crate::stage::{constant::Constants, encoded::hidden_of, file::FileSpec};
use crate::table::source::{ScanLimits, Source, What};
use crate::transform::{Transform, pool::Pool};
use crate::{budget::Budget, progress::SharedProgress, supply::Supply};

/// What stages chunks of one plan; shared by all tasks.
#[derive(Debug, Clone)]
pub(crate) struct Stager {
    /// Where the rows come from.
    pub source: Source,
    /// What is read of it.
    pub what: What,
    /// Where each written column comes from.
    pub columns: Arc<WrittenColumns>,
    /// Where the files go, and how they are written.
    pub files: FileSpec,
    pub constants: Constants,
    transform: Arc<Transform>,
    on_bad_value: OnBadValue,
    pub pool: Pool,
    pub scan: ScanLimits,
    /// Batches that wait between the transform and the writer.
    queue: usize,
    /// Bytes in flight.
    budget: Budget,
    /// What gives values from elsewhere.
    supply: Option<Arc<Supply>>,
    /// Whether pages are read back while others are copied: they will be verified in full.
    reads_back: bool,
    progress: SharedProgress,
}

/// What a stager is made of, beside its plan.
pub(crate) struct StagerParts<'a> {
    pub settings: &'a Settings,
    pub columns: WrittenColumns,
    pub source: Source,
    pub files: FileSpec,
    pub pool: Pool,
    pub budget: Budget,
    pub supply: Option<Arc<Supply>>,
    pub progress: SharedProgress,
}

impl Stager {
    pub(crate) fn of(plan: &Plan, parts: StagerParts<'_>) -> Self {
        let StagerParts { settings, columns, source, files, pool, budget, supply, progress } =
            parts;
        let memory = MemoryPlan::of(settings);
        let batch_rows = settings.batch_size.rows(plan.width());
        let batch_rows = supply.as_ref().map_or(batch_rows, |supply| supply.batch_rows(batch_rows));
        let width = columns.constant_width(plan);
        let asked = settings.batch_size;
        let constant_batch =
            if asked == BatchSize::Auto { BatchSize::Bytes(CONSTANT_BATCH_BYTES) } else { asked };
        let constant_rows = constant_batch.rows(width);
        let (schema, sent, part_copies) = (columns.constant_schema(plan), None, None);
        let own = FileSpec { schema, sent, part_copies, ..files.clone() };
        let (transform, constant) = (plan.transform(), columns.constant_transform(plan));
        Self {
            source,
            what: What { schema: Arc::new(transform.inputs()), aligned: plan.is_aligned() },
            columns: Arc::new(columns),
            constants: Constants::of(constant, own, width, constant_rows, pool.clone()),
            files,
            transform: Arc::new(transform),
            on_bad_value: plan.request.on_bad_value,
            pool,
            scan: ScanLimits { batch_rows, io_buffer_bytes: memory.read_ahead },
            queue: settings.queue,
            budget,
            supply,
            reads_back: settings.verify.is_full(),
            progress,
        }
    }

    /// Stages `chunk`.
    ///
    /// # Errors
    /// `Failed`, when reading, transforming or writing fails; `Refused`, when a value cannot be taken over that has
    /// to be. What was written for the chunk is removed then, as far as that goes.
    ///
    /// # Crash
    /// Files that no journal names are left in `data/`; their names tell whose they are.
    pub(crate) async fn stage(&self, chunk: &Chunk) -> Result<Staged> {
        if let Some(sources) = self.copyable(chunk)
            && let Some(staged) = self.stage_copied(chunk, &sources).await?
        {
            return Ok(staged);
        }
        self.stage_encoded(chunk).await
    }

    /// Bytes that staging `chunk` holds at once, beside its batches.
    pub(crate) fn held_for(&self, chunk: &Chunk) -> u64 {
        if !self.reads() {
            return 0;
        }
        if self.what.aligned {
            return chunk.fragments.iter().map(|fragment| fragment.bytes).max().unwrap_or_default();
        }
        match self.copyable(chunk) {
            Some(_) if self.holds_nothing() => 0,
            Some(_) => self.files.files().held_bytes(),
            None => chunk.bytes(),
        }
    }
}
