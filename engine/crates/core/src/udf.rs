//! Calls of user functions: columns in, columns out, and the search for the rows that a function fails on.

use arrow_array::{Array, ArrayRef, Float64Array, cast::AsArray, types::Float64Type};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow_select::concat::concat;
use std::sync::Arc;

use crate::{Error, Result};

/// What a function said when it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdfFailure(pub String);

/// Where user functions run. One host a worker; it holds no lock of the engine while a function runs.
pub trait UdfHost: Send {
    /// Calls the function with this number (in the job's order) on columns of `rows` values each; gives its outputs, as
    /// many and as long as declared.
    fn call(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, UdfFailure>;
}

/// A host for jobs without functions.
pub struct NoUdfs;

impl UdfHost for NoUdfs {
    fn call(&mut self, udf: usize, _inputs: &[ArrayRef], _rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
        Err(UdfFailure(format!("no function {udf} was loaded")))
    }
}

/// A function's outputs over a batch, without the rows that it failed on.
#[derive(Debug)]
pub struct UdfResult {
    /// One array an output. A failed row is null; a float that is NaN or infinite has become null (NaN in its slot).
    pub outputs: Vec<ArrayRef>,
    /// Row and reason, in order.
    pub failed: Vec<(usize, String)>,
}

/// Calls a function; where it fails, halves the batch until the failing rows stand alone. All other rows get their
/// results, whatever the rows beside them do. For `n` rows it is called less than `2n` times.
pub fn call_bisecting(
    host: &mut dyn UdfHost,
    udf: usize,
    inputs: &[ArrayRef],
    rows: usize,
    kinds: &[arrow_schema::DataType],
) -> Result<UdfResult> {
    let mut pieces: Vec<Vec<ArrayRef>> = Vec::new();
    let mut failed = Vec::new();
    let mut todo = vec![(0usize, rows)];
    while let Some((from, len)) = todo.pop() {
        if len == 0 {
            continue;
        }
        let slice: Vec<ArrayRef> = inputs.iter().map(|input| input.slice(from, len)).collect();
        match host.call(udf, &slice, len) {
            Ok(outputs) => pieces.push(checked(outputs, kinds, len)?),
            Err(_) if len > 1 => {
                let half = len / 2;
                todo.push((from + half, len - half));
                todo.push((from, half));
            }
            Err(UdfFailure(reason)) => {
                failed.extend((from..from + len).map(|row| (row, reason.clone())));
                pieces.push(kinds.iter().map(|kind| null_array(kind, len)).collect());
            }
        }
    }
    let outputs = (0..kinds.len()).map(|output| joined(&pieces, output, &kinds[output])).collect::<Result<_>>()?;
    Ok(UdfResult { outputs, failed })
}

fn checked(outputs: Vec<ArrayRef>, kinds: &[arrow_schema::DataType], rows: usize) -> Result<Vec<ArrayRef>> {
    let fits = outputs.len() == kinds.len()
        && std::iter::zip(&outputs, kinds).all(|(output, kind)| output.len() == rows && output.data_type() == kind);
    if !fits {
        return Err(Error::engine("a UDF host gave columns other than declared"));
    }
    Ok(outputs.into_iter().map(finite).collect())
}

fn joined(pieces: &[Vec<ArrayRef>], output: usize, kind: &arrow_schema::DataType) -> Result<ArrayRef> {
    match pieces {
        [] => Ok(null_array(kind, 0)),
        [only] => Ok(only[output].clone()),
        _ => {
            let arrays: Vec<&dyn Array> = pieces.iter().map(|piece| piece[output].as_ref()).collect();
            concat(&arrays).map_err(|error| Error::engine(format!("joining a UDF's outputs: {error}")))
        }
    }
}

/// Nulls of one type; float slots hold NaN.
pub fn null_array(kind: &arrow_schema::DataType, rows: usize) -> ArrayRef {
    if *kind == arrow_schema::DataType::Float64 {
        return Arc::new(Float64Array::new(vec![f64::NAN; rows].into(), Some(NullBuffer::new_null(rows))));
    }
    arrow_array::new_null_array(kind, rows)
}

/// Turns NaN and infinities into nulls whose slots hold NaN: JSON has neither.
pub fn finite(array: ArrayRef) -> ArrayRef {
    let Some(floats) = array.as_primitive_opt::<Float64Type>() else { return array };
    if floats.null_count() == 0 && floats.values().iter().all(|value| value.is_finite()) {
        return array;
    }
    let valid = |row: usize| floats.is_valid(row) && floats.value(row).is_finite();
    let nulls = NullBuffer::new(BooleanBuffer::collect_bool(floats.len(), valid));
    let values: Vec<f64> = (0..floats.len()).map(|row| if valid(row) { floats.value(row) } else { f64::NAN }).collect();
    Arc::new(Float64Array::new(ScalarBuffer::from(values), Some(nulls)))
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::*;

    /// Doubles; fails where a value is negative.
    struct Doubling {
        calls: usize,
    }

    impl UdfHost for Doubling {
        fn call(&mut self, _udf: usize, inputs: &[ArrayRef], _rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
            self.calls += 1;
            let values = inputs[0].as_primitive::<Float64Type>();
            if values.values().iter().any(|value| *value < 0.0) {
                return Err(UdfFailure("negative".to_owned()));
            }
            Ok(vec![Arc::new(Float64Array::from_iter_values(values.values().iter().map(|value| value * 2.0)))])
        }
    }

    proptest! {
        #[test]
        fn only_the_poisoned_rows_fail(values in prop::collection::vec(-3i32..20, 0..200)) {
            let input: ArrayRef = Arc::new(Float64Array::from_iter_values(values.iter().map(|value| f64::from(*value))));
            let mut host = Doubling { calls: 0 };
            let result = call_bisecting(&mut host, 0, &[input], values.len(), &[DataType::Float64]).expect("a host that keeps to its types");
            let failed: Vec<usize> = result.failed.iter().map(|(row, _)| *row).collect();
            let poisoned: Vec<usize> = (0..values.len()).filter(|row| values[*row] < 0).collect();
            prop_assert_eq!(failed, poisoned);
            let outputs = result.outputs[0].as_primitive::<Float64Type>();
            prop_assert_eq!(outputs.len(), values.len());
            for (row, value) in values.iter().enumerate() {
                prop_assert_eq!(outputs.is_null(row), *value < 0);
                if *value >= 0 {
                    prop_assert_eq!(outputs.value(row), f64::from(*value) * 2.0);
                }
            }
        }
    }

    #[test]
    fn many_poisoned_rows_take_none_of_their_neighbours() {
        let rows = 8192;
        let value = |row: usize| if row.is_multiple_of(10) { -1.0 } else { row as f64 };
        let input: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(value)));
        let mut host = Doubling { calls: 0 };
        let result = call_bisecting(&mut host, 0, &[input], rows, &[DataType::Float64]).expect("a host that keeps to its types");
        assert!(result.failed.iter().map(|(row, _)| *row).eq((0..rows).step_by(10)));
        assert!(host.calls < 2 * rows, "{} calls", host.calls);
    }

    #[test]
    fn what_json_cannot_say_becomes_null() {
        let array = finite(Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY])));
        assert_eq!(array.null_count(), 2);
        assert!(array.is_valid(0));
    }
}
