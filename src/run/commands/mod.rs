//! One file for each command, which reads top to bottom.

pub(in crate::run) mod abort;
pub(in crate::run) mod finalize;
pub(in crate::run) mod migrate;
pub(in crate::run) mod nulls;
pub(in crate::run) mod plan;
pub(in crate::run) mod resume;
pub(in crate::run) mod rollback;
mod scratch;
pub(in crate::run) mod status;
pub(in crate::run) mod tune;
pub(in crate::run) mod verify;
