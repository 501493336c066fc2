//! The general parser: takes any row that JSON allows, decides what is rejected and says why.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::batch::MAX_REJECTED_TEXT_BYTES;
use crate::config::FieldType;
use crate::event_time::write_rfc3339;

use super::columns::{Column, Rows, Values};
use super::layout::{Layout, Node, ROOT, Slot, Target, UNKNOWN};
use super::number::{self, Number};
use super::template::Context;

/// Deepest nesting of a row's objects and arrays, the row itself counted.
pub const MAX_NESTING: usize = 64;
/// A longer value is cut in a reason.
const MAX_QUOTED_BYTES: usize = 64;

/// Why a row is rejected.
#[derive(Debug)]
pub(super) struct Rejection {
    /// Empty where the whole row is wrong.
    pub field: String,
    pub reason: String,
}

impl Rejection {
    fn row(reason: impl Into<String>) -> Rejection {
        Rejection { field: String::new(), reason: reason.into() }
    }
}

/// Reads the row into uncommitted values of `rows`. After an error some of them may be written.
#[cold]
#[inline(never)]
pub(super) fn read_row(context: &Context, rows: &mut Rows, row: &[u8]) -> Result<(), Rejection> {
    let row = std::str::from_utf8(row)
        .map_err(|error| Rejection::row(format!("not valid UTF-8 at byte {} of the row", error.valid_up_to())))?;
    let malformed = |error: serde_json::Error| Rejection::row(format!("malformed JSON: {error}"));
    if !row.trim_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(row).map_err(malformed)?;
        return Err(Rejection::row(format!("expected an object, got {}", described(row.trim()))));
    }
    let layout = context.layout;
    let mut found = Found { values: vec![None; layout.slots()], objects: vec![None; layout.nodes()] };
    read_members(layout, ROOT, row, &mut found).map_err(malformed)?;
    if nesting(row) > MAX_NESTING {
        return Err(Rejection::row(format!("nested deeper than {MAX_NESTING} levels")));
    }
    // an object comes before those inside of it
    for node in ROOT + 1..layout.nodes() {
        match found.objects[node].map(RawValue::get) {
            None | Some("null") => {}
            Some(object) if object.starts_with('{') => read_members(layout, node, object, &mut found).map_err(malformed)?,
            Some(other) => {
                let reason = format!("expected an object, got {}", described(other));
                return Err(Rejection { field: layout.text(node).to_string(), reason });
            }
        }
    }
    for (slot, value) in found.values.iter().enumerate().filter(|(slot, _)| !layout.is_metadata(*slot)) {
        let value = value.map(RawValue::get);
        push_value(context, rows, slot, value)
            .map_err(|reason| Rejection { field: context.layout.names[slot].clone(), reason })?;
    }
    Ok(())
}

/// The text of a rejected row, at most [`MAX_REJECTED_TEXT_BYTES`] long.
pub(super) fn rejected_text(row: &[u8]) -> String {
    // bytes that are no UTF-8 become longer, so that the text is cut once more
    let head = &row[..row.len().min(MAX_REJECTED_TEXT_BYTES + 4)];
    let text = String::from_utf8_lossy(head);
    cut(text.trim_ascii(), MAX_REJECTED_TEXT_BYTES).to_string()
}

fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Raw values of the members that the schema names; of duplicates the last.
struct Found<'de> {
    /// By slot.
    values: Vec<Option<&'de RawValue>>,
    /// By object of which members are read.
    objects: Vec<Option<&'de RawValue>>,
}

/// Collects the members of one object.
fn read_members<'de>(layout: &Layout, node: Node, json: &'de str, found: &mut Found<'de>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Members { layout, node, found }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct Members<'a, 'de> {
    layout: &'a Layout,
    node: Node,
    found: &'a mut Found<'de>,
}

impl<'de> DeserializeSeed<'de> for Members<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(target) = map.next_key_seed(Name(self.layout, self.node))? {
            match target {
                Target::Value(UNKNOWN) => drop(map.next_value::<IgnoredAny>()?),
                Target::Value(slot) => self.found.values[slot] = Some(map.next_value()?),
                Target::Object(node) => self.found.objects[node] = Some(map.next_value()?),
            }
        }
        Ok(())
    }
}

/// Reads a member's name as what it is to the schema.
struct Name<'a>(&'a Layout, Node);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Target;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Target, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Target;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Target, E> {
        Ok(self.0.target(self.1, name.as_bytes()))
    }
}

/// Levels of nesting of valid JSON.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn push_value(context: &Context, rows: &mut Rows, slot: Slot, value: Option<&str>) -> Result<(), String> {
    let layout = context.layout;
    if slot == layout.time_slot() {
        rows.time_us.push(time_us(context, value)?);
        return Ok(());
    }
    let is_key = layout.key_slot() == Some(slot);
    let column = &mut rows.columns[slot];
    match value {
        None if is_key => Err("the key is missing".to_string()),
        Some("null") if is_key => Err("the key is null".to_string()),
        None | Some("null") => {
            column.push_null();
            Ok(())
        }
        Some(value) => push_to_column(column, layout.types[slot], is_key, value),
    }
}

fn push_to_column(column: &mut Column, data_type: FieldType, is_key: bool, value: &str) -> Result<(), String> {
    let wrong = || Err(format!("expected {}, got {}", type_name(data_type), described(value)));
    match (&mut column.values, scalar(value)) {
        (Values::Float64(values), Scalar::Number(number)) => match number.to_f64() {
            Some(value) => values.push(value),
            None => return Err(format!("out of the range of float64: {}", quoted(value))),
        },
        (Values::Int64(values), Scalar::Number(number)) => match number.to_i64() {
            Some(value) => values.push(value),
            None if matches!(number, Number::BigInt(_)) => return Err(format!("out of the range of int64: {}", quoted(value))),
            None => return wrong(),
        },
        (Values::Bool(values), Scalar::Bool(value)) => values.push(value),
        (Values::Utf8(strings), Scalar::Text(text)) => match text {
            Ok(text) => strings.push(text.as_bytes()),
            Err(reason) => return Err(reason),
        },
        (Values::Utf8(strings), Scalar::Number(number)) if is_key => match number::key_text(number, value.as_bytes()) {
            Some(text) => strings.push(text),
            None => return wrong(),
        },
        _ => return wrong(),
    }
    Ok(())
}

fn time_us(context: &Context, value: Option<&str>) -> Result<i64, String> {
    let parser = &context.layout.time;
    let value = match value {
        None => return Err("the event time is missing".to_string()),
        Some("null") => return Err("the event time is null".to_string()),
        Some(value) => value,
    };
    let wrong = || format!("expected {}, got {}", parser.expected(), described(value));
    let time_us = match (parser.unit(), scalar(value)) {
        (Some(unit), Scalar::Number(number)) => {
            number.to_time_us(unit).ok_or_else(|| format!("out of the range of event times: {}", quoted(value)))?
        }
        (None, Scalar::Text(text)) => parser.parse_text(&text?).map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    if time_us > context.latest_us {
        return Err(too_far(context.latest_us, &quoted(value)));
    }
    Ok(time_us)
}

/// Why an event time is refused that is later than allowed.
pub(super) fn too_far(latest_us: i64, got: &str) -> String {
    let mut bound = Vec::new();
    write_rfc3339(latest_us, &mut bound);
    format!("too far in the future: {got}, later than {}", String::from_utf8_lossy(&bound))
}

/// A value by its JSON type.
enum Scalar<'a> {
    /// Or why it is no text (half of a surrogate pair).
    Text(Result<Cow<'a, str>, String>),
    Number(Number),
    Bool(bool),
    Other,
}

/// Reads one valid JSON value.
fn scalar(value: &str) -> Scalar<'_> {
    match value.as_bytes() {
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        [b'"', content @ .., b'"'] if !content.contains(&b'\\') => Scalar::Text(Ok(Cow::Borrowed(&value[1..value.len() - 1]))),
        [b'"', ..] => {
            let text = String::deserialize(&mut serde_json::Deserializer::from_str(value));
            Scalar::Text(text.map(Cow::Owned).map_err(|error| format!("malformed string: {error}")))
        }
        [b'-' | b'0'..=b'9', ..] => match number::scan(value.as_bytes(), 0) {
            Some((number, end)) if end == value.len() => Scalar::Number(number),
            _ => Scalar::Other,
        },
        _ => Scalar::Other,
    }
}

pub(super) fn type_name(data_type: FieldType) -> &'static str {
    match data_type {
        FieldType::String => "string",
        FieldType::Float64 => "float64",
        FieldType::Int64 => "int64",
        FieldType::Bool => "bool",
    }
}

/// A value for a reason: its JSON type and, of a scalar, its text.
fn described(value: &str) -> String {
    match value.as_bytes().first() {
        Some(b'{') => "an object".to_string(),
        Some(b'[') => "an array".to_string(),
        Some(b'"') => format!("string {}", quoted(value)),
        Some(b't' | b'f') => format!("bool {value}"),
        Some(b'n') => "null".to_string(),
        _ => format!("number {}", quoted(value)),
    }
}

pub(super) fn quoted(value: &str) -> Cow<'_, str> {
    if value.len() <= MAX_QUOTED_BYTES {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("{}…", cut(value, MAX_QUOTED_BYTES)))
    }
}
