//! Schemas: types as text, literals, and what the changes make of a table's schema. All pure.

pub(crate) mod change;
pub(crate) mod literal;
pub(crate) mod show;
pub(crate) mod target;
pub(crate) mod types;
