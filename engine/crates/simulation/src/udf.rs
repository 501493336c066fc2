//! Functions of the simulated job: what they see becomes part of the output, so that the model can compare it.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array};
use streamjob_core::udf::{UdfFailure, UdfHost};

use crate::job::{POISON_COUNT, SEEN};
use crate::rows::POISON;

/// The event UDF gives the statistics that it saw; the window UDF halves the sum. Both fail on poison.
pub struct SimulatedUdfs;

impl UdfHost for SimulatedUdfs {
    fn call(&mut self, udf: usize, inputs: &[ArrayRef], _rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
        match udf {
            0 => {
                let values = inputs[0].as_primitive::<Float64Type>();
                if values.iter().flatten().any(|value| value == POISON as f64) {
                    return Err(UdfFailure("poison".to_owned()));
                }
                Ok(inputs[1..=SEEN.len()].to_vec())
            }
            _ => {
                let counts = inputs[0].as_primitive::<Int64Type>();
                if counts.values().contains(&POISON_COUNT) {
                    return Err(UdfFailure("poison".to_owned()));
                }
                let sums = inputs[1].as_primitive::<Float64Type>();
                let halves = (0..sums.len()).map(|row| sums.is_valid(row).then(|| sums.value(row) / 2.0));
                Ok(vec![Arc::new(Float64Array::from_iter(halves))])
            }
        }
    }
}
