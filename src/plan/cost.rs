//! What a plan costs, from a table's statistics.
#![allow(clippy::wildcard_enum_match_arm, reason = "the types that Arrow has and that matter here")]

use arrow::datatypes::DataType;
use serde::Serialize;

use crate::plan::{Facts, IndexFacts, IndexFate};
use crate::schema::target::{Column, Target};

/// What a plan costs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Read from the source.
    pub read_bytes: u64,
    /// Written to staged files, at most; what Lance compresses away is not taken off.
    pub write_bytes: u64,
    /// Read back, when verifying in full.
    pub verify_bytes: u64,
    /// Free space that is needed: staged files and rebuilt indices, beside what is there.
    pub needed_bytes: u64,
    /// Free space that there is, where that can be known.
    pub free_bytes: Option<u64>,
}

/// Room for manifests, footers and the journal.
const OVERHEAD_BYTES: u64 = 4 << 20;

impl Cost {
    /// The cost of rewriting a table of these `facts` to `target`.
    pub fn of(facts: &Facts, target: &Target, indices: &[(IndexFacts, IndexFate)]) -> Self {
        if target.is_unchanged() {
            return Self {
                read_bytes: 0,
                write_bytes: 0,
                verify_bytes: 0,
                needed_bytes: 0,
                free_bytes: facts.free_bytes,
            };
        }
        let rows: u64 = facts.fragments.iter().map(|fragment| fragment.rows).sum();
        let read_bytes: u64 = facts.fragments.iter().map(|fragment| fragment.bytes).sum();
        let added: u64 = target.columns.iter().map(constant_row_bytes).sum();
        let write_bytes = read_bytes.saturating_add(added.saturating_mul(rows));
        let rebuilt = indices.iter().filter(|(_, fate)| *fate == IndexFate::Rebuild);
        let index_bytes: u64 = rebuilt.filter_map(|(index, _)| index.bytes).sum();
        Self {
            read_bytes,
            write_bytes,
            verify_bytes: write_bytes,
            needed_bytes: write_bytes.saturating_add(index_bytes).saturating_add(OVERHEAD_BYTES),
            free_bytes: facts.free_bytes,
        }
    }
}

/// Bytes that a row of a constant column takes before compression.
fn constant_row_bytes(column: &Column) -> u64 {
    match column {
        Column::Keep(_) => 0,
        Column::Constant(value) => match value.data_type() {
            DataType::Boolean | DataType::Null => 1,
            _ => {
                let data = value.to_data();
                data.get_slice_memory_size().unwrap_or_default() as u64
            }
        },
    }
}
