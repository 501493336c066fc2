//! Files whose rows stand in blocks: Avro object containers and Arrow IPC. Which bytes are a block, how many rows it has, and
//! how a run of blocks is decoded; whoever has the file reads the bytes.
//!
//! A row's offset is its number in the file: `docs/decisions/0016-offsets-in-block-files-count-rows.md`.

use arrow_ipc::{MessageHeader, root_as_message};

use crate::Result;
use crate::batch::RowBatch;

use super::arrow::{Length, MAX_START, stream_start};
use super::avro::{Damage, Header, MAX_HEADER_BYTES, read_block_head, read_header};
use super::{BodyError, Decoder};

/// What a run of blocks may unpack to.
pub const MAX_UNPACKED_BYTES: usize = 512 << 20;
/// Bytes that say where the stream of an Arrow file begins.
pub const ARROW_HEAD_BYTES: usize = MAX_START + 8;
/// Bytes that hold the header of an Avro container.
pub const AVRO_HEAD_BYTES: usize = MAX_HEADER_BYTES + 4;
/// Bytes of which each scan wants at least this many, where the file has them.
pub const SCAN_BYTES: usize = 256;

/// A file of blocks, as its head describes it.
#[derive(Debug, Clone)]
pub struct BlockFormat(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Arrow { start: usize },
    Avro(Header),
}

/// What begins at a place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// More bytes from that place are needed to know.
    Needs(usize),
    /// Something of this many bytes that the blocks behind it need: a schema, a dictionary.
    Prelude(usize),
    /// A block.
    Block { rows: u64, bytes: usize },
    /// The blocks have ended.
    End,
}

impl BlockFormat {
    /// An Arrow IPC file or stream, by its first [`ARROW_HEAD_BYTES`], or as many as it has.
    pub fn arrow(head: &[u8]) -> BlockFormat {
        BlockFormat(Kind::Arrow { start: stream_start(head) })
    }

    /// An Avro object container file, by its first [`AVRO_HEAD_BYTES`], or as many as it has.
    ///
    /// # Errors
    /// Why it is none.
    pub fn avro(head: &[u8]) -> Result<BlockFormat, String> {
        match read_header(head)? {
            Some(header) => Ok(BlockFormat(Kind::Avro(header))),
            None => Err("it is no Avro object container file".to_string()),
        }
    }

    /// The byte of the file at which the first unit begins.
    pub fn start(&self) -> u64 {
        match &self.0 {
            Kind::Arrow { start } => *start as u64,
            Kind::Avro(header) => header.length as u64,
        }
    }

    /// What begins `bytes`, which begin where a unit does and are not empty.
    ///
    /// # Errors
    /// Why nothing does that can be read.
    pub fn scan(&self, bytes: &[u8]) -> Result<Unit, String> {
        match &self.0 {
            Kind::Avro(_) => Ok(match read_block_head(bytes)? {
                None => Unit::Needs(SCAN_BYTES),
                Some(head) => Unit::Block { rows: head.rows, bytes: head.length() },
            }),
            Kind::Arrow { .. } => match Length::of(bytes)? {
                Length::End => Ok(Unit::End),
                Length::Needs(length) => Ok(Unit::Needs(length)),
                Length::Whole { metadata: (start, end), length } => {
                    let message = root_as_message(&bytes[start..end]).map_err(|_| "broken metadata".to_string())?;
                    Ok(match message.header_as_record_batch().filter(|_| message.header_type() == MessageHeader::RecordBatch) {
                        Some(batch) => {
                            let rows = u64::try_from(batch.length()).map_err(|_| "a batch of less than no rows".to_string())?;
                            Unit::Block { rows, bytes: length }
                        }
                        None => Unit::Prelude(length),
                    })
                }
            },
        }
    }
}

impl Decoder {
    /// Decodes a run of blocks of a file, but for their first `skip` rows: `bytes` are all preludes that stand before them in
    /// the file, and the blocks. Offsets are numbers of rows, from the first that is not skipped. Rows of a block that is
    /// damaged become rejects.
    ///
    /// # Errors
    /// [`BodyError`] where the run cannot be read at all or breaks a bound.
    pub fn decode_blocks(&mut self, format: &BlockFormat, bytes: &[u8], skip: u64, now_us: i64) -> Result<RowBatch, BodyError> {
        match &format.0 {
            Kind::Arrow { .. } => self.decode_arrow_rows(bytes, skip, MAX_UNPACKED_BYTES, usize::MAX, now_us),
            Kind::Avro(header) => self.decode_container(header, bytes, 0, skip, MAX_UNPACKED_BYTES, Damage::Reject, now_us),
        }
    }
}
