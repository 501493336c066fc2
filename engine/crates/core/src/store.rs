//! What a shard needs from its storage: ordered bytes, point reads, range reads, and one atomic write a commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::Result;

/// Writes of one commit, applied together or not at all (I1).
///
/// Puts are sorted by key and unique; deletes name no key that is also put. All bytes lie in one arena, so that a
/// commit of 15,000 keys costs a handful of allocations.
#[derive(Debug, Default, Clone)]
pub struct WriteSet {
    arena: Vec<u8>,
    puts: Vec<PutRange>,
    pub deletes: Vec<Vec<u8>>,
    /// Half-open key ranges to forget: what earlier commits put there, never what this one puts.
    pub forget: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
struct PutRange {
    start: usize,
    key_len: u32,
    value_len: u32,
}

impl WriteSet {
    /// Forgets all writes, and makes room for so many puts of so many bytes together. Memory is kept: fresh pages for each commit
    /// cost more than writing to them.
    pub fn begin(&mut self, puts: usize, bytes: usize) {
        self.arena.clear();
        self.arena.reserve(bytes);
        self.puts.clear();
        self.puts.reserve(puts);
        self.deletes.clear();
        self.forget.clear();
    }

    /// Appends a put. Keys must come in ascending order.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with(key, |arena| arena.extend_from_slice(value));
    }

    /// Appends a put whose value is written in place.
    pub fn put_with(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.last_key().is_none_or(|last| last < key), "puts must be sorted and unique");
        let start = self.arena.len();
        self.arena.extend_from_slice(key);
        let value_start = self.arena.len();
        write(&mut self.arena);
        let value_len = (self.arena.len() - value_start) as u32;
        self.puts.push(PutRange { start, key_len: key.len() as u32, value_len });
    }

    fn last_key(&self) -> Option<&[u8]> {
        self.puts.last().map(|put| &self.arena[put.start..put.start + put.key_len as usize])
    }

    /// All puts in ascending key order.
    pub fn puts(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.puts.iter().map(|put| {
            let value_start = put.start + put.key_len as usize;
            (&self.arena[put.start..value_start], &self.arena[value_start..value_start + put.value_len as usize])
        })
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }
}

/// Storage of one shard. Reads may run beside a commit and see it whole or not at all.
pub trait ShardStore: Send + Sync {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Visits the entries of `[from, to)` in key order until `visit` returns false.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()>;

    /// The value of the first entry of `[from, to)` in key order: a point read.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.scan(from, to, &mut |_, value| {
            found = Some(value.to_vec());
            false
        })?;
        Ok(found)
    }

    /// Makes all of `writes` durable at once. When it returns, a crash keeps them.
    fn commit(&self, writes: &WriteSet) -> Result<()>;
}

impl<T: ShardStore + ?Sized> ShardStore for Arc<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        (**self).get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        (**self).scan(from, to, visit)
    }

    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        (**self).first(from, to)
    }

    fn commit(&self, writes: &WriteSet) -> Result<()> {
        (**self).commit(writes)
    }
}

/// A shard store in memory: for runs in process, tests and the simulation. Durable as long as the value lives.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl ShardStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.lock().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self.lock().range(from.to_vec()..to.to_vec()) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, writes: &WriteSet) -> Result<()> {
        let mut entries = self.lock();
        for (from, to) in &writes.forget {
            let gone: Vec<_> = entries.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
            for key in gone {
                entries.remove(&key);
            }
        }
        for key in &writes.deletes {
            entries.remove(key);
        }
        for (key, value) in writes.puts() {
            entries.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }
}
