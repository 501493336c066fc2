//! The journal's one writer: gives requests their offsets, hands their rows to the workers in that order, makes them durable.
//!
//! ```text
//!  connection: decode, encode ─▶ credits ─▶ [lock: offset, frame to buffer, rows to inboxes] ─▶ wait ─▶ answer
//!                                                              │
//!                            journal thread: write + fsync what came meanwhile ─▶ wake whoever waits
//! ```
//!
//! Rows reach the workers before their fsync; only answers and commits wait for it (I4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use streamjob_core::batch::{RowBatch, shard_of};
use streamjob_core::config::Durability;
use streamjob_core::journal::{EncodedRecord, Full, Journal};
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{NO_TIME, SplitIndex};
use streamjob_core::shard::RequestCommit;
use streamjob_core::{Error, Result};
use streamjob_state::FileLogStorage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;

/// The journal of this start.
pub struct Sequencer {
    shared: Arc<Shared>,
    journal: Arc<Journal<FileLogStorage>>,
    split: SplitIndex,
    split_id: Arc<str>,
    durability: Durability,
    state: Mutex<State>,
    work: Condvar,
    durable: Mutex<Durable>,
    synced: Condvar,
    stopping: AtomicBool,
}

struct State {
    next_offset: u64,
    buffer: Vec<u8>,
    /// Credits of what is in the buffer: rows count as queued until they are on disk.
    held: Vec<Arc<dyn Hold>>,
    /// By worker: up to where it has been told, and the latest time of what was left out.
    told: Vec<(u64, i64)>,
}

#[derive(Default)]
struct Durable {
    offset: u64,
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    failed: Option<Error>,
}

/// A request that is in the journal.
pub struct Place {
    /// Resolves when it is durable; an error if the journal failed.
    pub durable: Option<oneshot::Receiver<()>>,
}

impl Sequencer {
    pub fn new(shared: Arc<Shared>, journal: Arc<Journal<FileLogStorage>>, split: SplitIndex) -> Sequencer {
        let workers = shared.inboxes.len();
        Sequencer {
            split_id: shared.splits[usize::from(split)].id.clone(),
            durability: shared.plan.config.ingest.durability,
            shared,
            journal,
            split,
            state: Mutex::new(State { next_offset: 0, buffer: Vec::new(), held: Vec::new(), told: vec![(0, NO_TIME); workers] }),
            work: Condvar::new(),
            durable: Mutex::new(Durable::default()),
            synced: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn split(&self) -> SplitIndex {
        self.split
    }

    /// The offset that the next request gets.
    pub fn end_offset(&self) -> u64 {
        self.state.lock().next_offset
    }

    /// Gives a request its offset and its rows to the workers. An error means that the disk is full: nothing was taken.
    pub fn append(
        &self,
        mut record: EncodedRecord,
        batch: Arc<RowBatch>,
        credits: OwnedSemaphorePermit,
        request: impl FnOnce(u64) -> Option<Arc<RequestCommit>>,
    ) -> Result<Place, Full> {
        let selections = select(&batch, &self.shared);
        let max_time_us = batch.max_time_us();
        let credits: Arc<dyn Hold> = Arc::new(credits);
        let place = {
            let mut state = self.state.lock();
            self.journal.reserve(record.len())?;
            let first_offset = state.next_offset;
            state.next_offset += batch.span;
            let request = request(first_offset);
            state.buffer.extend_from_slice(record.seal(first_offset));
            state.held.push(credits.clone());
            for (worker, rows) in selections.into_iter().enumerate() {
                let (told, prior_max_us) = state.told[worker];
                if rows.is_empty() && batch.rejects.is_empty() && request.is_none() {
                    state.told[worker] = (told, prior_max_us.max(max_time_us));
                    continue;
                }
                state.told[worker] = (state.next_offset, NO_TIME);
                let delivery = Delivery {
                    split: self.split,
                    first_offset,
                    covers_from: told,
                    prior_max_us,
                    batch: batch.clone(),
                    rows,
                    max_time_us,
                    request: request.clone(),
                    only: None,
                };
                self.shared.inboxes[worker].put(Message::Rows(Parcel { delivery, _hold: Some(credits.clone()) }));
            }
            self.shared.count_received(self.split, first_offset, &batch);
            Place { durable: self.wait(first_offset + batch.span) }
        };
        self.work.notify_one();
        Ok(place)
    }

    fn wait(&self, offset: u64) -> Option<oneshot::Receiver<()>> {
        if self.durability == Durability::Buffered {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.durable.lock().waiting.push((offset, sender));
        Some(receiver)
    }

    /// Blocks until the journal is durable up to `position`; other splits are durable as they are.
    pub fn wait_durable(&self, split: &str, position: u64) -> Result<()> {
        if split != &*self.split_id {
            return Ok(());
        }
        let mut durable = self.durable.lock();
        while durable.offset < position {
            if let Some(error) = &durable.failed {
                return Err(error.clone());
            }
            self.synced.wait(&mut durable);
        }
        Ok(())
    }

    /// Deletes what every shard has committed (I3).
    pub fn trim(&self) -> Result<()> {
        self.journal.trim(self.shared.lowest_committed(&self.split_id))
    }

    /// The journal thread: writes and syncs what has come, in one go, until [`Sequencer::stop`].
    pub fn run(&self) {
        let mut frames = Vec::new();
        loop {
            let (end, held) = {
                let mut state = self.state.lock();
                while state.buffer.is_empty() && !self.stopping.load(Ordering::Acquire) {
                    self.work.wait(&mut state);
                }
                if state.buffer.is_empty() {
                    return;
                }
                std::mem::swap(&mut frames, &mut state.buffer);
                self.tell(&mut state);
                (state.next_offset, std::mem::take(&mut state.held))
            };
            if let Err(error) = self.write(&frames, end) {
                self.fail(error);
                return;
            }
            drop(held);
            frames.clear();
            if let Err(full) = self.journal.prepare_ahead() {
                tracing::warn!("the journal can't prepare its next segment: {}", full.error);
            }
        }
    }

    fn write(&self, frames: &[u8], end: u64) -> Result<()> {
        self.journal.append(frames, end)?;
        let durable = self.journal.sync()?;
        let mut state = self.durable.lock();
        state.offset = durable.max(end);
        let waiting = std::mem::take(&mut state.waiting);
        for (offset, sender) in waiting {
            if offset <= durable {
                let _ = sender.send(());
            } else {
                state.waiting.push((offset, sender));
            }
        }
        self.synced.notify_all();
        Ok(())
    }

    /// Tells workers about batches that had no rows for them, so that their positions and watermarks move.
    fn tell(&self, state: &mut State) {
        let end = state.next_offset;
        for (worker, told) in state.told.iter_mut().enumerate().filter(|(_, told)| told.0 < end) {
            let (covers_from, prior_max_us) = std::mem::replace(told, (end, NO_TIME));
            let mut delivery = Delivery::new(self.split, end, Arc::new(RowBatch::empty(0)), Vec::new());
            delivery.covers_from = covers_from;
            delivery.prior_max_us = prior_max_us;
            self.shared.inboxes[worker].put(Message::Rows(Parcel { delivery, _hold: None }));
        }
    }

    /// What was not made durable never will be: nobody may be answered, the process must end.
    fn fail(&self, error: Error) {
        let mut durable = self.durable.lock();
        durable.failed = Some(error.clone());
        durable.waiting.clear();
        self.synced.notify_all();
        drop(durable);
        self.shared.fail(error.context("writing the journal"));
    }

    /// Ends the journal thread once its buffer is written.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _state = self.state.lock();
        self.work.notify_all();
    }
}

/// By worker: the rows of a batch that its shards own.
pub fn select(batch: &RowBatch, shared: &Shared) -> Vec<Vec<u32>> {
    let shards = shared.plan.config.shards;
    let workers = shared.inboxes.len();
    if workers == 1 {
        return vec![(0..batch.rows() as u32).collect()];
    }
    let mut selections: Vec<Vec<u32>> = (0..workers).map(|_| Vec::with_capacity(batch.rows() / workers + 16)).collect();
    for (row, hash) in batch.key_hash.iter().enumerate() {
        let worker = shared.worker_of[usize::from(shard_of(*hash, shards))];
        selections[usize::from(worker)].push(row as u32);
    }
    selections
}
