//! Schemas: types as text, literals, changes, and the target that changes give. All pure.

pub(crate) mod blob;
pub(crate) mod cast;
pub(crate) mod change;
pub(crate) mod column;
pub(crate) mod derive;
pub(crate) mod details;
pub(crate) mod elsewhere;
pub(crate) mod extension;
pub(crate) mod filled;
pub(crate) mod follow;
pub(crate) mod ipc;
pub(crate) mod json;
pub(crate) mod literal;
pub(crate) mod nulls;
pub(crate) mod parquet;
pub(crate) mod parse;
pub(crate) mod path;
pub(crate) mod rules;
pub(crate) mod show;
pub(crate) mod sound;
pub(crate) mod sql;
mod sql_size;
mod sql_text;
pub(crate) mod stored;
pub(crate) mod target;

mod type_names;
pub(crate) mod types;
pub(crate) mod unfound;
