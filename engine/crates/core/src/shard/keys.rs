//! Keys of a shard's records. The first byte names the kind, so that one sorted write holds them in this order:
//!
//! | key | value |
//! | --- | --- |
//! | `h` window(4) start(8) commit(4) last hash(8) | a chunk of closed rows of one window, sorted by hash |
//! | `j` hash(8) key | a block of keys of which this is the last: see [`super::blocks`] |
//! | `k` hash(8) key | one key's slot |
//! | `m` | the shard's [`ShardMeta`](super::ShardMeta) as JSON |
//! | `o` sink(4) number(8) | one batch of the outbox |
//! | `q` received(8) id | nothing: request ids by age |
//! | `r` id | a request's answer |
//!
//! Numbers are big-endian; signed ones have their sign bit turned, so that bytes sort as numbers do.

use crate::progress::{sortable, unsortable};

pub const META: &[u8] = b"m";
pub const BLOCKS_FROM: &[u8] = b"j";
pub const BLOCKS_TO: &[u8] = KEYS_FROM;
pub const KEYS_FROM: &[u8] = b"k";
pub const KEYS_TO: &[u8] = b"l";
pub const OUTBOX_FROM: &[u8] = b"o";
pub const OUTBOX_TO: &[u8] = b"p";

/// Key of a hot key's record.
pub fn key_record(hash: u64, key: &[u8]) -> Vec<u8> {
    place(KEYS_FROM, hash, key)
}

/// Key of the block that ends with this key.
pub fn block_key(hash: u64, key: &[u8]) -> Vec<u8> {
    place(BLOCKS_FROM, hash, key)
}

fn place(kind: &[u8], hash: u64, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kind.len() + 8 + key.len());
    put_place(&mut bytes, kind, hash, key);
    bytes
}

/// Makes `bytes` the key of a hot key's record, in the memory that it has.
#[inline]
pub fn set_key_record(bytes: &mut Vec<u8>, hash: u64, key: &[u8]) {
    bytes.clear();
    put_place(bytes, KEYS_FROM, hash, key);
}

#[inline]
fn put_place(bytes: &mut Vec<u8>, kind: &[u8], hash: u64, key: &[u8]) {
    bytes.extend_from_slice(kind);
    bytes.extend_from_slice(&hash.to_be_bytes());
    bytes.extend_from_slice(key);
}

/// The hash and the key text of a key's record, or of a block's key.
pub fn parse_key_record(record: &[u8]) -> Option<(u64, &[u8])> {
    let hash = u64::from_be_bytes(record.get(1..9)?.try_into().ok()?);
    Some((hash, &record[9..]))
}

/// Prefix of all closed rows of a window.
pub fn history_prefix(window: u32) -> Vec<u8> {
    let mut bytes = vec![b'h'];
    bytes.extend_from_slice(&window.to_be_bytes());
    bytes
}

/// Prefix of the closed rows of one window start.
pub fn history_chunk_prefix(window: u32, start_us: i64) -> Vec<u8> {
    let mut bytes = history_prefix(window);
    bytes.extend_from_slice(&sortable(start_us).to_be_bytes());
    bytes
}

/// Where the rows of one window start end.
pub fn history_chunk_end(window: u32, start_us: i64) -> Vec<u8> {
    let mut bytes = history_prefix(window);
    match sortable(start_us).checked_add(1) {
        Some(next) => bytes.extend_from_slice(&next.to_be_bytes()),
        None => bytes = history_prefix(window.saturating_add(1)),
    }
    bytes
}

/// Key of one chunk of closed rows that ends with `last_hash`, written by the commit with this number.
pub fn history_key(window: u32, start_us: i64, commit: u32, last_hash: u64) -> Vec<u8> {
    let mut bytes = history_chunk_prefix(window, start_us);
    bytes.extend_from_slice(&commit.to_be_bytes());
    bytes.extend_from_slice(&last_hash.to_be_bytes());
    bytes
}

/// Window id, start and commit number of a history key.
pub fn parse_history_key(key: &[u8]) -> Option<(u32, i64, u32)> {
    let window = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
    let start = u64::from_be_bytes(key.get(5..13)?.try_into().ok()?);
    let commit = u32::from_be_bytes(key.get(13..17)?.try_into().ok()?);
    Some((window, unsortable(start), commit))
}

/// Key of a batch in the outbox.
pub fn outbox_key(sink: u32, number: u64) -> Vec<u8> {
    let mut bytes = vec![b'o'];
    bytes.extend_from_slice(&sink.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

/// Sink id and number of an outbox key.
pub fn parse_outbox_key(key: &[u8]) -> Option<(u32, u64)> {
    let sink = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
    let number = u64::from_be_bytes(key.get(5..13)?.try_into().ok()?);
    Some((sink, number))
}

/// Key of a request's answer.
pub fn request_key(id: &str) -> Vec<u8> {
    let mut bytes = vec![b'r'];
    bytes.extend_from_slice(id.as_bytes());
    bytes
}

/// Key of a request id in the order of age.
pub fn request_age_key(received_us: i64, id: &str) -> Vec<u8> {
    let mut bytes = vec![b'q'];
    bytes.extend_from_slice(&sortable(received_us).to_be_bytes());
    bytes.extend_from_slice(id.as_bytes());
    bytes
}

/// When a request came, and its id.
pub fn parse_request_age_key(key: &[u8]) -> Option<(i64, &str)> {
    let received = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((unsortable(received), std::str::from_utf8(&key[9..]).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_sorts_by_time_also_below_zero() {
        let keys = [-20_000_000, -1, 0, 10_000_000].map(|start| history_key(1, start, 0, 5));
        assert!(keys.is_sorted());
        assert_eq!(parse_history_key(&keys[0]), Some((1, -20_000_000, 0)));
        assert!(history_chunk_end(1, -1) <= history_chunk_prefix(1, 0));
    }

    #[test]
    fn meta_lies_between_keys_and_outbox() {
        assert!(key_record(u64::MAX, b"\xff\xff").as_slice() < META);
        assert!(META < outbox_key(0, 0).as_slice());
    }
}
