//! A start: the same after a first boot, a crash or a power failure (I7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use streamjob_core::acknowledge::Acknowledgements;
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::catch_up::CatchUp;
use streamjob_core::checkpoint::CheckpointScheduler;
use streamjob_core::decode::Decoder;
use streamjob_core::idempotency::{Idempotency, answer_of};
use streamjob_core::journal::testing::SimulatedStorage;
use streamjob_core::journal::{Incarnation, Journal, JournalOptions, RecordEncoder, RecoveredLog, recover, split_id};
use streamjob_core::processor::Processor;
use streamjob_core::progress::SplitIndex;
use streamjob_core::reorder::Reorder;
use streamjob_core::route::Router;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::store::ShardStore;
use streamjob_core::transactions::Transactions;
use streamjob_core::trim::Trimmer;
use streamjob_core::{Error, Result};

use crate::events::{Event, NodeEvent};
use crate::node::{FileFeed, Ingest, LogFeed, Node, Worker};
use crate::rows::{MS, SECOND};
use crate::truth::{SplitId, Step};
use crate::udf::SimulatedUdfs;
use crate::world::{Done, Stop, World, broken, violation};

/// Of the schema of the job; it never changes here.
const FINGERPRINT: u64 = 7;
/// Name of the push source.
const SOURCE: &str = "in";
/// The file is always the first split.
const FILE: SplitIndex = 0;
/// A start is interrupted by a crash once in so many of its steps.
const STEPS_A_CRASH: u64 = 150;

impl World {
    pub fn start(&mut self) -> Done {
        let found = recover(&self.storage).map_err(|error| self.failed("I7", &error))?;
        self.compare_logs(&found)?;
        let incarnation = Incarnation(
            [self.random.next().to_be_bytes(), self.random.next().to_be_bytes()].concat().try_into().expect("16 bytes"),
        );
        let options = JournalOptions { segment_bytes: self.setup.segment_bytes, ..JournalOptions::new(incarnation, FINGERPRINT) };
        let journal = match Journal::open(self.storage.clone(), options) {
            Ok(journal) => journal,
            Err(error) if error.retryable() => {
                self.note(|| format!("no start: {error}"));
                self.after(SECOND, Event::Start);
                return Ok(());
            }
            Err(error) => return Err(self.failed("I4", &error)),
        };
        self.generation += 1;
        let live: SplitId = split_id(SOURCE, incarnation).into();
        let logs = self.log_splits(&found);
        let splits: Arc<[SplitId]> =
            std::iter::once(&self.file_split).chain(logs.iter().map(|(id, _)| id)).chain([&live]).cloned().collect();
        let node = self.assemble(splits, journal, found).map_err(|error| self.failed("I7", &error))?;
        self.node = Some(node);
        let generation = self.generation;
        self.note(|| format!("start {generation} with {} older journals", logs.len()));
        self.open_shards()?;
        self.maybe_crash(STEPS_A_CRASH)?;
        self.restore_requests()?;
        self.begin_events();
        Ok(())
    }

    /// An error of the core: the end of the process where the disk is at fault, a broken promise else.
    pub fn failed(&self, invariant: &str, error: &Error) -> Stop {
        if self.disk_fault && error.actor() == streamjob_core::Actor::Outside {
            return Stop::Crash(error.to_string());
        }
        Stop::Violation(format!("{invariant}: {error}"))
    }

    fn log_splits(&self, found: &[RecoveredLog<SimulatedStorage>]) -> Vec<(SplitId, u64)> {
        found.iter().map(|log| (split_id(SOURCE, log.incarnation()).into(), log.end_offset())).collect()
    }

    /// What the journals lost in the crash must have been promised to nobody (I4).
    fn compare_logs(&mut self, found: &[RecoveredLog<SimulatedStorage>]) -> Done {
        let ends: BTreeMap<SplitId, u64> = self.log_splits(found).into_iter().collect();
        let ids: Vec<SplitId> = self.truth.splits.keys().filter(|id| **id != self.file_split).cloned().collect();
        for id in ids {
            let split = &self.truth.splits[&id];
            if split.deleted {
                // A crash in the middle of the deletion brings parts of it back.
                continue;
            }
            let end = ends.get(&id).copied().unwrap_or(0);
            if end > split.end {
                return violation(format!("I4: {id} ends at {end}, and only {} offsets were given out", split.end));
            }
            self.truth.cut(&id, end);
            for (shard, log) in self.truth.logs.iter().enumerate() {
                if log.positions.get(&*id).is_some_and(|position| *position > end) {
                    return violation(format!("I4: shard {shard} has committed more of {id} than the journal holds, {end}"));
                }
            }
        }
        self.check_answered()
    }

    fn assemble(
        &mut self,
        splits: Arc<[SplitId]>,
        journal: Journal<SimulatedStorage>,
        found: Vec<RecoveredLog<SimulatedStorage>>,
    ) -> Result<Node> {
        let infos: Vec<SplitInfo> = (splits.iter())
            .map(|id| SplitInfo { id: id.clone(), source: id.split('@').next().unwrap_or_default().into(), chained: true })
            .collect();
        let workers = self.random.between(1, 4) as u16;
        let worker_of: Arc<[u16]> = (0..self.setup.shards()).map(|shard| shard % workers).collect();
        let mut mine: Vec<Vec<Shard>> = (0..workers).map(|_| Vec::new()).collect();
        let mut trimmer = Trimmer::new(0..self.setup.shards());
        for shard in 0..self.setup.shards() {
            let store = self.stores[usize::from(shard)].clone();
            let shard = Shard::open(shard, self.setup.plan.clone(), store, &infos)?;
            let positions = shard.positions();
            trimmer.committed(shard.id, positions.iter().map(|(split, position)| (split.as_str(), *position)));
            mine[usize::from(worker_of[usize::from(shard.id)])].push(shard);
        }
        let lowest: Vec<u64> = (0..splits.len() as SplitIndex)
            .map(|split| mine.iter().flatten().map(|shard| shard.progress(split).position).min().unwrap_or(0))
            .collect();
        let decoders = (0..2).map(|_| self.decoder()).collect::<Result<Vec<_>>>()?;
        Ok(Node {
            ingest: self.ingest(&splits, journal, worker_of.clone(), usize::from(workers))?,
            feed: FileFeed { split: FILE, next: lowest[usize::from(FILE)] as usize, under_way: 0, ended: false, decoders },
            logs: log_feeds(&splits, found, &lowest, &mut trimmer)?,
            workers: mine.into_iter().map(|shards| self.worker(&infos, shards)).collect(),
            splits,
            worker_of,
            commits: BTreeMap::new(),
            next_commit: 0,
            trimmer,
            lanes: BTreeMap::new(),
            transactions: Transactions::default(),
            transacting: false,
            begun: BTreeSet::new(),
            outstanding: 0,
            closing: false,
        })
    }

    fn decoder(&self) -> Result<Decoder> {
        let config = &self.setup.plan.config;
        Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)
    }

    fn ingest(
        &self,
        splits: &[SplitId],
        journal: Journal<SimulatedStorage>,
        worker_of: Arc<[u16]>,
        workers: usize,
    ) -> Result<Ingest> {
        let split = (splits.len() - 1) as SplitIndex;
        Ok(Ingest {
            split,
            id: splits[usize::from(split)].clone(),
            router: Router::new(split, worker_of, workers, 0),
            journal,
            decoder: self.decoder()?,
            encoder: RecordEncoder::new(),
            frames: Vec::new(),
            answers: Acknowledgements::default(),
            requests: Idempotency::new(self.setup.plan.config.idempotency.retention_us),
            append_scheduled: false,
            sync_scheduled: false,
            last_arrival_us: self.now_us,
            idle: false,
        })
    }

    fn worker(&self, infos: &[SplitInfo], shards: Vec<Shard>) -> Worker {
        let ids: Vec<u16> = shards.iter().map(|shard| shard.id).collect();
        let starts: Vec<u64> = (0..infos.len() as SplitIndex)
            .map(|split| shards.iter().map(|shard| shard.progress(split).position).min().unwrap_or(u64::MAX))
            .collect();
        let plan = self.setup.plan.clone();
        let scheduler = CheckpointScheduler::new(&ids, plan.config.checkpoint.interval_us, self.now_us);
        Worker {
            catch_up: CatchUp::new(shards.len(), infos.len()),
            held_up_since_us: None,
            processor: Processor::new(plan, infos.to_vec(), shards, Box::new(SimulatedUdfs)),
            reorder: Reorder::with_bound(&starts, self.setup.max_held),
            parked: VecDeque::new(),
            scheduler,
            gap_since_us: vec![None; infos.len()],
            at_end: false,
        }
    }

    /// Output is brought to what was committed, and what sinks have not confirmed is sent again (I8).
    fn open_shards(&mut self) -> Done {
        let node = self.node.as_ref().expect("it was just made");
        let shards = node.workers.iter().flat_map(|worker| worker.processor.shards());
        let open: Vec<(u16, Vec<(usize, u64)>)> = shards.map(|shard| (shard.id, shard.open_segments().collect())).collect();
        for (shard, segments) in open {
            let splits = self.node().splits.clone();
            self.truth.logs[usize::from(shard)].steps.push(Step::Open(splits));
            for (sink, number) in segments {
                self.segments.recover(sink, shard, number).map_err(broken("I8"))?;
                self.maybe_crash(STEPS_A_CRASH)?;
            }
        }
        let node = self.node.as_mut().expect("it was just made");
        let mut resent = 0;
        for worker in &mut node.workers {
            let mut port = crate::node::Port { segments: &mut self.segments, lanes: &mut node.lanes, begun: &mut node.begun };
            worker.processor.resend(&mut port).map_err(|error| Stop::Violation(format!("I8: {error}")))?;
            resent = node.lanes.values().map(|lane| lane.waiting.len() as u64).sum();
        }
        self.report.resends += resent;
        Ok(())
    }

    /// Requests that the journals hold and no commit has: their repeats must be known (I10).
    fn restore_requests(&mut self) -> Done {
        let mut restored = Vec::new();
        let node = self.node.as_ref().expect("it was just made");
        for feed in &node.logs {
            let Some(log) = &feed.log else { continue };
            let mut reader = log.read(log.first_offset()).map_err(|error| self.failed("I7", &error))?;
            while let Some(record) = reader.next_record().map_err(|error| self.failed("I7", &error))? {
                let Some(request) = &record.request else { continue };
                let home = shard_of(hash_key(request.id.as_bytes()), self.setup.shards());
                let committed = self.truth.logs[usize::from(home)].positions.get(&*feed.id).copied().unwrap_or(0);
                if record.end_offset() > committed {
                    restored.push(Arc::new(answer_of(request, &feed.id, record.first_offset)));
                }
            }
        }
        let node = self.node();
        restored.into_iter().for_each(|request| node.ingest.requests.answered(request));
        Ok(())
    }

    fn begin_events(&mut self) {
        let node = self.node();
        let (workers, logs) = (node.workers.len(), node.logs.len());
        (0..workers).for_each(|worker| self.node_after(MS, NodeEvent::Work(worker)));
        (0..logs).for_each(|log| self.node_after(MS, NodeEvent::ReadLog(log)));
        self.node_after(MS, NodeEvent::FileChunk);
        self.node_after(100 * MS, NodeEvent::Heartbeat);
        self.pump_lanes();
    }

    /// What the store of a request's home shard knows about it.
    pub fn stored_request(&self, id: &str) -> Done<Option<streamjob_core::shard::RequestCommit>> {
        let home = shard_of(hash_key(id.as_bytes()), self.setup.shards());
        let key = streamjob_core::shard::request_key(id);
        let value = self.stores[usize::from(home)].get(&key).map_err(|error| self.failed("I10", &error))?;
        value
            .map(|value| {
                serde_json::from_slice(&value).map_err(|error| Stop::Violation(format!("I10: a stored request: {error}")))
            })
            .transpose()
    }
}

/// Earlier journals, read from the lowest position on; they lie behind the file among the splits.
fn log_feeds(
    splits: &[SplitId],
    found: Vec<RecoveredLog<SimulatedStorage>>,
    lowest: &[u64],
    trimmer: &mut Trimmer,
) -> Result<Vec<LogFeed>> {
    trimmer.open_log(splits[splits.len() - 1].to_string());
    let mut logs = Vec::new();
    for (place, log) in found.into_iter().enumerate() {
        let split = (place + 1) as SplitIndex;
        let (id, end) = (splits[place + 1].clone(), log.end_offset());
        trimmer.ended_log(id.to_string(), end);
        // A deletion that was interrupted leaves less than was committed.
        let reader = log.read(lowest[usize::from(split)].min(end))?;
        logs.push(LogFeed { split, id, log: Some(log), reader, router: None, end, done: false });
    }
    Ok(logs)
}
