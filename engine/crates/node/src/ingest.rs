//! `POST /ingest`: from a request's body to durable rows and an answer.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use parking_lot::Mutex;
use streamjob_core::batch::{RowBatch, hash_key, shard_of};
use streamjob_core::decode::Decoder;
use streamjob_core::idempotency::{answer_of, answer_status, answer_text};
use streamjob_core::journal::{EncodedRecord, MAX_REQUEST_ERRORS, RecordEncoder, RequestError, RequestRecord};
use streamjob_core::json;
use streamjob_core::shard::{RequestCommit, request_key};
use streamjob_core::store::ShardStore;
use streamjob_core::{Error, Result};

use crate::body::{Broken, SILENCE, collect, inflate};
use crate::formats::{Format, Formats, Undecoded};
use crate::idempotency::{Begin, Ticket};
use crate::inbox::BodyShare;
use crate::sequencer::{Keyed, Sequencer};
use crate::shared::{Gate, Shared, blocking, now_us};
use crate::telemetry::{Ingest as Traced, Trace};
use crate::together::{Together, thread_number};

/// An `Idempotency-Key` is at most this long.
const MAX_KEY_BYTES: usize = 255;
/// A body above this is decoded with the runtime told that it takes a while.
const LONG_BODY_BYTES: usize = 1 << 20;
/// What a client that met full queues should wait.
const RETRY_AFTER_S: u64 = 1;

/// Everything that an ingest request needs.
pub struct Ingest {
    pub shared: Arc<Shared>,
    pub sequencer: Arc<Sequencer>,
    /// Single rows that come at the same time.
    pub together: Together,
    formats: Formats,
    codecs: [CodecPool; CODEC_POOLS],
}

/// Threads find codecs in pools of their own, so that they rarely wait for each other.
const CODEC_POOLS: usize = 4;

#[derive(Default)]
#[repr(align(128))]
struct CodecPool {
    codecs: Mutex<Vec<Codec>>,
}

/// A decoder and an encoder with what they have learnt; as many as requests ran at once.
struct Codec {
    decoder: Decoder,
    encoder: RecordEncoder,
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// A decoded request, ready for the journal.
struct Decoded {
    /// What is kept of it; its id is empty where the client named none.
    request: RequestRecord,
    /// `None` where there is nothing to keep.
    rows: Option<(Arc<RowBatch>, EncodedRecord)>,
}

/// A request's id, and that it is the first to run under it.
struct Id {
    id: String,
    body_hash: u64,
    received_us: i64,
    ticket: Ticket,
}

/// Status and body of an answer.
#[derive(Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    pub retry_after_s: Option<u64>,
}

impl Answer {
    /// A problem, for a person.
    pub fn problem(status: StatusCode, reason: &str) -> Answer {
        let mut body = b"{\"error\":".to_vec();
        json::write_string(&mut body, reason.as_bytes());
        body.push(b'}');
        Answer { status, body: body.into(), retry_after_s: None }
    }

    /// The client should send it again in a while.
    fn wait(reason: &str) -> Answer {
        Answer { retry_after_s: Some(RETRY_AFTER_S), ..Answer::problem(StatusCode::TOO_MANY_REQUESTS, reason) }
    }

    fn new(status: u16, body: String) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED), body: body.into(), retry_after_s: None }
    }

    fn first(request: &RequestRecord) -> Answer {
        Answer::new(answer_status(request), answer_text(request))
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl Ingest {
    pub fn new(shared: Arc<Shared>, sequencer: Arc<Sequencer>, formats: Formats) -> Ingest {
        Ingest { shared, sequencer, together: Together::default(), formats, codecs: Default::default() }
    }

    /// Answers one request.
    pub async fn handle(self: &Arc<Self>, headers: &HeaderMap, body: &mut Incoming) -> Answer {
        let began = Instant::now();
        match self.take(headers, body).await {
            Ok(answer) => {
                // Rows that share a record are refused together, too, and then nothing of them became durable.
                if matches!(answer.status, StatusCode::ACCEPTED | StatusCode::BAD_REQUEST) {
                    self.shared.metrics.ingest_duration.record(began.elapsed().as_secs_f64());
                }
                answer
            }
            Err(answer) => answer,
        }
    }

    async fn take(self: &Arc<Self>, headers: &HeaderMap, body: &mut Incoming) -> std::result::Result<Answer, Answer> {
        self.wait_for_gate().await?;
        let (format, encoding) = (Format::of(headers)?, encoding_of(headers)?);
        let key = key_of(headers)?;
        let traceparent = headers.get("traceparent").map(http::HeaderValue::as_bytes);
        let mut ingest = self.shared.traces.begin(traceparent);
        let (mut body, mut _share) = self.read(body, format, encoding).await?;
        if let Some(ingest) = &mut ingest {
            ingest.note("streamjob.body_bytes", body.len() as i64);
        }
        if ingest.is_none() && key.is_none() && format.is_text() {
            match Together::run(self, format, body, _share).await {
                Ok(answer) => return Ok(answer),
                Err(alone) => (body, _share) = alone,
            }
        }
        let trace = ingest.as_ref().map(Traced::trace);
        match key {
            None => self.run(format, body, None, trace).await,
            Some(key) => self.run_once(format, body, key, trace).await,
        }
    }

    /// Waits while journals of earlier starts are replayed: they may hold the first of a repeat.
    async fn wait_for_gate(&self) -> std::result::Result<(), Answer> {
        if self.shared.is_open() && !self.shared.is_disk_full() && !self.shared.is_stopping() {
            return Ok(());
        }
        let gate = *self.shared.gate.borrow();
        let gate = match gate {
            Gate::Starting => {
                let mut changes = self.shared.gate.subscribe();
                let opened = changes.wait_for(|gate| *gate != Gate::Starting);
                match tokio::time::timeout(self.max_wait(), opened).await {
                    Ok(Ok(gate)) => *gate,
                    _ => Gate::Starting,
                }
            }
            known => known,
        };
        let reason = match gate {
            _ if self.shared.is_disk_full() => "the disk is full; free space, then send it again",
            Gate::Open if !self.shared.is_stopping() => return Ok(()),
            Gate::Starting => "the process is starting; send it again later",
            Gate::Open | Gate::Closed => "the process is stopping; send it again later",
        };
        Err(Answer { retry_after_s: Some(RETRY_AFTER_S), ..Answer::problem(StatusCode::SERVICE_UNAVAILABLE, reason) })
    }

    fn max_wait(&self) -> Duration {
        Duration::from_micros(self.shared.plan.config.ingest.max_wait_us.max(0) as u64)
    }

    /// Waits for something bounded, as long as `ingest.maxWait` and not beyond the end of the process.
    async fn bounded<T>(&self, something: impl Future<Output = T>) -> std::result::Result<T, Answer> {
        let mut gate = self.shared.gate.subscribe();
        tokio::select! {
            biased;
            thing = something => Ok(thing),
            _ = gate.wait_for(|gate| *gate == Gate::Closed) => {
                Err(Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping; send it again later"))
            }
            () = tokio::time::sleep(self.max_wait()) => Err(Answer::wait("the queues are full; send it again later")),
        }
    }

    async fn read(
        &self,
        body: &mut Incoming,
        format: Format,
        encoding: Encoding,
    ) -> std::result::Result<(Bytes, BodyShare), Answer> {
        let limit = self.shared.plan.config.ingest.max_body_bytes as usize;
        let too_large = || {
            Answer::problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the body is above ingest.maxBody ({limit} bytes); send it in parts"),
            )
        };
        let announced = body.size_hint().exact();
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let compressed = !matches!(encoding, Encoding::Identity);
        let mut share = match self.shared.bodies.try_take(announced, compressed) {
            Some(share) => share,
            None => self.bounded(self.shared.bodies.take(announced, compressed)).await?,
        };
        let raw = match collect(body, limit, &self.shared.bodies, &mut share).await {
            Ok(raw) => raw,
            Err(Broken::TooLong) => return Err(too_large()),
            Err(Broken::NoRoom) => return Err(Answer::wait("too many bodies are being read; send it again later")),
            Err(Broken::Silent) => {
                let text = format!("nothing of the body came for {SILENCE:?}; send it again");
                return Err(Answer::problem(StatusCode::REQUEST_TIMEOUT, &text));
            }
            Err(Broken::Off(error)) => {
                return Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")));
            }
        };
        let raw = match encoding {
            Encoding::Identity => raw,
            Encoding::Gzip => inflate(flate2::read::MultiGzDecoder::new(&raw[..]), limit, too_large)?,
            Encoding::Zstd => match zstd::stream::read::Decoder::new(&raw[..]) {
                Ok(decoder) => inflate(decoder, limit, too_large)?,
                Err(error) => return Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("not zstd: {error}"))),
            },
        };
        if compressed && !self.shared.bodies.grow(&mut share, raw.len()) {
            return Err(Answer::wait("too many bodies are being read; send it again later"));
        }
        let is_empty = match format.is_text() {
            true => raw.iter().all(u8::is_ascii_whitespace),
            false => raw.is_empty(),
        };
        match is_empty {
            false => Ok((raw, share)),
            true => {
                Err(Answer::problem(StatusCode::BAD_REQUEST, "the body is empty; send a JSON object, an array or lines of JSON"))
            }
        }
    }

    /// A request with an id: the same id and body get the first answer, whatever happened in between (I10).
    async fn run_once(
        &self,
        format: Format,
        body: Bytes,
        id: String,
        trace: Option<&Arc<Trace>>,
    ) -> std::result::Result<Answer, Answer> {
        let body_hash = hash_key(&body);
        let received_us = now_us();
        let begin = self.shared.requests.begin(&id, body_hash, received_us, || self.stored(&id)).await;
        match begin.map_err(|error| Answer::problem(StatusCode::SERVICE_UNAVAILABLE, error.message()))? {
            Begin::New(ticket) => self.run(format, body, Some(Id { id, body_hash, received_us, ticket }), trace).await,
            Begin::Answered(answer) => Ok(Answer::new(answer.status, answer.answer.clone())),
            Begin::Conflict => Err(Answer::problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key came with another body before; use a new key",
            )),
            Begin::Full => {
                Err(Answer::wait("too many requests with an Idempotency-Key wait for their commit; send it again later"))
            }
        }
    }

    /// What the store of the id's home shard has under it.
    async fn stored(&self, id: &str) -> Result<Option<RequestCommit>> {
        let home = shard_of(hash_key(id.as_bytes()), self.shared.plan.config.shards);
        let store = self.shared.stores.get(home)?.clone();
        let key = request_key(id);
        let Some(bytes) = blocking(&self.shared, move || store.get(&key)).await? else { return Ok(None) };
        let stored = serde_json::from_slice(&bytes);
        stored.map(Some).map_err(|error| Error::damaged(format!("a stored answer is damaged: {error}")))
    }

    async fn run(
        &self,
        format: Format,
        body: Bytes,
        id: Option<Id>,
        trace: Option<&Arc<Trace>>,
    ) -> std::result::Result<Answer, Answer> {
        let (request, ticket) = match id {
            Some(Id { id, body_hash, received_us, ticket }) => (new_record(id, body_hash, received_us), Some(ticket)),
            None => (new_record(String::new(), 0, now_us()), None),
        };
        let parsing = trace.map(|trace| trace.span("parse"));
        let decoded = loop {
            let decoded = if body.len() > LONG_BODY_BYTES {
                tokio::task::block_in_place(|| self.decode(format, &body, &request))
            } else {
                self.decode(format, &body, &request)
            };
            match decoded {
                Ok(decoded) => break decoded,
                Err(Undecoded::Refused(answer)) => return Err(answer),
                // each turn knows one schema more, of which a body has a bounded number
                Err(Undecoded::Wanted(schema)) => self.fetch(schema).await?,
            }
        };
        drop(parsing);
        drop(body);
        let request = decoded.request;
        let Some((batch, record)) = decoded.rows else { return Ok(Answer::first(&request)) };
        self.keep(&request, ticket, batch, record, trace).await?;
        Ok(Answer::first(&request))
    }

    /// Brings a request's rows to the workers, and returns once they are durable.
    async fn keep(
        &self,
        request: &RequestRecord,
        ticket: Option<Ticket>,
        batch: Arc<RowBatch>,
        mut record: EncodedRecord,
        trace: Option<&Arc<Trace>>,
    ) -> std::result::Result<(), Answer> {
        let split = &self.shared.splits[usize::from(self.sequencer.split())].id;
        let (rows, bytes) = (batch.rows(), batch.memory_bytes());
        let credits = match self.shared.credits.try_take(rows, bytes) {
            Some(credits) => credits,
            None => self.bounded(self.shared.credits.take(rows, bytes)).await?,
        };
        let commit = |first_offset| answer_of(request, split, first_offset);
        let keyed = ticket.map(|ticket| Keyed { ticket, commit: &commit });
        let place = self.sequencer.append(&mut record, batch, credits, keyed, trace).map_err(|error| Answer {
            retry_after_s: Some(RETRY_AFTER_S),
            ..Answer::problem(StatusCode::SERVICE_UNAVAILABLE, error.message())
        })?;
        place.durable.await.map_err(|_| {
            Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the journal failed; whether the rows were kept is not known")
        })?;
        Ok(())
    }

    /// Single rows, one a line, as one batch; the answer is that of each of them. `None`, and nothing done, where one is
    /// rejected.
    pub async fn run_lines(&self, lines: &[u8], rows: usize) -> Option<std::result::Result<Answer, Answer>> {
        let mut one = new_record(String::new(), 0, now_us());
        let (batch, record) = {
            let mut codec = self.codec().ok()?;
            let batch = codec.decoder.decode_lines(lines, one.received_us).ok();
            let batch = batch.filter(|batch| batch.rejects.is_empty() && batch.rows() == rows);
            let record = batch.as_ref().and_then(|batch| codec.encoder.encode(batch, None).ok());
            self.give_back(codec);
            (Arc::new(batch?), record?)
        };
        one.accepted = 1;
        Some(self.keep(&one, None, batch, record, None).await.map(|()| Answer::first(&one)))
    }

    /// A request without an id, by itself.
    pub async fn run_alone(&self, format: Format, body: Bytes) -> Answer {
        match self.run(format, body, None, None).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    /// Waits for a schema of the registry, as long as a request may wait.
    async fn fetch(&self, schema: u32) -> std::result::Result<(), Answer> {
        match self.bounded(self.formats.fetch(schema)).await {
            Ok(fetched) => fetched,
            Err(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => Err(Answer {
                retry_after_s: Some(RETRY_AFTER_S),
                ..Answer::problem(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the schema registry cannot be reached within ingest.maxWait; send it again later",
                )
            }),
            Err(answer) => Err(answer),
        }
    }

    fn decode(&self, format: Format, body: &[u8], request: &RequestRecord) -> std::result::Result<Decoded, Undecoded> {
        let mut request = request.clone();
        let mut codec = self.codec().map_err(|error| Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, error.message()))?;
        let limit = self.shared.plan.config.ingest.max_body_bytes as usize;
        let decoded = self.formats.decode(format, &mut codec.decoder, body, limit, request.received_us);
        let mut batch = match decoded {
            Ok(batch) => batch,
            Err(undecoded) => {
                self.give_back(codec);
                return Err(undecoded);
            }
        };
        request.accepted = batch.rows() as u32;
        request.rejected = batch.rejects.len() as u32;
        request.errors = batch
            .rejects
            .iter()
            .take(MAX_REQUEST_ERRORS)
            .map(|reject| RequestError { row: reject.row, field: reject.field.clone(), reason: reject.reason.clone() })
            .collect();
        let named = Some(&request).filter(|request| !request.id.is_empty());
        if batch.span == 0 && named.is_some() {
            // Nothing but its id is kept.
            batch.span = 1;
        }
        if batch.span == 0 {
            self.give_back(codec);
            return Ok(Decoded { request, rows: None });
        }
        let record = codec
            .encoder
            .encode(&batch, named)
            .map_err(|error| Answer::problem(StatusCode::PAYLOAD_TOO_LARGE, error.message()))?;
        self.give_back(codec);
        Ok(Decoded { request, rows: Some((Arc::new(batch), record)) })
    }

    fn codec(&self) -> Result<Codec> {
        if let Some(codec) = self.codecs[thread_number() % CODEC_POOLS].codecs.lock().pop() {
            return Ok(codec);
        }
        Ok(Codec { decoder: self.formats.decoder(&self.shared.plan)?, encoder: RecordEncoder::new() })
    }

    fn give_back(&self, codec: Codec) {
        self.codecs[thread_number() % CODEC_POOLS].codecs.lock().push(codec);
    }
}

fn new_record(id: String, body_hash: u64, received_us: i64) -> RequestRecord {
    RequestRecord { id, body_hash, received_us, accepted: 0, rejected: 0, errors: Vec::new() }
}

fn encoding_of(headers: &HeaderMap) -> std::result::Result<Encoding, Answer> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
    match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "identity" | "" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        other => Err(Answer::problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &format!("Content-Encoding {other} is not read; send gzip, zstd or none"),
        )),
    }
}

fn key_of(headers: &HeaderMap) -> std::result::Result<Option<String>, Answer> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key.to_owned())),
        _ => Err(Answer::problem(
            StatusCode::BAD_REQUEST,
            &format!("an Idempotency-Key has 1 to {MAX_KEY_BYTES} visible ASCII characters"),
        )),
    }
}
