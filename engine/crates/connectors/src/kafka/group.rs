//! The offsets of a group, which are written for tools alone.

use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError};
use rdkafka::{Offset, TopicPartitionList};
use streamjob_core::config::KafkaConnectionConfig;
use streamjob_core::{Error, Result};

use super::client::{Context, settings};
use super::errors::explain;
use super::topic::{create, serve};
use crate::connection::Connection;

/// A client that writes a group's offsets, one commit after the other, and never waits: the group's coordinator is a broker of
/// its own, and the library waits for it as long as a session may last (45 s).
pub struct GroupOffsets {
    /// Always some, until the drop.
    consumer: Option<BaseConsumer<Context>>,
    topic: String,
    /// What is being written, and where the answer comes to.
    under_way: Option<(Vec<(i32, u64)>, Answers)>,
}

/// The queue of one commit's answer.
struct Answers(*mut sys::rd_kafka_queue_t);

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Answers {}

impl Drop for Answers {
    fn drop(&mut self) {
        // SAFETY: the queue is this one's; an answer that comes later finds nobody.
        unsafe { sys::rd_kafka_queue_destroy(self.0) }
    }
}

impl GroupOffsets {
    /// A client for one topic's offsets in `group`; `place` names the connection in errors. How it fares says nothing about the
    /// brokers that are read.
    pub fn new(place: &str, config: &KafkaConnectionConfig, topic: &str, group: &str) -> Result<GroupOffsets> {
        let mut client = settings(place, config)?;
        client.set("group.id", group);
        client.set("enable.auto.commit", "false");
        client.set("allow.auto.create.topics", "false");
        let consumer = Some(create(place, &client, Arc::<Connection>::default())?);
        Ok(GroupOffsets { consumer, topic: topic.to_owned(), under_way: None })
    }

    /// Begins to write offsets, by partition. Nothing may be under way.
    pub fn begin(&mut self, positions: Vec<(i32, u64)>) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let added = positions
            .iter()
            .try_for_each(|(partition, at)| list.add_partition_offset(&self.topic, *partition, Offset::Offset(*at as i64)));
        let answers = added.and_then(|()| self.ask(&list)).map_err(|error| self.explained(&error))?;
        self.under_way = Some((positions, answers));
        Ok(())
    }

    fn ask(&self, offsets: &TopicPartitionList) -> Result<Answers, KafkaError> {
        let Some(consumer) = &self.consumer else { return Err(KafkaError::Canceled) };
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive and outlives the queue; the list is copied.
        let (answers, error) = unsafe {
            let queue = sys::rd_kafka_queue_new(client);
            (Answers(queue), sys::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, std::ptr::null_mut()))
        };
        if error.is_error() { Err(KafkaError::ConsumerCommit(error.into())) } else { Ok(answers) }
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// What was begun, once it is written, or why it is not; `None` before that.
    pub fn ended(&mut self) -> Option<Result<Vec<(i32, u64)>>> {
        serve(self.consumer.as_ref()?);
        let (_, answers) = self.under_way.as_ref()?;
        // SAFETY: the queue is alive.
        let event = unsafe { sys::rd_kafka_queue_poll(answers.0, 0) };
        if event.is_null() {
            return None;
        }
        // SAFETY: the event is destroyed behind its last use.
        let error = unsafe {
            let error = sys::rd_kafka_event_error(event);
            sys::rd_kafka_event_destroy(event);
            error
        };
        let (positions, _) = self.under_way.take()?;
        match error.is_error() {
            true => Some(Err(self.explained(&KafkaError::ConsumerCommit(error.into())))),
            false => Some(Ok(positions)),
        }
    }

    fn explained(&self, error: &KafkaError) -> Error {
        explain(&format!("committing the group's offsets of {}", self.topic), error, &Connection::default())
    }
}

impl Drop for GroupOffsets {
    fn drop(&mut self) {
        let Some((_, answers)) = self.under_way.take() else { return };
        // The queue before its client.
        drop(answers);
        let consumer = self.consumer.take();
        // Ending it waits for the coordinator, up to a minute; nobody has to wait with it.
        std::thread::spawn(move || drop(consumer));
    }
}
