//! The clock, the disks, the outside, and at most one process at a time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use streamjob_core::journal::testing::SimulatedStorage;

use crate::clients::{Client, Request};
use crate::disk::{SegmentDisk, SimulatedStore};
use crate::events::{Event, Generation, NodeEvent, Queue};
use crate::history::History;
use crate::job::{SERVERS, Setup};
use crate::node::Node;
use crate::partitions::{PARTITIONS, Partition};
use crate::random::Random;
use crate::receiver::Receiver;
use crate::rows::{MAX_AHEAD_US, MS, SECOND, START_US};
use crate::topic::Topic;
use crate::truth::{SplitId, Truth};

/// Events that a failure shows.
const SHOWN_EVENTS: usize = 50;
/// A run with more events does not come to its end.
const MAX_EVENTS: u64 = 400_000;
/// After the faults everything must be done within this time.
const MAX_REST_US: i64 = 240 * SECOND;
/// The clock is set back by so much at most: rows must not be too far ahead for it.
const MAX_BACK_US: i64 = MAX_AHEAD_US - 10 * SECOND;
/// And ahead.
const MAX_AHEAD_CLOCK_US: i64 = 3_000 * SECOND;

/// Why an event did not end well.
#[derive(Debug)]
pub enum Stop {
    /// A promise is broken.
    Violation(String),
    /// The process ended, as it must.
    Crash(String),
}

pub type Done<T = ()> = Result<T, Stop>;

/// A promise that was broken.
pub fn violation<T>(message: impl Into<String>) -> Done<T> {
    Err(Stop::Violation(message.into()))
}

/// The invariant that a message is about comes first.
pub fn broken(invariant: &str) -> impl Fn(String) -> Stop + '_ {
    move |message| Stop::Violation(format!("{invariant}: {message}"))
}

/// A run that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(formatter, "  {line}")?;
        }
        write!(formatter, "seed {}: {}", self.seed, self.message)
    }
}

/// What a run that went well did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub events: u64,
    pub crashes: u64,
    pub rows: u64,
    pub commits: u64,
    pub repeats: u64,
    pub refused_requests: u64,
    pub trims: u64,
    pub resends: u64,
    pub lost_deliveries: u64,
    /// Steps in which rows were read again that a full shard had left.
    pub read_again: u64,
    /// Those of them in which kept deliveries led from the end of a log to what came live.
    pub bridged: u64,
    /// Looks at a store whose disk was full in a commit.
    pub full_commits: u64,
    /// Looks of requests at a process that did not take any yet.
    pub at_gate: u64,
    /// Of the trace: equal for equal courses.
    pub fingerprint: u64,
}

/// Everything there is.
pub struct World {
    pub setup: Setup,
    pub random: Random,
    pub now_us: i64,
    pub queue: Queue,
    pub truth: Truth,
    pub storage: Arc<SimulatedStorage>,
    pub stores: Vec<Arc<SimulatedStore>>,
    pub segments: SegmentDisk,
    pub receivers: BTreeMap<usize, Receiver>,
    pub topic: Topic,
    pub partitions: Vec<Partition>,
    /// By shard.
    pub history: Vec<History>,
    /// The journals of all starts, in their order.
    pub journals: Vec<SplitId>,
    pub clients: Vec<Client>,
    pub requests: Vec<Request>,
    pub node: Option<Node>,
    pub generation: Generation,
    /// Whether the journal's disk may fail at the moment: its errors are then no surprise.
    pub disk_fault: bool,
    /// The disk of the stores is full.
    pub stores_full: bool,
    /// The next sync or rename of a segment fails.
    pub segments_fail: bool,
    /// What the engine's clock is ahead, and the latest that it has said.
    skew_us: i64,
    latest_clock_us: i64,
    /// By sink: until when its server answers nobody.
    pub down_until_us: BTreeMap<usize, i64>,
    pub file_split: SplitId,
    pub report: Report,
    trace: VecDeque<String>,
    echo: bool,
}

/// Runs one seed.
pub fn run(seed: u64) -> Result<Report, Failure> {
    run_traced(seed, false)
}

/// Runs one seed and prints every event if `echo` is set.
pub fn run_traced(seed: u64, echo: bool) -> Result<Report, Failure> {
    let mut world = World::new(seed, echo);
    match world.live() {
        Ok(()) => Ok(world.report),
        Err(message) => Err(Failure { seed, message, trace: world.trace.into() }),
    }
}

impl World {
    fn new(seed: u64, echo: bool) -> World {
        let mut random = Random::new(seed);
        let setup = Setup::new(&mut random, START_US);
        let mut truth = Truth::new(setup.shards());
        let file_split: SplitId = Arc::from("replay@1");
        truth.file(file_split.clone(), &setup.file_fates, setup.file.len() as u64);
        let mut world = World {
            storage: Arc::new(SimulatedStorage::new(random.next())),
            stores: (0..setup.shards()).map(|_| Arc::default()).collect(),
            segments: SegmentDisk::default(),
            receivers: SERVERS.map(|sink| (sink, Receiver::default())).into(),
            topic: Topic::default(),
            partitions: (0..PARTITIONS).map(|number| Partition::new(number, &setup, &mut random)).collect(),
            history: (0..setup.shards()).map(|_| History::default()).collect(),
            journals: Vec::new(),
            stores_full: false,
            segments_fail: false,
            skew_us: 0,
            latest_clock_us: START_US,
            clients: (0..setup.clients).map(|client| Client::new(client, &setup)).collect(),
            requests: Vec::new(),
            node: None,
            generation: 0,
            disk_fault: false,
            down_until_us: BTreeMap::new(),
            report: Report::default(),
            trace: VecDeque::new(),
            now_us: START_US,
            queue: Queue::default(),
            setup,
            random,
            truth,
            file_split,
            echo,
        };
        world.queue.push(START_US, Event::Start);
        for place in 0..PARTITIONS {
            world.truth.splits.entry(world.partitions[place].id.clone()).or_default();
            world.after(SECOND, Event::Produce(place));
        }
        for client in 0..world.clients.len() {
            let wait_us = world.random.between(0, SECOND);
            world.after(wait_us, Event::Client(client));
        }
        world.after(SECOND, Event::Fault);
        world.queue.push(world.setup.calm_at_us, Event::Rest);
        world
    }

    /// Events one after the other, until all is at rest.
    fn live(&mut self) -> Result<(), String> {
        while let Some((at_us, event)) = self.queue.pop() {
            self.now_us = at_us.max(self.now_us);
            self.report.events += 1;
            if self.report.events > MAX_EVENTS || self.now_us > self.setup.calm_at_us + MAX_REST_US {
                return Err(format!("the process does not come to rest: {}", self.unrest()));
            }
            let at_rest = match event {
                Event::Rest => self.rest(),
                event => self.happen(event).map(|()| false),
            };
            match at_rest {
                Ok(false) => {}
                Ok(true) => return self.check_end(),
                Err(Stop::Violation(message)) => return Err(message),
                Err(Stop::Crash(reason)) => self.crash(&reason)?,
            }
        }
        Err("nothing is left to happen, and the process is not at rest".to_owned())
    }

    fn happen(&mut self, event: Event) -> Done {
        match event {
            Event::Client(client) => self.client_acts(client),
            Event::Timeout { client, attempt } => self.client_times_out(client, attempt),
            Event::Answer { client, attempt, answer } => self.client_hears(client, attempt, answer)?,
            Event::Arrive(message) => self.arrive(message)?,
            Event::Received { sink, key, body } => {
                self.note(|| format!("sink {sink} receives {key}"));
                let receiver = self.receivers.get_mut(&sink).expect("only webhooks send");
                receiver.take(&key, &body).map_err(broken("I8"))?;
            }
            Event::TopicCommit { transaction } => self.topic.commit(transaction),
            Event::Crash => return Err(Stop::Crash("power".to_owned())),
            Event::Start => self.start_or_crash()?,
            Event::Produce(place) => self.produce(place),
            Event::Fault => {
                self.look_at_any()?;
                self.fault();
            }
            Event::Rest => {}
            Event::Node(generation, event) if self.node.is_some() && generation == self.generation => {
                self.node_event(event)?;
                self.maybe_crash(self.setup.events_a_crash)?;
            }
            Event::Node(..) => {}
        }
        Ok(())
    }

    fn node_event(&mut self, event: NodeEvent) -> Done {
        match event {
            NodeEvent::LookUp { message, received_us } => self.look_up(message, received_us),
            NodeEvent::Append => self.append(),
            NodeEvent::Sync => self.sync(),
            NodeEvent::Heartbeat => self.heartbeat(),
            NodeEvent::FileChunk => self.file_chunk(),
            NodeEvent::FileDecoded { from, to, only } => self.file_decoded(from, to, only),
            NodeEvent::ReadLog(log) => self.read_log(log),
            NodeEvent::Poll(place) => self.poll(place),
            NodeEvent::AtGate { message, since_us } => self.at_gate(message, since_us),
            NodeEvent::Deliver { worker, delivery } => self.deliver(worker, delivery),
            NodeEvent::Work(worker) => self.work(worker),
            NodeEvent::Commit(commit) => self.commit_step(commit),
            NodeEvent::Send { sink, shard } => self.send(sink, shard),
            NodeEvent::Transact => self.transact(),
            NodeEvent::Transacted { ended, refused } => self.transacted(ended, &refused),
            NodeEvent::Sent { sink, shard, batch, outcome } => self.sent(sink, shard, &batch, outcome),
        }
    }

    /// The process, which an event of its own has found alive.
    pub fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("an event of a process comes only while it lives")
    }

    pub fn after(&mut self, wait_us: i64, event: Event) {
        self.queue.push(self.now_us + wait_us, event);
    }

    /// An event of the process that runs now.
    pub fn node_after(&mut self, wait_us: i64, event: NodeEvent) {
        self.queue.push(self.now_us + wait_us, Event::Node(self.generation, event));
    }

    /// Whether things still go wrong.
    pub fn is_faulty(&self) -> bool {
        self.now_us < self.setup.calm_at_us
    }

    /// Time that a disk takes.
    pub fn disk_us(&mut self) -> i64 {
        let slow = self.setup.slow_disk && self.random.once_in(10);
        if slow { self.random.between(50 * MS, 500 * MS) } else { self.random.between(500, 8 * MS) }
    }

    /// A power failure once in so many calls.
    pub fn maybe_crash(&mut self, times: u64) -> Done {
        if self.is_faulty() && self.random.once_in(times) {
            return Err(Stop::Crash("power".to_owned()));
        }
        Ok(())
    }

    /// Notes an event for whoever looks for the cause of a failure.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", (self.now_us - START_US) as f64 / SECOND as f64, text());
        for byte in line.as_bytes() {
            self.report.fingerprint = (self.report.fingerprint ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.echo {
            println!("{line}");
        }
        if self.trace.len() == SHOWN_EVENTS {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Something goes wrong outside of the process, or right again.
    fn fault(&mut self) {
        self.storage.set_capacity(u64::MAX);
        (self.stores_full, self.segments.room) = (false, None);
        if !self.is_faulty() {
            self.segments_fail = false;
            self.storage.fail_syncs_after(None);
            self.storage.fail_writes_after(None);
            self.disk_fault = false;
            return;
        }
        let what = match self.random.below(13) {
            0 | 4 => {
                self.storage.set_capacity(self.random.below(3) * self.setup.segment_bytes);
                "the disk is full"
            }
            1 => {
                self.disk_fault = true;
                self.storage.fail_syncs_after(Some(self.random.below(4)));
                "a sync will fail"
            }
            2 => {
                self.disk_fault = true;
                self.storage.fail_writes_after(Some(self.random.below(4)));
                "a write will fail"
            }
            3 => {
                let wait_us = self.random.between(0, SECOND);
                self.after(wait_us, Event::Crash);
                "the power will fail"
            }
            5 | 6 => {
                let sink = *self.random.pick(&SERVERS);
                let until_us = self.now_us + self.random.between(SECOND, 12 * SECOND);
                self.down_until_us.insert(sink, until_us.min(self.setup.calm_at_us));
                "a sink is down"
            }
            8 => {
                self.stores_full = true;
                "the stores' disk is full"
            }
            9 => {
                self.segments.room = Some(self.random.below(600) as usize);
                "the segments' disk is nearly full"
            }
            10 => {
                self.segments_fail = true;
                "a segment's sync or rename will fail"
            }
            11 => {
                let until_us = self.now_us + self.random.between(SECOND, 6 * SECOND);
                self.random.pick_mut(&mut self.partitions).down_until_us = until_us.min(self.setup.calm_at_us);
                "a partition is down"
            }
            12 if self.setup.moves_clock => {
                self.set_clock();
                "the clock is set"
            }
            _ => "nothing",
        };
        self.note(|| format!("fault: {what}"));
        let wait_us = self.random.between(200 * MS, 3 * SECOND);
        self.after(wait_us, Event::Fault);
    }

    /// A start may meet the same failures as everything else.
    fn start_or_crash(&mut self) -> Done {
        let reason = match self.start() {
            Err(Stop::Crash(reason)) => reason,
            done => return done,
        };
        self.note(|| format!("crash at the start: {reason}"));
        if self.node.is_some() {
            return self.crash(&reason).map_err(Stop::Violation);
        }
        self.disk_fault = false;
        self.storage.crash();
        self.after(100 * MS, Event::Start);
        Ok(())
    }

    /// The process ends, whatever it was doing.
    fn crash(&mut self, reason: &str) -> Result<(), String> {
        if self.node.is_none() {
            return Ok(());
        }
        self.disk_fault = false;
        self.note(|| format!("crash: {reason}"));
        self.report.crashes += 1;
        let node = self.node.take().expect("it was there above");
        for commit in node.commits.values() {
            let shard = commit.frozen.shard;
            if self.stores[usize::from(shard)].crash(&mut self.random) {
                let positions: Vec<(String, u64)> =
                    commit.frozen.positions().map(|(split, position)| (split.to_owned(), position)).collect();
                self.truth.committed(shard, commit.steps, positions.into_iter());
                if let Err(Stop::Violation(message)) = self.history_committed(shard, commit.frozen.meta.max_event_time_us) {
                    return Err(message);
                }
            }
        }
        drop(node);
        self.storage.crash();
        self.segments.crash(&mut self.random);
        self.truth.crash();
        let wait_us = self.random.between(10 * MS, 2 * SECOND);
        self.after(wait_us, Event::Start);
        if self.setup.moves_clock && self.random.percent(30) {
            self.set_clock();
        }
        Ok(())
    }

    /// What the engine's clock says. It may be set while a process runs, and between two.
    pub fn clock_us(&self) -> i64 {
        self.now_us + self.skew_us
    }

    /// The clock is set: back by so little only that no row is too far ahead, forward only where no request is forgotten for it.
    fn set_clock(&mut self) {
        let most_us = if self.retention_us() > MAX_AHEAD_CLOCK_US + MAX_REST_US { MAX_AHEAD_CLOCK_US } else { self.skew_us };
        self.latest_clock_us = self.latest_clock_us.max(self.clock_us());
        self.skew_us = self.random.between(-MAX_BACK_US, most_us + 1);
        let (clock_us, skew_us) = (self.clock_us(), self.skew_us);
        self.requests.iter_mut().for_each(|request| request.lowest_clock_us = request.lowest_clock_us.min(clock_us));
        self.note(|| format!("the clock is {skew_us} us ahead"));
    }

    /// The latest that the engine's clock has said.
    pub fn latest_clock_us(&self) -> i64 {
        self.latest_clock_us.max(self.clock_us())
    }
}
