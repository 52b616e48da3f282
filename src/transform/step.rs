//! How the values of one column are made, batch by batch.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Scalar, StructArray, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{filter, is_null, not, or};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_select::take::take;
use lance_core::datatypes::Field;

use crate::error::{Context, Error, Result};
use crate::schema::cast::{Problem, cast};
use crate::schema::column::Column;
use crate::schema::sql::Sql;
use crate::transform::blob::carried_anew;
use crate::transform::shape::{retype, select, with_nulls_inside, without_nulls};

/// Values that do not go through, of one column of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Found {
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

/// How one column is made.
#[derive(Debug)]
pub(super) enum Step {
    Keep {
        name: String,
        shape: Box<Field>,
    },
    Constant(Constant),
    Cast {
        of: Box<Step>,
        to: DataType,
        path: String,
    },
    Fill {
        of: Box<Step>,
        value: ArrayRef,
    },
    NotNull {
        of: Box<Step>,
        path: String,
    },
    Sql {
        sql: Arc<Sql>,
        inputs: Vec<Step>,
    },
    Struct {
        of: Box<Step>,
        shape: Box<Field>,
        children: Vec<Step>,
    },
    /// Blobs of the first kind, as those of the second.
    Blobs {
        of: Box<Step>,
    },
}

/// A column of one value, kept at the longest length asked for so far: fresh memory costs more than
/// the values in it.
#[derive(Debug)]
pub(super) struct Constant {
    value: ArrayRef,
    longest: Mutex<ArrayRef>,
}

/// The rows that a column is made from.
pub(super) struct Rows<'a> {
    /// The fields of `columns`.
    pub fields: Vec<&'a Field>,
    pub columns: Vec<ArrayRef>,
    pub count: usize,
    /// Rows that nobody can see: whatever is wrong with them is not told.
    pub hidden: Option<BooleanArray>,
}

impl From<&Column> for Step {
    fn from(column: &Column) -> Self {
        let boxed = |column: &Column| Box::new(Self::from(column));
        match column {
            Column::Keep { name, shape } => Self::Keep { name: name.clone(), shape: shape.clone() },
            Column::Constant(value) => Self::Constant(Constant {
                value: Arc::clone(value),
                longest: Mutex::new(Arc::clone(value)),
            }),
            Column::Cast { of, to, path } => {
                Self::Cast { of: boxed(of), to: to.clone(), path: path.clone() }
            }
            Column::Fill { of, value } => Self::Fill { of: boxed(of), value: Arc::clone(value) },
            Column::NotNull { of, path } => Self::NotNull { of: boxed(of), path: path.clone() },
            Column::Sql { sql, inputs } => {
                Self::Sql { sql: Arc::clone(sql), inputs: inputs.iter().map(Self::from).collect() }
            }
            Column::Struct { of, shape, children } => Self::Struct {
                of: boxed(of),
                shape: shape.clone(),
                children: children.iter().map(Self::from).collect(),
            },
        }
    }
}

impl Step {
    /// The same blobs, as those of the second kind.
    pub(super) fn with_blobs_anew(self) -> Self {
        Self::Blobs { of: Box::new(self) }
    }

    /// Makes the column of `rows`; what does not go through is null in it, and told to `found`.
    pub(super) fn make(&self, rows: &Rows<'_>, found: &mut Vec<Found>) -> Result<ArrayRef> {
        match self {
            Self::Keep { name, shape } => rows.keep(name, shape),
            Self::Constant(constant) => constant.rows(rows.count),
            Self::Cast { of, to, path } => {
                let values = of.make(rows, found)?;
                rows.cast(&values, to, path, found)
            }
            Self::Fill { of, value } => {
                let values = of.make(rows, found)?;
                let values = retype(&values, value.data_type())?;
                let nulls = is_null(&values).doing(|| "look for nulls".to_owned())?;
                zip(&nulls, &Scalar::new(Arc::clone(value)), &values)
                    .doing(|| "fill nulls".to_owned())
            }
            Self::NotNull { of, path } => {
                let values = of.make(rows, found)?;
                rows.expect_no_nulls(&values, path, found)
            }
            Self::Sql { sql, inputs } => {
                let fields = sql.inputs().fields().iter();
                let inputs = inputs.iter().zip(fields).map(|(input, field)| {
                    let made = retype(&input.make(rows, found)?, field.data_type())?;
                    with_nulls_inside(&made)
                });
                let values = rows.evaluate(sql, inputs.collect::<Result<_>>()?)?;
                match sql.cast() {
                    None => Ok(values),
                    Some((to, path)) => rows.cast(&values, to, path, found),
                }
            }
            Self::Blobs { of } => carried_anew(&of.make(rows, found)?),
            Self::Struct { of, shape, children } => {
                let outer = of.make(rows, found)?;
                make_struct(&outer, shape, children, rows, found)
            }
        }
    }
}

fn make_struct(
    outer: &ArrayRef,
    shape: &Field,
    children: &[Step],
    rows: &Rows<'_>,
    found: &mut Vec<Found>,
) -> Result<ArrayRef> {
    let Some(structs) = outer.as_struct_opt() else {
        return Err(Error::failed(format!("column `{}` is no struct", shape.name)));
    };
    let mut hidden = rows.hidden.clone();
    if structs.null_count() > 0 {
        let nulls = is_null(outer).doing(|| "look for nulls".to_owned())?;
        hidden = Some(match hidden {
            None => nulls,
            Some(hidden) => or(&hidden, &nulls).doing(|| "look for nulls".to_owned())?,
        });
    }
    let inner = Rows {
        fields: shape.children.iter().collect(),
        columns: structs.columns().to_vec(),
        count: rows.count,
        hidden,
    };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (place, child) in children.iter().enumerate() {
        let column = child.make(&inner, found)?;
        // The names are those of the target, which the whole column gets at the end.
        fields.push(Arc::new(arrow::datatypes::Field::new(
            format!("{place}"),
            column.data_type().clone(),
            true,
        )));
        columns.push(column);
    }
    let nulls = structs.nulls().cloned();
    let made = StructArray::try_new_with_length(fields.into(), columns, nulls, rows.count);
    Ok(Arc::new(made.doing(|| format!("make column `{}`", shape.name))?))
}

impl Rows<'_> {
    fn keep(&self, name: &str, shape: &Field) -> Result<ArrayRef> {
        let place = self.fields.iter().position(|field| field.name == name);
        let found =
            place.and_then(|place| Some((self.fields.get(place)?, self.columns.get(place)?)));
        let (field, column) =
            found.ok_or_else(|| Error::failed(format!("the scan gave no column `{name}`")))?;
        select(column, field, shape)
    }

    /// The values of `sql`; hidden rows, for which it may not be computable, are null.
    fn evaluate(&self, sql: &Sql, inputs: Vec<ArrayRef>) -> Result<ArrayRef> {
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

    fn cast(
        &self,
        values: &ArrayRef,
        to: &DataType,
        path: &str,
        found: &mut Vec<Found>,
    ) -> Result<ArrayRef> {
        let made = cast(values, to);
        let made = made.map_err(|error| {
            Error::refused(format!("column `{path}` cannot be cast")).caused_by(error)
        })?;
        for (problem, rows) in &made.bad {
            self.tell(values, rows, *problem, path, found);
        }
        Ok(made.values)
    }

    fn expect_no_nulls(
        &self,
        values: &ArrayRef,
        path: &str,
        found: &mut Vec<Found>,
    ) -> Result<ArrayRef> {
        if values.logical_null_count() == 0 {
            return Ok(Arc::clone(values));
        }
        let nulls = is_null(values).doing(|| "look for nulls".to_owned())?;
        self.tell(values, &nulls, Problem::Null, path, found);
        without_nulls(values)
    }

    fn tell(
        &self,
        values: &ArrayRef,
        bad: &BooleanArray,
        problem: Problem,
        path: &str,
        found: &mut Vec<Found>,
    ) {
        let seen = |row: &usize| self.hidden.as_ref().is_none_or(|hidden| !hidden.value(*row));
        let rows: Vec<usize> = bad.values().set_indices().filter(seen).collect();
        if rows.is_empty() {
            return;
        }
        let examples = rows.iter().take(EXAMPLES).map(|row| value_text(values, *row)).collect();
        found.push(Found { path: path.to_owned(), problem, rows, examples });
    }
}

/// Characters of a value that are shown.
const VALUE_CHARS: usize = 60;

/// A value as text, cut to what fits on a line.
pub(super) fn value_text(values: &ArrayRef, row: usize) -> String {
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

impl Constant {
    fn rows(&self, rows: usize) -> Result<ArrayRef> {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if longest.len() < rows {
            let first = UInt32Array::from_value(0, rows);
            *longest = take(&self.value, &first, None)
                .doing(|| format!("fill {rows} rows with a default"))?;
        }
        Ok(longest.slice(0, rows))
    }
}
