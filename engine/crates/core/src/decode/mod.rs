//! From what sources bring to Arrow columns, directed by the job's schema: one set of decoders for all of them.
//!
//! A source brings either a *body* (a request, a piece of a file), whose rows stand one after the other, or *messages*, each
//! of which is one row with a place of its own ([`Decoder::decode_messages`]). In all formats a row that cannot be read
//! becomes a reject and the rows beside it are kept.
//!
//! Of JSON two readers give the same rows: `template` (or `nested`) is fast and understands usual rows, `general` understands
//! all and decides what is rejected. A row is read by the second only where the first declines.

mod arrow;
mod avro;
mod blocks;
mod columns;
mod fast;
mod general;
mod layout;
mod messages;
mod nested;
mod number;
mod scalar;
mod template;
mod text;

#[cfg(test)]
mod tests;

use serde::de::IgnoredAny;

use crate::Result;
use crate::batch::RowBatch;
use crate::config::SchemaConfig;

use avro::Avro;
use columns::{Expected, Rows};
use fast::FastReader;
use layout::Layout;
use template::Context;
use text::Breaks;

pub use arrow::{MAX_ARROW_BATCHES, MAX_ARROW_MESSAGE_BYTES};
pub use avro::{
    AvroBodyError, MAX_BLOCK_BYTES, MAX_BLOCK_ROWS, MAX_BODY_SCHEMAS, MAX_HEADER_BYTES, MAX_KNOWN_SCHEMAS, MAX_MESSAGES,
    MAX_SCHEMA_BYTES, MAX_SCHEMA_TYPES, MAX_SYMBOL_BYTES, Wanted,
};
pub use blocks::{ARROW_HEAD_BYTES, AVRO_HEAD_BYTES, BlockFormat, MAX_UNPACKED_BYTES, SCAN_BYTES, Unit};
pub use columns::{BYTES_PER_REJECT, MIN_MAX_REJECTS};
pub use general::MAX_NESTING;
pub use layout::{MAX_FIELDS, MAX_PATH_MEMBERS};
pub use messages::{BASE64_MARK, MAX_MESSAGES_BYTES, Metadata, NO_VALUE, Payload};

/// Largest body that one call takes: text columns are addressed by `i32`.
pub const MAX_BODY_BYTES: usize = i32::MAX as usize;
/// Values (rows times fields) of a body in a binary format, whose rows may take next to no bytes.
pub const MAX_BODY_VALUES: usize = 1 << 26;
/// Bytes of text in one field of a body in a binary format, where few bytes may stand for a long text.
pub const MAX_BODY_TEXT_BYTES: usize = 1 << 30;
/// Bytes of a row before any was seen.
const FIRST_ROW_BYTES: usize = 64;

/// What a row's offset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Its number among the rows of the request, accepted and rejected; the span is their count.
    Ordinal,
    /// The byte at which its line starts, counted from the start of the body; the span is the body's length.
    Bytes,
}

/// A body that is not one JSON object or array; none of its rows count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {position}")]
pub struct BodyError {
    pub reason: String,
    /// Where in the body.
    pub position: usize,
    /// It can be read, and has more than is kept of one body: wrong rows, or values.
    pub too_many: bool,
}

impl BodyError {
    /// Why nothing of the body counts; `unreadable` says it where the body can't be read.
    pub fn explain(self, unreadable: impl FnOnce(&BodyError) -> String) -> String {
        match self.too_many {
            true => self.reason,
            false => unreadable(&self),
        }
    }
}

/// Decodes bodies of one job. Keeps what it learnt of their shape, so use one for each thread or connection.
#[derive(Debug)]
pub struct Decoder {
    layout: Layout,
    fast: FastReader,
    avro: Avro,
    max_ahead_us: i64,
    shape: Shape,
}

/// How large rows were, to make room for the next.
#[derive(Debug, Clone, Copy)]
struct Shape {
    row_bytes: usize,
    string_bytes_per_row: usize,
}

impl Decoder {
    /// A decoder of rows of `schema`. Times later than the clock plus `max_ahead_us` are rejected. `_shards` is part of the
    /// interface so that a decoder may also choose shards; rows carry their key's hash, from which anyone can.
    ///
    /// # Errors
    /// A user error for a schema that cannot be decoded: unknown or float key field, doubled names, wrong time format.
    pub fn new(schema: &SchemaConfig, _shards: u16, max_ahead_us: i64) -> Result<Decoder> {
        Ok(Decoder::of(Layout::new(schema, &[])?, max_ahead_us))
    }

    fn of(layout: Layout, max_ahead_us: i64) -> Decoder {
        let shape = Shape { row_bytes: FIRST_ROW_BYTES, string_bytes_per_row: 0 };
        Decoder { fast: FastReader::new(&layout), layout, avro: Avro::default(), max_ahead_us, shape }
    }

    /// From now on every row is read by the general parser: to compare it with the fast path.
    #[cfg(any(test, feature = "testing"))]
    pub fn use_general_parser_only(&mut self) {
        self.fast = FastReader::Off;
    }

    /// Decodes one JSON object a line; lines of whitespace are no rows. A line that is no valid row becomes a reject.
    ///
    /// `now_us`: the wall clock, microseconds. All lines are taken: for pieces of a file, which are short.
    ///
    /// # Panics
    /// If the body is larger than [`MAX_BODY_BYTES`].
    pub fn decode_ndjson(&mut self, body: &[u8], now_us: i64, positions: Positions) -> RowBatch {
        let mut rows = self.begin(body, Breaks::EndRow, positions == Positions::Bytes);
        // Unbounded, as it was made: there is nothing to find.
        let _ = self.read_lines(&mut rows, body, now_us, positions);
        let span = if positions == Positions::Bytes { body.len() } else { rows.seen() };
        self.end(rows, body.len(), span as u64)
    }

    /// As [`Decoder::decode_ndjson`] with [`Positions::Ordinal`], for bodies from anywhere.
    ///
    /// # Errors
    /// [`BodyError`] if too many of its rows are wrong, see [`MIN_MAX_REJECTS`], or it has more than [`MAX_BODY_VALUES`].
    ///
    /// # Panics
    /// If the body is larger than [`MAX_BODY_BYTES`].
    pub fn decode_lines(&mut self, body: &[u8], now_us: i64) -> Result<RowBatch, BodyError> {
        let mut rows = self.begin(body, Breaks::EndRow, false);
        rows.bound(body.len(), &self.layout);
        self.read_lines(&mut rows, body, now_us, Positions::Ordinal)?;
        let span = rows.seen() as u64;
        Ok(self.end(rows, body.len(), span))
    }

    fn read_lines(&mut self, rows: &mut Rows, body: &[u8], now_us: i64, positions: Positions) -> Result<(), BodyError> {
        let context = context(&self.layout, self.max_ahead_us, now_us, Breaks::EndRow);
        let (mut at, mut line_start) = (0, 0);
        while let Some(byte) = body.get(at) {
            if matches!(byte, b'\n' | b' ' | b'\t' | b'\r') {
                at += 1;
                line_start = if *byte == b'\n' { at } else { line_start };
                continue;
            }
            let offset = if positions == Positions::Bytes { line_start } else { rows.seen() };
            match self.fast.read_object(&context, rows, body, at).and_then(|end| end_of_line(body, end)) {
                Some(end) => {
                    rows.commit(context.layout, offset);
                    rows.check_values(at)?;
                    at = end;
                }
                None => {
                    let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |length| at + length);
                    read_generally(&context, rows, offset, &body[at..end]);
                    rows.check_values(at)?;
                    rows.check_rejects(at)?;
                    at = (end + 1).min(body.len());
                }
            }
            line_start = at;
        }
        Ok(())
    }

    /// Decodes an object or an array of objects; offsets are numbers of rows as with [`Positions::Ordinal`]. An element
    /// that is no valid row becomes a reject, also where it is no valid JSON, and so does a body that begins as an object.
    ///
    /// # Errors
    /// [`BodyError`] if the body as a whole is something else or an array of which the elements cannot be told, too many of
    /// its rows are wrong, or it has more than [`MAX_BODY_VALUES`].
    ///
    /// # Panics
    /// If the body is larger than [`MAX_BODY_BYTES`].
    pub fn decode_json(&mut self, body: &[u8], now_us: i64) -> Result<RowBatch, BodyError> {
        let mut rows = self.begin(body, Breaks::Whitespace, false);
        rows.bound(body.len(), &self.layout);
        let start = text::skip_whitespace(body, 0, Breaks::Whitespace);
        let end = match body.get(start) {
            None => return Err(body_error("the body is empty", start)),
            Some(b'{') => self.read_single(&mut rows, body, start, now_us)?,
            Some(b'[') => self.read_elements(&mut rows, body, start + 1, now_us)?,
            Some(_) => {
                end_of_value(body, start)?;
                return Err(body_error("expected an object or an array of objects", start));
            }
        };
        let rest = text::skip_whitespace(body, end, Breaks::Whitespace);
        if rest < body.len() {
            return Err(body_error("unexpected text after the JSON value", rest));
        }
        let span = rows.seen() as u64;
        Ok(self.end(rows, body.len(), span))
    }

    /// Reads a body that is one object, or should be, and gives its end.
    fn read_single(&mut self, rows: &mut Rows, body: &[u8], start: usize, now_us: i64) -> Result<usize, BodyError> {
        let context = context(&self.layout, self.max_ahead_us, now_us, Breaks::Whitespace);
        let is_whole = |end: usize| text::skip_whitespace(body, end, Breaks::Whitespace) == body.len();
        if self.fast.read_object(&context, rows, body, start).is_some_and(is_whole) {
            rows.commit(context.layout, 0);
            rows.check_values(start)?;
            return Ok(body.len());
        }
        match end_of_value(body, start) {
            Ok(end) if !is_whole(end) => {
                rows.roll_back();
                let reason = format!("unexpected text after the object at byte {end}; lines of JSON are application/x-ndjson");
                rows.reject(0, "", reason, general::rejected_text(&body[start..]));
            }
            _ => read_generally(&context, rows, 0, &body[start..]),
        }
        rows.check_values(start)?;
        Ok(body.len())
    }

    /// Reads the elements of an array and gives the position after it.
    fn read_elements(&mut self, rows: &mut Rows, body: &[u8], start: usize, now_us: i64) -> Result<usize, BodyError> {
        let mut at = text::skip_whitespace(body, start, Breaks::Whitespace);
        if body.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            at = text::skip_whitespace(body, at, Breaks::Whitespace);
            at = self.read_element(rows, body, at, now_us)?;
            at = text::skip_whitespace(body, at, Breaks::Whitespace);
            match body.get(at) {
                Some(b',') => at += 1,
                Some(b']') => return Ok(at + 1),
                _ => return Err(body_error("expected `,` or `]`", at)),
            }
        }
    }

    #[inline(always)]
    fn read_element(&mut self, rows: &mut Rows, body: &[u8], at: usize, now_us: i64) -> Result<usize, BodyError> {
        let context = context(&self.layout, self.max_ahead_us, now_us, Breaks::Whitespace);
        let offset = rows.seen();
        if let Some(end) = self.fast.read_object(&context, rows, body, at) {
            rows.commit(context.layout, offset);
            rows.check_values(at)?;
            return Ok(end);
        }
        let end = end_of_element(body, at)?;
        read_generally(&context, rows, offset, &body[at..end]);
        rows.check_values(at)?;
        rows.check_rejects(at)?;
        Ok(end)
    }

    fn begin(&mut self, body: &[u8], breaks: Breaks, explicit_offsets: bool) -> Rows {
        assert!(body.len() <= MAX_BODY_BYTES, "a body must be split before it is decoded");
        self.fast.begin(breaks);
        Rows::new(&self.layout, self.shape.expect(body.len()), explicit_offsets)
    }

    fn end(&mut self, rows: Rows, bytes: usize, span: u64) -> RowBatch {
        self.shape = Shape::of(&rows, bytes);
        rows.finish(&self.layout, span)
    }
}

impl Shape {
    fn of(rows: &Rows, bytes: usize) -> Shape {
        match rows.len() {
            0 => Shape { row_bytes: FIRST_ROW_BYTES, string_bytes_per_row: 0 },
            count => Shape { row_bytes: (bytes / count).max(1), string_bytes_per_row: rows.string_bytes().div_ceil(count) },
        }
    }

    /// A sixteenth more than the average suggests: growing a column copies it.
    fn expect(self, bytes: usize) -> Expected {
        let rows = bytes / self.row_bytes;
        let rows = rows + rows / 16 + 1;
        Expected { rows, string_bytes: rows * self.string_bytes_per_row }
    }
}

/// The position after the line break, if only whitespace is before it.
#[inline(always)]
fn end_of_line(body: &[u8], at: usize) -> Option<usize> {
    let end = text::skip_whitespace(body, at, Breaks::EndRow);
    match body.get(end) {
        Some(b'\n') => Some(end + 1),
        None => Some(end),
        Some(_) => None,
    }
}

/// Reads one row with the general parser and commits or rejects it.
fn read_generally(context: &Context, rows: &mut Rows, offset: usize, row: &[u8]) {
    rows.roll_back();
    match general::read_row(context, rows, row) {
        Ok(()) => rows.commit(context.layout, offset),
        Err(rejection) => rows.reject(offset, &rejection.field, rejection.reason, general::rejected_text(row)),
    }
}

/// What the rows of a body are read by. No method of the decoder: its reader is changed meanwhile.
#[inline(always)]
fn context(layout: &Layout, max_ahead_us: i64, now_us: i64, breaks: Breaks) -> Context<'_> {
    Context { layout, latest_us: now_us.saturating_add(max_ahead_us), breaks }
}

fn body_error(reason: impl Into<String>, position: usize) -> BodyError {
    BodyError { reason: reason.into(), position, too_many: false }
}

/// The position after the array's element at `at`, which need not be valid JSON: then it ends where brackets and quotes say,
/// so that its damage is no other element's.
///
/// # Errors
/// What is wrong, where they do not say it either.
#[cold]
fn end_of_element(body: &[u8], at: usize) -> Result<usize, BodyError> {
    end_of_value(body, at).or_else(|error| text::damaged_end(body, at).ok_or(error))
}

/// The position after the JSON value at `at`, whatever it is. Does not recurse, however deep it is nested.
fn end_of_value(body: &[u8], at: usize) -> Result<usize, BodyError> {
    let rest = &body[at..];
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(at + values.byte_offset()),
        Some(Err(error)) => {
            let line_start = match error.line() {
                0 | 1 => 0,
                line => memchr::memchr_iter(b'\n', rest).nth(line - 2).map_or(0, |newline| newline + 1),
            };
            let text = error.to_string();
            let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
            Err(body_error(format!("malformed JSON: {reason}"), at + line_start + error.column().saturating_sub(1)))
        }
        None => Err(body_error("malformed JSON: a value is missing", at)),
    }
}
