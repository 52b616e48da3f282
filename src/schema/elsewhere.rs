//! Values that come from elsewhere: a producer computes them from other columns, or they are joined by a key.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field as ArrowField};
use serde::{Deserialize, Serialize};

use crate::schema::column::Column;
use crate::schema::path::{part, typed};
use crate::schema::stored;

/// Rows of a producer's batch, if nothing else is asked.
pub(crate) const PRODUCED_ROWS: u32 = 256;

/// Field metadata that names what a column's values were computed by: the `--by-version` of the migration.
pub(crate) const BY_VERSION: &str = "relance:by-version";

/// A column whose values a producer gives: record batches of the inputs go in, one array of the type comes out for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produce {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type", with = "stored::one", default = "no_type")]
    pub data_type: DataType,
    /// Whether it may hold nulls. A column that exists stays as it is.
    pub nullable: bool,
    /// Its field metadata, such as the extension type that its values have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is a column that exists, whose values, and whose type, become these.
    pub replaces: bool,
    /// The name under which a column that is replaced stays beside the new one.
    #[serde(default)]
    pub keep_old: Option<String>,
    /// What gives the values.
    pub by: By,
    /// The columns that the producer is given, after the changes before this one.
    pub inputs: Vec<String>,
    /// What is computed, as the user names it: a migration goes on only with the same.
    #[serde(default)]
    pub version: Option<String>,
    /// Rows that the producer is given at once, at most.
    #[serde(default = "produced_rows")]
    pub batch_rows: u32,
    /// The entry of the schema metadata `embedding_functions` that tells LanceDB of it, as JSON.
    #[serde(default)]
    pub embedding: Option<String>,
}

fn no_type() -> DataType {
    DataType::Null
}

fn produced_rows() -> u32 {
    PRODUCED_ROWS
}

impl Produce {
    /// Whether `settled` is this column, by whatever computes the same: its version tells, or, where there is none, what
    /// gives the values.
    pub(crate) fn asks(&self, settled: &Self) -> bool {
        let by = self.version.is_some() || self.by == settled.by;
        let null = self.replaces || self.nullable == settled.nullable;
        (&self.name, &self.data_type, &self.metadata, &self.keep_old, &self.inputs, &self.version)
            == (
                &settled.name,
                &settled.data_type,
                &settled.metadata,
                &settled.keep_old,
                &settled.inputs,
                &settled.version,
            )
            && (self.replaces, &self.embedding) == (settled.replaces, &settled.embedding)
            && by
            && null
    }
}

/// What gives values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum By {
    /// A program, by its command line: it reads an Arrow IPC stream on stdin and writes one to stdout.
    Program(String),
    /// A function of the process that runs the migration, by its name, which is for people: the function itself is given
    /// with [`Migration::producer`](crate::Migration::producer).
    Function(String),
}

/// Columns that are taken over from other data: a row gets the values of the row there that has the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Where the other data is: a path or URI, with `*` for many files, or the name of a table of the database.
    pub from: String,
    /// The columns of the table, and of the other data, that make up the key.
    pub on: Vec<(String, String)>,
    /// The columns that are taken over.
    pub take: Vec<Take>,
    /// What becomes of a row whose key is not there.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// What becomes of a key that is there more than once.
    #[serde(default)]
    pub on_duplicate: OnDuplicate,
}

/// A column that is taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Its name in the table. A column that exists keeps its type, and its nulls if it allows any.
    pub name: String,
    /// Its name in the other data.
    pub from: String,
    /// Its type there, once that is known.
    #[serde(rename = "type", with = "stored::some", default)]
    pub data_type: Option<DataType>,
    /// Whether the table has it already, once that is known.
    #[serde(default)]
    pub exists: bool,
}

/// What becomes of a row whose key is not in the other data, or is null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnMissing {
    /// The migration is refused.
    #[default]
    Error,
    /// Its values are null.
    Null,
    /// A column that exists keeps its value.
    Keep,
}

/// What becomes of a key that the other data has more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnDuplicate {
    /// The migration is refused.
    #[default]
    Error,
    /// The first row counts, in the order of the files' names and of their rows.
    First,
    /// The last row counts.
    Last,
}

impl Join {
    /// Whether `settled` is this join, with all types.
    pub(crate) fn asks(&self, settled: &Self) -> bool {
        let take = |join: &Self| -> Vec<(String, String)> {
            join.take.iter().map(|take| (take.name.clone(), take.from.clone())).collect()
        };
        let from = self.from == settled.from || (self.is_spooled() && settled.is_spooled());
        (&self.on, self.on_missing, self.on_duplicate)
            == (&settled.on, settled.on_missing, settled.on_duplicate)
            && take(self) == take(settled)
            && from
    }

    /// Whether its data was written to a file by the Python package, which gives that a name of its own each time.
    fn is_spooled(&self) -> bool {
        let name = self.from.rsplit(['/', '\\']).next().unwrap_or_default();
        name.starts_with("relance-join-")
    }

    /// The join in words.
    pub(crate) fn text(&self) -> String {
        let pair = |(name, from): (&String, &String)| {
            if name == from {
                typed(&part(name)).clone()
            } else {
                format!("{}={}", typed(&part(name)), typed(&part(from)))
            }
        };
        let on: Vec<_> = self.on.iter().map(|(name, from)| pair((name, from))).collect();
        let take: Vec<_> = self.take.iter().map(|take| pair((&take.name, &take.from))).collect();
        format!("join '{}' on {} take {}", self.from, on.join(","), take.join(","))
    }
}

/// What comes from elsewhere for one change, and from which columns.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    pub from: Source,
    /// The columns that it is made of, by the names that it knows them by.
    pub inputs: Vec<(ArrowField, Column)>,
    /// The columns that it gives.
    pub outputs: Vec<ArrowField>,
}

/// Where values come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Producer(Produce),
    Join(Join),
}

impl Elsewhere {
    /// The column that it is told by.
    pub(crate) fn name(&self) -> &str {
        match &self.from {
            Source::Producer(produce) => &produce.name,
            Source::Join(join) => join.take.first().map_or("", |take| take.name.as_str()),
        }
    }

    /// Rows that are computed at once.
    pub(crate) fn batch_rows(&self) -> u32 {
        match &self.from {
            Source::Producer(produce) => produce.batch_rows.max(1),
            Source::Join(_) => PRODUCED_ROWS,
        }
    }
}
