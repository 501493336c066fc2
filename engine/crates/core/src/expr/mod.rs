//! Expressions of `where:` and of aggregate arguments: the typed tree that the Python side makes from SQL, compiled
//! against known columns and evaluated on whole batches.
//!
//! Semantics are SQL's, and no row ever fails: what has no value is null.
//! - Null in, null out, except for `and`, `or` (three-valued), `is_null`, `is_not_null`, `coalesce`, `case` and `in`;
//!   `greatest` and `least` ignore nulls as PostgreSQL's do.
//! - int64 with float64 becomes float64; `div` and `power` always give float64.
//! - A float result that is NaN or infinite is null: x / 0, sqrt(-1), ln(0), exp(1000). So is an int64 result that
//!   overflows, and x mod 0.
//! - `mod` has the sign of the dividend. `round` rounds halves away from zero, as does `cast_int64`; `round(x, n)` keeps n digits.
//! - -0.0 equals 0.0. Strings compare by their UTF-8 bytes; `length` counts characters.
//! - A cast of a text that is no number, or out of range, is null.

mod compile;
mod evaluate;
mod numeric;
mod value;

#[cfg(test)]
mod tests;

use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use crate::config::FieldType;

pub use compile::{CompiledExpr, MAX_DEPTH};

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

impl Function {
    /// The name as in the normalised job.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => format!("{self:?}"),
        }
    }
}

/// Type of an expression's value. Every type has null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataKind {
    Float64,
    Int64,
    Bool,
    Utf8,
}

impl DataKind {
    /// The name that a job uses.
    pub fn name(self) -> &'static str {
        match self {
            DataKind::Float64 => "float64",
            DataKind::Int64 => "int64",
            DataKind::Bool => "bool",
            DataKind::Utf8 => "string",
        }
    }

    /// The Arrow type of a column of this kind.
    pub fn arrow_type(self) -> DataType {
        match self {
            DataKind::Float64 => DataType::Float64,
            DataKind::Int64 => DataType::Int64,
            DataKind::Bool => DataType::Boolean,
            DataKind::Utf8 => DataType::Utf8,
        }
    }

    fn is_numeric(self) -> bool {
        matches!(self, DataKind::Float64 | DataKind::Int64)
    }
}

impl From<FieldType> for DataKind {
    fn from(field: FieldType) -> DataKind {
        match field {
            FieldType::String => DataKind::Utf8,
            FieldType::Float64 => DataKind::Float64,
            FieldType::Int64 => DataKind::Int64,
            FieldType::Bool => DataKind::Bool,
        }
    }
}
