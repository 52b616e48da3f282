//! Where the values of a column of the target come from.

use std::mem;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use lance_core::datatypes::Field;

use crate::schema::sql::Sql;

/// Where the values of a column of the target come from.
#[derive(Debug, Clone)]
pub(crate) enum Column {
    /// A column of the source, unchanged.
    Keep {
        /// Its name there.
        name: String,
        /// Which of its children are kept, by field id, and what they are called.
        shape: Box<Field>,
    },
    /// One value (an array of length one) in every row.
    Constant(ArrayRef),
    /// Another type.
    Cast {
        /// What is cast.
        of: Box<Column>,
        /// The type.
        to: DataType,
        /// The column's path, for errors.
        path: String,
    },
    /// A value (an array of length one) in place of nulls.
    Fill {
        /// What is filled.
        of: Box<Column>,
        /// The value.
        value: ArrayRef,
    },
    /// No nulls: one is an error.
    NotNull {
        /// What has none.
        of: Box<Column>,
        /// The column's path, for errors.
        path: String,
    },
    /// An expression over other columns.
    Sql {
        /// The expression.
        sql: Arc<Sql>,
        /// The columns that it names, in its order.
        inputs: Vec<Column>,
    },
    /// A struct some of whose children are not those that it had.
    Struct {
        /// The struct as it was.
        of: Box<Column>,
        /// Its field then.
        shape: Box<Field>,
        /// Its children; those that are kept are children of `of`.
        children: Vec<Column>,
    },
}

impl Column {
    /// The column `field` of the source, unchanged.
    pub(crate) fn keep(field: &Field) -> Self {
        Self::Keep { name: field.name.clone(), shape: Box::new(field.clone()) }
    }

    /// Whether its values are the source's own.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Self::Keep { .. })
    }

    /// Whether it is null in every row.
    pub(crate) fn is_all_null(&self) -> bool {
        matches!(self, Self::Constant(value) if value.null_count() == value.len())
    }

    /// Whether it can find values that do not go through.
    pub(crate) fn is_checked(&self) -> bool {
        match self {
            Self::Keep { .. } | Self::Constant(_) => false,
            Self::Cast { .. } | Self::NotNull { .. } | Self::Sql { .. } => true,
            Self::Fill { of, .. } => of.is_checked(),
            Self::Struct { of, children, .. } => {
                of.is_checked() || children.iter().any(Self::is_checked)
            }
        }
    }

    /// Adds the names of the source's columns that it is made from to `names`.
    pub(crate) fn inputs<'a>(&'a self, names: &mut Vec<&'a str>) {
        match self {
            Self::Keep { name, .. } => names.push(name),
            Self::Constant(_) => {}
            Self::Cast { of, .. } | Self::Fill { of, .. } | Self::NotNull { of, .. } => {
                of.inputs(names);
            }
            Self::Sql { inputs, .. } => inputs.iter().for_each(|input| input.inputs(names)),
            // Its children are made from it.
            Self::Struct { of, .. } => of.inputs(names),
        }
    }

    /// Takes the column, which is called and shaped as `field` at this moment, for another one to be
    /// made from it.
    pub(crate) fn take(&mut self, field: &Field) -> Self {
        self.settle(field);
        let empty = Self::Keep { name: String::new(), shape: Box::new(field.clone()) };
        mem::replace(self, empty)
    }

    /// Fixes which children are kept, and their names.
    pub(crate) fn settle(&mut self, field: &Field) {
        match self {
            Self::Keep { shape, .. } => **shape = field.clone(),
            Self::Struct { children, .. } => {
                for (child, field) in children.iter_mut().zip(&field.children) {
                    child.settle(field);
                }
            }
            Self::Constant(_)
            | Self::Cast { .. }
            | Self::Fill { .. }
            | Self::NotNull { .. }
            | Self::Sql { .. } => {}
        }
    }

    /// The child of a struct at `place` (positions, from the outside in), whose field is `field`; what is
    /// on the way becomes a struct of its own making.
    pub(crate) fn child_at(&mut self, field: &Field, place: &[usize]) -> Option<&mut Self> {
        let Some((first, rest)) = place.split_first() else {
            return Some(self);
        };
        let child = field.children.get(*first)?;
        self.children_of(field)?.get_mut(*first)?.child_at(child, rest)
    }

    /// The children of a struct whose field is `field`, to be changed.
    pub(crate) fn children_of(&mut self, field: &Field) -> Option<&mut Vec<Self>> {
        if !matches!(self, Self::Struct { .. }) {
            let of = Box::new(self.take(field));
            let children = field.children.iter().map(Self::keep).collect();
            *self = Self::Struct { of, shape: Box::new(field.clone()), children };
        }
        if let Self::Struct { children, .. } = self { Some(children) } else { None }
    }
}
