//! How far a topic is with the batches of each shard: a record of a compacted topic, written in the transaction that holds their
//! rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::{Deserialize, Serialize};
use streamjob_core::config::{Isolation, KafkaSinkConfig};
use streamjob_core::transactions::{Progress, RefusedRow};
use streamjob_core::{Error, Result};
use tokio::runtime::Handle;

use super::client::{Context, settings};
use super::errors::explain;
use super::source::{Event, Messages, TopicReader};
use super::topic::{ANSWER_TIMEOUT, Topic};
use crate::connection::Connection;

/// Reading the progress may fetch so much ahead, kilobytes.
const PREFETCH_KB: usize = 4 << 10;
/// Whether there is more is looked at this often.
const LOOK: Duration = Duration::from_millis(50);
/// A new topic may take so long to be seen; and after this long it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A reader that gives nothing for so long is given up, and another begins.
const SILENCE: Duration = Duration::from_secs(30);
/// Rows of one shard that a topic has refused and that a commit has not done with yet: a record of progress names them all, and
/// has to fit into the smallest message.
pub const MAX_REFUSED_ROWS: usize = 600;

/// The value of a progress record.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The number behind the newest batch that is in the topic.
    next: u64,
    /// Rows of its batches that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused: Vec<RefusedRow>,
}

/// The progress records of one sink of one state.
pub struct ProgressTopic {
    place: String,
    config: KafkaSinkConfig,
    /// What the keys of its records begin with.
    prefix: String,
    connection: Arc<Connection>,
}

impl ProgressTopic {
    pub fn new(place: &str, config: &KafkaSinkConfig, state_id: &str, sink: &str, connection: Arc<Connection>) -> ProgressTopic {
        ProgressTopic { place: place.to_owned(), config: config.clone(), prefix: format!("{state_id}/{sink}/"), connection }
    }

    pub fn name(&self) -> &str {
        &self.config.progress_topic
    }

    /// The records that say how far the topic is with these shards: keys and values.
    ///
    /// # Errors
    /// `user` where more rows are refused than a record can name.
    pub fn records(&self, reached: Vec<(u16, Progress)>) -> Result<Vec<(String, String)>> {
        let too_many = reached.iter().find(|(_, reached)| reached.refused.len() > MAX_REFUSED_ROWS);
        if let Some((shard, Progress { refused, .. })) = too_many {
            let reason = refused.last().map_or("", |row| &*row.reason);
            return Err(Error::user(format!(
                "{}: more than {MAX_REFUSED_ROWS} rows of shard {shard} are refused at once, the last one so: {reason}; mend \
                 that before the next start, which goes on with these rows",
                self.place
            )));
        }
        Ok(reached.into_iter().map(|(shard, reached)| self.record(shard, reached)).collect())
    }

    fn record(&self, shard: u16, reached: Progress) -> (String, String) {
        let record = Record { next: reached.next, refused: reached.refused };
        let value = serde_json::to_string(&record).expect("numbers and texts are JSON");
        (format!("{}{shard}", self.prefix), value)
    }

    /// Makes the topic where it is not there, which needs a right of its own.
    ///
    /// # Errors
    /// `outside` where the cluster does not say whether it is there, or does not make it now; `user` where it never will.
    pub fn create_topic(&self, runtime: &Handle) -> Result<()> {
        let client = self.client(Isolation::ReadCommitted)?;
        if client.is_there()? {
            return Ok(());
        }
        let doing = format!("creating the topic {}", self.name());
        let context = Context::new(self.connection.clone());
        let admin: AdminClient<Context> = settings(&self.place, &self.config.connection)?
            .create_with_context(context)
            .map_err(|error| explain(&doing, &error, &self.connection))?;
        // The broker's own number of replicas.
        let topic = NewTopic::new(self.name(), 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let created = runtime.block_on(admin.create_topics([&topic], &options));
        let outcome = created.map_err(|error| explain(&doing, &error, &self.connection))?;
        match outcome.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => self.await_topic(&client),
            Some(Err((_, code))) => Err(self.not_created(&doing, code)),
        }
    }

    fn not_created(&self, doing: &str, code: RDKafkaErrorCode) -> Error {
        match code {
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => Error::user(format!(
                "{doing}: {code}; create it with cleanup.policy=compact and let the user describe it, or let the user create it"
            )),
            code => explain(doing, &KafkaError::AdminOp(code), &self.connection),
        }
    }

    /// A new topic is not known to all brokers at once.
    fn await_topic(&self, client: &Topic) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match client.describe() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// By shard: what is in the topic. Whoever asks has fenced all others off before, so
    /// that none of their transactions is open. `None` if `stop` says so first.
    pub fn read(&self, stop: &dyn Fn() -> bool) -> Result<Option<HashMap<u16, Progress>>> {
        let uncommitted = self.client(Isolation::ReadUncommitted)?;
        let info = uncommitted.describe()?;
        let mut ends = HashMap::new();
        let mut starts = Vec::new();
        for partition in info.partitions {
            let bounds = uncommitted.bounds(partition)?;
            if bounds.end > bounds.first {
                ends.insert(partition, bounds.end);
                starts.push((partition, bounds.first));
            }
        }
        let reader = TopicReader::new(
            &self.place,
            &self.config.connection,
            self.name(),
            "streamjob-progress",
            Isolation::ReadCommitted,
            PREFETCH_KB,
            self.connection.clone(),
        )?;
        let queues = reader.assign(&starts)?;
        let (mut found, mut messages) = (HashMap::new(), Messages::default());
        let (mut patience, mut heard) = (Some(Instant::now() + PATIENCE), Instant::now());
        while !ends.is_empty() {
            if stop() {
                return Ok(None);
            }
            for queue in &queues {
                queue.take(&mut messages);
                heard = if messages.iter().next().is_some() { Instant::now() } else { heard };
                self.take(&messages, queue.partition(), &mut ends, &mut found)?;
            }
            reader.serve()?;
            if patience.is_some_and(|until| until < Instant::now()) {
                patience = None;
                tracing::warn!(target: "streamjob", topic = self.name(), "waiting for open transactions of others in the topic");
            }
            if heard.elapsed() >= SILENCE {
                drop(queues);
                reader.abandon();
                return Err(Error::outside(format!(
                    "the topic {} gave nothing for {SILENCE:?}: transactions of others are open in it, or its broker is not well",
                    self.name()
                )));
            }
            reader.wait(LOOK);
        }
        Ok(Some(found))
    }

    fn client(&self, isolation: Isolation) -> Result<Topic> {
        Topic::new(&self.place, &self.config.connection, self.name(), isolation, self.connection.clone())
    }

    fn take(
        &self,
        messages: &Messages,
        partition: i32,
        ends: &mut HashMap<i32, u64>,
        found: &mut HashMap<u16, Progress>,
    ) -> Result<()> {
        for event in messages.iter() {
            let reached = match event {
                Event::Message(message) => {
                    self.take_record(message.key, message.value, found)?;
                    message.offset + 1
                }
                Event::End { offset } => offset,
                Event::Failed { code, text } => {
                    let error = KafkaError::MessageConsumption(code);
                    return Err(explain(&format!("reading the topic {}: {text}", self.name()), &error, &self.connection));
                }
            };
            if ends.get(&partition).is_some_and(|end| reached >= *end) {
                ends.remove(&partition);
            }
        }
        Ok(())
    }

    fn take_record(&self, key: Option<&[u8]>, value: Option<&[u8]>, found: &mut HashMap<u16, Progress>) -> Result<()> {
        let key = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let Some(shard) = key.strip_prefix(&*self.prefix).and_then(|shard| shard.parse().ok()) else { return Ok(()) };
        let Some(value) = value else { return Ok(()) };
        let record: Record = serde_json::from_slice(value).map_err(|error| {
            Error::damaged(format!(
                "the topic {}: the record {key} can't be read: {error}; give the sink another progressTopic \
                 only if the rows that are not confirmed may come twice",
                self.name()
            ))
        })?;
        // Numbers of a state only grow, over its output incarnations as well. An older record may be read last: a topic that got
        // more partitions holds it in another one.
        if found.get(&shard).is_none_or(|known| known.next <= record.next) {
            found.insert(shard, Progress { next: record.next, refused: record.refused });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use streamjob_core::config::{KafkaConnectionConfig, MessageFormat};

    use super::super::sink::{MESSAGE_OVERHEAD, MIN_MESSAGE_BYTES};
    use super::*;

    fn progress() -> ProgressTopic {
        let connection = KafkaConnectionConfig {
            bootstrap_servers: "localhost:9092".to_owned(),
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
        };
        let config = KafkaSinkConfig {
            connection,
            topic: "out".to_owned(),
            format: MessageFormat::Json,
            key: None,
            partition: None,
            headers: BTreeMap::new(),
            progress_topic: "progress".to_owned(),
            transaction_timeout_us: 60_000_000,
            max_batch_rows: 5_000,
            backoff_initial_us: 100_000,
            backoff_max_us: 1_000_000,
        };
        ProgressTopic::new("sinks.out.kafka", &config, "state", "out", Arc::default())
    }

    fn reached(next: u64, refused: usize) -> Progress {
        let row = |row| RefusedRow { batch: 1 << 40, row, reason: "r".repeat(150) };
        Progress { next, refused: (0..refused as u32).map(row).collect() }
    }

    #[test]
    fn the_newest_record_counts_in_whatever_order_they_are_read() {
        let progress = progress();
        for order in [[7, 5], [5, 7]] {
            let mut found = HashMap::new();
            for next in order {
                let (key, value) = progress.record(3, reached(next, 0));
                progress.take_record(Some(key.as_bytes()), Some(value.as_bytes()), &mut found).expect("a record");
            }
            assert_eq!(found, HashMap::from([(3, reached(7, 0))]), "{order:?}");
        }
    }

    #[test]
    fn a_record_has_room_for_the_rows_that_it_names_and_more_are_an_error_that_says_why() {
        let progress = progress();
        let records = progress.records(vec![(65_535, reached(u64::MAX, MAX_REFUSED_ROWS))]).expect("as many as there may be");
        let bytes = records[0].0.len() + records[0].1.len();
        assert!(bytes <= MIN_MESSAGE_BYTES - MESSAGE_OVERHEAD, "{bytes}");
        let error = progress.records(vec![(1, reached(9, 0)), (2, reached(9, MAX_REFUSED_ROWS + 1))]).expect_err("too many");
        assert!(!error.retryable() && error.message().contains("shard 2") && error.message().contains("rrr"), "{error}");
    }
}
