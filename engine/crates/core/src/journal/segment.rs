//! The head of a segment: whose it is and where it begins.

use super::storage::Incarnation;
use crate::{Error, Result};

/// Size of a segment's head; frames begin behind it.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;

const MAGIC: [u8; 8] = *b"SJjournl";

/// Version of the segment's head, of frames and of payloads. A reader refuses a higher one.
const FORMAT_VERSION: u32 = 1;

const CRC_AT: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub incarnation: Incarnation,
    /// Of the schema that the columns have.
    pub fingerprint: u64,
    pub first_offset: u64,
}

impl SegmentHeader {
    pub fn to_bytes(self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.incarnation.0);
        bytes[32..40].copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Result<SegmentHeader> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"));
        if bytes[0..8] != MAGIC || half(CRC_AT) != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(Error::damaged("the head of the segment is damaged"));
        }
        if half(8) > FORMAT_VERSION {
            return Err(Error::user(format!(
                "the segment has format {}, this version reads up to {FORMAT_VERSION}: start the newer version that wrote it",
                half(8)
            )));
        }
        let incarnation = Incarnation(bytes[16..32].try_into().expect("a slice of sixteen bytes"));
        Ok(SegmentHeader { incarnation, fingerprint: word(32), first_offset: word(40) })
    }
}
