//! Expressions on small columns: compiled or refused, the value of each row the same whatever rows are beside it.
//!
//! Input that begins with `{` is an expression as JSON; other input makes one, and the columns.

#![no_main]

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use streamjob_core::expr::{CompiledExpr, DataKind, Expr};

const NAMES: [(&str, DataKind); 8] = [
    ("f", DataKind::Float64),
    ("g", DataKind::Float64),
    ("i", DataKind::Int64),
    ("j", DataKind::Int64),
    ("b", DataKind::Bool),
    ("c", DataKind::Bool),
    ("s", DataKind::Utf8),
    ("u", DataKind::Utf8),
];
const FUNCTIONS: [&str; 36] = [
    "add",
    "sub",
    "mul",
    "div",
    "mod",
    "neg",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
    "is_null",
    "is_not_null",
    "abs",
    "sqrt",
    "ln",
    "exp",
    "power",
    "floor",
    "ceil",
    "round",
    "sign",
    "greatest",
    "least",
    "coalesce",
    "case",
    "in",
    "lower",
    "upper",
    "length",
    "cast_float64",
    "cast_int64",
];
const FLOATS: [f64; 12] =
    [0.0, -0.0, 1.0, -1.5, 0.5, 1e300, -1e300, 5e-324, 9_007_199_254_740_993.0, 9.3e18, f64::NAN, f64::INFINITY];
const INTEGERS: [i64; 10] = [0, 1, -1, 2, 19, -19, i64::MAX, i64::MIN, 1 << 53, -400];
const TEXTS: [&str; 10] = ["", "a", "A", "ß", "ǆ", "12", " -7 ", "1e400", "nan", "9223372036854775808"];
const MAX_DEPTH: usize = 6;

fuzz_target!(|data: &[u8]| {
    match data.first() {
        Some(b'{') => {
            if let Ok(expr) = serde_json::from_slice::<Expr>(data) {
                check(&expr, &columns(&mut Unstructured::new(data)).unwrap_or_else(|_| empty()));
            }
        }
        _ => {
            let mut input = Unstructured::new(data);
            let Ok(columns) = columns(&mut input) else { return };
            let Ok(json) = expression(&mut input, 0) else { return };
            let expr: Expr = serde_json::from_value(json).expect("a well-formed expression");
            check(&expr, &columns);
        }
    }
});

fn check(expr: &Expr, columns: &[ArrayRef]) {
    let json = serde_json::to_string(expr).expect("an expression is plain data");
    assert_eq!(serde_json::from_str::<Expr>(&json).expect("its own text is read"), *expr);
    let names = NAMES.map(|(name, kind)| (name.to_owned(), kind));
    let Ok(compiled) = CompiledExpr::compile(expr, &names) else { return };
    let rows = columns[0].len();
    let whole = compiled.evaluate(columns, rows).expect("the columns fit");
    assert_eq!((whole.len(), whole.data_type()), (rows, &compiled.kind().arrow_type()));
    whole.to_data().validate_full().expect("a valid Arrow array");
    if let Some(floats) = whole.as_primitive_opt::<Float64Type>() {
        for row in 0..rows {
            assert_eq!(floats.is_null(row), !floats.values()[row].is_finite(), "only null is not finite");
            assert!(floats.is_valid(row) || floats.values()[row].is_nan(), "a null float slot holds NaN");
        }
    }
    for row in 0..rows {
        let alone: Vec<ArrayRef> = columns.iter().map(|column| column.slice(row, 1)).collect();
        let alone = compiled.evaluate(&alone, 1).expect("the columns fit");
        assert_eq!(text(&alone, 0), text(&whole, row), "row {row}");
    }
    let mask = compiled.evaluate_mask(columns, rows);
    assert_eq!(mask.is_ok(), compiled.kind() == DataKind::Bool);
    if let Ok(mask) = mask {
        assert!(mask.nulls().is_none());
        (0..rows).for_each(|row| assert_eq!(mask.value(row), text(&whole, row) == "true"));
    }
    let nothing: Vec<ArrayRef> = columns.iter().map(|column| column.slice(0, 0)).collect();
    assert_eq!(compiled.evaluate(&nothing, 0).expect("no rows are fine").len(), 0);
}

/// A value, floats by their bits.
fn text(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "null".to_owned();
    }
    match array.as_primitive_opt::<Float64Type>() {
        Some(floats) => format!("{:x}", floats.value(row).to_bits()),
        None if array.as_boolean_opt().is_some() => array.as_boolean().value(row).to_string(),
        None => match array.as_string_opt::<i32>() {
            Some(texts) => format!("{:?}", texts.value(row)),
            None => array.as_primitive::<arrow_array::types::Int64Type>().value(row).to_string(),
        },
    }
}

fn empty() -> Vec<ArrayRef> {
    columns(&mut Unstructured::new(&[0])).expect("no rows need no input")
}

fn float(input: &mut Unstructured) -> Result<f64> {
    if input.arbitrary()? { Ok(*input.choose(&FLOATS)?) } else { input.arbitrary() }
}

fn integer(input: &mut Unstructured) -> Result<i64> {
    if input.arbitrary()? { Ok(*input.choose(&INTEGERS)?) } else { input.arbitrary() }
}

fn string(input: &mut Unstructured) -> Result<String> {
    if input.ratio(3, 4)? { Ok((*input.choose(&TEXTS)?).to_owned()) } else { input.arbitrary() }
}

fn optional<T>(input: &mut Unstructured, rows: usize, value: impl Fn(&mut Unstructured) -> Result<T>) -> Result<Vec<Option<T>>> {
    (0..rows).map(|_| if input.ratio(1, 4)? { Ok(None) } else { value(input).map(Some) }).collect()
}

fn columns(input: &mut Unstructured) -> Result<Vec<ArrayRef>> {
    let rows = input.int_in_range(0..=5usize)?;
    NAMES
        .iter()
        .map(|(_, kind)| {
            Ok(match kind {
                DataKind::Float64 => Arc::new(Float64Array::from(optional(input, rows, float)?)) as ArrayRef,
                DataKind::Int64 => Arc::new(Int64Array::from(optional(input, rows, integer)?)),
                DataKind::Bool => Arc::new(BooleanArray::from(optional(input, rows, |input| input.arbitrary())?)),
                DataKind::Utf8 => Arc::new(StringArray::from(optional(input, rows, string)?)),
            })
        })
        .collect()
}

fn expression(input: &mut Unstructured, depth: usize) -> Result<Value> {
    let leaf = depth == MAX_DEPTH || input.is_empty();
    if leaf || input.ratio(1, 4)? {
        return Ok(match input.int_in_range(0..=7u8)? {
            0 => json!({"kind": "literal", "value": null}),
            1 => json!({"kind": "literal", "value": float(input)?}),
            2 => json!({"kind": "literal", "value": integer(input)?}),
            3 => json!({"kind": "literal", "value": string(input)?}),
            4 => json!({"kind": "literal", "value": input.arbitrary::<bool>()?}),
            _ => json!({"kind": "column", "name": input.choose(&NAMES)?.0}),
        });
    }
    let count = *input.choose(&[1, 1, 2, 2, 2, 3, 4, 5, 0])?;
    let function = *input.choose(&FUNCTIONS)?;
    let args = (0..count).map(|_| expression(input, depth + 1)).collect::<Result<Vec<Value>>>()?;
    Ok(json!({"kind": "call", "function": function, "args": args}))
}
