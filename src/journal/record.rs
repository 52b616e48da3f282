//! What the journal holds: the header, the lease, and one record a chunk.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::chunk::{ChunkId, Origin};
use crate::deletion::Deleted;
use crate::digest::Digest;
use crate::phase::Phase;
use crate::plan::{Nulled, Request, Strategy};
use crate::process::{Presence, ProcessId, Running};
use crate::settings::Verify;

/// What the migration is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The layout of the journal.
    pub layout: u32,
    /// The migration's id, in its files' names, its tag and its commits.
    pub id: String,
    /// The version of relance that began it.
    pub relance: String,
    /// When it began.
    pub began: DateTime<Utc>,
    /// The pinned version of the live table.
    pub source_version: u64,
    /// The version that was pinned first.
    pub first_version: u64,
    /// What was asked, `now` spelled out.
    pub request: Request,
    /// How it is carried out.
    pub strategy: Strategy,
    /// Rows after which a staged file is closed.
    pub rows_per_file: u64,
    /// Chunks in all.
    pub chunks: u64,
    /// Rows in all.
    pub rows: u64,
    /// What it takes back, if it is the way back from a swap.
    #[serde(default)]
    pub undo: Option<Undo>,
}

/// A swap that a migration takes back without losing what was written since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undo {
    /// The id of the migration that is taken back.
    pub id: String,
    /// Its rollback point.
    pub version: u64,
}

/// Who runs the migration, and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The process.
    pub process: ProcessId,
    /// Tells two runs of one process apart.
    pub run: String,
    /// When it was last seen.
    pub beat: DateTime<Utc>,
    /// Where it stood.
    pub phase: Phase,
    /// Whether it let go in an orderly way.
    pub released: bool,
}

/// A staged file as it was when it was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// Its name in the live table's `data/`.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// When the store says that it was last modified.
    pub modified: DateTime<Utc>,
    /// Its inode, on a disk: the names of two files of one size and age may have been exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<String>,
}

impl StagedFile {
    /// The file called `name` that a listing has as `meta`.
    pub(crate) fn of(name: &str, meta: ObjectMeta) -> Self {
        let (name, bytes, modified) = (name.to_owned(), meta.size, meta.last_modified);
        Self { name, bytes, modified, inode: meta.e_tag }
    }
}

/// A chunk that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRecord {
    /// Which.
    pub chunk: ChunkId,
    /// The source fragments that it holds, in order, as they were when it was last brought up to date.
    pub origins: Vec<Origin>,
    /// Rows in its files.
    pub rows: u64,
    /// Rows of the source that were left out.
    #[serde(default)]
    pub left_out: u64,
    /// Values of the rows in its files that became null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nulled: Vec<Nulled>,
    /// Rows of its files that are deleted.
    pub deleted: u64,
    /// Which, by the name of the file that they are in: in a deletion file of the staging table.
    pub deletions: BTreeMap<String, Deleted>,
    /// The source fragment that each file stands beside, by the file's name, where it stands beside one.
    pub beside: BTreeMap<String, u64>,
    /// Its files, in row order.
    pub files: Vec<StagedFile>,
    /// A digest for each column of the expected rows in its files.
    pub digests: Vec<Digest>,
    /// Whether those of the columns that stay as they are are digests of their pages, which were copied.
    pub copied: bool,
    /// How its files were compared with the digests, if they were.
    pub verified: Option<Verify>,
}

impl ChunkRecord {
    /// Has the file `old` called `new`, in whatever is known of it but its own entry.
    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        if let Some(deleted) = self.deletions.remove(old) {
            self.deletions.insert(new.to_owned(), deleted);
        }
        if let Some(fragment) = self.beside.remove(old) {
            self.beside.insert(new.to_owned(), fragment);
        }
    }

    /// Rows that are not deleted.
    pub(crate) fn rows_left(&self) -> u64 {
        self.rows.saturating_sub(self.deleted)
    }
}

impl Lease {
    /// Whether another run must be taken for alive, seen `now` from the process `here`: its process is
    /// on this machine; or it was seen within the lease's time, where that cannot be told.
    pub(crate) fn is_held(&self, now: DateTime<Utc>, here: &ProcessId) -> bool {
        let seen = now - self.beat < LEASE_TIME;
        !self.released
            && match self.process.presence(here) {
                Presence::Running => true,
                Presence::Gone => false,
                Presence::Own => seen && Running::is(&self.run),
                Presence::Elsewhere => seen,
            }
    }
}

/// A run that was not seen for this long is taken for dead. Runs are seen at least every few seconds.
const LEASE_TIME: TimeDelta = TimeDelta::seconds(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(process: &ProcessId, seconds_ago: i64, released: bool) -> bool {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let lease = Lease {
            process: process.clone(),
            run: "r".to_owned(),
            beat: now - TimeDelta::seconds(seconds_ago),
            phase: Phase::Stage,
            released,
        };
        lease.is_held(now, &ProcessId::current())
    }

    #[test]
    fn a_lease_is_held_by_the_living() {
        let here = ProcessId::current();
        let gone = ProcessId { pid: u32::MAX, ..here.clone() };
        let there = ProcessId { host: "there".to_owned(), ..here.clone() };
        if cfg!(target_os = "linux") {
            let alive = ProcessId { pid: 1, started: None, ..here.clone() };
            assert!(held(&alive, 500, false), "a slow run on this machine");
            assert!(!held(&gone, 1, false), "a run that was killed");
        }
        assert!(held(&there, 10, false), "a run elsewhere, seen lately");
        assert!(!held(&there, 500, false), "a run elsewhere, not seen");
        assert!(!held(&there, 1, true), "a run that let go");
        assert!(!held(&here, 1, false), "a run of this process that is over");
        let running = Running::start("r");
        assert!(held(&here, 1, false), "a run of this process");
        drop(running);
    }
}
