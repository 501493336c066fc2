//! Object container files: a header with the writer's schema, then blocks of rows, each with a marker behind it.

use std::io::Read;

use crate::batch::RowBatch;

use super::read::{Cursor, read_row};
use super::resolve::{Program, resolve};
use super::schema::{MAX_SCHEMA_BYTES, Schema};
use super::{Avro, check_values};
use crate::decode::columns::Rows;
use crate::decode::layout::Layout;
use crate::decode::messages::as_base64;
use crate::decode::{BodyError, Decoder, body_error};

/// The longest header: a schema, and what else a writer notes.
pub const MAX_HEADER_BYTES: usize = 2 * MAX_SCHEMA_BYTES;
/// The longest block, packed or not.
pub const MAX_BLOCK_BYTES: usize = 64 << 20;
/// Most rows of a block.
pub const MAX_BLOCK_ROWS: u64 = 1 << 20;

const MAGIC: [u8; 4] = *b"Obj\x01";
const MARKER_BYTES: usize = 16;
const LENGTH_BYTES: usize = 10;

/// What a container says of itself.
#[derive(Debug, Clone)]
pub struct Header {
    schema: Box<str>,
    codec: Codec,
    marker: [u8; MARKER_BYTES],
    /// Bytes of the header: where the first block begins.
    pub length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    #[cfg(feature = "zstd")]
    Zstandard,
}

/// What to do with a block that cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Damage {
    /// Nothing of the body counts.
    Refuse,
    /// Its rows from there on become rejects.
    Reject,
}

/// The beginning of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    pub rows: u64,
    /// Bytes before the data.
    pub head: usize,
    /// Bytes of the data.
    pub data: usize,
}

impl BlockHead {
    /// Bytes of the block, its marker included.
    pub fn length(&self) -> usize {
        self.head + self.data + MARKER_BYTES
    }
}

/// Reads a container's header. `None`: the bytes do not begin with one.
///
/// # Errors
/// Why it is one that cannot be read.
pub(in crate::decode) fn read_header(bytes: &[u8]) -> Result<Option<Header>, String> {
    let Some(rest) = bytes.strip_prefix(&MAGIC) else { return Ok(None) };
    let mut cursor = Cursor::new(&rest[..rest.len().min(MAX_HEADER_BYTES)]);
    let (mut schema, mut codec) = (None, &b"null"[..]);
    let mut read = || {
        loop {
            let count = match cursor.long()? {
                0 => break,
                count if count < 0 => cursor.long().map(|_| count.unsigned_abs())?,
                count => count.unsigned_abs(),
            };
            for _ in 0..count {
                match (cursor.bytes()?, cursor.bytes()?) {
                    (b"avro.schema", text) => schema = Some(text),
                    (b"avro.codec", name) => codec = name,
                    _ => {}
                }
            }
        }
        cursor.take(MARKER_BYTES)
    };
    let marker = read().map_err(|_| "the header of the Avro container is broken, or longer than 2 MiB".to_string())?;
    let marker = marker.try_into().map_err(|_| "the header of the Avro container is broken".to_string())?;
    let schema = schema.and_then(|text| std::str::from_utf8(text).ok());
    let schema = schema.ok_or("the header of the Avro container has no avro.schema")?.into();
    let length = MAGIC.len() + rest.len().min(MAX_HEADER_BYTES) - cursor.left();
    Ok(Some(Header { schema, codec: Codec::of(codec)?, marker, length }))
}

/// Reads the beginning of a block. `None`: more bytes are needed.
///
/// # Errors
/// Why it is none.
pub(in crate::decode) fn read_block_head(bytes: &[u8]) -> Result<Option<BlockHead>, String> {
    let mut cursor = Cursor::new(bytes);
    let numbers = (cursor.length(), cursor.length());
    let (Ok(rows), Ok(data)) = numbers else {
        return if bytes.len() < 2 * LENGTH_BYTES { Ok(None) } else { Err("its length is broken".to_string()) };
    };
    if rows as u64 > MAX_BLOCK_ROWS || data > MAX_BLOCK_BYTES {
        return Err(format!("it has {rows} rows in {data} bytes; at most {MAX_BLOCK_ROWS} in {MAX_BLOCK_BYTES} are read"));
    }
    Ok(Some(BlockHead { rows: rows as u64, head: bytes.len() - cursor.left(), data }))
}

impl Codec {
    fn of(name: &[u8]) -> Result<Codec, String> {
        match name {
            b"" | b"null" => Ok(Codec::Null),
            b"deflate" => Ok(Codec::Deflate),
            b"snappy" => Ok(Codec::Snappy),
            #[cfg(feature = "zstd")]
            b"zstandard" => Ok(Codec::Zstandard),
            other => Err(format!(
                "the codec {} of the Avro container is not read; write it with null, deflate, snappy or zstandard",
                String::from_utf8_lossy(other)
            )),
        }
    }

    /// Unpacks a block, which becomes at most `limit` bytes.
    fn unpack(self, data: &[u8], limit: usize) -> Result<Vec<u8>, String> {
        let too_long = || format!("it unpacks to more than {limit} bytes");
        let mut out = Vec::new();
        match self {
            Codec::Null => out.extend_from_slice(data),
            Codec::Deflate => {
                let decoder = flate2::read::DeflateDecoder::new(data);
                decoder.take(limit as u64 + 1).read_to_end(&mut out).map_err(|error| format!("deflate: {error}"))?;
            }
            Codec::Snappy => {
                let (data, sum) = data.split_last_chunk::<4>().ok_or("snappy: it is too short")?;
                if snap::raw::decompress_len(data).map_err(|error| format!("snappy: {error}"))? > limit {
                    return Err(too_long());
                }
                out = snap::raw::Decoder::new().decompress_vec(data).map_err(|error| format!("snappy: {error}"))?;
                if crc32fast::hash(&out) != u32::from_be_bytes(*sum) {
                    return Err("snappy: its checksum is wrong".to_string());
                }
            }
            #[cfg(feature = "zstd")]
            Codec::Zstandard => {
                let decoder = zstd::stream::read::Decoder::new(data).map_err(|error| format!("zstandard: {error}"))?;
                decoder.take(limit as u64 + 1).read_to_end(&mut out).map_err(|error| format!("zstandard: {error}"))?;
            }
        }
        if out.len() > limit { Err(too_long()) } else { Ok(out) }
    }
}

impl Avro {
    /// The program of a container; that of the one before is used again where the schema is the same.
    fn container_program(&mut self, header: &Header, layout: &Layout) -> Result<&Program, String> {
        let known = self.container.take().filter(|(schema, _)| *schema == header.schema);
        let program = match known {
            Some((_, program)) => program,
            None => resolve(Schema::parse(&header.schema)?, self.reader.as_ref(), layout),
        };
        Ok(&self.container.insert((header.schema.clone(), program)).1)
    }
}

impl Decoder {
    /// Decodes the blocks of a container from byte `start` of `body` on, but for their first `skip` rows. Offsets are numbers
    /// of rows, from the first that is not skipped.
    #[expect(clippy::too_many_arguments, reason = "what a container is read by, and its bounds")]
    pub(in crate::decode) fn decode_container(
        &mut self,
        header: &Header,
        body: &[u8],
        start: usize,
        skip: u64,
        max_bytes: usize,
        damage: Damage,
        now_us: i64,
    ) -> Result<RowBatch, BodyError> {
        let latest_us = now_us.saturating_add(self.max_ahead_us);
        let mut rows = Rows::new(&self.layout, self.shape.expect(body.len()), false);
        if damage == Damage::Refuse {
            rows.bound(body.len(), &self.layout);
        }
        let program = self.avro.container_program(header, &self.layout).map_err(|reason| body_error(reason, 0))?;
        let mut blocks = Blocks { program, layout: &self.layout, latest_us, rows: &mut rows, damage, skip, left: max_bytes };
        let mut at = start;
        while at < body.len() {
            let wrong = |reason: String| body_error(format!("a block of the Avro container: {reason}"), at);
            let head = read_block_head(&body[at..]).map_err(wrong)?.ok_or_else(|| wrong("it ends early".to_string()))?;
            let block = body.get(at..at + head.length()).ok_or_else(|| wrong("it ends early".to_string()))?;
            let (data, marker) = block[head.head..].split_at(head.data);
            if marker != header.marker {
                return Err(wrong("the marker behind it is wrong".to_string()));
            }
            blocks.read(header.codec, head.rows, data).map_err(wrong)?;
            blocks.rows.check_rejects(at)?;
            at += head.length();
        }
        let span = rows.seen() as u64;
        Ok(self.end(rows, body.len(), span))
    }
}

/// Blocks on their way into rows.
struct Blocks<'a> {
    program: &'a Program,
    layout: &'a Layout,
    latest_us: i64,
    rows: &'a mut Rows,
    damage: Damage,
    /// Rows that are still to be skipped.
    skip: u64,
    /// Bytes that may still be unpacked.
    left: usize,
}

impl Blocks<'_> {
    fn read(&mut self, codec: Codec, count: u64, data: &[u8]) -> Result<(), String> {
        let unpacked = match codec.unpack(data, self.left.min(MAX_BLOCK_BYTES)) {
            Ok(unpacked) => unpacked,
            Err(reason) => return self.damaged(0, count, &reason, data),
        };
        self.left -= unpacked.len();
        let context = crate::decode::template::Context {
            layout: self.layout,
            latest_us: self.latest_us,
            breaks: crate::decode::text::Breaks::Whitespace,
        };
        let mut cursor = Cursor::new(&unpacked);
        for row in 0..count {
            check_values(self.rows, self.layout)?;
            let start = unpacked.len() - cursor.left();
            let read = match read_row(self.program, &mut cursor, &context, self.rows) {
                Ok(read) => read,
                Err(broken) => return self.damaged(row, count, broken.0, &unpacked[start..]),
            };
            let end = unpacked.len() - cursor.left();
            let offset = self.rows.seen();
            match read {
                _ if self.skip > 0 => {
                    self.skip -= 1;
                    self.rows.roll_back();
                }
                Ok(()) => self.rows.commit(self.layout, offset),
                Err(wrong) => {
                    self.rows.reject(offset, &wrong.field, wrong.reason, as_base64(&unpacked[start..end]));
                    if self.rows.has_too_many_rejects() {
                        // Whoever has this block read refuses the body.
                        return Ok(());
                    }
                }
            }
        }
        match cursor.left() {
            0 => Ok(()),
            left => Err(format!("{left} bytes are left after its rows")),
        }
    }

    /// The rows of a block from number `row` on cannot be read.
    fn damaged(&mut self, row: u64, count: u64, reason: &str, bytes: &[u8]) -> Result<(), String> {
        self.rows.roll_back();
        if self.damage == Damage::Refuse {
            return Err(format!("its row {row}: {reason}"));
        }
        for lost in row..count {
            check_values(self.rows, self.layout)?;
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            let (offset, is_first) = (self.rows.seen(), lost == row);
            let reason = if is_first { reason } else { "it stands behind a row of its block that cannot be read" };
            let text = if is_first { as_base64(bytes) } else { String::new() };
            self.rows.reject(offset, "", reason.to_string(), text);
        }
        Ok(())
    }
}
