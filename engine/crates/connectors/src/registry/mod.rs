//! A client of a schema registry that speaks the Confluent protocol: schemas by their numbers, fetched once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;
use streamjob_core::config::{RegistryAuth, RegistryConfig};
use streamjob_core::{Error, Result};
use tokio::time::{Instant, timeout_at};

use crate::backoff::Backoff;
use crate::http_client::{connector, explain_chain, parse_url, quote, read_answer};
use crate::secret::Secret;
use crate::webhook::{CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// Schemas that are kept; where one more comes all are forgotten and fetched again as they are wanted.
pub const MAX_CACHED_SCHEMAS: usize = 4096;
/// The longest answer: a schema as a text within JSON.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;
/// A registry that says it has no such schema is asked this often: one of several servers may lag behind.
pub const MISSING_TRIES: u32 = 2;

/// How tries are spaced while the registry cannot be reached.
pub const RETRY: Backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.5 };

const ACCEPT: &str = "application/vnd.schemaregistry.v1+json, application/json";
const MEMBER: &str = "registry.url";

/// What a registry says about a number, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The text of the Avro schema.
    Schema(Arc<str>),
    /// There is none that could be read, and why.
    Missing(String),
}

/// A registry with a pool of connections and what it has said. Shared by reference.
#[derive(Debug)]
pub struct Registry {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    base: String,
    server: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    known: Mutex<HashMap<u32, Arc<str>>>,
}

/// What one request came to.
enum Answer {
    Schema(Arc<str>),
    Missing(String),
}

#[derive(Deserialize)]
struct Entry {
    schema: String,
    /// Avro where it is left out.
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

impl Registry {
    /// Checks the configuration and reads its secrets; connects nowhere yet.
    ///
    /// # Errors
    /// `user`, naming the member that is wrong or the secret that is not there.
    pub fn new(config: &RegistryConfig) -> Result<Registry> {
        let uri = parse_url(&config.url, MEMBER, "http://registry:8081")?;
        let timeout = Duration::from_micros(u64::try_from(config.timeout_us).unwrap_or_default().max(1));
        let connector = connector(&uri, timeout.min(CONNECT_TIMEOUT), MEMBER)?;
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
        let server = format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |host| host.as_str()));
        let base = config.url.trim_end_matches('/').to_owned();
        let authorization = config.auth.as_ref().map(authorization).transpose()?;
        Ok(Registry { client, base, server, authorization, timeout, known: Mutex::default() })
    }

    /// The schema under a number. Waits, with tries in growing intervals, while the registry cannot be reached or refuses to
    /// answer; `random` gives numbers from 0 to 1. Drop the future to stop.
    pub async fn schema(&self, id: u32, mut random: impl FnMut() -> f64) -> Found {
        if let Some(known) = self.known(id) {
            return Found::Schema(known);
        }
        let (mut failures, mut missing) = (0, 0);
        loop {
            match self.ask(id).await {
                Ok(Answer::Schema(schema)) => {
                    self.keep(id, &schema);
                    return Found::Schema(schema);
                }
                Ok(Answer::Missing(reason)) if missing + 1 == MISSING_TRIES => return Found::Missing(reason),
                Ok(Answer::Missing(_)) => missing += 1,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(schema = id, "the schema registry gives no schema, it is asked again: {error}");
                    }
                    missing = 0;
                }
            }
            failures += 1;
            tokio::time::sleep(RETRY.delay(failures, random())).await;
        }
    }

    /// A schema that was fetched before.
    pub fn known(&self, id: u32) -> Option<Arc<str>> {
        self.known.lock().get(&id).cloned()
    }

    fn keep(&self, id: u32, schema: &Arc<str>) {
        let mut known = self.known.lock();
        if known.len() >= MAX_CACHED_SCHEMAS {
            known.clear();
        }
        known.insert(id, schema.clone());
    }

    /// Asks once. An error is one that may pass.
    async fn ask(&self, id: u32) -> Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        let outside = |reason: String| Error::outside(format!("{}: {reason}", self.server));
        let response = match timeout_at(deadline, self.client.request(self.request(id)?)).await {
            Err(_) => return Err(outside(format!("no answer within {:?}", self.timeout))),
            Ok(Err(error)) => return Err(outside(explain_chain(&error))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let mut answer = Vec::new();
        let read = timeout_at(deadline, read_answer(response.into_body(), MAX_ANSWER_BYTES, &mut answer)).await;
        match status {
            StatusCode::OK if read.is_err() => Err(outside(format!("no whole answer within {:?}", self.timeout))),
            StatusCode::OK => match serde_json::from_slice(&answer) {
                Ok(entry) => Ok(judge(id, entry)),
                Err(error) => Err(outside(format!("its answer for the schema {id} is not what a registry sends: {error}"))),
            },
            StatusCode::NOT_FOUND => Ok(Answer::Missing(format!("the registry {} has no schema {id}", self.server))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(outside(format!("it answered {status}; correct registry.username, password or token{}", quote(&answer))))
            }
            _ => Err(outside(format!("it answered {status}{}", quote(&answer)))),
        }
    }

    fn request(&self, id: u32) -> Result<Request<Empty<Bytes>>> {
        let uri: Uri =
            format!("{}/schemas/ids/{id}", self.base).parse().map_err(|_| Error::user(format!("{MEMBER} is no address")))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

fn judge(id: u32, entry: Entry) -> Answer {
    match entry.kind.as_deref() {
        None | Some("AVRO") if entry.references.is_empty() => Answer::Schema(entry.schema.into()),
        None | Some("AVRO") => {
            Answer::Missing(format!("the schema {id} refers to other schemas, which is not read; register it as a whole"))
        }
        Some(kind) => Answer::Missing(format!("the schema {id} is {kind}, not Avro")),
    }
}

fn authorization(auth: &RegistryAuth) -> Result<HeaderValue> {
    let text = match auth {
        RegistryAuth::Bearer(token) => format!("Bearer {}", Secret::read(token, "registry.token")?.expose()),
        RegistryAuth::Basic { username, password } => {
            let password = Secret::read(password, "registry.password")?;
            format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose())))
        }
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Error::user("registry.token: has characters that no header can hold; check where it is read from"))?;
    value.set_sensitive(true);
    Ok(value)
}
