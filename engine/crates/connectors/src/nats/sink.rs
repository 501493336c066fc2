//! Rows as messages. A message has an id that follows from its batch and its place in it, so that a stream takes it once however
//! often it is sent, as long as it remembers the id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, HeaderMap};
use parking_lot::Mutex;
use streamjob_core::config::{Delivery as Guarantee, NatsSinkConfig};
use streamjob_core::transactions::RefusedRow;
use streamjob_core::{Error, Result, crash};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::connect::Servers;
use super::stream::{StreamConfig, check_streams, streams_of};
use super::subject::{MAX_SUBJECT_BYTES, SubjectTemplate};
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::{Deliver, Delivery, MAX_PARALLEL_SHARDS, Outcome, Refusal};
use crate::http_client::explain_chain;
use crate::rows::rows;
use crate::transacting::Retry;

/// Messages of one batch that were sent and are not confirmed.
pub const MAX_UNCONFIRMED: usize = 256;

/// One subject that rows go to.
pub struct NatsSink {
    name: Arc<str>,
    config: NatsSinkConfig,
    guarantee: Guarantee,
    subject: SubjectTemplate,
    servers: Servers,
    timeout: Duration,
    retry: Retry,
    client: tokio::sync::Mutex<Option<Ready>>,
    /// By shard: the batch that it is at, and when that was sent first.
    first_sent: Mutex<HashMap<u16, (u64, Instant)>>,
}

/// A client whose streams are known.
#[derive(Clone)]
struct Ready {
    client: Client,
    context: Context,
    /// The shortest of the streams' memories.
    window: Duration,
}

/// Why a message is not there.
enum Unsent {
    /// It never will be, for this reason.
    Refused(String),
    /// It may be, or not; sent again it may get there.
    Unknown(String),
}

impl NatsSink {
    /// Checks the settings and reads the secrets; connects to nothing.
    pub fn new(
        place: &str,
        name: &str,
        config: &NatsSinkConfig,
        guarantee: Guarantee,
        seed: u64,
        connection: Arc<Connection>,
    ) -> Result<NatsSink> {
        let micros = |us: i64| Duration::from_micros(us.max(0) as u64);
        let backoff = Backoff::of_micros(config.backoff_initial_us, config.backoff_max_us);
        Ok(NatsSink {
            name: name.into(),
            guarantee,
            subject: SubjectTemplate::parse(&config.subject).map_err(|error| error.context(place))?,
            servers: Servers::new(place, &config.connection, backoff, seed, connection.clone())?,
            timeout: micros(config.timeout_us),
            retry: Retry { name: name.into(), backoff, seed, connection },
            client: tokio::sync::Mutex::new(None),
            first_sent: Mutex::default(),
            config: config.clone(),
        })
    }

    /// Connects and says what is there; changes nothing.
    ///
    /// # Errors
    /// With what is wrong, and what to do about it.
    pub async fn describe(&self) -> Result<String> {
        let client = self.servers.connect().await?;
        let streams = self.look_at_streams(&self.context(&client)).await?;
        let said: Vec<String> =
            streams.iter().map(|stream| format!("{} remembers ids for {:?}", stream.name, stream.window())).collect();
        Ok(format!("the subject {} belongs to the stream {}", self.subject.wildcard(), said.join(", and to ")))
    }

    /// Connects, however long that takes, and makes sure that the streams promise what the sink relies on.
    ///
    /// # Errors
    /// Where a person must act.
    pub async fn prepare(&self, stop: &CancellationToken) -> Result<()> {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let outcome = tokio::select! {
                outcome = self.ready() => outcome,
                () = stop.cancelled() => return Ok(()),
            };
            let Err(error) = outcome else { return Ok(()) };
            failures += 1;
            self.retry.wait_after(&error.context(format!("sink {}", self.name)), failures, stop).await?;
        }
        Ok(())
    }

    /// The client; after its connection was lost the streams are looked at again.
    async fn ready(&self) -> Result<Ready> {
        let mut known = self.client.lock().await;
        let was_lost = self.servers.was_lost.load(Ordering::Acquire);
        if let Some(ready) = known.as_ref().filter(|_| !was_lost) {
            return Ok(ready.clone());
        }
        let client = match known.as_ref() {
            Some(ready) => ready.client.clone(),
            None => self.servers.connect().await?,
        };
        if client.connection_state() != State::Connected {
            return Err(Error::outside(format!("there is no connection to {}", self.servers.name)));
        }
        self.servers.was_lost.store(false, Ordering::Release);
        let context = self.context(&client);
        let streams = self.look_at_streams(&context).await.inspect_err(|_| self.servers.was_lost.store(true, Ordering::Release));
        // Kept also where its streams are not what they should be: it connects again by itself, and twice would be once too often.
        let window =
            streams.as_ref().map_or(Duration::ZERO, |streams| streams.iter().map(StreamConfig::window).min().unwrap_or_default());
        let ready = known.insert(Ready { client, context, window }).clone();
        streams.map(|_| ready)
    }

    fn context(&self, client: &Client) -> Context {
        let bound = MAX_UNCONFIRMED * MAX_PARALLEL_SHARDS;
        jetstream::context::ContextBuilder::new().timeout(self.timeout).max_ack_inflight(bound).build(client.clone())
    }

    async fn look_at_streams(&self, context: &Context) -> Result<Vec<StreamConfig>> {
        let wildcard = self.subject.wildcard();
        let streams = streams_of(context, &wildcard).await?;
        check_streams(&streams, &wildcard, &self.config, self.guarantee)?;
        Ok(streams)
    }

    /// Sends the rows of a batch in their order, and waits until the streams have them all.
    async fn publish(&self, context: &Context, delivery: &Delivery) -> Result<Vec<RefusedRow>, String> {
        let body = &delivery.batch.body;
        let (mut refused, mut sent) = (Vec::new(), VecDeque::new());
        let mut settle = |row: u32, outcome: Result<(), Unsent>| match outcome {
            Ok(()) => Ok(()),
            Err(Unsent::Refused(reason)) => {
                refused.push(RefusedRow { batch: delivery.last_seq, row, reason });
                Ok(())
            }
            Err(Unsent::Unknown(reason)) => Err(reason),
        };
        for (row, text) in (0u32..).zip(rows(body).map_err(|error| error.message().to_owned())?) {
            match self.send(context, delivery, row, body.slice_ref(text.get().as_bytes())).await {
                Ok(confirmation) => sent.push_back((row, confirmation)),
                Err(unsent) => settle(row, Err(unsent))?,
            }
            if sent.len() >= MAX_UNCONFIRMED
                && let Some((row, confirmation)) = sent.pop_front()
            {
                settle(row, confirmed(confirmation).await)?;
            }
        }
        crash::point("nats-before-confirmed");
        for (row, confirmation) in sent {
            settle(row, confirmed(confirmation).await)?;
        }
        crash::point("nats-after-confirmed");
        refused.sort_unstable_by_key(|refused| refused.row);
        Ok(refused)
    }

    async fn send(
        &self,
        context: &Context,
        delivery: &Delivery,
        row: u32,
        text: bytes::Bytes,
    ) -> Result<PublishAckFuture, Unsent> {
        let subject = std::str::from_utf8(&text).ok().and_then(|text| self.subject.of(text));
        let too_long = || Unsent::Refused(format!("its subject is longer than {MAX_SUBJECT_BYTES} bytes"));
        let subject = subject.ok_or_else(too_long)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.config.headers {
            headers.insert(name.as_str(), value.as_str());
        }
        if let Some(traceparent) = &delivery.batch.traceparent {
            headers.insert("traceparent", traceparent.as_str());
        }
        let id = message_id(&delivery.batch.idempotency_key, row, &text);
        let message = PublishMessage::build().headers(headers).payload(text).message_id(id);
        context.send_publish(subject, message).await.map_err(unsent)
    }

    /// Whether the streams may have forgotten what was sent of the batch before.
    fn may_repeat(&self, delivery: &Delivery, window: Duration) -> bool {
        let mut first_sent = self.first_sent.lock();
        let first = first_sent.entry(delivery.shard).or_insert_with(|| (delivery.last_seq, Instant::now()));
        if first.0 != delivery.last_seq {
            *first = (delivery.last_seq, Instant::now());
        }
        self.guarantee == Guarantee::ExactlyOnce && first.1.elapsed() + self.timeout > window
    }
}

impl Deliver for NatsSink {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let retry = |reason: String| Outcome::Retry { after: None, reason };
        let ready = match self.ready().await {
            Ok(ready) => ready,
            Err(error) => return retry(error.message().to_owned()),
        };
        if ready.client.connection_state() != State::Connected {
            return retry(format!("there is no connection to {}", self.servers.name));
        }
        if self.may_repeat(delivery, ready.window) {
            tracing::warn!(
                target: "streamjob",
                reason = "OutputsMayRepeat",
                sink = &*self.name,
                "a batch was under way for longer than the stream remembers its messages: some may be there twice"
            );
        }
        match self.publish(&ready.context, delivery).await {
            Ok(refused) => {
                self.retry.connection.answered();
                if refused.is_empty() { Outcome::Delivered } else { Outcome::Refused(Refusal::Rows(refused)) }
            }
            Err(reason) => {
                self.retry.connection.failed(&reason);
                retry(reason)
            }
        }
    }
}

/// The same for the same row of the same batch, and another one for any other row: a state that was restored from a backup may
/// give the number of a batch to other rows, and those must not be taken for a repeat.
fn message_id(batch: &str, row: u32, text: &[u8]) -> String {
    format!("{batch}-{row}-{:016x}", xxh3_64(text))
}

async fn confirmed(confirmation: PublishAckFuture) -> Result<(), Unsent> {
    confirmation.await.map(drop).map_err(unsent)
}

fn unsent(error: PublishError) -> Unsent {
    let said = explain_chain(&error);
    let code = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Unsent::Refused(said),
        PublishErrorKind::Other if code.is_some_and(|error| error.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
            Unsent::Refused(said)
        }
        PublishErrorKind::StreamNotFound => Unsent::Unknown(format!("{said}; create a stream that takes the subject")),
        _ => Unsent::Unknown(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_row_alone() {
        let ids = [("a", 0, "x"), ("a", 1, "x"), ("b", 0, "x"), ("a", 0, "y")]
            .map(|(batch, row, text)| message_id(batch, row, text.as_bytes()));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
        assert_eq!(message_id("a", 0, b"x"), ids[0]);
    }
}
