//! Where the values of a column of the target come from. `transform/evaluate.rs` evaluates it.

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
        /// Which of its children are kept, by field id, and their names.
        shape: Box<Field>,
    },
    /// One value (an array of length one) in every row.
    Constant(ArrayRef),
    /// The values of another column, cast to another type.
    Cast {
        /// What is cast.
        of: Box<Column>,
        /// The type.
        to: DataType,
        /// The column's path, for errors.
        path: String,
    },
    /// Another column, with one value (an array of length one) in place of nulls.
    Fill {
        /// What is filled.
        of: Box<Column>,
        /// The value.
        value: ArrayRef,
    },
    /// Another column; a null in it is a bad value.
    NotNull {
        /// What may have no nulls.
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
    /// Values that come from elsewhere.
    Elsewhere {
        /// The place in the target's list of what comes from elsewhere.
        from: usize,
        /// Which of its columns.
        output: usize,
        /// What it is made of.
        inputs: Vec<Column>,
        /// Whose values stay in rows that have none there.
        otherwise: Option<Box<Column>>,
        /// The column's path, for errors.
        path: String,
    },
    /// The bytes of a blob v1 column of the source, unchanged, as blob v2.
    BlobV2 {
        /// The blob v1 column.
        of: Box<Column>,
    },
    /// A struct of which some children were changed, added or dropped.
    Struct {
        /// The struct as it was.
        of: Box<Column>,
        /// The field of `of`.
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

    /// The same column as the values of `field`: a null is a bad value, where `field` allows none.
    pub(crate) fn for_field(self, field: &Field, path: &str) -> Self {
        if field.nullable {
            return self;
        }
        Self::NotNull { of: Box::new(self), path: path.to_owned() }
    }

    /// Whether its values are the source's own.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Self::Keep { .. } | Self::BlobV2 { .. })
    }

    /// Whether it is null in every row.
    pub(crate) fn is_all_null(&self) -> bool {
        matches!(self, Self::Constant(value) if value.null_count() == value.len())
    }

    /// Whether it can find values that it cannot take over.
    pub(crate) fn is_checked(&self) -> bool {
        match self {
            Self::Keep { .. } | Self::Constant(_) | Self::BlobV2 { .. } => false,
            Self::Cast { .. }
            | Self::NotNull { .. }
            | Self::Sql { .. }
            | Self::Elsewhere { .. } => true,
            Self::Fill { of, .. } => of.is_checked(),
            Self::Struct { of, children, .. } => {
                of.is_checked() || children.iter().any(Self::is_checked)
            }
        }
    }

    /// The names of the source's columns that it is evaluated from.
    pub(crate) fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Keep { name, .. } => vec![name],
            Self::Constant(_) => Vec::new(),
            // A struct's children are evaluated from it.
            Self::Cast { of, .. }
            | Self::Fill { of, .. }
            | Self::NotNull { of, .. }
            | Self::BlobV2 { of }
            | Self::Struct { of, .. } => of.inputs(),
            Self::Sql { inputs, .. } => inputs.iter().flat_map(Self::inputs).collect(),
            Self::Elsewhere { inputs, otherwise, .. } => {
                inputs.iter().chain(otherwise.as_deref()).flat_map(Self::inputs).collect()
            }
        }
    }

    /// What comes from elsewhere for it, by its places in the target's list.
    pub(crate) fn elsewhere(&self) -> Vec<usize> {
        match self {
            Self::Keep { .. } | Self::Constant(_) => Vec::new(),
            Self::Cast { of, .. }
            | Self::Fill { of, .. }
            | Self::NotNull { of, .. }
            | Self::BlobV2 { of } => of.elsewhere(),
            Self::Struct { of, children, .. } => {
                children.iter().chain([of.as_ref()]).flat_map(Self::elsewhere).collect()
            }
            Self::Sql { inputs, .. } => inputs.iter().flat_map(Self::elsewhere).collect(),
            Self::Elsewhere { from, inputs, otherwise, .. } => {
                let inner = inputs.iter().chain(otherwise.as_deref()).flat_map(Self::elsewhere);
                inner.chain([*from]).collect()
            }
        }
    }

    /// Takes the column, which has the name and the shape of `field` at this moment, so that another one can be
    /// built on it.
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
            | Self::Sql { .. }
            | Self::Elsewhere { .. }
            | Self::BlobV2 { .. } => {}
        }
    }

    /// The child at `place` (positions, from the outside in) of a struct whose field is `field`. Each struct on
    /// the way becomes a [`Struct`](Self::Struct), whose children can be changed.
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
