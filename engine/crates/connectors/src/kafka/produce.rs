//! Batches as messages in a producer's queue.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::value::RawValue;
use streamjob_core::Result;
use streamjob_core::transactions::RefusedRow;
use tokio_util::sync::CancellationToken;

use super::client::{Context, UNNUMBERED};
use super::errors::{code, is_purged};
use super::search::Parts;
use super::sink::{KafkaSink, LOOK};
use super::topic::ANSWER_TIMEOUT;
use crate::deliveries::Delivery;
use crate::rows::{key_bytes, member, rows};

/// A topic may get more partitions, and a cluster may come back: it is asked again after this long where a row names a partition
/// that the topic is not known to have.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// What a message needs for each of its headers beside name and value, bytes at most.
const HEADER_OVERHEAD: usize = 20;
/// The broker's answers are waited for so long before it is looked at what else has come.
pub(super) const ANSWER_LOOK: Duration = Duration::from_millis(2);

/// How many partitions the topic has.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None` where nobody could say.
    count: Option<i32>,
    /// When that was asked last, also in vain: no row waits for an answer that the one before it did not get.
    asked: Option<Instant>,
}

impl Known {
    /// Where nobody can say, the client is to find out, which waits where that helps.
    fn has(&self, partition: i32) -> bool {
        self.count.is_none_or(|count| partition < count)
    }

    fn is_settled(&self, partition: i32) -> bool {
        let has_it = self.count.is_some() && self.has(partition);
        has_it || self.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN)
    }
}

impl Partitions {
    /// Whether the topic has the partition, as far as that is known.
    fn has(&self, partition: i32, ask: impl FnOnce() -> Option<i32>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_settled(partition) {
            known.count = ask().or(known.count);
            known.asked = Some(Instant::now());
        }
        known.has(partition)
    }

    /// The topic may be another by now.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }
}

/// By place and in their order: rows whose message is larger than `max_bytes`, with its bytes. A message holds the row, its key,
/// which is a copy of the member `key`, and `headers` bytes of headers.
fn too_large(body: &[u8], key: Option<&str>, headers: usize, max_bytes: usize) -> Result<Vec<(usize, usize)>> {
    // A key is at most as long as its row.
    let at_most = |row: usize| if key.is_some() { 2 * row + headers } else { row + headers };
    if at_most(body.len()) <= max_bytes {
        return Ok(Vec::new());
    }
    let key_of = |row: &str| key.and_then(|name| member(row, name)).map_or(0, |key| key_bytes(key).len());
    let bytes = |row: &str| {
        let key = if at_most(row.len()) > max_bytes { key_of(row) } else { 0 };
        row.len() + key + headers
    };
    let sizes = rows(body)?.into_iter().map(|row| bytes(row.get())).enumerate();
    Ok(sizes.filter(|(_, bytes)| *bytes > max_bytes).collect())
}

/// The rows of a batch, as they are sent.
pub(super) fn texts_of(delivery: &Delivery) -> Result<Vec<&RawValue>, KafkaError> {
    rows(&delivery.batch.body).map_err(|error| KafkaError::ClientCreation(error.message().to_owned()))
}

impl KafkaSink {
    /// Rows of a batch that can never be written, in their order.
    pub(super) fn too_large(&self, delivery: &Delivery) -> Result<Vec<RefusedRow>> {
        let headers: usize = self.named_headers(delivery).map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD).sum();
        let refused = |(place, bytes): (usize, usize)| RefusedRow {
            batch: delivery.last_seq,
            row: place as u32,
            reason: format!(
                "a row of {bytes} bytes, with its key and headers, is larger than message.max.bytes allows; raise it here and on \
                 the topic"
            ),
        };
        let too_large = too_large(&delivery.batch.body, self.config.key.as_deref(), headers, self.max_row_bytes)?;
        Ok(too_large.into_iter().map(refused).collect())
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
        let mut left_out = left_out.map(|refused| refused.row as usize).peekable();
        for (place, row) in texts_of(delivery)?.into_iter().enumerate() {
            if left_out.next_if_eq(&place).is_none() {
                self.produce_row(producer, delivery, row.get(), batch, stop)?;
            }
        }
        Ok(())
    }

    fn produce_row(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        text: &str,
        batch: u64,
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        // A row may wait for an answer about its partition: those behind it would, one by one.
        if stop.is_cancelled() {
            return Err(KafkaError::Canceled);
        }
        let key = self.config.key.as_deref().and_then(|name| member(text, name)).map(key_bytes);
        let partition = self.partition_of(producer, text);
        self.enqueue(producer, stop, || {
            let mut record = BaseRecord::with_opaque_to(&self.config.topic, Box::new(batch)).payload(text);
            record.key = key.as_deref();
            record.partition = partition;
            record.headers = self.headers(delivery);
            record
        })
    }

    /// Sends the next of the parts of a batch, whose rows these are, and waits for the broker's answers. False: there is none.
    ///
    /// # Errors
    /// Where they were not all taken. The parts are not told of that: it may be for them or for something else.
    pub(super) fn try_part(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        texts: &[&RawValue],
        parts: &mut Parts,
        stop: &CancellationToken,
    ) -> Result<bool, KafkaError> {
        let Some(part) = parts.part() else { return Ok(false) };
        let mut rows = texts[part].iter();
        let produced = rows.try_for_each(|row| self.produce_row(producer, delivery, row.get(), UNNUMBERED, stop));
        // What was refused first says why the client took no more.
        self.settle(producer, stop).and(produced).map_err(|error| self.reason(producer, error))?;
        parts.taken();
        Ok(true)
    }

    /// Waits until the broker has answered for everything that the producer was given.
    fn settle(&self, producer: &BaseProducer<Context>, stop: &CancellationToken) -> Result<(), KafkaError> {
        loop {
            match producer.flush(ANSWER_LOOK) {
                Ok(()) => break,
                // Of a transaction that has failed the client sends no more: what waits in its queue gets no answer.
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut))
                    if self.has_transactions() && producer.context().has_undelivered() =>
                {
                    break;
                }
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) if !stop.is_cancelled() => {}
                Err(error) => return Err(error),
            }
        }
        producer.context().take_undelivered().map_or(Ok(()), Err)
    }

    /// Why sending failed, where `error` is what a call gave: what the broker said of a message says more.
    pub(super) fn reason(&self, producer: &BaseProducer<Context>, error: KafkaError) -> KafkaError {
        producer.poll(Duration::ZERO);
        if let Some(undelivered) = producer.context().take_undelivered().filter(|error| !is_purged(error)) {
            return undelivered;
        }
        let hides_it = matches!(code(&error), Some(RDKafkaErrorCode::State | RDKafkaErrorCode::Fatal)) || is_purged(&error);
        // Of a transaction that has failed, calls say only that it has; to begin another tells why.
        match hides_it && self.has_transactions() {
            true => producer.begin_transaction().err().unwrap_or(error),
            false => error,
        }
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

    fn named_headers<'a>(&'a self, delivery: &'a Delivery) -> impl Iterator<Item = (&'a str, &'a str)> {
        let traceparent = delivery.batch.traceparent.as_deref().map(|value| ("traceparent", value));
        self.config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(traceparent)
    }

    fn headers(&self, delivery: &Delivery) -> Option<OwnedHeaders> {
        let mut named = self.named_headers(delivery).peekable();
        named.peek()?;
        Some(named.fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) })))
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
        assert!(partitions.has(2, unasked), "no other row waits for that");
        partitions.forget();
        assert!(partitions.has(2, || Some(3)));
        assert!(partitions.has(0, unasked));
        assert!(!partitions.has(3, unasked));
        partitions.forget();
        assert!(partitions.has(3, || Some(4)));
    }

    #[test]
    fn a_message_is_as_large_as_its_row_its_key_and_its_headers() {
        // Their keys have 5 bytes, 3 and 1.
        let body = br#"[{"k":"aaaaa","x":1},{"k":"bbb","x":1},{"k":"c","x":1234567}]"#;
        let lengths: Vec<usize> = rows(body).expect("an array").iter().map(|row| row.get().len()).collect();
        assert_eq!(lengths, [19, 17, 21]);
        let too_large = |key, headers, max| too_large(body, key, headers, max).expect("an array");
        assert_eq!(too_large(None, 0, 20), [(2, 21)]);
        assert_eq!(too_large(Some("k"), 0, 21), [(0, 24), (2, 22)]);
        assert!(too_large(Some("k"), 0, 24).is_empty());
        assert_eq!(too_large(Some("k"), 4, 24), [(0, 28), (2, 26)]);
        assert_eq!(too_large(Some("not there"), 0, 20), [(2, 21)]);
    }

    #[test]
    fn a_key_makes_a_message_too_large_whose_batch_is_not() {
        let body = br#"[{"k":"aaaaaaaaaaaaaaaaaaaa"}]"#;
        assert_eq!(too_large(body, Some("k"), 0, body.len()).expect("an array"), [(0, 48)]);
        assert!(too_large(body, Some("k"), 0, 48).expect("an array").is_empty());
    }
}
