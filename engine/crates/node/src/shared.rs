//! What the threads of one process share: the plan, the inboxes, figures, and the first failure.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use streamjob_core::Error;
use streamjob_core::batch::{RowBatch, shard_of};
use streamjob_core::ledger::Ledger;
use streamjob_core::plan::Plan;
use streamjob_core::progress::SplitIndex;
use streamjob_core::shard::SplitInfo;
use streamjob_core::store::ShardStore;
use streamjob_core::trim::Trimmer;
use tokio::sync::Notify;

use crate::idempotency::Requests;
use crate::inbox::{Credits, Inbox};

/// Figures that a worker publishes after each batch.
#[derive(Debug, Clone, Default)]
pub struct WorkerFigures {
    pub ledger: Ledger,
    pub watermark_us: Option<i64>,
    pub max_event_time_us: Option<i64>,
    pub keys: u64,
    pub table_bytes: u64,
    pub pending_rows: Vec<u64>,
    /// By split: the lowest position of the worker's shards.
    pub positions: Vec<u64>,
    /// Splits that have finished in all of the worker's shards.
    pub finished: Vec<bool>,
    pub recent_windows: Vec<String>,
    pub recent_events: Vec<String>,
    /// Nothing waits: no rows, no windows to close, no commit, no message unconfirmed.
    pub quiet: bool,
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
    pub state_id: String,
    pub inboxes: Vec<Inbox>,
    /// By shard: its worker.
    pub worker_of: Arc<[u16]>,
    pub stores: Vec<Arc<dyn ShardStore>>,
    pub rocks: Vec<Arc<streamjob_state::RocksShardStore>>,
    pub splits: Vec<SplitInfo>,
    pub credits: Credits,
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
    pub stopping: AtomicBool,
    pub changed: Notify,
    failure: OnceLock<Error>,
}

impl Shared {
    pub fn new(
        plan: Arc<Plan>,
        state_id: String,
        inboxes: Vec<Inbox>,
        rocks: Vec<Arc<streamjob_state::RocksShardStore>>,
        splits: Vec<SplitInfo>,
    ) -> Shared {
        let workers = inboxes.len();
        Shared {
            state_id,
            worker_of: (0..plan.config.shards).map(|shard| shard % workers as u16).collect(),
            stores: rocks.iter().map(|store| store.clone() as Arc<dyn ShardStore>).collect(),
            rocks,
            credits: Credits::new(),
            figures: inboxes.iter().map(|_| Mutex::new(WorkerFigures::default())).collect(),
            commit_figures: CommitFigures::default(),
            trimmer: Mutex::new(Trimmer::new(0..plan.config.shards)),
            requests: Requests::new(plan.config.idempotency.retention_us),
            received: AtomicU64::new(0),
            start_positions: OnceLock::new(),
            sent_rows: plan.sinks.iter().map(|_| AtomicU64::new(0)).collect(),
            rate: Mutex::new(crate::metrics::Rate::default()),
            started: std::time::Instant::now(),
            stopping: AtomicBool::new(false),
            changed: Notify::new(),
            failure: OnceLock::new(),
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

    pub fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.failure.get().is_some()
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

    /// Rows by outcome of all shards.
    pub fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.figures.iter().for_each(|figures| sum.add(&figures.lock().ledger));
        sum
    }

    /// Microseconds since the process started.
    pub fn uptime_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// The lowest watermark of the workers, once each has one.
    pub fn watermark_us(&self) -> Option<i64> {
        self.figures.iter().map(|figures| figures.lock().watermark_us).min().flatten()
    }
}

/// Wall-clock time in microseconds since the epoch: the one place where the engine reads it.
pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64
}
