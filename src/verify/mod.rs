//! Verifies what was staged, and what is about to be published.

pub(crate) mod published;
