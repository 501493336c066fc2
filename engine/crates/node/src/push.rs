//! The way of messages that a source inside of the process brings: the same for all of them.
//!
//! ```text
//!  messages ─▶ decode ─▶ encode ─▶ credits ─▶ Sequencer::append ─▶ Receipt ─▶ durable: the source may acknowledge
//!              (waits for schemas)  (waits for room)                  │
//!                                                                     └ the record also has the source's position
//! ```
//!
//! A source calls [`PushSource::open`] once, then [`PushSource::push`] for each of its batches, in their order. A batch is one
//! record of the journal, whole or absent (I10), and so is the position in it. Whatever is full is waited for; a stop ends the
//! waiting. Messages that cannot be read are rejected rows, as those of requests are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use streamjob_core::batch::{MAX_REJECTED_TEXT_BYTES, RowBatch};
use streamjob_core::config::MessageFormat;
use streamjob_core::decode::{Decoder, Metadata, Payload};
use streamjob_core::journal::{EncodedRecord, Origin, RecordEncoder};
use streamjob_core::{Error, Result};
use tokio::sync::oneshot;

use crate::schemas::Schemas;
use crate::sequencer::Sequencer;
use crate::shared::{Gate, Shared, now_us};
use crate::telemetry::{Ingest, Trace};

/// Messages of one batch.
pub const MAX_PUSH_MESSAGES: usize = 8192;
/// Bytes of the messages of one batch, but for its first.
pub const MAX_PUSH_BYTES: usize = 4 << 20;
/// A message is at most this long, whatever `ingest.maxBody` says; a longer one is rejected.
const MAX_MESSAGE_BYTES: usize = 128 << 20;
/// Batches above this are decoded with the runtime told that it takes a while.
const LONG_BATCH_BYTES: usize = 1 << 20;
/// A full disk is tried again after this.
const FULL_LOOK: Duration = Duration::from_millis(100);

/// One source's way into the job.
pub struct PushSource {
    shared: Arc<Shared>,
    sequencer: Arc<Sequencer>,
    name: Arc<str>,
    decoder: Decoder,
    encoder: RecordEncoder,
    schemas: Schemas,
    /// Bytes of messages since the process started, for the metrics.
    pub bytes: Arc<AtomicU64>,
}

/// Rows that have their place in the journal.
#[derive(Debug)]
pub struct Receipt {
    durable: oneshot::Receiver<()>,
}

impl Receipt {
    /// Waits until the rows are as durable as the job wants it. False: the journal failed, and the process ends.
    pub async fn durable(self) -> bool {
        self.durable.await.is_ok()
    }
}

impl PushSource {
    /// The way of the source `name`, whose messages are written in `format` and bring values of the fields `metadata` beside. Reads the secrets that the format names.
    ///
    /// # Errors
    /// `user` for a schema, an address or a secret that is wrong.
    pub fn new(
        shared: &Arc<Shared>,
        sequencer: &Arc<Sequencer>,
        name: &str,
        metadata: &[&str],
        format: &MessageFormat,
    ) -> Result<PushSource> {
        let in_source = |error: Error| error.context(format!("the source {name}"));
        let config = &shared.plan.config;
        let decoder = Decoder::for_messages(&config.schema, metadata, config.time.max_ahead_us, format);
        Ok(PushSource {
            shared: shared.clone(),
            sequencer: sequencer.clone(),
            name: name.into(),
            decoder: decoder.map_err(in_source)?,
            encoder: RecordEncoder::new(),
            schemas: Schemas::of(format).map_err(in_source)?,
            bytes: Arc::default(),
        })
    }

    /// Waits until what earlier starts have journaled is with the workers. False: the process stops.
    pub async fn open(&self) -> bool {
        let mut gate = self.shared.gate.subscribe();
        let opened = gate.wait_for(|gate| *gate != Gate::Starting).await;
        opened.is_ok_and(|gate| *gate == Gate::Open)
    }

    /// Where the source goes on: the position of its newest durable rows, of this start or an earlier one, as JSON text.
    pub fn position(&self) -> Option<String> {
        self.sequencer.position(&self.name)
    }

    /// Brings messages, one row each, and with them the position behind the last, as JSON text. Returns once the rows have
    /// their place; `None`: the process stops, and nothing was taken.
    ///
    /// `messages`: at most [`MAX_PUSH_MESSAGES`], of [`MAX_PUSH_BYTES`] together but for the first. Without any, the position
    /// alone is kept. `metadata`: of each message what [`PushSource::new`] was told that it has.
    ///
    /// # Errors
    /// `user` for a position that is too long.
    pub async fn push(
        &mut self,
        messages: &[Bytes],
        metadata: &[Metadata<'_>],
        position: Option<String>,
    ) -> Result<Option<Receipt>> {
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            () = shared.closed() => Ok(None),
            // nothing is awaited behind the append: it is done and told, or not done
            receipt = self.bring(messages, metadata, position) => receipt.map(Some),
        }
    }

    async fn bring(&mut self, messages: &[Bytes], metadata: &[Metadata<'_>], position: Option<String>) -> Result<Receipt> {
        let ingest = self.shared.traces.begin(None);
        let trace = ingest.as_ref().map(Ingest::trace);
        let parsing = trace.map(|trace| trace.span("parse"));
        let batch = Arc::new(self.decode(messages, metadata).await?);
        let origin = Origin { source: self.name.to_string(), position };
        let mut record = self.encoder.encode_from(origin, &batch)?;
        drop(parsing);
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        let receipt = self.append(&mut record, batch, trace).await;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(receipt)
    }

    /// Decodes messages; schemas of a registry are waited for as long as that takes.
    async fn decode(&mut self, messages: &[Bytes], metadata: &[Metadata<'_>]) -> Result<RowBatch> {
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        if messages.len() > MAX_PUSH_MESSAGES || bytes - messages.first().map_or(0, Bytes::len) > MAX_PUSH_BYTES {
            return Err(Error::engine(format!("the source {} brought {} messages at once", self.name, messages.len())));
        }
        let longest = (self.shared.plan.config.ingest.max_body_bytes as usize).min(MAX_MESSAGE_BYTES);
        let clock_us = now_us();
        let fitting = messages.iter().map(|message| Some(&message[..]).filter(|bytes| bytes.len() <= longest));
        let payload = |(number, bytes)| Payload { relative_offset: number as u32, bytes, clock_us };
        let payloads: Vec<Payload> = fitting.enumerate().map(payload).collect();
        // a record covers an offset, also one that has a position alone
        let span = payloads.len().max(1) as u64;
        let mut batch = loop {
            let (schemas, decoder) = (&self.schemas, &mut self.decoder);
            let decoded = match bytes > LONG_BATCH_BYTES {
                true => tokio::task::block_in_place(|| schemas.decode(decoder, &payloads, metadata, span)),
                false => schemas.decode(decoder, &payloads, metadata, span),
            };
            match decoded {
                Some(batch) => break batch,
                None => schemas.arrival().await,
            }
        };
        say_too_long(&mut batch, messages, longest);
        batch.source = Some(self.name.clone());
        Ok(batch)
    }

    /// Gives the rows their place. A full disk is waited for; meanwhile `/ingest` refuses. So is a journal that takes nothing for
    /// another reason, such as too many open files.
    async fn append(&self, record: &mut EncodedRecord, batch: Arc<RowBatch>, trace: Option<&Arc<Trace>>) -> Receipt {
        let mut waiting: Option<WaitsForRoom<'_>> = None;
        let mut said = false;
        loop {
            while waiting.is_none() && self.shared.is_disk_full() {
                tokio::time::sleep(FULL_LOOK).await;
            }
            let credits = self.shared.credits.take(batch.rows(), batch.memory_bytes()).await;
            match self.sequencer.append(record, batch.clone(), credits, None, trace) {
                Ok(place) => return Receipt { durable: place.durable },
                Err(error) if error.is_disk_full() => {
                    waiting = waiting.or_else(|| Some(WaitsForRoom::new(&self.shared, &error)));
                }
                // Where the process stops, or the journal has failed for good, the gate is closed, which ends this.
                Err(error) => {
                    if !self.shared.is_stopping() && !std::mem::replace(&mut said, true) {
                        tracing::warn!(source = &*self.name, "the journal takes no rows, which are tried again: {error}");
                    }
                }
            }
            tokio::time::sleep(FULL_LOOK).await;
        }
    }
}

/// Says of messages that were too long to be decoded why they are rejected, with their beginning.
fn say_too_long(batch: &mut RowBatch, messages: &[Bytes], longest: usize) {
    for reject in &mut batch.rejects {
        let message = messages.get(reject.relative_offset as usize).filter(|message| message.len() > longest);
        let Some(message) = message else { continue };
        reject.reason = format!("the message has {} bytes, at most {longest} are taken (ingest.maxBody)", message.len());
        let beginning = &message[..message.len().min(MAX_REJECTED_TEXT_BYTES)];
        reject.text = beginning.utf8_chunks().next().map_or(String::new(), |chunk| chunk.valid().to_owned());
    }
}

/// As long as it lives the process says that its disk is full.
struct WaitsForRoom<'a>(&'a Shared);

impl<'a> WaitsForRoom<'a> {
    fn new(shared: &'a Shared, error: &Error) -> WaitsForRoom<'a> {
        shared.waits_for_room(error);
        WaitsForRoom(shared)
    }
}

impl Drop for WaitsForRoom<'_> {
    fn drop(&mut self) {
        self.0.has_room();
    }
}
