//! A worker's sinks: open segments, stdout, and the way to those that take messages.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use streamjob_connectors::deliveries::Delivery as BatchDelivery;
use streamjob_connectors::file_sink::{SealedSegment, SegmentDirectory, SegmentWriter};
use streamjob_connectors::stdout::StdoutSink;
use streamjob_connectors::webhook::WebhookBatch;
use streamjob_core::outbox::{Batch, idempotency_key};
use streamjob_core::plan::SinkMode;
use streamjob_core::processor::SinkPort;
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;

use crate::shared::Shared;
use crate::telemetry::{Trace, current_traceparent};

/// Batches on their way to one sink of messages: its task, or its thread.
pub const MESSAGE_QUEUE: usize = 256;
/// So many of them are of one shard at most, so that one whose rows are not taken does not keep the others' places (I9).
const MAX_SENT_A_SHARD: usize = 16;
/// Where there are many shards, the queue is divided, but a shard's next batch should be there when one is answered.
const MIN_SENT_A_SHARD: usize = 2;

/// One shard's batches for one sink. Bounded by the outbox, which counts them until they are confirmed.
#[derive(Default)]
struct Lane {
    /// With the sink.
    sent: usize,
    waiting: VecDeque<BatchDelivery>,
}

/// Where one sink's rows go.
#[derive(Clone)]
pub enum Output {
    Segments(SegmentDirectory),
    Stdout(Arc<Stdout>),
    Messages { name: Arc<str>, sender: mpsc::Sender<BatchDelivery> },
}

/// Stdout, and how much it was given.
pub struct Stdout {
    sink: StdoutSink,
    /// Chunks that were given to it, or are about to be.
    given: AtomicU64,
}

impl Stdout {
    pub fn start() -> Result<Stdout> {
        Ok(Stdout { sink: StdoutSink::start()?, given: AtomicU64::new(0) })
    }

    fn write(&self, lines: Bytes) -> Result<()> {
        self.given.fetch_add(1, Ordering::AcqRel);
        self.sink.write(lines)
    }

    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Acquire)
    }

    /// Whether everything is out that was given before [`Stdout::given`] said `given`: chunks leave in their order.
    pub fn has_written(&self, given: u64) -> Result<bool> {
        match self.sink.failure() {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.sink.written() >= given),
        }
    }
}

/// The sinks as one worker sees them.
pub struct Port {
    shared: Arc<Shared>,
    outputs: Vec<Output>,
    writers: HashMap<(usize, u16), (u64, SegmentWriter)>,
    /// Writers whose disk is full: they keep what they were given, and take no more than the batch that runs.
    stuck: Vec<(usize, u16)>,
    /// Batches for sinks of messages, by sink and shard.
    lanes: HashMap<(usize, u16), Lane>,
    /// Lanes that found the sink's queue full.
    stalled: Vec<(usize, u16)>,
    /// Batches of one lane that the sink may have.
    max_sent: usize,
    /// Traces of exactly-once rows that wait for their commit, by sink and shard.
    traces: HashMap<(usize, u16), String>,
}

impl Port {
    pub fn new(shared: Arc<Shared>, outputs: Vec<Output>) -> Port {
        let shards = usize::from(shared.plan.config.shards.max(1));
        Port {
            shared,
            outputs,
            writers: HashMap::new(),
            stuck: Vec::new(),
            lanes: HashMap::new(),
            stalled: Vec::new(),
            max_sent: (MESSAGE_QUEUE / shards).clamp(MIN_SENT_A_SHARD, MAX_SENT_A_SHARD),
            traces: HashMap::new(),
        }
    }

    /// Makes sure that [`Port::seal`] finds room for a shard's open segments. False: there is none at the moment.
    pub fn flush(&mut self, shard: u16) -> Result<bool> {
        let mut fits = true;
        for ((sink, owner), (_, writer)) in self.writers.iter_mut().filter(|((_, owner), _)| *owner == shard) {
            match writer.flush() {
                Ok(()) => {}
                Err(error) if error.is_disk_full() => {
                    fits = false;
                    note_stuck(&self.shared, &mut self.stuck, (*sink, *owner), &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fits)
    }

    /// Whether output waits for room on its disk.
    pub fn is_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Ends the segment that a commit makes visible.
    pub fn seal(&mut self, sink: usize, shard: u16, number: u64) -> Result<SealedSegment> {
        match self.writers.remove(&(sink, shard)) {
            Some((open, writer)) if open == number => writer.seal(),
            _ => Err(Error::engine(format!("segment {number} of shard {shard} is not open"))),
        }
    }

    /// The directory of a sink that writes segments.
    pub fn directory(&self, sink: usize) -> Option<&SegmentDirectory> {
        match &self.outputs[sink] {
            Output::Segments(directory) => Some(directory),
            _ => None,
        }
    }

    /// What must be out before a commit may forget it: streams, with how much they were given.
    pub fn streams(&self) -> Vec<(Arc<Stdout>, u64)> {
        let stdout = |output: &Output| match output {
            Output::Stdout(stdout) => Some((stdout.clone(), stdout.given())),
            _ => None,
        };
        self.outputs.iter().filter_map(stdout).collect()
    }

    /// Tries again what found a queue or a disk full. True while something waits.
    pub fn retry(&mut self) -> Result<bool> {
        for (sink, shard) in std::mem::take(&mut self.stalled) {
            self.pump(sink, shard);
        }
        self.retry_stuck()?;
        Ok(self.is_stuck() || !self.stalled.is_empty())
    }

    /// A sink has answered one batch of a shard for good.
    pub fn answered(&mut self, sink: usize, shard: u16) {
        if let Some(lane) = self.lanes.get_mut(&(sink, shard)) {
            lane.sent = lane.sent.saturating_sub(1);
            self.pump(sink, shard);
        }
    }

    /// Hands a shard's batches over, as many as may be with the sink at once.
    fn pump(&mut self, sink: usize, shard: u16) {
        let Output::Messages { sender, .. } = &self.outputs[sink] else { return };
        let Some(lane) = self.lanes.get_mut(&(sink, shard)) else { return };
        while lane.sent < self.max_sent
            && let Some(delivery) = lane.waiting.pop_front()
        {
            match sender.try_send(delivery) {
                Err(mpsc::error::TrySendError::Full(delivery)) => {
                    lane.waiting.push_front(delivery);
                    if !self.stalled.contains(&(sink, shard)) {
                        self.stalled.push((sink, shard));
                    }
                    return;
                }
                // A task that has ended takes nothing any more: the outbox keeps the batch for the next start.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => lane.sent += 1,
            }
        }
    }

    fn retry_stuck(&mut self) -> Result<()> {
        while let Some(place) = self.stuck.last() {
            let flushed = self.writers.get_mut(place).map_or(Ok(()), |(_, writer)| writer.flush());
            match flushed {
                Ok(()) => {
                    self.stuck.pop();
                    self.shared.has_room();
                }
                Err(error) if error.is_disk_full() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next exactly-once batch of this sink and shard holds rows of a traced batch.
    pub fn keep_trace(&mut self, sink: usize, shard: u16, trace: &Trace) {
        self.traces.entry((sink, shard)).or_insert_with(|| trace.traceparent());
    }
}

fn note_stuck(shared: &Shared, stuck: &mut Vec<(usize, u16)>, place: (usize, u16), error: &Error) {
    if !stuck.contains(&place) {
        stuck.push(place);
        shared.waits_for_room(error);
    }
}

impl SinkPort for Port {
    fn append(&mut self, sink: usize, shard: u16, number: u64, rows: u32, bytes: &[u8]) -> Result<()> {
        self.shared.sent_rows[sink].fetch_add(u64::from(rows), Ordering::Relaxed);
        match &self.outputs[sink] {
            Output::Segments(directory) => {
                let (_, writer) = match self.writers.entry((sink, shard)) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert((number, directory.writer(shard, number)?)),
                };
                match writer.write(bytes) {
                    // The writer has the bytes all the same.
                    Err(error) if error.is_disk_full() => {
                        note_stuck(&self.shared, &mut self.stuck, (sink, shard), &error);
                        Ok(())
                    }
                    outcome => outcome,
                }
            }
            Output::Stdout(stdout) => stdout.write(Bytes::copy_from_slice(bytes)),
            Output::Messages { .. } => Err(Error::engine("a sink of messages takes batches, not lines")),
        }
    }

    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()> {
        debug_assert!(self.shared.plan.sinks[sink].mode == SinkMode::Messages);
        let Output::Messages { name, .. } = &self.outputs[sink] else {
            return Err(Error::engine(format!("sink {sink} takes no batches")));
        };
        let kept = if self.traces.is_empty() { None } else { self.traces.remove(&(sink, shard)) };
        let delivery = BatchDelivery {
            shard,
            sink: name.clone(),
            last_seq: batch.number,
            confirmed_below: batch.confirmed_below,
            batch: WebhookBatch {
                body: Bytes::from_owner(batch.body.clone()),
                rows: batch.rows,
                idempotency_key: idempotency_key(
                    self.shared.plan.sinks[sink].delivery,
                    self.shared.state.state_id(),
                    &self.shared.run_id,
                    name,
                    shard,
                    batch.number,
                ),
                traceparent: current_traceparent().or(kept),
            },
        };
        self.lanes.entry((sink, shard)).or_default().waiting.push_back(delivery);
        self.pump(sink, shard);
        Ok(())
    }
}
