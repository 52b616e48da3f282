//! Columns that are there already, beside what would have been made in their place.

use std::collections::HashMap;

use lance_core::datatypes::{Field, Schema};

use crate::schema::column::Column;
use crate::schema::target::Target;

/// A column that is there already, beside what would have been made in its place.
#[derive(Debug, Clone)]
pub(crate) struct There {
    /// Its path.
    pub path: String,
    /// What was asked of its values.
    pub asked: Asked,
    /// Where it lies in its top-level column: positions, from the outside in.
    pub inside: Vec<usize>,
    /// Its top-level column, and what that is called and shaped like.
    pub is: (Field, Column),
    /// What would have been made.
    pub made: (Field, Column),
}

/// What was asked of the values of a column that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// This default. Others may have been written since.
    Default(String),
    /// The time. An earlier one is as good.
    Time,
    /// What this expression gives, in every row.
    Sql(String),
}

impl Target {
    /// A target that has, two by two, the columns that are there already and what would have been made.
    pub(crate) fn side_by_side(&self) -> Self {
        let pairs = self.there.iter().flat_map(|there| [&there.is, &there.made]);
        // What does not go through is null.
        let pairs = pairs.map(|(field, column)| {
            let field = Field { nullable: true, ..field.clone() };
            (field, column.clone())
        });
        let (fields, columns): (Vec<Field>, Vec<Column>) = pairs.unzip();
        let schema = Schema { fields, metadata: HashMap::new() };
        Self { after: schema.clone(), schema, columns, ..self.clone() }
    }
}
