//! From the tree to a typed one: column numbers instead of names, conversions made explicit, constants folded.

use arrow_array::{Array, ArrayRef, BooleanArray};
use serde_json::Value as Json;

use super::evaluate::evaluate;
use super::value::Value;
use super::{DataKind, Expr, Function};
use crate::{Error, Result};

/// Deepest nesting of calls.
pub const MAX_DEPTH: usize = 128;

/// An expression that is checked against columns of known types. Immutable; threads may share it.
#[derive(Debug, Clone)]
pub struct CompiledExpr {
    node: Node,
    kind: DataKind,
    required: Vec<usize>,
}

/// One node of the typed tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Column {
        index: usize,
        kind: DataKind,
    },
    Literal(Value),
    Call {
        function: Function,
        args: Vec<Node>,
    },
    /// int64 as float64.
    Promote(Box<Node>),
}

/// A node with its type; `None` is a bare null, which fits every type.
struct Typed {
    node: Option<Node>,
    kind: Option<DataKind>,
}

impl CompiledExpr {
    /// Checks `expr` against `columns`, names and types in the order in which [`evaluate`](Self::evaluate) gets them.
    ///
    /// # Errors
    /// A user error that names the unknown column, or the function and the types that it got.
    pub fn compile(expr: &Expr, columns: &[(String, DataKind)]) -> Result<CompiledExpr> {
        let typed = compile(expr, columns, 0)?;
        // an expression that is nothing but null is good for a condition
        let kind = typed.kind.unwrap_or(DataKind::Bool);
        let node = typed.into_kind(kind);
        let mut required = Vec::new();
        collect_columns(&node, &mut required);
        required.sort_unstable();
        required.dedup();
        Ok(CompiledExpr { node, kind, required })
    }

    /// Compiles a condition.
    ///
    /// # Errors
    /// Like [`compile`](Self::compile), also if the expression is not a bool.
    pub fn compile_condition(expr: &Expr, columns: &[(String, DataKind)]) -> Result<CompiledExpr> {
        let compiled = CompiledExpr::compile(expr, columns)?;
        if compiled.kind != DataKind::Bool {
            return Err(Error::user(format!("a condition must be a bool (got {})", compiled.kind.name())));
        }
        Ok(compiled)
    }

    /// Type of the result.
    pub fn kind(&self) -> DataKind {
        self.kind
    }

    /// Numbers of the columns that the expression reads, ascending. [`evaluate`](Self::evaluate) looks at no others.
    pub fn required_columns(&self) -> &[usize] {
        &self.required
    }

    /// The value of each of `rows` rows, an array of [`kind`](Self::kind). A null float slot holds NaN.
    ///
    /// # Errors
    /// An engine error if a required column is missing or has another type or length.
    pub fn evaluate(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        evaluate(&self.node, columns, rows)?.into_array(rows)
    }

    /// For which rows the condition is true; null counts as false, so that the result has no nulls.
    ///
    /// # Errors
    /// Like [`evaluate`](Self::evaluate); also an engine error if the expression is not a bool.
    pub fn evaluate_mask(&self, columns: &[ArrayRef], rows: usize) -> Result<BooleanArray> {
        let array = self.evaluate(columns, rows)?;
        let Some(mask) = array.as_any().downcast_ref::<BooleanArray>() else {
            return Err(Error::engine(format!("a {} was evaluated as a condition", self.kind.name())));
        };
        Ok(true_rows(mask))
    }
}

/// Null becomes false.
pub(super) fn true_rows(mask: &BooleanArray) -> BooleanArray {
    match mask.nulls() {
        None => mask.clone(),
        Some(nulls) => BooleanArray::new(mask.values() & nulls.inner(), None),
    }
}

impl Typed {
    fn new(node: Node, kind: DataKind) -> Typed {
        Typed { node: Some(node), kind: Some(kind) }
    }

    fn type_name(&self) -> &'static str {
        self.kind.map_or("null", DataKind::name)
    }

    /// The node as `kind`, which must be its own or float64 where it is int64.
    fn into_kind(self, kind: DataKind) -> Node {
        match (self.node, self.kind) {
            (None, _) | (_, None) => Node::Literal(Value::null(kind)),
            (Some(Node::Literal(value)), Some(DataKind::Int64)) if kind == DataKind::Float64 => Node::Literal(value.promoted()),
            (Some(node), Some(DataKind::Int64)) if kind == DataKind::Float64 => Node::Promote(Box::new(node)),
            (Some(node), Some(own)) => {
                debug_assert_eq!(own, kind);
                node
            }
        }
    }
}

fn compile(expr: &Expr, columns: &[(String, DataKind)], depth: usize) -> Result<Typed> {
    if depth > MAX_DEPTH {
        return Err(Error::user(format!("the expression is nested deeper than {MAX_DEPTH} calls")));
    }
    match expr {
        Expr::Column { name } => match columns.iter().position(|(column, _)| column == name) {
            Some(index) => Ok(Typed::new(Node::Column { index, kind: columns[index].1 }, columns[index].1)),
            None => {
                let known: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
                Err(Error::user(format!("no such column (got \"{name}\"; there are {})", known.join(", "))))
            }
        },
        Expr::Literal { value } => literal(value),
        Expr::Call { function, args } => {
            let args = args.iter().map(|arg| compile(arg, columns, depth + 1)).collect::<Result<Vec<Typed>>>()?;
            call(*function, args)
        }
    }
}

fn literal(json: &Json) -> Result<Typed> {
    let value = match json {
        Json::Null => return Ok(Typed { node: None, kind: None }),
        Json::Bool(value) => Value::constant_bool(*value),
        Json::String(text) => Value::constant_text(text),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Value::constant_int(value),
            (None, Some(value)) => Value::constant_float(value),
            (None, None) => return Err(Error::user(format!("not a number that can be computed with (got {number})"))),
        },
        Json::Array(_) | Json::Object(_) => {
            return Err(Error::user(format!("a literal must be a number, a string, a bool or null (got {json})")));
        }
    };
    let kind = value.kind();
    Ok(Typed::new(Node::Literal(value), kind))
}

/// Types of a call: what each argument is converted to, and what comes out.
struct Signature {
    args: Vec<DataKind>,
    result: DataKind,
}

fn call(function: Function, args: Vec<Typed>) -> Result<Typed> {
    let Some(signature) = signature(function, &args) else {
        let types: Vec<&str> = args.iter().map(Typed::type_name).collect();
        return Err(Error::user(format!("{}: cannot take ({})", function.name(), types.join(", "))));
    };
    let args: Vec<Node> = args.into_iter().zip(&signature.args).map(|(arg, kind)| arg.into_kind(*kind)).collect();
    let is_null = |node: &Node| matches!(node, Node::Literal(value) if value.is_null_constant());
    if is_strict(function) && args.iter().any(is_null) {
        return Ok(Typed::new(Node::Literal(Value::null(signature.result)), signature.result));
    }
    let constant = args.iter().all(|arg| matches!(arg, Node::Literal(_)));
    let node = Node::Call { function, args };
    let node = if constant { Node::Literal(Value::constant(evaluate(&node, &[], 1)?.into_array(1)?)) } else { node };
    Ok(Typed::new(node, signature.result))
}

/// Whether null in any argument makes the result null.
fn is_strict(function: Function) -> bool {
    use Function::*;
    !matches!(function, And | Or | IsNull | IsNotNull | Coalesce | Case | In | Greatest | Least)
}

/// `None` if the function does not take these arguments.
fn signature(function: Function, args: &[Typed]) -> Option<Signature> {
    use DataKind::{Bool, Float64, Int64, Utf8};
    use Function::*;
    let kinds: Vec<Option<DataKind>> = args.iter().map(|arg| arg.kind).collect();
    let all = |kind: DataKind, result: DataKind| Some(Signature { args: vec![kind; kinds.len()], result });
    let number = |kind: DataKind| kind.is_numeric().then_some(kind);
    match (function, kinds.as_slice()) {
        (Add | Sub | Mul | Mod, [_, _]) | (Neg | Abs | Sign | Floor | Ceil | Round, [_]) => {
            let kind = common(&kinds, Float64).and_then(number)?;
            all(kind, kind)
        }
        (Round, [_, _]) => {
            let kind = common(&kinds[..1], Float64).and_then(number)?;
            common(&kinds[1..], Int64).filter(|digits| *digits == Int64)?;
            Some(Signature { args: vec![kind, Int64], result: kind })
        }
        (Div | Power, [_, _]) | (Sqrt | Ln | Exp, [_]) => {
            common(&kinds, Float64).and_then(number)?;
            all(Float64, Float64)
        }
        (Eq | Ne | Lt | Le | Gt | Ge, [_, _]) | (In, [_, _, ..]) => all(common(&kinds, Bool)?, Bool),
        (And | Or, [_, _, ..]) | (Not, [_]) => common(&kinds, Bool).filter(|kind| *kind == Bool).and_then(|_| all(Bool, Bool)),
        (IsNull | IsNotNull, [_]) => all(common(&kinds, Bool)?, Bool),
        (Greatest | Least | Coalesce, [_, ..]) => common(&kinds, Bool).and_then(|kind| all(kind, kind)),
        (Case, [_, _, _, ..]) if kinds.len() % 2 == 1 => case_signature(&kinds),
        (Lower | Upper, [_]) => common(&kinds, Utf8).filter(|kind| *kind == Utf8).and_then(|_| all(Utf8, Utf8)),
        (Length, [_]) => common(&kinds, Utf8).filter(|kind| *kind == Utf8).and_then(|_| all(Utf8, Int64)),
        (CastFloat64, [_]) => all(common(&kinds, Float64)?, Float64),
        (CastInt64, [_]) => all(common(&kinds, Int64)?, Int64),
        _ => None,
    }
}

/// (condition, value, condition, value, …, else)
fn case_signature(kinds: &[Option<DataKind>]) -> Option<Signature> {
    let is_condition = |i: usize| i.is_multiple_of(2) && i + 1 < kinds.len();
    if (0..kinds.len()).any(|i| is_condition(i) && !matches!(kinds[i], None | Some(DataKind::Bool))) {
        return None;
    }
    let values: Vec<_> = (0..kinds.len()).filter(|i| !is_condition(*i)).map(|i| kinds[i]).collect();
    let result = common(&values, DataKind::Bool)?;
    let args = (0..kinds.len()).map(|i| if is_condition(i) { DataKind::Bool } else { result }).collect();
    Some(Signature { args, result })
}

/// The type that all can be converted to; `if_null` if all are bare nulls.
fn common(kinds: &[Option<DataKind>], if_null: DataKind) -> Option<DataKind> {
    let mut known = kinds.iter().flatten().copied();
    let Some(first) = known.next() else { return Some(if_null) };
    known.try_fold(first, |kind, other| match (kind, other) {
        _ if kind == other => Some(kind),
        _ if kind.is_numeric() && other.is_numeric() => Some(DataKind::Float64),
        _ => None,
    })
}

fn collect_columns(node: &Node, columns: &mut Vec<usize>) {
    match node {
        Node::Column { index, .. } => columns.push(*index),
        Node::Literal(_) => {}
        Node::Call { args, .. } => args.iter().for_each(|arg| collect_columns(arg, columns)),
        Node::Promote(arg) => collect_columns(arg, columns),
    }
}
