//! The process: the core's state machines, and what threads would hold between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use streamjob_core::acknowledge::Acknowledgements;
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::catch_up::{CatchUp, takes_rows};
use streamjob_core::checkpoint::CheckpointScheduler;
use streamjob_core::commit::CommitStep;
use streamjob_core::decode::Decoder;
use streamjob_core::guards::{self, Guard};
use streamjob_core::idempotency::Idempotency;
use streamjob_core::journal::testing::SimulatedStorage;
use streamjob_core::journal::{Journal, JournalReader, RecordEncoder, RecoveredLog};
use streamjob_core::outbox::Batch;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::reorder::Reorder;
use streamjob_core::route::Router;
use streamjob_core::shard::{Frozen, RequestCommit};
use streamjob_core::store::WriteSet;
use streamjob_core::transactions::Transactions;
use streamjob_core::trim::Trimmer;
use streamjob_core::{Error, Result};

use crate::clients::{Answer, Message};
use crate::disk::{SegmentDisk, Writers};
use crate::partitions::Reader;
use crate::topic::Item;
use crate::truth::SplitId;

/// Deliveries under way or waiting in all workers; above it sources wait.
pub const MAX_OUTSTANDING: usize = 60;

/// One process, from its start to its crash.
pub struct Node {
    pub splits: Arc<[SplitId]>,
    pub worker_of: Arc<[u16]>,
    pub ingest: Ingest,
    pub feed: FileFeed,
    pub readers: Vec<Reader>,
    pub logs: Vec<LogFeed>,
    pub workers: Vec<Worker>,
    pub commits: BTreeMap<u64, Commit>,
    pub next_commit: u64,
    pub trimmer: Trimmer,
    /// By sink and shard: batches that the server has not answered.
    pub lanes: BTreeMap<(usize, u16), Lane>,
    /// What its sink knows of the topic.
    pub transactions: Transactions<Item>,
    /// The sink's next step is scheduled, or an answer awaited.
    pub transacting: bool,
    pub writers: Writers,
    /// For commits, of which only the memory is used again.
    pub writes: WriteSet,
    /// Deliveries under way or waiting.
    pub outstanding: usize,
    /// Earlier journals that are not read to their end yet, in the order in which they are.
    pub replays: VecDeque<usize>,
    /// By shard: its positions at the start.
    pub starts: Vec<BTreeMap<String, u64>>,
    /// Splits with the offsets at which their readers were when they said that nothing more is there.
    pub idle_at: BTreeSet<(SplitIndex, u64)>,
    /// Nothing will come any more from outside.
    pub closing: bool,
}

/// From requests to the journal.
pub struct Ingest {
    pub split: SplitIndex,
    pub id: SplitId,
    pub journal: Journal<SimulatedStorage>,
    pub router: Router,
    pub decoder: Decoder,
    pub encoder: RecordEncoder,
    pub frames: Vec<u8>,
    pub answers: Acknowledgements<Waiting>,
    pub requests: Idempotency,
    pub append_scheduled: bool,
    pub sync_scheduled: bool,
    pub last_arrival_us: i64,
    pub idle: bool,
}

/// An answer that waits for the disk.
pub struct Waiting {
    pub message: Message,
    pub answer: Answer,
    pub request: Option<Arc<RequestCommit>>,
}

pub struct FileFeed {
    pub split: SplitIndex,
    pub next: usize,
    pub under_way: usize,
    pub ended: bool,
    /// One a decoding thread.
    pub decoders: Vec<Decoder>,
}

/// The journal of an earlier start.
pub struct LogFeed {
    pub split: SplitIndex,
    pub id: SplitId,
    pub log: Option<RecoveredLog<SimulatedStorage>>,
    pub reader: JournalReader<SimulatedStorage>,
    /// Made with the first record, which may begin before what is needed.
    pub router: Option<Router>,
    pub end: u64,
    pub done: bool,
}

pub struct Worker {
    pub processor: Processor,
    pub reorder: Reorder<Delivery>,
    /// Deliveries that the reordering gave back.
    pub parked: VecDeque<Delivery>,
    /// Shards that have left rows.
    pub catch_up: CatchUp<Delivery>,
    /// Since when rows whose turn it is are not taken, although a shard in step could take its own.
    pub held_up_since_us: Option<i64>,
    pub scheduler: CheckpointScheduler,
    /// By split: since when something before is missing.
    pub gap_since_us: Vec<Option<i64>>,
    pub at_end: bool,
}

/// A commit under way.
pub struct Commit {
    pub frozen: Frozen,
    pub worker: usize,
    pub todo: VecDeque<CommitStep>,
    /// Whether the store's write has begun.
    pub writing: bool,
    /// The store's disk is full.
    pub waits_for_room: bool,
    /// Steps of the shard that it holds.
    pub steps: usize,
}

#[derive(Default)]
pub struct Lane {
    pub waiting: VecDeque<Batch>,
    pub busy: bool,
}

impl Node {
    pub fn has_room(&self) -> bool {
        self.outstanding < MAX_OUTSTANDING
    }

    /// A split's reader says what holds for it from `at` on.
    pub fn say(&mut self, split: SplitIndex, at: u64, status: SplitStatus) {
        if status == SplitStatus::Idle {
            self.idle_at.insert((split, at));
        }
        self.workers.iter_mut().for_each(|worker| worker.reorder.put_status(split, at, status));
    }

    /// Whether requests are taken: journals of earlier starts may hold the first of a repeat (I10).
    pub fn is_open(&self) -> bool {
        self.replays.is_empty() || guards::off(Guard::Gate)
    }

    /// Whether the home shard of a request had committed its record, which ends at `end`, at the start.
    pub fn has_committed(&self, split: &str, request: &str, end: u64) -> bool {
        let home = shard_of(hash_key(request.as_bytes()), self.worker_of.len() as u16);
        self.starts[usize::from(home)].get(split).is_some_and(|position| *position >= end)
    }

    /// Whether somebody waits for room on a disk: then nothing new is taken.
    pub fn is_disk_full(&self) -> bool {
        self.writers.is_stuck(|_| true) || self.commits.values().any(|commit| commit.waits_for_room)
    }

    /// Whether output of this worker waits for room: it takes no rows and closes no windows.
    pub fn is_halted(&self, worker: usize) -> bool {
        self.writers.is_stuck(|shard| usize::from(self.worker_of[usize::from(shard)]) == worker)
    }

    /// Whether workers take rows that come (I9).
    pub fn takes_rows(&self) -> bool {
        takes_rows(self.workers.iter().map(|worker| worker.catch_up.behind()).sum(), self.worker_of.len())
    }
}

/// A worker's way to the sinks.
pub struct Port<'a> {
    pub segments: &'a mut SegmentDisk,
    pub writers: &'a mut Writers,
    pub lanes: &'a mut BTreeMap<(usize, u16), Lane>,
    /// By sink of the job: its place among all.
    pub places: &'a [usize],
}

impl SinkPort for Port<'_> {
    fn append(&mut self, sink: usize, shard: u16, number: u64, _rows: u32, bytes: &[u8]) -> Result<()> {
        let key = (self.places[sink], shard, number);
        self.writers.write(self.segments, key, bytes).map_err(|message| Error::engine(format!("I8: {message}")))
    }

    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()> {
        self.lanes.entry((self.places[sink], shard)).or_default().waiting.push_back(batch.clone());
        Ok(())
    }
}
