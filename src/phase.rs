//! The phases of a migration, in order.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a migration stands. Later phases compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Reading manifests and deciding; nothing is written.
    Plan,
    /// Streaming the source into staged fragments.
    Stage,
    /// Staging what others wrote meanwhile.
    CatchUp,
    /// Comparing the staged fragments with what was expected.
    Verify,
    /// Everything is staged and verified, and waits for `resume`.
    Hold,
    /// The one commit on the live table.
    Swap,
    /// Building indices: over what is staged, before the swap, or on the swapped table where that cannot be.
    Index,
    /// Swapped, indexed, staging table gone.
    Done,
}

impl Phase {
    /// The name used in logs, progress and the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Stage => "stage",
            Self::CatchUp => "catch-up",
            Self::Verify => "verify",
            Self::Hold => "hold",
            Self::Swap => "swap",
            Self::Index => "index",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
