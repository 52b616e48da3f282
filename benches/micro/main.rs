//! Benches of single parts: the transform by column type and batch size, the digest in bytes a second.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "benches may fail loudly"
)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relance::internals::{ColumnDigest, Target, Transform};
use relance::{Change, IfExists};

const ROWS: usize = 8192;

fn column(kind: &str, rows: usize) -> ArrayRef {
    let numbers = 0_i64..i64::try_from(rows).unwrap();
    let some = |value: i64| (value % 4 != 1).then_some(value);
    match kind {
        "int64" => Arc::new(Int64Array::from_iter_values(numbers)),
        "int64 with nulls" => Arc::new(numbers.map(some).collect::<Int64Array>()),
        "bool" => Arc::new(numbers.map(|n| Some(n % 3 == 0)).collect::<BooleanArray>()),
        "string" => Arc::new(StringArray::from_iter_values(
            numbers.map(|n| format!("row number {n} of text")),
        )),
        "vector[384]" => {
            let values = Float32Array::from_iter_values(
                (0..rows * 384).map(|n| f32::from(u16::try_from(n % 60_000).unwrap())),
            );
            let item = Arc::new(Field::new("item", DataType::Float32, true));
            Arc::new(FixedSizeListArray::try_new(item, 384, Arc::new(values), None).unwrap())
        }
        "list<int64>" => {
            let items = Int64Array::from_iter_values(0..i64::try_from(rows * 4).unwrap());
            let item = Arc::new(Field::new("item", DataType::Int64, true));
            let offsets = OffsetBuffer::from_lengths(vec![4; rows]);
            Arc::new(ListArray::try_new(item, offsets, Arc::new(items), None).unwrap())
        }
        other => unreachable!("{other}"),
    }
}

fn bytes(column: &ArrayRef) -> u64 {
    column.to_data().get_slice_memory_size().unwrap() as u64
}

fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    for kind in ["int64", "int64 with nulls", "bool", "string", "vector[384]", "list<int64>"] {
        let column = column(kind, ROWS);
        let field = Field::new("c", column.data_type().clone(), true);
        group.throughput(Throughput::Bytes(bytes(&column)));
        group.bench_function(kind, |bench| {
            bench.iter(|| {
                let mut digest = ColumnDigest::new(&field).unwrap();
                digest.update(black_box(&column)).unwrap();
                digest.finish()
            });
        });
    }
    group.finish();
}

fn target(adds: &[&str]) -> Target {
    let arrow = Schema::new(vec![Field::new("c", DataType::Int64, true)]);
    let source = lance_core::datatypes::Schema::try_from(&arrow).unwrap();
    let changes: Vec<_> = adds.iter().map(|add| Change::parse_add(add).unwrap()).collect();
    let now = chrono::DateTime::from_timestamp(0, 0).unwrap();
    Target::derive(&source, 0, &changes, IfExists::Skip, now).unwrap()
}

fn transform(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transform");
    let adds = [
        ("timestamp", "t:timestamp[us]=2026-01-01"),
        ("string", "s:string=general"),
        ("bool", "b:bool=true"),
        ("vector[384]", "v:fixed_size_list<float>[384]"),
        ("list", "l:list<string>=[\"a\",\"b\"]"),
    ];
    for rows in [1024, 8192, 65_536] {
        let source = column("int64", rows);
        let batch = RecordBatch::try_from_iter([("c", Arc::clone(&source))]).unwrap();
        for (kind, add) in adds {
            let transform = Transform::new(&target(&[add]));
            let out = transform.apply(&batch).unwrap();
            let size: u64 = out.columns().iter().map(bytes).sum();
            group.throughput(Throughput::Bytes(size));
            group.bench_function(BenchmarkId::new(kind, rows), |bench| {
                bench.iter(|| transform.apply(black_box(&batch)).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, digest, transform);
criterion_main!(benches);
