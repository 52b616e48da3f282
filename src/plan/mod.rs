//! Decides what a migration does, from plain facts about a table. Same facts, same plan.

pub(crate) mod check;
pub(crate) mod cost;
pub(crate) mod explain;

use std::fmt;

use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkLimits, Signature, SourceFragment, cut};
use crate::error::Result;
use crate::plan::cost::Cost;
use crate::schema::change::Change;
use crate::schema::target::{IfExists, Target};

/// How a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Strategy {
    /// Nothing is left to do.
    Nothing,
    /// Streams everything into fresh fragments.
    Rewrite,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Rewrite => "rewrite",
        })
    }
}

/// What is asked of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What to do about added columns that are there already.
    pub if_exists: IfExists,
    /// Indices that may be lost.
    pub drop_indices: Vec<String>,
}

/// What the planner needs to know of a table.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The table's name.
    pub table: String,
    /// The version that the facts are of.
    pub version: u64,
    /// Its schema.
    pub schema: Schema,
    /// The highest field id that its files name.
    pub field_id_max: i32,
    /// The storage version of its data files.
    pub storage_version: ConcreteFileVersion,
    /// Its fragments, in row order.
    pub fragments: Vec<SourceFragment>,
    /// The runs of fragments that are staged already; they stay together.
    pub staged: Vec<Vec<Signature>>,
    /// Its indices, by name.
    pub indices: Vec<IndexFacts>,
    /// What Lance keeps beside rows that a rewrite would lose.
    pub state: State,
    /// Bytes free where the table is, if it is on a disk.
    pub free_bytes: Option<u64>,
}

/// What Lance keeps beside rows that a rewrite would lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct State {
    /// Rows written through a write-ahead log lie in its shards.
    pub mem_wal: bool,
    /// Row ids outlive a compaction.
    pub stable_row_ids: bool,
    /// Field ids are never used twice.
    pub non_reusable_field_ids: bool,
    /// Values lie in overlay files.
    pub overlays: bool,
    /// A compaction's row map is kept for indices that are behind.
    pub tagged_fragment_reuse: bool,
    /// The writer flags name something that this Lance does not know.
    pub unknown_writer_flags: bool,
}

/// An index, as far as a rewrite is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexFacts {
    /// Its name.
    pub name: String,
    /// The column that it is on.
    pub column: String,
    /// Its kind, as LanceDB names it.
    pub kind: String,
    /// Bytes of its files, if known.
    pub bytes: Option<u64>,
    /// Why it cannot be built again with the same parameters, if it cannot.
    pub unknown: Option<String>,
}

/// What becomes of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexFate {
    /// Built again after the swap, with the same parameters.
    Rebuild,
    /// Lost, as asked.
    Drop,
}

/// What a migration does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The table's name.
    pub table: String,
    /// The version that it was made from.
    pub version: u64,
    /// How it is carried out.
    pub strategy: Strategy,
    /// The schema before.
    pub before: Schema,
    /// The schema after, and where its columns come from.
    pub target: Target,
    /// The storage version of the staged files.
    pub storage_version: ConcreteFileVersion,
    /// The units of work, in row order.
    pub chunks: Vec<Chunk>,
    /// The indices and what becomes of each.
    pub indices: Vec<(IndexFacts, IndexFate)>,
    /// What it costs.
    pub cost: Cost,
}

/// Bytes after which a run of small fragments is closed, whatever its rows.
const CHUNK_BYTES_MAX: u64 = 4 << 30;

impl Plan {
    /// Plans `request` on a table of these `facts`.
    ///
    /// # Errors
    /// `Usage`, for a request that no table could take; `Refused`, for one that this table cannot.
    pub fn choose(
        facts: &Facts,
        request: &Request,
        rows_per_file: u64,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Self> {
        let target = Target::derive(
            &facts.schema,
            facts.field_id_max,
            &request.changes,
            request.if_exists,
            now,
        )?;
        let chunks = cut(
            &facts.fragments,
            &facts.staged,
            ChunkLimits { rows_max: rows_per_file, bytes_max: CHUNK_BYTES_MAX },
        );
        let indices = facts.indices.iter().map(|index| {
            let gone = index.column.split(", ").any(|column| {
                facts.schema.field(column).is_some() && target.schema.field(column).is_none()
            });
            let drop = gone || request.drop_indices.contains(&index.name);
            let fate = if drop { IndexFate::Drop } else { IndexFate::Rebuild };
            (index.clone(), fate)
        });
        let indices: Vec<_> = indices.collect();
        let plan = Self {
            table: facts.table.clone(),
            version: facts.version,
            strategy: if target.is_unchanged() { Strategy::Nothing } else { Strategy::Rewrite },
            before: facts.schema.clone(),
            storage_version: facts.storage_version,
            cost: Cost::of(facts, &target, &indices),
            target,
            chunks,
            indices,
        };
        check::run(facts, request, &plan)?;
        Ok(plan)
    }

    /// The rows of the table.
    pub fn rows(&self) -> u64 {
        self.chunks.iter().map(Chunk::rows).sum()
    }

    /// The changes that would take this plan's back from every row, those written after the swap
    /// included; `None`, when one of them cannot be taken back.
    pub fn inverse(&self) -> Option<Vec<Change>> {
        self.target.changes.iter().rev().map(Change::inverse).collect()
    }

    /// The names of the indices that are not built again.
    pub(crate) fn dropped_indices(&self) -> Vec<String> {
        let dropped = self.indices.iter().filter(|(_, fate)| *fate == IndexFate::Drop);
        dropped.map(|(index, _)| index.name.clone()).collect()
    }
}
