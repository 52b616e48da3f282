//! The Python module `relance._relance`: calls into the engine, and nothing that can be said in Python. Requests come as JSON,
//! Arrow's schemas through the `PyCapsule` interface; results, events and errors go back as JSON.

#[path = "../../allocator.rs"]
mod allocator;
mod asked;
mod call;
mod changes;
mod producer;
mod schema;

use std::time::Duration;

use pyo3::prelude::*;

/// How long the allocator keeps memory that nobody uses, as for the command.
const KEEP_FREED: Duration = Duration::from_millis(200);

/// Runs the command with `words`, the first of which is its own name, and returns its exit code.
#[pyfunction]
fn command(py: Python<'_>, words: Vec<String>) -> u8 {
    py.detach(|| relance::cli::run_with(words, allocator::keep_freed))
}

/// The module.
#[pymodule]
fn _relance(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        allocator::keep_freed(KEEP_FREED);
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<call::Call>()?;
    module.add_class::<schema::Schema>()?;
    module.add_function(wrap_pyfunction!(changes::change, module)?)?;
    module.add_function(wrap_pyfunction!(changes::plain_change, module)?)?;
    module.add_function(wrap_pyfunction!(changes::typed_change, module)?)?;
    module.add_function(wrap_pyfunction!(changes::produced_change, module)?)?;
    module.add_function(wrap_pyfunction!(schema::type_schema, module)?)?;
    module.add_function(wrap_pyfunction!(producer::calls_under_way, module)?)?;
    module.add_function(wrap_pyfunction!(command, module)?)
}
