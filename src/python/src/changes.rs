//! Changes, as JSON and as the command writes them.

use arrow::datatypes::DataType;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use relance::{Add, Cast, Change, Compute, Error, Produce, parse_new_type};
use std::collections::BTreeMap;

use crate::schema::field_of;

/// What stands for a change in Python: its JSON, and its text.
type Told = (String, String);

/// Reads a change of the kind `verb` as the command does.
#[pyfunction]
pub(crate) fn change(verb: &str, text: &str) -> PyResult<Told> {
    told(&Change::parse(verb, text).map_err(|error| usage(&error))?)
}

/// An `add`, a `compute` or a `cast` of the column `name` to `data_type`, which is a text or has `__arrow_c_schema__`; for an
/// `add`, `value` is its literal, for a `compute` its SQL.
#[pyfunction]
pub(crate) fn typed_change(
    verb: &str,
    name: String,
    data_type: Option<&Bound<'_, PyAny>>,
    nullable: bool,
    value: Option<String>,
) -> PyResult<Told> {
    let typed = data_type.map(type_of).transpose()?;
    let missing = || PyValueError::new_err("a type is missing");
    let change = match verb {
        "add" => {
            let (data_type, metadata) = typed.ok_or_else(missing)?;
            Change::Add(Add { name, data_type, nullable, default: value, metadata })
        }
        "compute" => {
            let sql = value.ok_or_else(|| PyValueError::new_err("the SQL is missing"))?;
            let data_type = typed.map(|(data_type, _)| data_type);
            Change::Compute(Compute { name, data_type, nullable, sql })
        }
        _ => {
            let (data_type, _) = typed.ok_or_else(missing)?;
            Change::Cast(Cast { name, data_type, from: None })
        }
    };
    told(&change)
}

/// A column that a producer gives, from its JSON, which has no type, and `data_type`.
#[pyfunction]
pub(crate) fn produced_change(json: &str, data_type: &Bound<'_, PyAny>) -> PyResult<Told> {
    let produce: Result<Produce, _> = serde_json::from_str(json);
    let mut produce = produce.map_err(|error| PyValueError::new_err(error.to_string()))?;
    (produce.data_type, produce.metadata) = type_of(data_type)?;
    told(&Change::Produce(produce))
}

/// A change without a type, from its JSON.
#[pyfunction]
pub(crate) fn plain_change(json: &str) -> PyResult<Told> {
    let change = serde_json::from_str(json);
    told(&change.map_err(|error| PyValueError::new_err(error.to_string()))?)
}

pub(crate) fn type_of(
    data_type: &Bound<'_, PyAny>,
) -> PyResult<(DataType, BTreeMap<String, String>)> {
    if let Ok(text) = data_type.extract::<String>() {
        return parse_new_type(&text).map_err(|error| usage(&error));
    }
    let field = field_of(data_type)?;
    // As Lance's writers store it.
    if field.extension_type_name() == Some("arrow.json") {
        return parse_new_type("json").map_err(|error| usage(&error));
    }
    let metadata = field.metadata().clone().into_iter().collect();
    Ok((field.data_type().clone(), metadata))
}

fn told(change: &Change) -> PyResult<Told> {
    let json = serde_json::to_string(change);
    Ok((json.map_err(|error| PyValueError::new_err(error.to_string()))?, change.text()))
}

/// `error`, for Python to make its own exception of.
fn usage(error: &Error) -> PyErr {
    PyValueError::new_err(error.report(&[]))
}
