//! What reaches a worker, and how much of it may wait.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use streamjob_connectors::deliveries::DeliveryReport;
use streamjob_core::Result;
use streamjob_core::outbox::Batch;
use streamjob_core::processor::{Delivery, Processor};
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::reorder::Covers;
use streamjob_core::shard::SlotBuffers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::telemetry::Trace;

/// Rows that may wait in all inboxes of the process, as units of [`Credits`].
pub const MAX_QUEUED_UNITS: usize = 1 << 18;
/// Bytes that one unit stands for: a queue is bounded in rows and in bytes.
const UNIT_BYTES: usize = 256;

/// A thread that waits for room looks this often whether the process stops.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Wakes a thread that waits for room.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The bound of all inboxes together. Whoever brings rows takes credits first, so that putting them in never waits.
#[derive(Clone)]
pub struct Credits {
    semaphore: Arc<Semaphore>,
}

impl Credits {
    pub fn new() -> Credits {
        Credits { semaphore: Arc::new(Semaphore::new(MAX_QUEUED_UNITS)) }
    }

    fn units(rows: usize, bytes: usize) -> u32 {
        rows.max(bytes / UNIT_BYTES).clamp(1, MAX_QUEUED_UNITS) as u32
    }

    /// Waits until so many rows and bytes have room.
    pub async fn take(&self, rows: usize, bytes: usize) -> OwnedSemaphorePermit {
        let units = Self::units(rows, bytes);
        self.semaphore.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
    }

    /// Takes credits if there is room now.
    pub fn try_take(&self, rows: usize, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.semaphore.clone().try_acquire_many_owned(Self::units(rows, bytes)).ok()
    }

    /// As [`Credits::take`] for a thread that may block, in the same queue as all others; `None` once `stop` says so.
    pub fn take_blocking(&self, rows: usize, bytes: usize, stop: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        if let Some(credits) = self.try_take(rows, bytes) {
            return Some(credits);
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut taken = pin!(self.take(rows, bytes));
        loop {
            if let Poll::Ready(credits) = taken.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(credits);
            }
            if stop() {
                return None;
            }
            std::thread::park_timeout(STOP_LOOK);
        }
    }

    /// Units that are taken.
    pub fn taken(&self) -> usize {
        MAX_QUEUED_UNITS - self.semaphore.available_permits()
    }
}

/// Bodies of requests that are read or decoded may take this many bytes together, or two of the longest.
const BODY_BYTES: usize = 256 << 20;
/// A compressed body is expected to grow by this, and one of unknown length to have this many bytes.
const EXPECTED_GROWTH: usize = 8;
const EXPECTED_BYTES: usize = 64 << 10;

/// The bound of all bodies together.
pub struct BodyBudget {
    semaphore: Arc<Semaphore>,
    max_body_bytes: usize,
}

/// A part of the budget, for one body.
pub struct BodyShare {
    permit: OwnedSemaphorePermit,
}

impl BodyBudget {
    pub fn new(max_body_bytes: usize) -> BodyBudget {
        let bytes = BODY_BYTES.max(max_body_bytes.saturating_mul(2)).min(Semaphore::MAX_PERMITS);
        BodyBudget { semaphore: Arc::new(Semaphore::new(bytes)), max_body_bytes }
    }

    /// Waits for room for a body of which only the announced length is known.
    pub async fn take(&self, announced: Option<u64>, compressed: bool) -> BodyShare {
        let bytes = self.expected(announced, compressed);
        let permit = self.semaphore.clone().acquire_many_owned(bytes).await.expect("the semaphore is never closed");
        BodyShare { permit }
    }

    /// As [`BodyBudget::take`] where there is room now.
    pub fn try_take(&self, announced: Option<u64>, compressed: bool) -> Option<BodyShare> {
        let permit = self.semaphore.clone().try_acquire_many_owned(self.expected(announced, compressed)).ok()?;
        Some(BodyShare { permit })
    }

    fn expected(&self, announced: Option<u64>, compressed: bool) -> u32 {
        let announced = announced.map_or(EXPECTED_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let expected = if compressed { announced.saturating_mul(EXPECTED_GROWTH) } else { announced };
        expected.clamp(1, self.max_body_bytes.max(1)).min(u32::MAX as usize) as u32
    }

    /// Makes room for a body that is longer than expected. False: there is none now. Who holds a part never waits for more.
    pub fn grow(&self, share: &mut BodyShare, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(share.permit.num_permits());
        if missing == 0 {
            return true;
        }
        match self.semaphore.clone().try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX)) {
            Ok(more) => {
                share.permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }
}

/// Whatever is given back by being dropped: credits, a place among the chunks under way.
pub trait Hold: Send + Sync {}

impl<T: Send + Sync> Hold for T {}

/// Rows on their way to a worker; what they hold comes back when the last worker is done with the batch.
#[derive(Clone)]
pub struct Parcel {
    pub delivery: Delivery,
    /// Set for the few batches that are traced.
    pub trace: Option<Arc<Trace>>,
    pub _hold: Option<Arc<dyn Hold>>,
}

impl Covers for Parcel {
    fn split(&self) -> SplitIndex {
        self.delivery.split
    }

    fn covers_from(&self) -> u64 {
        self.delivery.covers_from
    }

    fn covers_to(&self) -> u64 {
        self.delivery.to()
    }

    fn rows(&self) -> usize {
        self.delivery.rows.len()
    }
}

/// What a worker is told.
pub enum Message {
    Rows(Parcel),
    /// Holds once the worker is at this offset of the split.
    Status {
        split: SplitIndex,
        at: u64,
        status: SplitStatus,
    },
    Committed {
        shard: u16,
        epoch: u64,
        sends: Vec<(usize, Batch)>,
        /// To be used again.
        buffers: SlotBuffers,
    },
    /// A message sink confirmed or refused a batch.
    Report {
        sink: usize,
        report: DeliveryReport,
    },
    /// Runs on the worker's thread between batches: queries.
    Ask(Box<dyn FnOnce(&Processor) + Send>),
    /// Commit what there is, and tell when it is durable.
    Checkpoint(oneshot::Sender<Result<()>>),
    /// All splits are read to their end: raise the watermark to the end of time.
    EndOfTime,
    /// Nothing new comes: process what is there and commit it.
    Stop,
    /// Take nothing any more, commit what changed, then end.
    End,
}

/// The sending side of a worker's inbox.
#[derive(Clone)]
pub struct Inbox {
    sender: Sender<Message>,
}

impl Inbox {
    pub fn new() -> (Inbox, Receiver<Message>) {
        let (sender, receiver) = unbounded();
        (Inbox { sender }, receiver)
    }

    /// Puts a message in. A worker that has ended takes no more: its failure is reported elsewhere.
    pub fn put(&self, message: Message) {
        let _ = self.sender.send(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_waits_in_the_same_queue_as_requests() {
        let credits = Credits::new();
        let mut held = credits.try_take(MAX_QUEUED_UNITS - 2, 0).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| credits.take_blocking(10, 0, || false).unwrap().num_permits());
            // Once it has its place, others that want less come behind it.
            while credits.try_take(1, 0).is_some() {
                std::thread::yield_now();
            }
            drop(held.split(8).unwrap());
            assert_eq!(waiting.join().unwrap(), 10);
        });
        assert!(credits.take_blocking(MAX_QUEUED_UNITS, 0, || true).is_none());
        drop(held);
        assert_eq!(credits.taken(), 0);
    }
}
