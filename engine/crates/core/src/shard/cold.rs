//! Keys that leave memory, and their windows: how `state.memory` bounds a shard whatever the number of its keys.
//!
//! A key without changes that no commit has may leave memory, with its open panes: its record in the store has them. How many
//! panes of a start are only there is counted ([`super::windows::WindowState`]). When the start closes, a walk over the keys'
//! records finds them. In the order of the store that is the cheapest way to read many of them, and usually most keys have a
//! pane in the window that closes. Each comes back into memory for the commit that takes the pane off, so closing waits for
//! commits where memory has no room.

use super::blocks::{self, Entry};
use super::freeze;
use super::keys;
use super::windows::word_start;
use super::{ClosedPane, Shard};
use crate::guards::{self, Guard};
use crate::table::Slot;
use crate::{Error, Result};

/// Slots that one call of [`Shard::evict`] looks at, and two more for each key that came into memory since the last one: so it
/// keeps pace with any batch, also where it meets the newest keys first, which have to stay.
const MAX_EVICTION_LOOKS: usize = 4096;
const EVICTION_LOOKS_PER_KEY: usize = 2;
/// Beyond its share of `state.memory` a shard holds so many keys more, as a part of it, while they wait for a commit. Then it
/// asks for one, and closes no window whose keys would have to come back.
const ROOM_PART: usize = 4;
/// With so many times its share a shard takes no rows before its commit.
const OVERFULL_TIMES: usize = 2;

/// Where a walk over the store for the panes of one start is.
#[derive(Debug)]
pub(super) struct ColdWalk {
    start_us: i64,
    /// The first that was not looked at: a key's record, or its place in a block.
    next: Vec<u8>,
}

/// A key that is only in the store.
struct Found {
    hash: u64,
    key: Vec<u8>,
    state: Vec<u8>,
    /// By a record of its own, not by a block.
    own: bool,
}

impl Shard {
    /// Drops keys that no commit has to write until the shard is within its share of `state.memory`. Looks at a bounded number
    /// of slots a call, and at each slot once a commit.
    pub fn evict(&mut self) {
        let mut looks = MAX_EVICTION_LOOKS + EVICTION_LOOKS_PER_KEY * std::mem::take(&mut self.keys_brought_in);
        while self.held_keys() > self.max_hot_keys && looks > 0 && self.evict_looks > 0 {
            looks -= 1;
            self.evict_looks -= 1;
            let slot = self.evict_hand;
            self.evict_hand = (slot + 1) % self.table.slot_end();
            let clean =
                u64::from(self.table.dirty_epoch(slot)) <= self.committed_epoch & 0xffff_ffff || guards::off(Guard::EvictClean);
            if self.table.is_live(slot) && clean {
                self.cool(slot);
                self.table.remove(slot);
            }
        }
    }

    /// Keys in memory. What they hold beside their slots, long texts and panes, counts as so many keys more as would take as much.
    pub(super) fn held_keys(&self) -> usize {
        self.table.len() + (self.table.long_key_bytes() + self.overflow_bytes()) / self.table.bytes_per_key()
    }

    fn overflow_bytes(&self) -> usize {
        std::iter::zip(&self.windows, &self.plan.windows).map(|(state, plan)| state.overflow_bytes(plan.pane_words)).sum()
    }

    /// What the keys in memory take, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.overflow_bytes()
    }

    /// Counts a slot's panes as those of a key that is only in the store.
    fn cool(&mut self, slot: Slot) {
        let state = self.table.state(slot);
        for (window, plan) in std::iter::zip(&mut self.windows, &self.plan.windows) {
            for place in plan.pane_places().filter(|place| state[*place] != 0) {
                window.cooled(word_start(state[place]));
            }
            window.cool_overflow(slot);
        }
    }

    /// Keys that may come into memory before the next commit.
    fn room(&self) -> usize {
        (self.max_hot_keys + self.max_hot_keys / ROOM_PART + 1).saturating_sub(self.held_keys())
    }

    fn has_uncommitted(&self) -> bool {
        self.changed || self.commit_in_flight
    }

    /// Whether keys that are only in the store must stay there until a commit has made room.
    pub(super) fn waits_for_room(&self) -> bool {
        self.room() == 0 && self.has_uncommitted()
    }

    /// Whether the keys in memory are so many more than its share that the shard should take no rows before its commit.
    pub fn is_overfull(&self) -> bool {
        self.held_keys() > self.max_hot_keys.saturating_mul(OVERFULL_TIMES) && self.has_uncommitted()
    }

    /// Closes panes of one start whose keys are only in the store, looking at no more than `budget` records; returns what is
    /// left of it. `None`: there is no room for a key before the next commit.
    pub(super) fn close_cold(
        &mut self,
        window: usize,
        start_us: i64,
        budget: usize,
        close: &mut dyn FnMut(ClosedPane<'_>),
    ) -> Result<Option<usize>> {
        while self.room() == 0 && self.evict_looks > 0 && self.held_keys() > self.max_hot_keys {
            self.evict();
        }
        let room = self.room();
        if room == 0 {
            return Ok(None);
        }
        let (found, looks) = self.find_cold(window, start_us, budget, room)?;
        for Found { hash, key, state, .. } in found {
            let slot = self.table.insert(hash, &key);
            self.keys_brought_in += 1;
            self.read_slot(slot, &state)?;
            self.close_slot(window, start_us, slot, close);
        }
        Ok(Some(budget.saturating_sub(looks)))
    }

    /// The next keys with a pane of this start, at most `room`, that are not in memory; and how many were looked at.
    fn find_cold(&mut self, window: usize, start_us: i64, budget: usize, room: usize) -> Result<(Vec<Found>, usize)> {
        let walk = self.windows[window].cold_walk.take().filter(|walk| walk.start_us == start_us);
        let from_first = walk.is_none();
        let from = walk.map_or_else(|| keys::BLOCKS_FROM.to_vec(), |walk| walk.next);
        let table = &self.table;
        let base_words = self.plan.base_words();
        let mut looks = ColdLooks { looks: 0, budget, room, found: Vec::new(), next: None };
        let mut outcome = Ok(());
        // Of the block in which the last walk ended only what comes behind.
        let first = keys::parse_key_record(&from).filter(|_| from.starts_with(keys::BLOCKS_FROM));
        let wanted = |entry: Entry<'_>| {
            freeze::has_pane(entry.state, base_words, window, start_us) && table.find(entry.hash, entry.key).is_none()
        };
        self.store.scan(&from, keys::KEYS_TO, &mut |record, value| {
            let Some((hash, key)) = keys::parse_key_record(record) else { return true };
            if record.starts_with(keys::KEYS_FROM) {
                let entry = Entry { hash, key, state: value };
                return looks.take(entry, true, &wanted);
            }
            outcome = blocks::visit(value, &mut |entry| {
                first.is_some_and(|first| (entry.hash, entry.key) < first) || looks.take(entry, false, &wanted)
            });
            outcome.is_ok() && looks.next.is_none()
        })?;
        outcome?;
        let ColdLooks { looks, mut found, next, .. } = looks;
        self.drop_older(&mut found)?;
        // A key may have left memory behind the walk: then it begins anew.
        if next.is_none() && from_first && found.is_empty() {
            let cold = self.windows[window].panes_of(start_us).1;
            return Err(Error::damaged(format!("shard {}: no key's record has the {cold} open panes that are counted", self.id)));
        }
        self.windows[window].cold_walk = next.map(|next| ColdWalk { start_us, next });
        Ok((found, looks))
    }

    /// Drops what blocks have of keys that have a record of their own: the walk comes to that later.
    fn drop_older(&self, found: &mut Vec<Found>) -> Result<()> {
        let mut outcome = Ok(());
        found.retain(|found| {
            let own = match found.own {
                true => Ok(None),
                false => self.store.get(&keys::key_record(found.hash, &found.key)),
            };
            match own {
                Ok(own) => own.is_none() || guards::off(Guard::OwnRecordFirst),
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        });
        outcome
    }
}

/// What a walk over the store looks at, and where it ends.
struct ColdLooks {
    looks: usize,
    budget: usize,
    room: usize,
    found: Vec<Found>,
    /// The first that was not looked at.
    next: Option<Vec<u8>>,
}

impl ColdLooks {
    /// Looks at the next key; false where the walk ends before it.
    fn take(&mut self, entry: Entry<'_>, own: bool, wanted: &dyn Fn(Entry<'_>) -> bool) -> bool {
        let Entry { hash, key, state } = entry;
        if self.looks >= self.budget || self.found.len() >= self.room {
            self.next = Some(if own { keys::key_record(hash, key) } else { keys::block_key(hash, key) });
            return false;
        }
        self.looks += 1;
        if wanted(entry) {
            self.found.push(Found { hash, key: key.to_vec(), state: state.to_vec(), own });
        }
        true
    }
}
