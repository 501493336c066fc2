//! Errors on their way between Rust and Python.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyTraceback, PyType};
use streamjob_core::{Actor, Error};

create_exception!(
    streamjob_engine,
    EngineError,
    PyException,
    "What went wrong, where, and what to do about it.\n\nactor says who can do something (\"user\", \"outside\" or \"engine\"), \
     retryable whether the same call may succeed later."
);

/// The exception's class, with defaults for the attributes so that every instance has them.
pub fn engine_error_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let class = py.get_type::<EngineError>();
    class.setattr("actor", Actor::Engine.as_str())?;
    class.setattr("retryable", false)?;
    Ok(class)
}

/// An error of the engine as the exception that Python sees.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let exception = EngineError::new_err(error.message().to_owned());
    let value = exception.value(py);
    let set = value.setattr("actor", error.actor().as_str()).and_then(|()| value.setattr("retryable", error.retryable()));
    match set {
        Ok(()) => exception,
        Err(failure) => failure,
    }
}

/// `Type: message`, as Python prints it, without the traceback.
pub fn described(py: Python<'_>, error: &PyErr) -> String {
    let class = error.get_type(py);
    let name = class.name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    match error.value(py).str().map(|text| text.to_string_lossy().into_owned()) {
        Ok(text) if text.is_empty() => name,
        Ok(text) => format!("{name}: {text}"),
        Err(_) => format!("{name} (its text cannot be shown)"),
    }
}

/// The message alone, for exceptions that were written for a person.
pub fn message(py: Python<'_>, error: &PyErr) -> String {
    error.value(py).str().map_or_else(|_| described(py, error), |text| text.to_string_lossy().into_owned())
}

/// The line of `filename` that is innermost in the exception's traceback.
pub fn line_in(py: Python<'_>, error: &PyErr, filename: &str) -> Option<u32> {
    let mut found = None;
    let mut next: Option<Bound<'_, PyAny>> = error.traceback(py).map(Bound::<PyTraceback>::into_any);
    while let Some(entry) = next {
        let code = entry.getattr("tb_frame").and_then(|frame| frame.getattr("f_code"));
        let file: Option<String> = code.and_then(|code| code.getattr("co_filename")).and_then(|file| file.extract()).ok();
        if file.as_deref() == Some(filename) {
            found = entry.getattr("tb_lineno").and_then(|line| line.extract()).ok().or(found);
        }
        next = entry.getattr("tb_next").ok().filter(|next| !next.is_none());
    }
    found
}
