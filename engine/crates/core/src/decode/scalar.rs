//! Single values of binary formats on their way into a column, by the rules and in the words of JSON's.

use std::fmt::Write;

use crate::config::FieldType;
use crate::event_time::{self, write_rfc3339};

use super::columns::{Column, Rows, Values};
use super::general::{quoted, too_far, type_name};
use super::layout::{Layout, Slot};
use super::number::Number;
use super::template::Context;

/// One value, whatever format it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond int64, as the nearest float.
    BigInt(f64),
    /// NaN and the infinities are null, as JSON has none of them.
    Float(f64),
    Text(&'a str),
    /// A moment, microseconds since the epoch; in an int64 column it is `raw`, the number as it came.
    Moment {
        us: i64,
        raw: i64,
    },
    /// Something that no column takes, as an article and a noun.
    Other(&'static str),
}

impl Scalar<'_> {
    fn number(self) -> Option<Number> {
        match self {
            Scalar::Int(value) => Some(Number::Int(value)),
            Scalar::BigInt(value) => Some(Number::BigInt(value)),
            Scalar::Float(value) => Some(Number::Float(value)),
            Scalar::Moment { raw, .. } => Some(Number::Int(raw)),
            _ => None,
        }
    }

    fn is_null(self) -> bool {
        matches!(self, Scalar::Null) || matches!(self, Scalar::Float(value) if !value.is_finite())
    }

    /// The value for a reason.
    pub fn described(self) -> String {
        match self {
            Scalar::Null => "null".to_string(),
            Scalar::Bool(value) => format!("bool {value}"),
            Scalar::Moment { us, .. } => format!("the time {}", rfc3339(us)),
            Scalar::Other(what) => what.to_string(),
            Scalar::Text(_) => format!("string {}", self.text()),
            _ => format!("number {}", self.text()),
        }
    }

    /// The value as JSON writes it, cut if it is long.
    fn text(self) -> String {
        match self {
            Scalar::Int(value) | Scalar::Moment { raw: value, .. } => value.to_string(),
            Scalar::BigInt(value) | Scalar::Float(value) if value.is_finite() => {
                zmij::Buffer::new().format_finite(value).to_owned()
            }
            Scalar::Text(text) => {
                let mut written = Vec::new();
                crate::json::write_string(&mut written, text.as_bytes());
                quoted(&String::from_utf8_lossy(&written)).into_owned()
            }
            other => other.described(),
        }
    }

    /// Appends the value to a JSON object, for a reject: what stands for the row.
    pub fn write_member(self, name: &str, out: &mut String) {
        out.push(if out.is_empty() { '{' } else { ',' });
        let mut written = Vec::new();
        crate::json::write_string(&mut written, name.as_bytes());
        written.push(b':');
        match self {
            Scalar::Bool(value) => written.extend_from_slice(value.to_string().as_bytes()),
            Scalar::Text(text) => crate::json::write_string(&mut written, text.as_bytes()),
            Scalar::Moment { us, .. } => crate::json::write_string(&mut written, rfc3339(us).as_bytes()),
            Scalar::Int(_) | Scalar::BigInt(_) | Scalar::Float(_) if !self.is_null() => {
                written.extend_from_slice(self.text().as_bytes());
            }
            _ => written.extend_from_slice(b"null"),
        }
        out.push_str(&String::from_utf8_lossy(&written));
    }
}

fn rfc3339(us: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(us, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends a value to the column of `slot`, or says why it can't be there.
#[inline]
pub(super) fn push(context: &Context, rows: &mut Rows, slot: Slot, value: Scalar) -> Result<(), String> {
    let layout = context.layout;
    if slot == layout.time_slot() {
        rows.time_us.push(time_us(layout, context.latest_us, value)?);
        return Ok(());
    }
    push_to(&mut rows.columns[slot], layout.key_slot() == Some(slot), value)
}

/// Appends a value to a column, or says why it can't be there.
#[inline]
pub(super) fn push_to(column: &mut Column, is_key: bool, value: Scalar) -> Result<(), String> {
    match (&mut column.values, value) {
        (Values::Float64(values), Scalar::Float(value)) if value.is_finite() => values.push(value),
        (Values::Int64(values), Scalar::Int(value)) => values.push(value),
        (Values::Bool(values), Scalar::Bool(value)) => values.push(value),
        (Values::Utf8(strings), Scalar::Text(text)) => strings.push(text.as_bytes()),
        (_, value) if value.is_null() => {
            if is_key {
                return Err("the key is null".to_string());
            }
            column.push_null();
        }
        (Values::Float64(values), value) => values.push(to_float(value)?),
        (Values::Int64(values), value) => values.push(to_integer(value)?),
        (Values::Utf8(strings), Scalar::Int(value)) if is_key => strings.push(itoa::Buffer::new().format(value).as_bytes()),
        (Values::Bool(_), value) => return Err(wrong(FieldType::Bool, value)),
        (Values::Utf8(_), value) => return Err(wrong(FieldType::String, value)),
    }
    Ok(())
}

fn wrong(data_type: FieldType, value: Scalar) -> String {
    format!("expected {}, got {}", type_name(data_type), value.described())
}

/// A value as float64.
pub(super) fn to_float(value: Scalar) -> Result<f64, String> {
    let number = value.number().ok_or_else(|| wrong(FieldType::Float64, value))?;
    number.to_f64().ok_or_else(|| format!("out of the range of float64: {}", value.text()))
}

/// A value as int64, which has no fraction.
pub(super) fn to_integer(value: Scalar) -> Result<i64, String> {
    let number = value.number().ok_or_else(|| wrong(FieldType::Int64, value))?;
    number.to_i64().ok_or_else(|| match number {
        Number::BigInt(_) => format!("out of the range of int64: {}", value.text()),
        _ => wrong(FieldType::Int64, value),
    })
}

/// A value as event time, not later than `latest_us`.
pub(super) fn time_us(layout: &Layout, latest_us: i64, value: Scalar) -> Result<i64, String> {
    let out_of_range = || format!("out of the range of event times: {}", value.text());
    let wrong = || format!("expected {}, got {}", layout.time.expected(), value.described());
    let time_us = match (layout.time.unit(), value) {
        (_, value) if value.is_null() => return Err("the event time is null".to_string()),
        (_, Scalar::Moment { us, .. }) => event_time::from_integer(us, crate::config::TimeUnit::Us).ok_or_else(out_of_range)?,
        (Some(unit), Scalar::Int(value)) => event_time::from_integer(value, unit).ok_or_else(out_of_range)?,
        (Some(unit), Scalar::Float(value) | Scalar::BigInt(value)) => {
            event_time::from_float(value, unit).ok_or_else(out_of_range)?
        }
        (None, Scalar::Text(text)) => layout.time.parse_text(text).map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    if time_us > latest_us {
        let got = match value {
            Scalar::Moment { us, .. } => rfc3339(us),
            value => value.text(),
        };
        return Err(too_far(latest_us, &got));
    }
    Ok(time_us)
}

/// Why a field that a row has not is an error, if it is one.
pub(super) fn missing(layout: &Layout, slot: Slot) -> Option<&'static str> {
    match slot {
        slot if slot == layout.time_slot() => Some("the event time is missing"),
        slot if layout.key_slot() == Some(slot) => Some("the key is missing"),
        _ => None,
    }
}

/// As much of the object that [`Scalar::write_member`] began as a reject keeps.
pub(super) fn end_members(mut text: String) -> String {
    if text.is_empty() {
        text.push('{');
    }
    let _ = text.write_char('}');
    super::general::rejected_text(text.as_bytes())
}
