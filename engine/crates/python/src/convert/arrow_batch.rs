//! A batch of columns for functions that take a `pyarrow.RecordBatch`.

use std::ffi::CStr;

use arrow_array::{Array, ArrayRef, StructArray};
use arrow_data::ffi::FFI_ArrowArray;
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, Field, Fields};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// Names that the Arrow PyCapsule interface prescribes.
pub(super) const SCHEMA_CAPSULE: &CStr = c"arrow_schema";
pub(super) const ARRAY_CAPSULE: &CStr = c"arrow_array";

/// Columns side by side, which `pyarrow.record_batch` takes over without a copy.
#[pyclass(frozen, module = "streamjob_engine")]
pub struct ArrowBatch {
    columns: StructArray,
}

/// The columns' names and types.
pub fn fields(names: &[String], columns: &[ArrayRef]) -> Fields {
    std::iter::zip(names, columns).map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect()
}

impl ArrowBatch {
    pub fn new(fields: Fields, columns: &[ArrayRef], rows: usize) -> Result<ArrowBatch, ArrowError> {
        Ok(ArrowBatch { columns: StructArray::try_new_with_length(fields, columns.to_vec(), None, rows)? })
    }
}

#[pymethods]
impl ArrowBatch {
    /// The batch by the Arrow PyCapsule interface. A requested schema is a wish that a producer may pass over.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        let _ = requested_schema;
        let schema =
            FFI_ArrowSchema::try_from(self.columns.data_type()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let array = FFI_ArrowArray::new(&self.columns.to_data());
        Ok((PyCapsule::new_with_value(py, schema, SCHEMA_CAPSULE)?, PyCapsule::new_with_value(py, array, ARRAY_CAPSULE)?))
    }
}
