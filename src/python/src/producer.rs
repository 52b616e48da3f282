//! Producers that are Python functions: batches go out and arrays come back through the `PyCapsule` interface.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, RecordBatch, StructArray, make_array};
use arrow::datatypes::Schema as ArrowSchema;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};
use relance::Producer;

/// A batch, for any Arrow library.
#[pyclass(frozen, module = "relance._relance")]
#[derive(Debug)]
struct Batch(RecordBatch);

#[pymethods]
impl Batch {
    /// Its schema and its rows.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        drop(requested_schema);
        let wrong = |error: arrow::error::ArrowError| PyTypeError::new_err(error.to_string());
        let rows = StructArray::from(self.0.clone());
        let (array, _) = to_ffi(&rows.to_data()).map_err(wrong)?;
        let schema = FFI_ArrowSchema::try_from(self.0.schema().as_ref() as &ArrowSchema);
        let schema = PyCapsule::new_with_value(py, schema.map_err(wrong)?, c"arrow_schema")?;
        let array = PyCapsule::new_with_value(py, array, c"arrow_array")?;
        PyTuple::new(py, [schema, array])
    }
}

/// A Python function that takes a batch and gives an array.
#[derive(Debug)]
pub(crate) struct Function(Py<PyAny>);

impl Function {
    pub(crate) fn of(function: Py<PyAny>) -> Arc<dyn Producer> {
        Arc::new(Self(function))
    }
}

/// Calls of functions that are under way, by whatever job.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// How many calls of functions are under way: the interpreter must not end before they have.
#[pyfunction]
pub(crate) fn calls_under_way() -> usize {
    UNDER_WAY.load(Ordering::SeqCst)
}

/// One call, as long as it is held.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        UNDER_WAY.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Producer for Function {
    fn produce(&self, inputs: &RecordBatch) -> Result<ArrayRef, Box<dyn Error + Send + Sync>> {
        let _under_way = UnderWay::begin();
        Python::attach(|py| {
            let given = self.0.bind(py).call1((Batch(inputs.clone()),));
            given.and_then(|given| imported(&given)).map_err(|error| told(py, &error).into())
        })
    }
}

/// What `error` says, with the line that raised it.
fn told(py: Python<'_>, error: &PyErr) -> String {
    let kind = error.get_type(py).name().map(|name| name.to_string()).unwrap_or_default();
    format!("{kind}: {}", error.value(py))
}

/// The array of anything that has `__arrow_c_array__`.
fn imported(object: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
        object.call_method0("__arrow_c_array__")?.extract()?;
    let schema = schema.cast::<PyCapsule>()?.pointer_checked(Some(c"arrow_schema"))?;
    let array = array.cast::<PyCapsule>()?.pointer_checked(Some(c"arrow_array"))?;
    // SAFETY: Capsules of these names hold valid structs, as the interface says; moving them out leaves released ones
    // behind, which the capsules' destructors pass over.
    #[allow(unsafe_code, reason = "Arrow's C data interface is pointers")]
    let data = unsafe {
        let schema = FFI_ArrowSchema::from_raw(schema.as_ptr().cast());
        let array = FFI_ArrowArray::from_raw(array.as_ptr().cast());
        from_ffi(array, &schema)
    };
    let data = data.map_err(|error| PyTypeError::new_err(error.to_string()))?;
    // What others made is not trusted to be sound.
    data.validate_full().map_err(|error| PyTypeError::new_err(error.to_string()))?;
    Ok(make_array(data))
}
