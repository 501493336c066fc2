//! The few functions and types of NumPy that a call needs, looked up once.

use arrow_buffer::Buffer;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::shared_buffer::SharedBuffer;

/// NumPy, found once for the process.
pub struct Numpy {
    from_buffer: Py<PyAny>,
    array: Py<PyAny>,
    float64: Py<PyAny>,
    int64: Py<PyAny>,
    bool_: Py<PyAny>,
    uint8: Py<PyAny>,
    object: Py<PyAny>,
    view: Py<PyString>,
    flags: Py<PyString>,
    writeable: Py<PyString>,
}

impl Numpy {
    /// Imports NumPy.
    pub fn import(py: Python<'_>) -> PyResult<Numpy> {
        let numpy = py.import("numpy")?;
        let dtype = |name: &str| -> PyResult<Py<PyAny>> { Ok(numpy.call_method1("dtype", (name,))?.unbind()) };
        Ok(Numpy {
            from_buffer: numpy.getattr("frombuffer")?.unbind(),
            array: numpy.getattr("array")?.unbind(),
            float64: dtype("float64")?,
            int64: dtype("int64")?,
            bool_: dtype("bool")?,
            uint8: dtype("uint8")?,
            object: dtype("object")?,
            view: PyString::intern(py, "view").unbind(),
            flags: PyString::intern(py, "flags").unbind(),
            writeable: PyString::intern(py, "writeable").unbind(),
        })
    }

    /// A read-only array of floats over the buffer's memory.
    pub fn floats<'py>(&self, py: Python<'py>, buffer: Buffer) -> PyResult<Bound<'py, PyAny>> {
        self.over(py, buffer, &self.float64)
    }

    /// A read-only array of integers over the buffer's memory.
    pub fn integers<'py>(&self, py: Python<'py>, buffer: Buffer) -> PyResult<Bound<'py, PyAny>> {
        self.over(py, buffer, &self.int64)
    }

    /// A read-only array of booleans over the buffer's memory, one byte each.
    pub fn bools<'py>(&self, py: Python<'py>, buffer: Buffer) -> PyResult<Bound<'py, PyAny>> {
        self.over(py, buffer, &self.bool_)
    }

    fn over<'py>(&self, py: Python<'py>, buffer: Buffer, dtype: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let owner = Bound::new(py, SharedBuffer::new(buffer))?;
        self.from_buffer.bind(py).call1((owner, dtype.bind(py)))
    }

    /// A read-only array of the list's objects.
    pub fn objects<'py>(&self, py: Python<'py>, list: Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>> {
        let array = self.array.bind(py).call1((list, self.object.bind(py)))?;
        array.getattr(self.flags.bind(py))?.setattr(self.writeable.bind(py), false)?;
        Ok(array)
    }

    /// An array of booleans, seen as one of bytes.
    pub fn as_bytes<'py>(&self, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = array.py();
        array.call_method1(self.view.bind(py), (self.uint8.bind(py),))
    }
}
