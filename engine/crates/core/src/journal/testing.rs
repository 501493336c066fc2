//! A disk in memory that crashes: unsynced writes are forgotten, kept or torn, and it can be full or broken.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::storage::{Incarnation, LogEntry, LogName, LogStorage};
use crate::{Error, Result};

/// A write that is torn is torn at a multiple of this many bytes.
pub const SECTOR_BYTES: usize = 512;

/// A seeded disk. What [`LogStorage::sync`] has not confirmed is at the mercy of [`SimulatedStorage::crash`].
#[derive(Debug)]
pub struct SimulatedStorage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Contents by file number: names move, contents stay.
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<LogName, u64>,
    durable_names: BTreeMap<LogName, u64>,
    /// Changes of names since the directory was synced, in order.
    pending_names: Vec<(LogName, Option<u64>)>,
    next_file: u64,
    random: u64,
    capacity: u64,
    fail_writes_after: Option<u64>,
    fail_syncs_after: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct Contents {
    /// As programs see it; shorter than `length` where the rest is zeros.
    cached: Vec<u8>,
    length: u64,
    durable: Vec<u8>,
    durable_length: u64,
    pending: Vec<Change>,
    /// What a failed sync left: the system counts it as written, so that no later sync writes it.
    lost: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Length(u64),
}

impl Contents {
    fn write_through(&mut self, change: Change) {
        match change {
            Change::Write { position, bytes } => put(&mut self.durable, position, &bytes),
            Change::Length(length) => {
                self.durable.truncate(length as usize);
                self.durable_length = length;
            }
        }
    }
}

fn put(contents: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    if contents.len() < position + bytes.len() {
        contents.resize(position + bytes.len(), 0);
    }
    contents[position..position + bytes.len()].copy_from_slice(bytes);
}

impl SimulatedStorage {
    pub fn new(seed: u64) -> SimulatedStorage {
        let state = State { random: seed, capacity: u64::MAX, ..State::default() };
        SimulatedStorage { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that all files may take together; `create` beyond them meets a full disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// The write after this many further ones fails, and those behind it.
    pub fn fail_writes_after(&self, writes: Option<u64>) {
        self.lock().fail_writes_after = writes;
    }

    /// The sync after this many further ones fails, and those behind it. What a failed sync should have made durable never
    /// becomes so by a later one.
    pub fn fail_syncs_after(&self, syncs: Option<u64>) {
        self.lock().fail_syncs_after = syncs;
    }

    /// The power fails: of what was not synced, each sector is kept or forgotten, as the seed has it.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.fail_writes_after = None;
        state.fail_syncs_after = None;
        let renamed = state.pending_names.len() as u64;
        let kept = state.below(renamed + 1) as usize;
        let changes: Vec<_> = state.pending_names.drain(..).take(kept).collect();
        for (name, file) in changes {
            apply_name(&mut state.durable_names, name, file);
        }
        state.names = state.durable_names.clone();
        let mut files = std::mem::take(&mut state.files);
        let named: Vec<u64> = state.names.values().copied().collect();
        files.retain(|file, _| named.contains(file));
        for contents in files.values_mut() {
            crash_contents(contents, &mut state);
        }
        state.files = files;
    }

    /// Changes durable contents behind everyone's back, as a bad disk does.
    pub fn damage(&self, name: LogName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if let Some(file) = state.names.get(&name).copied()
            && let Some(contents) = state.files.get_mut(&file)
        {
            let length = contents.length as usize;
            contents.cached.resize(length, 0);
            change(&mut contents.cached);
            contents.length = contents.cached.len() as u64;
            contents.durable = contents.cached.clone();
            contents.durable_length = contents.length;
        }
    }
}

/// Each unsynced change is kept, forgotten or, if it is a write, torn. A later one may survive an earlier one.
fn crash_contents(contents: &mut Contents, state: &mut State) {
    let lost = std::mem::take(&mut contents.lost);
    for change in lost.into_iter().chain(std::mem::take(&mut contents.pending)) {
        match change {
            change @ Change::Length(_) if state.below(2) == 0 => contents.write_through(change),
            Change::Length(_) => {}
            Change::Write { position, bytes } => {
                let fate = state.below(4);
                let mut start = 0;
                while start < bytes.len() {
                    let sector_end = (position + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                    let end = bytes.len().min(sector_end - position);
                    let keep = match fate {
                        0 => false,
                        1 => true,
                        _ => state.below(2) == 0,
                    };
                    let fits = (position + end) as u64 <= contents.durable_length;
                    if keep && fits {
                        put(&mut contents.durable, position + start, &bytes[start..end]);
                    }
                    start = end;
                }
            }
        }
    }
    contents.cached = contents.durable.clone();
    contents.length = contents.durable_length;
}

fn apply_name(names: &mut BTreeMap<LogName, u64>, name: LogName, file: Option<u64>) {
    match file {
        Some(file) => names.insert(name, file),
        None => names.remove(&name),
    };
}

impl State {
    /// A number below `bound`, by splitmix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn change_name(&mut self, name: LogName, file: Option<u64>) {
        apply_name(&mut self.names, name, file);
        self.pending_names.push((name, file));
    }

    fn file(&mut self, name: LogName) -> Result<&mut Contents> {
        let number = self.names.get(&name).copied();
        let contents = number.and_then(|number| self.files.get_mut(&number));
        contents.ok_or_else(|| Error::damaged(format!("{name} does not exist")))
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|contents| contents.length).sum()
    }
}

/// Counts down; true when it is time to fail.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        None => false,
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

impl LogStorage for SimulatedStorage {
    fn list(&self) -> Result<Vec<LogEntry>> {
        let state = self.lock();
        let entries = state.names.iter().map(|(&name, file)| LogEntry { name, bytes: state.files[file].length });
        Ok(entries.collect())
    }

    fn create(&self, name: LogName, bytes: u64) -> Result<()> {
        let mut state = self.lock();
        if state.used().saturating_add(bytes) > state.capacity {
            return Err(Error::outside("the disk is full: free some of it"));
        }
        state.next_file += 1;
        let file = state.next_file;
        let contents = Contents { length: bytes, pending: vec![Change::Length(bytes)], ..Contents::default() };
        state.files.insert(file, contents);
        state.change_name(name, Some(file));
        Ok(())
    }

    fn rename(&self, from: LogName, to: LogName) -> Result<()> {
        let mut state = self.lock();
        let file = state.names.get(&from).copied();
        let file = file.ok_or_else(|| Error::damaged(format!("{from} does not exist")))?;
        state.change_name(to, Some(file));
        state.change_name(from, None);
        Ok(())
    }

    fn write_at(&self, name: LogName, position: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        if due(&mut state.fail_writes_after) {
            return Err(Error::damaged(format!("{name}: the disk failed a write")));
        }
        let contents = state.file(name)?;
        if position + bytes.len() as u64 > contents.length {
            return Err(Error::damaged(format!("{name}: a write behind the end of the file")));
        }
        put(&mut contents.cached, position as usize, bytes);
        contents.pending.push(Change::Write { position: position as usize, bytes: bytes.to_vec() });
        Ok(())
    }

    fn read_at(&self, name: LogName, position: u64, buffer: &mut [u8]) -> Result<()> {
        let mut state = self.lock();
        let contents = state.file(name)?;
        if position + buffer.len() as u64 > contents.length {
            return Err(Error::damaged(format!("{name}: a read behind the end of the file")));
        }
        let cached = contents.cached.get(position as usize..).unwrap_or_default();
        let copied = cached.len().min(buffer.len());
        buffer[..copied].copy_from_slice(&cached[..copied]);
        buffer[copied..].fill(0);
        Ok(())
    }

    fn truncate(&self, name: LogName, bytes: u64) -> Result<()> {
        let mut state = self.lock();
        let contents = state.file(name)?;
        contents.cached.truncate(bytes as usize);
        contents.length = bytes;
        contents.pending.push(Change::Length(bytes));
        Ok(())
    }

    fn sync(&self, name: LogName) -> Result<()> {
        let mut state = self.lock();
        let failed = due(&mut state.fail_syncs_after);
        let contents = state.file(name)?;
        let changes = std::mem::take(&mut contents.pending);
        if failed {
            contents.lost.extend(changes);
            return Err(Error::damaged(format!("{name}: the disk failed a sync")));
        }
        for change in changes {
            contents.write_through(change);
        }
        Ok(())
    }

    fn sync_directory(&self, incarnation: Incarnation) -> Result<()> {
        let mut state = self.lock();
        if due(&mut state.fail_syncs_after) {
            return Err(Error::damaged(format!("the disk failed to sync the directory {incarnation}")));
        }
        let State { pending_names, durable_names, .. } = &mut *state;
        pending_names.retain(|&(name, file)| {
            let synced = name.incarnation() == incarnation;
            if synced {
                apply_name(durable_names, name, file);
            }
            !synced
        });
        Ok(())
    }

    fn delete(&self, name: LogName) -> Result<()> {
        let mut state = self.lock();
        if state.names.contains_key(&name) {
            state.change_name(name, None);
        }
        Ok(())
    }

    fn delete_incarnation(&self, incarnation: Incarnation) -> Result<()> {
        let mut state = self.lock();
        let mut names: Vec<LogName> = state.names.keys().copied().filter(|name| name.incarnation() == incarnation).collect();
        // A directory's files are deleted in any order, and a crash may come in between.
        while !names.is_empty() {
            let next = state.below(names.len() as u64) as usize;
            let name = names.swap_remove(next);
            state.change_name(name, None);
        }
        Ok(())
    }
}
