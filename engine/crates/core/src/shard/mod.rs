//! One shard: its hot keys, its progress, its open windows, what it owes to sinks, and the commits that make all of that
//! durable at once.
//!
//! ```text
//!  admit ─▶ rows (pipeline) ─▶ advance ─▶ close windows ─▶ freeze ─▶ [committer writes] ─▶ committed
//!                                                            └ the worker goes on with the next epoch
//! ```
//!
//! Invariant: between two commits everything that a row changes is in the next [`Frozen`], or nothing of it is (I1).

mod blocks;
mod cold;
mod freeze;
mod history;
mod keys;
mod load;
mod windows;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use blocks::BLOCK_BYTES;
pub use freeze::{Frozen, RequestCommit, SealedSegment, SlotBuffers};
pub use history::{HistoryReader, HistoryRows};
pub use keys::request_key;
pub(crate) use windows::ClosedPane;
use windows::WindowState;

use crate::catch_up::Member;
use crate::guards::{self, Guard};
use crate::ledger::{Ledger, Outcome};
use crate::outbox::Outbox;
use crate::plan::{Plan, SinkMode};
use crate::progress::{self, NO_TIME, SplitIndex, SplitProgress, SplitStatus};
use crate::store::ShardStore;
use crate::table::{KeyTable, Slot};
use crate::{Error, Result};

/// What a shard's progress means, committed as one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardMeta {
    pub format: u32,
    pub shard: u16,
    pub layout_fingerprint: u64,
    /// Number of commits of the shard; grows by one each time.
    pub epoch: u64,
    pub splits: Vec<(String, SplitProgress)>,
    pub watermark_us: i64,
    pub max_event_time_us: i64,
    pub keys: u64,
    pub ledger: Ledger,
    /// By sink name: the next segment or batch number.
    pub next_numbers: Vec<(String, u64)>,
    /// By UDF name: the version that made the state. Empty until versions exist.
    pub udf_versions: Vec<(String, String)>,
    /// By window name: the latest start that has closed.
    pub latest_closed: Vec<(String, i64)>,
    /// By window name: open starts with the number of their panes, all of which are in the keys' records.
    pub open_panes: Vec<(String, Vec<(i64, u64)>)>,
}

/// Format of [`ShardMeta`] and of the records beside it.
pub const SHARD_FORMAT: u32 = 4;
/// The oldest that is read as well: its chunks of closed rows are others. 3 has no blocks of keys.
pub const OLDEST_SHARD_FORMAT: u32 = 2;

/// A split as the process knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitInfo {
    /// Source name and incarnation: unique for ever.
    pub id: Arc<str>,
    pub source: Arc<str>,
    /// Splits of one source with this are one stream, each going on where the one before it ends: the journals of several
    /// starts. Partitions of a topic go on side by side.
    pub chained: bool,
}

/// Progress of one sink in one shard.
#[derive(Debug)]
enum SinkState {
    /// The segment that rows go to now, and how many it has.
    Segments {
        number: u64,
        rows: u64,
    },
    Messages(Outbox),
    Stream,
}

/// One shard of a job.
pub struct Shard {
    pub id: u16,
    plan: Arc<Plan>,
    store: Arc<dyn ShardStore>,
    pub table: KeyTable,
    /// Number of the commit that takes up the changes made now; slots carry its low bits.
    epoch: u64,
    /// The last epoch whose commit has finished.
    committed_epoch: u64,
    dirty: Vec<Slot>,
    /// Keys of the shard, hot or not.
    keys: u64,
    /// Whether the store may have blocks of keys.
    has_blocks: bool,
    splits: Vec<SplitProgress>,
    split_ids: Vec<Arc<str>>,
    /// Progress in splits that this process does not read.
    foreign_splits: Vec<(String, SplitProgress)>,
    /// The next numbers of sinks that have left the job: one that comes back must use none twice.
    foreign_numbers: Vec<(String, u64)>,
    /// What sinks that have left the job owe: name, rows.
    unsent: Vec<(String, u64)>,
    /// By split: the one that goes on where it ends.
    next_of_source: Vec<Option<usize>>,
    watermark_us: i64,
    max_event_time_us: i64,
    windows: Vec<WindowState>,
    sinks: Vec<SinkState>,
    pub ledger: Ledger,
    history: HistoryRows,
    /// History in a commit that has not finished.
    frozen_history: Option<Arc<HistoryRows>>,
    /// History before this event time was asked to be forgotten.
    forgotten_before_us: i64,
    /// By window: the latest start that has closed.
    latest_closed: Vec<i64>,
    requests: Vec<RequestCommit>,
    /// Whether something happened that a commit would keep.
    changed: bool,
    commit_in_flight: bool,
    /// It has left rows that are read again (I9).
    behind: bool,
    evict_hand: Slot,
    /// Slots that were not looked at since the last commit.
    evict_looks: usize,
    /// Keys that came into memory since the last eviction.
    keys_brought_in: usize,
    /// Its share of `state.memory`, in keys.
    max_hot_keys: usize,
}

impl Shard {
    /// A shard that was never opened, or the one whose store holds a commit: the same code for both (I7).
    pub fn open(id: u16, plan: Arc<Plan>, store: Arc<dyn ShardStore>, splits: &[SplitInfo]) -> Result<Shard> {
        let table = KeyTable::new(plan.state_words);
        let budget = plan.config.state.hot_bytes() / u64::from(plan.config.shards);
        let max_hot_keys = ((budget as usize) / table.bytes_per_key()).max(plan.limits.min_hot_keys);
        let sinks = plan
            .sinks
            .iter()
            .map(|sink| match sink.mode {
                SinkMode::Segments => SinkState::Segments { number: 0, rows: 0 },
                SinkMode::Messages => SinkState::Messages(Outbox::new(sink.max_batch_rows, 0).bounded(plan.limits.outbox_bytes)),
                SinkMode::Stream => SinkState::Stream,
            })
            .collect();
        let latest_closed = vec![NO_TIME; plan.windows.len()];
        let mut shard = Shard {
            id,
            windows: plan.windows.iter().map(|_| WindowState::default()).collect(),
            plan,
            store,
            table,
            epoch: 1,
            committed_epoch: 0,
            dirty: Vec::new(),
            keys: 0,
            has_blocks: false,
            splits: vec![SplitProgress::new(); splits.len()],
            split_ids: splits.iter().map(|split| split.id.clone()).collect(),
            next_of_source: vec![None; splits.len()],
            foreign_splits: Vec::new(),
            foreign_numbers: Vec::new(),
            unsent: Vec::new(),
            watermark_us: NO_TIME,
            max_event_time_us: NO_TIME,
            sinks,
            ledger: Ledger::default(),
            history: HistoryRows::default(),
            frozen_history: None,
            forgotten_before_us: NO_TIME,
            latest_closed,
            requests: Vec::new(),
            changed: false,
            commit_in_flight: false,
            behind: false,
            evict_hand: 0,
            evict_looks: 0,
            keys_brought_in: 0,
            max_hot_keys,
        };
        shard.load()?;
        // All that was read is in the store.
        shard.evict_looks = shard.table.slot_end() as usize;
        shard.chain(splits);
        Ok(shard)
    }

    /// The journals of a push source, one a start, are one stream: a later one goes on at the event time where the one before
    /// it ends, and holds nothing back until then, since no row of it can come sooner. So the replay after a kill judges each
    /// row by the watermark that held when it first came.
    fn chain(&mut self, splits: &[SplitInfo]) {
        for split in 0..splits.len() {
            let follows = |next: &usize| splits[*next].chained && splits[*next].source == splits[split].source;
            let Some(next) = (split + 1..splits.len()).filter(|_| splits[split].chained).find(follows) else { continue };
            self.next_of_source[split] = Some(next);
            // Whether the one before is at its end, its reader says anew.
            self.splits[next].status = SplitStatus::Waiting;
        }
    }

    /// The split that goes on where `split` ended may hold the watermark back from now on, unless its reader has called it idle.
    fn pass_on(&mut self, split: usize) {
        let Some(next) = self.next_of_source[split] else { return };
        let max_time_us = self.splits[split].max_time_us;
        let progress = &mut self.splits[next];
        progress.max_time_us = progress.max_time_us.max(max_time_us);
        if progress.status == SplitStatus::Waiting {
            progress.status = SplitStatus::Active;
        }
    }

    pub fn watermark_us(&self) -> i64 {
        self.watermark_us
    }

    pub fn max_event_time_us(&self) -> i64 {
        self.max_event_time_us
    }

    /// Splits that the process reads.
    pub fn splits(&self) -> usize {
        self.splits.len()
    }

    pub fn progress(&self, split: SplitIndex) -> &SplitProgress {
        &self.splits[usize::from(split)]
    }

    pub fn store(&self) -> &Arc<dyn ShardStore> {
        &self.store
    }

    /// The watermark over all splits but one.
    pub(crate) fn others_watermark(&self, split: SplitIndex) -> Option<i64> {
        progress::others_watermark(&self.splits, Some(usize::from(split)), self.plan.config.time.max_out_of_orderness_us)
    }

    /// All rows of a message that reaches to `to` are in: positions and watermark move (I2).
    pub(crate) fn advance(&mut self, split: SplitIndex, to: u64, max_time_us: i64) {
        let progress = &mut self.splits[usize::from(split)];
        if progress.position == to && progress.max_time_us >= max_time_us {
            return;
        }
        let slept = matches!(progress.status, SplitStatus::Idle | SplitStatus::Waiting) && !guards::off(Guard::Awake);
        if to > progress.position && slept {
            progress.status = SplitStatus::Active;
        }
        progress.position = progress.position.max(to);
        progress.max_time_us = progress.max_time_us.max(max_time_us);
        self.max_event_time_us = self.max_event_time_us.max(max_time_us);
        self.changed = true;
        self.update_watermark();
    }

    fn update_watermark(&mut self) {
        let before = self.watermark_us;
        self.watermark_us =
            progress::shard_watermark(self.watermark_us, &self.splits, self.plan.config.time.max_out_of_orderness_us);
        self.changed |= self.watermark_us != before;
    }

    /// A split's reader says what holds for it from now on.
    pub fn set_status(&mut self, split: SplitIndex, status: SplitStatus) {
        let progress = &mut self.splits[usize::from(split)];
        if progress.status != status && progress.status != SplitStatus::Finished {
            progress.status = status;
            self.changed = true;
            if status == SplitStatus::Finished {
                self.pass_on(usize::from(split));
            }
            self.update_watermark();
            if self.plan.config.time.close_when_idle && self.all_idle() {
                self.set_watermark(self.end_of_open_windows_us());
            }
        }
    }

    /// The end of the last window that an event was seen for.
    fn end_of_open_windows_us(&self) -> i64 {
        if self.max_event_time_us == NO_TIME {
            return NO_TIME;
        }
        let end = |window: &crate::plan::WindowPlan| {
            progress::window_start(self.max_event_time_us, window.size_us).saturating_add(window.size_us)
        };
        self.plan.windows.iter().map(end).max().unwrap_or(self.max_event_time_us)
    }

    fn all_idle(&self) -> bool {
        self.splits.iter().all(|split| split.status != SplitStatus::Active)
    }

    /// Raises the watermark, also to the end of time.
    pub fn set_watermark(&mut self, watermark_us: i64) {
        if watermark_us > self.watermark_us {
            self.watermark_us = watermark_us;
            self.changed = true;
        }
    }

    /// Whether every split has finished and is read to its end.
    pub fn all_finished(&self) -> bool {
        self.splits.iter().all(|split| split.status == SplitStatus::Finished)
    }

    #[inline]
    pub(crate) fn count(&mut self, outcome: Outcome) {
        self.ledger.count(outcome);
        self.changed = true;
    }

    /// Finds a key, hot or stored, or makes it. The slot counts as changed. `guess`: as for [`KeyTable::find_from`].
    #[inline]
    pub(crate) fn touch(&mut self, guess: Slot, hash: u64, key: &[u8]) -> Result<Slot> {
        let slot = match self.table.find_from(guess, hash, key) {
            Some(slot) => slot,
            None => self.bring_in(hash, key)?,
        };
        if self.table.mark_dirty(slot, self.epoch as u32) {
            self.dirty.push(slot);
            self.changed = true;
        }
        Ok(slot)
    }

    #[cold]
    fn bring_in(&mut self, hash: u64, key: &[u8]) -> Result<Slot> {
        let cold = self.keys > self.table.len() as u64;
        let stored = if cold { self.stored(hash, key)? } else { None };
        let slot = self.table.insert(hash, key);
        self.keys_brought_in += 1;
        match stored {
            Some(value) => self.read_slot(slot, &value)?,
            None => self.keys += 1,
        }
        Ok(slot)
    }

    /// A key's state as the store has it.
    fn stored(&self, hash: u64, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let own = self.store.get(&keys::key_record(hash, key))?;
        if self.has_blocks && (own.is_none() || guards::off(Guard::OwnRecordFirst)) {
            return Ok(blocks::find(&*self.store, hash, key)?.or(own));
        }
        Ok(own)
    }

    /// The state words of a key for a reader; `None` for a key that the shard does not know.
    pub fn look_up(&self, hash: u64, key: &[u8]) -> Result<Option<Vec<u64>>> {
        if let Some(slot) = self.table.find(hash, key) {
            return Ok(Some(self.table.state(slot).to_vec()));
        }
        if self.keys <= self.table.len() as u64 {
            return Ok(None);
        }
        let Some(value) = self.stored(hash, key)? else { return Ok(None) };
        let mut words = vec![0; self.plan.state_words];
        freeze::decode_slot(&value, &mut words[..self.plan.base_words()], &mut |_, _, _| {})?;
        Ok(Some(words))
    }

    /// Keeps a request's answer with the shard that is home to its id (I10).
    pub fn keep_request(&mut self, request: RequestCommit) {
        self.requests.push(request);
        self.changed = true;
    }

    /// Rows for a sink of segments: they belong to the segment that the next commit seals.
    pub(crate) fn segment_rows(&mut self, sink: usize, rows: u64) -> Result<u64> {
        match &mut self.sinks[sink] {
            SinkState::Segments { number, rows: written } => {
                *written += rows;
                self.changed = true;
                Ok(*number)
            }
            _ => Err(Error::engine(format!("sink {sink} of shard {} does not write segments", self.id))),
        }
    }

    pub fn outbox(&self, sink: usize) -> Option<&Outbox> {
        match &self.sinks[sink] {
            SinkState::Messages(outbox) => Some(outbox),
            _ => None,
        }
    }

    pub(crate) fn outbox_mut(&mut self, sink: usize) -> Option<&mut Outbox> {
        self.changed = true;
        match &mut self.sinks[sink] {
            SinkState::Messages(outbox) => Some(outbox),
            _ => None,
        }
    }

    /// Messages get numbers of this output incarnation from now on.
    pub fn begin_outputs(&mut self, incarnation: u32) {
        for sink in &mut self.sinks {
            if let SinkState::Messages(outbox) = sink {
                self.changed |= outbox.begin_incarnation(incarnation);
            }
        }
    }

    /// A sink confirmed a batch, or refused it for good. Returns it the first time.
    pub fn confirm(&mut self, sink: usize, number: u64) -> Option<crate::outbox::Batch> {
        self.outbox_mut(sink)?.confirm(number)
    }

    /// Whether an outbox is so full that the shard takes no rows for now (I6).
    pub fn is_blocked(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink, SinkState::Messages(outbox) if outbox.is_full()))
    }

    /// Whether the shard, apart from being full, leaves rows of a split: those of a journal come after what it has left of the
    /// one before, so that a client's rows reach the statistics in the order in which it sent them.
    pub fn leaves(&self, split: SplitIndex) -> bool {
        self.behind && self.waits(split)
    }

    /// Whether no outbox is more than half full.
    pub fn has_room(&self) -> bool {
        self.sinks.iter().all(|sink| !matches!(sink, SinkState::Messages(outbox) if !outbox.has_room()))
    }

    /// Whether exactly-once messages wait for a commit.
    pub fn has_staged_messages(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink, SinkState::Messages(outbox) if outbox.has_staged()))
    }

    pub fn has_changes(&self) -> bool {
        self.changed
    }

    /// The epoch whose commit makes everything durable that the shard has; `None` where it is durable.
    pub fn uncommitted_epoch(&self) -> Option<u64> {
        if self.changed {
            return Some(self.epoch);
        }
        self.commit_in_flight.then(|| self.epoch - 1)
    }

    pub fn commit_in_flight(&self) -> bool {
        self.commit_in_flight
    }

    /// Whether the shard holds so much that no commit has, history rows or keys, that it should commit early.
    pub fn wants_early_commit(&self) -> bool {
        self.history.bytes() > self.plan.limits.pending_history_bytes || self.waits_for_room()
    }

    /// Visits closed rows of a window that are not in the store yet and start within `starts` (microseconds), of one key's hash or
    /// of all: start, row as JSON.
    pub fn visit_pending_history(
        &self,
        window: usize,
        hash: Option<u64>,
        starts: &Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) {
        for rows in self.frozen_history.iter().map(|rows| &**rows).chain([&self.history]) {
            rows.visit((window as u16, &self.plan.windows[window]), hash, starts, visit);
        }
    }

    /// The latest start of a window that has closed here.
    pub fn latest_closed(&self, window: usize) -> Option<i64> {
        Some(self.latest_closed[window]).filter(|start| *start != NO_TIME)
    }

    /// Keeps a closed row: its key, escaped as JSON has it, and its members.
    pub(crate) fn keep_history(&mut self, window: usize, start_us: i64, hash: u64, key: &[u8], members: &[u8]) {
        self.history.push(window as u16, start_us, hash, key, members);
        self.latest_closed[window] = self.latest_closed[window].max(start_us);
        self.changed = true;
    }

    /// Forgets progress in splits that this process does not read and that will never come again: otherwise each start would
    /// leave a journal's behind.
    pub fn forget_splits(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.foreign_splits.retain(|(id, _)| !is_gone(id));
    }

    /// Progress by split id, for the journal's trimming (I3): of splits that this process reads and of others.
    pub fn positions(&self) -> HashMap<String, u64> {
        let mine = std::iter::zip(&self.split_ids, &self.splits).map(|(id, progress)| (id.to_string(), progress.position));
        mine.chain(self.foreign_splits.iter().map(|(id, progress)| (id.clone(), progress.position))).collect()
    }
}

impl Member for Shard {
    fn is_blocked(&self) -> bool {
        Shard::is_blocked(self)
    }

    fn has_room(&self) -> bool {
        Shard::has_room(self)
    }

    fn position(&self, split: SplitIndex) -> u64 {
        self.progress(split).position
    }

    fn is_idle(&self, split: SplitIndex) -> bool {
        self.progress(split).status == SplitStatus::Idle
    }

    fn waits(&self, split: SplitIndex) -> bool {
        let split = usize::from(split);
        // A crash may leave a split waiting for one that is gone.
        self.splits[split].status == SplitStatus::Waiting && self.next_of_source.contains(&Some(split))
    }

    fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }
}

/// A shard may always hold this many keys, whatever `state.memory` says.
pub const MIN_HOT_KEYS: usize = 256;
/// A shard of fewer keys never writes all of them for most: its commits are small, and so is what a start has to merge.
pub const MIN_WHOLE_KEYS: usize = 4096;
/// Closed rows of this many bytes in one shard ask for a commit before its time.
pub const MAX_PENDING_HISTORY_BYTES: usize = 2 << 20;
