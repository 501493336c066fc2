//! Stores and output segments on a disk that crashes. (The journal's disk is the core's own.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamjob_core::Result;
use streamjob_core::commit::{FoundSegment, found_segment};
use streamjob_core::guards::{self, Guard};
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};

use crate::random::Random;

/// One shard's store: a commit is durable at once, or lost in a crash.
#[derive(Debug, Default)]
pub struct SimulatedStore {
    entries: MemoryStore,
    pending: Mutex<Option<WriteSet>>,
}

impl SimulatedStore {
    fn pending(&self) -> MutexGuard<'_, Option<WriteSet>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a commit, which nobody sees before [`SimulatedStore::finish`].
    pub fn begin(&self, writes: WriteSet) {
        *self.pending() = Some(writes);
    }

    /// The disk is full in the middle of a commit: nothing of it was.
    pub fn abandon(&self) {
        *self.pending() = None;
    }

    /// The commit is durable.
    pub fn finish(&self) -> Result<()> {
        let Some(writes) = self.pending().take() else { return Ok(()) };
        self.entries.commit(&writes)
    }

    /// A crash: a commit under way is kept or lost; true if it was kept.
    pub fn crash(&self, random: &mut Random) -> bool {
        let Some(writes) = self.pending().take() else { return false };
        if guards::off(Guard::Atomic) {
            let kept = random.below(writes.puts().len() as u64 + 1) as usize;
            let mut part = WriteSet::default();
            writes.puts().take(kept).for_each(|(key, value)| part.put(key, value));
            self.entries.commit(&part).expect("memory");
            return false;
        }
        let kept = random.percent(50);
        if kept {
            self.entries.commit(&writes).expect("memory");
        }
        kept
    }
}

impl ShardStore for SimulatedStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.entries.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.entries.scan(from, to, visit)
    }

    fn commit(&self, writes: &WriteSet) -> Result<()> {
        self.begin(writes.clone());
        self.finish()
    }
}

/// Which segment: sink, shard, number.
pub type SegmentKey = (usize, u16, u64);

#[derive(Debug, Default, Clone)]
struct Temporary {
    content: Vec<u8>,
    /// Bytes that survive a crash; `None`: not even the name does for certain.
    synced: Option<usize>,
}

/// Output directories of all sinks that write segments.
#[derive(Debug, Default)]
pub struct SegmentDisk {
    temporary: BTreeMap<SegmentKey, Temporary>,
    published: BTreeMap<SegmentKey, Vec<u8>>,
    /// Published, and the new name may be forgotten in a crash.
    renamed: BTreeMap<SegmentKey, ()>,
    /// What a reader has once seen under a final name.
    seen: BTreeMap<SegmentKey, Vec<u8>>,
    /// Bytes that still fit; `None`: as many as may be.
    pub room: Option<usize>,
}

/// Bytes that a writer collects for a segment before it writes.
const BUFFER_BYTES: usize = 300;

/// A process's segments on their way to the disk: what does not fit stays in memory, and is tried again.
#[derive(Debug, Default)]
pub struct Writers {
    /// What is not written yet of open segments.
    buffers: BTreeMap<SegmentKey, Vec<u8>>,
    /// Segments that the process has begun.
    begun: BTreeSet<SegmentKey>,
    stuck: BTreeSet<SegmentKey>,
}

impl Writers {
    /// Takes rows, whether there is room or not.
    pub fn write(&mut self, disk: &mut SegmentDisk, key: SegmentKey, bytes: &[u8]) -> Result<(), String> {
        let buffer = self.buffers.entry(key).or_default();
        buffer.extend_from_slice(bytes);
        if buffer.len() > BUFFER_BYTES { self.flush(disk, key) } else { Ok(()) }
    }

    fn flush(&mut self, disk: &mut SegmentDisk, key: SegmentKey) -> Result<(), String> {
        let Some(buffer) = self.buffers.get_mut(&key) else { return Ok(()) };
        let taken = disk.append(key, buffer, self.begun.insert(key))?;
        buffer.drain(..taken);
        if buffer.is_empty() {
            self.stuck.remove(&key)
        } else {
            self.stuck.insert(key)
        };
        Ok(())
    }

    /// Writes what there is of a shard's segments. False: there is no room at the moment.
    pub fn flush_shard(&mut self, disk: &mut SegmentDisk, shard: u16) -> Result<bool, String> {
        let mine: Vec<SegmentKey> = self.buffers.keys().filter(|(_, owner, _)| *owner == shard).copied().collect();
        mine.iter().try_for_each(|key| self.flush(disk, *key))?;
        Ok(!mine.iter().any(|key| self.stuck.contains(key)))
    }

    /// Ends a segment, of which everything was written.
    pub fn seal(&mut self, key: SegmentKey) -> Result<(), String> {
        match self.buffers.remove(&key) {
            Some(rest) if rest.is_empty() => Ok(()),
            _ => Err(format!("segment {key:?} is sealed and was not written")),
        }
    }

    /// Whether output of one of these shards waits for room.
    pub fn is_stuck(&self, shards: impl Fn(u16) -> bool) -> bool {
        self.stuck.iter().any(|(_, shard, _)| shards(*shard))
    }
}

impl SegmentDisk {
    /// Appends to a segment as much as there is room for, and says how much; `begins` where this process has not written to it yet.
    /// The error is a broken promise.
    fn append(&mut self, key: SegmentKey, bytes: &[u8], begins: bool) -> Result<usize, String> {
        if self.published.contains_key(&key) && !guards::off(Guard::Segment) {
            return Err(format!("segment {key:?} is visible already and is written again"));
        }
        let file = self.temporary.entry(key).or_default();
        if begins {
            *file = Temporary::default();
        }
        let taken = self.room.unwrap_or(usize::MAX).min(bytes.len());
        self.room = self.room.map(|room| room - taken);
        file.content.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Makes content and name durable. The rows must be as many as the commit says.
    pub fn sync(&mut self, key: SegmentKey, rows: u64) -> Result<(), String> {
        let file = self.temporary.get_mut(&key).ok_or_else(|| format!("segment {key:?} of a commit was never written"))?;
        let lines = file.content.iter().filter(|byte| **byte == b'\n').count() as u64;
        if lines != rows {
            return Err(format!("segment {key:?} has {lines} rows, the commit says {rows}"));
        }
        file.synced = Some(file.content.len());
        Ok(())
    }

    /// Makes a segment visible.
    pub fn publish(&mut self, key: SegmentKey) -> Result<(), String> {
        let file = self.temporary.remove(&key).ok_or_else(|| format!("segment {key:?} is gone before it became visible"))?;
        if self.published.contains_key(&key) && !guards::off(Guard::Segment) {
            return Err(format!("segment {key:?} would replace a visible one"));
        }
        if let Some(seen) = self.seen.get(&key)
            && *seen != file.content
        {
            return Err(format!("segment {key:?} changed after a reader had seen it"));
        }
        self.seen.insert(key, file.content.clone());
        self.published.insert(key, file.content);
        self.renamed.insert(key, ());
        Ok(())
    }

    /// Forgets what was not synced, in part.
    pub fn crash(&mut self, random: &mut Random) {
        for key in std::mem::take(&mut self.renamed).into_keys() {
            if random.percent(30)
                && let Some(content) = self.published.remove(&key)
            {
                let synced = Some(content.len());
                self.temporary.insert(key, Temporary { content, synced });
            }
        }
        self.temporary.retain(|_, file| match file.synced {
            None if random.percent(50) => false,
            synced => {
                let from = synced.unwrap_or(0);
                let kept = from + random.below((file.content.len() - from) as u64 + 1) as usize;
                file.content.truncate(kept);
                true
            }
        });
    }

    /// Brings one shard's output of one sink to what was committed: segments below `committed_end`.
    pub fn recover(&mut self, sink: usize, shard: u16, committed_end: u64) -> Result<(), String> {
        let keys: Vec<SegmentKey> =
            self.temporary.range((sink, shard, 0)..=(sink, shard, u64::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            match found_segment(key.2, committed_end) {
                FoundSegment::Publish => self.publish(key)?,
                FoundSegment::Delete => drop(self.temporary.remove(&key)),
            }
        }
        match (0..committed_end).find(|number| !self.published.contains_key(&(sink, shard, *number))) {
            Some(missing) => Err(format!("segment {:?} was committed and is missing", (sink, shard, missing))),
            None => Ok(()),
        }
    }

    /// Lines of a sink that are not visible, also such as no commit has.
    pub fn hidden(&self, sink: usize) -> impl Iterator<Item = &str> {
        let segments = self.temporary.range((sink, 0, 0)..=(sink, u16::MAX, u64::MAX));
        segments.flat_map(|(_, file)| std::str::from_utf8(&file.content).unwrap_or("not UTF-8").lines())
    }

    /// All visible lines of a sink.
    pub fn lines(&self, sink: usize) -> impl Iterator<Item = &str> {
        let segments = self.published.range((sink, 0, 0)..=(sink, u16::MAX, u64::MAX));
        segments.flat_map(|(_, content)| std::str::from_utf8(content).unwrap_or("not UTF-8").lines())
    }
}
