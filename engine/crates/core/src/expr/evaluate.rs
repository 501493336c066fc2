//! Evaluation of a compiled tree on a batch, one array a node.

use arrow_arith::boolean;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_ord::cmp;

use super::compile::{Node, true_rows};
use super::value::{Lane, Value, clean_floats, kernel_error};
use super::{DataKind, Function, numeric};
use crate::{Error, Result};

/// The value of each row. Types are as compiling left them.
pub(super) fn evaluate(node: &Node, columns: &[ArrayRef], rows: usize) -> Result<Value> {
    match node {
        Node::Literal(value) => Ok(value.clone()),
        Node::Promote(arg) => Ok(evaluate(arg, columns, rows)?.promoted()),
        Node::Column { index, kind } => match columns.get(*index) {
            Some(array) => Value::column(array, *kind, rows),
            None => Err(Error::engine(format!("an expression reads column {index} of {}", columns.len()))),
        },
        Node::Call { function, args } => {
            let args = args.iter().map(|arg| evaluate(arg, columns, rows)).collect::<Result<Vec<Value>>>()?;
            call(*function, &args, rows)
        }
    }
}

fn call(function: Function, args: &[Value], rows: usize) -> Result<Value> {
    use Function::*;
    match (function, args) {
        (Add | Sub | Mul | Div | Mod | Power, [left, right]) => Ok(numeric::binary(function, left, right, rows)),
        (Neg | Abs | Sqrt | Ln | Exp | Floor | Ceil | Round | Sign, [arg]) => Ok(numeric::unary(function, arg)),
        (Round, [value, digits]) => Ok(numeric::round(value, digits, rows)),
        (Eq | Ne | Lt | Le | Gt | Ge, [left, right]) => Ok(Value::rows(compare(function, left, right, rows)?)),
        (And, _) => fold_bools(args, rows, boolean::and_kleene),
        (Or, _) => fold_bools(args, rows, boolean::or_kleene),
        (Not, [arg]) => Ok(Value::rows(boolean::not(&arg.clone().into_bools(rows)?).map_err(kernel_error)?)),
        (IsNull, [arg]) => Ok(Value::rows(boolean::is_null(&expanded(arg, rows)?).map_err(kernel_error)?)),
        (IsNotNull, [arg]) => Ok(Value::rows(boolean::is_not_null(&expanded(arg, rows)?).map_err(kernel_error)?)),
        (Greatest, _) => extreme(args, rows, Ge),
        (Least, _) => extreme(args, rows, Le),
        (Coalesce, _) => coalesce(args, rows),
        (Case, _) => case(args, rows),
        (In, [value, list @ ..]) => is_in(value, list, rows),
        (Lower, [arg]) => Ok(map_text(arg, str::to_lowercase)),
        (Upper, [arg]) => Ok(map_text(arg, str::to_uppercase)),
        (Length, [arg]) => {
            let texts = arg.array().as_string::<i32>();
            let lengths: Int64Array = texts.iter().map(|text| text.map(|text| text.chars().count() as i64)).collect();
            Ok(numeric::same_shape(arg, Value::rows(lengths)))
        }
        (CastFloat64, [arg]) => Ok(numeric::cast_float64(arg)),
        (CastInt64, [arg]) => Ok(numeric::cast_int64(arg)),
        _ => Err(Error::engine(format!("{} was compiled with {} arguments", function.name(), args.len()))),
    }
}

fn expanded(arg: &Value, rows: usize) -> Result<ArrayRef> {
    arg.clone().into_array(rows)
}

/// A comparison of two values of one type. arrow's own order of floats tells -0.0 from 0.0, so numbers are compared here.
fn compare(function: Function, left: &Value, right: &Value, rows: usize) -> Result<BooleanArray> {
    if left.is_null_constant() || right.is_null_constant() {
        return Ok(BooleanArray::new_null(rows));
    }
    let nulls = NullBuffer::union(left.nulls(), right.nulls());
    match left.kind() {
        DataKind::Float64 => Ok(BooleanArray::new(compare_lanes(function, left.floats(), right.floats(), rows), nulls)),
        DataKind::Int64 => Ok(BooleanArray::new(compare_lanes(function, left.ints(), right.ints(), rows), nulls)),
        DataKind::Bool | DataKind::Utf8 => {
            // two scalars compare as one, not as many
            let left =
                if left.is_constant() && right.is_constant() { Value::rows_of(expanded(left, rows)?) } else { left.clone() };
            let (left, right) = (left.datum(), right.datum());
            let kernel = match function {
                Function::Eq => cmp::eq,
                Function::Ne => cmp::neq,
                Function::Lt => cmp::lt,
                Function::Le => cmp::lt_eq,
                Function::Gt => cmp::gt,
                _ => cmp::gt_eq,
            };
            kernel(left.as_ref(), right.as_ref()).map_err(kernel_error)
        }
    }
}

fn compare_lanes<T: PartialOrd + Copy>(function: Function, left: Lane<T>, right: Lane<T>, rows: usize) -> BooleanBuffer {
    match function {
        Function::Eq => collect(left, right, rows, |a, b| a == b),
        Function::Ne => collect(left, right, rows, |a, b| a != b),
        Function::Lt => collect(left, right, rows, |a, b| a < b),
        Function::Le => collect(left, right, rows, |a, b| a <= b),
        Function::Gt => collect(left, right, rows, |a, b| a > b),
        _ => collect(left, right, rows, |a, b| a >= b),
    }
}

fn collect<T: Copy>(left: Lane<T>, right: Lane<T>, rows: usize, test: impl Fn(T, T) -> bool) -> BooleanBuffer {
    match (left, right) {
        (Lane::Each(left), Lane::Each(right)) => {
            let (left, right) = (&left[..rows], &right[..rows]);
            BooleanBuffer::collect_bool(rows, |row| test(left[row], right[row]))
        }
        (Lane::Each(left), Lane::All(b)) => {
            let left = &left[..rows];
            BooleanBuffer::collect_bool(rows, |row| test(left[row], b))
        }
        (Lane::All(a), Lane::Each(right)) => {
            let right = &right[..rows];
            BooleanBuffer::collect_bool(rows, |row| test(a, right[row]))
        }
        (Lane::All(a), Lane::All(b)) => BooleanBuffer::collect_bool(rows, |_| test(a, b)),
    }
}

type BoolKernel = fn(&BooleanArray, &BooleanArray) -> std::result::Result<BooleanArray, arrow_schema::ArrowError>;

fn fold_bools(args: &[Value], rows: usize, kernel: BoolKernel) -> Result<Value> {
    let mut result = args[0].clone().into_bools(rows)?;
    for arg in &args[1..] {
        result = kernel(&result, &arg.clone().into_bools(rows)?).map_err(kernel_error)?;
    }
    Ok(Value::rows(result))
}

/// The value itself where `mask` is true, else `otherwise`.
fn choose(mask: &BooleanArray, value: &Value, otherwise: &Value) -> Result<Value> {
    let mask = true_rows(mask);
    let chosen = arrow_select::zip::zip(&mask, value.datum().as_ref(), otherwise.datum().as_ref()).map_err(kernel_error)?;
    match chosen.as_primitive_opt::<Float64Type>() {
        // a kernel may leave anything in a null slot
        Some(floats) => Ok(Value::rows(clean_floats(floats))),
        None => Ok(Value::rows_of(chosen)),
    }
}

/// The greatest (`Ge`) or least (`Le`) of the values that are not null.
fn extreme(args: &[Value], rows: usize, wins: Function) -> Result<Value> {
    let mut best = args[0].clone();
    for arg in &args[1..] {
        let other_missing = boolean::is_null(&expanded(arg, rows)?).map_err(kernel_error)?;
        let keep = boolean::or_kleene(&compare(wins, &best, arg, rows)?, &other_missing).map_err(kernel_error)?;
        best = choose(&keep, &best, arg)?;
    }
    Ok(best)
}

fn coalesce(args: &[Value], rows: usize) -> Result<Value> {
    let (last, earlier) = args.split_last().ok_or_else(|| Error::engine("coalesce was compiled without arguments"))?;
    let mut result = last.clone();
    for arg in earlier.iter().rev() {
        let present = boolean::is_not_null(&expanded(arg, rows)?).map_err(kernel_error)?;
        result = choose(&present, arg, &result)?;
    }
    Ok(result)
}

/// (condition, value, …, else): the last pair is decided first, so that an earlier one overrides it.
fn case(args: &[Value], rows: usize) -> Result<Value> {
    let (last, pairs) = args.split_last().ok_or_else(|| Error::engine("case was compiled without arguments"))?;
    let mut result = last.clone();
    for pair in pairs.chunks_exact(2).rev() {
        result = choose(&pair[0].clone().into_bools(rows)?, &pair[1], &result)?;
    }
    Ok(result)
}

fn is_in(value: &Value, list: &[Value], rows: usize) -> Result<Value> {
    let mut found = compare(Function::Eq, value, &list[0], rows)?;
    for other in &list[1..] {
        found = boolean::or_kleene(&found, &compare(Function::Eq, value, other, rows)?).map_err(kernel_error)?;
    }
    Ok(Value::rows(found))
}

fn map_text(arg: &Value, function: impl Fn(&str) -> String) -> Value {
    let texts: StringArray = arg.array().as_string::<i32>().iter().map(|text| text.map(&function)).collect();
    numeric::same_shape(arg, Value::rows(texts))
}
