//! Frames: how one record lies in a segment.
//!
//! ```text
//!  0  u32  magic: a record, or a mark
//!  4  u32  payload length, bytes
//!  8  u32  crc32 of the payload
//! 12  u32  crc32 of the header without this field
//! 16  u64  first offset (a mark: all offsets below are durable)
//! 24  u64  span, offsets covered
//! 32  payload
//! ```
//!
//! The payload has a checksum of its own, so that a frame is made on the connection's thread and only its header is
//! completed ([`seal_frame`]) once the offset is known. A *mark* is a header alone; it stands before the first frame
//! written after a sync and proves that everything before was durable: damage there is no torn tail.

use crate::guards::{self, Guard};
use crate::{Error, Result};

/// Size of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;

/// A payload is at most this many bytes.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 20;

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"SJr1");
const MARK_MAGIC: u32 = u32::from_le_bytes(*b"SJm1");

/// The first bytes of a mark, to find one behind damage.
pub(super) const MARK_START: [u8; 4] = *b"SJm1";

const CRC_AT: usize = 12;
const OFFSET_AT: usize = 16;
const SPAN_AT: usize = 24;

/// A valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Record {
        payload_len: usize,
        payload_crc: u32,
        first_offset: u64,
        span: u64,
    },
    Mark {
        durable_offset: u64,
    },
    /// Preallocated and not yet written.
    Blank,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

fn header_crc(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(&header[OFFSET_AT..FRAME_HEADER_BYTES]);
    hasher.finalize()
}

/// Fills the header that was left free at `start` of `out`, whose rest is the payload. The frame is not sealed yet.
pub(super) fn write_header(out: &mut [u8], span: u64) -> Result<()> {
    let payload_len = out.len() - FRAME_HEADER_BYTES;
    if payload_len > MAX_PAYLOAD_BYTES {
        return Err(Error::user(format!(
            "a request takes {payload_len} bytes in the journal, at most {MAX_PAYLOAD_BYTES} are possible: send smaller requests"
        )));
    }
    let crc = crc32fast::hash(&out[FRAME_HEADER_BYTES..]);
    out[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&(payload_len as u32).to_le_bytes());
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out[SPAN_AT..FRAME_HEADER_BYTES].copy_from_slice(&span.to_le_bytes());
    Ok(())
}

/// Completes the header of an encoded frame with its place in the log: constant time, whatever the frame's length.
pub fn seal_frame(frame: &mut [u8], first_offset: u64) {
    frame[OFFSET_AT..SPAN_AT].copy_from_slice(&first_offset.to_le_bytes());
    let crc = header_crc(frame);
    frame[CRC_AT..OFFSET_AT].copy_from_slice(&crc.to_le_bytes());
}

/// A mark: all offsets below `durable_offset` are durable.
pub(super) fn mark(durable_offset: u64) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0..4].copy_from_slice(&MARK_MAGIC.to_le_bytes());
    seal_frame(&mut header, durable_offset);
    header
}

/// Reads a header; the error says what is wrong with it.
pub(super) fn read_header(bytes: &[u8]) -> Result<Header> {
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err(Error::damaged(format!("{} bytes are left, a header takes {FRAME_HEADER_BYTES}", bytes.len())));
    }
    let header = &bytes[..FRAME_HEADER_BYTES];
    if header.iter().all(|&byte| byte == 0) {
        return Ok(Header::Blank);
    }
    if u32_at(header, CRC_AT) != header_crc(header) {
        return Err(Error::damaged("a frame's header has a wrong checksum"));
    }
    let payload_len = u32_at(header, 4) as usize;
    match u32_at(header, 0) {
        MARK_MAGIC if payload_len == 0 => Ok(Header::Mark { durable_offset: u64_at(header, OFFSET_AT) }),
        RECORD_MAGIC if payload_len <= MAX_PAYLOAD_BYTES => Ok(Header::Record {
            payload_len,
            payload_crc: u32_at(header, 8),
            first_offset: u64_at(header, OFFSET_AT),
            span: u64_at(header, SPAN_AT),
        }),
        magic => Err(Error::damaged(format!("a frame of the unknown kind {magic:#010x} and {payload_len} bytes"))),
    }
}

/// Compares a payload with its checksum.
pub(super) fn check_payload(payload: &[u8], payload_crc: u32) -> Result<()> {
    match crc32fast::hash(payload) == payload_crc || guards::off(Guard::WholeRecord) {
        true => Ok(()),
        false => Err(Error::damaged("a record has a wrong checksum")),
    }
}
