//! Messages: one row each, with a place of its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Result;
use crate::batch::{MAX_REJECTED_TEXT_BYTES, RowBatch};
use crate::config::{MessageFormat, SchemaConfig};

use super::columns::{Expected, Rows};
use super::general::{self, Rejection, rejected_text};
use super::layout::Layout;
use super::scalar::{self, Scalar};
use super::template::Context;
use super::text::{self, Breaks};
use super::{Decoder, MAX_BODY_BYTES, MAX_MESSAGES, Wanted};

/// What the text of a rejected row begins with where the row is no text.
pub const BASE64_MARK: &str = "base64:";

/// The most bytes of a rejected row that are kept where it is no text: a multiple of 3, so that the cut is a whole text.
const MAX_REJECTED_BYTES: usize = (MAX_REJECTED_TEXT_BYTES - BASE64_MARK.len()) / 4 * 3;

const MICROS_PER_MILLI: i64 = 1000;

/// One message of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Its place behind the batch's first offset. Those of a batch ascend; there may be holes between them.
    pub relative_offset: u32,
    /// Its value; `None` for a message without one.
    pub bytes: Option<&'a [u8]>,
    /// The clock for "too far ahead", microseconds: when the message was written, where that is known, since a row's fate must
    /// not depend on when it is read.
    pub clock_us: i64,
}

/// What a source knows of a message beside its value, on its way into a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata<'a> {
    /// The message does not have it.
    Absent,
    /// UTF-8, or the message is rejected.
    Text(&'a [u8]),
    Integer(i64),
    /// Microseconds since the epoch; in an int64 column milliseconds.
    Time(i64),
}

/// Why a message without a value is rejected.
pub const NO_VALUE: &str = "the message has no value (a tombstone)";

/// The most bytes of messages that are decoded in one step: text columns are addressed by `i32`, and values may be longer than
/// the bytes that stand for them.
pub const MAX_MESSAGES_BYTES: usize = MAX_BODY_BYTES / 2;

impl Decoder {
    /// A decoder of messages of one source. `metadata`: the fields that are filled from what is known of a message beside its
    /// value; a member of such a name is ignored.
    ///
    /// # Errors
    /// As [`Decoder::new`] and [`Decoder::with_avro`]; a user error for a name that is no field.
    pub fn for_messages(schema: &SchemaConfig, metadata: &[&str], max_ahead_us: i64, format: &MessageFormat) -> Result<Decoder> {
        let decoder = Decoder::of(Layout::new(schema, metadata)?, max_ahead_us);
        match format {
            MessageFormat::Json => Ok(decoder),
            MessageFormat::Avro(avro) => decoder.with_avro(avro),
        }
    }

    /// Decodes messages, one row each: the seam for all sources that have messages. One that cannot be read becomes a reject
    /// at its place, and the others are kept.
    ///
    /// `payloads`: at most [`MAX_MESSAGES`](super::MAX_MESSAGES) of [`MAX_MESSAGES_BYTES`] together, with ascending places below
    /// `span`. `metadata`: what the decoder was told to expect of each message, one message after the other. `span`: how far the
    /// batch reaches, holes at its end included.
    ///
    /// # Errors
    /// [`Wanted`] where messages name schemas of a registry that are not known yet: nothing is decoded then.
    ///
    /// # Panics
    /// If there are too many messages, or too long ones, or metadata that does not match them.
    pub fn decode_messages(&mut self, payloads: &[Payload], metadata: &[Metadata], span: u64) -> Result<RowBatch, Wanted> {
        let bytes: usize = payloads.iter().filter_map(|payload| payload.bytes).map(<[u8]>::len).sum();
        let fits = payloads.len() <= MAX_MESSAGES && bytes <= MAX_MESSAGES_BYTES;
        assert!(fits, "messages must be split before they are decoded");
        assert_eq!(metadata.len(), payloads.len() * self.layout.metadata.len(), "each message has all metadata");
        debug_assert!(payloads.is_sorted_by(|a, b| a.relative_offset < b.relative_offset));
        debug_assert!(payloads.last().is_none_or(|last| u64::from(last.relative_offset) < span));
        match self.avro.framing() {
            Some(framing) => self.decode_avro_messages(framing, payloads, metadata, span),
            None => Ok(self.decode_json_messages(payloads, metadata, span)),
        }
    }

    /// Decodes JSON messages, one object each, of which none, one or many may be wrong: each of these becomes a reject.
    fn decode_json_messages(&mut self, payloads: &[Payload], metadata: &[Metadata], span: u64) -> RowBatch {
        self.fast.begin(Breaks::Whitespace);
        let mut rows = self.begin_messages(payloads);
        let mut metadata = PerMessage::new(metadata, self.layout.metadata.len());
        for Payload { bytes, relative_offset, clock_us } in payloads {
            let (offset, metadata) = (*relative_offset as usize, metadata.next());
            let Some(bytes) = bytes else {
                rows.reject(offset, "", NO_VALUE.to_string(), String::new());
                continue;
            };
            let latest_us = clock_us.saturating_add(self.max_ahead_us);
            let context = Context { layout: &self.layout, latest_us, breaks: Breaks::Whitespace };
            let start = text::skip_whitespace(bytes, 0, Breaks::Whitespace);
            let end = self.fast.read_object(&context, &mut rows, bytes, start);
            let whole = end.is_some_and(|end| text::skip_whitespace(bytes, end, Breaks::Whitespace) == bytes.len());
            if start == bytes.len() {
                reject_message(&mut rows, offset, "", "the message is empty".to_string(), bytes);
                continue;
            }
            let read = if whole { Ok(()) } else { read_message(&context, &mut rows, bytes) };
            match read.and_then(|()| push_metadata(&context, &mut rows, metadata)) {
                Ok(()) => rows.commit(context.layout, offset),
                Err(rejection) => reject_message(&mut rows, offset, &rejection.field, rejection.reason, bytes),
            }
        }
        self.end_messages(rows, payloads, span)
    }

    /// Room for the rows of a batch of messages.
    pub(super) fn begin_messages(&self, payloads: &[Payload]) -> Rows {
        let expected = Expected { rows: payloads.len(), string_bytes: payloads.len() * self.shape.string_bytes_per_row };
        let are_dense = payloads.iter().enumerate().all(|(row, payload)| payload.relative_offset as usize == row);
        Rows::new(&self.layout, expected, !are_dense)
    }

    pub(super) fn end_messages(&mut self, rows: Rows, payloads: &[Payload], span: u64) -> RowBatch {
        let bytes = payloads.iter().filter_map(|payload| payload.bytes).map(<[u8]>::len).sum();
        self.end(rows, bytes, span)
    }
}

/// Metadata of one message after the other.
pub(super) struct PerMessage<'m> {
    rest: &'m [Metadata<'m>],
    each: usize,
}

impl<'m> PerMessage<'m> {
    pub fn new(metadata: &'m [Metadata<'m>], each: usize) -> PerMessage<'m> {
        PerMessage { rest: metadata, each }
    }

    /// What the next message has; there must be one.
    #[inline]
    pub fn next(&mut self) -> &'m [Metadata<'m>] {
        let (next, rest) = self.rest.split_at(self.each);
        self.rest = rest;
        next
    }
}

/// Reads one JSON message with the general parser, after what was read of it is forgotten.
fn read_message(context: &Context, rows: &mut Rows, message: &[u8]) -> Result<(), Rejection> {
    rows.roll_back();
    general::read_row(context, rows, message)
}

/// Completes the row that was read last with what is known of its message beside the value.
#[inline]
pub(super) fn push_metadata(context: &Context, rows: &mut Rows, metadata: &[Metadata]) -> Result<(), Rejection> {
    let layout = context.layout;
    for (slot, value) in std::iter::zip(&layout.metadata, metadata) {
        let rejection = |reason: String| Rejection { field: layout.names[*slot].clone(), reason };
        let value = match value {
            Metadata::Absent => match scalar::missing(layout, *slot) {
                Some(reason) => return Err(rejection(reason.to_string())),
                None => Scalar::Null,
            },
            Metadata::Text(text) => {
                let text = std::str::from_utf8(text);
                Scalar::Text(text.map_err(|error| rejection(format!("not valid UTF-8 at byte {}", error.valid_up_to())))?)
            }
            Metadata::Integer(value) => Scalar::Int(*value),
            Metadata::Time(us) => Scalar::Moment { us: *us, raw: us.div_euclid(MICROS_PER_MILLI) },
        };
        scalar::push(context, rows, *slot, value).map_err(rejection)?;
    }
    Ok(())
}

/// Notes a message as rejected.
pub(super) fn reject_message(rows: &mut Rows, offset: usize, field: &str, reason: String, message: &[u8]) {
    rows.reject(offset, field, reason, text_or_base64(message));
}

/// A rejected row that may be a text, as far as it is kept.
pub(super) fn text_or_base64(row: &[u8]) -> String {
    match std::str::from_utf8(row) {
        Ok(_) => rejected_text(row),
        Err(_) => as_base64(row),
    }
}

/// A rejected row that is no text, as far as it is kept: [`BASE64_MARK`] and base64.
pub(super) fn as_base64(row: &[u8]) -> String {
    let mut text = BASE64_MARK.to_string();
    STANDARD.encode_string(&row[..row.len().min(MAX_REJECTED_BYTES)], &mut text);
    text
}
