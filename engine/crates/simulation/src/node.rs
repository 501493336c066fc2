//! The process: the core's state machines, and what threads would hold between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use streamjob_core::acknowledge::Acknowledgements;
use streamjob_core::catch_up::{CatchUp, takes_rows};
use streamjob_core::checkpoint::CheckpointScheduler;
use streamjob_core::commit::CommitStep;
use streamjob_core::decode::Decoder;
use streamjob_core::idempotency::Idempotency;
use streamjob_core::journal::testing::SimulatedStorage;
use streamjob_core::journal::{Journal, JournalReader, RecordEncoder, RecoveredLog};
use streamjob_core::outbox::Batch;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::SplitIndex;
use streamjob_core::reorder::Reorder;
use streamjob_core::route::Router;
use streamjob_core::shard::{Frozen, RequestCommit};
use streamjob_core::transactions::Transactions;
use streamjob_core::trim::Trimmer;
use streamjob_core::{Error, Result};

use crate::clients::{Answer, Message};
use crate::disk::SegmentDisk;
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
    /// Segments that this process has begun.
    pub begun: std::collections::BTreeSet<crate::disk::SegmentKey>,
    /// Deliveries under way or waiting.
    pub outstanding: usize,
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

    /// Whether workers take rows that come (I9).
    pub fn takes_rows(&self) -> bool {
        takes_rows(self.workers.iter().map(|worker| worker.catch_up.behind()).sum(), self.worker_of.len())
    }
}

/// A worker's way to the sinks.
pub struct Port<'a> {
    pub segments: &'a mut SegmentDisk,
    pub lanes: &'a mut BTreeMap<(usize, u16), Lane>,
    pub begun: &'a mut std::collections::BTreeSet<crate::disk::SegmentKey>,
}

impl SinkPort for Port<'_> {
    fn append(&mut self, sink: usize, shard: u16, number: u64, _rows: u32, bytes: &[u8]) -> Result<()> {
        let key = (sink, shard, number);
        let begins = self.begun.insert(key);
        self.segments.append(key, bytes, begins).map_err(|message| Error::engine(format!("I8: {message}")))
    }

    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()> {
        self.lanes.entry((sink, shard)).or_default().waiting.push_back(batch.clone());
        Ok(())
    }
}
