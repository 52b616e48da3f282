//! What producers gave for the first rows of a table.

use std::time::Duration;

use serde::Serialize;

use crate::plan::amounts::{count_text, counted};

/// What a producer gave for the first rows of a table, and how long all of them will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProducerTrial {
    /// The column.
    pub column: String,
    /// Rows that it was given.
    pub rows: u64,
    /// Seconds that they took, in one call after the other: the first often starts something.
    pub seconds: f64,
    /// Seconds that all rows of the table take at this rate, one call at a time.
    pub seconds_in_all: u64,
    /// One of the values, as text.
    pub example: Option<String>,
}

impl ProducerTrial {
    /// What `rows` of `all` took, in `seconds`.
    pub(crate) fn of(
        column: &str,
        rows: u64,
        seconds: f64,
        all: u64,
        example: Option<String>,
    ) -> Self {
        let millis = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis();
        let in_all = millis * u128::from(all) / u128::from(rows.max(1)) / 1_000;
        Self {
            column: column.to_owned(),
            rows,
            seconds,
            seconds_in_all: u64::try_from(in_all).unwrap_or(u64::MAX),
            example,
        }
    }

    /// The trial in words.
    pub fn text(&self) -> String {
        let Self { column, rows, seconds, seconds_in_all, example } = self;
        let rows = counted(*rows, "row");
        let all = time_text(*seconds_in_all);
        let example = example.as_ref().map(|text| format!(", such as {text}")).unwrap_or_default();
        format!(
            "`{column}`: {rows} in {seconds:.2} s, all in about {all} one call at a time{example}"
        )
    }
}

/// How the rows of a table find their keys in the other data of a join.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JoinTrial {
    /// Where the other data is.
    pub from: String,
    /// Its rows that have a key.
    pub rows: u64,
    /// Different keys among them.
    pub keys: u64,
    /// Rows that repeat a key.
    pub duplicates: u64,
    /// Rows of the table whose key is there.
    pub matched: u64,
    /// Rows of the table whose key is not there, or is null.
    pub missing: u64,
    /// The addresses of a few of them: where row ids are not stable, LanceDB's `_rowid`.
    pub examples: Vec<u64>,
}

impl JoinTrial {
    /// The trial in words.
    pub fn text(&self) -> String {
        let Self { from, rows, keys, duplicates, matched, missing, .. } = self;
        let (rows, keys) = (counted(*rows, "row"), counted(*keys, "key"));
        let (matched, missing) = (counted(*matched, "row"), count_text(*missing));
        let duplicates = match duplicates {
            0 => String::new(),
            more => format!(", {} repeat one", count_text(*more)),
        };
        format!(
            "'{from}': {rows} with {keys}{duplicates}; {matched} of the table found, {missing} missing{}",
            self.examples_text()
        )
    }

    /// A few of the rows that are missing, if there are any.
    pub(crate) fn examples_text(&self) -> String {
        let rows: Vec<_> = self.examples.iter().map(|row| format!("_rowid {row}")).collect();
        if rows.is_empty() { String::new() } else { format!(" (such as {})", rows.join(", ")) }
    }
}

fn time_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", count_text(seconds / 86_400)),
    }
}
