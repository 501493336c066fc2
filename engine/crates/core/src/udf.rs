//! Calls of user functions: columns in, columns out, and the search for the rows that a function fails on.
//!
//! Rows that a process may have died of ([`suspects`]) are called in isolation: what ends the process then ends another one.

mod calls;
pub mod frames;
pub mod record;
pub mod suspects;

use arrow_array::{Array, ArrayRef, Float64Array, cast::AsArray, types::Float64Type};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow_select::concat::concat;
use std::sync::Arc;

pub use self::calls::{CalledRows, Callee, Calls};
use crate::{Error, Result};

/// An isolated call that ended its process is made again with so many rows at a time, and one of these with single rows: a new
/// process costs more than a thousand calls.
const ISOLATED_ROWS: usize = 128;
/// Processes that the rows of one call may end.
pub const MAX_CHILD_DEATHS: usize = 64;
/// One more for each so many rows that got their results: a function that ends its process on few of many rows fails on these alone.
pub const ROWS_PER_CHILD_DEATH: usize = 8;

/// What a function said when it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdfFailure(pub String);

/// Why an isolated call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IsolatedFailure {
    Failed(UdfFailure),
    /// The process that it ran in has ended; the text says how.
    Ended(String),
}

/// Where user functions run. One host a worker; it holds no lock of the engine while a function runs.
pub trait UdfHost: Send {
    /// Calls the function with this number (in the job's order) on columns of `rows` values each; gives its outputs, as
    /// many and as long as declared.
    fn call(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, UdfFailure>;

    /// The same where a function that ends its process does not end this one. A host that has no other process calls here.
    fn call_isolated(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, IsolatedFailure> {
        self.call(udf, inputs, rows).map_err(IsolatedFailure::Failed)
    }

    /// No call will be isolated any more.
    fn end_isolation(&mut self) {}
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

/// Calls a function, by `calls` where there are some.
pub(crate) fn call(
    calls: Option<&mut Calls>,
    host: &mut dyn UdfHost,
    callee: &Callee<'_>,
    inputs: &[ArrayRef],
    rows: &CalledRows<'_>,
) -> Result<UdfResult> {
    match calls {
        Some(calls) => calls.call(host, callee, inputs, rows),
        None => call_bisecting(host, callee.index, inputs, rows.len, callee.kinds),
    }
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
    search(inputs, rows, kinds, |slice, len| match host.call(udf, slice, len) {
        Ok(outputs) => Step::Done(outputs),
        Err(UdfFailure(reason)) => Step::halved(len, reason),
    })
}

/// The same in isolation, also with how many processes the function has ended: each such call is cut into parts, and rows that stand
/// alone fail. Beyond the bound all rows fail that have no results yet, as they can't be told apart.
pub fn call_isolated(
    host: &mut dyn UdfHost,
    udf: usize,
    inputs: &[ArrayRef],
    rows: usize,
    kinds: &[arrow_schema::DataType],
) -> Result<(UdfResult, usize)> {
    let (mut deaths, mut done) = (0, 0);
    let result = search(inputs, rows, kinds, |slice, len| {
        if deaths >= MAX_CHILD_DEATHS + done / ROWS_PER_CHILD_DEATH {
            return Step::Failed(format!(
                "the function ended the process that it ran in {deaths} times on rows of this batch, after which the rest of it was \
                 not tried: mend what the function calls, then send the row again"
            ));
        }
        match host.call_isolated(udf, slice, len) {
            Ok(outputs) => {
                done += len;
                Step::Done(outputs)
            }
            Err(IsolatedFailure::Failed(UdfFailure(reason))) => Step::halved(len, reason),
            Err(IsolatedFailure::Ended(reason)) => {
                deaths += 1;
                match len {
                    1 => Step::Failed(reason),
                    2..=ISOLATED_ROWS => Step::Cut(1),
                    _ => Step::Cut(ISOLATED_ROWS),
                }
            }
        }
    })?;
    Ok((result, deaths))
}

/// What follows from a call on some rows.
enum Step {
    Done(Vec<ArrayRef>),
    /// They are called again in parts of so many rows, fewer than they are.
    Cut(usize),
    Failed(String),
}

impl Step {
    fn halved(len: usize, reason: String) -> Step {
        if len > 1 { Step::Cut(len.div_ceil(2)) } else { Step::Failed(reason) }
    }
}

/// Calls on all rows and then on ever smaller parts, in the order of the rows, until each has a result or a reason.
fn search(
    inputs: &[ArrayRef],
    rows: usize,
    kinds: &[arrow_schema::DataType],
    mut call: impl FnMut(&[ArrayRef], usize) -> Step,
) -> Result<UdfResult> {
    let mut pieces: Vec<Vec<ArrayRef>> = Vec::new();
    let mut failed = Vec::new();
    let mut todo = vec![(0usize, rows)];
    while let Some((from, len)) = todo.pop() {
        if len == 0 {
            continue;
        }
        let slice: Vec<ArrayRef> = inputs.iter().map(|input| input.slice(from, len)).collect();
        match call(&slice, len) {
            Step::Done(outputs) => pieces.push(checked(outputs, kinds, len)?),
            Step::Cut(size) => todo.extend((0..len).step_by(size).rev().map(|at| (from + at, size.min(len - at)))),
            Step::Failed(reason) => {
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

    /// Doubles; a negative value ends its process, and 7 fails.
    #[derive(Default)]
    struct Mortal {
        calls: usize,
        deaths: usize,
    }

    impl UdfHost for Mortal {
        fn call(&mut self, _udf: usize, _inputs: &[ArrayRef], _rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
            unreachable!("all calls are isolated")
        }

        fn call_isolated(&mut self, _udf: usize, inputs: &[ArrayRef], _rows: usize) -> Result<Vec<ArrayRef>, IsolatedFailure> {
            self.calls += 1;
            let values = inputs[0].as_primitive::<Float64Type>();
            if values.values().iter().any(|value| *value < 0.0) {
                self.deaths += 1;
                return Err(IsolatedFailure::Ended("signal 11".to_owned()));
            }
            if values.values().contains(&7.0) {
                return Err(IsolatedFailure::Failed(UdfFailure("seven".to_owned())));
            }
            Ok(vec![Arc::new(Float64Array::from_iter_values(values.values().iter().map(|value| value * 2.0)))])
        }
    }

    fn isolated(values: &[f64]) -> (UdfResult, Mortal) {
        let input: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let mut host = Mortal::default();
        let (result, deaths) =
            call_isolated(&mut host, 0, &[input], values.len(), &[DataType::Float64]).expect("a host that keeps to its types");
        assert_eq!(deaths, host.deaths);
        (result, host)
    }

    proptest! {
        /// Killers are rare enough here for each to be told apart.
        #[test]
        fn rows_that_end_their_process_fail_alone(
            rows in 0usize..2000,
            killers in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            sevens in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut values: Vec<f64> = (0..rows).map(|row| 100.0 + row as f64).collect();
            if rows > 0 {
                sevens.iter().for_each(|at| values[at.index(rows)] = 7.0);
                killers.iter().for_each(|at| values[at.index(rows)] = -1.0);
            }
            let (result, host) = isolated(&values);
            let expected = values.iter().enumerate().filter_map(|(row, value)| match value {
                -1.0 => Some((row, "signal 11".to_owned())),
                7.0 => Some((row, "seven".to_owned())),
                _ => None,
            });
            prop_assert_eq!(&result.failed, &expected.collect::<Vec<_>>());
            let outputs = result.outputs[0].as_primitive::<Float64Type>();
            for (row, value) in values.iter().enumerate().filter(|(_, value)| **value >= 100.0) {
                prop_assert_eq!(outputs.value(row), value * 2.0);
            }
            let killers = values.iter().filter(|value| **value < 0.0).count();
            prop_assert!(host.deaths <= 1 + 2 * killers, "{} processes for {killers} rows", host.deaths);
        }
    }

    #[test]
    fn a_row_that_ends_its_process_costs_few_of_them() {
        let mut values = vec![1.0; 8192];
        values[5000] = -1.0;
        let (result, host) = isolated(&values);
        assert_eq!(result.failed.len(), 1);
        assert_eq!(host.deaths, 3);
        assert!(host.calls < 200, "{} calls", host.calls);
    }

    #[test]
    fn a_function_that_always_ends_its_process_is_given_up() {
        let (result, host) = isolated(&vec![-1.0; 8192]);
        assert_eq!(host.deaths, MAX_CHILD_DEATHS);
        assert_eq!(result.failed.len(), 8192);
        assert!(result.failed[8191].1.contains("was not tried"), "{}", result.failed[8191].1);
    }

    #[test]
    fn one_that_ends_it_on_every_fiftieth_row_fails_on_these_alone() {
        let values: Vec<f64> = (0..8192).map(|row: u32| if row.is_multiple_of(50) { -1.0 } else { 1.0 }).collect();
        let (result, _) = isolated(&values);
        assert!(result.failed.iter().map(|(row, _)| *row).eq((0..8192).step_by(50)));
    }

    #[test]
    fn what_json_cannot_say_becomes_null() {
        let array = finite(Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY])));
        assert_eq!(array.null_count(), 2);
        assert!(array.is_valid(0));
    }
}
