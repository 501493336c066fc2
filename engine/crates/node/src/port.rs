//! A worker's sinks: open segments, stdout, and the way to the webhooks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use streamjob_connectors::deliveries::Delivery as WebhookDelivery;
use streamjob_connectors::file_sink::{SealedSegment, SegmentDirectory, SegmentWriter};
use streamjob_connectors::stdout::StdoutSink;
use streamjob_connectors::webhook::WebhookBatch;
use streamjob_core::Result;
use streamjob_core::outbox::{Batch, idempotency_key};
use streamjob_core::plan::SinkMode;
use streamjob_core::processor::SinkPort;
use tokio::sync::mpsc;

use crate::shared::Shared;

/// Where one sink's rows go.
#[derive(Clone)]
pub enum Output {
    Segments(SegmentDirectory),
    Stdout(Arc<StdoutSink>),
    Webhook { name: Arc<str>, sender: mpsc::Sender<WebhookDelivery> },
}

/// The sinks as one worker sees them.
pub struct Port {
    shared: Arc<Shared>,
    outputs: Vec<Output>,
    writers: HashMap<(usize, u16), (u64, SegmentWriter)>,
    /// Batches that found the webhook's queue full. Bounded by the outboxes, which count them until they are confirmed.
    waiting: VecDeque<(usize, WebhookDelivery)>,
}

impl Port {
    pub fn new(shared: Arc<Shared>, outputs: Vec<Output>) -> Port {
        Port { shared, outputs, writers: HashMap::new(), waiting: VecDeque::new() }
    }

    /// Ends the segment that a commit makes visible.
    pub fn seal(&mut self, sink: usize, shard: u16, number: u64) -> Result<SealedSegment> {
        match self.writers.remove(&(sink, shard)) {
            Some((open, writer)) if open == number => writer.seal(),
            _ => Err(streamjob_core::Error::engine(format!("segment {number} of shard {shard} is not open"))),
        }
    }

    /// The directory of a sink that writes segments.
    pub fn directory(&self, sink: usize) -> Option<&SegmentDirectory> {
        match &self.outputs[sink] {
            Output::Segments(directory) => Some(directory),
            _ => None,
        }
    }

    /// Tries again what found a queue full. True while something waits.
    pub fn retry(&mut self) -> bool {
        while let Some((sink, delivery)) = self.waiting.pop_front() {
            let Output::Webhook { sender, .. } = &self.outputs[sink] else { continue };
            if let Err(mpsc::error::TrySendError::Full(delivery)) = sender.try_send(delivery) {
                self.waiting.push_front((sink, delivery));
                return true;
            }
        }
        false
    }
}

impl SinkPort for Port {
    fn append(&mut self, sink: usize, shard: u16, number: u64, rows: u32, bytes: &[u8]) -> Result<()> {
        self.shared.sent_rows[sink].fetch_add(u64::from(rows), Ordering::Relaxed);
        match &self.outputs[sink] {
            Output::Segments(directory) => {
                let (_, writer) = match self.writers.entry((sink, shard)) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => entry.insert((number, directory.writer(shard, number)?)),
                };
                writer.write(bytes)
            }
            Output::Stdout(stdout) => stdout.write(Bytes::copy_from_slice(bytes)),
            Output::Webhook { .. } => Err(streamjob_core::Error::engine("a webhook takes batches, not lines")),
        }
    }

    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()> {
        debug_assert!(self.shared.plan.sinks[sink].mode == SinkMode::Messages);
        let Output::Webhook { name, sender } = &self.outputs[sink] else {
            return Err(streamjob_core::Error::engine(format!("sink {sink} takes no batches")));
        };
        let delivery = WebhookDelivery {
            shard,
            sink: name.clone(),
            last_seq: batch.number,
            batch: WebhookBatch {
                body: Bytes::from_owner(batch.body.clone()),
                rows: batch.rows,
                idempotency_key: idempotency_key(
                    self.shared.plan.sinks[sink].delivery,
                    &self.shared.state_id,
                    &self.shared.run_id,
                    name,
                    shard,
                    batch.number,
                ),
                traceparent: None,
            },
        };
        if self.waiting.is_empty() {
            match sender.try_send(delivery) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(delivery)) => self.waiting.push_back((sink, delivery)),
            }
        } else {
            self.waiting.push_back((sink, delivery));
        }
        Ok(())
    }
}
