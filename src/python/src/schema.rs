//! Schemas and types of any Arrow library, through the `PyCapsule` interface
//! (<https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>).

use arrow::datatypes::{Field, Schema as ArrowSchema};
use arrow::ffi::FFI_ArrowSchema;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::changes::type_of;

/// A schema to come to.
#[pyclass(frozen, module = "relance._relance")]
#[derive(Debug)]
pub(crate) struct Schema(pub(crate) ArrowSchema);

#[pymethods]
impl Schema {
    /// The schema of anything that has `__arrow_c_schema__`.
    #[new]
    fn new(schema: &Bound<'_, PyAny>) -> PyResult<Self> {
        let schema = ArrowSchema::try_from(&exported(schema)?);
        schema.map(Self).map_err(|error| PyTypeError::new_err(error.to_string()))
    }

    /// It, for any Arrow library.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(&self.0);
        let schema = schema.map_err(|error| PyTypeError::new_err(error.to_string()))?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }

    /// The names of its columns.
    fn names(&self) -> Vec<String> {
        self.0.fields().iter().map(|field| field.name().clone()).collect()
    }
}

/// A schema of one column of `data_type`, which is a text or has `__arrow_c_schema__`.
#[pyfunction]
pub(crate) fn type_schema(data_type: &Bound<'_, PyAny>) -> PyResult<Schema> {
    let (data_type, metadata) = type_of(data_type)?;
    let field = Field::new("", data_type, true).with_metadata(metadata.into_iter().collect());
    Ok(Schema(ArrowSchema::new(vec![field])))
}

/// `data_type`, which is anything that has `__arrow_c_schema__`, as a field, with the metadata that tells of an
/// extension type.
pub(crate) fn field_of(data_type: &Bound<'_, PyAny>) -> PyResult<Field> {
    let field = Field::try_from(&exported(data_type)?);
    field.map_err(|error| PyTypeError::new_err(error.to_string()))
}

fn exported(object: &Bound<'_, PyAny>) -> PyResult<FFI_ArrowSchema> {
    let capsule = object.call_method0("__arrow_c_schema__")?;
    let capsule = capsule.cast::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(c"arrow_schema"))?;
    // SAFETY: A capsule of this name holds a valid `ArrowSchema`, as the interface says; moving it out leaves a released one
    // behind, which the capsule's destructor passes over.
    #[allow(unsafe_code, reason = "Arrow's C data interface is pointers")]
    let schema = unsafe { FFI_ArrowSchema::from_raw(pointer.as_ptr().cast()) };
    Ok(schema)
}
