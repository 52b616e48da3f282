//! Decides what a migration does, from plain facts about a table. Same facts, same plan.

pub(crate) mod amounts;
pub(crate) mod catchup;
mod check;
pub(crate) mod choice;
pub(crate) mod columns;
pub(crate) mod cost;
pub(crate) mod explain;
mod facts;
pub(crate) mod finding;
pub(crate) mod fragment_ids;
mod indices;
mod planner;
mod producers;
mod request;
pub(crate) mod requests;
mod saved;
mod strategy;
pub(crate) mod tuning;

use std::sync::Arc;

use arrow::datatypes::Schema as ArrowSchema;
use lance_core::datatypes::Schema;
use lance_file::version::ConcreteFileVersion;

pub(crate) use crate::plan::facts::{Facts, TableState};
pub use crate::plan::finding::{Example, Finding, Nulled, SkippedValues};
pub(crate) use crate::plan::indices::Rebuild;
pub use crate::plan::producers::{JoinTrial, ProducerTrial};
use crate::plan::{choice::Choice, cost::Cost, indices::is_derived};
pub use crate::plan::{
    facts::IndexFacts, indices::IndexFate, request::Request, saved::SavedPlan, strategy::Strategy,
};
use crate::schema::{change::Change, sql::Sql, target::Target};
use crate::{
    chunk::Chunk, progress::Amount, settings::Width, storage_version::abilities,
    transform::Transform,
};

/// What a migration does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// The table's name.
    pub table: String,
    /// The table's version that was planned on.
    pub version: u64,
    /// How the migration is carried out.
    pub strategy: Strategy,
    /// Why it is this strategy, and which others are possible.
    pub(crate) choice: Choice,
    pub(crate) before: Schema,
    /// The schema after, and where its columns come from.
    pub(crate) target: Target,
    pub(crate) storage_version: ConcreteFileVersion,
    /// The storage version that new files had before.
    pub(crate) storage_version_before: ConcreteFileVersion,
    /// The units of work, in row order; empty, when nothing is staged.
    pub(crate) chunks: Vec<Chunk>,
    /// Rows of the table.
    pub rows: u64,
    /// Fragments of the table.
    pub fragments: u64,
    /// The places, in the target, of the columns that are written.
    pub(crate) written: Vec<usize>,
    /// The condition for rows that stay.
    pub(crate) filter: Option<Arc<Sql>>,
    /// The indices, and what becomes of each.
    pub indices: Vec<(IndexFacts, IndexFate)>,
    /// Values that a change cannot take over, as the preflight found them.
    pub findings: Vec<Finding>,
    /// How columns that exist already compare with the values that were asked for, once they were read.
    pub skipped_values: Vec<SkippedValues>,
    /// What producers gave for the first rows.
    pub producer_trials: Vec<ProducerTrial>,
    /// How rows find their keys in what is joined.
    pub join_trials: Vec<JoinTrial>,
    /// What it costs.
    pub cost: Cost,
    /// What it asks of an object store, at the default prices; `None` on a disk.
    pub store: Option<requests::StoreEstimate>,
    /// What the other possible strategies would cost.
    pub others: Vec<(Strategy, Cost)>,
    /// What was asked for.
    pub request: Request,
}

impl Plan {
    /// The changes as they are carried out: each `now` and each type spelled out.
    pub fn changes(&self) -> &[Change] {
        &self.target.changes
    }

    /// The names of the added columns that exist already with the same type.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        self.target.skipped.iter().map(|skipped| skipped.name.as_str())
    }

    /// The schema of the table now.
    pub fn schema_before(&self) -> ArrowSchema {
        ArrowSchema::from(&self.before)
    }

    /// The schema of the table after the swap.
    pub fn schema_after(&self) -> ArrowSchema {
        ArrowSchema::from(&self.target.schema)
    }

    /// The storage version of the data files that are written, as `2.1`.
    pub fn storage_version(&self) -> &str {
        self.storage_version.to_manifest_string()
    }

    /// The changes that undo this plan's in every row, rows written after the swap included; `None`, when one of them
    /// cannot be undone.
    pub fn inverse(&self) -> Option<Vec<Change>> {
        let changes = self.target.changes.clone();
        Request { changes, ..self.request.clone() }.inverse()
    }

    /// Bytes that go through the pipeline: those read or those written, whichever are more.
    pub(crate) fn through_bytes(&self) -> u64 {
        self.cost.read_bytes.max(self.cost.write_bytes)
    }

    /// Bytes of a row that go through the pipeline.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.through_bytes() / self.rows.max(1)
    }

    /// How wide the rows are that go through the pipeline.
    pub(crate) fn width(&self) -> Width {
        let written = self.written_schema();
        let leaves = written.fields_pre_order().filter(|field| field.children.is_empty()).count();
        Width { bytes: self.row_bytes(), columns: leaves as u64 }
    }

    /// The rows of `chunks` that are staged, and the bytes that go through for them.
    pub(crate) fn amount_of<'a>(&self, chunks: impl IntoIterator<Item = &'a Chunk>) -> Amount {
        let mut all = Amount::default();
        for chunk in chunks {
            let rows = if self.is_aligned() { chunk.physical_rows() } else { chunk.rows() };
            all.rows += rows;
            all.chunks += 1;
            if !self.is_aligned() {
                all.bytes += chunk.bytes();
            }
        }
        if self.is_aligned() {
            let through = u128::from(self.through_bytes());
            let bytes = through * u128::from(all.rows) / u128::from(self.rows.max(1));
            all.bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        }
        all
    }

    /// Whether nothing is left to do.
    pub fn is_nothing(&self) -> bool {
        self.strategy == Strategy::Nothing
    }

    /// Whether staged rows are aligned with the source's, deleted ones included.
    pub(crate) fn is_aligned(&self) -> bool {
        self.strategy == Strategy::Columns
    }

    /// The schema of the columns that are written.
    pub(crate) fn written_schema(&self) -> Schema {
        let fields = self.written.iter().filter_map(|place| self.target.schema.fields.get(*place));
        Schema { fields: fields.cloned().collect(), metadata: self.target.schema.metadata.clone() }
    }

    /// Turns the source's rows into those that are written.
    pub(crate) fn transform(&self) -> Transform {
        self.transform_of(&self.written)
    }

    /// The same for the columns at `places` of the target.
    pub(crate) fn transform_of(&self, places: &[usize]) -> Transform {
        let kept = abilities(self.storage_version).keeps_null_structs;
        Transform::of(&self.target, places, self.filter.clone()).with_null_structs(kept)
    }

    /// The indices that are built again.
    pub(crate) fn rebuilds(&self) -> Vec<Rebuild> {
        let rebuilt = self.indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
        let rebuilt = rebuilt.filter_map(|(index, _)| {
            Some(Rebuild {
                name: index.name.clone(),
                column: self.target.path_indexed(&index.column)?,
                other_values: is_derived(&self.target, &index.column),
            })
        });
        rebuilt.collect()
    }

    pub(crate) fn dropped_indices(&self) -> Vec<String> {
        let dropped = self.indices.iter().filter(|(_, fate)| *fate == IndexFate::Drop);
        dropped.map(|(index, _)| index.name.clone()).collect()
    }
}
