//! What the threads of one process share: the plan, the inboxes, figures, and the first failure.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use streamjob_connectors::connection::Connection;
use streamjob_core::batch::{RowBatch, hash_key, shard_of};
use streamjob_core::ledger::Ledger;
use streamjob_core::plan::Plan;
use streamjob_core::progress::{END_OF_TIME, SplitIndex};
use streamjob_core::shard::SplitInfo;
use streamjob_core::trim::Trimmer;
use streamjob_core::{Error, Result};
use streamjob_state::{ShardStores, StateDir};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::idempotency::Requests;
use crate::inbox::{BodyBudget, Credits, Inbox};
use crate::metrics::Metrics;
use crate::telemetry::Traces;
use crate::topics::TopicSource;

/// Figures that a worker publishes after each batch.
#[derive(Debug, Clone, Default)]
pub struct WorkerFigures {
    pub ledger: Ledger,
    pub watermark_us: Option<i64>,
    pub max_event_time_us: Option<i64>,
    pub keys: u64,
    pub table_bytes: u64,
    pub pending_rows: Vec<u64>,
    /// Shards that take no rows, as an outbox is full.
    pub blocked_shards: u64,
    /// Those, and the ones that read again what they have left.
    pub behind_shards: u64,
    /// By split: the lowest position of the worker's shards.
    pub positions: Vec<u64>,
    /// Splits that have finished in all of the worker's shards.
    pub finished: Vec<bool>,
    pub recent_windows: Vec<String>,
    pub recent_events: Vec<String>,
    /// The worker knows that all splits have ended.
    pub end_of_time: bool,
    /// The worker knows that the process stops.
    pub stopping: bool,
    /// One of the two, and nothing is left to do: no rows, no windows to close, no change to commit, no message
    /// unconfirmed. It stays so, as nothing new comes any more.
    pub at_rest: bool,
}

/// Whether rows may be sent to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The journals of earlier starts are being replayed, with the ids of their requests.
    Starting,
    Open,
    Closed,
}

/// One source or sink with a server, for the figures.
#[derive(Clone)]
pub struct ConnectionView {
    pub source: bool,
    pub name: Arc<str>,
    pub connection: Arc<Connection>,
    /// Of a source that reads a topic.
    pub topic: Option<Arc<TopicSource>>,
    /// Of a source inside of the process: bytes of messages that it has brought.
    pub bytes: Option<Arc<AtomicU64>>,
}

/// Figures of commits.
#[derive(Debug, Default)]
pub struct CommitFigures {
    pub commits: AtomicU64,
    pub bytes: AtomicU64,
    pub last_duration_us: AtomicU64,
    /// When the newest commit finished, microseconds of the process's clock.
    pub last_at_us: AtomicU64,
}

/// One process.
pub struct Shared {
    pub plan: Arc<Plan>,
    /// Another one at each start.
    pub run_id: String,
    pub inboxes: Vec<Inbox>,
    /// By shard: its worker.
    pub worker_of: Arc<[u16]>,
    pub stores: ShardStores,
    pub splits: Vec<SplitInfo>,
    pub credits: Credits,
    pub bodies: BodyBudget,
    pub traces: Traces,
    pub metrics: Metrics,
    pub figures: Vec<Mutex<WorkerFigures>>,
    pub commit_figures: CommitFigures,
    /// What the newest commits allow to be deleted of the journals (I3).
    pub trimmer: Mutex<Trimmer>,
    pub requests: Requests,
    /// Rows that came in since the process started, applied or not, plus those that older commits count.
    pub received: AtomicU64,
    /// By split: each shard's position at the start. Rows before it were counted in an earlier run.
    pub start_positions: OnceLock<Vec<Vec<u64>>>,
    pub sent_rows: Vec<AtomicU64>,
    pub rate: Mutex<crate::metrics::Rate>,
    pub started: std::time::Instant,
    pub gate: watch::Sender<Gate>,
    /// Whether the gate is open, for who only wants to know that.
    open: AtomicBool,
    stopping: AtomicBool,
    ending: AtomicBool,
    /// Told when something happened that the run must see to.
    pub changed: Notify,
    failure: OnceLock<Error>,
    /// Why the process is to commit, close and open its state anew.
    reopen: OnceLock<String>,
    /// Sinks that have not said yet how far they are.
    unknown_sinks: AtomicUsize,
    /// What the sources and sinks are connected to.
    pub connections: Mutex<Vec<ConnectionView>>,
    /// By sink of messages, by shard: the number of the first batch that this run cuts.
    pub first_numbers: OnceLock<HashMap<(usize, u16), u64>>,
    /// Shards of all workers that have left rows.
    behind: AtomicUsize,
    /// Sources inside of the process that have an end and are not there yet.
    unfinished_sources: AtomicUsize,
    /// Threads that wait for room on a disk.
    waiting_for_room: AtomicUsize,
    /// Dropped behind the stores: whoever gets its lock finds them closed.
    pub state: StateDir,
    /// Dropped last: who has a weak one of it knows when all else is gone, which takes a while after the last use of this.
    pub alive: Arc<()>,
}

impl Shared {
    pub fn new(
        plan: Arc<Plan>,
        state: StateDir,
        traces: Traces,
        metrics: Metrics,
        inboxes: Vec<Inbox>,
        stores: ShardStores,
        splits: Vec<SplitInfo>,
    ) -> Shared {
        let workers = inboxes.len();
        Shared {
            run_id: StateDir::new_incarnation(None).to_string(),
            worker_of: (0..plan.config.shards).map(|shard| shard % workers as u16).collect(),
            stores,
            credits: Credits::new(),
            bodies: BodyBudget::new(plan.config.ingest.max_body_bytes as usize),
            traces,
            metrics,
            figures: inboxes.iter().map(|_| Mutex::new(WorkerFigures::default())).collect(),
            commit_figures: CommitFigures::default(),
            trimmer: Mutex::new(Trimmer::new(0..plan.config.shards)),
            requests: Requests::new(plan.config.idempotency.retention_us),
            received: AtomicU64::new(0),
            start_positions: OnceLock::new(),
            sent_rows: plan.sinks.iter().map(|_| AtomicU64::new(0)).collect(),
            rate: Mutex::new(crate::metrics::Rate::default()),
            started: std::time::Instant::now(),
            gate: watch::channel(Gate::Starting).0,
            open: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            changed: Notify::new(),
            failure: OnceLock::new(),
            reopen: OnceLock::new(),
            unknown_sinks: AtomicUsize::new(0),
            connections: Mutex::new(Vec::new()),
            first_numbers: OnceLock::new(),
            behind: AtomicUsize::new(0),
            unfinished_sources: AtomicUsize::new(0),
            waiting_for_room: AtomicUsize::new(0),
            state,
            alive: Arc::new(()),
            inboxes,
            splits,
            plan,
        }
    }

    /// Keeps the first failure and asks the process to end.
    pub fn fail(&self, error: Error) {
        tracing::error!(actor = error.actor().as_str(), retryable = error.retryable(), "{error}");
        let _ = self.failure.set(error);
        self.changed.notify_one();
    }

    /// Asks all threads to end: the start has failed, which is reported elsewhere.
    pub fn abandon(&self, error: Error) {
        let _ = self.failure.set(error);
    }

    pub fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Asks the process to commit, to close its state and to open it anew: what it found at its start has changed.
    pub fn ask_reopen(&self, why: &str) {
        if self.reopen.set(why.to_owned()).is_ok() {
            tracing::info!("{why}: opening anew");
        }
        self.changed.notify_one();
    }

    /// Whether the state is to be opened anew.
    pub fn reopens(&self) -> bool {
        self.reopen.get().is_some()
    }

    /// A sink must say how far it is before rows are processed: a state that is older than the sink must give no batch a number
    /// that the sink has.
    pub fn await_sink(&self) {
        self.unknown_sinks.fetch_add(1, Ordering::AcqRel);
    }

    /// It has said so.
    pub fn sink_is_known(&self) {
        self.unknown_sinks.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether nothing may be processed yet.
    pub fn awaits_sinks(&self) -> bool {
        self.unknown_sinks.load(Ordering::Acquire) > 0
    }

    /// Everything of earlier starts is in the inboxes: new rows may come.
    pub fn open_gate(&self) {
        self.gate.send_if_modified(|gate| {
            let starting = *gate == Gate::Starting;
            if starting {
                *gate = Gate::Open;
                self.open.store(true, Ordering::Release);
            }
            starting
        });
        self.changed.notify_one();
    }

    /// No rows may come any more.
    pub fn close_gate(&self) {
        self.gate.send_modify(|gate| {
            *gate = Gate::Closed;
            self.open.store(false, Ordering::Release);
        });
    }

    /// Waits until no rows may come any more.
    pub async fn closed(&self) {
        let mut gate = self.gate.subscribe();
        let _ = gate.wait_for(|gate| *gate == Gate::Closed).await;
    }

    /// A source inside of the process begins that has an end.
    pub fn source_begins(&self) {
        self.unfinished_sources.fetch_add(1, Ordering::AcqRel);
    }

    /// It is there, with all of its rows durable.
    pub fn source_has_finished(&self) {
        self.unfinished_sources.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// Whether one of them still brings rows.
    pub fn has_unfinished_sources(&self) -> bool {
        self.unfinished_sources.load(Ordering::Acquire) > 0
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Who brings rows brings no more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.failure.get().is_some()
    }

    /// Nobody waits for a disk or a sink any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) || self.failure.get().is_some()
    }

    /// A thread waits for room on a disk. Until [`Shared::has_room`] requests are refused.
    pub fn waits_for_room(&self, error: &Error) {
        if self.waiting_for_room.fetch_add(1, Ordering::AcqRel) == 0 {
            tracing::error!(actor = error.actor().as_str(), retryable = true, "waiting for room on the disk: {error}");
        }
    }

    /// A thread that waited for room has found it.
    pub fn has_room(&self) {
        if self.waiting_for_room.fetch_sub(1, Ordering::AcqRel) == 1 {
            tracing::info!("the disk has room again; the job goes on");
        }
    }

    /// Whether somebody waits for room on a disk.
    pub fn is_disk_full(&self) -> bool {
        self.waiting_for_room.load(Ordering::Acquire) > 0
    }

    /// Shards that have left rows.
    pub fn behind(&self) -> usize {
        self.behind.load(Ordering::Acquire)
    }

    /// A worker has `now` shards that are behind, where it had `before`.
    pub fn count_behind(&self, before: usize, now: usize) {
        self.behind.fetch_add(now.wrapping_sub(before), Ordering::AcqRel);
    }

    /// Counts the rows of a batch that no earlier run has taken.
    pub fn count_received(&self, split: SplitIndex, first_offset: u64, batch: &RowBatch) {
        let all = (batch.rows() + batch.rejects.len()) as u64;
        let Some(starts) = self.start_positions.get().map(|starts| &starts[usize::from(split)]) else { return };
        let new = if starts.iter().all(|start| *start <= first_offset) {
            all
        } else {
            let shards = self.plan.config.shards;
            let is_new = |shard: u16, offset: u64| offset >= starts[usize::from(shard)];
            let rows = (0..batch.rows())
                .filter(|row| is_new(shard_of(batch.key_hash[*row], shards), first_offset + batch.relative_offset(*row)))
                .count();
            let rejects = batch.rejects.iter().map(|reject| first_offset + u64::from(reject.relative_offset));
            (rows + rejects.filter(|offset| is_new((offset % u64::from(shards)) as u16, *offset)).count()) as u64
        };
        self.received.fetch_add(new, Ordering::Relaxed);
    }

    /// Whether the home shard of a request's id had committed its rows, up to `end`, at the start.
    pub fn has_committed(&self, split: SplitIndex, id: &str, end: u64) -> bool {
        let home = shard_of(hash_key(id.as_bytes()), self.plan.config.shards);
        self.start_positions.get().is_some_and(|starts| starts[usize::from(split)][usize::from(home)] >= end)
    }

    /// Rows by outcome of all shards.
    pub fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.figures.iter().for_each(|figures| sum.add(&figures.lock().ledger));
        sum
    }

    /// Rows since the state was created, processed or not; never fewer than what the ledger has taken.
    pub fn received_rows(&self, ledger: &Ledger) -> u64 {
        self.received.load(Ordering::Relaxed).max(ledger.taken())
    }

    /// Microseconds since the process started.
    pub fn uptime_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// The lowest watermark of the workers, once each has one.
    pub fn watermark_us(&self) -> Option<i64> {
        self.figures.iter().map(|figures| figures.lock().watermark_us).min().flatten()
    }

    /// The same as a time that can be shown: none before the first row and after the end of time.
    pub fn shown_watermark_us(&self) -> Option<i64> {
        self.watermark_us().filter(|watermark_us| *watermark_us != END_OF_TIME)
    }
}

/// Wall-clock time in microseconds since the epoch: the one place where the engine reads it.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64
}

/// Waits for a source's or sink's task. Whatever ends it early ends the process: a job that ran on without it would say nothing.
pub async fn hear(shared: Arc<Shared>, task: JoinHandle<Result<()>>) {
    match task.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.fail(error),
        Err(error) if error.is_panic() => {
            shared.fail(Error::engine(format!("a connector broke: {error}; this is a bug, please report it")));
        }
        Err(_) => {}
    }
}

/// Reads where that may block. Whoever reads a store keeps the process's state from being opened anew, also when the client has
/// gone meanwhile.
pub async fn blocking<T: Send + 'static>(shared: &Arc<Shared>, read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let shared = shared.clone();
    let reading = move || {
        let outcome = read();
        drop(shared);
        outcome
    };
    tokio::task::spawn_blocking(reading).await.map_err(|error| Error::engine(error.to_string()))?
}
