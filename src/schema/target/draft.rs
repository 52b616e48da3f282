//! The target while changes are applied: finds and edits its fields and the columns that belong to them.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use lance_core::datatypes::{Field, Schema};

use crate::error::{Error, Result};
use crate::schema::change::Change;
use crate::schema::column::Column;
use crate::schema::elsewhere::Elsewhere;
use crate::schema::literal::parse_literal;
use crate::schema::path::{FieldPosition, field_at, find, split_last, typed};
use crate::schema::rules::{VALUE_BYTES_MAX, expect_name, lost_column, refuse_extension};
use crate::schema::show::type_text;
use crate::schema::target::Skipped;
use crate::schema::target::existing::ExistingColumn;

/// The target while the changes are applied to it, one after the other.
pub(super) struct Draft<'a> {
    pub(super) source: &'a Schema,
    /// The fields at this point. New ones have temporary ids; they get their own in the end.
    pub(super) fields: Vec<Field>,
    pub(super) columns: Vec<Column>,
    pub(super) next_id: i32,
    pub(super) now: DateTime<Utc>,
    pub(super) changes: Vec<Change>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) existing: Vec<ExistingColumn>,
    pub(super) elsewhere: Vec<Elsewhere>,
    /// The columns that producers give, by their names.
    pub(super) replaced: Vec<String>,
    /// Columns that are kept under another name, by the name that a new one has now.
    pub(super) kept_beside: Vec<String>,
}

impl Draft<'_> {
    /// The schema at this point.
    pub(super) fn schema(&self) -> Schema {
        Schema { fields: self.fields.clone(), metadata: self.source.metadata.clone() }
    }

    /// Where the column `path` is, if there is one.
    pub(super) fn find(&self, path: &str) -> Option<FieldPosition> {
        find(&self.fields, path)
    }

    /// As [`find`](Self::find), in whatever case the name is written.
    pub(super) fn find_any_case(&self, path: &str) -> Option<FieldPosition> {
        self.find(path).or_else(|| {
            let (around, name) = self.split_new(path).ok()?;
            let fields = if around.is_empty() {
                self.fields.as_slice()
            } else {
                self.field(&around).ok()?.children.as_slice()
            };
            let at = fields.iter().position(|field| field.name.eq_ignore_ascii_case(&name))?;
            Some(around.into_iter().chain([at]).collect())
        })
    }

    /// Where the column `path` is, which is to be changed.
    pub(super) fn expect(&self, path: &str) -> Result<FieldPosition> {
        self.find(path).ok_or_else(|| self.no_column(path, "to change"))
    }

    /// The error for a column `path` that does not exist, with the names that are most like it.
    pub(super) fn no_column(&self, path: &str, what: &str) -> Error {
        let mut names = self.schema().field_paths();
        names.sort_by_cached_key(|name| strsim::damerau_levenshtein(name, path));
        names.truncate(3);
        let quote = names.iter().any(|name| typed(name).contains('`'));
        let names: Vec<_> = names.iter().map(|name| format!("`{}`", typed(name))).collect();
        let error = Error::refused(format!("there is no column `{path}` {what}"))
            .with_advice(&format!("did you mean {}?", names.join(", ")));
        if !quote {
            return error;
        }
        error.with_advice(
            "a name with a dot, a colon, a sign `=` or an outer space stands in backticks",
        )
    }

    /// The field at `place`.
    pub(super) fn field(&self, place: &[usize]) -> Result<&Field> {
        field_at(&self.fields, place).ok_or_else(lost_column)
    }

    /// The field at `place`, to be changed.
    pub(super) fn field_mut(&mut self, place: &[usize]) -> Result<&mut Field> {
        let (top, inner) = place.split_first().ok_or_else(lost_column)?;
        let mut field = self.fields.get_mut(*top).ok_or_else(lost_column)?;
        for at in inner {
            field = field.children.get_mut(*at).ok_or_else(lost_column)?;
        }
        Ok(field)
    }

    /// The struct to which a new column `path` belongs, and its name in it.
    pub(super) fn split_new(&self, path: &str) -> Result<(FieldPosition, String)> {
        let (outer, name) = split_last(path);
        let around = match outer {
            None => Vec::new(),
            Some(outer) => {
                let place = self.find(outer);
                let place = place.ok_or_else(|| self.no_column(outer, "to add to"))?;
                let field = self.field(&place)?;
                if !matches!(field.data_type(), DataType::Struct(_)) {
                    let kind = type_text(&field.data_type());
                    let message = format!("column `{outer}` is {kind}, not a struct to add to");
                    return Err(Error::refused(message));
                }
                refuse_extension(field, outer, "add to")?;
                place
            }
        };
        expect_name(&name, path)?;
        Ok((around, name))
    }

    /// The top-level column in which `place` is, at this point.
    pub(super) fn top_of(&self, place: &[usize]) -> Result<(Field, Column)> {
        let field =
            self.fields.get(*place.first().ok_or_else(lost_column)?).ok_or_else(lost_column)?;
        Ok((field.clone(), self.column_named(&field.name)?))
    }

    /// The top-level column `name`, at this point.
    pub(super) fn column_named(&self, name: &str) -> Result<Column> {
        let place =
            self.fields.iter().position(|field| field.name == name).ok_or_else(lost_column)?;
        let field = self.fields.get(place).ok_or_else(lost_column)?;
        let mut column = self.columns.get(place).cloned().ok_or_else(lost_column)?;
        column.settle(field);
        Ok(column)
    }

    /// Puts a new column at the end of the struct at `around`, or of the table.
    pub(super) fn insert(&mut self, around: &[usize], mut field: Field, column: Column) {
        self.number(&mut field);
        if around.is_empty() {
            self.fields.push(field);
            self.columns.push(column);
            return;
        }
        if let Ok(children) = self.children(around) {
            children.push(column);
        }
        if let Ok(outer) = self.field_mut(around) {
            field.parent_id = outer.id;
            outer.children.push(field);
        }
    }

    /// Gives `field` and all fields in it temporary ids, which no other field has.
    pub(super) fn number(&mut self, field: &mut Field) {
        field.id = self.next_id;
        self.next_id += 1;
        for child in &mut field.children {
            child.parent_id = field.id;
            self.number(child);
        }
    }

    /// Replaces the column at `place` by what `derive` gives for it.
    pub(super) fn change_value(
        &mut self,
        place: &[usize],
        derive: impl FnOnce(Box<Column>) -> Column,
    ) -> Result<()> {
        let field = self.field(place)?.clone();
        let (top, inner) = place.split_first().ok_or_else(lost_column)?;
        let outer = self.fields.get(*top).ok_or_else(lost_column)?;
        let column = self.columns.get_mut(*top).ok_or_else(lost_column)?;
        let column = column.child_at(outer, inner).ok_or_else(lost_column)?;
        let of = Box::new(column.take(&field));
        *column = derive(of);
        Ok(())
    }

    /// The children of the struct at `place`, to be changed.
    pub(super) fn children(&mut self, place: &[usize]) -> Result<&mut Vec<Column>> {
        let field = self.field(place)?.clone();
        let (top, inner) = place.split_first().ok_or_else(lost_column)?;
        let outer = self.fields.get(*top).ok_or_else(lost_column)?;
        let column = self.columns.get_mut(*top).ok_or_else(lost_column)?;
        let column = column.child_at(outer, inner).ok_or_else(lost_column)?;
        column.children_of(&field).ok_or_else(lost_column)
    }

    /// `text` as a value of `data_type` for the column `path`.
    pub(super) fn literal(&self, text: &str, data_type: &DataType, path: &str) -> Result<ArrayRef> {
        // It stands in the plan and the journal.
        if text.len() as u64 > VALUE_BYTES_MAX {
            return Err(Error::usage(format!("column `{path}`: a literal has at most 16 MiB")));
        }
        parse_literal(text, data_type, self.now)
            .map_err(|error| Error::usage(format!("column `{path}`: {error}")))
    }

    /// Notes that the table has a change already.
    #[allow(clippy::unnecessary_wraps, reason = "a change ends with it")]
    pub(super) fn skip(&mut self, name: &str, why: &str) -> Result<()> {
        self.skipped.push(Skipped { name: name.to_owned(), why: why.to_owned() });
        Ok(())
    }
}
