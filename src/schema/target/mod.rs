//! The target: the schema after the changes, and where each of its columns comes from.

mod changes;
mod draft;
mod edits;
pub(crate) mod existing;
mod from_elsewhere;
mod new_columns;

use std::collections::HashMap;

use lance_core::datatypes::{Field, Schema};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::schema::blob::is_blob_v1;
use crate::schema::change::Change;
use crate::schema::column::Column;
use crate::schema::elsewhere::Elsewhere;
use crate::schema::rules::{renumber, same_field};
use crate::schema::target::existing::ExistingColumn;

/// What to do about an added column that the table has already, with the same type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IfExists {
    /// Leave the column alone, and say so.
    #[default]
    Skip,
    /// Refuse the migration.
    Error,
}

/// A schema after changes, and where its columns come from.
#[derive(Debug, Clone)]
pub struct Target {
    /// The schema after the swap. Fields whose values stay keep their ids; all others have new ones.
    pub(crate) schema: Schema,
    /// Where each top-level column comes from, in the schema's order.
    pub(crate) columns: Vec<Column>,
    /// The changes that are carried out, with the time in place of `now`, and with all types.
    pub(crate) changes: Vec<Change>,
    /// Changes that the table has already.
    pub(crate) skipped: Vec<Skipped>,
    /// What is lost with a dropped column, in words.
    pub(crate) lost: Vec<String>,
    /// The columns that are there already, whose values have to be compared with those that were asked for.
    pub(crate) existing: Vec<ExistingColumn>,
    /// What comes from elsewhere, in the order of its changes.
    pub(crate) elsewhere: Vec<Elsewhere>,
    /// Columns of the source that are kept under another name, by the name that a new one has now.
    pub(crate) kept_beside: Vec<String>,
    /// The source's schema.
    pub(crate) before: Schema,
    /// The schema after the changes, but with the ids of the source, by which its fields are found.
    pub(crate) after: Schema,
}

/// A change that the table has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// The column.
    pub name: String,
    /// Why it is skipped.
    pub why: String,
}

impl Target {
    /// Whether the table is as asked already.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.changes.is_empty()
    }

    /// Turns top-level columns of blob v1 into blob v2, which newer storage versions have. Their new children get
    /// the ids after those of all other fields.
    ///
    /// # Errors
    /// `Failed`, when Lance refuses it.
    pub(crate) fn promote_blobs(&mut self, field_id_max: i32) -> Result<()> {
        let highest = self.schema.fields_pre_order().map(|field| field.id).max();
        let mut next_id = i64::from(highest.unwrap_or_default().max(field_id_max)) + 1;
        let pairs = self.schema.fields.iter_mut().zip(&mut self.columns);
        for (field, column) in pairs.filter(|(field, _)| is_blob_v1(field)) {
            *column = Column::BlobV2 { of: Box::new(column.clone()) };
            field.promote_blob_v2().doing(|| format!("store the blobs of `{}`", field.name))?;
            let own = field.id;
            for child in &mut field.children {
                next_id = renumber(child, own, next_id)?;
            }
        }
        Ok(())
    }

    /// The places of the derived columns, whose values are not the source's own.
    pub(crate) fn derived(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.is_kept()).map(|(at, _)| at)
    }

    /// The places of the columns whose values come from what is at `place` of [`elsewhere`](Self::elsewhere).
    pub(crate) fn needing(&self, place: usize) -> Vec<usize> {
        let columns = self.columns.iter().enumerate();
        let needing = columns.filter(|(_, column)| column.elsewhere().contains(&place));
        needing.map(|(at, _)| at).collect()
    }

    /// Whether a column is dropped, or one that stays has another name or another shape.
    pub(crate) fn renames_or_drops(&self) -> bool {
        let stays = |old: &Field| {
            self.after.fields.iter().zip(&self.columns).any(|(new, column)| {
                let derived = !column.is_kept() && new.id == old.id && new.name == old.name;
                derived || same_field(new, old)
            })
        };
        !self.before.fields.iter().all(stays)
    }

    /// The path in the target of the field at `path` of the source, if it is still there.
    pub(crate) fn path_now(&self, path: &str) -> Option<String> {
        let field = self.before.field(path)?;
        self.after.field_path(field.id).ok()
    }

    /// As [`path_now`](Self::path_now). For a dropped field it is `path` itself, if another field has it now.
    pub(crate) fn path_taken(&self, path: &str) -> Option<String> {
        self.path_now(path).or_else(|| self.after.field(path).map(|_| path.to_owned()))
    }

    /// The path in the target of what an index on the source's column at `path` is to find: the new column, where the
    /// old one is kept under another name.
    pub(crate) fn path_indexed(&self, path: &str) -> Option<String> {
        let beside = self.kept_beside.iter().find(|name| *name == path);
        beside.cloned().or_else(|| self.path_taken(path))
    }

    /// Whether the field at `path` of the target is null in every row.
    pub(crate) fn is_all_null(&self, path: &str) -> bool {
        let place = self.after.fields.iter().position(|field| field.name == path);
        place.and_then(|place| self.columns.get(place)).is_some_and(Column::is_all_null)
    }

    /// A target that has, two by two, the columns that are there already and those that were asked for.
    pub(crate) fn side_by_side(&self) -> Self {
        let pairs = self.existing.iter().flat_map(|one| [&one.existing, &one.wanted]);
        // Values that cannot be taken over are null.
        let pairs = pairs.map(|(field, column)| {
            let field = Field { nullable: true, ..field.clone() };
            (field, column.clone())
        });
        let (fields, columns): (Vec<Field>, Vec<Column>) = pairs.unzip();
        let schema = Schema { fields, metadata: HashMap::new() };
        Self { after: schema.clone(), schema, columns, ..self.clone() }
    }
}
