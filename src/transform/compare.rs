//! Counts the rows in which a column differs from what would have been made.

use std::iter::repeat_n;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::filter;
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::Field;

use crate::error::{Context, Result};
use crate::transform::digest::{ColumnDigest, Digest};
use crate::transform::evaluate::value_text;

/// How the rows of a column compare with what would have been made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Rows.
    pub rows: u64,
    /// Those that are null, where a value would have been made.
    pub nulls: u64,
    /// Those that hold another value.
    pub others: u64,
    /// One of the latter, or of the former: what is there, and what would have been made.
    pub example: Option<(String, String)>,
}

impl Tally {
    /// Compares `is`, of which the column lies `inside` of structs, with what would have been `made`. Rows in
    /// which such a struct is null do not count.
    ///
    /// # Errors
    /// `Failed`, when the two are not of one type.
    pub(crate) fn of(is: &ArrayRef, inside: &[usize], made: &ArrayRef) -> Result<Self> {
        let doing = || "compare what is there".to_owned();
        let (mut is, around) = descend(is, inside);
        let mut made = ArrayRef::clone(made);
        if let Some(around) = around.filter(|around| around.null_count() > 0) {
            let there = BooleanArray::new(around.into_inner(), None);
            is = filter(&is, &there).doing(doing)?;
            made = filter(&made, &there).doing(doing)?;
        }
        let mut tally = Self { rows: is.len() as u64, ..Self::default() };
        let (nulls, mut first_null) = (is.logical_nulls(), None);
        for row in different(&is, &made)?.values().set_indices() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                tally.nulls += 1;
                first_null = first_null.or(Some(row));
            } else {
                tally.others += 1;
                if tally.example.is_none() {
                    tally.example = Some((value_text(&is, row), value_text(&made, row)));
                }
            }
        }
        if let (None, Some(row)) = (&tally.example, first_null) {
            tally.example = Some(("null".to_owned(), value_text(&made, row)));
        }
        Ok(tally)
    }

    /// Rows that hold what would have been made.
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
fn different(one: &ArrayRef, other: &ArrayRef) -> Result<BooleanArray> {
    if !one.data_type().is_nested()
        && let Ok(found) = distinct(one, other)
    {
        return Ok(found);
    }
    let mut found = Vec::with_capacity(one.len());
    mark(one, other, &Field::new("values", one.data_type().clone(), true), &mut found)?;
    Ok(BooleanArray::from(found))
}

/// Adds to `found` whether each row differs: rows of one digest are the same, others are halved.
fn mark(one: &ArrayRef, other: &ArrayRef, field: &Field, found: &mut Vec<bool>) -> Result<()> {
    let rows = one.len();
    if rows == 0 || digest(one, field)? == digest(other, field)? {
        found.extend(repeat_n(false, rows));
        return Ok(());
    }
    if rows == 1 {
        found.push(true);
        return Ok(());
    }
    let half = rows / 2;
    mark(&one.slice(0, half), &other.slice(0, half), field, found)?;
    mark(&one.slice(half, rows - half), &other.slice(half, rows - half), field, found)
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
        let is = numbers(&[Some(7), None, Some(8), Some(7), None]);
        let made = numbers(&[Some(7), Some(7), Some(7), Some(7), None]);
        let mut tally = Tally::of(&is, &[], &made).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others, tally.same()), (5, 1, 1, 3));
        assert_eq!(tally.example, Some(("8".to_owned(), "7".to_owned())));
        tally.add(Tally::of(&made, &[], &made).unwrap());
        assert_eq!((tally.rows, tally.nulls, tally.others, tally.same()), (10, 1, 1, 8));
        let mut nulls = Tally::of(&is.slice(1, 1), &[], &made.slice(1, 1)).unwrap();
        assert_eq!(nulls.example, Some(("null".to_owned(), "7".to_owned())));
        nulls.add(tally);
        assert_eq!(nulls.example, Some(("8".to_owned(), "7".to_owned())));
    }

    #[test]
    fn lists_are_compared_as_well() {
        let lists = |rows: Vec<Option<Vec<Option<i64>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows))
        };
        let is = lists(vec![Some(vec![Some(1)]), Some(vec![None]), None, Some(vec![])]);
        let made = lists(vec![Some(vec![Some(1)]), Some(vec![Some(0)]), None, None]);
        let tally = Tally::of(&is, &[], &made).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others), (4, 0, 2));
    }

    #[test]
    fn what_a_null_struct_holds_does_not_count() {
        let inner = numbers(&[Some(7), Some(8), Some(8)]);
        let fields = vec![Field::new("x", DataType::Int64, true)];
        let valid = Some(vec![true, false, true].into());
        let is: ArrayRef =
            Arc::new(StructArray::try_new(fields.into(), vec![inner], valid).unwrap());
        let made = numbers(&[Some(7), Some(7), Some(7)]);
        let tally = Tally::of(&is, &[0], &made).unwrap();
        assert_eq!((tally.rows, tally.nulls, tally.others), (2, 0, 1));
    }
}
