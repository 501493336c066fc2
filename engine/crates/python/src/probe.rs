//! A look at calls of user functions from outside, for this crate's tests and measurements.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use streamjob_core::config::UdfConfig;
use streamjob_core::json::ColumnWriter;
use streamjob_core::udf::{UdfHost, UdfResult, call_bisecting, call_isolated};
use streamjob_core::{Error, Result};
use streamjob_node::UdfFactory;

use crate::errors::raised;
use crate::udf_host::{PythonUdfs, arrow_kind};

/// Calls the first of `udfs` (JSON) as a worker does, with `columns` of (type, values) without their first `offset` rows.
///
/// Gives the addresses of the columns' values in memory, outputs as JSON arrays, failed rows with reasons, and the
/// seconds that `repeat` calls took on each of `threads` threads. With `isolated` another process runs them, and `deaths` says how
/// many such have ended. Private: it may change at any time.
#[pyfunction]
#[pyo3(signature = (udfs, columns, *, offset=0, repeat=1, threads=1, isolated=false))]
pub fn _probe<'py>(
    py: Python<'py>,
    udfs: &str,
    columns: Vec<(String, Bound<'py, PyList>)>,
    offset: usize,
    repeat: usize,
    threads: usize,
    isolated: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let configs: Vec<UdfConfig> = serde_json::from_str(udfs).map_err(|error| raised(py, &Error::user(error.to_string())))?;
    let hosts = PythonUdfs::load(py, &configs).map_err(|error| raised(py, &error))?;
    let columns = columns.iter().map(|(kind, values)| column(kind, values)).collect::<PyResult<Vec<_>>>()?;
    let columns: Vec<ArrayRef> = columns.iter().map(|column| column.slice(offset, column.len() - offset)).collect();
    let addresses: Vec<Option<usize>> = columns.iter().map(address).collect();
    let calls = py.detach(|| {
        thread::scope(|scope| {
            let repeated = || repeated(&hosts, &configs[0], &columns, repeat, isolated);
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(repeated)).collect();
            running.into_iter().map(|thread| thread.join().expect("a probe does not panic")).collect::<Result<Vec<_>>>()
        })
    });
    let calls = calls.map_err(|error| raised(py, &error))?;
    let result = PyDict::new(py);
    result.set_item("addresses", addresses)?;
    result.set_item("outputs", calls[0].1.outputs.iter().map(json).collect::<Vec<_>>())?;
    result.set_item("failed", calls[0].1.failed.clone())?;
    result.set_item("seconds", calls.iter().map(|(seconds, ..)| *seconds).collect::<Vec<_>>())?;
    result.set_item("deaths", calls[0].2)?;
    Ok(result)
}

fn repeated(
    udfs: &PythonUdfs,
    config: &UdfConfig,
    columns: &[ArrayRef],
    repeat: usize,
    isolated: bool,
) -> Result<(f64, UdfResult, usize)> {
    let mut host: Box<dyn UdfHost> = udfs.host(0)?;
    let kinds: Vec<_> = config.outputs.iter().map(|output| arrow_kind(output.data_type)).collect();
    let rows = columns.first().map_or(0, Array::len);
    let mut call = || match isolated {
        true => call_isolated(&mut *host, 0, columns, rows, &kinds),
        false => call_bisecting(&mut *host, 0, columns, rows, &kinds).map(|result| (result, 0)),
    };
    let begun = Instant::now();
    for _ in 1..repeat {
        call()?;
    }
    let (result, deaths) = call()?;
    Ok((begun.elapsed().as_secs_f64(), result, deaths))
}

fn column(kind: &str, values: &Bound<'_, PyList>) -> PyResult<ArrayRef> {
    Ok(match kind {
        "float64" => {
            let values: Vec<Option<f64>> = values.extract()?;
            let nulls = values.iter().any(Option::is_none).then(|| values.iter().map(Option::is_some).collect());
            Arc::new(Float64Array::new(values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect(), nulls))
        }
        "int64" => Arc::new(Int64Array::from(values.extract::<Vec<Option<i64>>>()?)),
        "bool" => Arc::new(BooleanArray::from(values.extract::<Vec<Option<bool>>>()?)),
        _ => Arc::new(StringArray::from(values.extract::<Vec<Option<String>>>()?)),
    })
}

fn address(column: &ArrayRef) -> Option<usize> {
    let floats = column.as_primitive_opt::<Float64Type>().map(|array| array.values().as_ptr() as usize);
    floats.or_else(|| column.as_primitive_opt::<Int64Type>().map(|array| array.values().as_ptr() as usize))
}

fn json(array: &ArrayRef) -> String {
    let mut out = vec![b'['];
    let writer = ColumnWriter::new(array);
    for row in 0..array.len() {
        if row > 0 {
            out.push(b',');
        }
        writer.write(&mut out, row);
    }
    out.push(b']');
    String::from_utf8(out).expect("JSON is UTF-8")
}
