//! What comes from elsewhere, for the rows of a batch.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt8Array};
use arrow::compute::filter;

use crate::error::{Doing, Result};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Given {
    /// It has values, which may be null.
    Value = 0,
    /// Its producer failed, or gave no value of the column. Its values are null.
    Bad = 1,
    /// Its key is not in the other data. Its values are null.
    Missing = 2,
}

/// What comes from elsewhere, for the rows of a batch: the values of each output, and what became of each row.
#[derive(Debug, Clone)]
pub(crate) struct Provided {
    pub values: Vec<ArrayRef>,
    /// [`Given`], by its number.
    pub given: UInt8Array,
}

impl Provided {
    /// Those of the rows that `kept` has.
    pub(crate) fn filtered(&self, kept: &BooleanArray) -> Result<Self> {
        let doing = || "leave out rows".to_owned();
        let values = self.values.iter().map(|values| filter(values, kept).doing(doing));
        let given = filter(&self.given, kept).doing(doing)?;
        Ok(Self { values: values.collect::<Result<_>>()?, given: given.to_data().into() })
    }

    /// The rows of which `given` became.
    pub(crate) fn that_are(&self, given: Given) -> BooleanArray {
        let is = self.given.values().iter().map(|one| *one == given as u8);
        BooleanArray::from(is.collect::<Vec<_>>())
    }
}
