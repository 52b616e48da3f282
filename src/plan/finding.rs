//! Values that a change cannot take over, as they were found in the data.

use serde::Serialize;

use crate::plan::explain::count_text;
use crate::schema::cast::Problem;

/// Values of a column that a change cannot take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The column's path.
    pub column: String,
    /// Why.
    pub problem: Problem,
    /// How many.
    pub count: u64,
    /// A few of them.
    pub examples: Vec<Example>,
}

/// A value, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The row's address: the fragment's id in the upper 32 bits, the row's place in it in the lower.
    /// Where row ids are not stable it is LanceDB's `_rowid`.
    pub row: u64,
    /// The value as text.
    pub value: String,
}

impl Finding {
    /// The finding in words.
    pub fn text(&self) -> String {
        let examples =
            self.examples.iter().map(|one| format!("{} (_rowid {})", one.value, one.row));
        let examples = examples.collect::<Vec<_>>().join(", ");
        let (column, count, what) = (&self.column, count_text(self.count), self.problem.text());
        format!("column `{column}`: {count} values {what}, such as {examples}")
    }
}
