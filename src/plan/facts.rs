//! What the planner needs to know of a table.

use std::collections::BTreeSet;

use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use serde::Serialize;

use crate::chunk::{Signature, SourceFragment};
use crate::plan::requests::Commits;

/// What the planner needs to know of a table.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub table: String,
    pub version: u64,
    pub schema: Schema,
    /// The highest field id that its files name.
    pub field_id_max: i32,
    /// The storage version of new data files.
    pub storage_version: ConcreteFileVersion,
    /// The storage versions of its data files.
    pub file_versions: BTreeSet<String>,
    /// Its fragments, in row order.
    pub fragments: Vec<SourceFragment>,
    /// The runs of fragments that are staged already, which stay together as chunks.
    pub staged: Vec<Vec<Signature>>,
    pub indices: Vec<IndexFacts>,
    pub state: TableState,
    /// Whether it lies in an object store, where every request takes its time.
    pub in_store: bool,
    /// Whether that store has to be tried before anybody relies on its commits.
    pub commits: Commits,
    /// Whether that store confirms what it was sent, so that little is read back, and copies parts inside itself.
    pub speaks_s3: bool,
    /// Bytes free where the table is, if it is on a disk.
    pub free_bytes: Option<u64>,
}

impl Facts {
    pub(super) fn rows(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.rows).sum()
    }

    /// Bytes of all data files.
    pub(super) fn bytes(&self) -> u64 {
        self.fragments.iter().map(|fragment| fragment.bytes).sum()
    }
}

/// What Lance keeps beside rows that a rewrite would lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct TableState {
    /// Rows that were written through a write-ahead log lie in the shards of a `MemWAL` index.
    pub mem_wal: bool,
    /// Rows keep their ids in a compaction.
    pub stable_row_ids: bool,
    /// Field ids are never used twice.
    pub non_reusable_field_ids: bool,
    /// Values lie in overlay files.
    pub overlays: bool,
    /// A compaction's map of rows is kept for indices that have not followed it yet.
    pub tagged_fragment_reuse: bool,
    /// The writer flags have one that this version of Lance does not know.
    pub unknown_writer_flags: bool,
    /// Its manifests are named so that a version can be prepared before it is published.
    pub detachable: bool,
}

/// An index, as far as a migration is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexFacts {
    /// Its name.
    pub name: String,
    /// The column that it is on.
    pub column: String,
    /// Its kind, as LanceDB names it.
    pub kind: String,
    /// Bytes of its files, if known.
    pub bytes: Option<u64>,
    /// The parts that it cuts each vector into, where it does that.
    pub sub_vectors: Option<usize>,
    /// Why its parameters cannot be known, if they cannot: it could not be built again as it was.
    pub unknown: Option<String>,
}
