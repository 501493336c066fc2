//! What sinks with transactions share: how batches come to them, and who hears of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use streamjob_core::transactions::{Done, Progress};
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::{Delivery, DeliveryReport, random};

/// Batches that were taken from the channel and are not confirmed.
pub const MAX_HELD_BATCHES: usize = 256;
/// Rows of one transaction, but for its first batch.
pub const TRANSACTION_ROWS: usize = 100_000;
/// Bytes of one transaction, but for its first batch.
pub const TRANSACTION_BYTES: usize = 8 << 20;

/// What becomes of the sink once it is known how far its server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkVerdict {
    /// Batches may be sent.
    GoOn,
    /// Nothing is sent any more by this run.
    Stop,
}

/// What hears of the sink.
pub struct Hooks<R, D> {
    /// Called once for each batch that is there or never will be.
    pub report: R,
    /// Called each time that it is known how far the server is, before anything is sent.
    pub decide: D,
}

impl<R: FnMut(DeliveryReport), D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict> Hooks<R, D> {
    /// Reports batches that are there.
    pub(crate) fn confirm(&mut self, done: Vec<Done<Delivery>>) {
        done.into_iter().map(DeliveryReport::of).for_each(&mut self.report);
    }
}

/// What has come, at most `room` batches; where there is nothing to do, it waits for some, `look` at most. `None` once the sink
/// is to end.
pub(crate) async fn receive(
    batches: &mut mpsc::Receiver<Delivery>,
    idle: bool,
    room: usize,
    look: Duration,
    stop: &CancellationToken,
) -> Option<Vec<Delivery>> {
    if stop.is_cancelled() {
        return None;
    }
    let mut received = Vec::new();
    if idle && room > 0 {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            batch = batches.recv() => Some(batch),
            () = tokio::time::sleep(look) => Some(None),
        };
        received.extend(first?);
    }
    while received.len() < room
        && let Ok(batch) = batches.try_recv()
    {
        received.push(batch);
    }
    Some(received)
}

/// Waits between tries, of sources as well.
pub struct Retry {
    /// Of the source or sink.
    pub name: Arc<str>,
    pub backoff: Backoff,
    /// Makes the jitter differ between processes.
    pub seed: u64,
    pub connection: Arc<Connection>,
}

impl Retry {
    /// Waits before the next try; an error that no wait mends is given back.
    pub async fn wait_after(&self, error: &Error, failures: u32, stop: &CancellationToken) -> Result<()> {
        if !error.retryable() {
            return Err(error.clone());
        }
        self.connection.failed(error.message());
        let wait = self.backoff.delay(failures, random(self.seed, 0, 0, failures));
        if failures.is_power_of_two() {
            tracing::warn!(target: "streamjob", connector = &*self.name, failures, ?wait, "{error}; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        Ok(())
    }
}
