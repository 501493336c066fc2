//! Closed windows' rows: kept in chunks of one window start, sorted by the key's hash, expired by event time.
//!
//! ```text
//!  chunk: OWN_PARTS │ rows │ length of each text │ the texts that all rows share │ hash, lengths of each row │ own parts
//! ```
//!
//! What rows share stands once in a chunk, so that little is left for compression, which is the store's: of a file that a
//! commit writes nothing is compressed, of what compaction makes of it all is.

use std::ops::Range;

use super::keys;
use crate::plan::WindowPlan;
use crate::store::{ShardStore, WriteSet};
use crate::window_row::RowFrame;
use crate::{Error, Result};

/// Rows of one chunk; a chunk grows past it only for keys with equal hashes.
const CHUNK_ROWS: usize = 64;
/// A chunk ends before its own parts take more than this, so that a reader of one row has little to read.
const CHUNK_BYTES: usize = 1 << 20;
/// What a chunk begins with.
const OWN_PARTS: u32 = u32::MAX;
/// A chunk of the format before, whole rows in LZ4, begins with its size. One that claims to be larger is damaged.
const MAX_CHUNK_BYTES: usize = 64 << 20;
/// Hash, length of the key, length of the members.
const ROW_HEAD_BYTES: usize = 16;

/// Closed rows that wait for a commit, or are in one. Of each row only what is its own is kept: with half a million windows
/// closing at once their rows are most of the memory.
#[derive(Debug, Default)]
pub struct HistoryRows {
    /// Key and members, row after row.
    arena: Vec<u8>,
    rows: Vec<RowRef>,
    /// Bytes and rows to make room for with the first row.
    expected: (usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct RowRef {
    window: u16,
    key_len: u32,
    members_len: u32,
    start_us: i64,
    hash: u64,
    at: usize,
}

impl HistoryRows {
    /// No rows yet, and about as many to come as `before` had.
    pub(super) fn after(before: &HistoryRows) -> HistoryRows {
        HistoryRows { expected: (before.arena.len(), before.rows.len()), ..HistoryRows::default() }
    }

    /// Keeps a row: its key, escaped as JSON has it, and its members.
    pub(super) fn push(&mut self, window: u16, start_us: i64, hash: u64, key: &[u8], members: &[u8]) {
        if self.rows.capacity() == 0 {
            self.arena.reserve(self.expected.0);
            self.rows.reserve(self.expected.1);
        }
        let at = self.arena.len();
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(members);
        self.rows.push(RowRef { window, key_len: key.len() as u32, members_len: members.len() as u32, start_us, hash, at });
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

    /// Key and members, one behind the other.
    fn own_parts(&self, row: &RowRef) -> &[u8] {
        &self.arena[row.at..][..row.key_len as usize + row.members_len as usize]
    }

    fn parts(&self, row: &RowRef) -> (&[u8], &[u8]) {
        self.own_parts(row).split_at(row.key_len as usize)
    }

    pub(super) fn visit(
        &self,
        (window, plan): (u16, &WindowPlan),
        hash: Option<u64>,
        starts: &Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) {
        let (mut frame, mut json) = (RowFrame::default(), Vec::new());
        let wanted =
            |row: &&RowRef| row.window == window && starts.contains(&row.start_us) && hash.is_none_or(|hash| row.hash == hash);
        for row in self.rows.iter().filter(wanted) {
            frame.set(plan, row.start_us);
            let (key, members) = self.parts(row);
            json.clear();
            frame.write(key, members, &mut json);
            visit(row.start_us, &json);
        }
    }

    /// Puts all rows as chunks, in key order.
    pub(super) fn put_chunks(&self, windows: &[WindowPlan], commit: u32, writes: &mut WriteSet) {
        let order_of = |row: &RowRef| (windows[usize::from(row.window)].id, row.start_us, row.hash);
        let mut order: Vec<&RowRef> = self.rows.iter().collect();
        order.sort_unstable_by_key(|row| order_of(row));
        let mut frame = RowFrame::default();
        let mut rest = order.as_slice();
        while let Some(first) = rest.first() {
            let same_start = |row: &&RowRef| row.window == first.window && row.start_us == first.start_us;
            let available = rest.iter().take_while(|row| same_start(row)).count();
            let mut bytes = 0;
            let fits = |row: &&&RowRef| {
                bytes += (row.key_len + row.members_len) as usize;
                bytes <= CHUNK_BYTES
            };
            let mut len = rest[..available.min(CHUNK_ROWS)].iter().take_while(fits).count().max(1);
            while len < available && rest[len].hash == rest[len - 1].hash {
                len += 1;
            }
            let (chunk, behind) = rest.split_at(len);
            rest = behind;
            let window = &windows[usize::from(first.window)];
            frame.set(window, first.start_us);
            let key = keys::history_key(window.id, first.start_us, commit, chunk[len - 1].hash);
            writes.put_with(&key, |value| self.write_chunk(chunk, &frame, value));
        }
    }

    fn write_chunk(&self, chunk: &[&RowRef], frame: &RowFrame, value: &mut Vec<u8>) {
        let texts = frame.texts();
        for number in [OWN_PARTS, chunk.len() as u32].into_iter().chain(texts.map(|text| text.len() as u32)) {
            value.extend_from_slice(&number.to_le_bytes());
        }
        texts.iter().for_each(|text| value.extend_from_slice(text));
        for row in chunk {
            value.extend_from_slice(&row.hash.to_le_bytes());
            value.extend_from_slice(&row.key_len.to_le_bytes());
            value.extend_from_slice(&row.members_len.to_le_bytes());
        }
        for row in chunk {
            value.extend_from_slice(self.own_parts(row));
        }
    }
}

fn damaged() -> Error {
    Error::damaged("a chunk of closed windows in the store is damaged")
}

/// Takes bytes off the front of a chunk.
struct ChunkReader<'a>(&'a [u8]);

impl<'a> ChunkReader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.bytes(4)?.try_into().expect("four bytes")) as usize)
    }
}

/// Reads a chunk's rows of one hash, or all of them. False where `visit` wants no more.
fn read_chunk(value: &[u8], hash: Option<u64>, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<bool> {
    let mut rest = ChunkReader(value);
    if rest.number()? as u32 != OWN_PARTS {
        return read_whole_rows(value, hash, visit);
    }
    let rows = rest.number()?;
    let lengths = [rest.number()?, rest.number()?, rest.number()?];
    let [bounds, id, end] = lengths.map(|length| rest.bytes(length));
    let frame = RowFrame::of_texts([bounds?, id?, end?]);
    let heads = rest.bytes(rows.checked_mul(ROW_HEAD_BYTES).ok_or_else(damaged)?)?;
    let mut json = Vec::new();
    for head in heads.chunks_exact(ROW_HEAD_BYTES) {
        let mut head = ChunkReader(head);
        let row_hash = u64::from_le_bytes(head.bytes(8)?.try_into().expect("eight bytes"));
        let (key_len, members_len) = (head.number()?, head.number()?);
        let (key, members) = (rest.bytes(key_len)?, rest.bytes(members_len)?);
        if hash.is_none_or(|hash| hash == row_hash) {
            json.clear();
            frame.write(key, members, &mut json);
            if !visit(&json) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// As [`read_chunk`] for the format before: the rows' count, hash and length of each, and the rows, in LZ4.
fn read_whole_rows(value: &[u8], hash: Option<u64>, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<bool> {
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
    use crate::config::JobConfig;
    use crate::plan::Plan;
    use crate::store::MemoryStore;

    const FULL: &str = include_str!("../../../../testdata/normalised/full.json");

    fn text_of(json: &[u8]) -> String {
        String::from_utf8(json.to_vec()).expect("JSON is UTF-8")
    }

    fn key_of(json: &str) -> String {
        let row: serde_json::Value = serde_json::from_str(json).expect("a row is JSON");
        row["key"].as_str().expect("a row has its key").to_owned()
    }

    #[test]
    fn rows_are_found_by_start_and_hash_across_commits() {
        let plan = Plan::compile(JobConfig::from_json(FULL).expect("a valid job")).expect("it compiles");
        let window = &plan.windows[0];
        let store = MemoryStore::new();
        for commit in [3u32, 9] {
            let mut rows = HistoryRows::default();
            for hash in 0..500u64 {
                for start in [-10, 0, 10] {
                    let (key, members) = (format!("{commit}-{hash}"), format!(",\"n\":{start}"));
                    rows.push(0, start, hash * 3 + u64::from(commit), key.as_bytes(), members.as_bytes());
                }
            }
            let mut pending = Vec::new();
            rows.visit((0, window), Some(21), &(i64::MIN..i64::MAX), &mut |start, json| pending.push((start, text_of(json))));
            let number = if commit == 3 { 6 } else { 4 };
            let mut of_one_start = 0;
            rows.visit((0, window), None, &(0..1), &mut |start, _| of_one_start += usize::from(start == 0));
            assert_eq!(of_one_start, 500);
            assert_eq!(pending.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [-10, 0, 10]);
            assert_eq!(key_of(&pending[1].1), format!("{commit}-{number}"));
            let mut writes = WriteSet::default();
            rows.put_chunks(&plan.windows, commit, &mut writes);
            store.commit(&writes).expect("memory");
        }
        let reader = HistoryReader { store: &store, window: window.id };
        assert_eq!(reader.next_start(-100, 100).expect("memory"), Some(-10));
        assert_eq!(reader.next_start(-9, 100).expect("memory"), Some(0));
        assert_eq!(reader.next_start(11, 100).expect("memory"), None);
        let mut found = Vec::new();
        reader.rows_of(0, 21, &mut |json| found.push(key_of(&text_of(json)))).expect("memory");
        assert_eq!(found, ["3-6", "9-4"]);
        let mut count = 0;
        reader
            .all_rows(10, &mut |_| {
                count += 1;
                true
            })
            .expect("memory");
        assert_eq!(count, 1000);
    }

    /// Whole rows in LZ4, as states have them that were written before chunks had own parts.
    #[test]
    fn chunks_of_the_format_before_are_read() {
        let rows = [(3u64, "{\"key\":\"a\"}"), (9, "{\"key\":\"b\"}")];
        let mut raw = 2u32.to_le_bytes().to_vec();
        for (hash, row) in rows {
            raw.extend_from_slice(&hash.to_le_bytes());
            raw.extend_from_slice(&(row.len() as u32).to_le_bytes());
        }
        rows.iter().for_each(|(_, row)| raw.extend_from_slice(row.as_bytes()));
        let chunk = lz4_flex::block::compress_prepend_size(&raw);
        let read = |hash| {
            let mut found = Vec::new();
            let all = read_chunk(&chunk, hash, &mut |json| {
                found.push(text_of(json));
                true
            });
            assert!(all.expect("it is whole"));
            found
        };
        assert_eq!(read(None), [rows[0].1, rows[1].1]);
        assert_eq!(read(Some(9)), [rows[1].1]);
    }

    #[test]
    fn long_rows_make_short_chunks() {
        let plan = Plan::compile(JobConfig::from_json(FULL).expect("a valid job")).expect("it compiles");
        let window = &plan.windows[0];
        let mut rows = HistoryRows::default();
        let members = format!(",\"text\":\"{}\"", "x".repeat(CHUNK_BYTES / 3));
        (0..10).for_each(|hash| rows.push(0, 10, hash, b"a", members.as_bytes()));
        let mut writes = WriteSet::default();
        rows.put_chunks(&plan.windows, 1, &mut writes);
        assert_eq!(writes.puts().len(), 5, "two rows each");
        let store = MemoryStore::new();
        store.commit(&writes).expect("memory");
        let mut found = 0;
        let reader = HistoryReader { store: &store, window: window.id };
        (0..10).for_each(|hash| reader.rows_of(10, hash, &mut |_| found += 1).expect("memory"));
        assert_eq!(found, 10);
    }

    #[test]
    fn a_chunk_that_is_cut_off_is_damaged() {
        let plan = Plan::compile(JobConfig::from_json(FULL).expect("a valid job")).expect("it compiles");
        let mut rows = HistoryRows::default();
        rows.push(0, 10, 1, b"a", b",\"n\":1");
        let mut writes = WriteSet::default();
        rows.put_chunks(&plan.windows, 1, &mut writes);
        let (_, chunk) = writes.puts().next().expect("one chunk");
        assert!(read_chunk(chunk, None, &mut |_| true).expect("it is whole"));
        for len in 0..chunk.len() {
            assert!(read_chunk(&chunk[..len], None, &mut |_| true).is_err(), "{len} bytes");
        }
    }
}
