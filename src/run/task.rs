//! What is to be done for a chunk, and what came of it: plain data, which can be sent to another process.

use chrono::{DateTime, Utc};
use lance_table::format::Fragment;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkId, Origin};
use crate::journal::{ChunkRecord, Journal};
use crate::plan::catchup::Need;

/// A chunk that is staged: what the journal records of it, and the fragments that hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub record: ChunkRecord,
    pub fragments: Vec<Fragment>,
}

/// What is to be done for a chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Its rows have to be staged and verified.
    Stage(Chunk),
    /// Its files have to be verified.
    Verify(Done),
    /// Rows have to be deleted from what is staged.
    Delete(Chunk, Done),
    /// Its files have to be made young again.
    Renew(Done),
}

impl Task {
    /// What `chunk` needs, if it needs anything.
    pub(crate) fn of(chunk: &Chunk, journal: &Journal, now: DateTime<Utc>) -> Option<Self> {
        let done = || {
            let record = journal.record(chunk.id)?.clone();
            Some(Done { record, fragments: journal.fragments(chunk.id).to_vec() })
        };
        Some(match journal.need(chunk, now) {
            Need::Nothing => return None,
            Need::Stage => Self::Stage(chunk.clone()),
            Need::Verify => Self::Verify(done()?),
            Need::Delete => Self::Delete(chunk.clone(), done()?),
            Need::Renew => Self::Renew(done()?),
        })
    }

    pub(crate) fn chunk_id(&self) -> ChunkId {
        match self {
            Self::Stage(chunk) => chunk.id,
            Self::Verify(done) | Self::Delete(_, done) | Self::Renew(done) => done.record.chunk,
        }
    }

    /// The source fragments that the chunk will have been staged from.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        match self {
            Self::Stage(chunk) | Self::Delete(chunk, _) => chunk.origins(),
            Self::Verify(done) | Self::Renew(done) => done.record.origins.clone(),
        }
    }

    /// Rows that have to be staged.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Stage(chunk) => chunk.rows(),
            Self::Delete(chunk, done) => done.record.rows_left().saturating_sub(chunk.rows()),
            Self::Verify(_) | Self::Renew(_) => 0,
        }
    }

    /// The chunk, if it has to be staged.
    pub(crate) fn to_stage(&self) -> Option<&Chunk> {
        match self {
            Self::Stage(chunk) => Some(chunk),
            Self::Delete(..) | Self::Verify(_) | Self::Renew(_) => None,
        }
    }
}
