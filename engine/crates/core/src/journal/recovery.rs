//! What a start does with the journals that it finds: the same after a clean stop, a kill or a power failure (I7).
//!
//! Only the newest segment of an incarnation can have a torn tail, because a segment is synced before the next one gets
//! its name. There the first frame that is not whole ends the log, unless a mark behind it proves that this place had
//! been durable: then acknowledged rows are damaged, and that is an error, never a silent cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::frame::{FRAME_HEADER_BYTES, Header, MARK_START, read_header};
use super::index::{Index, SegmentInfo};
use super::reader::{Frame, JournalReader, READ_BYTES, Window, frame_at};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::storage::{Incarnation, LogEntry, LogName, LogStorage};
use crate::{Error, Result};

/// The journal of an earlier start: read until all of it is committed, then deleted.
pub struct RecoveredLog<S> {
    storage: Arc<S>,
    incarnation: Incarnation,
    fingerprint: u64,
    end_offset: u64,
    cut_bytes: u64,
    index: Arc<Index>,
}

/// Finds all incarnations, cuts their torn tails and makes what is left durable.
///
/// The error says which file is damaged, or was written by a newer version, and what to do.
pub fn recover<S: LogStorage>(storage: &Arc<S>) -> Result<Vec<RecoveredLog<S>>> {
    let mut incarnations: BTreeMap<Incarnation, BTreeMap<u64, LogEntry>> = BTreeMap::new();
    for entry in storage.list()? {
        let segments = incarnations.entry(entry.name.incarnation()).or_default();
        match entry.name {
            LogName::Segment { first_offset, .. } => {
                segments.insert(first_offset, entry);
            }
            LogName::Spare { .. } => storage.delete(entry.name)?,
        }
    }
    let mut logs = Vec::new();
    for (incarnation, segments) in incarnations {
        match segments.is_empty() {
            true => storage.delete_incarnation(incarnation)?,
            false => logs.push(recover_incarnation(storage, incarnation, &segments)?),
        }
    }
    Ok(logs)
}

fn recover_incarnation<S: LogStorage>(
    storage: &Arc<S>,
    incarnation: Incarnation,
    entries: &BTreeMap<u64, LogEntry>,
) -> Result<RecoveredLog<S>> {
    let mut fingerprint = None;
    let mut segments = VecDeque::new();
    for entry in entries.values() {
        let header = read_segment_header(&**storage, entry)?;
        if *fingerprint.get_or_insert(header.fingerprint) != header.fingerprint {
            return Err(Error::damaged(format!(
                "the journal is damaged: {} has another schema than those before it",
                entry.name
            )));
        }
        segments.push_back(SegmentInfo::new(header.first_offset, entry.bytes));
    }
    let (Some(last), Some(entry)) = (segments.back_mut(), entries.values().next_back()) else {
        return Err(Error::engine("an incarnation without segments was to be recovered"));
    };
    let tail = find_tail(&**storage, entry, last.first_offset)?;
    cut_tail(&**storage, entry, &tail)?;
    last.durable_bytes = tail.end;
    Ok(RecoveredLog {
        storage: storage.clone(),
        incarnation,
        fingerprint: fingerprint.unwrap_or_default(),
        end_offset: tail.end_offset,
        cut_bytes: tail.torn_bytes,
        index: Arc::new(Index::new(segments, tail.end_offset)),
    })
}

fn read_segment_header<S: LogStorage>(storage: &S, entry: &LogEntry) -> Result<SegmentHeader> {
    let name = entry.name;
    let damaged = |error: Error| error.context(format!("the journal's file {name} cannot be used"));
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    if entry.bytes < SEGMENT_HEADER_BYTES {
        return Err(damaged(Error::damaged(format!("it has only {} bytes; restore it, or move it away", entry.bytes))));
    }
    storage.read_at(name, 0, &mut bytes).map_err(damaged)?;
    let header = SegmentHeader::from_bytes(&bytes).map_err(damaged)?;
    match name {
        LogName::Segment { incarnation, first_offset }
            if header.incarnation == incarnation && header.first_offset == first_offset =>
        {
            Ok(header)
        }
        _ => Err(damaged(Error::damaged("its head names another file; put it back under its own name"))),
    }
}

/// Where the newest segment ends.
struct Tail {
    end: u64,
    end_offset: u64,
    /// All before this position was durable before the crash.
    proven: u64,
    /// Bytes from the end to the last one that is not zero, 0 where the end is clean.
    torn_bytes: u64,
}

fn find_tail<S: LogStorage>(storage: &S, entry: &LogEntry, first_offset: u64) -> Result<Tail> {
    let mut window = Window::default();
    let mut tail = Tail { end: SEGMENT_HEADER_BYTES, end_offset: first_offset, proven: SEGMENT_HEADER_BYTES, torn_bytes: 0 };
    // Records since the last proof, as (offset, position): a mark may prove a part of them.
    let mut unproven: VecDeque<(u64, u64)> = VecDeque::new();
    loop {
        let frame = frame_at(&mut window, storage, entry.name, tail.end, entry.bytes)?;
        let len = frame.len();
        match frame {
            Frame::Record { first_offset, span, .. } if first_offset == tail.end_offset && span > 0 => {
                let Some(end_offset) = first_offset.checked_add(span) else {
                    break;
                };
                unproven.push_back((first_offset, tail.end));
                tail.end_offset = end_offset;
            }
            Frame::Mark { durable_offset } if durable_offset <= tail.end_offset => {
                let proven = unproven.partition_point(|&(offset, _)| offset < durable_offset);
                unproven.drain(..proven);
                tail.proven = unproven.front().map_or(tail.end, |&(_, position)| position);
            }
            _ => break,
        }
        tail.end += len;
    }
    inspect_rest(storage, entry, &mut tail)?;
    Ok(tail)
}

/// Looks behind the end for torn bytes, and for a mark that proves that the end is damage.
fn inspect_rest<S: LogStorage>(storage: &S, entry: &LogEntry, tail: &mut Tail) -> Result<()> {
    const OVERLAP: u64 = FRAME_HEADER_BYTES as u64 - 1;
    let mut position = tail.end;
    let mut chunk = Vec::new();
    while position < entry.bytes {
        chunk.resize((READ_BYTES + OVERLAP).min(entry.bytes - position) as usize, 0);
        storage.read_at(entry.name, position, &mut chunk)?;
        if let Some(last) = last_nonzero(&chunk) {
            tail.torn_bytes = position + last as u64 + 1 - tail.end;
            if let Some(durable_offset) = find_mark(&chunk).filter(|&offset| offset > tail.end_offset) {
                return Err(Error::damaged(format!(
                    "the journal is damaged: {} at byte {}: offset {} should be there, and rows up to {durable_offset} had been \
                     acknowledged; restore the file, or move it away to go on without those rows",
                    entry.name, tail.end, tail.end_offset
                )));
            }
        }
        position += READ_BYTES;
    }
    Ok(())
}

fn last_nonzero(chunk: &[u8]) -> Option<usize> {
    // Most chunks are blank: whole words are compared first.
    let (words, rest) = chunk.as_chunks::<64>();
    if words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|&byte| byte == 0) {
        return None;
    }
    chunk.iter().rposition(|&byte| byte != 0)
}

/// The highest durable offset that a mark in `chunk` proves.
fn find_mark(chunk: &[u8]) -> Option<u64> {
    let places = (0..chunk.len().saturating_sub(FRAME_HEADER_BYTES - 1)).filter(|&at| chunk[at..].starts_with(&MARK_START));
    let marks = places.filter_map(|at| match read_header(&chunk[at..]) {
        Ok(Header::Mark { durable_offset }) => Some(durable_offset),
        _ => None,
    });
    marks.max()
}

/// Cuts what is torn and makes what is whole durable.
///
/// What was written since the last proof may be in the page cache alone, and marked clean there by an fsync that failed:
/// syncing again would write nothing. So it is written again.
fn cut_tail<S: LogStorage>(storage: &S, entry: &LogEntry, tail: &Tail) -> Result<()> {
    storage.truncate(entry.name, tail.end)?;
    let mut position = tail.proven;
    let mut chunk = Vec::new();
    while position < tail.end {
        chunk.resize(READ_BYTES.min(tail.end - position) as usize, 0);
        storage.read_at(entry.name, position, &mut chunk)?;
        storage.write_at(entry.name, position, &chunk)?;
        position += chunk.len() as u64;
    }
    storage.sync(entry.name)
}

impl<S: LogStorage> RecoveredLog<S> {
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Of the schema that the columns have.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The first offset that is still there.
    pub fn first_offset(&self) -> u64 {
        self.index.lock().segments.front().map_or(self.end_offset, |segment| segment.first_offset)
    }

    /// The offset after the last row.
    pub fn end_offset(&self) -> u64 {
        self.end_offset
    }

    /// Bytes of the torn tail that was cut: of requests that were never acknowledged.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Reads records from the one that holds `from_offset` on. An offset outside of the log is an error: then rows are
    /// missing that were committed, or needed.
    pub fn read(&self, from_offset: u64) -> Result<JournalReader<S>> {
        let (first, end) = (self.first_offset(), self.end_offset);
        if !(first..=end).contains(&from_offset) {
            return Err(Error::damaged(format!(
                "offset {from_offset} of the journal {} is needed, which holds {first} to {end}; restore the files of the journal",
                self.incarnation
            )));
        }
        Ok(JournalReader::new(self.storage.clone(), self.incarnation, self.index.clone(), from_offset))
    }

    /// Deletes segments that hold only offsets below `up_to`.
    pub fn trim(&self, up_to: u64) -> Result<()> {
        for first_offset in self.index.remove_below(up_to) {
            self.storage.delete(LogName::Segment { incarnation: self.incarnation, first_offset })?;
        }
        Ok(())
    }

    /// Deletes the incarnation, once every shard has committed all of it. The oldest segments go first: what an
    /// interrupted deletion leaves is the end of the log, which the next start can read and delete.
    pub fn delete(&self) -> Result<()> {
        self.trim(self.end_offset)?;
        self.storage.delete_incarnation(self.incarnation)
    }
}
