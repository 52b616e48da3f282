//! What a plan costs, from a table's statistics.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use lance_core::datatypes::Field;
use serde::Serialize;

use crate::plan::facts::{Facts, IndexFacts};
use crate::plan::{indices::IndexFate, strategy::Strategy};
use crate::schema::{column::Column, target::Target};
use crate::settings::Preflight;

/// What a plan costs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Read from the source.
    pub read_bytes: u64,
    /// Written to staged files, at most: as if Lance compressed nothing.
    pub write_bytes: u64,
    /// Read back, when verifying in full.
    pub verify_bytes: u64,
    /// Free space that is needed for staged files and rebuilt indices.
    pub needed_bytes: u64,
    /// Free space, where it can be known.
    pub free_bytes: Option<u64>,
}

/// Room for manifests, footers and the journal.
const OVERHEAD_BYTES: u64 = 4 << 20;

/// Bytes of a value, when neither its type nor the size of the table says anything about it.
const UNKNOWN_BYTES: u64 = 16;

impl Cost {
    /// The cost of taking a table of these `facts` to `target` by `strategy`.
    pub(crate) fn of(
        facts: &Facts,
        target: &Target,
        strategy: Strategy,
        indices: &[(IndexFacts, IndexFate)],
    ) -> Self {
        let widths = Widths::of(facts);
        let rows = facts.rows();
        let (read_bytes, write_bytes) = match strategy {
            Strategy::Nothing | Strategy::Metadata => (0, 0),
            Strategy::Columns => {
                let mut names: Vec<&str> = Vec::new();
                let mut width: u64 = 0;
                for place in target.derived() {
                    let pair = target.columns.get(place).zip(target.schema.fields.get(place));
                    let Some((column, field)) = pair else { continue };
                    names.extend(column.inputs());
                    width = width.saturating_add(widths.derived(column, field));
                }
                (widths.all(names).saturating_mul(rows), width.saturating_mul(rows))
            }
            Strategy::Rewrite => {
                let read = facts.bytes();
                let columns = target.columns.iter().zip(&target.schema.fields);
                let derived = columns.filter(|(column, _)| !column.is_kept());
                let added: u64 = derived.map(|(column, field)| widths.derived(column, field)).sum();
                (read, read.saturating_add(added.saturating_mul(rows)))
            }
        };
        // What comes from elsewhere is kept beside what is staged until the swap.
        let kept: u64 = target
            .columns
            .iter()
            .zip(&target.schema.fields)
            .filter(|(column, _)| !column.elsewhere().is_empty())
            .map(|(column, field)| widths.derived(column, field).saturating_mul(rows))
            .sum();
        let kept = if strategy == Strategy::Nothing { 0 } else { kept };
        let rebuilt = indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
        let index_bytes: u64 = rebuilt.filter_map(|(index, _)| index.bytes).sum();
        let overhead = if strategy == Strategy::Nothing { 0 } else { OVERHEAD_BYTES };
        Self {
            read_bytes,
            write_bytes,
            verify_bytes: write_bytes,
            needed_bytes: write_bytes
                .saturating_add(kept)
                .saturating_add(index_bytes)
                .saturating_add(overhead),
            free_bytes: facts.free_bytes,
        }
    }
}

/// Bytes that are read to try the changes of `target`, before anything is written: of every row, or next to none.
pub(super) fn tried_bytes(facts: &Facts, target: &Target, preflight: Preflight) -> u64 {
    if preflight == Preflight::Sample {
        return 0;
    }
    let widths = Widths::of(facts);
    let tried =
        target.columns.iter().filter(|column| column.is_checked() && column.elsewhere().is_empty());
    widths.all(tried.flat_map(Column::inputs).collect()).saturating_mul(facts.rows())
}

/// About how many bytes a row of each column takes on storage.
struct Widths<'a> {
    facts: &'a Facts,
    /// Of a column whose type does not tell: an equal share of the bytes that the other columns leave.
    unknown: u64,
}

impl<'a> Widths<'a> {
    fn of(facts: &'a Facts) -> Self {
        let row = facts.bytes().checked_div(facts.rows()).unwrap_or(0);
        let known: u64 =
            facts.schema.fields.iter().filter_map(|field| width(&field.data_type())).sum();
        let open = facts.schema.fields.iter().filter(|field| width(&field.data_type()).is_none());
        let share = row.saturating_sub(known).checked_div(open.count() as u64);
        Self { facts, unknown: share.filter(|share| *share > 0).unwrap_or(UNKNOWN_BYTES) }
    }

    fn named(&self, name: &str) -> u64 {
        let field = self.facts.schema.field(name);
        field.and_then(|field| width(&field.data_type())).unwrap_or(self.unknown)
    }

    /// Of the columns `names` together, each once.
    fn all(&self, mut names: Vec<&str>) -> u64 {
        names.sort_unstable();
        names.dedup();
        names.iter().map(|name| self.named(name)).sum()
    }

    /// Of a derived column.
    fn derived(&self, column: &Column, field: &Field) -> u64 {
        if let Column::Constant(value) = column {
            return constant(value);
        }
        width(&field.data_type()).unwrap_or(self.unknown)
    }
}

pub(super) fn constant(value: &ArrayRef) -> u64 {
    match value.data_type() {
        DataType::Boolean | DataType::Null => 1,
        _ => value.to_data().get_slice_memory_size().unwrap_or_default() as u64,
    }
}

/// Bytes of a value, where the type tells.
fn width(data_type: &DataType) -> Option<u64> {
    match data_type {
        DataType::Boolean | DataType::Null => Some(1),
        DataType::FixedSizeBinary(size) => u64::try_from(*size).ok(),
        DataType::FixedSizeList(item, length) => {
            Some(width(item.data_type())?.saturating_mul(u64::try_from(*length).ok()?))
        }
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).sum(),
        other => other.primitive_width().map(|width| width as u64),
    }
}
