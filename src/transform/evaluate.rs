//! Evaluates one column of the target, batch by batch.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Scalar, StructArray, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{filter, is_null, not, or};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_select::take::take;
use lance_core::datatypes::Field;

use crate::error::{Doing, Error, Result};
use crate::schema::cast::{Problem, cast};
use crate::schema::column::Column;
use crate::schema::sql::Sql;
use crate::transform::blob::blob_v2;
use crate::transform::elsewhere::{Given, Provided};
use crate::transform::shape::{retype, select, with_nulls_inside, without_nulls};

/// Values of one column of one batch that a change cannot take over.
#[derive(Debug, Clone)]
pub(crate) struct BadValues {
    /// The column's path.
    pub path: String,
    /// Why.
    pub problem: Problem,
    /// The rows of the batch, ascending.
    pub rows: Vec<usize>,
    /// The values of the first few of them, as text.
    pub examples: Vec<String>,
}

/// Values that are shown of each column and batch.
const EXAMPLES: usize = 3;

/// The values of a column; those that are bad are null in it.
pub(super) struct Evaluated {
    pub values: ArrayRef,
    pub bad: Vec<BadValues>,
}

impl From<ArrayRef> for Evaluated {
    fn from(values: ArrayRef) -> Self {
        Self { values, bad: Vec::new() }
    }
}

impl Evaluated {
    /// What `next` gives for these values, with the bad ones of both.
    fn then<E: Into<Self>>(self, next: impl FnOnce(&ArrayRef) -> Result<E>) -> Result<Self> {
        let Self { values, bad: mut all } = self;
        let Self { values, bad } = next(&values)?.into();
        all.extend(bad);
        Ok(Self { values, bad: all })
    }

    /// Many columns, and the bad values of all of them.
    pub(super) fn all(
        columns: impl Iterator<Item = Result<Self>>,
    ) -> Result<(Vec<ArrayRef>, Vec<BadValues>)> {
        let (mut arrays, mut all) = (Vec::new(), Vec::new());
        for column in columns {
            let Self { values, bad } = column?;
            arrays.push(values);
            all.extend(bad);
        }
        Ok((arrays, all))
    }
}

/// The longest array that each constant has been repeated to so far: filling fresh memory for each batch costs
/// more than all the rest of a constant.
#[derive(Debug, Default)]
pub(super) struct Repeated(Mutex<Vec<(ArrayRef, ArrayRef)>>);

impl Repeated {
    /// `value`, an array of length one, in each of `rows` rows.
    fn rows(&self, value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().position(|(known, _)| Arc::ptr_eq(known, value));
        if let Some((_, longest)) = known.and_then(|known| all.get(known))
            && longest.len() >= rows
        {
            return Ok(longest.slice(0, rows));
        }
        let first = UInt32Array::from_value(0, rows);
        let repeated =
            take(value, &first, None).doing(|| format!("fill {rows} rows with a default"))?;
        match known.and_then(|known| all.get_mut(known)) {
            Some((_, longest)) => *longest = Arc::clone(&repeated),
            None => all.push((Arc::clone(value), Arc::clone(&repeated))),
        }
        Ok(repeated)
    }
}

/// The rows that a column is evaluated for.
pub(super) struct Rows<'a> {
    /// The fields of `columns`.
    pub fields: Vec<&'a Field>,
    pub columns: Vec<ArrayRef>,
    pub count: usize,
    /// Rows that nobody can see: bad values in them are not reported.
    pub hidden: Option<BooleanArray>,
    pub constants: &'a Repeated,
    /// What comes from elsewhere, by its places in the target's list.
    pub provided: &'a [Option<Provided>],
}

impl Rows<'_> {
    /// The values of `column`.
    ///
    /// # Errors
    /// `Failed`, when these are not the source's rows; `Refused`, when an expression cannot be computed.
    pub(super) fn evaluate(&self, column: &Column) -> Result<Evaluated> {
        match column {
            Column::Keep { name, shape } => Ok(self.kept(name, shape)?.into()),
            Column::Constant(value) => Ok(self.constants.rows(value, self.count)?.into()),
            Column::Cast { of, to, path } => {
                self.evaluate(of)?.then(|values| self.cast(values, to, path))
            }
            Column::Fill { of, value } => self.evaluate(of)?.then(|values| fill(values, value)),
            Column::NotNull { of, path } => {
                self.evaluate(of)?.then(|values| self.expect_no_nulls(values, path))
            }
            Column::Sql { sql, inputs } => self.evaluate_sql(sql, inputs),
            Column::Elsewhere { from, output, otherwise, path, .. } => {
                self.given(*from, *output, otherwise.as_deref(), path)
            }
            Column::BlobV2 { of } => self.evaluate(of)?.then(blob_v2),
            Column::Struct { of, shape, children } => {
                self.evaluate(of)?.then(|outer| self.evaluate_children(outer, shape, children))
            }
        }
    }

    fn kept(&self, name: &str, shape: &Field) -> Result<ArrayRef> {
        let mut columns = self.fields.iter().zip(&self.columns);
        let (field, column) = columns
            .find(|(field, _)| field.name == name)
            .ok_or_else(|| Error::failed(format!("the scan gave no column `{name}`")))?;
        select(column, field, shape)
    }

    /// The values of the column `output` that come from elsewhere.
    fn given(
        &self,
        from: usize,
        output: usize,
        otherwise: Option<&Column>,
        path: &str,
    ) -> Result<Evaluated> {
        let provided = self.provided.get(from).and_then(Option::as_ref);
        let values = provided.and_then(|provided| Some((provided, provided.values.get(output)?)));
        let (provided, values) = values.ok_or_else(|| {
            Error::failed(format!("nothing came from elsewhere for column `{path}`"))
        })?;
        let bad = provided.that_are(Given::Bad);
        let bad = self.bad_values(values, &bad, Problem::NotProduced, path).into_iter().collect();
        let given = Evaluated { values: Arc::clone(values), bad };
        let Some(otherwise) = otherwise else { return Ok(given) };
        let Evaluated { values: kept, bad } = self.evaluate(otherwise)?;
        let kept = retype(&kept, values.data_type())?;
        let missing = provided.that_are(Given::Missing);
        let given = given.then(|values| {
            zip(&missing, &kept, values).doing(|| format!("keep values of `{path}`"))
        })?;
        Ok(Evaluated { bad: given.bad.into_iter().chain(bad).collect(), ..given })
    }

    fn evaluate_sql(&self, sql: &Sql, inputs: &[Column]) -> Result<Evaluated> {
        let inputs = inputs.iter().zip(sql.inputs().fields()).map(|(input, field)| {
            let input = self.evaluate(input)?;
            input.then(|values| with_nulls_inside(&retype(values, field.data_type())?))
        });
        let (inputs, bad) = Evaluated::all(inputs)?;
        let values = self.compute(sql, inputs)?;
        Evaluated { values, bad }.then(|values| match sql.cast() {
            None => Ok(Arc::clone(values).into()),
            Some((to, path)) => self.cast(values, to, path),
        })
    }

    /// The values of `sql`. Hidden rows are null: the expression may not be computable for them.
    fn compute(&self, sql: &Sql, inputs: Vec<ArrayRef>) -> Result<ArrayRef> {
        let Some(hidden) = self.hidden.as_ref().filter(|hidden| hidden.true_count() > 0) else {
            return sql.evaluate(inputs, self.count);
        };
        let doing = || "leave out deleted rows".to_owned();
        let seen = not(hidden).doing(doing)?;
        let inputs = inputs.iter().map(|input| filter(input, &seen).doing(doing));
        let values = sql.evaluate(inputs.collect::<Result<_>>()?, seen.true_count())?;
        let mut next = 0..;
        let places = seen.values().iter().map(|seen| if seen { next.next() } else { None });
        let places: UInt32Array = places.collect();
        take(&values, &places, None).doing(doing)
    }

    /// The struct `outer` with other `children`; bad values in a null struct are not reported.
    fn evaluate_children(
        &self,
        outer: &ArrayRef,
        shape: &Field,
        children: &[Column],
    ) -> Result<Evaluated> {
        let Some(structs) = outer.as_struct_opt() else {
            return Err(Error::failed(format!("column `{}` is no struct", shape.name)));
        };
        let doing = || "look for nulls".to_owned();
        let mut hidden = self.hidden.clone();
        if structs.null_count() > 0 {
            let nulls = is_null(outer).doing(doing)?;
            hidden = Some(match hidden {
                None => nulls,
                Some(hidden) => or(&hidden, &nulls).doing(doing)?,
            });
        }
        let inner = Rows {
            fields: shape.children.iter().collect(),
            columns: structs.columns().to_vec(),
            hidden,
            ..*self
        };
        let (columns, bad) = Evaluated::all(children.iter().map(|child| inner.evaluate(child)))?;
        // The target's names are set in the end, for the whole column at once.
        let fields = columns.iter().enumerate().map(|(place, column)| {
            arrow::datatypes::Field::new(format!("{place}"), column.data_type().clone(), true)
        });
        let (fields, nulls) = (fields.collect(), structs.nulls().cloned());
        let structs = StructArray::try_new_with_length(fields, columns, nulls, self.count);
        let structs = structs.doing(|| format!("build column `{}`", shape.name))?;
        Ok(Evaluated { values: Arc::new(structs), bad })
    }

    fn cast(&self, values: &ArrayRef, to: &DataType, path: &str) -> Result<Evaluated> {
        let cast = cast(values, to).map_err(|error| {
            Error::refused(format!("column `{path}` cannot be cast")).caused_by(error)
        })?;
        let bad = cast.bad.iter();
        let bad = bad.filter_map(|(problem, rows)| self.bad_values(values, rows, *problem, path));
        Ok(Evaluated { bad: bad.collect(), values: cast.values })
    }

    fn expect_no_nulls(&self, values: &ArrayRef, path: &str) -> Result<Evaluated> {
        if values.logical_null_count() == 0 {
            return Ok(Arc::clone(values).into());
        }
        let nulls = is_null(values).doing(|| "look for nulls".to_owned())?;
        let bad = self.bad_values(values, &nulls, Problem::Null, path);
        Ok(Evaluated { values: without_nulls(values)?, bad: bad.into_iter().collect() })
    }

    /// The values of `rows`, without those that are hidden; `None`, when all are.
    pub(super) fn bad_values(
        &self,
        values: &ArrayRef,
        rows: &BooleanArray,
        problem: Problem,
        path: &str,
    ) -> Option<BadValues> {
        let seen = |row: &usize| self.hidden.as_ref().is_none_or(|hidden| !hidden.value(*row));
        let rows: Vec<usize> = rows.values().set_indices().filter(seen).collect();
        let shown = rows.iter().take(EXAMPLES);
        let examples = shown.map(|row| value_text(values, *row)).collect();
        (!rows.is_empty()).then(|| BadValues { path: path.to_owned(), problem, rows, examples })
    }
}

/// `values` with `value`, an array of length one, in place of nulls.
fn fill(values: &ArrayRef, value: &ArrayRef) -> Result<ArrayRef> {
    let values = retype(values, value.data_type())?;
    let nulls = is_null(&values).doing(|| "look for nulls".to_owned())?;
    zip(&nulls, &Scalar::new(Arc::clone(value)), &values).doing(|| "fill nulls".to_owned())
}

/// Characters of a value that are shown.
const VALUE_CHARS: usize = 60;

/// A value as text, cut to what fits on a line.
pub(crate) fn value_text(values: &ArrayRef, row: usize) -> String {
    if values.is_null(row) {
        return "null".to_owned();
    }
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(values, &options).map(|all| all.value(row).to_string());
    let text = text.unwrap_or_default();
    let quote =
        if matches!(values.data_type(), DataType::Utf8 | DataType::LargeUtf8) { "'" } else { "" };
    if text.chars().count() <= VALUE_CHARS {
        return format!("{quote}{text}{quote}");
    }
    let cut: String = text.chars().take(VALUE_CHARS).collect();
    format!("{quote}{cut}…{quote}")
}
