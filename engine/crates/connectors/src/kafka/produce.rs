//! Batches as messages in a producer's queue.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::value::RawValue;
use streamjob_core::transactions::RefusedRow;
use streamjob_core::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::client::Context;
use super::errors::code;
use super::sink::{KafkaSink, LOOK};
use super::topic::ANSWER_TIMEOUT;
use crate::deliveries::Delivery;
use crate::rows::{key_bytes, member, rows};

/// A topic may get more partitions: it is asked again after this long where a row names one that it does not have.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How many partitions the topic has, when that was last asked.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<Option<(i32, Instant)>>);

impl Partitions {
    /// Whether the topic has the partition. Where nobody can say, the client is to find out, which waits where that helps.
    fn has(&self, partition: i32, ask: impl FnOnce() -> Option<i32>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, asked)) = *known
            && (partition < count || asked.elapsed() < ASK_AGAIN)
        {
            return partition < count;
        }
        match ask().or_else(|| known.map(|(count, _)| count)) {
            Some(count) => {
                *known = Some((count, Instant::now()));
                partition < count
            }
            None => true,
        }
    }

    /// The topic may be another by now.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl KafkaSink {
    /// Rows of a batch that can never be written.
    pub(super) fn too_large(&self, delivery: &Delivery) -> Result<Vec<RefusedRow>> {
        if delivery.batch.body.len() <= self.max_row_bytes {
            return Ok(Vec::new());
        }
        let refused = |(place, row): (usize, &RawValue)| {
            let bytes = row.get().len();
            let reason =
                format!("a row of {bytes} bytes is larger than message.max.bytes allows; raise it here and on the topic");
            (bytes > self.max_row_bytes).then_some(RefusedRow { batch: delivery.last_seq, row: place as u32, reason })
        };
        Ok(rows(&delivery.batch.body)?.into_iter().enumerate().filter_map(refused).collect())
    }

    /// Hands the rows of a batch, but for those that are left out, to the producer.
    pub(super) fn produce<'r>(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        left_out: impl Iterator<Item = &'r RefusedRow>,
        batch: u64,
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        let broken = |error: Error| KafkaError::ClientCreation(error.message().to_owned());
        let mut left_out = left_out.map(|refused| refused.row as usize).peekable();
        for (place, row) in rows(&delivery.batch.body).map_err(broken)?.into_iter().enumerate() {
            if left_out.next_if_eq(&place).is_some() {
                continue;
            }
            let text = row.get();
            let key = self.config.key.as_deref().and_then(|name| member(text, name)).map(key_bytes);
            let partition = self.partition_of(producer, text);
            self.enqueue(producer, stop, || {
                let mut record = BaseRecord::with_opaque_to(&self.config.topic, Box::new(batch)).payload(text);
                record.key = key.as_deref();
                record.partition = partition;
                record.headers = self.headers(delivery);
                record
            })?;
        }
        Ok(())
    }

    /// The partition that a row names. One that the topic does not have counts as none: the client would never take the row.
    fn partition_of(&self, producer: &BaseProducer<Context>, row: &str) -> Option<i32> {
        let named = self.config.partition.as_deref().and_then(|name| member(row, name)?.parse::<i32>().ok());
        let ask = || {
            let metadata = producer.client().fetch_metadata(Some(&self.config.topic), ANSWER_TIMEOUT).ok()?;
            let topic = metadata.topics().first().filter(|topic| topic.error().is_none())?;
            i32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0)
        };
        named.filter(|partition| *partition >= 0 && self.partitions.has(*partition, ask))
    }

    fn headers(&self, delivery: &Delivery) -> Option<OwnedHeaders> {
        let traceparent = delivery.batch.traceparent.as_deref();
        if self.config.headers.is_empty() && traceparent.is_none() {
            return None;
        }
        let mut headers = OwnedHeaders::new();
        for (key, value) in &self.config.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if let Some(value) = traceparent {
            headers = headers.insert(Header { key: "traceparent", value: Some(value) });
        }
        Some(headers)
    }

    /// Puts one message into the producer's queue; where that is full, it waits.
    pub(super) fn enqueue<'a, K, P>(
        &self,
        producer: &BaseProducer<Context>,
        stop: &CancellationToken,
        record: impl Fn() -> BaseRecord<'a, K, P, Box<u64>>,
    ) -> Result<(), KafkaError>
    where
        K: ToBytes + ?Sized + 'a,
        P: ToBytes + ?Sized + 'a,
    {
        loop {
            match producer.send(record()) {
                Ok(()) => return Ok(()),
                Err((error, _)) if code(&error) == Some(RDKafkaErrorCode::QueueFull) && !stop.is_cancelled() => {
                    producer.poll(LOOK);
                }
                Err((error, _)) => {
                    self.partitions.forget();
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_asked_for_its_partitions_once_and_where_a_row_names_another_at_times() {
        let partitions = Partitions::default();
        let unasked = || panic!("the answer is known");
        assert!(partitions.has(7, || None), "nobody can say");
        assert!(partitions.has(2, || Some(3)));
        assert!(partitions.has(0, unasked));
        assert!(!partitions.has(3, unasked));
        partitions.forget();
        assert!(partitions.has(3, || Some(4)));
    }
}
