//! Formats of requests' bodies: which one a request has, and how its rows are decoded.

use http::{HeaderMap, StatusCode, header};
use streamjob_connectors::registry::{Found, Registry};
use streamjob_core::Result;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::AvroConfig;
use streamjob_core::decode::{AvroBodyError, BodyError, Decoder};
use streamjob_core::plan::Plan;

use crate::ingest::Answer;
use crate::random::Random;

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Ndjson,
    Arrow,
    Avro,
}

/// Why a body gave no rows yet, or gives none at all.
pub enum Undecoded {
    Refused(Answer),
    /// The registry's schema with this number is wanted first.
    Wanted(u32),
}

impl From<Answer> for Undecoded {
    fn from(answer: Answer) -> Undecoded {
        Undecoded::Refused(answer)
    }
}

impl Format {
    /// By the `Content-Type`; JSON where there is none.
    pub fn of(headers: &HeaderMap) -> std::result::Result<Format, Answer> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
        let text = value.to_str().unwrap_or_default();
        match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Ok(Format::Json),
            "application/x-ndjson" => Ok(Format::Ndjson),
            "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => Ok(Format::Arrow),
            "application/avro" | "avro/binary" => Ok(Format::Avro),
            _ => Err(Answer::problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &format!(
                    "Content-Type {text} is not read; send application/json, application/x-ndjson, \
                     application/vnd.apache.arrow.stream or application/avro"
                ),
            )),
        }
    }

    /// Whether spaces and line breaks alone are no content.
    pub fn is_text(self) -> bool {
        matches!(self, Format::Json | Format::Ndjson)
    }
}

/// Why a body is refused as a whole.
fn bad(error: BodyError, unreadable: &str, hint: &str) -> Undecoded {
    let reason = error.explain(|error| format!("{unreadable}: {error}{hint}"));
    Undecoded::Refused(Answer::problem(StatusCode::BAD_REQUEST, &reason))
}

/// What the http source of a job reads.
pub struct Formats {
    avro: Option<AvroConfig>,
    registry: Option<Registry>,
    random: Random,
}

impl Formats {
    /// Reads the job's settings and the secrets that they name.
    ///
    /// # Errors
    /// `user` for a schema, an address or a secret that is wrong.
    pub fn new(plan: &Plan) -> Result<Formats> {
        let source = plan.config.sources.iter().find_map(|source| Some((source, source.http.as_ref()?.avro.clone()?)));
        let in_source = |error: streamjob_core::Error| match &source {
            Some((source, _)) => error.context(format!("the source {}", source.name)),
            None => error,
        };
        let registry = source.as_ref().and_then(|(_, avro)| avro.registry.as_ref());
        let registry = registry.map(Registry::new).transpose().map_err(in_source)?;
        let formats = Formats { avro: source.as_ref().map(|(_, avro)| avro.clone()), registry, random: Random::new() };
        formats.decoder(plan).map_err(in_source)?;
        Ok(formats)
    }

    /// A decoder of bodies.
    pub fn decoder(&self, plan: &Plan) -> Result<Decoder> {
        let config = &plan.config;
        let decoder = Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)?;
        match &self.avro {
            None => Ok(decoder),
            Some(avro) => decoder.with_avro(avro),
        }
    }

    /// The rows of a body; what is packed in it becomes at most `limit` bytes.
    pub fn decode(
        &self,
        format: Format,
        decoder: &mut Decoder,
        body: &[u8],
        limit: usize,
        now_us: i64,
    ) -> std::result::Result<RowBatch, Undecoded> {
        match format {
            Format::Ndjson => decoder.decode_lines(body, now_us).map_err(|error| bad(error, "the body is not lines of JSON", "")),
            Format::Json => decoder
                .decode_json(body, now_us)
                .map_err(|error| bad(error, "the body is not JSON", "; lines of JSON need Content-Type: application/x-ndjson")),
            Format::Arrow => decoder
                .decode_arrow(body, limit, now_us)
                .map_err(|error| bad(error, "the body is not Arrow IPC that can be read", "")),
            Format::Avro => self.decode_avro(decoder, body, limit, now_us),
        }
    }

    fn decode_avro(
        &self,
        decoder: &mut Decoder,
        body: &[u8],
        limit: usize,
        now_us: i64,
    ) -> std::result::Result<RowBatch, Undecoded> {
        loop {
            match decoder.decode_avro(body, limit, now_us) {
                Ok(batch) => return Ok(batch),
                Err(AvroBodyError::Wanted(wanted)) => {
                    for id in wanted.0 {
                        let known = self.registry.as_ref().and_then(|registry| registry.known(id));
                        decoder.learn(id, Ok(&known.ok_or(Undecoded::Wanted(id))?));
                    }
                }
                Err(AvroBodyError::Undeclared) => {
                    return Err(Undecoded::Refused(Answer::problem(
                        StatusCode::UNSUPPORTED_MEDIA_TYPE,
                        "Avro messages are not read here: the job's http source declares no avro; send an Avro object container",
                    )));
                }
                Err(AvroBodyError::Body(error)) => {
                    return Err(bad(error, "the body is not Avro of the job's schema", ""));
                }
            }
        }
    }

    /// Waits until the registry has said what is under a number.
    pub async fn fetch(&self, schema: u32) -> std::result::Result<(), Answer> {
        let Some(registry) = &self.registry else {
            return Err(Answer::problem(StatusCode::BAD_REQUEST, "the job has no schema registry"));
        };
        match registry.schema(schema, || self.random.next()).await {
            Found::Schema(_) => Ok(()),
            Found::Missing(reason) => Err(Answer::problem(StatusCode::BAD_REQUEST, &reason)),
        }
    }
}
