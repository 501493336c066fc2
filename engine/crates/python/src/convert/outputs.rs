//! What a function returned, as Arrow columns.
//!
//! Values are copied once. A view would be free, but the engine holds outputs while later batches run, and a function may
//! fill the same array again for its next batch, which would change rows that have left it.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, make_array};
use arrow_buffer::BooleanBuffer;
use arrow_data::ffi::FFI_ArrowArray;
use arrow_data::transform::MutableArrayData;
use arrow_schema::ArrowError;
use arrow_schema::ffi::FFI_ArrowSchema;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyList, PyString};
use streamjob_core::config::FieldType;

use super::Numpy;
use super::arrow_batch::{ARRAY_CAPSULE, SCHEMA_CAPSULE};
use crate::errors::described;

/// Bytes of an average text, to make room for a column of them.
const TEXT_BYTES: usize = 16;

/// A NumPy array of exactly the dtype that belongs to `kind`. The error says what is wrong with it.
pub fn from_numpy(numpy: &Numpy, value: &Bound<'_, PyAny>, kind: FieldType) -> Result<ArrayRef, String> {
    let py = value.py();
    let read = || -> PyResult<ArrayRef> {
        Ok(match kind {
            FieldType::Float64 => Arc::new(Float64Array::new(copied::<f64>(value)?.into(), None)),
            FieldType::Int64 => Arc::new(Int64Array::new(copied::<i64>(value)?.into(), None)),
            FieldType::Bool => {
                let bytes = copied::<u8>(&numpy.as_bytes(value)?)?;
                Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(bytes.len(), |row| bytes[row] != 0), None))
            }
            FieldType::String => texts(value)?,
        })
    };
    read().map_err(|error| described(py, &error))
}

fn copied<T: pyo3::buffer::Element>(value: &Bound<'_, PyAny>) -> PyResult<Vec<T>> {
    PyBuffer::<T>::get(value)?.to_vec(value.py())
}

fn texts(value: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let list = value.call_method0("tolist")?.cast_into::<PyList>()?;
    let mut builder = StringBuilder::with_capacity(list.len(), list.len() * TEXT_BYTES);
    for item in &list {
        if item.is_none() {
            builder.append_null();
        } else {
            builder.append_value(item.cast::<PyString>()?.to_str()?);
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// An array that offers the Arrow PyCapsule interface, or `None` if the value does not.
pub fn from_arrow(value: &Bound<'_, PyAny>) -> Option<Result<ArrayRef, String>> {
    let export = value.getattr("__arrow_c_array__").ok()?;
    Some(imported(&export).map_err(|error| described(value.py(), &error)))
}

fn imported(export: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) = export.call0()?.extract()?;
    let schema = schema.pointer_checked(Some(SCHEMA_CAPSULE))?.cast::<FFI_ArrowSchema>();
    let array = array.pointer_checked(Some(ARRAY_CAPSULE))?.cast::<FFI_ArrowArray>();
    // SAFETY: capsules with these names hold these structures. The array is moved out, which leaves a released one behind;
    // the schema is only read while its capsule lives.
    let data = unsafe { arrow_array::ffi::from_ffi(FFI_ArrowArray::from_raw(array.as_ptr()), schema.as_ref()) };
    let refused = |error: ArrowError| PyValueError::new_err(error.to_string());
    let data = data.map_err(refused)?;
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len()).map_err(refused)?;
    Ok(make_array(copy.freeze()))
}
