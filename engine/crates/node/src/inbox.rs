//! What reaches a worker, and how much of it may wait.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use streamjob_connectors::deliveries::DeliveryReport;
use streamjob_core::outbox::Batch;
use streamjob_core::processor::{Delivery, Processor};
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::reorder::Covers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Rows that may wait in all inboxes of the process, as units of [`Credits`].
pub const MAX_QUEUED_UNITS: usize = 1 << 18;
/// Bytes that one unit stands for: a queue is bounded in rows and in bytes.
const UNIT_BYTES: usize = 256;

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

    /// Units that are taken.
    pub fn taken(&self) -> usize {
        MAX_QUEUED_UNITS - self.semaphore.available_permits()
    }
}

/// Whatever is given back by being dropped: credits, a place among the chunks under way.
pub trait Hold: Send + Sync {}

impl<T: Send + Sync> Hold for T {}

/// Rows on their way to a worker; what they hold comes back when the last worker is done with the batch.
pub struct Parcel {
    pub delivery: Delivery,
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
    },
    /// A message sink confirmed or refused a batch.
    Report {
        sink: usize,
        report: DeliveryReport,
    },
    /// Runs on the worker's thread between batches: queries.
    Ask(Box<dyn FnOnce(&Processor) + Send>),
    /// All splits are read to their end: raise the watermark to the end of time.
    EndOfTime,
    /// Commit everything, then end.
    Stop,
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
