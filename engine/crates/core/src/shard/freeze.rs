//! One commit: what a shard had changed, copied out in a fraction of a millisecond, and its encoding by the committer.

use std::sync::Arc;

use super::blocks::BlockWriter;
use super::history::HistoryRows;
use super::windows::word_start;
use super::{SHARD_FORMAT, Shard, ShardMeta, SinkState, keys};
use crate::guards::{self, Guard};
use crate::outbox::Batch;
use crate::plan::Plan;
use crate::progress::NO_TIME;
use crate::store::{ShardStore, WriteSet};
use crate::table::Slot;
use crate::{Error, Result};

/// Version of a slot's record.
const SLOT_FORMAT: u8 = 1;
/// Expired request ids that one commit deletes at most, or twice those that it adds: the rest waits for the next.
const MAX_EXPIRED_REQUESTS: usize = 1024;
/// Slots are asked for so many before they are copied.
const PREFETCH_SLOTS: usize = 8;
/// A commit that changes at least this part of all keys writes all of them, and forgets what older files have.
const WHOLE_PART: usize = 2;
/// History is forgotten in steps of this part of its time-to-live, so that range deletes stay few.
const FORGET_STEPS: i64 = 64;

/// A segment that a commit makes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    pub sink: usize,
    pub number: u64,
    pub rows: u64,
}

/// A request's answer, kept for repeats (I10).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCommit {
    pub id: String,
    pub body_hash: u64,
    pub split: String,
    pub first_offset: u64,
    pub received_us: i64,
    /// HTTP status of the first answer.
    pub status: u16,
    /// Body of the first answer.
    pub answer: String,
}

/// Everything that one commit writes. Made by the worker, written by the committer.
#[derive(Debug)]
pub struct Frozen {
    pub shard: u16,
    pub epoch: u64,
    pub meta: ShardMeta,
    pub segments: Vec<SealedSegment>,
    /// Exactly-once batches that may leave once the commit is durable: sink, batch.
    pub sends: Vec<(usize, Batch)>,
    pub requests: Vec<RequestCommit>,
    slots: FrozenSlots,
    history: Arc<HistoryRows>,
    plan: Arc<Plan>,
    stores: Vec<(u32, Batch)>,
    deletes: Vec<(u32, u64)>,
    forget: Vec<(Vec<u8>, Vec<u8>)>,
    expire_requests_before_us: Option<i64>,
}

/// What keys are copied into for a commit, to be used again by later ones.
#[derive(Debug, Default)]
pub struct SlotBuffers {
    heads: Vec<SlotHead>,
    keys: Vec<u8>,
    words: Vec<u64>,
}

impl SlotBuffers {
    fn begin(&mut self, slots: usize, stride: usize) {
        self.heads.clear();
        self.heads.reserve(slots);
        self.keys.clear();
        self.keys.reserve(slots * 16);
        self.words.clear();
        self.words.reserve(slots * stride);
    }
}

#[derive(Debug, Default)]
struct FrozenSlots {
    copies: SlotBuffers,
    /// Panes outside of their slot, sorted by slot: slot, window, start, words.
    overflow: Vec<(Slot, u16, i64, Vec<u64>)>,
    stride: usize,
    base_words: usize,
    /// They are all keys of the shard: then they are written in blocks of about so many bytes.
    whole: Option<usize>,
    /// Places of panes within a slot's words: window, word, length.
    panes: Vec<(u16, usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct SlotHead {
    hash: u64,
    slot: Slot,
    key_at: u32,
    key_len: u32,
    /// Number of the slot's words within `words`, in strides.
    words_at: u32,
}

impl FrozenSlots {
    fn key(&self, head: &SlotHead) -> &[u8] {
        &self.copies.keys[head.key_at as usize..(head.key_at + head.key_len) as usize]
    }

    fn put_all(&self, writes: &mut WriteSet) {
        let heads = &self.copies.heads;
        // with their hashes beside them, so that sorting looks at a head only where two hashes are the same
        let mut order: Vec<(u64, u32)> = std::iter::zip(heads.iter().map(|head| head.hash), 0..).collect();
        let key_of = |number: u32| self.key(&heads[number as usize]);
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key_of(a.1).cmp(key_of(b.1))));
        let heads = order.iter().map(|(_, number)| &heads[*number as usize]);
        match self.whole {
            Some(block_bytes) => self.put_blocks(heads, block_bytes, writes),
            None => self.put_records(heads, writes),
        }
    }

    fn put_records<'a>(&self, heads: impl Iterator<Item = &'a SlotHead>, writes: &mut WriteSet) {
        let mut key = Vec::new();
        for head in heads {
            keys::set_key_record(&mut key, head.hash, self.key(head));
            writes.put_with(&key, |value| self.encode(head, value));
        }
    }

    fn put_blocks<'a>(&self, heads: impl Iterator<Item = &'a SlotHead>, block_bytes: usize, writes: &mut WriteSet) {
        let (mut blocks, mut last) = (BlockWriter::new(block_bytes), None);
        for head in heads {
            blocks.push(head.hash, self.key(head), |state| self.encode(head, state), writes);
            last = Some(head);
        }
        if let Some(head) = last {
            blocks.end(head.hash, self.key(head), writes);
        }
    }

    /// The record has only open panes, wherever they lay: it means the same for any number of panes in a slot.
    fn encode(&self, head: &SlotHead, value: &mut Vec<u8>) {
        let (slot, words) = (head.slot, &self.copies.words[head.words_at as usize * self.stride..][..self.stride]);
        value.push(SLOT_FORMAT);
        put_words(&words[..self.base_words], value);
        for (window, at, len) in &self.panes {
            if words[*at] != 0 {
                put_pane(*window, word_start(words[*at]), &words[at + 1..at + 1 + len], value);
            }
        }
        let first = self.overflow.partition_point(|(owner, ..)| *owner < slot);
        let mine = self.overflow[first..].iter().take_while(|(owner, ..)| *owner == slot);
        for (_, window, start_us, words) in mine {
            put_pane(*window, *start_us, words, value);
        }
    }
}

fn put_pane(window: u16, start_us: i64, words: &[u64], value: &mut Vec<u8>) {
    value.extend_from_slice(&window.to_le_bytes());
    value.extend_from_slice(&(words.len() as u16).to_le_bytes());
    value.extend_from_slice(&start_us.to_le_bytes());
    put_words(words, value);
}

fn put_words(words: &[u64], value: &mut Vec<u8>) {
    let start = value.len();
    value.resize(start + words.len() * 8, 0);
    for (bytes, word) in std::iter::zip(value[start..].chunks_exact_mut(8), words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Whether a slot's record has an open pane of this window and start. A damaged one has none; who reads it whole says so.
pub(super) fn has_pane(value: &[u8], base_words: usize, window: usize, start_us: i64) -> bool {
    let mut rest = value.get(1 + base_words * 8..).unwrap_or_default();
    while let Some((head, words)) = rest.split_at_checked(PANE_HEAD_BYTES) {
        let (found, len, start) = parse_pane_head(head);
        if found == window && start == start_us {
            return true;
        }
        rest = words.get(len * 8..).unwrap_or_default();
    }
    false
}

/// Window, length, start of a pane.
const PANE_HEAD_BYTES: usize = 12;

/// Window, length in words and start of the pane that follows.
fn parse_pane_head(head: &[u8]) -> (usize, usize, i64) {
    let window = u16::from_le_bytes([head[0], head[1]]);
    let len = u16::from_le_bytes([head[2], head[3]]);
    let start_us = i64::from_le_bytes(head[4..PANE_HEAD_BYTES].try_into().expect("eight bytes"));
    (usize::from(window), usize::from(len), start_us)
}

/// Reads a slot's record: what stands before the panes into `base`; each open pane goes to `pane` as window, start and
/// its words' bytes.
pub(super) fn decode_slot(value: &[u8], base: &mut [u64], pane: &mut dyn FnMut(usize, i64, &[u8])) -> Result<()> {
    let damaged = || Error::damaged("a key's record in the store is damaged; restore the state directory from a backup");
    let (format, rest) = value.split_first().ok_or_else(damaged)?;
    if *format != SLOT_FORMAT || rest.len() < base.len() * 8 {
        return Err(damaged());
    }
    let (fixed, mut rest) = rest.split_at(base.len() * 8);
    get_words(fixed, base);
    while !rest.is_empty() {
        let (head, words) = rest.split_at_checked(PANE_HEAD_BYTES).ok_or_else(damaged)?;
        let (window, len, start_us) = parse_pane_head(head);
        let (bytes, behind) = words.split_at_checked(len * 8).ok_or_else(damaged)?;
        pane(window, start_us, bytes);
        rest = behind;
    }
    Ok(())
}

pub(super) fn get_words(bytes: &[u8], words: &mut [u64]) {
    for (word, bytes) in std::iter::zip(words, bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
}

impl Frozen {
    /// Positions that this commit claims, by split id: the journal must be durable up to them first (I4).
    pub fn positions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.meta.splits.iter().map(|(id, progress)| (id.as_str(), progress.position))
    }

    /// Number of keys, and of closed rows, that the commit writes.
    pub fn sizes(&self) -> (usize, usize) {
        (self.slots.copies.heads.len(), self.history.len())
    }

    /// Gives back what may be used again, once the commit is written.
    pub fn take_buffers(&mut self) -> SlotBuffers {
        std::mem::take(&mut self.slots.copies)
    }

    /// The one atomic write (I1), into `writes`, of which only the memory is used. Reads the store only to find expired request
    /// ids.
    pub fn write_set(&self, store: &dyn ShardStore, writes: &mut WriteSet) -> Result<()> {
        let SlotBuffers { heads, keys: key_bytes, words } = &self.slots.copies;
        let bytes = words.len() * 8 + key_bytes.len() + heads.len() * 16 + self.history.bytes() + 4096;
        writes.begin(heads.len() + self.history.len() / 32 + 8, bytes);
        self.history.put_chunks(&self.plan.windows, self.epoch as u32, writes);
        self.slots.put_all(writes);
        let meta = serde_json::to_vec(&self.meta).expect("a shard's meta record is plain data");
        writes.put(keys::META, &meta);
        let mut stores: Vec<_> = self.stores.iter().collect();
        stores.sort_unstable_by_key(|(sink, batch)| (*sink, batch.number));
        for (sink, batch) in stores {
            writes.put_with(&keys::outbox_key(*sink, batch.number), |value| {
                value.extend_from_slice(&batch.rows.to_le_bytes());
                value.extend_from_slice(&batch.body);
            });
        }
        self.put_requests(writes);
        writes.deletes.extend(self.deletes.iter().map(|(sink, number)| keys::outbox_key(*sink, *number)));
        if let Some(before_us) = self.expire_requests_before_us {
            self.expire_requests(store, before_us, writes)?;
        }
        writes.forget.extend_from_slice(&self.forget);
        Ok(())
    }

    fn put_requests(&self, writes: &mut WriteSet) {
        let mut requests: Vec<&RequestCommit> = self.requests.iter().collect();
        requests.sort_unstable_by(|a, b| a.received_us.cmp(&b.received_us).then_with(|| a.id.cmp(&b.id)));
        for request in &requests {
            writes.put(&keys::request_age_key(request.received_us, &request.id), b"");
        }
        requests.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for request in requests {
            let value = serde_json::to_vec(request).expect("a request's answer is plain data");
            writes.put(&keys::request_key(&request.id), &value);
        }
    }

    /// Deletes what is older than `before_us`. An id that was used again since has a younger record, which stays.
    fn expire_requests(&self, store: &dyn ShardStore, before_us: i64, writes: &mut WriteSet) -> Result<()> {
        let mut expired = Vec::new();
        let most = MAX_EXPIRED_REQUESTS.max(2 * self.requests.len());
        let to = keys::request_age_key(before_us, "");
        store.scan(&keys::request_age_key(i64::MIN, ""), &to, &mut |key, _| {
            expired.push(key.to_vec());
            expired.len() < most
        })?;
        for age_key in expired {
            let Some((received_us, id)) = keys::parse_request_age_key(&age_key) else { continue };
            let record = keys::request_key(id);
            let stored = store.get(&record)?.and_then(|value| serde_json::from_slice::<RequestCommit>(&value).ok());
            let used_again = self.requests.iter().any(|request| request.id == id);
            if !used_again && stored.is_none_or(|stored| stored.received_us == received_us) {
                writes.deletes.push(record);
            }
            writes.deletes.push(age_key);
        }
        Ok(())
    }
}

/// The youngest request under each id.
fn youngest(mut requests: Vec<RequestCommit>) -> Vec<RequestCommit> {
    requests.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| b.received_us.cmp(&a.received_us)));
    requests.dedup_by(|a, b| a.id == b.id);
    requests
}

impl Shard {
    /// Takes up everything since the last commit. `None` where nothing changed, or while a commit is under way. Keys are copied into
    /// `buffers`, which are the commit's then.
    pub fn freeze(&mut self, buffers: &mut SlotBuffers) -> Option<Frozen> {
        if !self.changed || (self.commit_in_flight && !guards::off(Guard::OneCommit)) {
            return None;
        }
        let plan = self.plan.clone();
        let (segments, stores, deletes, sends) = self.freeze_sinks(&plan);
        let mut forget = self.freeze_forget(&plan);
        let whole = self.is_mostly_changed();
        if whole {
            self.mark_all_dirty();
            forget.push((keys::BLOCKS_FROM.to_vec(), keys::KEYS_TO.to_vec()));
            self.has_blocks = true;
        }
        let slots = self.freeze_slots(std::mem::take(buffers), whole);
        let next = HistoryRows::after(&self.history);
        let history = Arc::new(std::mem::replace(&mut self.history, next));
        self.frozen_history = Some(history.clone());
        let requests = youngest(std::mem::take(&mut self.requests));
        let retention_us = plan.config.idempotency.retention_us;
        let frozen = Frozen {
            shard: self.id,
            epoch: self.epoch,
            meta: self.meta(&plan),
            segments,
            sends,
            // By the earliest: the clock may have been set back between two of them.
            expire_requests_before_us: requests.iter().map(|request| request.received_us - retention_us).min(),
            requests,
            slots,
            history,
            stores,
            deletes,
            forget,
            plan,
        };
        self.epoch += 1;
        self.changed = false;
        self.commit_in_flight = true;
        Some(frozen)
    }

    fn meta(&self, plan: &Plan) -> ShardMeta {
        let mine = std::iter::zip(&self.split_ids, &self.splits).map(|(id, progress)| (id.to_string(), *progress));
        ShardMeta {
            format: SHARD_FORMAT,
            shard: self.id,
            layout_fingerprint: plan.layout_fingerprint,
            epoch: self.epoch,
            splits: mine.chain(self.foreign_splits.iter().cloned()).collect(),
            watermark_us: self.watermark_us,
            max_event_time_us: self.max_event_time_us,
            keys: self.keys,
            ledger: self.ledger,
            next_numbers: std::iter::zip(&plan.sinks, &self.sinks)
                .filter_map(|(sink, state)| match state {
                    SinkState::Segments { number, .. } => Some((sink.name.clone(), *number)),
                    SinkState::Messages(outbox) => Some((sink.name.clone(), outbox.next_number())),
                    SinkState::Stream => None,
                })
                .chain(self.foreign_numbers.iter().cloned())
                .collect(),
            udf_versions: Vec::new(),
            latest_closed: std::iter::zip(&plan.windows, &self.latest_closed)
                .map(|(window, start)| (window.name.clone(), *start))
                .collect(),
            open_panes: std::iter::zip(&plan.windows, &self.windows)
                .map(|(window, state)| (window.name.clone(), state.counts()))
                .collect(),
        }
    }

    #[expect(clippy::type_complexity, reason = "four lists of one commit, named where they are taken apart")]
    fn freeze_sinks(&mut self, plan: &Plan) -> (Vec<SealedSegment>, Vec<(u32, Batch)>, Vec<(u32, u64)>, Vec<(usize, Batch)>) {
        let (mut segments, mut stores, mut deletes, mut sends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (sink, state) in self.sinks.iter_mut().enumerate() {
            match state {
                SinkState::Segments { number, rows } if *rows > 0 => {
                    segments.push(SealedSegment { sink, number: *number, rows: *rows });
                    *number += 1;
                    *rows = 0;
                }
                SinkState::Messages(outbox) => {
                    let id = sink_id(&plan.sinks[sink].name);
                    sends.extend(outbox.cut().into_iter().map(|batch| (sink, batch)));
                    let (store, delete) = outbox.freeze();
                    stores.extend(store.into_iter().map(|batch| (id, batch)));
                    deletes.extend(delete.into_iter().map(|number| (id, number)));
                }
                SinkState::Segments { .. } | SinkState::Stream => {}
            }
        }
        (segments, stores, deletes, sends)
    }

    /// Whether a commit of all keys is worth while: a start then reads one file and merges none, and compaction drops the older
    /// ones unread. Only where all keys are in memory.
    fn is_mostly_changed(&self) -> bool {
        let keys = self.table.len();
        keys as u64 == self.keys && keys >= self.plan.limits.min_whole_keys && self.dirty.len() * WHOLE_PART >= keys
    }

    fn mark_all_dirty(&mut self) {
        for slot in 0..self.table.slot_end() {
            if self.table.is_live(slot) {
                self.mark(slot);
            }
        }
    }

    fn freeze_slots(&mut self, mut copies: SlotBuffers, whole: bool) -> FrozenSlots {
        let stride = self.plan.state_words;
        copies.begin(self.dirty.len(), stride);
        self.copy_dirty(&mut copies);
        let mut frozen = FrozenSlots {
            copies,
            overflow: Vec::new(),
            stride,
            base_words: self.plan.base_words(),
            whole: whole.then_some(self.plan.limits.block_bytes),
            panes: self
                .plan
                .windows
                .iter()
                .enumerate()
                .flat_map(|(number, window)| window.pane_places().map(move |at| (number as u16, at, window.pane_words)))
                .collect(),
        };
        for (window, state) in self.windows.iter().enumerate() {
            // Those of other slots are in the store as they are.
            let changed = state.overflow().filter(|(slot, ..)| self.table.dirty_epoch(*slot) == self.epoch as u32);
            frozen.overflow.extend(changed.map(|(slot, start, pane)| (slot, window as u16, start, pane.to_vec())));
        }
        frozen.overflow.sort_unstable_by_key(|(slot, window, start, _)| (*slot, *window, *start));
        frozen
    }

    fn copy_dirty(&mut self, copies: &mut SlotBuffers) {
        let mut buffer = [0u8; 16];
        for (number, slot) in self.dirty.iter().enumerate() {
            if let Some(later) = self.dirty.get(number + PREFETCH_SLOTS) {
                self.table.prefetch(*later);
            }
            let key = self.table.key(*slot, &mut buffer);
            copies.heads.push(SlotHead {
                hash: self.table.hash(*slot),
                slot: *slot,
                key_at: copies.keys.len() as u32,
                key_len: key.len() as u32,
                words_at: number as u32,
            });
            copies.keys.extend_from_slice(key);
            copies.words.extend_from_slice(self.table.state(*slot));
        }
        self.dirty.clear();
    }

    /// Key ranges of history that its time-to-live has passed.
    fn freeze_forget(&mut self, plan: &Plan) -> Vec<(Vec<u8>, Vec<u8>)> {
        let ttl_us = plan.config.history.raw_us;
        if self.max_event_time_us == NO_TIME {
            return Vec::new();
        }
        let before_us = self.max_event_time_us.saturating_sub(ttl_us);
        if before_us <= self.forgotten_before_us.saturating_add(ttl_us / FORGET_STEPS) {
            return Vec::new();
        }
        let first = self.forgotten_before_us == NO_TIME;
        self.forgotten_before_us = before_us;
        if first && self.committed_epoch == 0 {
            return Vec::new();
        }
        plan.windows
            .iter()
            .map(|window| {
                let last_start = before_us.saturating_sub(window.size_us);
                (keys::history_prefix(window.id), keys::history_chunk_prefix(window.id, last_start))
            })
            .collect()
    }

    /// The commit with this epoch is durable.
    pub fn committed(&mut self, epoch: u64) {
        debug_assert!(self.commit_in_flight && epoch + 1 == self.epoch, "commits finish in order");
        self.committed_epoch = epoch;
        self.commit_in_flight = false;
        self.frozen_history = None;
        self.evict_looks = self.table.slot_end() as usize;
    }
}

/// Stable id of a sink's records in the store.
pub(super) fn sink_id(name: &str) -> u32 {
    crate::batch::hash_key(name.as_bytes()) as u32
}
