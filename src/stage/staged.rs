//! What was staged for a chunk, and what it has to read back as.

use std::{collections::HashMap, sync::Arc};

use lance_table::format::Fragment;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::plan::{Nulled, columns::WrittenColumns};
use crate::storage::{page::ReadBackHashes, sent::SentFile};
use crate::transform::digest::Digest;

/// What one column of a staged chunk has to read back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// Pages of this hash: they were copied.
    Pages(Digest),
    /// Values of this digest: they were encoded.
    Values(Digest),
}

/// What was staged for a chunk, and is not verified.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub chunk: ChunkId,
    /// The new fragments, in row order; their files are named relative to the live table.
    pub fragments: Vec<Fragment>,
    /// What each column has to read back as; empty, where the store copied what nobody read.
    pub expectations: Vec<Expectation>,
    pub rows: u64,
    /// Rows of the source that were left out.
    pub left_out: u64,
    /// Values that could not be taken over and became null.
    pub nulled: Vec<Nulled>,
    /// Whether the store copied parts of its files.
    pub inside: bool,
    /// What was read back of copied pages already.
    pub seen: ReadBackHashes,
    /// Files, by name, that the store confirms to have as they were sent, and that are kept here.
    pub held: HashMap<String, Arc<SentFile>>,
}

impl Staged {
    /// The digests of its columns, as a journal keeps them beside [`is_copied`](Self::is_copied).
    pub(crate) fn digests(&self) -> Vec<Digest> {
        let digests = self.expectations.iter().map(|expectation| match expectation {
            Expectation::Pages(digest) | Expectation::Values(digest) => *digest,
        });
        digests.collect()
    }

    /// Whether pages were copied of the columns that stay as they are.
    pub(crate) fn is_copied(&self) -> bool {
        self.expectations.iter().any(|one| matches!(one, Expectation::Pages(_)))
    }

    /// What columns with these `digests` have to read back as, whose pages were copied where `columns` says so, if
    /// any `copied` were.
    pub(crate) fn expectations(
        digests: &[Digest],
        copied: bool,
        columns: &WrittenColumns,
    ) -> Result<Vec<Expectation>> {
        let fields: Vec<_> = columns.copied_fields().collect();
        if copied && (fields.len() != digests.len() || !columns.copies_pages()) {
            return Err(Error::mismatch("pages were copied that should not have been"));
        }
        let of = |(place, digest): (usize, &Digest)| match fields.get(place) {
            Some(Some(_)) if copied => Expectation::Pages(*digest),
            _ => Expectation::Values(*digest),
        };
        Ok(digests.iter().enumerate().map(of).collect())
    }
}
