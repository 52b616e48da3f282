//! What is asked of a table.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::strategy::Strategy;
use crate::schema::{change::Change, target::IfExists};
use crate::settings::{OnBadValue, Preflight};

/// What is asked of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What to do about added columns that exist already.
    pub if_exists: IfExists,
    /// Indices that may be dropped.
    pub drop_indices: Vec<String>,
    /// The strategy that carries it out; `None` is the cheapest one that can.
    pub strategy: Option<Strategy>,
    /// The storage version of the data files, as `2.2`; `None` leaves it as it is.
    pub storage_version: Option<String>,
    /// Which rows stay: a condition over the source's columns, before any change.
    pub filter: Option<String>,
    /// Rows after which a file is closed. Where it is given, every row is written to a new file.
    pub rows_per_file: Option<u64>,
    /// What to do about values that a change cannot take over.
    pub on_bad_value: OnBadValue,
    /// How much of the data the changes are tried on.
    pub preflight: Preflight,
    /// Whether columns of the primary key or the clustering key may be changed.
    pub allow_key_change: bool,
    /// Whether an index may be dropped with its column without being named: going back gives up what was added since.
    pub allow_index_loss: bool,
}

impl Request {
    /// Checks everything that does not depend on the table.
    ///
    /// # Errors
    /// `Usage`, when nothing is asked for, or a number is out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.is_empty() {
            return Err(Error::usage("no change was asked for; try --add 'NAME:TYPE=LITERAL'"));
        }
        match self.rows_per_file {
            Some(0) => Err(Error::usage("rows per file must be at least 1")),
            Some(rows) if rows > u64::from(u32::MAX) => {
                Err(Error::usage("rows per file must be at most 4294967295"))
            }
            _ => Ok(()),
        }
    }

    /// The changes that undo all of this in every row, rows written after the swap included; `None`, when a part of it
    /// cannot be undone by changes.
    pub fn inverse(&self) -> Option<Vec<Change>> {
        // Only the rollback point has the rows that were left out and the values that became null.
        let lost = self.filter.is_some() || self.on_bad_value != OnBadValue::Fail;
        if lost || self.changes.is_empty() {
            return None;
        }
        let undone = self.changes.iter().rev().map(Change::inverse);
        undone.collect::<Option<Vec<_>>>().map(|undone| undone.concat())
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.storage_version.is_none()
            && self.filter.is_none()
            && self.rows_per_file.is_none()
            && self.strategy.is_none()
    }
}
