//! Decides what a migration does, from plain facts about a table. Same facts, same plan.

pub(crate) mod catchup;
pub(crate) mod check;
pub(crate) mod copies;
pub(crate) mod cost;
pub(crate) mod explain;
pub(crate) mod finding;
pub(crate) mod fragment_ids;
pub(crate) mod strategy;
pub(crate) mod tuning;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkLimits, Signature, SourceFragment, cut};
use crate::error::{Error, Result};
use crate::plan::cost::Cost;
pub use crate::plan::finding::{Example, Finding, Nulled, SkippedValues};
pub use crate::plan::strategy::Strategy;
use crate::plan::strategy::{Choice, choose};
use crate::schema::change::Change;
use crate::schema::sql::Sql;
use crate::schema::target::{IfExists, Target};
use crate::settings::{OnBadValue, Preflight, ROWS_PER_FILE, Width};
use crate::storage_version::abilities;
use crate::transform::Transform;

/// What is asked of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// What to do about added columns that are there already.
    pub if_exists: IfExists,
    /// Indices that may be lost.
    pub drop_indices: Vec<String>,
    /// How it is carried out; `None` is the cheapest way.
    pub strategy: Option<Strategy>,
    /// The storage version of the data files, as `2.2`; `None` leaves it as it is.
    pub storage_version: Option<String>,
    /// Which rows stay: a condition over the columns as they were before the changes.
    pub filter: Option<String>,
    /// Rows after which a file is closed; asked for, every row is written anew.
    pub rows_per_file: Option<u64>,
    /// What is done about values that a change cannot take over.
    pub on_bad_value: OnBadValue,
    /// How much of the data the changes are tried on.
    pub preflight: Preflight,
    /// Whether columns of the primary key or the clustering key may be changed.
    pub allow_key_change: bool,
    /// Whether indices may be lost with their columns that are not among those that may: a way back gives
    /// up what came after.
    pub allow_index_loss: bool,
}

impl Request {
    /// Checks what does not depend on the table.
    ///
    /// # Errors
    /// `Usage`, when nothing is asked, or something out of range.
    pub fn validate(&self) -> Result<()> {
        if self.is_empty() {
            return Err(Error::usage("no change was asked for; try --add 'NAME:TYPE=LITERAL'"));
        }
        match self.rows_per_file {
            Some(0) => Err(Error::usage("rows per file must be at least 1")),
            Some(rows) if rows > u64::from(u32::MAX) => {
                Err(Error::usage("rows per file must be at most 4294967295"))
            }
            _ => Ok(()),
        }
    }

    /// The changes that would take all of this back from every row, those written after the swap included;
    /// `None`, when something of it cannot be taken back so.
    pub fn inverse(&self) -> Option<Vec<Change>> {
        // Rows that were left out and values that became null are in the rollback point only.
        let lost = self.filter.is_some() || self.on_bad_value != OnBadValue::Fail;
        if lost || self.changes.is_empty() {
            return None;
        }
        self.changes.iter().rev().map(Change::inverse).collect()
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.storage_version.is_none()
            && self.filter.is_none()
            && self.rows_per_file.is_none()
            && self.strategy.is_none()
    }
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
    /// The storage version of new data files.
    pub storage_version: ConcreteFileVersion,
    /// The storage versions of its data files.
    pub file_versions: BTreeSet<String>,
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
    /// Manifests are named so that versions can be prepared detached.
    pub detachable: bool,
}

/// An index, as far as a migration is concerned.
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
    /// As it is.
    Keep,
    /// Built again with the same parameters: its rows are others, or its column's values are, or another
    /// column has its column's name.
    Rebuild,
    /// Lost: as asked, or with its column, which has to be asked for too.
    Drop,
}

/// An index that is built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rebuild {
    /// Its name.
    pub name: String,
    /// The column that it is on, as that is called in the target.
    pub column: String,
    /// Whether the column's values are others.
    pub other_values: bool,
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
    /// Why, and why not otherwise.
    pub choice: Choice,
    /// The schema before.
    pub before: Schema,
    /// The schema after, and where its columns come from.
    pub target: Target,
    /// The storage version of the staged files.
    pub storage_version: ConcreteFileVersion,
    /// The storage version that new files had before.
    pub storage_version_before: ConcreteFileVersion,
    /// The units of work, in row order; none, where nothing is staged.
    pub chunks: Vec<Chunk>,
    /// Rows of the table.
    pub rows: u64,
    /// Fragments of the table.
    pub fragments: u64,
    /// The places, in the target, of the columns that are written.
    pub written: Vec<usize>,
    /// Which rows stay.
    pub filter: Option<Arc<Sql>>,
    /// The indices and what becomes of each.
    pub indices: Vec<(IndexFacts, IndexFate)>,
    /// Values that a change cannot take over, once that was tried.
    pub findings: Vec<Finding>,
    /// How columns that are there already compare with what was asked, once that was looked at.
    pub skipped_values: Vec<SkippedValues>,
    /// What it costs.
    pub cost: Cost,
    /// What the ways not taken would cost.
    pub others: Vec<(Strategy, Cost)>,
    /// What was asked.
    pub request: Request,
}

/// Bytes after which a run of small fragments is closed, whatever its rows.
const CHUNK_BYTES_MAX: u64 = 4 << 30;

/// Rows after which a run of small fragments is closed that get one file each: there is nothing to gain
/// from more.
const COLUMNS_CHUNK_ROWS: u64 = 1 << 17;

impl Plan {
    /// Plans `request` on a table of these `facts`.
    ///
    /// # Errors
    /// `Usage`, for a request that no table could take; `Refused`, for one that this table cannot.
    pub fn choose(
        facts: &Facts,
        request: &Request,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Self> {
        request.validate()?;
        let mut target = Target::derive(
            &facts.schema,
            facts.field_id_max,
            &request.changes,
            request.if_exists,
            now,
        )?;
        let filter = filter_of(facts, request)?;
        let storage_version = strategy::version_of_new_files(facts, request)?;
        if !abilities(facts.storage_version).has_blob_v2 && abilities(storage_version).has_blob_v2 {
            target.promote_blobs(facts.field_id_max)?;
        }
        let choice = choose(facts, request, &target)?;
        let strategy = choice.strategy;
        let indices: Vec<_> = facts
            .indices
            .iter()
            .map(|index| (index.clone(), fate(index, request, &target, strategy)))
            .collect();
        let limits = ChunkLimits {
            rows_max: match strategy {
                Strategy::Columns => COLUMNS_CHUNK_ROWS,
                Strategy::Nothing | Strategy::Metadata | Strategy::Rewrite => {
                    request.rows_per_file.unwrap_or(ROWS_PER_FILE)
                }
            },
            bytes_max: CHUNK_BYTES_MAX,
        };
        let staged = matches!(strategy, Strategy::Columns | Strategy::Rewrite);
        let chunks = if staged { cut(&facts.fragments, &facts.staged, limits) } else { Vec::new() };
        let others = choice.possible.iter().filter(|other| **other != strategy);
        let others = others.map(|other| {
            let indices = facts.indices.iter();
            let fates = indices.map(|index| (index.clone(), fate(index, request, &target, *other)));
            (*other, Cost::of(facts, &target, *other, &fates.collect::<Vec<_>>()))
        });
        let plan = Self {
            table: facts.table.clone(),
            version: facts.version,
            strategy,
            before: facts.schema.clone(),
            storage_version,
            storage_version_before: facts.storage_version,
            cost: Cost::of(facts, &target, strategy, &indices),
            others: others.collect(),
            rows: facts.fragments.iter().map(|fragment| fragment.rows).sum(),
            fragments: facts.fragments.len() as u64,
            written: match strategy {
                Strategy::Rewrite => (0..target.columns.len()).collect(),
                Strategy::Columns => target.derived().collect(),
                Strategy::Nothing | Strategy::Metadata => Vec::new(),
            },
            target,
            choice,
            chunks,
            filter,
            indices,
            findings: Vec::new(),
            skipped_values: Vec::new(),
            request: request.clone(),
        };
        check::run(facts, request, &plan)?;
        Ok(plan)
    }

    /// The changes that would take this plan's back from every row, those written after the swap
    /// included; `None`, when one of them cannot be taken back.
    pub fn inverse(&self) -> Option<Vec<Change>> {
        let changes = self.target.changes.clone();
        Request { changes, ..self.request.clone() }.inverse()
    }

    /// Bytes that go through the pipeline, read or made, whichever are more.
    pub(crate) fn through_bytes(&self) -> u64 {
        self.cost.read_bytes.max(self.cost.write_bytes)
    }

    /// Bytes that go through it for a row.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.through_bytes() / self.rows.max(1)
    }

    /// How wide a row is that goes through it.
    pub(crate) fn width(&self) -> Width {
        let written = self.written_schema();
        let leaves = written.fields_pre_order().filter(|field| field.children.is_empty()).count();
        Width { bytes: self.row_bytes(), columns: leaves as u64 }
    }

    /// Whether nothing is left to do.
    pub fn is_nothing(&self) -> bool {
        self.strategy == Strategy::Nothing
    }

    /// Whether staged rows are aligned with the source's, deleted ones included.
    pub(crate) fn is_aligned(&self) -> bool {
        self.strategy == Strategy::Columns
    }

    /// The schema of what is written.
    pub(crate) fn written_schema(&self) -> Schema {
        let fields = self.written.iter().filter_map(|place| self.target.schema.fields.get(*place));
        Schema { fields: fields.cloned().collect(), metadata: self.target.schema.metadata.clone() }
    }

    /// What becomes of the source's rows.
    pub(crate) fn transform(&self) -> Transform {
        Transform::of(&self.target, &self.written, self.filter.clone())
    }

    /// The indices that are built again.
    pub(crate) fn rebuilds(&self) -> Vec<Rebuild> {
        let rebuilt = self.indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
        let rebuilt = rebuilt.filter_map(|(index, _)| {
            Some(Rebuild {
                name: index.name.clone(),
                column: self.target.path_taken(&index.column)?,
                other_values: is_derived(&self.target, &index.column),
            })
        });
        rebuilt.collect()
    }

    /// The names of the indices that are lost.
    pub(crate) fn dropped_indices(&self) -> Vec<String> {
        let dropped = self.indices.iter().filter(|(_, fate)| *fate == IndexFate::Drop);
        dropped.map(|(index, _)| index.name.clone()).collect()
    }
}

fn fate(index: &IndexFacts, request: &Request, target: &Target, strategy: Strategy) -> IndexFate {
    let paths = || index.column.split(", ");
    let gone = paths().any(|path| target.path_taken(path).is_none());
    if gone || request.drop_indices.contains(&index.name) {
        return IndexFate::Drop;
    }
    if strategy == Strategy::Rewrite || paths().any(|path| is_derived(target, path)) {
        IndexFate::Rebuild
    } else {
        IndexFate::Keep
    }
}

/// Whether the values of the source's column at `path` are made anew, or are those of another column.
fn is_derived(target: &Target, path: &str) -> bool {
    let Some(now) = target.path_now(path) else { return true };
    let top = now.split('.').next().unwrap_or_default();
    let place =
        target.schema.fields.iter().position(|field| field.name == now || field.name == top);
    let column = place.and_then(|place| target.columns.get(place));
    column.is_some_and(|column| !column.is_kept())
}

/// The condition of `--where`, over the columns as they are.
fn filter_of(facts: &Facts, request: &Request) -> Result<Option<Arc<Sql>>> {
    let Some(text) = &request.filter else { return Ok(None) };
    let filter = Sql::parse_filter(text, &ArrowSchema::from(&facts.schema));
    let filter = filter.map_err(|error| Error::usage(format!("--where: {error}")).caused_by(error));
    Ok(Some(Arc::new(filter?)))
}
