//! Columns that a change would add and that the table has already: their values have to be compared.

use lance_core::datatypes::Field;

use crate::schema::column::Column;

/// A column that a change would add and that the table has already.
#[derive(Debug, Clone)]
pub(crate) struct ExistingColumn {
    /// Its path.
    pub path: String,
    /// The values that the change asks for.
    pub requested: RequestedValues,
    /// Where it lies in its top-level column: positions, from the outside in.
    pub inside: Vec<usize>,
    /// Its top-level column, with the name and the shape that it has now.
    pub existing: (Field, Column),
    /// The column that the change would have added.
    pub wanted: (Field, Column),
}

/// The values that a change asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestedValues {
    /// This default. Other values may have been written since.
    Default(String),
    /// The current time. An earlier one is as good.
    Now,
    /// The value of this expression in every row.
    Sql(String),
}
