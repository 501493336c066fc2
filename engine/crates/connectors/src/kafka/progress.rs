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

    /// The record that says how far the topic is with a shard: key and value.
    pub fn record(&self, shard: u16, reached: Progress) -> (String, String) {
        let record = Record { next: reached.next, refused: reached.refused };
        let value = serde_json::to_string(&record).expect("numbers and texts are JSON");
        (format!("{}{shard}", self.prefix), value)
    }

    /// Makes the topic where it is not there, which needs a right of its own.
    pub fn create_topic(&self, runtime: &Handle) -> Result<()> {
        let client = self.client(Isolation::ReadCommitted)?;
        if client.describe().is_ok() {
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
            Some(Err((_, code))) => Err(explain(&doing, &KafkaError::AdminOp(code), &self.connection)),
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
        found.insert(shard, Progress { next: record.next, refused: record.refused });
        Ok(())
    }
}
