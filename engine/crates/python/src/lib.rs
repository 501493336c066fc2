//! The extension module `streamjob_engine`: runs jobs, and takes batches of rows into Python and back.
//!
//! ```text
//!  streamjob (Python) ──▶ run ──────▶ streamjob_node::run ──▶ workers ─┐
//!                    └──▶ Session ──▶ Pipeline (core's Processor) ─────┤ UdfHost::call
//!  streamjob.udf_host ◀── PythonUdfHost ◀──────────────────────────────┘
//!                               └──▶ streamjob.udf_process, another process: UdfHost::call_isolated
//! ```
//!
//! The only crate that knows Python. Whoever holds the interpreter's lock here waits for nothing of the engine: locks,
//! queues and files are touched without it.

mod attached;
mod connectors;
mod convert;
mod errors;
mod isolation;
mod memory;
mod probe;
mod run;
mod session;
mod udf_host;

use pyo3::prelude::*;

/// StreamJob's engine: runs normalised jobs. Use it through the package `streamjob`.
#[pymodule]
fn streamjob_engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("EngineError", errors::engine_error_type(module.py())?)?;
    module.add_class::<session::Session>()?;
    module.add_function(wrap_pyfunction!(run::run, module)?)?;
    module.add_function(wrap_pyfunction!(run::try_connections, module)?)?;
    module.add_function(wrap_pyfunction!(probe::_probe, module)?)?;
    module.add_function(wrap_pyfunction!(isolation::_serve_udfs, module)?)?;
    Ok(())
}
