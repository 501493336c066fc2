//! Delivers batches until each is taken or refused: in order within a shard, several shards at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streamjob_core::transactions::RefusedRow;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::backoff::Backoff;
use crate::webhook::WebhookBatch;

/// Shards whose batches are under way at once, which also bounds the connections to the server.
pub const MAX_PARALLEL_SHARDS: usize = 16;

/// Batches taken from the channel and not answered yet. When a shard's are stuck, this is how far the others get ahead of it.
pub const MAX_HELD_BATCHES: usize = 256;

/// The longest Retry-After that is obeyed: a server's mistake must not stop a sink for days.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// A batch with its place in the output.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Batches of one shard are delivered one after the other, in the order in which they came.
    pub shard: u16,
    /// The sink's name, handed through to the report.
    pub sink: Arc<str>,
    /// The output sequence of the batch's last row, handed through to the report.
    pub last_seq: u64,
    pub batch: WebhookBatch,
}

/// The server's final answer to a batch.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    pub shard: u16,
    pub sink: Arc<str>,
    pub last_seq: u64,
    /// Attempts that it took, at least 1.
    pub attempts: u32,
    /// The batch itself: what was refused goes to the dead letters.
    pub batch: WebhookBatch,
    pub result: Result<(), Refusal>,
}

/// What the server will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The batch as a whole.
    Batch { status: u16, reason: String },
    /// Some of its rows; it has the others.
    Rows(Vec<RefusedRow>),
}

/// One attempt to deliver a batch, and what it came to.
pub trait Deliver: Send + Sync + 'static {
    fn deliver(&self, delivery: &Delivery) -> impl Future<Output = Outcome> + Send;
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server has the batch.
    Delivered,
    /// The server may take it later. `after` is when it asks to be tried again.
    Retry { after: Option<Duration>, reason: String },
    /// The server will never take it, or not all of it.
    Refused(Refusal),
}

/// Delivers what comes from `batches`, retrying for ever, and calls `report` once for each batch.
///
/// Ends when the channel is closed and everything is answered, or at once when `shutdown` is cancelled: attempts under way are
/// then given up. Returns the number of batches taken and not reported: they stay in the outbox, and since an attempt
/// may have arrived, the next start sends them again under the same idempotency key.
///
/// `report` must not block. `seed` makes the jitter differ between processes.
pub async fn run_deliveries<D: Deliver>(
    server: Arc<D>,
    backoff: Backoff,
    seed: u64,
    mut batches: mpsc::Receiver<Delivery>,
    mut report: impl FnMut(DeliveryReport),
    shutdown: CancellationToken,
) -> usize {
    let mut lanes = Lanes::default();
    let mut running = JoinSet::new();
    let mut open = true;
    loop {
        while running.len() < MAX_PARALLEL_SHARDS
            && let Some(delivery) = lanes.next()
        {
            running.spawn(deliver_until_answered(server.clone(), backoff, seed, delivery));
        }
        if !open && running.is_empty() {
            return 0;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return lanes.held,
            Some(answered) = running.join_next() => {
                let answered: DeliveryReport = answered.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
                lanes.answered(answered.shard);
                report(answered);
            }
            received = batches.recv(), if open && lanes.held < MAX_HELD_BATCHES => match received {
                Some(delivery) => lanes.push(delivery),
                None => open = false,
            },
        }
    }
}

/// The waiting batches of each shard; a shard is in the map while it has a batch here or under way.
#[derive(Default)]
struct Lanes {
    waiting: HashMap<u16, VecDeque<Delivery>>,
    /// Shards with a waiting batch and none under way, the one that waited longest first.
    ready: VecDeque<u16>,
    /// Batches waiting or under way.
    held: usize,
}

impl Lanes {
    fn push(&mut self, delivery: Delivery) {
        self.held += 1;
        let shard = delivery.shard;
        let lane = self.waiting.entry(shard).or_insert_with(|| {
            self.ready.push_back(shard);
            VecDeque::new()
        });
        lane.push_back(delivery);
    }

    fn next(&mut self) -> Option<Delivery> {
        let shard = self.ready.pop_front()?;
        self.waiting.get_mut(&shard)?.pop_front()
    }

    fn answered(&mut self, shard: u16) {
        self.held -= 1;
        match self.waiting.get(&shard) {
            Some(lane) if !lane.is_empty() => self.ready.push_back(shard),
            _ => drop(self.waiting.remove(&shard)),
        }
    }
}

async fn deliver_until_answered<D: Deliver>(server: Arc<D>, backoff: Backoff, seed: u64, delivery: Delivery) -> DeliveryReport {
    let (shard, last_seq) = (delivery.shard, delivery.last_seq);
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        let result = match server.deliver(&delivery).await {
            Outcome::Delivered => Ok(()),
            Outcome::Refused(refusal) => Err(refusal),
            Outcome::Retry { after, reason } => {
                let wait = backoff.delay(attempts, random(seed, shard, last_seq, attempts));
                let wait = wait.max(after.unwrap_or_default().min(MAX_RETRY_AFTER));
                // A server that is down for long must not fill the log.
                if attempts.is_power_of_two() {
                    let sink = &*delivery.sink;
                    tracing::warn!(sink, shard, last_seq, attempts, ?wait, reason, "a delivery failed and is tried again");
                }
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let Delivery { sink, batch, .. } = delivery;
        return DeliveryReport { shard, sink, last_seq, attempts, batch, result };
    }
}

/// Uniform in 0 to 1, different for each batch, attempt and seed.
pub(crate) fn random(seed: u64, shard: u16, last_seq: u64, attempt: u32) -> f64 {
    let place = [u64::from(shard), last_seq, u64::from(attempt)].map(u64::to_le_bytes).concat();
    const BITS: u32 = 53;
    (xxh3_64_with_seed(&place, seed) >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}
