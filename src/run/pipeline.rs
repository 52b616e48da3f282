//! x
use crate::budget::{Budget, Throttle};
use crate::plan::Plan;
use crate::plan::copies::Copies;
use crate::progress::SharedProgress;
use crate::readback::{Known, Reader};
use crate::settings::{BatchSize, Settings, Verify};
use crate::source::{ScanLimits, Source, What};
use crate::stage::copy::Copying;
use crate::stage::{FileSpec, Stager};
use crate::template::Templates;
use crate::transform::pool::Pool;
use lance_io::object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;

const IO_BUFFER_BYTES: u64 = 64 << 20;
/// What a stager and its reader are made of.
pub(in crate::run) struct Pipeline<'a> {
    pub(in crate::run) plan: &'a Plan,
    /// Which columns' pages are copied, if any are.
    pub(in crate::run) copies: Option<Copies>,
    pub(in crate::run) settings: &'a Settings,
    pub(in crate::run) source: Source,
    /// The store that is written to.
    pub(in crate::run) store: Arc<ObjectStore>,
    /// Where the files go.
    pub(in crate::run) directory: Path,
    /// Whose they are.
    pub(in crate::run) id: String,
    /// Rows after which a file is closed.
    pub(in crate::run) rows_max: u64,
    pub(in crate::run) pool: Pool,
    pub(in crate::run) budget: Budget,
    pub(in crate::run) throttle: Arc<Throttle>,
    pub(in crate::run) progress: SharedProgress,
}

/// Bytes of a batch of columns that are made: with more, the memory of those that were freed by another
/// thread adds up before it is used again, as measured; with less, it takes longer.
const MADE_BYTES: u64 = 64 << 10;

/// The size of a batch of columns that are made, where nothing else is.
fn made_batch(batch_size: BatchSize) -> BatchSize {
    if batch_size == BatchSize::Auto { BatchSize::Bytes(MADE_BYTES) } else { batch_size }
}

impl Pipeline<'_> {
    /// What stages chunks of the plan, and what reads back what was staged.
    pub(in crate::run) fn parts(self) -> (Stager, Reader) {
        let Self { plan, settings, store, directory, pool, .. } = self;
        let batch_rows = settings.batch_size.rows(plan.width());
        let io_buffer_bytes = IO_BUFFER_BYTES;
        let transform = plan.transform();
        let what = What { schema: Arc::new(transform.inputs()), aligned: plan.is_aligned() };
        let (schema, version) = (plan.written_schema(), plan.storage_version);
        let files = FileSpec {
            id: self.id,
            store: Arc::clone(&store),
            directory: directory.clone(),
            schema: schema.clone(),
            version,
            rows_max: self.rows_max,
            cache_bytes: settings.memory_bytes / 4,
            throttle: self.throttle,
        };
        let mut stager = Stager {
            source: self.source,
            what,
            on_bad_value: plan.request.on_bad_value,
            transform: Arc::new(transform),
            pool: pool.clone(),
            scan: ScanLimits { batch_rows, io_buffer_bytes },
            transforms_max: 2,
            queue: settings.queue,
            budget: self.budget,
            files,
            templates: Templates::default(),
            copying: None,
            reads_back: settings.verify == Verify::Full,
            progress: self.progress,
        };
        let copies = self.copies.clone().map(Arc::new);
        let mut made_rows = batch_rows;
        if let Some(copies) = self.copies {
            made_rows = made_batch(settings.batch_size).rows(copies.made_width(plan));
            stager.copying = Some(Arc::new(Copying::of(copies, plan, &stager, made_rows)));
        }
        let reader = Reader {
            store,
            directory,
            schema,
            version,
            batch_rows,
            made_rows,
            blocks: stager.source.blocks.clone(),
            pool,
            copies,
            known: Known::default(),
        };
        (stager, reader)
    }
}
