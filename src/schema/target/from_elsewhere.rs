//! Columns whose values come from elsewhere: from a producer, or by a key from other data.

use arrow::datatypes::Field as ArrowField;
use lance_core::datatypes::Field;

use crate::error::{Error, Result};
use crate::schema::change::Change;
use crate::schema::column::Column;
use crate::schema::elsewhere::{BY_VERSION, Elsewhere, Join, OnMissing, Produce, Source, Take};
use crate::schema::path::{FieldPosition, split_last};
use crate::schema::rules::{
    as_stored, expect_bounded, expect_castable, expect_name, expect_nulls_kept, kept_metadata,
    lost_column, refuse_extension_inside,
};
use crate::schema::show::type_text;
use crate::schema::target::draft::Draft;

impl Draft<'_> {
    /// Adds or replaces a column whose values a producer gives.
    pub(super) fn produce(&mut self, produce: &Produce) -> Result<()> {
        let name = &produce.name;
        expect_bounded(&produce.data_type, name)?;
        if produce.inputs.is_empty() {
            return Err(Error::usage(format!("column `{name}`: its producer needs inputs"))
                .with_advice("--inputs names the columns that it is given"));
        }
        let there = if produce.replaces {
            Some(self.expect_top(name, "replaced")?)
        } else {
            self.find_any_case(name)
        };
        if let Some(place) = &there
            && self.is_produced_already(produce, place)?
        {
            let version = produce.version.as_deref().unwrap_or_default();
            return self.skip(name, &format!("is of version `{version}` already"));
        }
        if let (Some(_), false) = (&there, produce.replaces) {
            let message = format!("column `{name}` exists already");
            return Err(Error::refused(message)
                .with_advice("--replace gives the values of a producer to a column that exists"));
        }
        let inputs = self.inputs(name, &produce.inputs)?;
        let (field, kept_at) = match there {
            None => (self.new_field(produce)?, None),
            Some(place) => (self.replacing_field(produce, &place)?, Some(place)),
        };
        let output = ArrowField::new(&field.name, field.data_type(), true);
        let column = self.given_elsewhere(&inputs, 0, name, None).for_field(&field, name);
        match (kept_at, &produce.keep_old) {
            (None, _) => self.insert(&[], field, column),
            (Some(place), None) => self.put_in_place(&place, field, column)?,
            (Some(place), Some(old)) => {
                self.keep_beside(name, &place, old)?;
                self.insert(&[], field, column);
            }
        }
        let nullable = self.find(name).and_then(|place| self.field(&place).ok());
        let nullable = nullable.is_none_or(|field| field.nullable);
        let from = Source::Producer(produce.clone());
        self.elsewhere.push(Elsewhere { from, inputs, outputs: vec![output] });
        self.replaced.push(name.clone());
        self.changes.push(Change::Produce(Produce { nullable, ..produce.clone() }));
        Ok(())
    }

    /// Takes columns over from other data, by a key.
    pub(super) fn join(&mut self, join: &Join) -> Result<()> {
        if join.on.is_empty() || join.take.is_empty() {
            return Err(Error::usage(format!("--join '{}' needs --on and --take", join.from)));
        }
        let keys: Vec<String> = join.on.iter().map(|(own, _)| own.clone()).collect();
        let inputs = self.inputs("--on", &keys)?;
        if let Some((field, _)) = inputs.iter().find(|(_, column)| !column.elsewhere().is_empty()) {
            let key = field.name();
            let message =
                format!("column `{key}` comes from elsewhere itself, and cannot be a key");
            return Err(Error::usage(message).with_advice("join in a migration after that"));
        }
        let (mut outputs, mut done) = (Vec::new(), join.clone());
        done.take.clear();
        for (output, take) in join.take.iter().enumerate() {
            let name = &take.name;
            let unknown =
                || Error::failed(format!("the type of `{name}` is not known; this is a bug"));
            let data_type = take.data_type.clone().ok_or_else(unknown)?;
            let there = self.find_any_case(name);
            let keeps = join.on_missing == OnMissing::Keep;
            if there.is_none() && keeps {
                let message = format!("column `{name}` is new: there is nothing to keep in it");
                return Err(Error::usage(message)
                    .with_advice("--on-missing null leaves rows without a key null"));
            }
            let exists = there.is_some();
            let field = if let Some(place) = there {
                self.taken_over(take, &place)?
            } else {
                expect_bounded(&data_type, name)?;
                let (_, own) = self.split_new(name)?;
                as_stored(&ArrowField::new(own, data_type.clone(), true), name)?
            };
            if !field.nullable && join.on_missing == OnMissing::Null {
                let message =
                    format!("column `{name}` may not be null, so that its rows need a key");
                return Err(Error::refused(message).with_advice("--on-missing error or keep"));
            }
            outputs.push(ArrowField::new(name, field.data_type(), field.nullable));
            let place = self.find(name);
            let otherwise = place.filter(|_| keeps).map(|_| self.column_named(name)).transpose()?;
            let column = self.given_elsewhere(&inputs, output, name, otherwise.map(Box::new));
            let column = column.for_field(&field, name);
            match self.find(name) {
                Some(place) => self.put_in_place(&place, field, column)?,
                None => self.insert(&[], field, column),
            }
            done.take.push(Take { data_type: Some(data_type), exists, ..take.clone() });
        }
        self.elsewhere.push(Elsewhere { from: Source::Join(join.clone()), inputs, outputs });
        self.changes.push(Change::Join(done));
        Ok(())
    }

    /// The column `output` of what comes next from elsewhere.
    fn given_elsewhere(
        &self,
        inputs: &[(ArrowField, Column)],
        output: usize,
        path: &str,
        otherwise: Option<Box<Column>>,
    ) -> Column {
        let inputs = inputs.iter().map(|(_, column)| column.clone()).collect();
        let from = self.elsewhere.len();
        Column::Elsewhere { from, output, inputs, otherwise, path: path.to_owned() }
    }

    /// Where the top-level column `name` is, which is to be `done`.
    fn expect_top(&self, name: &str, done: &str) -> Result<FieldPosition> {
        let place = self.expect(name)?;
        if place.len() > 1 {
            let message = format!("column `{name}`: only a top-level column can be {done}");
            return Err(Error::usage(message));
        }
        Ok(place)
    }

    /// The columns `names` as they are at this point, as inputs of `what`.
    fn inputs(&self, what: &str, names: &[String]) -> Result<Vec<(ArrowField, Column)>> {
        let input = |name: &String| {
            let place = self.expect_top(name, "an input").map_err(|error| error.about(what))?;
            let field = self.field(&place)?;
            refuse_extension_inside(field, name, "hand on")?;
            Ok((ArrowField::from(field), self.column_named(&field.name)?))
        };
        names.iter().map(input).collect()
    }

    /// Whether the column at `place` holds what the producer would give: it says of itself that it has this version.
    fn is_produced_already(&self, produce: &Produce, place: &[usize]) -> Result<bool> {
        let field = self.field(place)?;
        let same_type = as_stored(
            &ArrowField::new(&field.name, produce.data_type.clone(), true),
            &produce.name,
        )?
        .data_type()
            == field.data_type();
        let version = field.metadata.get(BY_VERSION);
        Ok(same_type && produce.version.is_some() && version == produce.version.as_ref())
    }

    fn new_field(&self, produce: &Produce) -> Result<Field> {
        let (around, own) = self.split_new(&produce.name)?;
        if !around.is_empty() {
            let name = &produce.name;
            let message = format!("column `{name}`: only a top-level column has a producer");
            return Err(Error::usage(message));
        }
        let metadata = produce.metadata.clone().into_iter();
        let version = produce.version.iter().map(|text| (BY_VERSION.to_owned(), text.clone()));
        let field = ArrowField::new(own, produce.data_type.clone(), produce.nullable);
        let field = field.with_metadata(metadata.chain(version).collect());
        let stored = as_stored(&field, &produce.name)?;
        expect_nulls_kept(&produce.data_type, &stored.data_type(), &produce.name)?;
        Ok(stored)
    }

    /// The field that takes the place of the one at `place`.
    fn replacing_field(&self, produce: &Produce, place: &[usize]) -> Result<Field> {
        let name = &produce.name;
        let old = self.field(place)?;
        refuse_extension_inside(old, name, "replace")?;
        let field = ArrowField::new(&old.name, produce.data_type.clone(), old.nullable);
        let mut field = as_stored(&field, name)?;
        expect_nulls_kept(&produce.data_type, &field.data_type(), name)?;
        field.metadata = kept_metadata(old);
        field.metadata.remove(BY_VERSION);
        field.metadata.extend(produce.metadata.clone());
        field
            .metadata
            .extend(produce.version.iter().map(|text| (BY_VERSION.to_owned(), text.clone())));
        if produce.keep_old.is_none() {
            field.unenforced_primary_key_position = old.unenforced_primary_key_position;
            field.unenforced_clustering_key_position = old.unenforced_clustering_key_position;
        }
        Ok(field)
    }

    /// The field of the column at `place`, whose values are taken over by `take`.
    fn taken_over(&self, take: &Take, place: &[usize]) -> Result<Field> {
        let name = &take.name;
        let field = self.field(place)?;
        if place.len() > 1 {
            let message = format!("column `{name}`: only top-level columns are taken over");
            return Err(Error::usage(message));
        }
        if field.name != split_last(name).1 {
            let there = &field.name;
            return Err(Error::refused(format!(
                "column `{name}` differs from the existing `{there}` only in case"
            )));
        }
        refuse_extension_inside(field, name, "replace")?;
        if let Some(from) = &take.data_type {
            expect_castable(name, from, &field.data_type())?;
        }
        Ok(field.clone())
    }

    /// Puts `field` and `column` in the place of the column at `place`. It keeps its id here, by which indices and keys
    /// on it are found.
    fn put_in_place(&mut self, place: &[usize], mut field: Field, column: Column) -> Result<()> {
        let own = self.field(place)?.id;
        self.number(&mut field);
        field.id = own;
        field.children.iter_mut().for_each(|child| child.parent_id = own);
        let [top] = place else { return Err(lost_column()) };
        *self.field_mut(place)? = field;
        *self.columns.get_mut(*top).ok_or_else(lost_column)? = column;
        Ok(())
    }

    /// Gives the column `name`, at `place`, the name `old`, so that another one can have its own.
    fn keep_beside(&mut self, name: &str, place: &[usize], old: &str) -> Result<()> {
        expect_name(old, old)?;
        if self.find_any_case(old).is_some() {
            let message = format!("column `{name}` cannot be kept as `{old}`, which exists");
            return Err(Error::refused(message));
        }
        old.clone_into(&mut self.field_mut(place)?.name);
        let [top] = place else { return Err(lost_column()) };
        let kept =
            self.columns.get(*top).is_some_and(|column| matches!(column, Column::Keep { .. }));
        if !kept {
            let kind = type_text(&self.field(place)?.data_type());
            let message = format!("column `{name}` ({kind}) is changed and kept at once");
            return Err(Error::usage(message).with_advice("change it in a migration of its own"));
        }
        self.kept_beside.push(name.to_owned());
        Ok(())
    }
}
