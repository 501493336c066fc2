//! Closed windows' rows: kept in chunks of one window start, sorted by the key's hash, compressed, expired by event time.

use super::keys;
use crate::store::{ShardStore, WriteSet};
use crate::{Error, Result};

/// Rows of one chunk; a chunk grows past it only for keys with equal hashes.
const CHUNK_ROWS: usize = 64;
/// A chunk that claims to be larger is damaged.
const MAX_CHUNK_BYTES: usize = 64 << 20;

/// Closed rows that wait for a commit, or are in one.
#[derive(Debug, Default)]
pub struct HistoryRows {
    arena: Vec<u8>,
    rows: Vec<RowRef>,
}

#[derive(Debug, Clone, Copy)]
struct RowRef {
    window: u16,
    len: u32,
    start_us: i64,
    hash: u64,
    at: usize,
}

impl HistoryRows {
    pub(super) fn push(&mut self, window: u16, start_us: i64, hash: u64, json: &[u8]) {
        let at = self.arena.len();
        self.arena.extend_from_slice(json);
        self.rows.push(RowRef { window, len: json.len() as u32, start_us, hash, at });
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn bytes(&self) -> usize {
        self.arena.len() + self.rows.len() * size_of::<RowRef>()
    }

    fn json(&self, row: &RowRef) -> &[u8] {
        &self.arena[row.at..row.at + row.len as usize]
    }

    pub(super) fn visit(&self, window: u16, hash: Option<u64>, visit: &mut dyn FnMut(i64, &[u8])) {
        for row in self.rows.iter().filter(|row| row.window == window && hash.is_none_or(|hash| row.hash == hash)) {
            visit(row.start_us, self.json(row));
        }
    }

    /// Puts all rows as chunks, in key order. `window_ids` gives each window's id in the store.
    pub(super) fn put_chunks(&self, window_ids: &[u32], commit: u32, writes: &mut WriteSet) {
        let order_of = |row: &RowRef| (window_ids[usize::from(row.window)], row.start_us, row.hash);
        let mut order: Vec<&RowRef> = self.rows.iter().collect();
        order.sort_unstable_by_key(|row| order_of(row));
        let mut raw = Vec::new();
        let mut rest = order.as_slice();
        while let Some(first) = rest.first() {
            let same_start = |row: &&RowRef| row.window == first.window && row.start_us == first.start_us;
            let available = rest.iter().take_while(|row| same_start(row)).count();
            let mut len = available.min(CHUNK_ROWS);
            while len < available && rest[len].hash == rest[len - 1].hash {
                len += 1;
            }
            let (chunk, behind) = rest.split_at(len);
            rest = behind;
            raw.clear();
            raw.extend_from_slice(&(len as u32).to_le_bytes());
            for row in chunk {
                raw.extend_from_slice(&row.hash.to_le_bytes());
                raw.extend_from_slice(&row.len.to_le_bytes());
            }
            for row in chunk {
                raw.extend_from_slice(self.json(row));
            }
            let key = keys::history_key(window_ids[usize::from(first.window)], first.start_us, commit, chunk[len - 1].hash);
            writes.put(&key, &lz4_flex::block::compress_prepend_size(&raw));
        }
    }
}

/// Reads a chunk's rows of one hash, or all of them.
fn read_chunk(value: &[u8], hash: Option<u64>, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<bool> {
    let damaged = || Error::damaged("a chunk of closed windows in the store is damaged");
    let size = value.get(..4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize);
    if size.is_none_or(|size| size > MAX_CHUNK_BYTES) {
        return Err(damaged());
    }
    let raw = lz4_flex::block::decompress_size_prepended(value).map_err(|_| damaged())?;
    let count = u32::from_le_bytes(raw.get(..4).ok_or_else(damaged)?.try_into().expect("four bytes")) as usize;
    let heads = raw.get(4..4 + count * 12).ok_or_else(damaged)?;
    let mut at = 4 + count * 12;
    for head in heads.chunks_exact(12) {
        let row_hash = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        let len = u32::from_le_bytes(head[8..].try_into().expect("four bytes")) as usize;
        let json = raw.get(at..at + len).ok_or_else(damaged)?;
        at += len;
        if hash.is_none_or(|hash| hash == row_hash) && !visit(json) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads committed closed windows of one shard.
pub struct HistoryReader<'a> {
    pub store: &'a dyn ShardStore,
    /// The window's id in the store.
    pub window: u32,
}

impl HistoryReader<'_> {
    /// The earliest start at or after `from_us` and before `to_us` that has rows.
    pub fn next_start(&self, from_us: i64, to_us: i64) -> Result<Option<i64>> {
        let mut found = None;
        let from = keys::history_chunk_prefix(self.window, from_us);
        let to = keys::history_chunk_prefix(self.window, to_us);
        self.store.scan(&from, &to, &mut |key, _| {
            found = keys::parse_history_key(key).map(|(_, start, _)| start);
            false
        })?;
        Ok(found)
    }

    /// Visits the rows of one start that have this hash (different keys may share it): row as JSON.
    pub fn rows_of(&self, start_us: i64, hash: u64, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        let end = keys::history_chunk_end(self.window, start_us);
        let mut commit = 0u32;
        loop {
            // The first chunk of the next commit that may hold the hash: chunks carry their last hash.
            let from = keys::history_key(self.window, start_us, commit, hash);
            let mut next = None;
            let mut outcome = Ok(true);
            self.store.scan(&from, &end, &mut |key, value| {
                let found = keys::parse_history_key(key).map_or(commit, |(_, _, found)| found);
                next = Some(found);
                if found == commit {
                    outcome = read_chunk(value, Some(hash), &mut |json| {
                        visit(json);
                        true
                    });
                }
                false
            })?;
            outcome?;
            commit = match next {
                None => return Ok(()),
                Some(found) if found == commit => match commit.checked_add(1) {
                    Some(next) => next,
                    None => return Ok(()),
                },
                Some(found) => found,
            };
        }
    }

    /// Visits all rows of one start until `visit` returns false.
    pub fn all_rows(&self, start_us: i64, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        let from = keys::history_chunk_prefix(self.window, start_us);
        let end = keys::history_chunk_end(self.window, start_us);
        let mut outcome = Ok(true);
        self.store.scan(&from, &end, &mut |_, value| {
            outcome = read_chunk(value, None, visit);
            matches!(outcome, Ok(true))
        })?;
        outcome.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[test]
    fn rows_are_found_by_start_and_hash_across_commits() {
        let store = MemoryStore::new();
        for commit in [3u32, 9] {
            let mut rows = HistoryRows::default();
            for hash in 0..500u64 {
                for start in [-10, 0, 10] {
                    rows.push(0, start, hash * 3 + u64::from(commit), format!("{commit}/{start}/{hash}").as_bytes());
                }
            }
            let mut writes = WriteSet::default();
            rows.put_chunks(&[77], commit, &mut writes);
            store.commit(writes).expect("memory");
        }
        let reader = HistoryReader { store: &store, window: 77 };
        assert_eq!(reader.next_start(-100, 100).expect("memory"), Some(-10));
        assert_eq!(reader.next_start(-9, 100).expect("memory"), Some(0));
        assert_eq!(reader.next_start(11, 100).expect("memory"), None);
        let mut found = Vec::new();
        reader.rows_of(0, 21, &mut |json| found.push(String::from_utf8_lossy(json).into_owned())).expect("memory");
        assert_eq!(found, ["3/0/6", "9/0/4"]);
        let mut count = 0;
        reader
            .all_rows(10, &mut |_| {
                count += 1;
                true
            })
            .expect("memory");
        assert_eq!(count, 1000);
    }
}
