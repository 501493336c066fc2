//! The memory of an Arrow column, lent to Python without a copy.

use std::ffi::{c_int, c_void};

use arrow_buffer::Buffer;
use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Owns a share of an Arrow buffer and offers it by the buffer protocol, read-only.
///
/// Whatever Python makes of it keeps this object, and so the memory, alive.
#[pyclass(frozen, module = "streamjob_engine")]
pub struct SharedBuffer {
    buffer: Buffer,
}

impl SharedBuffer {
    pub fn new(buffer: Buffer) -> SharedBuffer {
        SharedBuffer { buffer }
    }
}

#[pymethods]
impl SharedBuffer {
    /// # Safety
    /// Called by the interpreter with a `view` to fill.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let buffer = &slf.get().buffer;
        let length = isize::try_from(buffer.len()).map_err(|_| PyOverflowError::new_err("a column's buffer is too large"))?;
        // SAFETY: `view` comes from the interpreter. The memory is immutable and lives as long as `slf`, of which the
        // view takes a reference; `readonly` makes requests for a writable view fail.
        let status =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), buffer.as_ptr().cast_mut().cast::<c_void>(), length, 1, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
