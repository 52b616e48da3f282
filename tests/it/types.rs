//! Every Arrow type that Lance stores goes through unchanged, nulls and nesting included.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array,
    Decimal256Array, DictionaryArray, DurationMicrosecondArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array,
    LargeBinaryArray, LargeListArray, LargeStringArray, ListArray, NullArray, RecordBatch,
    StringArray, StructArray, Time32SecondArray, Time64NanosecondArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int8Type, i256};
use lance::dataset::WriteParams;
use lance_file::version::LanceFileVersion;
use relance::{Ended, Migration, Strategy, Writes};

use crate::support::{Db, assert_kept, small};

const ROWS: usize = 257;

/// Every third row is null.
fn some<T>(value: impl Fn(usize) -> T) -> Vec<Option<T>> {
    (0..ROWS).map(|row| (row % 3 != 1).then(|| value(row))).collect()
}

fn nulls() -> NullBuffer {
    NullBuffer::from((0..ROWS).map(|row| row % 3 != 1).collect::<Vec<_>>())
}

fn number(row: usize) -> i64 {
    i64::try_from(row).unwrap() * 37 - 1_000
}

fn plain_columns() -> Vec<(&'static str, ArrayRef)> {
    let i32s = || some(|row| i32::try_from(number(row)).unwrap());
    let i64s = || some(number);
    vec![
        ("bool", Arc::new(BooleanArray::from(some(|row| row % 2 == 0)))),
        ("int8", Arc::new(Int8Array::from(some(|row| i8::try_from(row % 100).unwrap())))),
        ("int32", Arc::new(Int32Array::from(i32s()))),
        ("int64", Arc::new(Int64Array::from(i64s()))),
        ("uint64", Arc::new(UInt64Array::from(some(|row| u64::MAX - row as u64)))),
        ("half", halves()),
        (
            "float",
            Arc::new(Float32Array::from(some(|row| f32::from(u16::try_from(row).unwrap()) / 3.0))),
        ),
        ("double", Arc::new(Float64Array::from(some(special)))),
        ("string", Arc::new(StringArray::from(some(|row| "ä".repeat(row % 5))))),
        ("large_string", Arc::new(LargeStringArray::from(some(|row| format!("row {row}"))))),
        ("binary", Arc::new(BinaryArray::from_iter(some(|row| vec![0_u8; row % 4])))),
        ("large_binary", Arc::new(LargeBinaryArray::from_iter(some(|row| vec![7_u8; row % 9])))),
        ("date32", Arc::new(Date32Array::from(i32s()))),
        ("date64", Arc::new(Date64Array::from(some(|row| number(row) * 86_400_000)))),
        ("time32", Arc::new(Time32SecondArray::from(some(|row| i32::try_from(row).unwrap())))),
        ("time64", Arc::new(Time64NanosecondArray::from(some(|row| number(row).abs())))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(i64s()))),
        ("zoned", Arc::new(TimestampMicrosecondArray::from(i64s()).with_timezone("+08:00"))),
        ("duration", Arc::new(DurationMicrosecondArray::from(i64s()))),
        ("decimal128", Arc::new(decimal128())),
        ("decimal256", Arc::new(decimal256())),
        ("fixed_binary", Arc::new(fixed_binary())),
    ]
}

fn nested_columns() -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("vector", Arc::new(vectors())),
        ("list", Arc::new(lists())),
        ("large_list", Arc::new(large_lists())),
        ("struct", Arc::new(structs())),
        ("list_of_struct", Arc::new(lists_of_structs())),
        ("dictionary", Arc::new(dictionary())),
    ]
}

fn halves() -> ArrayRef {
    let floats = Float32Array::from(some(|row| f32::from(u16::try_from(row).unwrap()) / 4.0));
    arrow::compute::cast(&floats, &DataType::Float16).unwrap()
}

/// NaN, infinities and both zeros among ordinary numbers.
fn special(row: usize) -> f64 {
    match row % 7 {
        0 => f64::NAN,
        2 => f64::INFINITY,
        3 => -0.0,
        5 => 0.0,
        _ => f64::from(u16::try_from(row).unwrap()) / 7.0,
    }
}

fn decimal128() -> Decimal128Array {
    let array = Decimal128Array::from(some(|row| i128::from(number(row))));
    array.with_precision_and_scale(20, 4).unwrap()
}

fn decimal256() -> Decimal256Array {
    let array = Decimal256Array::from(some(|row| i256::from_i128(i128::from(number(row)))));
    array.with_precision_and_scale(60, 4).unwrap()
}

fn fixed_binary() -> FixedSizeBinaryArray {
    let values = some(|row| [u8::try_from(row % 251).unwrap(); 5]);
    FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 5).unwrap()
}

fn vectors() -> FixedSizeListArray {
    let values = (0..ROWS * 4).map(|place| f32::from(u16::try_from(place).unwrap()));
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values = Arc::new(Float32Array::from_iter_values(values));
    FixedSizeListArray::try_new(item, 4, values, Some(nulls())).unwrap()
}

fn offsets() -> Vec<usize> {
    (0..ROWS).map(|row| if row % 3 == 1 { 0 } else { row % 4 }).collect()
}

fn lists() -> ListArray {
    let items = Int32Array::from(
        (0..offsets().iter().sum::<usize>())
            .map(|place| (place % 5 != 2).then(|| i32::try_from(place).unwrap()))
            .collect::<Vec<_>>(),
    );
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let offsets = OffsetBuffer::from_lengths(offsets());
    ListArray::try_new(item, offsets, Arc::new(items), Some(nulls())).unwrap()
}

fn large_lists() -> LargeListArray {
    let items = (0..offsets().iter().sum::<usize>()).map(|place| format!("item {place}"));
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let offsets = OffsetBuffer::from_lengths(offsets());
    let items = Arc::new(StringArray::from_iter_values(items));
    LargeListArray::try_new(item, offsets, items, Some(nulls())).unwrap()
}

fn struct_fields() -> Fields {
    Fields::from(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8, true),
    ])
}

fn structs() -> StructArray {
    let a = Int32Array::from(some(|row| i32::try_from(row).unwrap()));
    let b = StringArray::from((0..ROWS).map(|row| format!("b{row}")).collect::<Vec<_>>());
    StructArray::try_new(struct_fields(), vec![Arc::new(a), Arc::new(b)], None).unwrap()
}

fn lists_of_structs() -> ListArray {
    let rows = offsets().iter().sum::<usize>();
    let a = Int32Array::from_iter_values((0..rows).map(|place| i32::try_from(place).unwrap()));
    let b = StringArray::from_iter_values((0..rows).map(|place| format!("b{place}")));
    let items =
        StructArray::try_new(struct_fields(), vec![Arc::new(a), Arc::new(b)], None).unwrap();
    let item = Arc::new(Field::new("item", DataType::Struct(struct_fields()), true));
    let offsets = OffsetBuffer::from_lengths(offsets());
    ListArray::try_new(item, offsets, Arc::new(items), Some(nulls())).unwrap()
}

fn dictionary() -> DictionaryArray<Int8Type> {
    let words = ["red", "green", "blue"];
    (0..ROWS).map(|row| (row % 3 != 1).then_some(words[row % 2])).collect()
}

fn batch(columns: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let with_null = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(with_null).unwrap()
}

/// Every column, with deletions in several fragments: rewritten, upgraded, left beside new ones, and copied by
/// an expression into a file of its own.
async fn goes_through(rows: &RecordBatch, version: LanceFileVersion) {
    let db = Db::new();
    let params = WriteParams {
        max_rows_per_file: 100,
        data_storage_version: Some(version),
        ..WriteParams::default()
    };
    let mut live = db.write("t", vec![rows.clone()], params).await;
    live.delete("row_number = 5 or (row_number > 120 and row_number < 140)").await.unwrap();
    let before = db.rows("t").await;
    let back = async |migration: &Migration| {
        migration.verify().await.unwrap();
        migration.rollback(Writes::Refuse).await.unwrap();
    };
    let migration = db.migration("t", &["n:int64 not null=1"]).settings(small());
    // The fragments are put together row by row, or, where each keeps a file of its own, page by page.
    let page_by_page = migration.clone().rows_per_file(100);
    let ways = [
        migration.clone().strategy(Strategy::Rewrite),
        page_by_page.strategy(Strategy::Rewrite),
        migration.clone().strategy(Strategy::Columns),
    ];
    for way in ways {
        let ended = way.migrate().await.unwrap();
        assert!(matches!(ended, Ended::Swapped(_)));
        assert_kept(&before, &db.rows("t").await);
        back(&migration).await;
    }
    if version != LanceFileVersion::V2_2 {
        db.relance("migrate", "t", &["--storage-version", "2.2"]).expect(0);
        assert_kept(&before, &db.rows("t").await);
        back(&migration).await;
    }
    let names: Vec<String> = before.schema().fields().iter().map(|f| f.name().clone()).collect();
    // Storage version 2.0 keeps no null structs.
    let old = version == LanceFileVersion::V2_0;
    let copied =
        names.iter().filter(|name| *name != "nothing" && !(old && name.contains("struct")));
    let computed: Vec<String> =
        copied.clone().map(|name| format!("copy_{name}=`{name}`")).collect();
    let args: Vec<&str> = computed.iter().flat_map(|copy| ["--compute", copy.as_str()]).collect();
    db.relance("migrate", "t", &args).expect(0);
    let after = db.rows("t").await;
    assert_kept(&before, &after);
    for name in copied {
        let copy = after.column_by_name(&format!("copy_{name}")).unwrap();
        assert_eq!(copy.to_data(), after.column_by_name(name).unwrap().to_data(), "{name}");
    }
}

fn numbered(columns: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(0..i64::try_from(ROWS).unwrap());
    let mut all: Vec<(&'static str, ArrayRef)> = vec![("row_number", Arc::new(numbers))];
    all.extend(columns);
    batch(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_types_go_through_on_every_storage_version() {
    for version in [LanceFileVersion::V2_0, LanceFileVersion::V2_1, LanceFileVersion::V2_2] {
        goes_through(&numbered(plain_columns()), version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_types_go_through_on_every_storage_version() {
    for version in [LanceFileVersion::V2_0, LanceFileVersion::V2_1, LanceFileVersion::V2_2] {
        goes_through(&numbered(nested_columns()), version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn null_columns_and_null_structs_go_through() {
    let structs =
        StructArray::try_new(struct_fields(), structs().columns().to_vec(), Some(nulls()));
    let columns: Vec<(&'static str, ArrayRef)> =
        vec![("nothing", Arc::new(NullArray::new(ROWS))), ("struct", Arc::new(structs.unwrap()))];
    goes_through(&numbered(columns), LanceFileVersion::V2_1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_can_be_added() {
    let db = Db::new();
    db.documents("t", 300, 100).await;
    let adds = [
        "a:bool=true",
        "b:int8=-3",
        "c:uint64=7",
        "d:halffloat=1.5",
        "e:float=2.5",
        "f:double=1e300",
        "g:string not null=x",
        "h:large_string=y",
        "i:binary=zz",
        "j:large_binary=zz",
        "k:fixed_size_binary[2]=zz",
        "l:date32=2026-01-01",
        "m:date64=2026-01-01",
        "n:time32[s]=12:00:00",
        "o:time64[us]=12:00:00",
        "p:timestamp[ns, tz=UTC]=now",
        "q:duration[ms]=5",
        "r:decimal128(10, 2)=1.25",
        "s:decimal256(60, 2)=1.25",
        "t:list<string>=[\"a\",\"b\"]",
        "u:fixed_size_list<float>[2]=[1,2]",
        "v:struct<a: int32, b: string>={\"a\":1,\"b\":\"c\"}",
        "w:dictionary<values=string, indices=int32>=red",
        "x:string",
        "y:list<int32>",
        "z:fixed_size_list<float>[2]",
    ];
    let migration = db.migration("t", &adds).settings(small());
    migration.migrate().await.unwrap();
    let rows = db.rows("t").await;
    assert_eq!(rows.num_columns(), 3 + adds.len());
    for (add, column) in adds.iter().zip(rows.columns().iter().skip(3)) {
        let nulls = if add.contains('=') && !add.ends_with("=int32>") { 0 } else { 300 };
        let nulls = if add.contains("indices") { 0 } else { nulls };
        assert_eq!(column.logical_null_count(), nulls, "{add}");
    }
    migration.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_lance_cannot_write_or_read_are_refused_before() {
    for version in [LanceFileVersion::V2_0, LanceFileVersion::V2_1, LanceFileVersion::V2_2] {
        let db = Db::new();
        let params = WriteParams { data_storage_version: Some(version), ..WriteParams::default() };
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        db.write("t", vec![batch], params).await;
        for odd in [
            "x:fixed_size_list<string>[2]=[\"a\", \"b\"]",
            "x:list<fixed_size_list<binary>[2]>",
            "x:fixed_size_list<struct<a: int8>>[2]=[{\"a\": 1}, {\"a\": 2}]",
        ] {
            db.relance("migrate", "t", &["--add", odd]).expect(3).says("fixed-size lists of");
        }
        db.relance("migrate", "t", &["--add", "x:fixed_size_list<bool>[2]=[true, false]"])
            .expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn null_structs_are_refused_by_the_rows_that_have_them() {
    let db = Db::new();
    let write = async |name: &str, nulls: Option<NullBuffer>| {
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let fields = Fields::from(vec![Field::new("a", DataType::Int64, true)]);
        let structs: ArrayRef = Arc::new(StructArray::new(fields, vec![a], nulls));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("id", ids), ("s", structs)]).unwrap();
        let params = WriteParams {
            data_storage_version: Some(LanceFileVersion::V2_1),
            ..WriteParams::default()
        };
        db.write(name, vec![batch], params).await;
    };
    write("nulls", Some(NullBuffer::from(vec![true, false, true]))).await;
    write("none", Some(NullBuffer::from(vec![true, true, true]))).await;
    let old = ["--storage-version", "2.0"];
    db.relance("migrate", "nulls", &old)
        .expect(3)
        .says("1 value is not kept by storage version 2.0");
    db.relance("migrate", "nulls", &["--storage-version", "2.0", "--on-bad-value", "null"])
        .expect(3);
    let before = db.rows("none").await;
    db.relance("migrate", "none", &old).expect(0);
    assert_kept(&before, &db.rows("none").await);
    db.relance("migrate", "none", &["--compute", "w=CASE WHEN id > 1 THEN s END"])
        .expect(3)
        .says("1 value is not kept by storage version 2.0");
    db.relance("migrate", "none", &["--add", "w:struct<q: struct<b: int8>>={\"q\": null}"])
        .expect(3)
        .says("all 3 values");
    db.relance("migrate", "none", &["--add", "s.c:int8=1"]).expect(0);
}
