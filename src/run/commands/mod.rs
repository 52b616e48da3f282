//! One file for each command, which reads top to bottom.

pub(crate) mod abort;
mod dropped;
pub(crate) mod finalize;
pub(crate) mod migrate;
pub(crate) mod nulls;
pub(crate) mod plan;
pub(crate) mod resume;
pub(crate) mod rollback;
mod scratch;
pub(crate) mod status;
pub(crate) mod tune;
pub(crate) mod verify;
