//! A value of a batch: an array, or one value that holds for every row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Datum, Float64Array, Int64Array, Scalar, StringArray, UInt64Array, new_null_array,
};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow_schema::DataType;

use super::DataKind;
use crate::{Error, Result};

/// Floats keep two invariants that make their kernels simple: a null slot holds NaN, and every other slot is finite.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// One slot if `constant`, else one a row.
    array: ArrayRef,
    constant: bool,
}

/// Values of one type to loop over.
#[derive(Clone, Copy)]
pub(super) enum Lane<'a, T> {
    Each(&'a [T]),
    All(T),
}

impl Value {
    /// One slot a row.
    pub fn rows(array: impl Array + 'static) -> Value {
        Value { array: Arc::new(array), constant: false }
    }

    /// One slot a row, of an array that keeps the invariants.
    pub fn rows_of(array: ArrayRef) -> Value {
        Value { array, constant: false }
    }

    /// The value of every row, the only slot of `array`.
    pub fn constant(array: ArrayRef) -> Value {
        debug_assert_eq!(array.len(), 1);
        Value { array, constant: true }
    }

    pub fn constant_float(value: f64) -> Value {
        Value::constant(Arc::new(float_array(vec![value])))
    }

    pub fn constant_int(value: i64) -> Value {
        Value::constant(Arc::new(Int64Array::from(vec![value])))
    }

    pub fn constant_bool(value: bool) -> Value {
        Value::constant(Arc::new(BooleanArray::from(vec![value])))
    }

    pub fn constant_text(value: &str) -> Value {
        Value::constant(Arc::new(StringArray::from(vec![value])))
    }

    /// Null in every row.
    pub fn null(kind: DataKind) -> Value {
        match kind {
            DataKind::Float64 => Value::constant_float(f64::NAN),
            _ => Value::constant(new_null_array(&kind.arrow_type(), 1)),
        }
    }

    /// A column of a batch, brought to the invariants; without a copy if it holds them.
    pub fn column(array: &ArrayRef, kind: DataKind, rows: usize) -> Result<Value> {
        if *array.data_type() != kind.arrow_type() || array.len() != rows {
            let (got, expected) = (array.data_type(), kind.arrow_type());
            let message = format!("a column has {} rows of {got}, expected {rows} of {expected}", array.len());
            return Err(Error::engine(message));
        }
        if kind != DataKind::Float64 {
            return Ok(Value { array: array.clone(), constant: false });
        }
        Ok(Value { array: Arc::new(clean_floats(array.as_primitive())), constant: false })
    }

    pub fn kind(&self) -> DataKind {
        match self.array.data_type() {
            DataType::Float64 => DataKind::Float64,
            DataType::Int64 => DataKind::Int64,
            DataType::Boolean => DataKind::Bool,
            DataType::Utf8 => DataKind::Utf8,
            other => unreachable!("no expression has the type {other}"),
        }
    }

    pub fn is_constant(&self) -> bool {
        self.constant
    }

    pub fn is_null_constant(&self) -> bool {
        self.constant && self.array.is_null(0)
    }

    /// Nulls of an array; a constant of a strict function is never null, as compiling folds that.
    pub fn nulls(&self) -> Option<&NullBuffer> {
        if self.constant { None } else { self.array.nulls() }
    }

    /// For arrow's kernels.
    pub fn datum(&self) -> Box<dyn Datum> {
        if self.constant { Box::new(Scalar::new(self.array.clone())) } else { Box::new(self.array.clone()) }
    }

    pub fn floats(&self) -> Lane<'_, f64> {
        self.lane(self.array.as_primitive::<Float64Type>().values())
    }

    pub fn ints(&self) -> Lane<'_, i64> {
        self.lane(self.array.as_primitive::<Int64Type>().values())
    }

    fn lane<'a, T: Copy>(&self, values: &'a [T]) -> Lane<'a, T> {
        if self.constant { Lane::All(values[0]) } else { Lane::Each(values) }
    }

    pub fn array(&self) -> &ArrayRef {
        &self.array
    }

    /// int64 as float64.
    pub fn promoted(&self) -> Value {
        let ints = self.array.as_primitive::<Int64Type>();
        let floats = match ints.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => float_array(ints.values().iter().map(|value| *value as f64).collect()),
            Some(_) => float_array(ints.iter().map(|value| value.map_or(f64::NAN, |value| value as f64)).collect()),
        };
        Value { array: Arc::new(floats), constant: self.constant }
    }

    /// An array of `rows` slots.
    pub fn into_array(self, rows: usize) -> Result<ArrayRef> {
        if !self.constant || rows == 1 {
            return Ok(self.array);
        }
        let indices = UInt64Array::from(vec![0; rows]);
        let array = arrow_select::take::take(&self.array, &indices, None).map_err(kernel_error)?;
        // a kernel may leave anything in a null slot
        Ok(if let Some(floats) = array.as_primitive_opt::<Float64Type>() { Arc::new(clean_floats(floats)) } else { array })
    }

    /// The bools of all rows.
    pub fn into_bools(self, rows: usize) -> Result<BooleanArray> {
        Ok(self.into_array(rows)?.as_boolean().clone())
    }
}

/// An array of floats in which NaN and infinities become null.
pub(super) fn float_array(mut values: Vec<f64>) -> Float64Array {
    if all_finite(&values) {
        return Float64Array::new(ScalarBuffer::from(values), None);
    }
    let valid = BooleanBuffer::collect_bool(values.len(), |row| values[row].is_finite());
    values.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = f64::NAN);
    Float64Array::new(ScalarBuffer::from(values), Some(NullBuffer::new(valid)))
}

/// The array with NaN in null slots and everywhere else a finite value.
pub(super) fn clean_floats(array: &Float64Array) -> Float64Array {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None if all_finite(array.values()) => Float64Array::new(array.values().clone(), None),
        None => float_array(array.values().to_vec()),
        Some(_) => float_array(array.iter().map(|value| value.unwrap_or(f64::NAN)).collect()),
    }
}

/// Without an early end, so that the loop is vectorised.
fn all_finite(values: &[f64]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

pub(super) fn kernel_error(error: arrow_schema::ArrowError) -> Error {
    Error::engine(format!("an expression could not be evaluated: {error}"))
}
