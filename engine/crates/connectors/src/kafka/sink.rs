//! Rows into a topic.
//!
//! Exactly-once: batches, and how far each shard is with them, in transactions. One producer a sink and state directory, under a
//! name that stays: a new one fences the one before, and its open transaction is given up. At-least-once: an idempotent
//! producer; a batch is confirmed once the broker has all of its rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use streamjob_core::config::{Delivery as Guarantee, KafkaSinkConfig};
use streamjob_core::crash;
use streamjob_core::transactions::{Progress, RefusedRow, Transactions};
use streamjob_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::{Context, SOCKET_TIMEOUT_MS, UNNUMBERED, settings};
use super::errors::{explain, is_fenced, reason_of_refusal, refusal_of_rows};
use super::produce::{Partitions, texts_of};
use super::progress::ProgressTopic;
use super::search::{Parts, Search};
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::{Delivery, DeliveryReport};
use crate::transacting::{Hooks, MAX_HELD_BATCHES, Retry, SinkVerdict, receive};

/// What the producer holds that the broker has not taken, kilobytes.
pub const PRODUCER_KB: usize = 64 << 10;
/// One answer of the coordinator is waited for so long before it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The producer is served this often where nothing else happens.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// When the process stops, the open transaction gets this long to end.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// The largest message, bytes, unless the job's properties say otherwise. A larger row goes to the dead letters.
const MAX_MESSAGE_BYTES: usize = 1_000_000;
/// The least of an exactly-once topic: a record of progress names as many refused rows as there may be, and is a message itself.
pub const MIN_MESSAGE_BYTES: usize = 128 << 10;
/// What the client and the broker may add to a row, its key and its headers, bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 512;

/// One topic that rows go to.
pub struct KafkaSink {
    place: String,
    name: Arc<str>,
    pub(super) config: KafkaSinkConfig,
    guarantee: Guarantee,
    producer: ClientConfig,
    progress: ProgressTopic,
    connection: Arc<Connection>,
    /// Of a row with its key and headers.
    pub(super) max_row_bytes: usize,
    pub(super) partitions: Partitions,
    retry: Retry,
}

/// How a transaction ended.
enum End {
    Committed,
    Aborted(Error),
    /// Given up as well: rows of it are not taken, however often they come.
    Refused(Error),
    /// Nobody knows, or the producer is of no use any more.
    Lost(Error),
}

impl KafkaSink {
    /// Checks the settings and reads the secrets; connects to nothing.
    pub fn new(
        place: &str,
        name: &str,
        config: &KafkaSinkConfig,
        guarantee: Guarantee,
        state_id: &str,
        seed: u64,
        connection: Arc<Connection>,
    ) -> Result<KafkaSink> {
        let mut producer = settings(place, &config.connection)?;
        let mut default = |name: &str, value: &str| {
            if !config.connection.properties.contains_key(name) {
                producer.set(name, value);
            }
        };
        default("linger.ms", "1");
        default("compression.type", "lz4");
        default("queue.buffering.max.kbytes", &PRODUCER_KB.to_string());
        default("message.max.bytes", &MAX_MESSAGE_BYTES.to_string());
        // The same key lands in the same partition as with the Java client.
        producer.set("partitioner", "murmur2_random");
        producer.set("enable.idempotence", "true");
        match guarantee {
            Guarantee::ExactlyOnce => {
                producer.set("transactional.id", format!("streamjob-{state_id}-{name}"));
                let timeout_ms = config.transaction_timeout_us / 1000;
                producer.set("transaction.timeout.ms", timeout_ms.to_string());
                // The library asks for that: who waits for an answer must not wait longer than the transaction lasts.
                producer.set("socket.timeout.ms", SOCKET_TIMEOUT_MS.min(timeout_ms).to_string());
            }
            // For ever: full means wait.
            Guarantee::AtLeastOnce => drop(producer.set("message.timeout.ms", "0")),
        }
        let max_message: usize =
            producer.get("message.max.bytes").and_then(|text| text.parse().ok()).unwrap_or(MAX_MESSAGE_BYTES);
        if guarantee == Guarantee::ExactlyOnce && max_message < MIN_MESSAGE_BYTES {
            return Err(Error::user(format!(
                "{place}.properties: message.max.bytes is {max_message}; exactly-once needs {MIN_MESSAGE_BYTES} at least"
            )));
        }
        Ok(KafkaSink {
            progress: ProgressTopic::new(place, config, state_id, name, connection.clone()),
            place: place.to_owned(),
            name: name.into(),
            guarantee,
            producer,
            max_row_bytes: max_message.saturating_sub(MESSAGE_OVERHEAD),
            partitions: Partitions::default(),
            retry: Retry {
                name: name.into(),
                backoff: Backoff::of_micros(config.backoff_initial_us, config.backoff_max_us),
                seed,
                connection: connection.clone(),
            },
            config: config.clone(),
            connection,
        })
    }

    /// Sends what comes until `stop` is cancelled. Blocks its thread. What is not confirmed then stays in the outbox.
    ///
    /// # Errors
    /// Where it never can go on: another producer has taken its place, the record of progress is damaged, something is not
    /// allowed.
    pub fn run<R, D>(self, mut batches: mpsc::Receiver<Delivery>, mut hooks: Hooks<R, D>, stop: &CancellationToken) -> Result<()>
    where
        R: FnMut(DeliveryReport),
        D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict,
    {
        match self.guarantee {
            Guarantee::ExactlyOnce => self.run_exactly_once(&mut batches, &mut hooks, stop),
            Guarantee::AtLeastOnce => super::sink_at_least_once::run(&self, &mut batches, &mut hooks.report, stop),
        }
    }

    fn run_exactly_once<R, D>(
        &self,
        batches: &mut mpsc::Receiver<Delivery>,
        hooks: &mut Hooks<R, D>,
        stop: &CancellationToken,
    ) -> Result<()>
    where
        R: FnMut(DeliveryReport),
        D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict,
    {
        let mut transactions: Transactions<Delivery> = Transactions::default();
        let (mut search, mut failures) = (Search::default(), 0);
        while !stop.is_cancelled() {
            let connected = match self.connect(stop) {
                Ok(Some(connected)) => connected,
                Ok(None) => return Ok(()),
                Err(error) => {
                    failures += 1;
                    self.wait_after(&error, failures, stop)?;
                    continue;
                }
            };
            failures = 0;
            let (producer, progress) = connected;
            if (hooks.decide)(&progress) == SinkVerdict::Stop {
                return Ok(());
            }
            hooks.confirm(transactions.recovered(progress)?);
            self.send_all(&producer, batches, &mut transactions, &mut search, hooks, stop)?;
            transactions.lost();
        }
        Ok(())
    }

    /// A producer that has fenced its predecessors off, and how far the topic is. `None` if the process stops first.
    #[expect(clippy::type_complexity, reason = "what a connection is")]
    fn connect(&self, stop: &CancellationToken) -> Result<Option<(BaseProducer<Context>, HashMap<u16, Progress>)>> {
        let doing = format!("sink {}: beginning transactions", self.name);
        self.progress.create_topic(&Handle::current())?;
        let producer = self.create_producer()?;
        loop {
            match producer.init_transactions(ANSWER_TIMEOUT) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !error.is_fatal() => {
                    producer.poll(Duration::ZERO);
                    self.connection.failed(&error.string());
                    if stop.is_cancelled() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(explain(&doing, &error, &self.connection)),
            }
        }
        let progress = self.progress.read(&|| stop.is_cancelled())?;
        self.connection.answered();
        Ok(progress.map(|progress| (producer, progress)))
    }

    pub(super) fn create_producer(&self) -> Result<BaseProducer<Context>> {
        let context = Context::new(self.connection.clone());
        self.producer.create_with_context(context).map_err(|error| explain(&self.place, &error, &self.connection))
    }

    /// Runs transactions until one is lost or the process stops.
    fn send_all<R, D>(
        &self,
        producer: &BaseProducer<Context>,
        batches: &mut mpsc::Receiver<Delivery>,
        transactions: &mut Transactions<Delivery>,
        search: &mut Search,
        hooks: &mut Hooks<R, D>,
        stop: &CancellationToken,
    ) -> Result<()>
    where
        R: FnMut(DeliveryReport),
        D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict,
    {
        let mut failures = 0;
        loop {
            let room = MAX_HELD_BATCHES.saturating_sub(transactions.len());
            let Some(received) = self.receive(batches, transactions.is_empty(), room, stop) else { return Ok(()) };
            received.into_iter().for_each(|delivery| transactions.put(delivery));
            producer.poll(Duration::ZERO);
            hooks.confirm(transactions.take_known());
            let Some(begun) = transactions.begin(search.bounds()) else { continue };
            let count = begun.batches.len();
            let mut refused = self.all_too_large(begun.batches)?;
            let parts = search.parts(begun.batches, &mut refused);
            let records = self.progress.records(begun.reached(&refused))?;
            match self.transact(producer, begun.batches, &refused, &records, parts, stop) {
                End::Committed => {
                    failures = 0;
                    search.committed(count);
                    self.connection.answered();
                    crash::point("kafka-after-commit");
                    hooks.confirm(transactions.committed(&refused));
                }
                // What is searched next is another part: there is nothing to wait for.
                End::Refused(error) => {
                    transactions.aborted();
                    if search.begin(count) {
                        tracing::warn!(target: "streamjob", connector = &*self.name, "{error}; its batches are tried in parts");
                    }
                }
                // The stop has given it up.
                End::Aborted(error) if stop.is_cancelled() && error.retryable() => return Ok(()),
                End::Aborted(error) if error.retryable() && search.mends_gap() => transactions.aborted(),
                End::Aborted(error) => {
                    transactions.aborted();
                    failures += 1;
                    self.wait_after(&error, failures, stop)?;
                }
                End::Lost(error) => {
                    transactions.lost();
                    return self.wait_after(&error, failures + 1, stop);
                }
            }
        }
    }

    /// Rows of these batches that can never be written, with their shards.
    fn all_too_large(&self, batches: &[Delivery]) -> Result<Vec<(u16, RefusedRow)>> {
        let mut refused = Vec::new();
        for delivery in batches {
            refused.extend(self.too_large(delivery)?.into_iter().map(|row| (delivery.shard, row)));
        }
        Ok(refused)
    }

    /// One transaction: rows, but for those that are refused; records of progress; commit. With `parts`, its only batch goes out
    /// in these.
    fn transact(
        &self,
        producer: &BaseProducer<Context>,
        batches: &[Delivery],
        refused: &[(u16, RefusedRow)],
        records: &[(String, String)],
        parts: Option<&mut Parts>,
        stop: &CancellationToken,
    ) -> End {
        let since = Instant::now();
        if let Err(error) = producer.begin_transaction() {
            return self.lost((is_fenced(&error), self.explain("a transaction", &error)), since);
        }
        let searching = parts.is_some();
        let sent = match parts {
            Some(parts) => batches.iter().try_for_each(|delivery| self.send_parts(producer, delivery, parts, since, stop)),
            None => batches.iter().try_for_each(|delivery| self.send_batch(producer, delivery, refused, stop)),
        };
        if let Err(error) = sent {
            return self.give_up(producer, error, true, since, stop);
        }
        crash::point("kafka-before-progress");
        let stored = records.iter().try_for_each(|(key, value)| {
            self.enqueue(producer, stop, || {
                BaseRecord::with_opaque_to(self.progress.name(), Box::new(UNNUMBERED)).key(key).payload(value)
            })
        });
        // Once the broker has taken all parts, a refusal is not for them.
        if let Err(error) = stored {
            return self.give_up(producer, self.reason(producer, error), !searching, since, stop);
        }
        self.commit(producer, !searching, since, stop)
    }

    fn send_batch(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        refused: &[(u16, RefusedRow)],
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        let left_out = refused.iter().filter(|(shard, row)| (*shard, row.batch) == (delivery.shard, delivery.last_seq));
        let produced = self.produce(producer, delivery, left_out.map(|(_, row)| row), UNNUMBERED, stop);
        produced.map_err(|error| self.reason(producer, error))
    }

    fn send_parts(
        &self,
        producer: &BaseProducer<Context>,
        delivery: &Delivery,
        parts: &mut Parts,
        begun: Instant,
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        let texts = texts_of(delivery)?;
        loop {
            match self.try_part(producer, delivery, &texts, parts, stop) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    // Of a transaction that is over, a broker may say the same of any row.
                    if let Some(reason) = reason_of_refusal(&error).filter(|_| !self.is_over(begun)) {
                        parts.refused(reason);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// `of_rows`: a refusal is for rows of the transaction.
    fn commit(&self, producer: &BaseProducer<Context>, of_rows: bool, begun: Instant, stop: &CancellationToken) -> End {
        crash::point("kafka-before-commit");
        let mut last: Option<Instant> = None;
        loop {
            let error = match producer.commit_transaction(ANSWER_TIMEOUT) {
                Ok(()) => return End::Committed,
                Err(error) => error,
            };
            let explained = self.explain("committing a transaction", &error);
            let (is_abortable, is_final) = match &error {
                KafkaError::Transaction(inner) => (inner.txn_requires_abort(), !inner.is_retriable() || inner.is_fatal()),
                _ => (false, false),
            };
            if is_abortable {
                return self.give_up(producer, self.reason(producer, error), of_rows, begun, stop);
            }
            if is_final {
                return self.lost((is_fenced(&error), explained), begun);
            }
            self.connection.failed(explained.message());
            producer.poll(LOOK);
            if stop.is_cancelled() && last.get_or_insert_with(Instant::now).elapsed() >= LAST_ANSWER {
                return End::Lost(explained);
            }
        }
    }

    /// Gives the transaction up for `error`. `of_rows`: a refusal is for rows of the transaction.
    fn give_up(
        &self,
        producer: &BaseProducer<Context>,
        error: KafkaError,
        of_rows: bool,
        begun: Instant,
        stop: &CancellationToken,
    ) -> End {
        let why = self.explain("a transaction", &error);
        if is_fenced(&error) {
            return self.lost((true, why), begun);
        }
        match self.abort(producer, why, begun, stop) {
            End::Aborted(why) if of_rows && !self.is_over(begun) && refusal_of_rows(&error).is_some() => End::Refused(why),
            end => end,
        }
    }

    /// Gives the transaction up for `why`.
    fn abort(&self, producer: &BaseProducer<Context>, why: Error, begun: Instant, stop: &CancellationToken) -> End {
        let mut last: Option<Instant> = None;
        producer.purge(PurgeConfig::default().queue());
        loop {
            let _ = producer.flush(LOOK);
            match producer.abort_transaction(ANSWER_TIMEOUT) {
                Ok(()) => {
                    producer.context().take_undelivered();
                    return End::Aborted(why);
                }
                Err(KafkaError::Transaction(inner)) if inner.is_retriable() && !inner.is_fatal() => {
                    self.connection.failed(&inner.string());
                }
                Err(error) => {
                    let explained = self.explain("giving a transaction up", &error);
                    return self.lost((is_fenced(&error), explained), begun);
                }
            }
            producer.poll(LOOK);
            if stop.is_cancelled() && last.get_or_insert_with(Instant::now).elapsed() >= LAST_ANSWER {
                return End::Lost(why);
            }
        }
    }

    /// The producer is of no use any more. One that was fenced off although its transaction had not timed out has a double.
    fn lost(&self, (fenced, error): (bool, Error), begun: Instant) -> End {
        match fenced && self.is_over(begun) {
            true => End::Lost(Error::outside(format!(
                "sink {}: a transaction took longer than transactionTimeout, {:?}, and the broker gave it up",
                self.name,
                self.transaction_timeout()
            ))),
            false => End::Lost(error),
        }
    }

    fn transaction_timeout(&self) -> Duration {
        Duration::from_micros(self.config.transaction_timeout_us.max(0) as u64)
    }

    /// Whether the broker may have given up a transaction that was begun then.
    fn is_over(&self, begun: Instant) -> bool {
        begun.elapsed() >= self.transaction_timeout()
    }

    pub(super) fn has_transactions(&self) -> bool {
        self.guarantee == Guarantee::ExactlyOnce
    }

    pub(super) fn explain(&self, doing: &str, error: &KafkaError) -> Error {
        explain(&format!("sink {}: {doing}", self.name), error, &self.connection)
    }

    pub(super) fn note_answer(&self) {
        self.connection.answered();
    }

    /// Notes that messages were not taken, and says why.
    pub(super) fn note_failure(&self, error: Option<&KafkaError>) -> Error {
        let why = match error {
            // No other takes the place of a producer without transactions: its epoch has moved on, and so does the client.
            Some(error) if is_fenced(error) => Error::outside(format!("sink {}: producing: {error}", self.name)),
            Some(error) => self.explain("producing", error),
            None => Error::outside(format!("sink {}: a message was not taken", self.name)),
        };
        self.connection.failed(&why.to_string());
        why
    }

    pub(super) fn receive(
        &self,
        batches: &mut mpsc::Receiver<Delivery>,
        idle: bool,
        room: usize,
        stop: &CancellationToken,
    ) -> Option<Vec<Delivery>> {
        Handle::current().block_on(receive(batches, idle, room, LOOK, stop))
    }

    /// Waits before the next try; an error that no wait mends is given back.
    pub(super) fn wait_after(&self, error: &Error, failures: u32, stop: &CancellationToken) -> Result<()> {
        Handle::current().block_on(self.retry.wait_after(error, failures, stop))
    }
}
