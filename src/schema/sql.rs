//! An expression over the columns of a row: parsed and typed when the migration is planned, evaluated
//! batch by batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, FieldRef, Schema as ArrowSchema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Operator, Volatility};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::expressions::{BinaryExpr, Literal, NegativeExpr};
use lance_datafusion::planner::Planner;

use crate::error::{Doing, Error, Result};
use crate::schema::sql_size::{COMPUTED_BYTES_MAX, Growing, expect_small_constants, growing};
use crate::schema::sql_text::expect_readable;

/// Rows that an expression is computed for first, to see how large its values are.
const FIRST_ROWS: usize = 16;

/// Characters of a value that an error shows.
const SHOWN_MAX: usize = 60;

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Value,
    Filter,
}

/// An expression, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Sql {
    text: String,
    expr: Arc<dyn PhysicalExpr>,
    /// The functions in it that give more than they are given.
    growing: Vec<Growing>,
    /// The columns that it names.
    inputs: SchemaRef,
    data_type: DataType,
    /// The type that was asked for, where it is another one, and the column's name.
    cast: Option<(DataType, String)>,
}

impl Sql {
    /// Parses `text`, an expression over the columns of `schema`, in the dialect of Lance's filters.
    ///
    /// # Errors
    /// `Usage`, when it cannot be read, names a column that is not there, or gives another value each
    /// time.
    pub(crate) fn parse(text: &str, schema: &ArrowSchema) -> Result<Self> {
        Self::compile(text, schema, Purpose::Value)
    }

    /// Parses `text`, a condition over the columns of `schema`.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse), and `Usage`, when it is neither true nor false.
    pub(crate) fn parse_filter(text: &str, schema: &ArrowSchema) -> Result<Self> {
        let filter = Self::compile(text, schema, Purpose::Filter)?;
        if filter.data_type != DataType::Boolean {
            return Err(Error::usage(format!(
                "`{text}` is no condition: it gives {}",
                filter.data_type
            )));
        }
        Ok(filter)
    }

    fn compile(text: &str, schema: &ArrowSchema, purpose: Purpose) -> Result<Self> {
        expect_readable(text, schema)?;
        let bad = |error: lance_core::Error| {
            Error::usage(format!("cannot make sense of `{text}`")).caused_by(error)
        };
        let parse = |planner: &Planner| parsed(planner, text, purpose);
        let all = Planner::new(Arc::new(schema.clone()));
        let expr = parse(&all).map_err(bad)?;
        // Checked before the expression is simplified, which turns `now()` into a value.
        expect_immutable(text, &expr)?;
        expect_small_constants(text, &expr)?;
        let inputs = Arc::new(inputs_of(&expr, schema)?);
        let planner = Planner::new(Arc::clone(&inputs));
        let expr = parse(&planner).and_then(|expr| planner.optimize_expr(expr)).map_err(bad)?;
        let physical = planner.create_physical_expr(&expr).map_err(bad)?;
        let told = |error| Error::usage(format!("cannot make sense of `{text}`: {error}"));
        let physical = checked(physical, &inputs).map_err(told)?;
        let data_type = physical.data_type(&inputs).map_err(told)?;
        let growing = growing(&physical);
        Ok(Self { text: text.to_owned(), expr: physical, growing, inputs, data_type, cast: None })
    }

    /// The same expression, cast to `data_type` for the column `path`.
    pub(crate) fn with_cast(mut self, data_type: DataType, path: &str) -> Self {
        if data_type != self.data_type {
            self.cast = Some((data_type, path.to_owned()));
        }
        self
    }

    /// The columns that it names.
    pub(crate) fn inputs(&self) -> &ArrowSchema {
        &self.inputs
    }

    /// The type of its values, before any cast.
    pub(crate) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The type that its values are cast to, if they are, and the column's name.
    pub(crate) fn cast(&self) -> Option<(&DataType, &str)> {
        self.cast.as_ref().map(|(data_type, path)| (data_type, path.as_str()))
    }

    /// Its values for the rows of `columns`, which are those that it names, in its order.
    ///
    /// # Errors
    /// `Refused`, when it cannot be computed for a row.
    pub(crate) fn evaluate(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<ArrayRef> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let inputs = Arc::clone(&self.inputs);
        let fields = inputs.fields().iter().zip(&columns).map(|(field, column)| {
            field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true)
        });
        let inputs = Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new_with_options(inputs, columns, &options);
        let batch = batch.doing(|| format!("gather the columns of `{}`", self.text))?;
        self.growing.iter().try_for_each(|growing| growing.expect_bounded(&self.text, &batch))?;
        if rows > FIRST_ROWS && !self.data_type.is_primitive() {
            self.expect_bounded(&batch)?;
        }
        self.evaluate_rows(&batch)
    }

    /// Refuses values that are so large in the first rows of `batch` that those of all of them cannot be.
    fn expect_bounded(&self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let first = self.evaluate_rows(&batch.slice(0, FIRST_ROWS))?;
        let bytes =
            first.to_data().get_slice_memory_size().doing(|| "measure values".to_owned())?;
        let bytes_a_row = bytes / FIRST_ROWS;
        if bytes_a_row.saturating_mul(rows) <= COMPUTED_BYTES_MAX {
            return Ok(());
        }
        let fit = (COMPUTED_BYTES_MAX / 4 / bytes_a_row).max(1);
        Err(Error::refused(format!(
            "`{}` gives about {bytes_a_row} bytes a row, which is more than {rows} rows at once can have",
            self.text
        ))
        .with_advice(&format!("ask for --batch-size {fit}")))
    }

    fn evaluate_rows(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let value = self.expr.evaluate(batch).and_then(|value| value.into_array(rows));
        value.map_err(|error| {
            let row = self.first_bad(batch);
            Error::refused(format!("`{}` cannot be computed for every row{row}", self.text))
                .caused_by(error)
        })
    }

    /// What tells the first row of `batch` for which it cannot be computed.
    fn first_bad(&self, batch: &RecordBatch) -> String {
        let (mut good, mut bad) = (0, batch.num_rows());
        while bad.saturating_sub(good) > 1 {
            let middle = good.midpoint(bad);
            let fails = self.expr.evaluate(&batch.slice(good, middle - good)).is_err();
            if fails { bad = middle } else { good = middle }
        }
        let value = |(field, column): (&FieldRef, &ArrayRef)| {
            let value = array_value_to_string(column, good).ok()?;
            let value: String = value.chars().take(SHOWN_MAX).collect();
            Some(format!("`{}` is {value}", field.name()))
        };
        let values = batch.schema_ref().fields().iter().zip(batch.columns()).take(3);
        let values: Vec<_> = values.filter_map(value).collect();
        if values.is_empty() { String::new() } else { format!(", as where {}", values.join(", ")) }
    }

    /// Which rows of `columns` it is true for.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub(crate) fn matches(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<BooleanArray> {
        let found = self.evaluate(columns, rows)?;
        let found = found.as_boolean_opt().cloned();
        let found =
            found.ok_or_else(|| Error::failed(format!("`{}` is no condition", self.text)))?;
        // Null is not true.
        Ok(match found.nulls() {
            Some(nulls) => BooleanArray::new(found.values() & nulls.inner(), None),
            None => found,
        })
    }
}

/// `expr`, which fails where integers overflow instead of going round.
fn checked(
    expr: Arc<dyn PhysicalExpr>,
    inputs: &ArrowSchema,
) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
    let changed = expr.transform_up(|expr| {
        let checked = if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
            binary.clone()
        } else if let Some(negative) = expr.downcast_ref::<NegativeExpr>()
            && negative.arg().data_type(inputs)?.is_signed_integer()
        {
            let data_type = negative.arg().data_type(inputs)?;
            let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
            BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()))
        } else {
            return Ok(Transformed::no(expr));
        };
        Ok(Transformed::yes(Arc::new(checked.with_fail_on_overflow(true))))
    });
    changed.map(|changed| changed.data)
}

/// Parses `text`. It puts the text in parentheses, or the parser would ignore what comes after an expression.
fn parsed(planner: &Planner, text: &str, purpose: Purpose) -> lance_core::Result<Expr> {
    let parse = |text: &str| {
        // Lance's planner panics at literals that it does not know.
        let parse = std::panic::AssertUnwindSafe(|| match purpose {
            Purpose::Value => planner.parse_expr(text),
            Purpose::Filter => planner.parse_filter(text),
        });
        std::panic::catch_unwind(parse).unwrap_or_else(|_| {
            Err(lance_core::Error::invalid_input(format!("a literal of `{text}` is not supported")))
        })
    };
    let plain = parse(&format!("({text}\n)"));
    // Lance parses `CASE`, `SUBSTRING` and the like only as a function's argument.
    let expr = plain.or_else(|error| parse(&format!("coalesce(({text}\n))")).map_err(|_| error))?;
    if is_list(&expr) && !text.trim_start().to_lowercase().starts_with("struct") {
        let message = format!("`{text}` is more than one expression");
        return Err(lance_core::Error::invalid_input(message));
    }
    Ok(expr)
}

/// Whether `expr` is what the parser gives for several expressions with commas between them.
fn is_list(expr: &Expr) -> bool {
    let Expr::ScalarFunction(call) = expr else { return false };
    match call.func.name() {
        "struct" => true,
        "coalesce" => matches!(call.args.as_slice(), [only] if is_list(only)),
        _ => false,
    }
}

fn inputs_of(expr: &Expr, schema: &ArrowSchema) -> Result<ArrowSchema> {
    let names = Planner::column_names_in_expr(expr);
    let mut places = Vec::new();
    for name in names {
        let top = schema.fields().iter().position(|field| *field.name() == name);
        let place = top.or_else(|| {
            let (top, _) = name.split_once('.')?;
            schema.fields().iter().position(|field| field.name() == top)
        });
        places.push(place.ok_or_else(|| Error::usage(format!("there is no column `{name}`")))?);
    }
    places.sort_unstable();
    places.dedup();
    schema.project(&places).doing(|| "gather an expression's columns".to_owned())
}

/// Refuses an expression that gives another value each time: a chunk that is staged again must be the same.
fn expect_immutable(text: &str, expr: &Expr) -> Result<()> {
    let mut found = None;
    let mut whole = false;
    let walked = expr.apply(|node| {
        whole |= matches!(node, Expr::AggregateFunction(_) | Expr::WindowFunction(_));
        if let Expr::ScalarFunction(call) = node
            && call.func.signature().volatility != Volatility::Immutable
        {
            found = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.doing(|| format!("look at `{text}`"))?;
    if whole {
        let message =
            format!("`{text}`: a value is computed from the columns of one row, not of many rows");
        return Err(Error::usage(message));
    }
    match found {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!(
            "`{text}`: {name}() gives another value each time, so that what was staged could not be verified; for times there is --add with `now`"
        ))),
    }
}
