//! What happens next: events in the order of the simulated clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use streamjob_core::outbox::Batch;
use streamjob_core::processor::Delivery;
use streamjob_core::transactions::RefusedRow;

use crate::clients::{Answer, Message};
use crate::topic::Ended;

/// Number of a process: what belongs to an earlier one is nobody's any more.
pub type Generation = u64;

#[derive(Debug)]
pub enum Event {
    /// A client does the next thing.
    Client(usize),
    /// A client has waited long enough for an answer.
    Timeout {
        client: usize,
        attempt: u64,
    },
    Answer {
        client: usize,
        attempt: u64,
        answer: Answer,
    },
    /// A request reaches whatever process runs.
    Arrive(Message),
    /// A batch reaches the server of a sink.
    Received {
        sink: usize,
        key: String,
        body: Arc<[u8]>,
    },
    /// The word to commit a transaction reaches the topic's broker.
    TopicCommit {
        transaction: u64,
    },
    /// Someone writes to a partition.
    Produce(usize),
    Crash,
    Start,
    /// Something outside goes wrong, or right again.
    Fault,
    /// Is everything done?
    Rest,
    Node(Generation, NodeEvent),
}

#[derive(Debug)]
pub enum NodeEvent {
    /// The store of a request's home shard is read.
    LookUp {
        message: Message,
        received_us: i64,
    },
    /// The sequencer writes what came to the journal.
    Append,
    Sync,
    Heartbeat,
    FileChunk,
    FileDecoded {
        from: usize,
        to: usize,
        only: Option<usize>,
    },
    ReadLog(usize),
    /// The reader of a partition looks for messages.
    Poll(usize),
    /// A request waits until the process takes some.
    AtGate {
        message: Message,
        since_us: i64,
    },
    Deliver {
        worker: usize,
        delivery: Delivery,
    },
    Work(usize),
    Commit(u64),
    /// A webhook's lane tries its first batch.
    Send {
        sink: usize,
        shard: u16,
    },
    Sent {
        sink: usize,
        shard: u16,
        batch: Batch,
        outcome: Outcome,
    },
    /// The topic's sink takes its next step.
    Transact,
    Transacted {
        ended: Ended,
        /// Rows that the transaction left out, with their shards.
        refused: Vec<(u16, RefusedRow)>,
    },
}

/// What a webhook's attempt came to, as the sender sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    Retry,
    Refused,
}

struct Scheduled {
    at_us: i64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// Events that are to come.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
}

impl Queue {
    pub fn push(&mut self, at_us: i64, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Scheduled { at_us, number: self.number, event }));
    }

    pub fn pop(&mut self) -> Option<(i64, Event)> {
        self.heap.pop().map(|Reverse(scheduled)| (scheduled.at_us, scheduled.event))
    }
}
