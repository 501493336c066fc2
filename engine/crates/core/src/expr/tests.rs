use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One value, computed the plain way.
#[derive(Debug, Clone, PartialEq)]
enum Plain {
    Null,
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

use Plain::{Bool, Float, Int, Null, Text};

fn columns() -> Vec<(String, DataKind)> {
    let kinds = [DataKind::Float64, DataKind::Int64, DataKind::Bool, DataKind::Utf8];
    ["f", "g", "i", "j", "b", "c", "s", "u"].iter().enumerate().map(|(n, name)| (name.to_string(), kinds[n / 2])).collect()
}

fn column(name: &str) -> Expr {
    Expr::Column { name: name.to_string() }
}

fn literal(value: serde_json::Value) -> Expr {
    Expr::Literal { value }
}

fn call(function: Function, args: Vec<Expr>) -> Expr {
    Expr::Call { function, args }
}

fn arrays(rows: &[Vec<Plain>]) -> Vec<ArrayRef> {
    let of = |n: usize| rows.iter().map(move |row| &row[n]);
    let float =
        |n| Arc::new(of(n).map(|value| if let Float(value) = value { Some(*value) } else { None }).collect::<Float64Array>());
    let int = |n| Arc::new(of(n).map(|value| if let Int(value) = value { Some(*value) } else { None }).collect::<Int64Array>());
    let bool =
        |n| Arc::new(of(n).map(|value| if let Bool(value) = value { Some(*value) } else { None }).collect::<BooleanArray>());
    let text = |n| Arc::new(of(n).map(|value| if let Text(value) = value { Some(value) } else { None }).collect::<StringArray>());
    vec![float(0), float(1), int(2), int(3), bool(4), bool(5), text(6), text(7)]
}

fn plain(array: &ArrayRef, row: usize) -> Plain {
    if array.is_null(row) {
        if let Some(floats) = array.as_primitive_opt::<Float64Type>() {
            assert!(floats.value(row).is_nan(), "a null float slot must hold NaN");
        }
        return Null;
    }
    match array.data_type() {
        DataType::Float64 => Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Int64 => Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Boolean => Bool(array.as_boolean().value(row)),
        _ => Text(array.as_string::<i32>().value(row).to_string()),
    }
}

/// The type of an expression, by the shortest rules.
fn kind(expr: &Expr) -> Option<DataKind> {
    use Function::*;
    match expr {
        Expr::Column { name } => columns().into_iter().find(|(column, _)| column == name).map(|(_, kind)| kind),
        Expr::Literal { value } if value.is_i64() => Some(DataKind::Int64),
        Expr::Literal { value } if value.is_f64() => Some(DataKind::Float64),
        Expr::Literal { value } if value.is_boolean() => Some(DataKind::Bool),
        Expr::Literal { value } if value.is_string() => Some(DataKind::Utf8),
        Expr::Literal { .. } => None,
        Expr::Call { function, args } => Some(match function {
            Div | Power | Sqrt | Ln | Exp | CastFloat64 => DataKind::Float64,
            Length | CastInt64 => DataKind::Int64,
            Lower | Upper => DataKind::Utf8,
            Add | Sub | Mul | Mod | Neg | Abs | Sign | Floor | Ceil => widest(args).unwrap_or(DataKind::Float64),
            Round => widest(&args[..1]).unwrap_or(DataKind::Float64),
            Case => case_kind(args),
            Greatest | Least | Coalesce => widest(args).unwrap_or(DataKind::Bool),
            _ => DataKind::Bool,
        }),
    }
}

fn widest(args: &[Expr]) -> Option<DataKind> {
    let kinds: Vec<DataKind> = args.iter().filter_map(kind).collect();
    if kinds.contains(&DataKind::Float64) { Some(DataKind::Float64) } else { kinds.first().copied() }
}

fn case_kind(args: &[Expr]) -> DataKind {
    let values: Vec<Expr> =
        args.iter().enumerate().filter(|(n, _)| n % 2 == 1 || n + 1 == args.len()).map(|(_, arg)| arg.clone()).collect();
    widest(&values).unwrap_or(DataKind::Bool)
}

fn promote(value: Plain, to: Option<DataKind>) -> Plain {
    match (value, to) {
        (Int(value), Some(DataKind::Float64)) => Float(value as f64),
        (value, _) => value,
    }
}

fn finite(value: f64) -> Plain {
    if value.is_finite() { Float(value) } else { Null }
}

fn int(value: Option<i64>) -> Plain {
    value.map_or(Null, Int)
}

fn interpret(expr: &Expr, row: &[Plain]) -> Plain {
    match expr {
        Expr::Column { name } => row[columns().iter().position(|(column, _)| column == name).unwrap()].clone(),
        Expr::Literal { value } => match value {
            serde_json::Value::Bool(value) => Bool(*value),
            serde_json::Value::String(value) => Text(value.clone()),
            serde_json::Value::Number(value) => value.as_i64().map_or_else(|| finite(value.as_f64().unwrap()), Int),
            _ => Null,
        },
        Expr::Call { function, args } => {
            let values: Vec<Plain> = args.iter().map(|arg| interpret(arg, row)).collect();
            apply(*function, args, values)
        }
    }
}

fn apply(function: Function, args: &[Expr], values: Vec<Plain>) -> Plain {
    use Function::*;
    let wide = widest(args);
    match function {
        And | Or => values.into_iter().reduce(|a, b| kleene(function == And, a, b)).unwrap(),
        IsNull => Bool(values[0] == Null),
        IsNotNull => Bool(values[0] != Null),
        Coalesce => promote(values.into_iter().find(|value| *value != Null).unwrap_or(Null), wide),
        Case => {
            let pairs = values[..values.len() - 1].chunks(2);
            let chosen = pairs.into_iter().find(|pair| pair[0] == Bool(true)).map_or(values.last().unwrap(), |pair| &pair[1]);
            promote(chosen.clone(), Some(case_kind(args)))
        }
        In => {
            let values: Vec<Plain> = values.into_iter().map(|value| promote(value, wide)).collect();
            values[1..].iter().map(|other| compared(Eq, &values[0], other)).reduce(|a, b| kleene(false, a, b)).unwrap()
        }
        Greatest | Least => {
            let better = if function == Greatest { Gt } else { Lt };
            let values = values.into_iter().map(|value| promote(value, wide)).filter(|value| *value != Null);
            values.reduce(|best, value| if compared(better, &value, &best) == Bool(true) { value } else { best }).unwrap_or(Null)
        }
        _ if values.contains(&Null) => Null,
        Div | Power => strict(function, values.into_iter().map(|value| promote(value, Some(DataKind::Float64))).collect()),
        Sqrt | Ln | Exp => strict(function, values.into_iter().map(|value| promote(value, Some(DataKind::Float64))).collect()),
        Round => strict(function, values),
        _ => strict(function, values.into_iter().map(|value| promote(value, wide)).collect()),
    }
}

fn kleene(and: bool, a: Plain, b: Plain) -> Plain {
    if a == Bool(!and) || b == Bool(!and) {
        return Bool(!and);
    }
    if a == Null || b == Null { Null } else { Bool(and) }
}

fn compared(function: Function, a: &Plain, b: &Plain) -> Plain {
    let order = match (a, b) {
        (Float(a), Float(b)) => a.partial_cmp(b).unwrap(),
        (Int(a), Int(b)) => a.cmp(b),
        (Bool(a), Bool(b)) => a.cmp(b),
        (Text(a), Text(b)) => a.cmp(b),
        _ => return Null,
    };
    Bool(match function {
        Function::Eq => order.is_eq(),
        Function::Ne => order.is_ne(),
        Function::Lt => order.is_lt(),
        Function::Le => order.is_le(),
        Function::Gt => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Functions of values that are not null.
fn strict(function: Function, values: Vec<Plain>) -> Plain {
    use Function::*;
    match (function, values.as_slice()) {
        (Eq | Ne | Lt | Le | Gt | Ge, [a, b]) => compared(function, a, b),
        (Add, [Float(a), Float(b)]) => finite(a + b),
        (Sub, [Float(a), Float(b)]) => finite(a - b),
        (Mul, [Float(a), Float(b)]) => finite(a * b),
        (Div, [Float(a), Float(b)]) => finite(a / b),
        (Mod, [Float(a), Float(b)]) => finite(a % b),
        (Power, [Float(a), Float(b)]) => finite(a.powf(*b)),
        (Add, [Int(a), Int(b)]) => int(a.checked_add(*b)),
        (Sub, [Int(a), Int(b)]) => int(a.checked_sub(*b)),
        (Mul, [Int(a), Int(b)]) => int(a.checked_mul(*b)),
        (Mod, [Int(_), Int(0)]) => Null,
        (Mod, [Int(a), Int(b)]) => Int(a.wrapping_rem(*b)),
        (Not, [Bool(a)]) => Bool(!a),
        (Neg, [Float(a)]) => Float(-a),
        (Neg, [Int(a)]) => int(a.checked_neg()),
        (Abs, [Float(a)]) => Float(a.abs()),
        (Abs, [Int(a)]) => int(a.checked_abs()),
        (Sign, [Float(a)]) => Float(if *a == 0.0 { 0.0 } else { a.signum() }),
        (Sign, [Int(a)]) => Int(a.signum()),
        (Sqrt, [Float(a)]) => finite(a.sqrt()),
        (Ln, [Float(a)]) => finite(a.ln()),
        (Exp, [Float(a)]) => finite(a.exp()),
        (Floor, [Float(a)]) => Float(a.floor()),
        (Ceil, [Float(a)]) => Float(a.ceil()),
        (Round, [Float(a)]) => Float(a.round()),
        (Floor | Ceil | Round, [Int(a)]) => Int(*a),
        (Round, [Float(a), Int(digits)]) => finite(numeric::round_float(*a, *digits)),
        (Round, [Int(a), Int(digits)]) => int(numeric::round_int(*a, *digits)),
        (Lower, [Text(a)]) => Text(a.to_lowercase()),
        (Upper, [Text(a)]) => Text(a.to_uppercase()),
        (Length, [Text(a)]) => Int(a.chars().count() as i64),
        (CastFloat64, [Float(_)]) | (CastInt64, [Int(_)]) => values[0].clone(),
        (CastFloat64, [Int(a)]) => Float(*a as f64),
        (CastFloat64, [Bool(a)]) => Float(f64::from(*a)),
        (CastFloat64, [Text(a)]) => a.trim().parse().map_or(Null, finite),
        (CastInt64, [Float(a)]) => int(numeric::float_to_int(*a)),
        (CastInt64, [Bool(a)]) => Int(i64::from(*a)),
        (CastInt64, [Text(a)]) => int(a.trim().parse().ok()),
        (function, values) => panic!("{function:?} of {values:?}"),
    }
}

fn same(a: &Plain, b: &Plain) -> bool {
    match (a, b) {
        // both sides may choose either zero as the greatest
        (Float(a), Float(b)) => a == b,
        _ => a == b,
    }
}

fn value_of(kind: DataKind) -> BoxedStrategy<Plain> {
    let value = match kind {
        DataKind::Float64 => prop_oneof![
            (-40i32..40).prop_map(|value| Float(f64::from(value) / 4.0)),
            any::<f64>().prop_filter_map("finite", |value| value.is_finite().then_some(Float(value))),
            Just(Float(-0.0)),
        ]
        .boxed(),
        DataKind::Int64 => prop_oneof![(-5i64..20).prop_map(Int), any::<i64>().prop_map(Int), Just(Int(i64::MIN))].boxed(),
        DataKind::Bool => any::<bool>().prop_map(Bool).boxed(),
        DataKind::Utf8 => prop_oneof![
            prop::sample::select(vec!["", "a", "B", "ä", "ß", " 12 ", "1.5", "x"]).prop_map(|text| Text(text.to_string())),
            "[a-cÄ-Ö]{0,3}".prop_map(Text),
        ]
        .boxed(),
    };
    prop_oneof![5 => value, 1 => Just(Null)].boxed()
}

fn table() -> impl Strategy<Value = Vec<Vec<Plain>>> {
    let row: Vec<BoxedStrategy<Plain>> = columns().into_iter().map(|(_, kind)| value_of(kind)).collect();
    prop::collection::vec(row, 0..70)
}

fn leaf(kind: DataKind) -> BoxedStrategy<Expr> {
    let names: Vec<String> = columns().into_iter().filter(|(_, of)| *of == kind).map(|(name, _)| name).collect();
    let constant = value_of(kind).prop_map(|value| {
        literal(match value {
            Null => json!(null),
            Float(value) => json!(value),
            Int(value) => json!(value),
            Bool(value) => json!(value),
            Text(value) => json!(value),
        })
    });
    prop_oneof![3 => prop::sample::select(names).prop_map(|name| column(&name)), 1 => constant].boxed()
}

fn tree(kind: DataKind, depth: u32) -> BoxedStrategy<Expr> {
    use Function::*;
    if depth == 0 {
        return leaf(kind);
    }
    let sub = |kind| tree(kind, depth - 1);
    let number = || prop_oneof![sub(DataKind::Int64), sub(DataKind::Float64)].boxed();
    let of = |functions: Vec<Function>, args: BoxedStrategy<Vec<Expr>>| {
        (prop::sample::select(functions), args).prop_map(|(function, args)| call(function, args)).boxed()
    };
    let some = |arg: BoxedStrategy<Expr>, count: std::ops::Range<usize>| prop::collection::vec(arg, count).boxed();
    let any_kind = || prop_oneof![number(), sub(DataKind::Bool), sub(DataKind::Utf8)].boxed();
    let case = (sub(DataKind::Bool), sub(kind), sub(DataKind::Bool), sub(kind), sub(kind));
    let case = case.prop_map(|(a, b, c, d, e)| call(Case, vec![a, b, c, d, e])).boxed();
    let general = prop_oneof![leaf(kind), case, of(vec![Greatest, Least, Coalesce], some(sub(kind), 1..4))].boxed();
    let own = match kind {
        DataKind::Float64 => prop_oneof![
            of(vec![Div, Power], some(number(), 2..3)),
            of(vec![Sqrt, Ln, Exp, CastFloat64], some(number(), 1..2)),
            of(vec![CastFloat64], some(any_kind(), 1..2)),
            of(vec![Neg, Abs, Sign, Floor, Ceil, Round], some(sub(kind), 1..2)),
            of(vec![Add, Sub, Mul, Mod, Greatest, Least, Coalesce], (number(), sub(kind)).prop_map(|(a, b)| vec![a, b]).boxed()),
            of(vec![Round], (sub(kind), sub(DataKind::Int64)).prop_map(|(a, b)| vec![a, b]).boxed()),
        ]
        .boxed(),
        DataKind::Int64 => prop_oneof![
            of(vec![Add, Sub, Mul, Mod, Round], some(sub(kind), 2..3)),
            of(vec![Neg, Abs, Sign, Floor, Ceil, Round], some(sub(kind), 1..2)),
            of(vec![Length], some(sub(DataKind::Utf8), 1..2)),
            of(vec![CastInt64], some(any_kind(), 1..2)),
        ]
        .boxed(),
        DataKind::Bool => prop_oneof![
            of(vec![Eq, Ne, Lt, Le, Gt, Ge], some(number(), 2..3)),
            of(vec![Eq, Ne, Lt, Le, Gt, Ge, In], some(sub(DataKind::Utf8), 2..3)),
            of(vec![Eq, Ne, Lt, Le, Gt, Ge], some(sub(kind), 2..3)),
            of(vec![And, Or], some(sub(kind), 2..4)),
            of(vec![Not], some(sub(kind), 1..2)),
            of(vec![IsNull, IsNotNull], some(any_kind(), 1..2)),
            of(vec![In], some(number(), 2..5)),
        ]
        .boxed(),
        DataKind::Utf8 => of(vec![Lower, Upper], some(sub(kind), 1..2)),
    };
    prop_oneof![1 => general, 3 => own].boxed()
}

fn any_tree() -> impl Strategy<Value = Expr> {
    prop_oneof![tree(DataKind::Bool, 3), tree(DataKind::Float64, 3), tree(DataKind::Int64, 3), tree(DataKind::Utf8, 2)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn columns_at_once_give_what_each_row_alone_gives(expr in any_tree(), table in table()) {
        let compiled = CompiledExpr::compile(&expr, &columns());
        // a function of bare nulls may have another type than the generator had in mind
        let has_null = format!("{expr:?}").contains("Null }");
        prop_assert!(compiled.is_ok() || has_null, "{:?}", compiled.err());
        let Ok(compiled) = compiled else { return Ok(()) };
        let arrays = arrays(&table);
        let result = compiled.evaluate(&arrays, table.len()).unwrap();
        prop_assert_eq!(result.len(), table.len());
        prop_assert_eq!(result.data_type(), &compiled.kind().arrow_type());
        for (row, values) in table.iter().enumerate() {
            let expected = promote(interpret(&expr, values), Some(compiled.kind()));
            prop_assert!(same(&plain(&result, row), &expected), "row {}: {:?}, expected {:?}", row, plain(&result, row), expected);
        }
        if compiled.kind() == DataKind::Bool {
            let mask = compiled.evaluate_mask(&arrays, table.len()).unwrap();
            prop_assert!(mask.nulls().is_none());
            for row in 0..table.len() {
                prop_assert_eq!(mask.value(row), plain(&result, row) == Bool(true));
            }
        }
    }

    #[test]
    fn wrong_types_are_errors_and_never_panics(function in any_function(), args in prop::collection::vec(any_tree(), 0..4)) {
        if let Err(error) = CompiledExpr::compile(&call(function, args), &columns()) {
            prop_assert!(error.message().contains(": cannot take ("), "{}", error);
        }
    }
}

fn any_function() -> impl Strategy<Value = Function> {
    use Function::*;
    prop::sample::select(vec![
        Add,
        Sub,
        Mul,
        Div,
        Mod,
        Neg,
        Eq,
        Ne,
        Lt,
        Le,
        Gt,
        Ge,
        And,
        Or,
        Not,
        IsNull,
        IsNotNull,
        Abs,
        Sqrt,
        Ln,
        Exp,
        Power,
        Floor,
        Ceil,
        Round,
        Sign,
        Greatest,
        Least,
        Coalesce,
        Case,
        In,
        Lower,
        Upper,
        Length,
        CastFloat64,
        CastInt64,
    ])
}

fn one(expr: &Expr) -> Plain {
    let row = vec![Float(-3.5), Null, Int(7), Null, Bool(true), Null, Text("Ab".to_string()), Null];
    let array = CompiledExpr::compile(expr, &columns()).unwrap().evaluate(&arrays(&[row]), 1).unwrap();
    plain(&array, 0)
}

#[test]
fn what_has_no_value_is_null() {
    use Function::*;
    assert_eq!(one(&call(Div, vec![column("f"), literal(json!(0))])), Null);
    assert_eq!(one(&call(Div, vec![column("i"), literal(json!(2))])), Float(3.5));
    assert_eq!(one(&call(Sqrt, vec![column("f")])), Null);
    assert_eq!(one(&call(Mod, vec![column("i"), literal(json!(0))])), Null);
    assert_eq!(one(&call(Mul, vec![column("i"), literal(json!(i64::MAX))])), Null);
    assert_eq!(one(&call(Power, vec![column("g"), literal(json!(0))])), Null);
    assert_eq!(one(&call(Ne, vec![column("g"), literal(json!(0))])), Null);
    assert_eq!(one(&call(Greatest, vec![column("g"), column("f")])), Float(-3.5));
    assert_eq!(one(&call(In, vec![column("i"), literal(json!(1)), literal(json!(null))])), Null);
    assert_eq!(one(&call(In, vec![column("i"), literal(json!(null)), literal(json!(7.0))])), Bool(true));
    assert_eq!(one(&call(Eq, vec![literal(json!(-0.0)), literal(json!(0))])), Bool(true));
    assert_eq!(one(&call(Round, vec![column("f")])), Float(-4.0));
    assert_eq!(one(&call(Round, vec![literal(json!(1.256)), literal(json!(2))])), Float(1.26));
    assert_eq!(one(&call(Round, vec![literal(json!(-1250)), literal(json!(-2))])), Int(-1300));
    assert_eq!(one(&literal(json!(null))), Null);
}

#[test]
fn rounding_of_integers_has_edges() {
    assert_eq!(numeric::round_int(i64::MAX, -18), Some(9_000_000_000_000_000_000));
    assert_eq!(numeric::round_int(i64::MAX, -1), None);
    assert_eq!(numeric::round_int(i64::MAX, -19), None);
    assert_eq!(numeric::round_int(4_999_999_999_999_999_999, -19), Some(0));
    assert_eq!(numeric::round_int(i64::MIN, -100), Some(0));
}

#[test]
fn errors_say_what_was_given() {
    let error = |expr: Expr| CompiledExpr::compile(&expr, &columns()).unwrap_err().message().to_string();
    assert_eq!(error(call(Function::Add, vec![column("s"), column("f")])), "add: cannot take (string, float64)");
    assert_eq!(error(call(Function::IsNotNull, vec![])), "is_not_null: cannot take ()");
    assert_eq!(error(column("x")), "no such column (got \"x\"; there are f, g, i, j, b, c, s, u)");
    assert!(error(literal(json!([1]))).contains("a literal must be"));
    let deep = (0..MAX_DEPTH + 1).fold(column("f"), |expr, _| call(Function::Neg, vec![expr]));
    assert!(error(deep).contains("nested deeper"));
    let condition = CompiledExpr::compile_condition(&column("f"), &columns()).unwrap_err();
    assert_eq!(condition.message(), "a condition must be a bool (got float64)");
    assert!(CompiledExpr::compile_condition(&literal(json!(null)), &columns()).is_ok());
}

#[test]
fn wrong_columns_are_errors() {
    let compiled = CompiledExpr::compile(&column("i"), &columns()).unwrap();
    let arrays = arrays(&[vec![Null; 8]]);
    assert!(compiled.evaluate(&arrays[..1], 1).is_err());
    assert!(compiled.evaluate(&arrays, 2).is_err());
    assert!(compiled.evaluate(&arrays[1..], 1).is_ok(), "j is an int64 column too");
    assert!(compiled.evaluate(&arrays[3..], 1).is_err());
    assert!(compiled.evaluate_mask(&arrays, 1).is_err());
}

#[test]
fn columns_are_read_without_a_copy_and_only_where_needed() {
    let expr = call(
        Function::And,
        vec![call(Function::Gt, vec![column("g"), column("i")]), call(Function::Lt, vec![column("g"), literal(json!(3))])],
    );
    let compiled = CompiledExpr::compile(&expr, &columns()).unwrap();
    assert_eq!(compiled.required_columns(), [1, 2]);
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let same = CompiledExpr::compile(&column("f"), &columns()).unwrap().evaluate(std::slice::from_ref(&floats), 2).unwrap();
    assert_eq!(same.as_primitive::<Float64Type>().values().as_ptr(), floats.as_primitive::<Float64Type>().values().as_ptr());
    let dirty: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY]));
    let clean = CompiledExpr::compile(&column("f"), &columns()).unwrap().evaluate(&[dirty], 2).unwrap();
    assert_eq!(clean.null_count(), 2);
}
