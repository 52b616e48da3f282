//! A digest depends on the values and on nothing else.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int64Array, ListArray,
    StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use arrow_select::concat::concat;
use arrow_select::take::take;
use proptest::collection::vec;
use proptest::prelude::*;
use relance::Digest;
use relance::internals::ColumnDigest;

/// A row of a nested column: a string, a list of numbers, a vector of two, or null in any of them.
type Row = (Option<String>, Option<Vec<Option<i64>>>, Option<(f32, f32)>, Option<bool>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = proptest::option::of("[a-z]{0,4}");
    let list = proptest::option::of(vec(proptest::option::of(any::<i64>()), 0..4));
    let vector = proptest::option::of((-9.0_f32..9.0, -9.0_f32..9.0));
    vec((text, list, vector, any::<Option<bool>>()), 1..40)
}

/// The rows as a struct column. What lies under a null is `junk`.
fn column(rows: &[Row], junk: i64) -> ArrayRef {
    let texts: StringArray = rows.iter().map(|row| row.0.clone()).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(texts),
        Arc::new(lists(rows, junk)),
        Arc::new(vectors(rows, junk)),
        Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
    ];
    Arc::new(StructArray::try_new(fields(), columns, None).unwrap())
}

fn lists(rows: &[Row], junk: i64) -> ListArray {
    let under_null = usize::try_from(junk.rem_euclid(3)).unwrap();
    let mut items = Vec::new();
    let mut lengths = Vec::new();
    for row in rows {
        let list = row.1.clone().unwrap_or_else(|| vec![Some(junk); under_null]);
        lengths.push(list.len());
        items.extend(list);
    }
    let nulls = rows.iter().map(|row| row.1.is_some()).collect::<NullBuffer>();
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    ListArray::try_new(item, offsets, Arc::new(Int64Array::from(items)), Some(nulls)).unwrap()
}

fn vectors(rows: &[Row], junk: i64) -> FixedSizeListArray {
    let under_null = f32::from(i16::try_from(junk.rem_euclid(99)).unwrap());
    let values = rows.iter().flat_map(|row| {
        let (x, y) = row.2.unwrap_or((under_null, under_null));
        [x, y]
    });
    let nulls = rows.iter().map(|row| row.2.is_some()).collect::<NullBuffer>();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values = Arc::new(Float32Array::from_iter_values(values));
    FixedSizeListArray::try_new(item, 2, values, Some(nulls)).unwrap()
}

fn fields() -> Fields {
    let list = DataType::new_list(DataType::Int64, true);
    let vector = DataType::new_fixed_size_list(DataType::Float32, 2, true);
    Fields::from(vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("list", list, true),
        Field::new("vector", vector, true),
        Field::new("flag", DataType::Boolean, true),
    ])
}

/// The digest of `column`, given in pieces that end at `cuts`.
fn digest(column: &ArrayRef, cuts: &[usize]) -> Digest {
    let field = Field::new("c", column.data_type().clone(), true);
    let mut digest = ColumnDigest::new(&field).unwrap();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (column.len() + 1)).collect();
    ends.push(column.len());
    ends.sort_unstable();
    let mut start = 0;
    for end in ends {
        digest.update(&column.slice(start, end - start)).unwrap();
        start = end;
    }
    digest.finish()
}

fn same_rows(a: &[Row], b: &[Row]) -> bool {
    let bits = |row: &Row| row.2.map(|(x, y)| (x.to_bits(), y.to_bits()));
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| (&a.0, &a.1, bits(a), a.3) == (&b.0, &b.1, bits(b), b.3))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batch_boundaries_do_not_matter(rows in rows(), cuts in vec(any::<usize>(), 0..6)) {
        let column = column(&rows, 0);
        prop_assert_eq!(digest(&column, &[]), digest(&column, &cuts));
    }

    #[test]
    fn what_lies_under_a_null_does_not_matter(rows in rows(), junk in any::<i64>()) {
        prop_assert_eq!(digest(&column(&rows, 0), &[]), digest(&column(&rows, junk), &[]));
    }

    #[test]
    fn offsets_into_shared_buffers_do_not_matter(rows in rows(), before in rows(), after in rows()) {
        let all: Vec<Row> = [before.clone(), rows.clone(), after].concat();
        let sliced = column(&all, 1).slice(before.len(), rows.len());
        prop_assert_eq!(digest(&sliced, &[]), digest(&column(&rows, 2), &[]));
    }

    #[test]
    fn other_rows_have_another_digest(a in rows(), b in rows()) {
        let equal = digest(&column(&a, 0), &[]) == digest(&column(&b, 0), &[]);
        prop_assert_eq!(equal, same_rows(&a, &b));
    }

    #[test]
    fn swapped_rows_show(rows in rows(), i in any::<usize>(), j in any::<usize>()) {
        let mut swapped = rows.clone();
        swapped.swap(i % rows.len(), j % rows.len());
        let equal = digest(&column(&rows, 0), &[]) == digest(&column(&swapped, 0), &[]);
        prop_assert_eq!(equal, same_rows(&rows, &swapped));
    }

    #[test]
    fn a_changed_null_shows(rows in rows(), at in any::<usize>(), which in 0..4) {
        let mut changed = rows.clone();
        let row = &mut changed[at % rows.len()];
        match which {
            0 => row.0 = row.0.is_none().then(String::new),
            1 => row.1 = row.1.is_none().then(Vec::new),
            2 => row.2 = row.2.is_none().then_some((0.0, 0.0)),
            _ => row.3 = row.3.is_none().then_some(false),
        }
        prop_assert_ne!(digest(&column(&rows, 0), &[]), digest(&column(&changed, 0), &[]));
    }

    #[test]
    fn a_shifted_vector_shows(rows in rows()) {
        let whole = column(&rows, 0);
        let shift: Vec<u32> = (0..u32::try_from(rows.len()).unwrap()).map(|row| row.saturating_sub(1)).collect();
        let shifted = take(&whole, &arrow::array::UInt32Array::from(shift.clone()), None).unwrap();
        let moved: Vec<Row> = shift.iter().map(|row| rows[*row as usize].clone()).collect();
        let equal = digest(&whole, &[]) == digest(&shifted, &[]);
        prop_assert_eq!(equal, same_rows(&rows, &moved));
    }

    #[test]
    fn joining_batches_does_not_matter(a in rows(), b in rows()) {
        let joined = concat(&[column(&a, 0).as_ref(), column(&b, 5).as_ref()]).unwrap();
        let all: Vec<Row> = [a, b].concat();
        prop_assert_eq!(digest(&joined, &[]), digest(&column(&all, 9), &[]));
    }
}

#[test]
fn item_boundaries_show() {
    let texts = |texts: &[&str]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    assert_ne!(digest(&texts(&["ab", "c"]), &[]), digest(&texts(&["a", "bc"]), &[]));
    assert_ne!(digest(&texts(&["", "a"]), &[]), digest(&texts(&["a", ""]), &[]));
}

#[test]
fn signs_of_zero_and_nan_payloads_show() {
    let floats = |value: f32| -> ArrayRef { Arc::new(Float32Array::from(vec![value])) };
    assert_ne!(digest(&floats(0.0), &[]), digest(&floats(-0.0), &[]));
    let other_nan = f32::from_bits(f32::NAN.to_bits() ^ 1);
    assert_ne!(digest(&floats(f32::NAN), &[]), digest(&floats(other_nan), &[]));
}
