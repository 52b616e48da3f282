//! What the changes make of a table's schema: the target, and where each of its columns comes from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};
use chrono::{DateTime, Utc};
use lance_core::datatypes::{Field, Schema};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::schema::blob::is_blob_v1;
use crate::schema::change::{Add, Cast, Change, Compute};
use crate::schema::column::Column;
use crate::schema::follow::{Renamed, followed, lost_functions};
use crate::schema::literal::{null_literal, parse_literal, settle_now};
use crate::schema::path::{Place, field_at, fields_around, find, renamed};
use crate::schema::rules::{
    exists_otherwise, expect_castable, expect_name, expect_nulls_kept, field_of, kept_metadata,
    nowhere, refuse_extension, refuse_extension_inside, refuse_twice, renumber, same_field, stored,
};
use crate::schema::show::type_text;
use crate::schema::sql::Sql;
use crate::schema::stored::without_views;
use crate::schema::there::{Asked, There};

/// What to do about an added column that the table has already, with the same type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfExists {
    /// Leave the column alone, and say so.
    #[default]
    Skip,
    /// Refuse the migration.
    Error,
}

/// What the changes make of a schema.
#[derive(Debug, Clone)]
pub struct Target {
    /// The schema after the swap. Fields whose values stay keep their ids; all others have new ones.
    pub schema: Schema,
    /// Where each top-level column comes from, in the schema's order.
    pub columns: Vec<Column>,
    /// The changes that are carried out, `now` and types spelled out.
    pub changes: Vec<Change>,
    /// Changes that the table has already.
    pub skipped: Vec<Skipped>,
    /// What is lost with a column that goes, in words.
    pub lost: Vec<String>,
    /// Those of the columns that are there already whose values have to be compared with what was asked.
    pub(crate) there: Vec<There>,
    /// The fields of the source and what became of each: those whose values stay keep their ids here.
    pub(crate) before: Schema,
    pub(crate) after: Schema,
}

/// The target while the changes are applied, one after the other.
struct Draft<'a> {
    source: &'a Schema,
    /// As they are now. New fields have numbers of their own, which are not the ids that they will have.
    fields: Vec<Field>,
    columns: Vec<Column>,
    next_number: i32,
    now: DateTime<Utc>,
    changes: Vec<Change>,
    skipped: Vec<Skipped>,
    there: Vec<There>,
}

/// A change that the table has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The column.
    pub name: String,
    /// What is there.
    pub why: String,
}

impl Target {
    /// Applies `changes`, in order, to `source`. `field_id_max` is the highest field id that the table
    /// ever used; new fields come after it.
    ///
    /// # Errors
    /// `Usage` for a malformed change, a literal or an expression that does not fit; `Refused` for what
    /// this schema does not allow.
    pub fn derive(
        source: &Schema,
        field_id_max: i32,
        changes: &[Change],
        if_exists: IfExists,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        refuse_twice(changes)?;
        let mut draft = Draft {
            source,
            fields: source.fields.clone(),
            columns: source.fields.iter().map(Column::keep).collect(),
            next_number: field_id_max + 1,
            now,
            changes: Vec::new(),
            skipped: Vec::new(),
            there: Vec::new(),
        };
        for change in changes {
            draft.apply(change, if_exists)?;
        }
        draft.finish(field_id_max)
    }

    /// Whether the table is as asked already.
    pub fn is_unchanged(&self) -> bool {
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

    /// The places of the columns whose values are not the source's own.
    pub fn derived(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.is_kept()).map(|(at, _)| at)
    }

    /// Whether a column that stays is called or shaped otherwise, or one goes.
    pub(crate) fn renames_or_drops(&self) -> bool {
        let stays = |old: &Field| {
            self.after.fields.iter().zip(&self.columns).any(|(new, column)| {
                let derived = !column.is_kept() && new.id == old.id && new.name == old.name;
                derived || same_field(new, old)
            })
        };
        !self.before.fields.iter().all(stays)
    }

    /// What the field at `path` of the source is called now, if it is there still.
    pub(crate) fn path_now(&self, path: &str) -> Option<String> {
        let field = self.before.field(path)?;
        self.after.field_path(field.id).ok()
    }

    /// As [`path_now`](Self::path_now); of a field that is gone, its own path, where another one has it now.
    pub(crate) fn path_taken(&self, path: &str) -> Option<String> {
        self.path_now(path).or_else(|| self.after.field(path).map(|_| path.to_owned()))
    }

    /// Whether the field at `path` of the target is null in every row.
    pub(crate) fn is_all_null(&self, path: &str) -> bool {
        let place = self.after.fields.iter().position(|field| field.name == path);
        place.and_then(|place| self.columns.get(place)).is_some_and(Column::is_all_null)
    }
}

impl Draft<'_> {
    fn apply(&mut self, change: &Change, if_exists: IfExists) -> Result<()> {
        match change {
            Change::Add(add) => self.add(add, if_exists),
            Change::Compute(compute) => self.compute(compute, if_exists),
            Change::Cast(cast) => self.cast(cast),
            Change::Set { name, sql } => self.set(name, sql),
            Change::Fill { name, value } => self.fill(name, value),
            Change::Rename { name, to } => self.rename(name, to, if_exists),
            Change::Drop { name } => self.remove(name),
            Change::Nullable { name } => self.nullable(name),
            Change::NotNull { name } => self.not_null(name),
        }
    }

    fn add(&mut self, add: &Add, if_exists: IfExists) -> Result<()> {
        let value = match &add.default {
            Some(text) => parse_literal(text, &add.data_type, self.now)
                .map_err(|error| Error::usage(format!("column `{}`: {error}", add.name)))?,
            None => null_literal(&add.data_type),
        };
        let (around, name) = self.split_new(&add.name)?;
        let field = ArrowField::new(name, add.data_type.clone(), add.nullable);
        let field = stored(&field, &add.name)?;
        expect_nulls_kept(&add.data_type, &field.data_type(), &add.name)?;
        // Stored types can differ from those asked in the names of their items.
        let value = arrow::compute::cast(&value, &field.data_type()).unwrap_or(value);
        if let Some(place) = self.existing(&add.name, &field.data_type(), if_exists)? {
            return self.skip_add(add, &place, (field, Column::Constant(value)));
        }
        self.insert(&around, field, Column::Constant(value));
        let default = add.default.as_ref();
        self.changes.push(Change::Add(Add {
            default: default.map(|text| settle_now(text, &add.data_type, self.now)),
            ..add.clone()
        }));
        Ok(())
    }

    fn compute(&mut self, compute: &Compute, if_exists: IfExists) -> Result<()> {
        let Compute { name, data_type, nullable, sql } = compute;
        let (around, own_name) = self.split_new(name)?;
        if !around.is_empty() {
            let message = format!("column `{name}`: only a top-level column can be computed");
            return Err(Error::usage(message));
        }
        if data_type.is_some() && self.find(name).is_some() {
            let asked = stored(&field_of(own_name, data_type.clone(), *nullable), name)?;
            self.existing(name, &asked.data_type(), if_exists)?;
        }
        let there = self.find(name).is_some();
        let parsed = match self.parsed(name, sql) {
            Err(error) if there => {
                let why = "what was asked for cannot be computed, to compare the two";
                return Err(exists_otherwise(name, why).caused_by(error));
            }
            parsed => parsed?,
        };
        let of_itself = there && parsed.inputs().column_with_name(name).is_some();
        if of_itself && if_exists == IfExists::Skip {
            return Err(exists_otherwise(name, &format!("`{sql}` is computed from it")));
        }
        let asked = if let Some(asked) = data_type {
            asked.clone()
        } else {
            // Some functions give views, which Lance does not store, and other names of items.
            let own = without_views(parsed.data_type());
            stored(&field_of(own_name, Some(own), *nullable), name)?.data_type()
        };
        expect_castable(name, parsed.data_type(), &asked)?;
        let field = stored(&field_of(own_name, Some(asked.clone()), *nullable), name)?;
        expect_nulls_kept(&asked, &field.data_type(), name)?;
        if let Some(place) = self.existing(name, &field.data_type(), if_exists)? {
            let made = (field.clone(), self.computed(parsed, name, &field)?);
            return self.skip_compute(compute, &place, made);
        }
        let mut column = self.computed(parsed, name, &field)?;
        if !nullable {
            column = Column::NotNull { of: Box::new(column), path: name.clone() };
        }
        self.insert(&[], field, column);
        let done = Compute { data_type: Some(asked), ..compute.clone() };
        self.changes.push(Change::Compute(done));
        Ok(())
    }

    fn set(&mut self, name: &str, sql: &str) -> Result<()> {
        let place = self.expect(name)?;
        let [top] = place.as_slice() else {
            let message = format!("column `{name}`: only a top-level column can be set");
            return Err(Error::usage(message));
        };
        let field = self.field(&place)?.clone();
        refuse_extension_inside(&field, name, "set")?;
        let parsed = self.parsed(name, sql)?;
        let mut column = self.computed(parsed, name, &field)?;
        if !field.nullable {
            column = Column::NotNull { of: Box::new(column), path: name.to_owned() };
        }
        // The column is the same one, whatever its values are.
        *self.columns.get_mut(*top).ok_or_else(nowhere)? = column;
        self.changes.push(Change::Set { name: name.to_owned(), sql: sql.to_owned() });
        Ok(())
    }

    /// The expression `sql` for the column `name`, over the columns as they are now.
    fn parsed(&self, name: &str, sql: &str) -> Result<Sql> {
        let parsed = Sql::parse(sql, &ArrowSchema::from(&self.schema()));
        parsed.map_err(|error| Error::usage(format!("column `{name}`: {error}")).caused_by(error))
    }

    /// The values of `sql` as those of `field`, which is the column `name`.
    fn computed(&self, sql: Sql, name: &str, field: &Field) -> Result<Column> {
        let data_type = field.data_type();
        expect_castable(name, sql.data_type(), &data_type)?;
        let inputs = sql.inputs().fields().iter().map(|input| self.value_of(input.name()));
        let inputs = inputs.collect::<Result<_>>()?;
        Ok(Column::Sql { sql: Arc::new(sql.with_cast(data_type, name)), inputs })
    }

    fn cast(&mut self, cast: &Cast) -> Result<()> {
        let place = self.expect(&cast.name)?;
        let old = self.field(&place)?.clone();
        let arrow = ArrowField::new(&old.name, cast.data_type.clone(), old.nullable);
        let mut new = stored(&arrow, &cast.name)?;
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
            // What cannot be cast would be null.
            let path = cast.name.clone();
            self.change_value(&place, |of| Column::NotNull { of, path })?;
        }
        // The column is the same one, whatever its values are.
        self.number(&mut new);
        new.id = old.id;
        new.children.iter_mut().for_each(|child| child.parent_id = old.id);
        *self.field_mut(&place)? = new;
        let done = Cast { from: Some(from), ..cast.clone() };
        self.changes.push(Change::Cast(done));
        Ok(())
    }

    fn fill(&mut self, name: &str, text: &str) -> Result<()> {
        let place = self.expect(name)?;
        let field = self.field(&place)?.clone();
        refuse_extension(&field, name, "fill")?;
        let data_type = field.data_type();
        let value = parse_literal(text, &data_type, self.now)
            .map_err(|error| Error::usage(format!("column `{name}`: {error}")))?;
        if !field.nullable {
            return self.skip(name, "has no nulls to fill");
        }
        self.change_value(&place, |of| Column::Fill { of, value })?;
        let value = settle_now(text, &data_type, self.now);
        self.changes.push(Change::Fill { name: name.to_owned(), value });
        Ok(())
    }

    fn not_null(&mut self, name: &str) -> Result<()> {
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

    fn nullable(&mut self, name: &str) -> Result<()> {
        let place = self.expect(name)?;
        let field = self.field_mut(&place)?;
        if field.nullable {
            return self.skip(name, "is nullable already");
        }
        field.nullable = true;
        self.changes.push(Change::Nullable { name: name.to_owned() });
        Ok(())
    }

    fn rename(&mut self, name: &str, to: &str, if_exists: IfExists) -> Result<()> {
        // Asked for again, it is done already.
        let now = renamed(name, to);
        if if_exists == IfExists::Skip && self.find(name).is_none() && self.find(&now).is_some() {
            return self
                .skip(&now, &format!("is there, and `{name}` is not: it is called so already"));
        }
        let place = self.expect(name)?;
        expect_name(to, to)?;
        let own = self.field(&place)?.id;
        let around = fields_around(&self.fields, &place);
        let mut others = around.iter().filter(|field| field.id != own);
        if let Some(other) = others.find(|field| field.name.eq_ignore_ascii_case(to)) {
            return Err(Error::refused(format!(
                "column `{name}` cannot be called `{to}`: there is a column `{}` already",
                other.name
            )));
        }
        let field = self.field_mut(&place)?;
        if field.name == to {
            return self.skip(name, "is called so already");
        }
        to.clone_into(&mut field.name);
        self.changes.push(Change::Rename { name: name.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<()> {
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

    /// Puts a new column at the end of the struct at `around`, or of the table.
    fn insert(&mut self, around: &[usize], mut field: Field, column: Column) {
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

    /// Gives `field` and what is in it numbers that no other field has.
    fn number(&mut self, field: &mut Field) {
        field.id = self.next_number;
        self.next_number += 1;
        for child in &mut field.children {
            child.parent_id = field.id;
            self.number(child);
        }
    }

    /// Makes the values of the column at `place` others.
    fn change_value(
        &mut self,
        place: &[usize],
        make: impl FnOnce(Box<Column>) -> Column,
    ) -> Result<()> {
        let field = self.field(place)?.clone();
        let (top, inner) = place.split_first().ok_or_else(nowhere)?;
        let outer = self.fields.get(*top).ok_or_else(nowhere)?;
        let column = self.columns.get_mut(*top).ok_or_else(nowhere)?;
        let column = column.child_at(outer, inner).ok_or_else(nowhere)?;
        let of = Box::new(column.take(&field));
        *column = make(of);
        Ok(())
    }

    /// The children of the struct at `place`, to be changed.
    fn children(&mut self, place: &[usize]) -> Result<&mut Vec<Column>> {
        let field = self.field(place)?.clone();
        let (top, inner) = place.split_first().ok_or_else(nowhere)?;
        let outer = self.fields.get(*top).ok_or_else(nowhere)?;
        let column = self.columns.get_mut(*top).ok_or_else(nowhere)?;
        let column = column.child_at(outer, inner).ok_or_else(nowhere)?;
        column.children_of(&field).ok_or_else(nowhere)
    }

    /// The values of the top-level column `name`, as they are now.
    fn value_of(&self, name: &str) -> Result<Column> {
        let place = self.fields.iter().position(|field| field.name == name).ok_or_else(nowhere)?;
        let field = self.fields.get(place).ok_or_else(nowhere)?;
        let mut column = self.columns.get(place).cloned().ok_or_else(nowhere)?;
        column.settle(field);
        Ok(column)
    }

    /// The struct in which a new column `path` goes, and its own name there.
    fn split_new<'a>(&self, path: &'a str) -> Result<(Place, &'a str)> {
        let (around, name) = match path.rsplit_once('.') {
            None => (Vec::new(), path),
            Some((outer, name)) => {
                let place = self.find(outer);
                let place = place.ok_or_else(|| self.no_column(outer, "to add to"))?;
                let field = self.field(&place)?;
                if !matches!(field.data_type(), DataType::Struct(_)) {
                    let kind = type_text(&field.data_type());
                    let message = format!("column `{outer}` is {kind}, not a struct to add to");
                    return Err(Error::refused(message));
                }
                refuse_extension(field, outer, "add to")?;
                (place, name)
            }
        };
        expect_name(name, path)?;
        Ok((around, name))
    }

    /// The place of the column `path`, if it is there already with the type `stored`.
    fn existing(
        &self,
        path: &str,
        stored: &DataType,
        if_exists: IfExists,
    ) -> Result<Option<Place>> {
        let Some(place) = self.find_any_case(path) else { return Ok(None) };
        let existing = self.field(&place)?;
        let name = path.rsplit('.').next().unwrap_or(path);
        if existing.name != name {
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

    /// Leaves alone the column at `place`, which `add` would have made so.
    fn skip_add(&mut self, add: &Add, place: &[usize], made: (Field, Column)) -> Result<()> {
        let asked = match add.default.as_deref() {
            // Nothing is said about its values.
            None => None,
            Some("now") if add.data_type.is_temporal() => Some(Asked::Time),
            Some(text) => Some(Asked::Default(text.to_owned())),
        };
        let is = self.top_of(place)?;
        // What an extension type or a blob means is not seen in its bytes.
        let plain = refuse_extension_inside(&is.0, &add.name, "compare").is_ok();
        if let Some(asked) = asked.filter(|_| plain) {
            self.put_there(&add.name, asked, place, is, made);
        }
        let nulls = !add.nullable && self.field(place)?.nullable;
        let but = if nulls { ", but may hold nulls (--not-null forbids them)" } else { "" };
        self.skip(&add.name, &format!("exists already with this type{but}"))
    }

    /// Leaves alone the column at `place`, which `compute` would have made so.
    fn skip_compute(
        &mut self,
        compute: &Compute,
        place: &[usize],
        made: (Field, Column),
    ) -> Result<()> {
        let Compute { name, nullable, sql, .. } = compute;
        let is = self.top_of(place)?;
        if refuse_extension_inside(&is.0, name, "compare").is_err() {
            return Err(exists_otherwise(name, "its values cannot be compared"));
        }
        self.put_there(name, Asked::Sql(sql.clone()), place, is, made);
        let nulls = !nullable && self.field(place)?.nullable;
        let but = if nulls { ", but may hold nulls (--not-null forbids them)" } else { "" };
        self.skip(name, &format!("exists already with this type{but}"))
    }

    fn put_there(
        &mut self,
        path: &str,
        asked: Asked,
        place: &[usize],
        is: (Field, Column),
        made: (Field, Column),
    ) {
        let inside = place.iter().skip(1).copied().collect();
        self.there.push(There { path: path.to_owned(), asked, inside, is, made });
    }

    /// The top-level column in which `place` is, as it is now.
    fn top_of(&self, place: &[usize]) -> Result<(Field, Column)> {
        let field = self.fields.get(*place.first().ok_or_else(nowhere)?).ok_or_else(nowhere)?;
        Ok((field.clone(), self.value_of(&field.name)?))
    }

    fn find_any_case(&self, path: &str) -> Option<Place> {
        self.find(path).or_else(|| {
            let (around, name) = self.split_new(path).ok()?;
            let fields = if around.is_empty() {
                self.fields.as_slice()
            } else {
                self.field(&around).ok()?.children.as_slice()
            };
            let at = fields.iter().position(|field| field.name.eq_ignore_ascii_case(name))?;
            Some(around.into_iter().chain([at]).collect())
        })
    }

    #[allow(clippy::unnecessary_wraps, reason = "the last word of every change")]
    fn skip(&mut self, name: &str, why: &str) -> Result<()> {
        self.skipped.push(Skipped { name: name.to_owned(), why: why.to_owned() });
        Ok(())
    }

    fn find(&self, path: &str) -> Option<Place> {
        find(&self.fields, path)
    }

    fn expect(&self, path: &str) -> Result<Place> {
        self.find(path).ok_or_else(|| self.no_column(path, "to change"))
    }

    fn no_column(&self, path: &str, what: &str) -> Error {
        let mut names = self.schema().field_paths();
        names.sort_by_cached_key(|name| strsim::damerau_levenshtein(name, path));
        names.truncate(3);
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        Error::refused(format!("there is no column `{path}` {what}"))
            .with_advice(&format!("did you mean {}?", names.join(", ")))
    }

    fn field(&self, place: &[usize]) -> Result<&Field> {
        field_at(&self.fields, place).ok_or_else(nowhere)
    }

    fn field_mut(&mut self, place: &[usize]) -> Result<&mut Field> {
        let (top, inner) = place.split_first().ok_or_else(nowhere)?;
        let mut field = self.fields.get_mut(*top).ok_or_else(nowhere)?;
        for at in inner {
            field = field.children.get_mut(*at).ok_or_else(nowhere)?;
        }
        Ok(field)
    }

    fn schema(&self) -> Schema {
        Schema { fields: self.fields.clone(), metadata: self.source.metadata.clone() }
    }

    fn finish(mut self, field_id_max: i32) -> Result<Target> {
        for (column, field) in self.columns.iter_mut().zip(&self.fields) {
            column.settle(field);
        }
        let after = self.schema();
        let mut schema = after.clone();
        let mut next_id = i64::from(field_id_max) + 1;
        for (field, column) in schema.fields.iter_mut().zip(&self.columns) {
            if !column.is_kept() {
                next_id = renumber(field, -1, next_id)?;
            }
        }
        let was = self.columns.iter().zip(&after.fields).map(|(column, field)| {
            if let Column::Keep { name, .. } = column {
                return Some(name.clone());
            }
            self.source.fields.iter().find(|old| old.id == field.id).map(|old| old.name.clone())
        });
        let renamed = Renamed { source: self.source, target: &after, was: was.collect() };
        schema.metadata.extend(followed(&renamed));
        let lost = lost_functions(&renamed)
            .into_iter()
            .map(|name| format!("the embedding function on `{name}` goes with the column"));
        let lost = lost.collect();
        Ok(Target {
            schema,
            columns: self.columns,
            changes: self.changes,
            skipped: self.skipped,
            lost,
            there: self.there,
            before: self.source.clone(),
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::schema::follow::COLUMN_DEFINITIONS;
    use std::collections::HashMap;

    fn source() -> Schema {
        let vector = DataType::new_fixed_size_list(DataType::Float32, 8, true);
        let fields = vec![
            ArrowField::new("text", DataType::Utf8, true),
            ArrowField::new("vector", vector, true),
        ];
        let definitions = r#"[{"kind":"Physical"},{"kind":{"Embedding":{"name":"e"}}}]"#;
        let metadata = HashMap::from([
            (COLUMN_DEFINITIONS.to_owned(), definitions.to_owned()),
            ("owner".to_owned(), "me".to_owned()),
        ]);
        let arrow = arrow::datatypes::Schema::new_with_metadata(fields, metadata);
        Schema::try_from(&arrow).unwrap()
    }

    fn adds(texts: &[&str]) -> Vec<Change> {
        let add = |text: &&str| Change::parse_add(text).unwrap();
        texts.iter().map(add).collect()
    }

    fn apply(texts: &[&str], if_exists: IfExists) -> Result<Target> {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        Target::derive(&source(), 41, &adds(texts), if_exists, now)
    }

    #[test]
    fn added_columns_come_last_in_the_order_given_with_new_ids() {
        let target = apply(&["b:int8=1", "a:string not null=x"], IfExists::Skip).unwrap();
        let fields = &target.schema.fields;
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["text", "vector", "b", "a"]);
        let ids: Vec<_> = fields.iter().map(|field| field.id).collect();
        assert_eq!(ids, [0, 1, 42, 43]);
        assert!(fields[2].nullable && !fields[3].nullable);
        assert_eq!(target.schema.metadata["owner"], "me");
    }

    #[test]
    fn column_definitions_grow_with_the_schema() {
        let target = apply(&["b:int8=1"], IfExists::Skip).unwrap();
        let text = &target.schema.metadata[COLUMN_DEFINITIONS];
        let definitions: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(definitions.len(), 3);
        assert_eq!(definitions[1]["kind"]["Embedding"]["name"], "e");
        assert_eq!(definitions[2]["kind"], "Physical");
    }

    #[test]
    fn a_column_that_is_there_is_skipped_or_refused() {
        let target = apply(&["text:string=x", "n:int8=1"], IfExists::Skip).unwrap();
        assert_eq!(target.skipped[0].name, "text");
        assert_eq!(target.columns.len(), 3);
        let all_there = apply(&["text:string=x"], IfExists::Skip).unwrap();
        assert!(all_there.is_unchanged());
        let refused = |texts: &[&str], if_exists| apply(texts, if_exists).unwrap_err();
        let exists = refused(&["text:string=x"], IfExists::Error);
        assert_eq!(exists.kind(), Kind::Refused);
        let other = refused(&["text:int8=1"], IfExists::Skip);
        assert_eq!(other.kind(), Kind::Refused);
        assert!(other.to_string().contains("it is string, not int8"));
        let case = refused(&["Text:string=x"], IfExists::Skip);
        assert_eq!(case.kind(), Kind::Refused);
    }

    #[test]
    fn a_column_that_is_there_is_compared_with_what_was_asked() {
        let asked = |texts: &[&str]| -> Vec<Asked> {
            let target = apply(texts, IfExists::Skip).unwrap();
            target.there.into_iter().map(|there| there.asked).collect()
        };
        assert_eq!(asked(&["text:string=x", "n:int8=1"]), [Asked::Default("x".to_owned())]);
        // Nothing is said of what it holds.
        assert_eq!(asked(&["text:string"]), []);
        let again = ["t:timestamp[us]=now"];
        let once = apply(&again, IfExists::Skip).unwrap();
        let now = DateTime::from_timestamp(9, 0).unwrap();
        let twice = Target::derive(&once.schema, 50, &adds(&again), IfExists::Skip, now).unwrap();
        assert_eq!(twice.there[0].asked, Asked::Time);
        assert!(twice.is_unchanged());
        let sides = twice.side_by_side();
        assert_eq!((sides.columns.len(), sides.schema.fields.len()), (2, 2));
    }

    #[test]
    fn what_an_extension_means_cannot_be_set() {
        let key = ("ARROW:extension:name".to_owned(), "lance.json".to_owned());
        let doc = ArrowField::new("doc", DataType::LargeBinary, true);
        let doc = doc.with_metadata(HashMap::from([key]));
        let inside = ArrowField::new("in", DataType::Struct(vec![doc.clone()].into()), true);
        let n = ArrowField::new("n", DataType::Int64, true);
        let source = Schema::try_from(&ArrowSchema::new(vec![doc, inside, n])).unwrap();
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let set = |text: &str| {
            let changes = [Change::parse("set", text).unwrap()];
            Target::derive(&source, 9, &changes, IfExists::Skip, now)
        };
        for refused in ["doc=doc", "in=in"] {
            assert_eq!(set(refused).unwrap_err().kind(), Kind::Refused, "{refused}");
        }
        let target = set("n=n + 1").unwrap();
        assert_eq!(target.path_now("n").as_deref(), Some("n"));
        assert_eq!(target.derived().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn bad_requests_are_usage_errors() {
        for texts in [
            &["a:int8=1", "a:int8=1"][..],
            &["a:int8=1", "A:int8=1"],
            &["a:int8=300"],
            &["_rowid:int8=1"],
            &["a:month_day_nano_interval"],
        ] {
            let error = apply(texts, IfExists::Skip).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{texts:?}");
        }
    }

    #[test]
    fn now_is_spelled_out_in_the_changes() {
        let target = apply(&["t:timestamp[us]=now"], IfExists::Skip).unwrap();
        assert_eq!(target.changes[0].text(), "add t:timestamp[us]=1970-01-01T00:00:00.000000");
    }
}
