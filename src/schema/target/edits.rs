//! Changes of existing columns: their values, types, names and nullability, and dropping them.

use arrow::datatypes::Field as ArrowField;

use crate::error::{Error, Result};
use crate::schema::change::{Cast, Change};
use crate::schema::column::Column;
use crate::schema::literal::settle_now;
use crate::schema::path::{fields_around, path_at, renamed};
use crate::schema::rules::{
    as_stored, expect_bounded, expect_castable, expect_name, expect_nulls_kept, kept_metadata,
    lost_column, refuse_extension, refuse_extension_inside,
};
use crate::schema::show::type_text;
use crate::schema::target::IfExists;
use crate::schema::target::draft::Draft;

impl Draft<'_> {
    /// Computes the values of an existing column.
    pub(super) fn set(&mut self, name: &str, sql: &str) -> Result<()> {
        let place = self.expect(name)?;
        let [top] = place.as_slice() else {
            let message = format!("column `{name}`: only a top-level column can be set");
            return Err(Error::usage(message));
        };
        let field = self.field(&place)?.clone();
        refuse_extension_inside(&field, name, "set")?;
        let parsed = self.parsed(name, sql)?;
        let column = self.computed(parsed, name, &field)?.for_field(&field, name);
        // It keeps its id here, by which indices and keys on it are found.
        *self.columns.get_mut(*top).ok_or_else(lost_column)? = column;
        self.replaced.retain(|one| one != name);
        self.changes.push(Change::Set { name: name.to_owned(), sql: sql.to_owned() });
        Ok(())
    }

    /// Casts a column to another type.
    pub(super) fn cast(&mut self, cast: &Cast) -> Result<()> {
        let place = self.expect(&cast.name)?;
        let old = self.field(&place)?.clone();
        expect_bounded(&cast.data_type, &cast.name)?;
        let arrow = ArrowField::new(&old.name, cast.data_type.clone(), old.nullable);
        let mut new = as_stored(&arrow, &cast.name)?;
        expect_nulls_kept(&cast.data_type, &new.data_type(), &cast.name)?;
        let from = old.data_type();
        if from == new.data_type() {
            return self.skip(&cast.name, &format!("is {} already", type_text(&from)));
        }
        refuse_extension(&old, &cast.name, "cast")?;
        expect_castable(&cast.name, &from, &new.data_type())?;
        new.metadata = kept_metadata(&old);
        new.unenforced_primary_key_position = old.unenforced_primary_key_position;
        new.unenforced_clustering_key_position = old.unenforced_clustering_key_position;
        let (to, path) = (new.data_type(), cast.name.clone());
        self.change_value(&place, |of| Column::Cast { of, to, path })?;
        if !old.nullable {
            // A value that cannot be cast would be null.
            let path = cast.name.clone();
            self.change_value(&place, |of| Column::NotNull { of, path })?;
        }
        // It keeps its id here, by which indices and keys on it are found.
        self.number(&mut new);
        new.id = old.id;
        new.children.iter_mut().for_each(|child| child.parent_id = old.id);
        *self.field_mut(&place)? = new;
        let done = Cast { from: Some(from), ..cast.clone() };
        self.changes.push(Change::Cast(done));
        Ok(())
    }

    /// Puts a value in place of a column's nulls.
    pub(super) fn fill(&mut self, name: &str, text: &str) -> Result<()> {
        let place = self.expect(name)?;
        let field = self.field(&place)?.clone();
        refuse_extension(&field, name, "fill")?;
        let data_type = field.data_type();
        let value = self.literal(text, &data_type, name)?;
        if !field.nullable {
            return self.skip(name, "has no nulls to fill");
        }
        self.change_value(&place, |of| Column::Fill { of, value })?;
        let value = settle_now(text, &data_type, self.now);
        self.changes.push(Change::Fill { name: name.to_owned(), value });
        Ok(())
    }

    /// Forbids nulls in a column.
    pub(super) fn not_null(&mut self, name: &str) -> Result<()> {
        let place = self.expect(name)?;
        if !self.field(&place)?.nullable {
            return self.skip(name, "is not null already");
        }
        if self.field(&place)?.is_blob() {
            refuse_extension(self.field(&place)?, name, "forbid nulls in")?;
        }
        let path = name.to_owned();
        self.change_value(&place, |of| Column::NotNull { of, path })?;
        self.field_mut(&place)?.nullable = false;
        self.changes.push(Change::NotNull { name: name.to_owned() });
        Ok(())
    }

    /// Allows nulls in a column.
    pub(super) fn nullable(&mut self, name: &str) -> Result<()> {
        let place = self.expect(name)?;
        let field = self.field_mut(&place)?;
        if field.nullable {
            return self.skip(name, "is nullable already");
        }
        field.nullable = true;
        self.changes.push(Change::Nullable { name: name.to_owned() });
        Ok(())
    }

    /// Renames a column.
    pub(super) fn rename(&mut self, name: &str, to: &str, if_exists: IfExists) -> Result<()> {
        // The request may have been carried out before.
        let now = renamed(name, to);
        if if_exists == IfExists::Skip && self.find(name).is_none() && self.find(&now).is_some() {
            return self
                .skip(&now, &format!("is there, and `{name}` is not: it is called so already"));
        }
        let place = self.expect(name)?;
        expect_name(to, &now)?;
        let own = self.field(&place)?.id;
        let around = fields_around(&self.fields, &place);
        let mut others = around.iter().filter(|field| field.id != own);
        if let Some(other) = others.find(|field| field.name.eq_ignore_ascii_case(to)) {
            return Err(Error::refused(format!(
                "column `{name}` cannot be called `{to}`: there is a column `{}` already",
                other.name
            )));
        }
        // As it is taken back: without what was left out of it where it was typed.
        let path = path_at(&self.fields, &place);
        let field = self.field_mut(&place)?;
        if field.name == to {
            return self.skip(name, "is called so already");
        }
        to.clone_into(&mut field.name);
        for one in self.replaced.iter_mut().filter(|one| **one == path) {
            to.clone_into(one);
        }
        self.changes.push(Change::Rename { name: path, to: to.to_owned() });
        Ok(())
    }

    /// Drops a column.
    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        let place = self.find(name);
        let place = place.ok_or_else(|| self.no_column(name, "to drop"))?;
        if fields_around(&self.fields, &place).len() == 1 {
            return Err(Error::refused(format!("column `{name}` is the only one")));
        }
        let Some((last, outer)) = place.split_last() else {
            return Err(self.no_column(name, "to drop"));
        };
        match outer.split_first() {
            None => {
                self.fields.remove(*last);
                self.columns.remove(*last);
            }
            Some((top, _)) => {
                if self.columns.get(*top).is_some_and(|column| !column.is_kept()) {
                    self.children(outer)?.remove(*last);
                }
                self.field_mut(outer)?.children.remove(*last);
            }
        }
        self.changes.push(Change::Drop { name: name.to_owned() });
        Ok(())
    }
}
