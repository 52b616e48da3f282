//! What a command gives back.

use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::error::Result;
use crate::phase::Phase;
use crate::plan::{Nulled, Plan, SkippedValues, Strategy};
use crate::storage::traffic::StoreFigures;
use crate::table::history::{Other, RollbackPoint, Since};
use crate::tally::RunFigures;
use crate::transform::digest::Digest;

/// How a migration ended without an error.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one value a run")]
#[non_exhaustive]
pub enum Ended {
    /// The table was as asked already; nothing was written.
    Nothing(Box<Plan>),
    /// Staged and verified; `resume` swaps.
    Held(Held),
    /// Swapped, indexed, and looked at.
    Swapped(Report),
}

impl Ended {
    /// What `--json` prints of it.
    pub fn json(&self) -> Value {
        match self {
            Self::Nothing(plan) => json!({ "ended": "nothing", "plan": plan.json() }),
            Self::Held(held) => json!({ "ended": "held", "held": held }),
            Self::Swapped(report) => json!({ "ended": "swapped", "report": report }),
        }
    }
}

/// A migration that waits for `resume`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// The table.
    pub table: String,
    /// The migration's id.
    pub id: String,
    /// Rows staged.
    pub rows: u64,
    /// Values that did not go through and became null, as told to.
    pub values_nulled: Vec<Nulled>,
    /// Whether another run took it over while this one waited.
    pub taken_over: bool,
}

/// A migration that is done.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The table.
    pub table: String,
    /// The migration's id.
    pub id: String,
    /// What was done.
    pub changes: Vec<String>,
    /// Added columns that were there already.
    pub skipped: Vec<String>,
    /// How their values compare with what was asked.
    pub skipped_values: Vec<SkippedValues>,
    /// How it was carried out.
    pub strategy: Strategy,
    /// The version before the swap, which is the rollback point.
    pub version_before: u64,
    /// The version that is the swap.
    pub version_swapped: u64,
    /// The newest version, after indices were built.
    pub version_after: u64,
    /// The tag that keeps the rollback point.
    pub rollback_tag: String,
    /// Rows of the table.
    pub rows: u64,
    /// Fragments before.
    pub fragments_before: u64,
    /// Fragments after.
    pub fragments_after: u64,
    /// Bytes of the staged files.
    pub bytes_written: u64,
    /// How the staged files were verified: compared with what was made.
    pub verified: crate::settings::Verify,
    /// Bytes that were not read back for it, since the store confirmed them by its own checksum; 0 on a disk.
    pub bytes_confirmed: u64,
    /// Values that did not go through and became null, as told to.
    pub values_nulled: Vec<Nulled>,
    /// Rounds of catching up with writers after everything was staged.
    pub rounds: u64,
    /// Seconds from the start of the command to the swap; `None`, when an earlier run swapped.
    #[serde(rename = "swapped_after_seconds")]
    pub swapped_after: Option<f64>,
    /// Names of the indices that were built again.
    pub indices_rebuilt: Vec<String>,
    /// Names of the indices that are lost: as asked, or with what is taken back.
    pub indices_dropped: Vec<String>,
    /// The fields after, as text.
    pub fields: Vec<String>,
    /// Seconds by phase, in order.
    #[serde(serialize_with = "phases")]
    pub seconds: Vec<(Phase, f64)>,
    /// What was asked of the object store by then; `None` on a disk.
    pub store: Option<StoreFigures>,
    /// What those who go on writing to the table need to know.
    pub notes: Vec<String>,
    /// The first rows, as LanceDB's client reads them.
    #[serde(skip)]
    pub sample: Vec<RecordBatch>,
}

/// A migration that was dropped.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Aborted {
    /// The table.
    pub table: String,
    /// The migration's id.
    pub id: String,
    /// Pins of migrations that were not there any more, which is all that was removed; `id` has theirs.
    pub pins: u64,
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be removed, in words.
    pub left: Vec<String>,
}

/// What is known of a table's migrations.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TableStatus {
    /// The table.
    pub table: String,
    /// Its newest version.
    pub version: u64,
    /// The migration that is staged, if one is.
    pub staged: Option<StagedStatus>,
    /// Where it can be rolled back to, oldest first.
    pub rollback_points: Vec<PointStatus>,
    /// Versions that are kept for a migration that is not there; `abort` lets them go.
    pub pins: Vec<PinStatus>,
}

/// A version that is kept for a migration that is not there, or for a rollback point that was not given up to its end.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PinStatus {
    /// The migration's id.
    pub id: String,
    /// The version.
    pub version: u64,
    /// Whether it is of a rollback point: `finalize` ends it then, and `abort` otherwise.
    pub finalize: bool,
}

/// A staged migration.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StagedStatus {
    /// Its id.
    pub id: String,
    /// `running`, `held`, `interrupted`, `running or died` when that cannot be told without watching it,
    /// `swapped` when only the tidying up is left, or `unreadable` when its journal cannot be read: then nothing
    /// is known of what was asked.
    pub state: &'static str,
    /// The phase that it was last seen in.
    pub phase: Phase,
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it was last seen, by the store's clock.
    pub seen: DateTime<Utc>,
    /// Where it was last seen.
    pub host: String,
    /// What became of the swap, in words, when the run that tried it is gone.
    pub swap: Option<String>,
    /// Why its journal cannot be read, if it cannot.
    pub problem: Option<String>,
    /// The pinned version.
    pub source_version: u64,
    /// What was asked.
    pub changes: Vec<String>,
    /// Chunks done.
    pub chunks_done: u64,
    /// Chunks in all.
    pub chunks: u64,
    /// Rows done: those of whole chunks that are in the journal, which an interruption keeps.
    pub rows_done: u64,
    /// Rows in all.
    pub rows: u64,
    /// Whether a run of it goes on.
    pub alive: bool,
    /// How far that run was when it was last seen; `None` before its first beat.
    pub progress: Option<RunFigures>,
}

/// A rollback point.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct PointStatus {
    /// The migration's id.
    pub id: String,
    /// The version before the swap.
    pub version: u64,
    /// The version that is the swap.
    pub swapped: u64,
    /// Commits by others since.
    pub commits_since: u64,
    /// Whether there may be more of them: not all of the commits were looked at.
    pub commits_at_least: bool,
    /// Commits since, whosever they are.
    pub versions_since: u64,
    /// Columns that were added with a value, and are null in rows that were written since.
    pub nulls: Vec<NullsStatus>,
    /// Why those could not be counted, if they could not.
    pub nulls_unknown: Option<String>,
}

/// A column that was added with a value, and is null in rows that were written since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NullsStatus {
    /// The column.
    pub column: String,
    /// The rows.
    pub rows: u64,
    /// Whether there may be more of them.
    pub at_least: bool,
    /// The command that puts the value in place of the nulls.
    pub fill: String,
}

/// What is kept and not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unused {
    /// Data files, deletion files and files of indices.
    pub files: u64,
    /// Their bytes, and those of manifests and transactions.
    pub bytes: u64,
}

/// The version before the swap, put back.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RolledBack {
    /// The table.
    pub table: String,
    /// The migration that was taken back.
    pub id: String,
    /// The version that is the head again.
    pub restored: u64,
    /// The new head.
    pub version: u64,
    /// Others' commits that were discarded, as told to.
    pub discarded_commits: u64,
    /// Others' commits whose rows were carried back, as told to.
    pub kept_commits: u64,
    /// Names of the indices that the table had, and has no more.
    pub indices_dropped: Vec<String>,
    /// What only the versions that were taken back use, until `finalize`. `None`, where the way back is a
    /// swap of its own, or when it could not be told.
    pub unused: Option<Unused>,
}

/// A rollback point given up.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Finalized {
    /// The table.
    pub table: String,
    /// The migration's id.
    pub id: String,
    /// The version given up: the rollback point, or the swap that was rolled back.
    pub version: u64,
    /// Whether it is a swap that was rolled back.
    pub rolled_back: bool,
    /// Files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Older versions that no tag keeps and that are still there.
    pub older_versions: u64,
    /// The tags that keep what is given up, or older versions, oldest version first: what those hold stays.
    pub kept: Vec<KeptVersion>,
}

/// A version that no cleanup removes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct KeptVersion {
    /// The version.
    pub version: u64,
    /// The tag that is on it.
    pub tag: String,
}

/// The live table compared with its rollback point.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// The table.
    pub table: String,
    /// The migration's id.
    pub id: String,
    /// The rollback point's version.
    pub before: u64,
    /// The swapped version.
    pub swapped: u64,
    /// Rows.
    pub rows: u64,
    /// A digest for each column, equal on both sides.
    #[serde(serialize_with = "digests")]
    pub columns: Vec<(String, Digest)>,
    /// Commits by others since, which were not looked at.
    pub commits_since: u64,
    /// Whether there may be more of them.
    pub commits_at_least: bool,
}

fn phases<S: Serializer>(all: &[(Phase, f64)], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(all.iter().map(|(name, took)| json!({ "phase": name, "seconds": took })))
}

fn digests<S: Serializer>(all: &[(String, Digest)], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(all.iter().map(|(name, digest)| json!({ "column": name, "digest": digest })))
}

/// Seconds of `time`, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `3 commits (Append, Delete)`.
pub(crate) fn commits_text(others: &[Other]) -> String {
    let mut names: Vec<&str> = others.iter().map(|other| other.operation.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let plural = if others.len() == 1 { "" } else { "s" };
    format!("{} commit{plural} ({})", others.len(), names.join(", "))
}

impl PointStatus {
    /// The status of a point whose swap landed.
    pub(crate) fn of(
        point: &RollbackPoint,
        swapped: u64,
        since: Since,
        nulls: Result<Vec<NullsStatus>>,
    ) -> Self {
        let (nulls, nulls_unknown) = match nulls {
            Ok(nulls) => (nulls, None),
            Err(error) => (Vec::new(), Some(error.report(&[]).replace('\n', " "))),
        };
        Self {
            id: point.id.clone(),
            version: point.version,
            swapped,
            commits_since: since.others,
            commits_at_least: since.at_least,
            versions_since: since.commits,
            nulls,
            nulls_unknown,
        }
    }
}
