//! How a plan is carried out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a plan is carried out, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Strategy {
    /// Nothing is left to do.
    Nothing,
    /// Writes a manifest and no data.
    Metadata,
    /// Reads the columns that the changed ones are derived from, and writes one new data file for each fragment.
    Columns,
    /// Streams everything into fresh fragments.
    Rewrite,
}

impl Strategy {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Metadata => "metadata",
            Self::Columns => "columns",
            Self::Rewrite => "rewrite",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
