//! Which columns of a rewrite are the source's own, so that their encoded pages can be copied.

use lance_core::datatypes::Field;

use crate::plan::{Plan, Strategy, cost};
use crate::schema::column::Column;
use crate::settings::Width;
use crate::storage_version::abilities;
use crate::transform::Transform;

/// Where the columns of a staged file come from when pages are copied.
#[derive(Debug, Clone)]
pub(crate) struct Copies {
    /// For each written column, in order, the source's field whose pages it gets; `None`, where its values
    /// are made.
    pub columns: Vec<Option<Field>>,
    /// Rows after which a file is closed, if that was asked for: a page is not cut.
    pub rows_max: Option<u64>,
}

impl Copies {
    /// What can be copied by `plan`: columns that stay as they are, where all others are made without
    /// reading anything, every row is kept, and the format has pages that tell everything themselves.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let rewrites = plan.strategy == Strategy::Rewrite && plan.filter.is_none();
        if !rewrites || !abilities(plan.storage_version).has_whole_pages {
            return None;
        }
        let mut columns = Vec::new();
        for place in &plan.written {
            let (field, column) =
                (plan.target.schema.fields.get(*place)?, plan.target.columns.get(*place)?);
            columns.push(match column {
                Column::Keep { name, shape } => {
                    let source = plan.before.field(name)?;
                    let same = is_same_layout(source, shape) && is_same_layout(source, field);
                    Some(same.then(|| source.clone())?)
                }
                Column::Constant(_) => None,
                Column::Cast { .. }
                | Column::Fill { .. }
                | Column::NotNull { .. }
                | Column::Sql { .. }
                | Column::BlobV2 { .. }
                | Column::Struct { .. } => return None,
            });
        }
        columns
            .iter()
            .any(Option::is_some)
            .then_some(Self { columns, rows_max: plan.request.rows_per_file })
    }

    /// The positions, among the written columns, of those that are made.
    pub(crate) fn made(&self) -> Vec<usize> {
        let made = self.columns.iter().zip(0..).filter(|(source, _)| source.is_none());
        made.map(|(_, place)| place).collect()
    }

    /// The names, in the source, of those that are copied.
    pub(crate) fn names(&self) -> Vec<String> {
        self.columns.iter().flatten().map(|source| source.name.clone()).collect()
    }

    /// How wide a row is of what is made.
    pub(crate) fn made_width(&self, plan: &Plan) -> Width {
        let mut bytes = 0;
        for place in self.made().into_iter().filter_map(|place| plan.written.get(place)) {
            if let Some(Column::Constant(value)) = plan.target.columns.get(*place) {
                bytes += cost::constant(value);
            }
        }
        Width { bytes, columns: self.made().len() as u64 }
    }

    /// What makes the other columns.
    pub(crate) fn transform(&self, plan: &Plan) -> Transform {
        let places = self.made().into_iter().filter_map(|place| plan.written.get(place).copied());
        Transform::of(&plan.target, &places.collect::<Vec<_>>(), None)
    }
}

/// Whether both are stored alike: names, nullability and ids do not matter. Blobs are not: what a page says
/// of them is true in its own file only.
fn is_same_layout(one: &Field, other: &Field) -> bool {
    !one.is_blob()
        && !other.is_blob()
        && one.logical_type == other.logical_type
        && encoding_of(one).eq(encoding_of(other))
        && one.children.len() == other.children.len()
        && one.children.iter().zip(&other.children).all(|(one, other)| is_same_layout(one, other))
}

/// Whether the values of `field` would be encoded as those of `written` were, which is the same field as
/// a data file remembers it.
pub(crate) fn is_encoded_alike(field: &Field, written: &Field) -> bool {
    encoding_of(field).eq(encoding_of(written))
        && field.children.iter().all(|child| {
            let mut before = written.children.iter();
            before.find(|before| before.id == child.id).is_none_or(|b| is_encoded_alike(child, b))
        })
}

/// What the field's metadata asks of the encoder, in the order of its keys.
fn encoding_of(field: &Field) -> impl Iterator<Item = (&String, &String)> {
    let mut asked: Vec<_> =
        field.metadata.iter().filter(|(key, _)| key.starts_with("lance-encoding:")).collect();
    asked.sort_unstable();
    asked.into_iter()
}
