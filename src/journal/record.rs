//! What the journal holds: the header, the lease, and one record a chunk.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::chunk::{ChunkId, Origin};
use crate::plan::{Nulled, Request, Strategy};
use crate::process::{Presence, ProcessId, Running};
use crate::storage::{deletion::Deleted, files::DataFiles};
use crate::{phase::Phase, settings::Verify, transform::digest::Digest};

/// What the migration is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub layout: u32,
    /// What the digests in it are of: see [`DIGEST_VERSION`](crate::transform::digest::DIGEST_VERSION).
    pub digests: u32,
    /// The migration's id, in its files' names, its tag and its commits.
    pub id: String,
    /// The version of relance that began it.
    pub relance: String,
    pub began: DateTime<Utc>,
    /// The pinned version of the live table.
    pub source_version: u64,
    /// The version that was pinned first.
    pub first_version: u64,
    /// The highest field id that the table had ever used when it began: new fields come after it, whatever
    /// becomes of the files that name it.
    pub field_id_max: i32,
    /// What was asked, `now` spelled out.
    pub request: Request,
    pub strategy: Strategy,
    /// Rows after which a staged file is closed.
    pub rows_per_file: u64,
    pub chunks: u64,
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
    pub process: ProcessId,
    /// Tells two runs of one process apart.
    pub run: String,
    /// When it was last seen.
    pub beat: DateTime<Utc>,
    pub phase: Phase,
    /// Whether it let go in an orderly way.
    pub released: bool,
}

/// A staged file as it was when it was verified.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
pub(crate) struct StagedFile {
    /// Its name in the live table's `data/`.
    pub name: String,
    pub bytes: u64,
    /// When the store says that it was last modified.
    pub modified: DateTime<Utc>,
    /// Its inode, on a disk: the names of two files of one size and age may have been exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<String>,
    /// The tag that an object store gives it: another one is of other bytes, the same of the same. Dates are of whole seconds there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What its sidecars are, if it has any, as [`DataFiles::mark`](crate::storage::files::DataFiles::mark) tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<String>,
}

impl StagedFile {
    /// The file called `name`, which `files` tell of as `meta`, and whose `sidecars` have this mark.
    pub(crate) fn of(
        files: &dyn DataFiles,
        name: &str,
        meta: ObjectMeta,
        sidecars: Option<String>,
    ) -> Self {
        let (name, bytes, modified) = (name.to_owned(), meta.size, meta.last_modified);
        let (inode, tag) = if files.has_tags() { (None, meta.e_tag) } else { (meta.e_tag, None) };
        Self { name, bytes, modified, inode, tag, sidecars }
    }

    /// Whether nothing but the tag tells it from `other`: a store may write tags differently in a listing and elsewhere.
    pub(crate) fn differs_by_tag_alone(&self, other: &Self) -> bool {
        let untagged = |file: &Self| Self { tag: None, ..file.clone() };
        self != other && untagged(self) == untagged(other)
    }
}

impl PartialEq for StagedFile {
    fn eq(&self, other: &Self) -> bool {
        let same_size = self.name == other.name && self.bytes == other.bytes;
        let same_age = self.modified == other.modified && self.inode == other.inode;
        let same = match (&self.tag, &other.tag) {
            (Some(tag), Some(other)) => tag == other,
            _ => same_age,
        };
        same_size && same && self.sidecars == other.sidecars
    }
}

/// A chunk that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRecord {
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
    /// A digest for each column of the expected rows in its files; none, where a store copied its files inside itself and
    /// nobody read them: they can only be staged again then, and not verified.
    pub digests: Vec<Digest>,
    /// Whether those of the columns that stay as they are are digests of their pages, which were copied.
    pub copied: bool,
    /// How its files were compared with the digests, if they were.
    pub verified: Option<Verify>,
    /// Bytes of its files that were not read back for it, since the store confirmed them by its own checksum.
    #[serde(default, skip_serializing_if = "is_none")]
    pub confirmed: u64,
}

/// Whether there are none of them.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(bytes: &u64) -> bool {
    *bytes == 0
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

    /// Whether it was verified, and less than is `asked`.
    pub(crate) fn is_verified_less_than(&self, asked: Verify) -> bool {
        match asked {
            Verify::Quick => false,
            Verify::Full => self.verified == Some(Verify::Quick),
            Verify::Read => self.verified == Some(Verify::Quick) || self.confirmed > 0,
        }
    }

    /// Whether it is known what its files have to read back as.
    pub(crate) fn is_verifiable(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Rows that are not deleted.
    pub(crate) fn rows_left(&self) -> u64 {
        self.rows.saturating_sub(self.deleted)
    }
}

/// What can be told of a run from its process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// It let go, or its process is gone.
    Dead,
    /// Only when it was last seen tells.
    Unknown,
}

impl Lease {
    /// Whether `later` says nothing new but the time.
    pub(crate) fn stands_at(&self, later: &Self) -> bool {
        *self == Self { beat: self.beat, ..later.clone() }
    }

    /// What can be told of its run from the process `here`.
    pub(crate) fn life(&self, here: &ProcessId) -> Life {
        if self.released {
            return Life::Dead;
        }
        match self.process.presence(here) {
            Presence::Running => Life::Alive,
            Presence::Gone => Life::Dead,
            Presence::Own if !Running::is(&self.run) => Life::Dead,
            Presence::Own | Presence::Elsewhere => Life::Unknown,
        }
    }
}

/// When a run was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastSeen {
    /// Lately: it is alive.
    Lately,
    /// Too long ago: it is dead.
    LongAgo,
    /// In a time to come: the clock that says so was put back since, and it has to be watched.
    InTheFuture,
}

impl LastSeen {
    /// What was last seen `age` ago, by the clock that dated it.
    pub(crate) fn of(age: TimeDelta) -> Self {
        if age >= LEASE_TIME {
            Self::LongAgo
        } else if age <= -LEASE_TIME {
            Self::InTheFuture
        } else {
            Self::Lately
        }
    }
}

/// A run that was not seen for this long is taken for dead. Runs are seen at least every few seconds.
pub(crate) const LEASE_TIME: TimeDelta = TimeDelta::seconds(60);

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_lease_is_held_by_the_living() {
        let here = ProcessId { host: "here".to_owned(), ..ProcessId::current() };
        let of = |process: &ProcessId, released| {
            let (process, run, beat) = (process.clone(), "r".to_owned(), DateTime::UNIX_EPOCH);
            Lease { process, run, beat, phase: Phase::Stage, released }.life(&here)
        };
        let gone = ProcessId { pid: u32::MAX, instance: Some(Uuid::nil()), ..here.clone() };
        let there = ProcessId { host: "there".to_owned(), ..gone.clone() };
        if cfg!(target_os = "linux") {
            let alive = ProcessId { pid: 1, started: None, ..gone.clone() };
            assert_eq!(of(&alive, false), Life::Alive, "a slow run on this machine");
            assert_eq!(of(&gone, false), Life::Dead, "a run that was killed");
        }
        assert_eq!(of(&there, false), Life::Unknown, "a run elsewhere");
        assert_eq!(of(&there, true), Life::Dead, "a run that let go");
        assert_eq!(of(&here, false), Life::Dead, "a run of this process that is over");
        let running = Running::start("r");
        assert_eq!(of(&here, false), Life::Unknown, "a run of this process, which may be stuck");
        drop(running);
        let mac = ProcessId { boot: None, ..gone };
        assert_eq!(of(&mac, false), Life::Unknown, "where processes cannot be seen");
    }

    #[test]
    fn what_was_seen_in_the_future_is_watched() {
        let of = |seconds| LastSeen::of(TimeDelta::seconds(seconds));
        assert_eq!([of(-59), of(0), of(59)], [LastSeen::Lately; 3]);
        assert_eq!([of(60), of(86_400)], [LastSeen::LongAgo; 2]);
        assert_eq!([of(-60), of(-86_400)], [LastSeen::InTheFuture; 2]);
    }
}
