//! Arrow IPC, as a stream or as a file.
//!
//! The layout of messages is arrow-ipc's; what they hold is read here. Only the columns that the job reads are unpacked, and
//! every length is looked at first: arrow-ipc's own reader takes the sender's word for them and panics or allocates.

mod batch;
mod convert;
mod message;

use std::collections::HashMap;

use arrow_array::ArrayRef;
use arrow_ipc::MessageHeader;

use crate::batch::RowBatch;

use self::batch::{Batch, Dictionaries};
use self::convert::Chunk;
use super::columns::{max_rejects, too_many_rejects};
use super::{BodyError, Decoder, MAX_BODY_VALUES, body_error};

pub(super) use message::{Frame, Length, MAX_START, read_frame, stream_start};

/// Record batches of one body.
pub const MAX_ARROW_BATCHES: usize = 1 << 14;
/// The longest message of a stream, its columns included.
pub const MAX_ARROW_MESSAGE_BYTES: usize = 256 << 20;

impl Decoder {
    /// Decodes a body of Arrow IPC, stream or file. Offsets are numbers of rows, accepted and rejected, as with
    /// [`Positions::Ordinal`](super::Positions::Ordinal). A row whose values are wrong becomes a reject.
    ///
    /// `max_bytes`: what compressed buffers may unpack to together.
    ///
    /// # Errors
    /// [`BodyError`] where the body is no Arrow IPC, ends early or breaks a bound.
    pub fn decode_arrow(&mut self, body: &[u8], max_bytes: usize, now_us: i64) -> Result<RowBatch, BodyError> {
        self.decode_arrow_rows(body, 0, max_bytes, max_rejects(body.len()), now_us)
    }

    /// Decodes all rows but the first `skip`.
    pub(super) fn decode_arrow_rows(
        &mut self,
        body: &[u8],
        skip: u64,
        max_bytes: usize,
        max_rejects: usize,
        now_us: i64,
    ) -> Result<RowBatch, BodyError> {
        let mut at = stream_start(body);
        let mut stream = Stream { schema: None, dictionaries: HashMap::new(), left: max_bytes };
        let latest_us = now_us.saturating_add(self.max_ahead_us);
        let mut chunks: Vec<Chunk> = Vec::new();
        let (mut values, mut skip, mut rejects_left) = (0usize, skip, max_rejects);
        while let Some(frame) = read_frame(body, at).map_err(|reason| body_error(reason, at))? {
            let wrong = |reason: String| body_error(reason, at);
            if let Some(batch) = stream.read(&frame, &self.layout).map_err(wrong)? {
                values = values.saturating_add(batch.rows.saturating_mul(self.layout.slots()));
                if values > MAX_BODY_VALUES || chunks.len() >= MAX_ARROW_BATCHES {
                    let reason = format!("more than {MAX_BODY_VALUES} values or {MAX_ARROW_BATCHES} batches; send them in parts");
                    return Err(wrong(reason));
                }
                let skipped = skip.min(batch.rows as u64);
                skip -= skipped;
                let chunk = Chunk::convert(&self.layout, latest_us, batch, skipped as usize, rejects_left);
                let left = rejects_left.checked_sub(chunk.wrong_rows());
                chunks.push(chunk);
                let Some(left) = left else {
                    let first = convert::rejects(&self.layout, &chunks).next().expect("bounded bodies skip no row");
                    return Err(too_many_rejects(max_rejects, &first, at));
                };
                rejects_left = left;
            }
            at = frame.end;
        }
        if stream.schema.is_none() {
            return Err(body_error("no Arrow IPC stream: it has no schema", 0));
        }
        convert::join(&self.layout, chunks).map_err(|reason| body_error(reason, 0))
    }
}

/// What the messages so far have said.
struct Stream<'a> {
    schema: Option<arrow_ipc::Schema<'a>>,
    dictionaries: Dictionaries,
    /// Bytes that may still be unpacked.
    left: usize,
}

impl<'a> Stream<'a> {
    /// Takes one message. A record batch gives its columns, by slot.
    fn read(&mut self, frame: &Frame<'a>, layout: &super::layout::Layout) -> Result<Option<Batch>, String> {
        let message = frame.message;
        match message.header_type() {
            MessageHeader::Schema => {
                let schema = message.header_as_schema().ok_or("a schema is missing in its message")?;
                if self.schema.replace(schema).is_some() {
                    return Err("a second schema".to_string());
                }
                batch::check_schema(&schema)?;
                Ok(None)
            }
            MessageHeader::DictionaryBatch => {
                let (schema, header) = (self.schema()?, message.header_as_dictionary_batch());
                let header = header.ok_or("a dictionary is missing in its message")?;
                batch::read_dictionary(&schema, &header, frame, layout, &mut self.dictionaries, &mut self.left)?;
                Ok(None)
            }
            MessageHeader::RecordBatch => {
                let (schema, header) = (self.schema()?, message.header_as_record_batch());
                let header = header.ok_or("a batch is missing in its message")?;
                batch::read_batch(&schema, &header, frame, layout, &self.dictionaries, &mut self.left).map(Some)
            }
            MessageHeader::NONE => Ok(None),
            other => Err(format!("a message of the type {other:?}, which is not read")),
        }
    }

    fn schema(&self) -> Result<arrow_ipc::Schema<'a>, String> {
        self.schema.ok_or_else(|| "a batch comes before the schema".to_string())
    }
}

/// Columns by slot; `None` where the schema has no such member.
type Columns = Vec<Option<ArrayRef>>;
