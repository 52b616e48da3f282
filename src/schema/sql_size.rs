//! How much an expression's functions make out of little. `DataFusion` allocates all of it before anybody can measure it, so
//! it is reckoned from their arguments first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, kernels::length::length};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;

use crate::error::{Error, Result};

/// Bytes that an expression may give for one batch. Arrow counts those of its texts in 31 bits.
pub(super) const COMPUTED_BYTES_MAX: usize = 1 << 30;

/// The same, for what is reckoned.
const BYTES_MAX: f64 = 1_073_741_824.0;

/// What a function's size comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// The second argument is how often the first is repeated.
    Times,
    /// The second argument is the length in characters.
    Length,
    /// The second argument is the length in items.
    Items,
    /// From the first argument to the second, or to the only one, in steps of the third.
    Steps,
}

/// The functions that give more than they are given.
const GROWING: [(&str, Growth); 7] = [
    ("repeat", Growth::Times),
    ("lpad", Growth::Length),
    ("rpad", Growth::Length),
    ("array_repeat", Growth::Items),
    ("array_resize", Growth::Items),
    ("range", Growth::Steps),
    ("generate_series", Growth::Steps),
];

impl Growth {
    fn of(function: &str) -> Option<Self> {
        GROWING.iter().find(|(name, _)| *name == function).map(|(_, growth)| *growth)
    }

    /// Bytes that the function gives for `numbers`, its arguments, of which a text or a list counts its length.
    fn bytes(self, numbers: &[f64]) -> f64 {
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0.0);
        match self {
            Self::Times => number(0).max(1.0) * number(1).max(0.0),
            Self::Length => number(1).max(0.0),
            Self::Items => 16.0 * number(1).max(0.0),
            Self::Steps if numbers.len() == 1 => 8.0 * number(0).max(0.0),
            Self::Steps => {
                let step = if number(2) == 0.0 { 1.0 } else { number(2) };
                8.0 * ((number(1) - number(0)) / step).max(0.0)
            }
        }
    }
}

/// Refuses what would grow beyond all bounds while the expression `text` is simplified.
///
/// # Errors
/// `Usage`, naming the function.
pub(super) fn expect_small_constants(text: &str, expr: &Expr) -> Result<()> {
    let mut found = None;
    let _ = expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && let Some(growth) = Growth::of(call.func.name())
        {
            // What is not constant is reckoned later, from the rows.
            let numbers = call.args.iter().map(|arg| constant(arg).unwrap_or(0.0));
            if growth.bytes(&numbers.collect::<Vec<_>>()) > BYTES_MAX {
                found = Some(call.func.name().to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found.map_or(Ok(()), |name| {
        Err(Error::usage(format!(
            "`{text}`: {name}() gives more than 1 GiB, the most that is computed at once"
        )))
    })
}

/// The number that `expr` always is.
#[allow(clippy::wildcard_enum_match_arm, reason = "all else is not constant")]
fn constant(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) => {
            let value = value.to_array().ok()?;
            number(&value)?.first().copied()
        }
        Expr::Cast(cast) => constant(&cast.expr),
        Expr::TryCast(cast) => constant(&cast.expr),
        Expr::Negative(inner) => constant(inner).map(|value| -value),
        Expr::BinaryExpr(binary) => {
            let (left, right) = (constant(&binary.left)?, constant(&binary.right)?);
            match binary.op {
                Operator::Plus => Some(left + right),
                Operator::Minus => Some(left - right),
                Operator::Multiply => Some(left * right),
                Operator::Divide => Some(left / right),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A function that grows, and its arguments.
#[derive(Debug)]
pub(super) struct Growing {
    name: String,
    growth: Growth,
    args: Vec<Arc<dyn PhysicalExpr>>,
}

/// The functions in `expr` that grow, the innermost first.
pub(super) fn growing(expr: &Arc<dyn PhysicalExpr>) -> Vec<Growing> {
    let mut all = Vec::new();
    let walked = Arc::clone(expr).transform_up(|expr| {
        if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>()
            && let Some(growth) = Growth::of(call.name())
        {
            all.push(Growing { name: call.name().to_owned(), growth, args: call.args().to_vec() });
        }
        Ok(Transformed::no(expr))
    });
    debug_assert!(walked.is_ok(), "nothing in it fails");
    all
}

impl Growing {
    /// Refuses more for the rows of `batch` than can be computed at once. What cannot be reckoned, since an argument cannot be
    /// computed, fails where the expression is.
    ///
    /// # Errors
    /// `Refused`, with a batch size that does where there is one.
    pub(super) fn expect_bounded(&self, text: &str, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let numbers = self.args.iter().map(|arg| {
            let values = arg.evaluate(batch).and_then(|value| value.into_array(rows)).ok()?;
            number(&values)
        });
        // A time or an interval is no number; a series of them is short.
        let Some(numbers) = numbers.collect::<Option<Vec<_>>>() else { return Ok(()) };
        let of_row = |row: usize| {
            let numbers = numbers.iter().map(|values| values.get(row).copied().unwrap_or(0.0));
            self.growth.bytes(&numbers.collect::<Vec<_>>())
        };
        let (all, most) = (0..rows)
            .map(of_row)
            .fold((0.0, 0.0), |(all, most): (f64, f64), bytes| (all + bytes, most.max(bytes)));
        if all <= BYTES_MAX {
            return Ok(());
        }
        let error = Error::refused(format!(
            "`{text}`: {}() gives more than 1 GiB for {rows} rows at once, the most that is computed",
            self.name
        ));
        let fit = BYTES_MAX / 4.0 / most;
        Err(if fit >= 1.0 {
            error.with_advice(&format!("ask for --batch-size {fit:.0}"))
        } else {
            error
        })
    }
}

/// The numbers of `values`, 0 for null; of texts and lists their lengths in bytes or items. `None`, where they are none.
fn number(values: &ArrayRef) -> Option<Vec<f64>> {
    let values = length(values).unwrap_or_else(|_| Arc::clone(values));
    if values.data_type().is_temporal() {
        return None;
    }
    let numbers = cast(&values, &DataType::Float64).ok()?;
    let numbers = numbers.as_primitive_opt::<Float64Type>()?;
    Some(numbers.iter().map(|value| value.unwrap_or(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::sql::Sql;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    fn computed(text: &str, count: i64) -> Result<ArrayRef> {
        let fields = [("s", DataType::Utf8), ("n", DataType::Int64)];
        let fields = fields.map(|(name, kind)| Field::new(name, kind, true));
        let sql = Sql::parse(text, &Schema::new(fields.to_vec()))?;
        let inputs = sql.inputs().fields().iter().map(|field| match field.name().as_str() {
            "s" => Arc::new(StringArray::from(vec![Some("ab"), None])) as ArrayRef,
            _ => Arc::new(Int64Array::from(vec![Some(count), Some(0)])),
        });
        sql.evaluate(inputs.collect(), 2)
    }

    #[test]
    fn what_would_take_all_memory_is_refused_before_it_is_computed() {
        let constant = [
            "array_resize(make_array(1), 1000000000)",
            "array_repeat(1, 1000000000)",
            "generate_series(0, 10000000000, 1)",
            "repeat('x', 4000 * 1000000)",
            "lpad(s, 2000000000, '-')",
        ];
        for text in constant {
            let error = computed(text, 1).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Usage, "{text}");
        }
        for text in [
            "repeat(s, n)",
            "upper(repeat(upper(s), n))",
            "rpad(s, n)",
            "array_repeat(s, n)",
            "range(0, n, 1)",
        ] {
            let error = computed(text, 2_000_000_000).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Refused, "{text}: {error}");
            assert!(error.to_string().contains("1 GiB"), "{text}: {error}");
            assert_eq!(computed(text, 3).unwrap().len(), 2, "{text}");
            assert_eq!(computed("array_repeat(2000000000, 3)", 3).unwrap().len(), 2);
        }
    }
}
