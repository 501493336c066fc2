//! A sink in a host, as one of those that take messages: order within a shard, several shards at once, retries.

use std::sync::Arc;
use std::time::Duration;

use streamjob_connectors::backoff::Backoff;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::deliveries::{Deliver, Delivery, DeliveryReport, Outcome, Refusal, run_deliveries};
use streamjob_core::Result;
use streamjob_core::config::PythonSinkConfig;
use streamjob_core::transactions::RefusedRow;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ConnectorHost, HostedSink, SinkBatch, SinkStart, Written, read_secrets};
use crate::random::Random;

/// Starts a sink that is user code, and what brings it its batches.
pub fn start_sink(
    host: &dyn ConnectorHost,
    name: &str,
    config: &PythonSinkConfig,
    batches: mpsc::Receiver<Delivery>,
    report: impl FnMut(DeliveryReport) + Send + 'static,
    delivering: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Arc<Connection>> {
    let secrets = read_secrets(&format!("sinks.{name}.python"), &config.code.secrets)?;
    let connection: Arc<Connection> = Arc::default();
    let sink = host.sink(SinkStart { name, config, secrets, connection: connection.clone() })?;
    let queue = config.queue.max(1);
    let link = Link { sink, connection: connection.clone(), rows: Semaphore::new(queue as usize), queue };
    let backoff = Backoff::new(
        Duration::from_micros(config.code.backoff_initial_us.max(0) as u64),
        Duration::from_micros(config.code.backoff_max_us.max(0) as u64),
    );
    let (seed, stop) = (Random::new().next().to_bits(), stop.clone());
    delivering.spawn(async move {
        run_deliveries(Arc::new(link), backoff, seed, batches, report, stop).await;
    });
    Ok(connection)
}

/// The way to one sink.
struct Link {
    sink: Arc<dyn HostedSink>,
    connection: Arc<Connection>,
    /// Rows that the sink may have at once.
    rows: Semaphore,
    queue: u32,
}

impl Deliver for Link {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        // a batch that is larger than the queue takes all of it
        let rows = delivery.batch.rows.clamp(1, self.queue);
        let _room = self.rows.acquire_many(rows).await.expect("the semaphore is never closed");
        let batch = SinkBatch {
            body: delivery.batch.body.clone(),
            key: delivery.batch.idempotency_key.clone(),
            shard: delivery.shard,
            number: delivery.last_seq,
            traceparent: delivery.batch.traceparent.clone(),
        };
        let written = self.sink.write(batch).await;
        match written {
            Ok(Written::Done) => {
                self.connection.answered();
                Outcome::Delivered
            }
            Ok(Written::Rejected { reason, rows }) => {
                self.connection.answered();
                let all = || (0..delivery.batch.rows).collect();
                let rows: Vec<u32> = rows.unwrap_or_else(all);
                let refused = |row| RefusedRow { batch: delivery.last_seq, row, reason: reason.clone() };
                Outcome::Refused(Refusal::Rows(rows.into_iter().map(refused).collect()))
            }
            Ok(Written::Again { reason }) => {
                self.connection.failed(&reason);
                Outcome::Retry { after: None, reason }
            }
            Err(_) => Outcome::Retry { after: None, reason: "it was given up without an answer".to_owned() },
        }
    }
}
