//! The hot keys of one shard: an open-addressing index over pages of fixed-width slots.
//!
//! ```text
//!  index: [tag | slot + 1] [tag | slot + 1] …      one word an entry, linear probing
//!                 │
//!  pages: ┌───────▼──────────────────────────────────────────────┐
//!         │ hash │ key (15 bytes inline) │ rows │ state …        │   one slot a key, all its fields together
//!         └───────────────────────────────────────────────────────┘
//!  epochs: when each slot changed last, beside them: 4 bytes a key, which stay in the cache
//! ```
//!
//! With many keys the time goes into cache misses: callers prefetch the index entry, then the slot, some rows before they touch
//! it, while they work on others (the scheme is the software-pipelined one of Chen et al., "Improving hash join performance
//! through prefetching", TODS 32, 2007).

mod pages;

pub use pages::{BlockHook, set_block_hook};

use pages::SlotPages;

/// Keys up to this many bytes lie in the slot itself.
pub const INLINE_KEY_BYTES: usize = 15;
const LONG_KEY: u8 = 0xff;

/// Words before a slot's state: hash, two words of key.
pub const HEADER_WORDS: usize = 3;

/// The part of an index entry that is of the key's hash.
const TAG_MASK: u64 = 0xffff_ffff_0000_0000;

/// Number of a slot within its table.
pub type Slot = u32;

/// No table has so many.
pub const NO_SLOT: Slot = Slot::MAX;

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// Which cache lines of a slot a row will touch, of its first 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLines(u64);

impl SlotLines {
    /// The lines of the header and of the first `state_words` words of the state.
    pub fn head(state_words: usize) -> SlotLines {
        SlotLines(0).and_words(0, HEADER_WORDS + state_words)
    }

    /// With those of `words` words of the state from word `at` on.
    #[must_use]
    pub fn and_state(self, at: usize, words: usize) -> SlotLines {
        self.and_words(HEADER_WORDS + at, words)
    }

    fn and_words(self, from: usize, words: usize) -> SlotLines {
        let lines = from / LINE_WORDS..(from + words).div_ceil(LINE_WORDS);
        SlotLines(lines.take_while(|line| *line < 64).fold(self.0, |lines, line| lines | 1 << line))
    }
}

/// The hot keys of one shard.
#[derive(Debug)]
pub struct KeyTable {
    entries: Vec<u64>,
    len: usize,
    pages: SlotPages,
    /// By slot: the epoch in which it changed last.
    epochs: Vec<u32>,
    next_slot: Slot,
    free: Vec<Slot>,
    long_keys: Vec<Box<[u8]>>,
    free_long: Vec<u32>,
    /// Bytes of the long keys, with what each takes beside its text.
    long_bytes: usize,
}

/// What a long key takes beside its text: its place, and the allocator's own.
const LONG_KEY_BYTES: usize = 32;

impl KeyTable {
    /// A table whose slots have `state_words` words behind the header.
    pub fn new(state_words: usize) -> KeyTable {
        KeyTable {
            entries: vec![0; 64],
            len: 0,
            pages: SlotPages::new(HEADER_WORDS + state_words),
            epochs: Vec::new(),
            next_slot: 0,
            free: Vec::new(),
            long_keys: Vec::new(),
            free_long: Vec::new(),
            long_bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more than the highest slot ever used: the end of a walk over all slots.
    pub fn slot_end(&self) -> Slot {
        self.next_slot
    }

    /// What the table holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.entries.len() * 8 + self.epochs.len() * 4 + self.pages.memory_bytes() + self.long_bytes
    }

    /// What keys take whose text does not fit into their slot, beside the slot.
    pub fn long_key_bytes(&self) -> usize {
        self.long_bytes
    }

    /// Bytes that one more key takes, index included.
    pub fn bytes_per_key(&self) -> usize {
        self.pages.stride() * 8 + 20
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        // The low bits chose the shard, so the index takes its bits from the middle.
        (hash >> 16) as usize & (self.entries.len() - 1)
    }

    #[inline]
    fn tag(hash: u64) -> u64 {
        hash & TAG_MASK
    }

    /// Brings the index entry of a hash into the cache.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        prefetch(&raw const self.entries[self.home(hash)]);
    }

    /// Brings `lines` of the slot that the hash most likely has into the cache; the entries should be there already. It goes on
    /// where another key has the first one: with one in four entries that is so, and its slot would be no help. Gives that slot, or
    /// [`NO_SLOT`], for [`KeyTable::find_from`].
    #[inline]
    pub fn prefetch_slot(&self, hash: u64, lines: SlotLines) -> Slot {
        let mask = self.entries.len() - 1;
        let mut at = self.home(hash);
        while self.entries[at] != 0 {
            if self.entries[at] & TAG_MASK == Self::tag(hash) {
                let slot = (self.entries[at] as u32) - 1;
                let words = self.words(slot);
                let mut left = lines.0;
                while left != 0 {
                    if let Some(word) = words.get(left.trailing_zeros() as usize * LINE_WORDS) {
                        prefetch(word);
                    }
                    left &= left - 1;
                }
                return slot;
            }
            at = (at + 1) & mask;
        }
        NO_SLOT
    }

    /// Brings a slot into the cache.
    #[inline]
    pub fn prefetch(&self, slot: Slot) {
        for line in self.words(slot).chunks(LINE_WORDS) {
            prefetch(&raw const line[0]);
        }
    }

    /// As [`KeyTable::find`], of which the answer is most likely `guess`: any slot that the table has had, or [`NO_SLOT`].
    #[inline]
    pub fn find_from(&self, guess: Slot, hash: u64, key: &[u8]) -> Option<Slot> {
        if guess != NO_SLOT && self.words(guess)[0] == hash && self.key_is(guess, key) {
            return Some(guess);
        }
        self.find(hash, key)
    }

    /// The slot of a key, if it is hot.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Slot> {
        let mask = self.entries.len() - 1;
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry == 0 {
                return None;
            }
            if entry & TAG_MASK == Self::tag(hash) {
                let slot = (entry as u32) - 1;
                if self.words(slot)[0] == hash && self.key_is(slot, key) {
                    return Some(slot);
                }
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn key_is(&self, slot: Slot, key: &[u8]) -> bool {
        let words = self.words(slot);
        if key.len() <= INLINE_KEY_BYTES { is_inline_key(words[1], words[2], key) } else { self.key(slot, &mut [0; 16]) == key }
    }

    /// The slot's key. A short one is copied into `buffer`.
    pub fn key<'a>(&'a self, slot: Slot, buffer: &'a mut [u8; 16]) -> &'a [u8] {
        let words = self.words(slot);
        buffer[..8].copy_from_slice(&words[1].to_le_bytes());
        buffer[8..].copy_from_slice(&words[2].to_le_bytes());
        match buffer[0] {
            LONG_KEY => &self.long_keys[words[2] as usize],
            len => &buffer[1..=usize::from(len)],
        }
    }

    /// Adds a key that is not there; its state words are zero.
    pub fn insert(&mut self, hash: u64, key: &[u8]) -> Slot {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        let slot = self.take_slot();
        let key_words = if key.len() <= INLINE_KEY_BYTES {
            inline_key(key)
        } else {
            [u64::from(LONG_KEY), u64::from(self.keep_long_key(key))]
        };
        let words = self.pages.words_mut(slot);
        words[0] = hash;
        words[1..3].copy_from_slice(&key_words);
        self.epochs[slot as usize] = 0;
        self.index(hash, slot);
        self.len += 1;
        slot
    }

    /// A slot whose words are zero.
    fn take_slot(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.pages.words_mut(slot).fill(0);
            return slot;
        }
        let slot = self.next_slot;
        if slot as usize == self.pages.slots() {
            self.pages.add();
            self.epochs.resize(self.pages.slots(), 0);
        }
        self.next_slot += 1;
        slot
    }

    fn keep_long_key(&mut self, key: &[u8]) -> u32 {
        self.long_bytes += LONG_KEY_BYTES + key.len();
        match self.free_long.pop() {
            Some(place) => {
                self.long_keys[place as usize] = key.into();
                place
            }
            None => {
                self.long_keys.push(key.into());
                (self.long_keys.len() - 1) as u32
            }
        }
    }

    fn index(&mut self, hash: u64, slot: Slot) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(hash);
        while self.entries[at] != 0 {
            at = (at + 1) & mask;
        }
        self.entries[at] = Self::tag(hash) | u64::from(slot + 1);
    }

    /// Makes the index large enough for so many keys at once.
    pub fn reserve(&mut self, keys: usize) {
        let entries = (keys * 3 / 2).next_power_of_two();
        if entries > self.entries.len() {
            self.resize(entries);
        }
    }

    fn grow(&mut self) {
        self.resize(self.entries.len() * 2);
    }

    fn resize(&mut self, entries: usize) {
        let old = std::mem::replace(&mut self.entries, vec![0; entries]);
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            let slot = (entry as u32) - 1;
            self.index(self.words(slot)[0], slot);
        }
    }

    /// Forgets a key. Its slot is used again.
    pub fn remove(&mut self, slot: Slot) {
        let (hash, key_head, key_tail) = {
            let words = self.words(slot);
            (words[0], words[1] as u8, words[2])
        };
        if key_head == LONG_KEY {
            let key = std::mem::take(&mut self.long_keys[key_tail as usize]);
            self.long_bytes -= LONG_KEY_BYTES + key.len();
            self.free_long.push(key_tail as u32);
        }
        let mask = self.entries.len() - 1;
        let mut hole = self.home(hash);
        while self.entries[hole] as u32 != slot + 1 {
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        while self.entries[next] != 0 {
            let home = self.home(self.words((self.entries[next] as u32) - 1)[0]);
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.entries[hole] = self.entries[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.entries[hole] = 0;
        let words = self.pages.words_mut(slot);
        words[1] = u64::from(LONG_KEY);
        words[2] = u64::MAX;
        self.free.push(slot);
        self.len -= 1;
    }

    /// Whether the slot holds a key now.
    pub fn is_live(&self, slot: Slot) -> bool {
        let words = self.words(slot);
        !(words[1] == u64::from(LONG_KEY) && words[2] == u64::MAX)
    }

    #[inline]
    fn words(&self, slot: Slot) -> &[u64] {
        self.pages.words(slot)
    }

    /// The hash of the slot's key.
    #[inline]
    pub fn hash(&self, slot: Slot) -> u64 {
        self.words(slot)[0]
    }

    /// The slot's state words.
    #[inline]
    pub fn state(&self, slot: Slot) -> &[u64] {
        &self.words(slot)[HEADER_WORDS..]
    }

    /// The slot's state words, to change.
    #[inline]
    pub fn state_mut(&mut self, slot: Slot) -> &mut [u64] {
        &mut self.pages.words_mut(slot)[HEADER_WORDS..]
    }

    /// Notes that the slot changes in `epoch`; true the first time in that epoch.
    #[inline]
    pub fn mark_dirty(&mut self, slot: Slot, epoch: u32) -> bool {
        std::mem::replace(&mut self.epochs[slot as usize], epoch) != epoch
    }

    /// The last epoch in which the slot changed (0: not since it was read from the store).
    #[inline]
    pub fn dirty_epoch(&self, slot: Slot) -> u32 {
        self.epochs[slot as usize]
    }
}

/// A short key as two words: its length, then its bytes.
#[inline]
fn inline_key(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0u8; 16];
    bytes[0] = key.len() as u8;
    bytes[1..=key.len()].copy_from_slice(key);
    let (head, tail) = bytes.split_at(8);
    [u64::from_le_bytes(head.try_into().expect("eight bytes")), u64::from_le_bytes(tail.try_into().expect("eight bytes"))]
}

/// Whether two words are those of a short key. Of eight bytes and more the first and the last eight are compared, so that nothing is
/// copied.
#[inline]
fn is_inline_key(head: u64, tail: u64, key: &[u8]) -> bool {
    let (Some(first), Some(last)) = (key.first_chunk::<8>(), key.last_chunk::<8>()) else {
        return [head, tail] == inline_key(key);
    };
    let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    // What stands behind the first eight bytes, at the low end; there may be nothing.
    let rest = (last >> (8 * (INLINE_KEY_BYTES - key.len()))) >> 8;
    head == (first << 8 | key.len() as u64) && tail == (rest << 8 | first >> 56)
}

/// Asks the processor for a cache line; a hint without effect elsewhere than on x86-64.
#[inline(always)]
fn prefetch(address: *const u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::batch::hash_key;

    #[derive(Debug, Clone)]
    enum Step {
        Put(String, u64),
        Remove(String),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = prop_oneof!["[a-c]{0,2}", "[ab]{14,18}"];
        prop_oneof![
            3 => (key.clone(), any::<u64>()).prop_map(|(key, value)| Step::Put(key, value)),
            1 => key.prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec(step(), 0..400)) {
            let mut table = KeyTable::new(1);
            let mut model: HashMap<String, u64> = HashMap::new();
            // A poor hash on purpose: probes collide and wrap.
            let hash = |key: &str| hash_key(key.as_bytes()) & 0xffff_ffff_0007_ffff;
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        let slot = table.find(hash(&key), key.as_bytes());
                        let slot = slot.unwrap_or_else(|| table.insert(hash(&key), key.as_bytes()));
                        table.state_mut(slot)[0] = value;
                        model.insert(key, value);
                    }
                    Step::Remove(key) => {
                        let slot = table.find(hash(&key), key.as_bytes());
                        prop_assert_eq!(slot.is_some(), model.remove(&key).is_some());
                        if let Some(slot) = slot {
                            table.remove(slot);
                            prop_assert!(!table.is_live(slot));
                        }
                    }
                }
            }
            prop_assert_eq!(table.len(), model.len());
            for (key, value) in &model {
                let slot = table.find(hash(key), key.as_bytes()).expect("the key is there");
                prop_assert_eq!(table.state(slot)[0], *value);
                let mut buffer = [0; 16];
                prop_assert_eq!(table.key(slot, &mut buffer), key.as_bytes());
            }
        }
    }

    #[test]
    fn lines_of_a_slot_are_those_of_its_words() {
        assert_eq!(SlotLines::head(5), SlotLines(0b1), "eight words");
        assert_eq!(SlotLines::head(6), SlotLines(0b11));
        assert_eq!(SlotLines::head(13).and_state(21, 8), SlotLines(0b1011), "words 24 to 31 are the fourth line");
        assert_eq!(SlotLines::head(0).and_state(511, 9), SlotLines(0b1), "a slot may be longer than what is asked for");
    }

    proptest! {
        #[test]
        fn short_keys_are_told_apart(key in "[a-c]{0,15}", other in "[a-c]{0,15}", at in 0usize..15) {
            let near: String = key.chars().enumerate().map(|(i, c)| if i == at { 'd' } else { c }).collect();
            for other in [&key, &other, &near] {
                let [head, tail] = inline_key(other.as_bytes());
                prop_assert_eq!(is_inline_key(head, tail, key.as_bytes()), *other == key);
            }
        }
    }

    #[test]
    fn dirty_is_said_once_an_epoch() {
        let mut table = KeyTable::new(0);
        let slot = table.insert(1, b"a");
        assert!(table.mark_dirty(slot, 1));
        assert!(!table.mark_dirty(slot, 1));
        assert!(table.mark_dirty(slot, 2));
    }
}
