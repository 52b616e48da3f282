//! Schemas: types as text, literals, and what the changes make of a table's schema. All pure.

pub mod change;
pub mod literal;
pub mod show;
pub mod target;
pub mod types;
