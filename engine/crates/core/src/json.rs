//! Writes JSON into byte buffers: the one place that knows how a value looks in an output row.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_schema::DataType;

/// A string with its quotes.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// The inside of a string.
pub fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let needs_escape = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let mut rest = text;
    while let Some(at) = rest.iter().position(needs_escape) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The inside of a string: the text itself where nothing in it needs an escape, else made in `scratch`.
#[inline]
pub fn escaped<'a>(text: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if is_plain(text) {
        return text;
    }
    scratch.clear();
    write_escaped(scratch, text);
    scratch
}

/// Whether no byte needs an escape, eight bytes at a time.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES * 0x80;
    // A byte's high bit is set where the byte is zero; borrows reach only bytes above one that is.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let special = |word: u64| {
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        (control | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')))) & HIGHS
    };
    let (words, rest) = text.as_chunks::<8>();
    words.iter().all(|word| special(u64::from_le_bytes(*word)) == 0)
        && rest.iter().all(|byte| *byte >= 0x20 && *byte != b'"' && *byte != b'\\')
}

/// A float in its shortest exact form; NaN and infinities as null.
#[inline]
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

#[inline]
pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A column with its type known, so that no row asks for it again.
#[derive(Debug, Clone, Copy)]
pub enum ColumnWriter<'a> {
    Float64(&'a Float64Array),
    Int64(&'a Int64Array),
    Bool(&'a BooleanArray),
    String(&'a StringArray),
    /// Not one of the engine's four types: all nulls.
    Null,
}

impl<'a> ColumnWriter<'a> {
    pub fn new(array: &'a ArrayRef) -> ColumnWriter<'a> {
        match array.data_type() {
            DataType::Float64 => ColumnWriter::Float64(array.as_primitive::<Float64Type>()),
            DataType::Int64 => ColumnWriter::Int64(array.as_primitive::<Int64Type>()),
            DataType::Boolean => ColumnWriter::Bool(array.as_boolean()),
            DataType::Utf8 => ColumnWriter::String(array.as_string::<i32>()),
            _ => ColumnWriter::Null,
        }
    }

    /// The value of one row.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, row: usize) {
        match self {
            ColumnWriter::Float64(array) if array.is_valid(row) => write_f64(out, array.value(row)),
            ColumnWriter::Int64(array) if array.is_valid(row) => write_i64(out, array.value(row)),
            ColumnWriter::Bool(array) if array.is_valid(row) => {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
            }
            ColumnWriter::String(array) if array.is_valid(row) => write_string(out, array.value(row).as_bytes()),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

/// `"name":` with what stands before it in an object: `{` for the first member, `,` for others.
pub fn member(name: &str, first: bool) -> Vec<u8> {
    let mut out = vec![if first { b'{' } else { b',' }];
    write_string(&mut out, name.as_bytes());
    out.push(b':');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_string_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("valid JSON"), text);
        }

        #[test]
        fn escaped_is_what_is_written(text in "[a-z\"\\\\\\x00-\\x30\u{80}-\u{2fff}]{0,40}") {
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            write_escaped(&mut out, text.as_bytes());
            prop_assert_eq!(escaped(text.as_bytes(), &mut scratch), &out[..]);
        }

        #[test]
        fn any_float_is_valid_json(bits in any::<u64>()) {
            let mut out = Vec::new();
            write_f64(&mut out, f64::from_bits(bits));
            let value: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
            let float = f64::from_bits(bits);
            prop_assert_eq!(value.as_f64().map(f64::to_bits), float.is_finite().then_some(bits));
        }
    }
}
