//! Arrow columns as a function's NumPy arguments.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::Numpy;

/// One argument, made ready without the interpreter's lock.
///
/// | column | argument |
/// | --- | --- |
/// | float64 | a view of the column; a null slot holds NaN already |
/// | int64 | a view; where values are null a copy as float64 with NaN |
/// | bool | a copy, one byte a value; where values are null objects with None |
/// | string | objects, None where null |
pub enum Input {
    Floats(Buffer),
    Integers(Buffer),
    Bools(Buffer),
    Objects(ArrayRef),
}

impl Input {
    /// Prepares a column of one of the engine's four types.
    pub fn new(column: &ArrayRef) -> Input {
        match column.data_type() {
            DataType::Float64 => Input::Floats(column.as_primitive::<Float64Type>().values().inner().clone()),
            DataType::Int64 => {
                let integers = column.as_primitive::<Int64Type>();
                if integers.null_count() == 0 {
                    return Input::Integers(integers.values().inner().clone());
                }
                let floats: Vec<f64> = integers.iter().map(|value| value.map_or(f64::NAN, |value| value as f64)).collect();
                Input::Floats(Buffer::from_vec(floats))
            }
            DataType::Boolean if column.null_count() == 0 => {
                let bytes: Vec<u8> = column.as_boolean().values().iter().map(u8::from).collect();
                Input::Bools(Buffer::from_vec(bytes))
            }
            _ => Input::Objects(column.clone()),
        }
    }

    /// The argument as NumPy has it; always read-only.
    pub fn to_numpy<'py>(&self, py: Python<'py>, numpy: &Numpy) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Input::Floats(buffer) => numpy.floats(py, buffer.clone()),
            Input::Integers(buffer) => numpy.integers(py, buffer.clone()),
            Input::Bools(buffer) => numpy.bools(py, buffer.clone()),
            Input::Objects(column) => {
                let list = match column.as_boolean_opt() {
                    Some(bools) => PyList::new(py, bools.iter())?,
                    None => PyList::new(py, column.as_string::<i32>().iter())?,
                };
                numpy.objects(py, list)
            }
        }
    }
}
