//! A start: the same after a first boot, a crash or a power failure (I7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use streamjob_core::acknowledge::Acknowledgements;
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::catch_up::CatchUp;
use streamjob_core::checkpoint::CheckpointScheduler;
use streamjob_core::decode::Decoder;
use streamjob_core::idempotency::Idempotency;
use streamjob_core::journal::testing::SimulatedStorage;
use streamjob_core::journal::{Incarnation, Journal, JournalOptions, RecordEncoder, RecoveredLog, recover, split_id};
use streamjob_core::processor::Processor;
use streamjob_core::progress::SplitIndex;
use streamjob_core::reorder::Reorder;
use streamjob_core::route::Router;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::store::{ShardStore, WriteSet};
use streamjob_core::transactions::Transactions;
use streamjob_core::trim::Trimmer;
use streamjob_core::{Error, Result};

use crate::disk::Writers;
use crate::events::{Event, NodeEvent};
use crate::node::{FileFeed, Ingest, LogFeed, Node, Port, Worker};
use crate::partitions::{PARTITIONS, Reader, split_of};
use crate::rows::{MS, SECOND};
use crate::truth::{SOURCE, SplitId, Step, is_journal};
use crate::udf::SimulatedUdfs;
use crate::world::{Done, Stop, World, broken, violation};

/// Of the schema of the job; it never changes here.
const FINGERPRINT: u64 = 7;
/// The file is always the first split.
const FILE: SplitIndex = 0;
/// A start is interrupted by a crash once in so many of its steps.
const STEPS_A_CRASH: u64 = 150;

impl World {
    pub fn start(&mut self) -> Done {
        let found = recover(&self.storage).map_err(|error| self.failed("I7", &error))?;
        self.compare_logs(&found)?;
        self.change_job()?;
        let incarnation = self.incarnation(&found);
        let live: SplitId = split_id(SOURCE, incarnation).into();
        self.journals.push(live.clone());
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
        let logs = self.log_splits(&found);
        let partitions = self.partitions.iter().map(|partition| &partition.id);
        let before = std::iter::once(&self.file_split).chain(partitions);
        let splits: Arc<[SplitId]> = before.chain(logs.iter().map(|(id, _)| id)).chain([&live]).cloned().collect();
        let node = self.assemble(splits, journal, found).map_err(|error| self.failed("I7", &error))?;
        self.node = Some(node);
        let generation = self.generation;
        self.note(|| format!("start {generation} with {} older journals", logs.len()));
        self.open_shards()?;
        self.maybe_crash(STEPS_A_CRASH)?;
        self.begin_events();
        Ok(())
    }

    /// The job may be another than before, as far as one may change; with another window it fits no state that has a commit.
    fn change_job(&mut self) -> Done {
        self.setup.change(&mut self.random);
        if !self.random.once_in(20) {
            return Ok(());
        }
        for (shard, store) in self.stores.iter().enumerate() {
            let has_commit = self.truth.logs[shard].committed > 0;
            let opened = Shard::open(shard as u16, self.setup.refused(), store.clone(), &[]);
            match opened {
                Err(error) if has_commit && error.actor() == streamjob_core::Actor::User => {}
                Ok(_) if !has_commit => {}
                Ok(_) => return violation(format!("I1: shard {shard} opens with another window")),
                Err(error) => return violation(format!("I1: shard {shard} with another window: {error}")),
            }
        }
        Ok(())
    }

    /// A name that sorts behind those of earlier starts, whatever the clock says.
    fn incarnation(&mut self, found: &[RecoveredLog<SimulatedStorage>]) -> Incarnation {
        let [a, b] = [self.random.next().to_be_bytes(), self.random.next().to_be_bytes()];
        let chance = [a, b].concat()[..10].try_into().expect("ten bytes");
        let newest = found.iter().map(RecoveredLog::incarnation).max();
        Incarnation::of_start((self.clock_us() / MS) as u64, chance, newest)
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
        let logs = self.log_splits(found);
        let place = |id: &SplitId| self.journals.iter().position(|journal| journal == id);
        if !logs.is_sorted_by_key(|(id, _)| place(id)) {
            return violation(format!("I4: the journals are found in the order {logs:?}, and are of {:?}", self.journals));
        }
        let ends: BTreeMap<SplitId, u64> = logs.into_iter().collect();
        let ids: Vec<SplitId> = self.truth.splits.keys().filter(|id| is_journal(id)).cloned().collect();
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
            .map(|id| SplitInfo {
                id: id.clone(),
                source: id.split('@').next().unwrap_or_default().into(),
                chained: is_journal(id),
            })
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
        let starts = self.truth.logs.iter().map(|log| log.positions.clone()).collect();
        let decoders = (0..2).map(|_| self.decoder()).collect::<Result<Vec<_>>>()?;
        Ok(Node {
            ingest: self.ingest(&splits, journal, worker_of.clone(), usize::from(workers))?,
            feed: FileFeed { split: FILE, next: lowest[usize::from(FILE)] as usize, under_way: 0, ended: false, decoders },
            readers: (0..PARTITIONS).map(|place| Reader::new(split_of(place), lowest[usize::from(split_of(place))])).collect(),
            replays: (0..found.len()).collect(),
            starts,
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
            writers: Writers::default(),
            writes: WriteSet::default(),
            outstanding: 0,
            idle_at: BTreeSet::new(),
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
        let segments = |shard: &Shard| shard.open_segments().map(|(sink, number)| (self.setup.places[sink], number)).collect();
        let open: Vec<(u16, Vec<(usize, u64)>)> = shards.map(|shard| (shard.id, segments(shard))).collect();
        for (shard, segments) in open {
            let splits = self.node().splits.clone();
            self.truth.logs[usize::from(shard)].steps.push(Step::Open(splits, self.setup.plan.clone()));
            for (sink, number) in segments {
                self.segments.recover(sink, shard, number).map_err(broken("I8"))?;
                self.maybe_crash(STEPS_A_CRASH)?;
            }
        }
        let node = self.node.as_mut().expect("it was just made");
        let mut resent = 0;
        for worker in &mut node.workers {
            let (writers, lanes) = (&mut node.writers, &mut node.lanes);
            let mut port = Port { segments: &mut self.segments, writers, lanes, places: &self.setup.places };
            worker.processor.resend(&mut port).map_err(|error| Stop::Violation(format!("I8: {error}")))?;
            resent = node.lanes.values().map(|lane| lane.waiting.len() as u64).sum();
        }
        self.report.resends += resent;
        Ok(())
    }

    fn begin_events(&mut self) {
        let node = self.node();
        let workers = node.workers.len();
        (0..workers).for_each(|worker| self.node_after(MS, NodeEvent::Work(worker)));
        self.read_next_log();
        (0..PARTITIONS).for_each(|place| self.node_after(MS, NodeEvent::Poll(place)));
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

/// Earlier journals, read from the lowest position on; they lie behind the file and the partitions among the splits.
fn log_feeds(
    splits: &[SplitId],
    found: Vec<RecoveredLog<SimulatedStorage>>,
    lowest: &[u64],
    trimmer: &mut Trimmer,
) -> Result<Vec<LogFeed>> {
    trimmer.open_log(splits[splits.len() - 1].to_string());
    let mut logs = Vec::new();
    for (place, log) in found.into_iter().enumerate() {
        let split = split_of(PARTITIONS + place);
        let (id, end) = (splits[usize::from(split)].clone(), log.end_offset());
        trimmer.ended_log(id.to_string(), end);
        // A deletion that was interrupted leaves less than was committed.
        let reader = log.read(lowest[usize::from(split)].min(end))?;
        logs.push(LogFeed { split, id, log: Some(log), reader, router: None, end, done: false });
    }
    Ok(logs)
}
