//! Arithmetic on columns. Floats carry null as NaN through the arithmetic; integers carry it beside.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, Int64Array};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};

use super::value::{Lane, Value, float_array};
use super::{DataKind, Function};

/// 2^63: the first float that no `i64` holds.
const I64_LIMIT: f64 = 9_223_372_036_854_775_808.0;
/// Digits after which rounding a float changes nothing, or leaves nothing of it.
const MAX_ROUND_DIGITS: i64 = 308;
/// Powers of ten up to here fit `i64`.
const MAX_I64_POWER: i64 = 18;

/// A function of two numbers of the same type.
pub(super) fn binary(function: Function, left: &Value, right: &Value, rows: usize) -> Value {
    if left.kind() == DataKind::Int64 {
        return match function {
            Function::Add => int_binary(left, right, rows, i64::overflowing_add),
            Function::Sub => int_binary(left, right, rows, i64::overflowing_sub),
            Function::Mul => int_binary(left, right, rows, i64::overflowing_mul),
            Function::Mod => int_binary(left, right, rows, |a, b| if b == 0 { (0, true) } else { (a.wrapping_rem(b), false) }),
            other => unreachable!("{other:?} is no function of two integers"),
        };
    }
    match function {
        Function::Add => float_binary(left, right, rows, |a, b| a + b),
        Function::Sub => float_binary(left, right, rows, |a, b| a - b),
        Function::Mul => float_binary(left, right, rows, |a, b| a * b),
        // a finite value over an infinity cannot occur, over zero it is not finite
        Function::Div => float_binary(left, right, rows, |a, b| a / b),
        Function::Mod => float_binary(left, right, rows, |a, b| a % b),
        // IEEE says 1 for power(null, 0) and power(1, null)
        Function::Power => float_binary(left, right, rows, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.powf(b) }),
        other => unreachable!("{other:?} is no function of two floats"),
    }
}

/// A function of one number.
pub(super) fn unary(function: Function, arg: &Value) -> Value {
    if arg.kind() == DataKind::Int64 {
        return match function {
            Function::Neg => int_unary(arg, i64::overflowing_neg),
            Function::Abs => int_unary(arg, i64::overflowing_abs),
            Function::Sign => int_unary(arg, |value| (value.signum(), false)),
            Function::Floor | Function::Ceil | Function::Round => arg.clone(),
            other => unreachable!("{other:?} is no function of one integer"),
        };
    }
    match function {
        Function::Neg => float_unary(arg, |value| -value),
        Function::Abs => float_unary(arg, f64::abs),
        Function::Sign => float_unary(arg, |value| if value == 0.0 { 0.0 } else { value.signum() }),
        Function::Sqrt => float_unary(arg, f64::sqrt),
        Function::Ln => float_unary(arg, f64::ln),
        Function::Exp => float_unary(arg, f64::exp),
        Function::Floor => float_unary(arg, f64::floor),
        Function::Ceil => float_unary(arg, f64::ceil),
        Function::Round => float_unary(arg, f64::round),
        other => unreachable!("{other:?} is no function of one float"),
    }
}

/// `round(value, digits)`
pub(super) fn round(value: &Value, digits: &Value, rows: usize) -> Value {
    if value.kind() == DataKind::Int64 {
        return int_binary(value, digits, rows, |value, digits| match round_int(value, digits) {
            Some(rounded) => (rounded, false),
            None => (0, true),
        });
    }
    let digits = digits.promoted();
    float_binary(value, &digits, rows, |value, digits| if digits.is_nan() { f64::NAN } else { round_float(value, digits as i64) })
}

/// Rounds half away from zero to 10^-digits. `None` if it overflows.
pub(super) fn round_int(value: i64, digits: i64) -> Option<i64> {
    if digits >= 0 {
        return Some(value);
    }
    if digits < -MAX_I64_POWER {
        // half of 10^19 is within i64
        return if digits == -MAX_I64_POWER - 1 && value.unsigned_abs() >= 5 * 10u64.pow(18) { None } else { Some(0) };
    }
    let unit = 10i128.pow((-digits) as u32);
    let (value, half) = (i128::from(value), unit / 2);
    let rounded = (value.abs() + half) / unit * unit * value.signum();
    i64::try_from(rounded).ok()
}

/// Rounds half away from zero to 10^-digits.
pub(super) fn round_float(value: f64, digits: i64) -> f64 {
    let digits = digits.clamp(-MAX_ROUND_DIGITS, MAX_ROUND_DIGITS) as i32;
    let factor = 10f64.powi(digits.abs());
    if digits < 0 {
        return (value / factor).round() * factor;
    }
    let scaled = value * factor;
    if scaled.is_finite() { scaled.round() / factor } else { value }
}

/// Anything as float64.
pub(super) fn cast_float64(arg: &Value) -> Value {
    let array = match arg.kind() {
        DataKind::Float64 => return arg.clone(),
        DataKind::Int64 => return arg.promoted(),
        DataKind::Bool => float_array(arg.array().as_boolean().iter().map(|value| value.map_or(f64::NAN, f64::from)).collect()),
        DataKind::Utf8 => {
            let parsed = |text: Option<&str>| text.and_then(|text| fast_float2::parse(text.trim()).ok()).unwrap_or(f64::NAN);
            float_array(arg.array().as_string::<i32>().iter().map(parsed).collect())
        }
    };
    same_shape(arg, Value::rows(array))
}

/// Anything as int64; floats are rounded.
pub(super) fn cast_int64(arg: &Value) -> Value {
    let array: Int64Array = match arg.kind() {
        DataKind::Int64 => return arg.clone(),
        DataKind::Float64 => arg.array().as_primitive::<Float64Type>().iter().map(|value| value.and_then(float_to_int)).collect(),
        DataKind::Bool => arg.array().as_boolean().iter().map(|value| value.map(i64::from)).collect(),
        DataKind::Utf8 => {
            arg.array().as_string::<i32>().iter().map(|text| text.and_then(|text| text.trim().parse().ok())).collect()
        }
    };
    same_shape(arg, Value::rows(array))
}

/// The nearest integer, halves away from zero. `None` if out of range.
pub(super) fn float_to_int(value: f64) -> Option<i64> {
    let rounded = value.round();
    (-I64_LIMIT..I64_LIMIT).contains(&rounded).then_some(rounded as i64)
}

/// A function of a constant is a constant.
pub(super) fn same_shape(arg: &Value, result: Value) -> Value {
    if arg.is_constant() { Value::constant(result.array().clone()) } else { result }
}

/// Applies `function` to the values of both sides, row by row.
pub(super) fn zip<A: Copy, B: Copy, R>(left: Lane<A>, right: Lane<B>, rows: usize, function: impl Fn(A, B) -> R) -> Vec<R> {
    match (left, right) {
        (Lane::Each(left), Lane::Each(right)) => left.iter().zip(right).map(|(a, b)| function(*a, *b)).collect(),
        (Lane::Each(left), Lane::All(b)) => left.iter().map(|a| function(*a, b)).collect(),
        (Lane::All(a), Lane::Each(right)) => right.iter().map(|b| function(a, *b)).collect(),
        (Lane::All(a), Lane::All(b)) => (0..rows).map(|_| function(a, b)).collect(),
    }
}

fn float_binary(left: &Value, right: &Value, rows: usize, function: impl Fn(f64, f64) -> f64) -> Value {
    Value::rows(float_array(zip(left.floats(), right.floats(), rows, function)))
}

fn float_unary(arg: &Value, function: impl Fn(f64) -> f64) -> Value {
    let values = arg.array().as_primitive::<Float64Type>().values();
    same_shape(arg, Value::rows(float_array(values.iter().map(|value| function(*value)).collect())))
}

/// `function` gives the value and whether there is none (overflow). Null slots are computed too; what they hold is ignored.
fn int_binary(left: &Value, right: &Value, rows: usize, function: impl Fn(i64, i64) -> (i64, bool)) -> Value {
    let nulls = NullBuffer::union(left.nulls(), right.nulls());
    Value::rows(int_array(zip(left.ints(), right.ints(), rows, function), nulls))
}

fn int_unary(arg: &Value, function: impl Fn(i64) -> (i64, bool)) -> Value {
    let array = arg.array().as_primitive::<Int64Type>();
    let results = array.values().iter().map(|value| function(*value)).collect();
    same_shape(arg, Value::rows(int_array(results, array.nulls().cloned())))
}

fn int_array(results: Vec<(i64, bool)>, nulls: Option<NullBuffer>) -> Int64Array {
    let values: Vec<i64> = results.iter().map(|(value, _)| *value).collect();
    let any_missing = results.iter().fold(false, |any, (_, missing)| any | missing);
    let nulls = if any_missing {
        let present = NullBuffer::new(BooleanBuffer::collect_bool(results.len(), |row| !results[row].1));
        NullBuffer::union(nulls.as_ref(), Some(&present))
    } else {
        nulls
    };
    Int64Array::new(ScalarBuffer::from(values), nulls)
}
