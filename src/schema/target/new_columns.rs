//! Adds columns with a default and computed ones, or skips those that the table has already.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use lance_core::datatypes::Field;

use crate::error::{Error, Result};
use crate::schema::change::{Add, Change, Compute};
use crate::schema::column::Column;
use crate::schema::extension::extension_literal;
use crate::schema::literal::{null_literal, settle_now};
use crate::schema::path::{FieldPosition, split_last};
use crate::schema::rules::{
    as_stored, expect_bounded, expect_castable, expect_nulls_kept, not_comparable,
    refuse_extension_inside,
};
use crate::schema::show::type_text;
use crate::schema::sql::Sql;
use crate::schema::stored::without_views;
use crate::schema::target::IfExists;
use crate::schema::target::draft::Draft;
use crate::schema::target::existing::{ExistingColumn, RequestedValues};

impl Draft<'_> {
    /// Adds a column that holds one value, or nulls.
    pub(super) fn add(&mut self, add: &Add, if_exists: IfExists) -> Result<()> {
        expect_bounded(&add.data_type, &add.name)?;
        let value = match &add.default {
            Some(text) => match extension_literal(text, &add.metadata) {
                Ok(Some(value)) => value,
                Ok(None) => self.literal(text, &add.data_type, &add.name)?,
                Err(error) => return Err(error.about(&format!("column `{}`", add.name))),
            },
            None => null_literal(&add.data_type),
        };
        let (around, name) = self.split_new(&add.name)?;
        let metadata = add.metadata.clone().into_iter().collect();
        let field = ArrowField::new(name, add.data_type.clone(), add.nullable);
        let field = field.with_metadata(metadata);
        let field = as_stored(&field, &add.name)?;
        expect_nulls_kept(&add.data_type, &field.data_type(), &add.name)?;
        // The items of a stored type can have other names than those that were asked for.
        let value = arrow::compute::cast(&value, &field.data_type()).unwrap_or(value);
        if let Some(place) = self.existing(&add.name, &field.data_type(), if_exists)? {
            let requested = match add.default.as_deref() {
                // No values were asked for.
                None => None,
                Some("now") if add.data_type.is_temporal() => Some(RequestedValues::Now),
                Some(text) => Some(RequestedValues::Default(text.to_owned())),
            };
            let existing = self.top_of(&place)?;
            // The bytes of an extension type or a blob do not show what they mean.
            let is_plain = refuse_extension_inside(&existing.0, &add.name, "compare").is_ok();
            if let Some(requested) = requested.filter(|_| is_plain) {
                let (path, inside) = (add.name.clone(), inside(&place));
                let wanted = (field, Column::Constant(value));
                self.existing.push(ExistingColumn { path, requested, inside, existing, wanted });
            }
            return self.skip_existing(&add.name, add.nullable, &place);
        }
        self.insert(&around, field, Column::Constant(value));
        let default = add.default.as_ref();
        self.changes.push(Change::Add(Add {
            default: default.map(|text| settle_now(text, &add.data_type, self.now)),
            ..add.clone()
        }));
        Ok(())
    }

    /// Adds a column that is computed from others.
    pub(super) fn compute(&mut self, compute: &Compute, if_exists: IfExists) -> Result<()> {
        let Compute { name, data_type, nullable, sql } = compute;
        let (around, own_name) = self.split_new(name)?;
        if !around.is_empty() {
            let message = format!("column `{name}`: only a top-level column can be computed");
            return Err(Error::usage(message));
        }
        let field_of =
            |kind: DataType| as_stored(&ArrowField::new(&own_name, kind, *nullable), name);
        let exists = self.find(name).is_some();
        if let Some(asked) = data_type.as_ref().filter(|_| exists) {
            self.existing(name, &field_of(asked.clone())?.data_type(), if_exists)?;
        }
        let parsed = match self.parsed(name, sql) {
            Err(error) if exists => {
                let why = "what was asked for cannot be computed, to compare the two";
                return Err(not_comparable(name, why).caused_by(error));
            }
            parsed => parsed?,
        };
        let of_itself = exists && parsed.inputs().column_with_name(name).is_some();
        if of_itself && if_exists == IfExists::Skip {
            return Err(not_comparable(name, &format!("`{sql}` is computed from it")));
        }
        let asked = match data_type {
            Some(asked) => asked.clone(),
            // Some functions give views, which Lance does not store, and other names of items.
            None => field_of(without_views(parsed.data_type()))?.data_type(),
        };
        expect_bounded(&asked, name)?;
        expect_castable(name, parsed.data_type(), &asked)?;
        let field = field_of(asked.clone())?;
        expect_nulls_kept(&asked, &field.data_type(), name)?;
        let existing = self.existing(name, &field.data_type(), if_exists)?;
        let column = self.computed(parsed, name, &field)?;
        if let Some(place) = existing {
            let existing = self.top_of(&place)?;
            if refuse_extension_inside(&existing.0, name, "compare").is_err() {
                return Err(not_comparable(name, "its values cannot be compared"));
            }
            let (path, inside) = (name.clone(), inside(&place));
            let (requested, wanted) = (RequestedValues::Sql(sql.clone()), (field, column));
            self.existing.push(ExistingColumn { path, requested, inside, existing, wanted });
            return self.skip_existing(name, *nullable, &place);
        }
        let column = column.for_field(&field, name);
        self.insert(&[], field, column);
        let done = Compute { data_type: Some(asked), ..compute.clone() };
        self.changes.push(Change::Compute(done));
        Ok(())
    }

    /// The expression `sql` for the column `name`, over the columns as they are at this point.
    pub(super) fn parsed(&self, name: &str, sql: &str) -> Result<Sql> {
        let parsed = Sql::parse(sql, &ArrowSchema::from(&self.schema()));
        parsed.map_err(|error| Error::usage(format!("column `{name}`: {error}")).caused_by(error))
    }

    /// The values of `sql`, cast to the type of `field`, which is the column `name`.
    pub(super) fn computed(&self, sql: Sql, name: &str, field: &Field) -> Result<Column> {
        let data_type = field.data_type();
        expect_castable(name, sql.data_type(), &data_type)?;
        let inputs = sql.inputs().fields().iter().map(|input| self.column_named(input.name()));
        let inputs = inputs.collect::<Result<_>>()?;
        Ok(Column::Sql { sql: Arc::new(sql.with_cast(data_type, name)), inputs })
    }

    /// Where the column `path` is, if the table has it already, with the type `stored`.
    fn existing(
        &self,
        path: &str,
        stored: &DataType,
        if_exists: IfExists,
    ) -> Result<Option<FieldPosition>> {
        let Some(place) = self.find_any_case(path) else { return Ok(None) };
        let existing = self.field(&place)?;
        if existing.name != split_last(path).1 {
            return Err(Error::refused(format!(
                "column `{path}` differs from the existing `{}` only in case, which LanceDB's \
                 queries do not tell apart",
                existing.name
            )));
        }
        let there = existing.data_type();
        if there != *stored {
            return Err(Error::refused(format!(
                "column `{path}` exists with another type: it is {}, not {}",
                type_text(&there),
                type_text(stored)
            )));
        }
        if if_exists == IfExists::Error {
            let message = format!("column `{path}` exists already");
            return Err(Error::refused(message).with_advice("--if-exists skip leaves it alone"));
        }
        Ok(Some(place))
    }

    /// Leaves alone the column at `place`, which a change would have added.
    fn skip_existing(&mut self, name: &str, nullable: bool, place: &[usize]) -> Result<()> {
        let nulls = !nullable && self.field(place)?.nullable;
        let but = if nulls { ", but may hold nulls (--not-null forbids them)" } else { "" };
        self.skip(name, &format!("exists already with this type{but}"))
    }
}

/// Where the column at `place` lies in its top-level column.
fn inside(place: &[usize]) -> Vec<usize> {
    place.iter().skip(1).copied().collect()
}
