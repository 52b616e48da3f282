//! Whole rewrites by batch size and workers, against a naive Lance stream in the same run. Run it with
//! `scripts/bench`.
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
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use lance::Dataset;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use relance::{BatchSize, Change, Ended, Location, Migration, Sample, Settings, Verify};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The allocator is the binary's own, since the allocator decides the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLE: Sample = Sample { rows: 100_000, dim: 384, fragments: 4 };

fn location(directory: &Path) -> Location {
    Location::new(directory.to_str().unwrap(), "documents").unwrap()
}

/// A table made once; every run works on a version of it and takes itself back.
fn sample(runtime: &Runtime) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    runtime.block_on(SAMPLE.make(&location(directory.path()))).unwrap();
    directory
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-r")
        .arg(from.join("documents.lance"))
        .arg(to.path())
        .status();
    assert!(status.unwrap().success());
    to
}

/// The time of `run` over fresh copies of the table.
fn timed(base: &Path, rounds: u64, mut run: impl FnMut(&Path)) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let table = copy(base);
        let began = Instant::now();
        run(table.path());
        total += began.elapsed();
    }
    total
}

async fn relance(directory: &Path, settings: Settings) {
    let migration = Migration::of(location(directory))
        .change(Change::parse_add("category:string=general").unwrap())
        .change(Change::parse_add("is_active:bool=true").unwrap())
        .settings(settings);
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
    let base = sample(&runtime);
    let mut group = criterion.benchmark_group("rewrite");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(SAMPLE.rows * (u64::from(SAMPLE.dim) * 4 + 70)));
    group.bench_function("naive lance stream", |bench| {
        bench.iter_custom(|rounds| {
            timed(base.path(), rounds, |table| runtime.block_on(naive(table)))
        });
    });
    for batch in ["512KiB", "2MiB", "8MiB", "32MiB"] {
        let size = relance::parse_batch_size(batch).unwrap();
        let settings = Settings { batch_size: size, ..Settings::default() };
        group.bench_function(BenchmarkId::new("batch size", batch), |bench| {
            bench.iter_custom(|rounds| {
                timed(base.path(), rounds, |table| {
                    runtime.block_on(relance(table, settings.clone()));
                })
            });
        });
    }
    for workers in [1, 2, 4] {
        let settings = Settings { workers, ..Settings::default() };
        group.bench_function(BenchmarkId::new("workers, 4 chunks", workers), |bench| {
            bench.iter_custom(|rounds| {
                timed(base.path(), rounds, |table| {
                    runtime.block_on(relance(table, settings.clone()));
                })
            });
        });
    }
    let quick = Settings {
        verify: Verify::Quick,
        batch_size: BatchSize::Bytes(2 << 20),
        ..Settings::default()
    };
    group.bench_function("verify quick", |bench| {
        bench.iter_custom(|rounds| {
            timed(base.path(), rounds, |table| runtime.block_on(relance(table, quick.clone())))
        });
    });
    group.finish();
}

criterion_group!(benches, rewrite);
criterion_main!(benches);
