//! Values that a change cannot take over, as the data has them.

use serde::{Deserialize, Serialize};

use crate::plan::amounts::{count_text, counted};
use crate::schema::cast::Problem;

/// Values of a column that a change cannot take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
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
#[non_exhaustive]
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
        let (column, what) = (&self.column, problem_text(self.problem, self.count));
        let count = counted(self.count, "value");
        format!("column `{column}`: {count} {what}, such as {examples}")
    }
}

/// What is wrong with `count` values, after that count.
pub(crate) fn problem_text(problem: Problem, count: u64) -> String {
    let text = problem.text();
    if count == 1 { text.replacen("are ", "is ", 1) } else { text.to_owned() }
}

/// Values of a column that could not be taken over and became null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Nulled {
    /// The column's path.
    pub column: String,
    /// Why.
    pub problem: Problem,
    /// How many.
    pub count: u64,
    /// Whether it may be fewer by now: rows were deleted while the migration ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_most: bool,
}

impl Nulled {
    /// The same in words.
    pub fn text(&self) -> String {
        let Self { column, problem, count, at_most } = self;
        let most = if *at_most { "at most " } else { "" };
        let (count, what) = (counted(*count, "value"), problem_text(*problem, *count));
        format!("{most}{count} of `{column}` that {what} became null")
    }

    /// Counts `more` among `all`, one entry for each column and problem.
    pub(crate) fn add(all: &mut Vec<Self>, more: impl IntoIterator<Item = Self>) {
        for one in more {
            let known = all
                .iter_mut()
                .find(|known| known.column == one.column && known.problem == one.problem);
            match known {
                None => all.push(one),
                Some(known) => {
                    known.count += one.count;
                    known.at_most |= one.at_most;
                }
            }
        }
    }
}

/// How a column that exists already compares with the values that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedValues {
    /// The column's path.
    pub column: String,
    /// Its rows.
    pub rows: u64,
    /// Rows that hold another value.
    pub others: u64,
    /// Rows that are null where a value was asked for.
    pub nulls: u64,
    /// What `--fill` would put in place of nulls.
    pub fill: Option<String>,
}

impl SkippedValues {
    /// What differs, in words; `None`, when nothing does.
    pub fn text(&self) -> Option<String> {
        let Self { column, rows, others, nulls, fill } = self;
        let (rows, mut parts) = (counted(*rows, "row"), Vec::new());
        if *others > 0 {
            parts.push(format!("{} hold another value than was asked for", count_text(*others)));
        }
        if *nulls > 0 {
            let fill = fill.as_ref().map(|value| format!(" (--fill '{column}={value}')"));
            parts.push(format!("{} are null{}", count_text(*nulls), fill.unwrap_or_default()));
        }
        let parts = parts.join(", ");
        (!parts.is_empty()).then(|| format!("column `{column}`: of its {rows} {parts}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_null_is_counted_by_column_and_problem() {
        let nulled = |column: &str, problem, count, at_most| Nulled {
            column: column.to_owned(),
            problem,
            count,
            at_most,
        };
        let mut all = vec![nulled("a", Problem::Overflow, 2, false)];
        Nulled::add(
            &mut all,
            [
                nulled("a", Problem::Overflow, 3, true),
                nulled("a", Problem::Lossy, 1, false),
                nulled("b", Problem::Overflow, 1, false),
            ],
        );
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].text(), "at most 5 values of `a` that are out of range became null");
        let text = serde_json::to_string(&all[1]).unwrap();
        assert_eq!(text, r#"{"column":"a","problem":"lossy","count":1}"#);
        assert_eq!(serde_json::from_str::<Nulled>(&text).unwrap(), all[1]);
    }
}
