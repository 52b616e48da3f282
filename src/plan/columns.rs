//! Where the columns of a staged file come from: a pure decision, from the plan alone.

use lance_core::datatypes::{Field, Schema};

use crate::plan::{Plan, Strategy, cost};
use crate::{
    schema::column::Column, settings::Width, storage_version::abilities, transform::Transform,
};

/// Where the values of a written column come from.
#[derive(Debug, Clone)]
pub(crate) enum ColumnSource {
    /// From the encoded pages of this field of the source, which are copied as they are.
    CopiedPages(Box<Field>),
    /// From no row of the source: it is encoded once for each number of rows.
    Constant,
    /// From rows of the source, which are decoded, transformed and encoded.
    Encoded,
}

/// Where each written column comes from, in order. Either none of them is encoded from rows, or all are: rows
/// that are decoded and encoded anyway bring the other columns along.
#[derive(Debug, Clone)]
pub(crate) struct WrittenColumns {
    pub sources: Vec<ColumnSource>,
    /// Rows after which a file is closed, if that was asked for: a page is not cut.
    pub rows_max: Option<u64>,
}

impl WrittenColumns {
    /// Where the columns that `plan` writes come from.
    pub(crate) fn of(plan: &Plan) -> Self {
        let sources = copied(plan).or_else(|| constant(plan));
        Self {
            sources: sources.unwrap_or_else(|| encoded(plan)),
            rows_max: plan.request.rows_per_file,
        }
    }

    /// The same where every column is encoded.
    pub(crate) fn all_encoded(plan: &Plan) -> Self {
        Self { sources: encoded(plan), rows_max: None }
    }

    pub(crate) fn copies_pages(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, ColumnSource::CopiedPages(_)))
    }

    pub(crate) fn are_constant(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, ColumnSource::Constant))
    }

    /// For each column the source's field whose pages are copied, if they are.
    pub(crate) fn copied_fields(&self) -> impl Iterator<Item = Option<&Field>> {
        self.sources.iter().map(|source| match source {
            ColumnSource::CopiedPages(field) => Some(field.as_ref()),
            ColumnSource::Constant | ColumnSource::Encoded => None,
        })
    }

    /// The places, among the written columns, of the constants.
    fn constant_places(&self) -> impl Iterator<Item = usize> {
        let constant = |(place, source)| matches!(source, &ColumnSource::Constant).then_some(place);
        self.sources.iter().enumerate().filter_map(constant)
    }

    pub(crate) fn constant_schema(&self, plan: &Plan) -> Schema {
        let written = plan.written_schema();
        let fields = self.constant_places().filter_map(|place| written.fields.get(place).cloned());
        Schema { fields: fields.collect(), metadata: written.metadata.clone() }
    }

    /// What gives the constants.
    pub(crate) fn constant_transform(&self, plan: &Plan) -> Transform {
        let places = self.constant_places().filter_map(|place| plan.written.get(place).copied());
        Transform::of(&plan.target, &places.collect::<Vec<_>>(), None)
    }

    /// How wide a row of the constants is.
    pub(crate) fn constant_width(&self, plan: &Plan) -> Width {
        let columns = self
            .constant_places()
            .filter_map(|place| plan.target.columns.get(*plan.written.get(place)?));
        let bytes = columns.map(|column| {
            if let Column::Constant(value) = column { cost::constant(value) } else { UNKNOWN_BYTES }
        });
        Width { bytes: bytes.sum(), columns: self.constant_places().count() as u64 }
    }
}

/// Bytes of a value that is computed from no column.
const UNKNOWN_BYTES: u64 = 16;

fn encoded(plan: &Plan) -> Vec<ColumnSource> {
    plan.written.iter().map(|_| ColumnSource::Encoded).collect()
}

/// Constants, where a file of their own is written beside each fragment, and nothing is read for it.
fn constant(plan: &Plan) -> Option<Vec<ColumnSource>> {
    let columns = plan.written.iter().filter_map(|place| plan.target.columns.get(*place));
    let reads = !plan.transform().inputs().fields.is_empty()
        || columns.flat_map(Column::elsewhere).next().is_some();
    (plan.is_aligned() && !reads)
        .then(|| plan.written.iter().map(|_| ColumnSource::Constant).collect())
}

/// Copied pages and constants, where that is all: columns that stay as they are, constants, every row, and a
/// format whose pages need nothing but their own bytes.
fn copied(plan: &Plan) -> Option<Vec<ColumnSource>> {
    let rewrites = plan.strategy == Strategy::Rewrite && plan.filter.is_none();
    if !rewrites || !abilities(plan.storage_version).has_whole_pages {
        return None;
    }
    let mut sources = Vec::new();
    for place in &plan.written {
        let (field, column) =
            (plan.target.schema.fields.get(*place)?, plan.target.columns.get(*place)?);
        sources.push(match column {
            Column::Keep { name, shape } => {
                let source = plan.before.field(name)?;
                let same = is_same_layout(source, shape) && is_same_layout(source, field);
                ColumnSource::CopiedPages(Box::new(same.then(|| source.clone())?))
            }
            Column::Constant(_) if !has_blob(field) => ColumnSource::Constant,
            Column::Constant(_)
            | Column::Cast { .. }
            | Column::Fill { .. }
            | Column::NotNull { .. }
            | Column::Sql { .. }
            | Column::Elsewhere { .. }
            | Column::BlobV2 { .. }
            | Column::Struct { .. } => return None,
        });
    }
    let columns = WrittenColumns { sources, rows_max: None };
    columns.copies_pages().then_some(columns.sources)
}

/// Whether a page of `field` may say where something else lies in its file.
fn has_blob(field: &Field) -> bool {
    field.is_blob() || field.children.iter().any(has_blob)
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
