//! Expressions of `where:` and of aggregate arguments: the typed tree that the Python side makes from SQL.

use serde::{Deserialize, Serialize};

/// One node of an expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Expr {
    Column { name: String },
    Literal { value: serde_json::Value },
    Call { function: Function, args: Vec<Expr> },
}

/// Every function and operator that an expression can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
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
}
