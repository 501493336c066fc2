//! The journal: an append-only, checksummed log of decoded rows, written before a push source acknowledges.
//!
//! Everything here is pure: files are behind [`LogStorage`], so that the same code runs on a real disk, in the simulation
//! and under a fuzzer.
//!
//! - One request is one record, whole or absent (I10): [`RecordEncoder`] makes a checksummed frame of compressed columns.
//! - [`Journal`] writes frames to preallocated segments and knows what is durable (I4); [`JournalReader`] reads records
//!   back, also while others are written.
//! - [`recover`] cuts the torn tail that a crash leaves, and refuses to cut what had been acknowledged.
//!
//! Each start of a process opens a new incarnation; older ones are only read, until all they hold is committed.

mod columns;
mod decode;
mod encode;
mod frame;
mod index;
mod reader;
mod recovery;
mod segment;
mod space;
mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::RowBatch;

pub use decode::{decode_payload, decode_record};
pub use encode::{EncodedRecord, RecordEncoder, encode_record};
pub use frame::{FRAME_HEADER_BYTES, MAX_PAYLOAD_BYTES, seal_frame};
pub use reader::JournalReader;
pub use recovery::{RecoveredLog, recover};
pub use space::Full;
pub use storage::{Incarnation, LogEntry, LogName, LogStorage};
pub use writer::{Journal, JournalOptions};

/// Size of a segment, in bytes, where the options name no other.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;

/// A body shorter than this, in bytes, is written as it is: the compressor would cost more than it saves.
pub const COMPRESS_FROM_BYTES: usize = 1024;

/// A record's columns, decompressed, are at most this many bytes.
pub const MAX_BODY_BYTES: usize = 512 << 20;

/// A record has at most this many rows.
pub const MAX_RECORD_ROWS: usize = 1 << 24;

/// A record has at most this many columns.
pub const MAX_RECORD_COLUMNS: usize = 4096;

/// A request's answer lists at most this many errors.
pub const MAX_REQUEST_ERRORS: usize = 100;

/// The id of the split that a push source's journal is: another one at each start, so that no offset is used twice (I4).
pub fn split_id(source: &str, incarnation: Incarnation) -> String {
    if crate::guards::off(crate::guards::Guard::Incarnation) {
        return format!("{source}@journal");
    }
    format!("{source}@{incarnation}")
}

/// The position of a push source, as JSON text, is at most this many bytes.
pub const MAX_POSITION_BYTES: usize = 64 << 10;

/// One request as the journal keeps it.
#[derive(Debug, Clone)]
pub struct JournalRecord {
    /// Offset of the record's first row; it covers `batch.span` offsets from here.
    pub first_offset: u64,
    pub batch: Arc<RowBatch>,
    /// Present where the client named its request, so that a repeat gets the same answer.
    pub request: Option<RequestRecord>,
    /// Present where a source inside of the process brought the rows.
    pub origin: Option<Origin>,
}

/// Who brought the rows of a record, and where it is to go on after them. In the record itself: a position is as durable as the
/// rows that it stands behind, and never more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source's name.
    pub source: String,
    /// JSON text of at most [`MAX_POSITION_BYTES`]; none where the source cannot replay.
    pub position: Option<String>,
}

impl JournalRecord {
    /// The offset after the record.
    pub fn end_offset(&self) -> u64 {
        self.first_offset + self.batch.span
    }
}

/// What must be known of a named request to answer a repeat of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The client's `Idempotency-Key`.
    pub id: String,
    /// `xxh3_64` of the body as it came: the same id with another body is refused.
    pub body_hash: u64,
    /// When it came, microseconds since the epoch.
    pub received_us: i64,
    pub accepted: u32,
    pub rejected: u32,
    /// At most [`MAX_REQUEST_ERRORS`].
    pub errors: Vec<RequestError>,
}

/// One line of a request's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestError {
    /// The row's number in the request, from 0.
    pub row: u32,
    pub field: String,
    pub reason: String,
}
