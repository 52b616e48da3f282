//! Lance tables: opening them, the facts that a plan needs, reading rows, commits, tags, history and indices.

pub(crate) mod commit;
pub(crate) mod database;
pub(crate) mod facts;
pub(crate) mod history;
pub(crate) mod index;
pub(crate) mod look;
pub(crate) mod open;
pub(crate) mod orphans;
mod reach;
pub(crate) mod row_version;
pub(crate) mod sample;
pub(crate) mod source;
pub(crate) mod tag;
