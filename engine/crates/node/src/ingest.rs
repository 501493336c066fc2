//! `POST /ingest`: from a request's body to durable rows and an answer.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use parking_lot::Mutex;
use streamjob_core::batch::{RowBatch, hash_key, shard_of};
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::journal::{EncodedRecord, RecordEncoder, RequestError, RequestRecord};
use streamjob_core::json;
use streamjob_core::shard::{RequestCommit, request_key};
use streamjob_core::{Error, Result};

use crate::idempotency::{Begin, Ticket};
use crate::sequencer::Sequencer;
use crate::shared::{Shared, now_us};

/// Errors that an answer lists.
const MAX_LISTED_ERRORS: usize = 100;
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
    codecs: Mutex<Vec<Codec>>,
}

/// A decoder and an encoder with what they have learnt; as many as requests ran at once.
struct Codec {
    decoder: Decoder,
    encoder: RecordEncoder,
}

/// How a body is to be read.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Ndjson,
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// A decoded request, ready for the journal.
struct Decoded {
    batch: Arc<RowBatch>,
    record: EncodedRecord,
    request: Option<RequestRecord>,
    answer: Answer,
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
    pub fn new(shared: Arc<Shared>, sequencer: Arc<Sequencer>) -> Ingest {
        Ingest { shared, sequencer, codecs: Mutex::new(Vec::new()) }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Answer {
        match self.take(request).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    async fn take(&self, request: Request<Incoming>) -> std::result::Result<Answer, Answer> {
        if self.shared.is_stopping() {
            return Err(Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping; send it again later"));
        }
        let (format, encoding) = (format_of(request.headers())?, encoding_of(request.headers())?);
        let key = key_of(request.headers())?;
        let body = self.read(request.into_body(), encoding).await?;
        match key {
            None => self.run(format, body, None).await,
            Some(key) => self.run_once(format, body, key).await,
        }
    }

    async fn read(&self, body: Incoming, encoding: Encoding) -> std::result::Result<Bytes, Answer> {
        let limit = self.shared.plan.config.ingest.max_body_bytes as usize;
        let too_large = || {
            Answer::problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the body is above ingest.maxBody ({limit} bytes); send it in parts"),
            )
        };
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let raw = match Limited::new(body, limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
            Err(error) => return Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}"))),
        };
        let raw = match encoding {
            Encoding::Identity => raw,
            Encoding::Gzip => inflate(flate2::read::MultiGzDecoder::new(&raw[..]), limit, too_large)?,
            Encoding::Zstd => match zstd::stream::read::Decoder::new(&raw[..]) {
                Ok(decoder) => inflate(decoder, limit, too_large)?,
                Err(error) => return Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("not zstd: {error}"))),
            },
        };
        match raw.iter().any(|byte| !byte.is_ascii_whitespace()) {
            true => Ok(raw),
            false => {
                Err(Answer::problem(StatusCode::BAD_REQUEST, "the body is empty; send a JSON object, an array or lines of JSON"))
            }
        }
    }

    /// A request with an id: the same id and body get the first answer, whatever happened in between (I10).
    async fn run_once(&self, format: Format, body: Bytes, key: String) -> std::result::Result<Answer, Answer> {
        let body_hash = hash_key(&body);
        loop {
            if let Some(stored) = self.stored(&key).await? {
                return replay(&stored, body_hash);
            }
            match self.shared.requests.begin(&key, body_hash) {
                Begin::New(ticket) => return self.run(format, body, Some((key, body_hash, ticket))).await,
                Begin::Answered(answer) => return replay(&answer, body_hash),
                Begin::Wait(mut done) => {
                    // An error is the end of the first: it has answered, or failed and left its place.
                    let _ = done.changed().await;
                }
                Begin::Conflict => return Err(conflict()),
            }
        }
    }

    async fn stored(&self, key: &str) -> std::result::Result<Option<RequestCommit>, Answer> {
        let home = shard_of(hash_key(key.as_bytes()), self.shared.plan.config.shards);
        let store = self.shared.stores[usize::from(home)].clone();
        let key = request_key(key);
        let found = tokio::task::spawn_blocking(move || store.get(&key)).await;
        let found = found.map_err(|error| Error::engine(error.to_string())).and_then(|found| found);
        let found = found.map_err(|error| Answer::problem(StatusCode::SERVICE_UNAVAILABLE, error.message()))?;
        let Some(bytes) = found else { return Ok(None) };
        let retention_us = self.shared.plan.config.idempotency.retention_us;
        let stored: RequestCommit = serde_json::from_slice(&bytes).map_err(|error| {
            Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("a stored answer is damaged: {error}"))
        })?;
        Ok(Some(stored).filter(|stored| stored.received_us.saturating_add(retention_us) > now_us()))
    }

    async fn run(
        &self,
        format: Format,
        body: Bytes,
        keyed: Option<(String, u64, Ticket)>,
    ) -> std::result::Result<Answer, Answer> {
        let (request, ticket) = match keyed {
            Some((id, body_hash, ticket)) => (Some((id, body_hash)), Some(ticket)),
            None => (None, None),
        };
        let decoded = if body.len() > LONG_BODY_BYTES {
            tokio::task::block_in_place(|| self.decode(format, &body, request))
        } else {
            self.decode(format, &body, request)
        }?;
        drop(body);
        if decoded.batch.span == 0 {
            return Ok(decoded.answer);
        }
        let max_wait = Duration::from_micros(self.shared.plan.config.ingest.max_wait_us.max(0) as u64);
        let credits = self.shared.credits.take(decoded.batch.rows(), decoded.batch.memory_bytes());
        let Ok(credits) = tokio::time::timeout(max_wait, credits).await else {
            let mut answer = Answer::problem(StatusCode::TOO_MANY_REQUESTS, "the queues are full; send it again later");
            answer.retry_after_s = Some(RETRY_AFTER_S);
            return Err(answer);
        };
        let mut commit = None;
        let place = self
            .sequencer
            .append(decoded.record, decoded.batch, credits, |first_offset| {
                commit = decoded.request.map(|request| Arc::new(self.commit_of(&request, &decoded.answer, first_offset)));
                commit.clone()
            })
            .map_err(|full| Answer::problem(StatusCode::SERVICE_UNAVAILABLE, full.error.message()))?;
        if let Some(durable) = place.durable {
            durable.await.map_err(|_| {
                Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the journal failed; whether the rows were kept is not known")
            })?;
        }
        if let (Some(ticket), Some(commit)) = (ticket, commit) {
            ticket.answer(commit);
        }
        Ok(decoded.answer)
    }

    fn commit_of(&self, request: &RequestRecord, answer: &Answer, first_offset: u64) -> RequestCommit {
        request_commit(request, &self.shared.splits[usize::from(self.sequencer.split())].id, first_offset, answer)
    }

    fn decode(&self, format: Format, body: &[u8], request: Option<(String, u64)>) -> std::result::Result<Decoded, Answer> {
        let mut codec = self.codec().map_err(|error| Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, error.message()))?;
        let now_us = now_us();
        let batch = match format {
            Format::Ndjson => codec.decoder.decode_ndjson(body, now_us, Positions::Ordinal),
            Format::Json => codec.decoder.decode_json(body, now_us).map_err(|error| {
                Answer::problem(
                    StatusCode::BAD_REQUEST,
                    &format!("the body is not JSON: {error}; lines of JSON need Content-Type: application/x-ndjson"),
                )
            })?,
        };
        let (accepted, rejected) = (batch.rows() as u32, batch.rejects.len() as u32);
        let errors: Vec<RequestError> = batch
            .rejects
            .iter()
            .take(MAX_LISTED_ERRORS)
            .map(|reject| RequestError { row: reject.row, field: reject.field.clone(), reason: reject.reason.clone() })
            .collect();
        let answer = answer_of(accepted, rejected, &errors);
        let request =
            request.map(|(id, body_hash)| RequestRecord { id, body_hash, received_us: now_us, accepted, rejected, errors });
        let record = codec
            .encoder
            .encode(&batch, request.as_ref())
            .map_err(|error| Answer::problem(StatusCode::PAYLOAD_TOO_LARGE, error.message()))?;
        self.codecs.lock().push(codec);
        Ok(Decoded { batch: Arc::new(batch), record, request, answer })
    }

    fn codec(&self) -> Result<Codec> {
        if let Some(codec) = self.codecs.lock().pop() {
            return Ok(codec);
        }
        let config = &self.shared.plan.config;
        let decoder = Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)?;
        Ok(Codec { decoder, encoder: RecordEncoder::new() })
    }
}

/// The answer to a request: 202 if a row was accepted or none came, else 400.
pub fn answer_of(accepted: u32, rejected: u32, errors: &[RequestError]) -> Answer {
    let mut body = Vec::with_capacity(48);
    body.extend_from_slice(b"{\"accepted\":");
    json::write_u64(&mut body, u64::from(accepted));
    body.extend_from_slice(b",\"rejected\":");
    json::write_u64(&mut body, u64::from(rejected));
    body.extend_from_slice(b",\"errors\":[");
    for (number, error) in errors.iter().enumerate() {
        body.extend_from_slice(if number == 0 { b"{\"row\":" } else { b",{\"row\":" });
        json::write_u64(&mut body, u64::from(error.row));
        body.extend_from_slice(b",\"field\":");
        json::write_string(&mut body, error.field.as_bytes());
        body.extend_from_slice(b",\"reason\":");
        json::write_string(&mut body, error.reason.as_bytes());
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    let status = if accepted == 0 && rejected > 0 { StatusCode::BAD_REQUEST } else { StatusCode::ACCEPTED };
    Answer { status, body: body.into(), retry_after_s: None }
}

/// What is committed of a request with an id.
pub fn request_commit(request: &RequestRecord, split: &str, first_offset: u64, answer: &Answer) -> RequestCommit {
    RequestCommit {
        id: request.id.clone(),
        body_hash: request.body_hash,
        split: split.to_owned(),
        first_offset,
        received_us: request.received_us,
        status: answer.status.as_u16(),
        answer: String::from_utf8_lossy(&answer.body).into_owned(),
    }
}

fn replay(stored: &RequestCommit, body_hash: u64) -> std::result::Result<Answer, Answer> {
    if stored.body_hash != body_hash {
        return Err(conflict());
    }
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::ACCEPTED);
    Ok(Answer { status, body: Bytes::from(stored.answer.clone()), retry_after_s: None })
}

fn conflict() -> Answer {
    Answer::problem(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key came with another body before; use a new key")
}

fn format_of(headers: &HeaderMap) -> std::result::Result<Format, Answer> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let text = value.to_str().unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Format::Json),
        "application/x-ndjson" => Ok(Format::Ndjson),
        _ => Err(Answer::problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &format!("Content-Type {text} is not read; send application/json or application/x-ndjson"),
        )),
    }
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

fn inflate(decoder: impl Read, limit: usize, too_large: impl Fn() -> Answer) -> std::result::Result<Bytes, Answer> {
    let mut body = Vec::new();
    match decoder.take(limit as u64 + 1).read_to_end(&mut body) {
        Ok(_) if body.len() > limit => Err(too_large()),
        Ok(_) => Ok(body.into()),
        Err(error) => Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("the compressed body is damaged: {error}"))),
    }
}
