//! Batches as messages in a producer's queue.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord};
use streamjob_core::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::client::Context;
use super::errors::code;
use super::rows::{key_bytes, member, rows};
use super::sink::{KafkaSink, LOOK};
use crate::deliveries::{Delivery, Refusal};

/// The status of a batch that can never be written, as of HTTP.
const TOO_LARGE: u16 = 413;

impl KafkaSink {
    /// Why a batch can never be written.
    pub(super) fn refusal_of(&self, delivery: &Delivery) -> Result<Option<Refusal>> {
        if delivery.batch.body.len() <= self.max_row_bytes {
            return Ok(None);
        }
        let longest = rows(&delivery.batch.body)?.iter().map(|row| row.get().len()).max().unwrap_or(0);
        Ok((longest > self.max_row_bytes).then(|| Refusal::Batch {
            status: TOO_LARGE,
            reason: format!(
                "a row of {longest} bytes is larger than message.max.bytes allows; raise it in kafka.properties and on the topic"
            ),
        }))
    }

    /// Hands the rows of a batch to the producer.
    pub(super) fn produce(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        batch: u64,
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        let broken = |error: Error| KafkaError::ClientCreation(error.message().to_owned());
        for row in rows(&delivery.batch.body).map_err(broken)? {
            let text = row.get();
            let key = self.config.key.as_deref().and_then(|name| member(text, name)).map(key_bytes);
            let partition = self.config.partition.as_deref().and_then(|name| member(text, name)?.parse::<i32>().ok());
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
                Err((error, _)) => return Err(error),
            }
        }
    }
}
