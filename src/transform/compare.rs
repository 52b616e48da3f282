//! Counts the rows in which an existing column differs from the one that was asked for.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{filter, kernels::cmp::distinct};
use arrow::{buffer::NullBuffer, datatypes::Field};

use crate::error::{Doing, Result};
use crate::transform::digest::{ColumnDigest, Digest};
use crate::transform::evaluate::value_text;

/// How the rows of an existing column compare with those that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub rows: u64,
    /// Rows that are null where a value was asked for.
    pub nulls: u64,
    /// Rows that hold another value.
    pub others: u64,
    /// The existing value and the wanted one of a row that holds another value, or else of one that is null.
    pub example: Option<(String, String)>,
}

impl Tally {
    /// Compares `existing`, in which the column lies `inside` of structs, with `wanted`. Rows in which such a struct
    /// is null do not count.
    ///
    /// # Errors
    /// `Failed`, when the two are not of one type.
    pub(crate) fn of(existing: &ArrayRef, inside: &[usize], wanted: &ArrayRef) -> Result<Self> {
        let doing = || "compare what is there".to_owned();
        let (mut existing, around) = descend(existing, inside);
        let mut wanted = ArrayRef::clone(wanted);
        if let Some(around) = around.filter(|around| around.null_count() > 0) {
            let there = BooleanArray::new(around.into_inner(), None);
            existing = filter(&existing, &there).doing(doing)?;
            wanted = filter(&wanted, &there).doing(doing)?;
        }
        let mut tally = Self { rows: existing.len() as u64, ..Self::default() };
        let (nulls, mut first_null) = (existing.logical_nulls(), None);
        for row in different_rows(&existing, &wanted)? {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                tally.nulls += 1;
                first_null = first_null.or(Some(row));
            } else {
                tally.others += 1;
                if tally.example.is_none() {
                    tally.example = Some((value_text(&existing, row), value_text(&wanted, row)));
                }
            }
        }
        if let (None, Some(row)) = (&tally.example, first_null) {
            tally.example = Some(("null".to_owned(), value_text(&wanted, row)));
        }
        Ok(tally)
    }

    /// Rows that hold the value that was asked for.
    pub(crate) fn same(&self) -> u64 {
        self.rows.saturating_sub(self.nulls + self.others)
    }

    /// Counts the rows of `next` as well.
    pub(crate) fn add(&mut self, next: Self) {
        if self.others == 0 && (next.others > 0 || self.example.is_none()) {
            self.example = next.example;
        }
        self.rows += next.rows;
        self.nulls += next.nulls;
        self.others += next.others;
    }
}

/// The child of `column` at `inside`, and which rows have all the structs around it.
fn descend(column: &ArrayRef, inside: &[usize]) -> (ArrayRef, Option<NullBuffer>) {
    let (mut column, mut around) = (ArrayRef::clone(column), None);
    for place in inside {
        let Some(structs) = column.as_struct_opt() else { break };
        let Some(child) = structs.columns().get(*place).cloned() else { break };
        around = NullBuffer::union(around.as_ref(), structs.nulls());
        column = child;
    }
    (column, around)
}

/// The rows in which the two columns differ; null is null.
fn different_rows(one: &ArrayRef, other: &ArrayRef) -> Result<Vec<usize>> {
    if !one.data_type().is_nested()
        && let Ok(differs) = distinct(one, other)
    {
        return Ok(differs.values().set_indices().collect());
    }
    different_digests(one, other, &Field::new("values", one.data_type().clone(), true))
}

/// The rows in which the digests of the two columns differ, found by halving.
fn different_digests(one: &ArrayRef, other: &ArrayRef, field: &Field) -> Result<Vec<usize>> {
    let rows = one.len();
    if rows == 0 || digest(one, field)? == digest(other, field)? {
        return Ok(Vec::new());
    }
    if rows == 1 {
        return Ok(vec![0]);
    }
    let half = rows / 2;
    let mut differ = different_digests(&one.slice(0, half), &other.slice(0, half), field)?;
    let rest = rows - half;
    let second = different_digests(&one.slice(half, rest), &other.slice(half, rest), field)?;
    differ.extend(second.into_iter().map(|row| row + half));
    Ok(differ)
}

fn digest(rows: &ArrayRef, field: &Field) -> Result<Digest> {
    let mut digest = ColumnDigest::new(field)?;
    digest.update(rows)?;
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{Int64Array, ListArray, StructArray};
    use arrow::datatypes::{DataType, Int64Type};

    fn numbers(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn rows_that_differ_are_counted_and_nulls_apart() {
        let existing = numbers(&[Some(7), None, Some(8), Some(7), None]);
        let wanted = numbers(&[Some(7), Some(7), Some(7), Some(7), None]);
        let mut tally = Tally::of(&existing, &[], &wanted).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others, tally.same()), (5, 1, 1, 3));
        assert_eq!(tally.example, Some(("8".to_owned(), "7".to_owned())));
        tally.add(Tally::of(&wanted, &[], &wanted).unwrap());
        assert_eq!((tally.rows, tally.nulls, tally.others, tally.same()), (10, 1, 1, 8));
        let mut nulls = Tally::of(&existing.slice(1, 1), &[], &wanted.slice(1, 1)).unwrap();
        assert_eq!(nulls.example, Some(("null".to_owned(), "7".to_owned())));
        nulls.add(tally);
        assert_eq!(nulls.example, Some(("8".to_owned(), "7".to_owned())));
    }

    #[test]
    fn lists_are_compared_as_well() {
        let lists = |rows: Vec<Option<Vec<Option<i64>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows))
        };
        let existing = lists(vec![Some(vec![Some(1)]), Some(vec![None]), None, Some(vec![])]);
        let wanted = lists(vec![Some(vec![Some(1)]), Some(vec![Some(0)]), None, None]);
        let tally = Tally::of(&existing, &[], &wanted).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others), (4, 0, 2));
    }

    #[test]
    fn what_a_null_struct_holds_does_not_count() {
        let inner = numbers(&[Some(7), Some(8), Some(8)]);
        let fields = vec![Field::new("x", DataType::Int64, true)];
        let valid = Some(vec![true, false, true].into());
        let existing: ArrayRef =
            Arc::new(StructArray::try_new(fields.into(), vec![inner], valid).unwrap());
        let wanted = numbers(&[Some(7), Some(7), Some(7)]);
        let tally = Tally::of(&existing, &[0], &wanted).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others), (2, 0, 1));
    }
}
