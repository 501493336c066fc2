//! What is asked about a topic: its id, its partitions, where they begin and end, which offset a time has; and the group's
//! offsets, which are written for tools.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError};
use rdkafka::{Offset, TopicPartitionList};
use streamjob_core::config::{Isolation, KafkaConnectionConfig};
use streamjob_core::{Error, Result};

use super::client::{Context, settings};
use super::errors::{explain, is_unseen};
use crate::connection::Connection;

/// One answer may take this long.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Brokers are asked this often, milliseconds, which of them there are: until then a question may go to one that has died.
const METADATA_EVERY_MS: usize = 10_000;
const METADATA_EVERY: &str = "topic.metadata.refresh.interval.ms";

/// Words of a client that are heard at once.
const WORDS_AT_ONCE: usize = 64;

/// Which topic a name means at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// The cluster's id of the topic; another one after it was deleted and created again. `None` where the broker gives none.
    pub id: Option<String>,
    pub partitions: Vec<i32>,
}

/// The offsets of a partition: `[first, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub first: u64,
    /// Behind the last message that may be read: with `read_committed` behind the last whose transaction has ended.
    pub end: u64,
}

/// A client that asks. It reads no messages.
pub struct Topic {
    consumer: BaseConsumer<Context>,
    name: String,
}

impl Topic {
    /// A client for the topic `name`; `place` names the connection in errors. It connects when it is first asked.
    pub fn new(
        place: &str,
        config: &KafkaConnectionConfig,
        name: &str,
        isolation: Isolation,
        connection: Arc<Connection>,
    ) -> Result<Topic> {
        let mut client = settings(place, config)?;
        client.set("isolation.level", isolation_level(isolation));
        client.set("enable.auto.commit", "false");
        client.set("allow.auto.create.topics", "false");
        if !config.properties.contains_key(METADATA_EVERY) {
            client.set(METADATA_EVERY, METADATA_EVERY_MS.to_string());
        }
        Ok(Topic { consumer: create(place, &client, connection)?, name: name.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.consumer.client().context().connection
    }

    /// Lets the client say what it has to: lines for the log, errors.
    pub fn serve(&self) {
        serve(&self.consumer);
    }

    /// Asks the cluster which topic the name means.
    pub fn describe(&self) -> Result<TopicInfo> {
        let described = describe(&self.consumer, &self.name);
        self.serve();
        self.answer(&format!("describing the topic {}", self.name), described)
    }

    /// Whether the topic is there; false also where the client may not see it.
    ///
    /// # Errors
    /// Where nobody could say.
    pub(super) fn is_there(&self) -> Result<bool> {
        let described = describe(&self.consumer, &self.name);
        self.serve();
        let is_there = match described {
            Err(error) if is_unseen(&error) => Ok(false),
            described => described.map(|_| true),
        };
        self.answer(&format!("describing the topic {}", self.name), is_there)
    }

    /// Asks a partition's leader where it begins and ends.
    pub fn bounds(&self, partition: i32) -> Result<Bounds> {
        let asked = self.consumer.fetch_watermarks(&self.name, partition, ANSWER_TIMEOUT);
        self.serve();
        let (first, end) = self.answer(&format!("asking for the offsets of {}/{partition}", self.name), asked)?;
        match (u64::try_from(first), u64::try_from(end)) {
            (Ok(first), Ok(end)) => Ok(Bounds { first, end }),
            _ => Err(Error::outside(format!("{}/{partition}: the broker gave no offsets", self.name))),
        }
    }

    /// By partition: the first offset whose message is not older than `timestamp_us`; the end where there is none.
    pub fn offsets_at(&self, partitions: &[i32], timestamp_us: i64) -> Result<Vec<u64>> {
        let doing = format!("asking for offsets of {} by time", self.name);
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            let at = Offset::Offset(timestamp_us.div_euclid(1000).max(0));
            wanted
                .add_partition_offset(&self.name, *partition, at)
                .map_err(|error| explain(&doing, &error, self.connection()))?;
        }
        let found = self.answer(&doing, self.consumer.offsets_for_times(wanted, ANSWER_TIMEOUT))?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let found = found.find_partition(&self.name, *partition).map(|element| element.offset());
            offsets.push(match found {
                Some(Offset::Offset(offset)) if offset >= 0 => offset as u64,
                _ => self.bounds(*partition)?.end,
            });
        }
        Ok(offsets)
    }

    fn answer<T>(&self, doing: &str, answer: Result<T, KafkaError>) -> Result<T> {
        match answer {
            Ok(answer) => {
                self.connection().answered();
                Ok(answer)
            }
            Err(error) => {
                let explained = explain(doing, &error, self.connection());
                if self.connection().last_error().is_none() {
                    self.connection().failed(&error.to_string());
                }
                Err(explained)
            }
        }
    }
}

pub(super) fn serve(consumer: &BaseConsumer<Context>) {
    // A call hears one word, and gives nothing for most of them.
    for _ in 0..WORDS_AT_ONCE {
        let _ = consumer.poll(Duration::ZERO);
    }
}

pub(super) fn isolation_level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    }
}

/// Makes a consumer that joins no group.
pub(super) fn create(place: &str, config: &ClientConfig, connection: Arc<Connection>) -> Result<BaseConsumer<Context>> {
    let context = Context::new(connection.clone());
    config.create_with_context(context).map_err(|error| explain(place, &error, &connection))
}

/// An event of librdkafka and the queue that it came from, given back when they are dropped.
struct Answer {
    event: *mut sys::rd_kafka_event_t,
    queue: *mut sys::rd_kafka_queue_t,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: both were made by librdkafka for this call alone; destroying a null event does nothing.
        unsafe {
            sys::rd_kafka_event_destroy(self.event);
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

fn describe(consumer: &BaseConsumer<Context>, topic: &str) -> Result<TopicInfo, KafkaError> {
    let name = CString::new(topic)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    let client = consumer.client().native_ptr();
    let timeout_ms = ANSWER_TIMEOUT.as_millis() as i32;
    // SAFETY: the client and the name live until the answer has come; collection, options, queue and event are made here and
    // destroyed before the function ends. The request copies the names.
    let answer = unsafe {
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut text = [0 as c_char; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        let queue = sys::rd_kafka_queue_new(client);
        sys::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms + 1000);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        Answer { event, queue }
    };
    if answer.event.is_null() {
        return Err(KafkaError::MetadataFetch(rdkafka::error::RDKafkaErrorCode::OperationTimedOut));
    }
    // SAFETY: the event is the answer to the one request on its queue; what is read of it belongs to it and is copied.
    unsafe {
        let error = sys::rd_kafka_event_error(answer.event);
        if error.is_error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.event);
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if result.is_null() || count == 0 {
            return Err(KafkaError::MetadataFetch(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        read_description(*topics)
    }
}

/// # Safety
/// `topic` must be a description that lives.
unsafe fn read_description(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<TopicInfo, KafkaError> {
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = sys::rd_kafka_error_code(error);
            if code.is_error() {
                return Err(KafkaError::MetadataFetch(code.into()));
            }
        }
        let id = CStr::from_ptr(sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic)));
        let id = id.to_string_lossy().into_owned();
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let mut numbers: Vec<i32> =
            (0..count).map(|at| sys::rd_kafka_TopicPartitionInfo_partition(*partitions.add(at))).collect();
        numbers.sort_unstable();
        Ok(TopicInfo { id: Some(id).filter(|id| !id.bytes().all(|byte| matches!(byte, b'A' | b'='))), partitions: numbers })
    }
}
