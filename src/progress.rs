//! What a migration tells of itself while it runs.

use std::fmt;
use std::sync::Arc;

use crate::escape::escape_line;
use crate::phase::Phase;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A phase began.
    Began {
        /// Which.
        phase: Phase,
        /// How much there is to do.
        total: Amount,
        /// How much of it an earlier run did.
        done: Amount,
    },
    /// Some of the phase's work was done.
    Advanced(Amount),
    /// The migration that goes on has this id.
    Migration(String),
    /// Something a person wants to know, in one line, with control characters escaped.
    Note(String),
}

/// An amount of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amount {
    /// Rows.
    pub rows: u64,
    /// Bytes of record batches; 0 where a phase has no bytes.
    pub bytes: u64,
    /// Chunks, or indices in the index phase.
    pub chunks: u64,
}

/// Takes in events. Called from many threads; must not block.
pub trait Progress: fmt::Debug + Send + Sync {
    /// Takes in one event.
    fn event(&self, event: Event);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

/// A shared progress.
pub type SharedProgress = Arc<dyn Progress>;

/// Tells `progress` something in words.
pub(crate) fn note(progress: &SharedProgress, text: impl Into<String>) {
    progress.event(Event::Note(escape_line(&text.into()).into_owned()));
}
