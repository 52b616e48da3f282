//! Whole migrations by strategy, batch size, workers, queue, row width and fragments, against a naive Lance
//! stream in the same run. A rewrite that copies pages knows no batches: those are tried where rows are encoded anew. `scripts/bench --criterion` runs it; the report is in `target/criterion`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    missing_docs,
    reason = "benches may fail loudly"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use futures::StreamExt;
use lance::Dataset;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use relance::{Change, Ended, Location, Migration, Request, Sample, Settings, Strategy, Verify};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The allocator is the binary's own, since the allocator decides the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How two columns are added.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// A rewrite that copies the pages of the others.
    Copied,
    /// A rewrite that encodes every row anew, as for a filter.
    Encoded,
    /// In files of their own.
    Beside,
}

const SAMPLE: Sample = Sample { rows: 100_000, dim: 384, fragments: 4 };

/// Text, lengths and what else a row has beside its vector, in bytes.
const ROW_BYTES: u64 = 70;

fn location(directory: &Path) -> Location {
    Location::new(directory.to_str().unwrap(), "documents").unwrap()
}

/// A table, and the copies of it that were worked on: all go at the end, since a file system that has just
/// deleted files is slow to create others.
struct Bench<'a> {
    runtime: &'a Runtime,
    sample: Sample,
    base: TempDir,
    used: Vec<TempDir>,
}

impl<'a> Bench<'a> {
    fn of(runtime: &'a Runtime, sample: Sample) -> Self {
        let base = tempfile::tempdir().unwrap();
        runtime.block_on(sample.make(&location(base.path()))).unwrap();
        Self { runtime, sample, base, used: Vec::new() }
    }

    fn bytes(&self) -> Throughput {
        Throughput::Bytes(self.sample.rows * (u64::from(self.sample.dim) * 4 + ROW_BYTES))
    }

    /// Second names for the table's files, which nobody writes to.
    fn copy(&self) -> TempDir {
        let to = tempfile::tempdir().unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.arg("-rl").arg(self.base.path().join("documents.lance")).arg(to.path());
        assert!(copy.status().unwrap().success());
        to
    }

    /// The time of `rounds` runs, each over a fresh copy.
    fn timed(&mut self, rounds: u64, mut run: impl FnMut(&Path)) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..rounds {
            let table = self.copy();
            let began = Instant::now();
            run(table.path());
            total += began.elapsed();
            self.used.push(table);
        }
        total
    }

    fn relance(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        id: BenchmarkId,
        way: Way,
        settings: &Settings,
    ) {
        group.throughput(self.bytes());
        let runtime = self.runtime;
        group.bench_function(id, |bench| {
            bench.iter_custom(|rounds| {
                self.timed(rounds, |table| {
                    runtime.block_on(relance(table, way, settings.clone()));
                })
            });
        });
    }
}

async fn relance(directory: &Path, way: Way, settings: Settings) {
    let adds = ["category:string=general", "is_active:bool=true"];
    let strategy = if matches!(way, Way::Beside) { Strategy::Columns } else { Strategy::Rewrite };
    let request = Request {
        changes: adds.iter().map(|add| Change::parse_add(add).unwrap()).collect(),
        strategy: Some(strategy),
        filter: matches!(way, Way::Encoded).then(|| "text is not null".to_owned()),
        ..Request::default()
    };
    let migration = Migration::of(location(directory)).request(request).settings(settings);
    assert!(matches!(migration.migrate().await.unwrap(), Ended::Swapped(_)));
}

/// What one writes first: scan, append two arrays, write.
async fn naive(directory: &Path) {
    let live = Arc::new(Dataset::open(location(directory).uri().as_str()).await.unwrap());
    let mut fields: Vec<_> = Schema::from(live.schema()).fields().to_vec();
    fields.push(Arc::new(Field::new("category", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("is_active", DataType::Boolean, true)));
    let schema = Arc::new(Schema::new(fields));
    let to = Arc::clone(&schema);
    let stream = live.scan().try_into_stream().await.unwrap().map(move |batch| {
        let batch = batch.unwrap();
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(StringArray::from(vec!["general"; rows])) as ArrayRef);
        columns.push(Arc::new(BooleanArray::from(vec![true; rows])));
        Ok(RecordBatch::try_new(Arc::clone(&to), columns).unwrap())
    });
    let stream =
        Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema, stream));
    let params = WriteParams { mode: WriteMode::Overwrite, ..WriteParams::default() };
    let stream: datafusion::execution::SendableRecordBatchStream = stream;
    InsertBuilder::new(live).with_params(&params).execute_stream(stream).await.unwrap();
}

fn rewrite(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut table = Bench::of(&runtime, SAMPLE);
    let mut group = criterion.benchmark_group("rewrite");
    group.sample_size(10);
    group.throughput(table.bytes());
    group.bench_function("naive lance stream", |bench| {
        bench.iter_custom(|rounds| table.timed(rounds, |table| runtime.block_on(naive(table))));
    });
    for batch in ["64KiB", "256KiB", "1MiB", "4MiB", "32MiB"] {
        let batch_size = relance::parse_batch_size(batch).unwrap();
        let settings = Settings { batch_size, ..Settings::default() };
        let id = BenchmarkId::new("batch size", batch);
        table.relance(&mut group, id, Way::Encoded, &settings);
    }
    for workers in [1, 2, 4] {
        let settings = Settings { workers, ..Settings::default() };
        let id = BenchmarkId::new("workers, 4 chunks", workers);
        table.relance(&mut group, id, Way::Encoded, &settings);
    }
    for queue in [1, 2, 8] {
        let settings = Settings { queue, ..Settings::default() };
        let id = BenchmarkId::new("queue", queue);
        table.relance(&mut group, id, Way::Encoded, &settings);
    }
    for way in [Way::Copied, Way::Encoded] {
        for verify in [Verify::Quick, Verify::Full] {
            let settings = Settings { verify, ..Settings::default() };
            let id = BenchmarkId::new(format!("{way:?}"), format!("{verify:?}"));
            table.relance(&mut group, id, way, &settings);
        }
    }
    group.finish();
}

/// The same bytes in rows of other widths.
fn row_width(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("row width");
    group.sample_size(10);
    for (rows, dim) in [(1_000_000, 16), (100_000, 384), (10_000, 4096)] {
        let mut table = Bench::of(&runtime, Sample { rows, dim, fragments: 4 });
        for way in [Way::Copied, Way::Encoded] {
            let id = BenchmarkId::new(format!("{way:?}, vector"), dim);
            table.relance(&mut group, id, way, &Settings::default());
        }
    }
    group.finish();
}

/// The same rows in more and more fragments, by every way.
fn fragments(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("fragments");
    group.sample_size(10);
    for fragments in [1, 16, 256] {
        let mut table = Bench::of(&runtime, Sample { fragments, ..SAMPLE });
        for way in [Way::Copied, Way::Encoded, Way::Beside] {
            let id = BenchmarkId::new(format!("{way:?}"), fragments);
            table.relance(&mut group, id, way, &Settings::default());
        }
    }
    group.finish();
}

criterion_group!(benches, rewrite, row_width, fragments);
criterion_main!(benches);
