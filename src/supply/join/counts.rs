//! What the other data of a join has.

/// Rows that repeat a key and are told.
const TWICE: usize = 3;

/// What the other data has.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Rows with a key.
    pub rows: u64,
    /// Different keys.
    pub keys: u64,
    /// Rows that repeat a key.
    pub duplicates: u64,
    /// The first few of them, by their numbers.
    pub twice: Vec<u64>,
}

impl Counts {
    /// Counts the row number `row`, which repeats a key.
    pub(super) fn repeats(&mut self, row: u64) {
        self.duplicates += 1;
        if self.twice.len() < TWICE {
            self.twice.push(row);
        }
    }
}
