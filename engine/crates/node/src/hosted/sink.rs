//! A sink in a host, as one of those that take messages: order within a shard, several shards at once, retries.

use std::sync::Arc;

use streamjob_connectors::connection::Connection;
use streamjob_connectors::deliveries::{Deliver, Delivery, Outcome, Refusal};
use streamjob_core::Result;
use streamjob_core::config::PythonSinkConfig;
use streamjob_core::transactions::RefusedRow;
use tokio::sync::{Semaphore, oneshot};

use super::{Answer, ConnectorHost, HostedSink, SinkBatch, SinkStart, Written, read_secrets};

/// Starts a sink that is user code; gives the way to it.
pub fn start_sink(
    host: &dyn ConnectorHost,
    name: &str,
    config: &PythonSinkConfig,
    connection: Arc<Connection>,
) -> Result<impl Deliver + use<>> {
    let secrets = read_secrets(&format!("sinks.{name}.python"), &config.code.secrets)?;
    let sink = host.sink(SinkStart { name, config, secrets, connection: connection.clone() })?;
    let queue = config.queue.max(1);
    Ok(Link { sink, connection, rows: Semaphore::new(queue as usize), queue })
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
        let (answer, written) = oneshot::channel();
        self.sink.write(batch, Answer(answer));
        match written.await {
            Ok(Written::Done) => {
                self.connection.answered();
                Outcome::Delivered
            }
            Ok(Written::Rejected { reason, rows }) => {
                self.connection.answered();
                let all = || (0..delivery.batch.rows).collect();
                let rows: Vec<u32> = rows.unwrap_or_else(all);
                if let Some(row) = rows.iter().find(|row| **row >= delivery.batch.rows) {
                    // Which row is meant is not known: none may be lost without a word.
                    let reason = format!("Rejected names the row {row} of {}, counted from 0: {reason}", delivery.batch.rows);
                    return Outcome::Retry { after: None, reason };
                }
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
