//! A client of a schema registry that speaks the Confluent protocol: schemas by their numbers, fetched once, each as a whole
//! with those that it refers to.

mod references;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
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

/// Schemas that one schema refers to, directly or through others.
pub const MAX_REFERENCES: usize = 256;

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

/// What a schema, or one that it refers to, came to.
enum Answer {
    Schema(Arc<str>),
    Missing(String),
}

/// What one request came to.
enum Entry {
    Found(Registered),
    NotFound,
    /// It is longer than [`MAX_ANSWER_BYTES`].
    TooLong,
}

#[derive(Deserialize)]
struct Registered {
    schema: String,
    /// Avro where it is left out.
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize, PartialEq, Eq, Hash, Clone)]
struct Reference {
    subject: String,
    version: i64,
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
        let (mut failures, mut errors, mut missing) = (0, 0u32, 0);
        loop {
            match self.ask(id).await {
                Ok(Answer::Schema(schema)) => {
                    self.keep(id, &schema);
                    return Found::Schema(schema);
                }
                Ok(Answer::Missing(reason)) if missing + 1 == MISSING_TRIES => return Found::Missing(reason),
                Ok(Answer::Missing(_)) => missing += 1,
                Err(error) => {
                    errors += 1;
                    if errors.is_power_of_two() {
                        tracing::warn!(schema = id, errors, "the schema registry gives no schema, it is asked again: {error}");
                    }
                    missing = 0;
                }
            }
            failures += 1;
            tokio::time::sleep(RETRY.delay(failures, random())).await;
        }
    }

    /// Asks once whether there is a registry that lets this client in, and says what is there.
    pub async fn try_once(&self) -> Result<String> {
        // No registry gives this number; that it answers so is what counts.
        match self.ask(0).await? {
            Answer::Schema(_) | Answer::Missing(_) => Ok(format!("the schema registry {} answers", self.server)),
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
        let what = format!("the schema {id}");
        let registered = match self.get(&format!("/schemas/ids/{id}"), &what).await? {
            Entry::NotFound => return Ok(Answer::Missing(format!("the registry {} has no schema {id}", self.server))),
            Entry::TooLong => return Ok(Answer::Missing(self.too_long(&what))),
            Entry::Found(registered) => registered,
        };
        if let Some(kind) = other_kind(&registered) {
            return Ok(Answer::Missing(format!("{what} is {kind}, not Avro")));
        }
        if registered.references.is_empty() {
            return Ok(Answer::Schema(registered.schema.into()));
        }
        Ok(match self.referenced(&what, registered.references).await? {
            Err(reason) => Answer::Missing(reason),
            Ok(others) => match references::inline(&registered.schema, &others) {
                Ok(whole) => Answer::Schema(whole.into()),
                Err(reason) => Answer::Missing(format!("{what}: {reason}")),
            },
        })
    }

    /// The texts of the schemas that one refers to, directly or through others; or why that can't be.
    async fn referenced(&self, what: &str, references: Vec<Reference>) -> Result<std::result::Result<Vec<String>, String>> {
        let (mut seen, mut texts): (HashSet<Reference>, _) = (references.iter().cloned().collect(), Vec::new());
        let mut waiting: VecDeque<Reference> = references.into();
        while let Some(Reference { subject, version }) = waiting.pop_front() {
            if seen.len() > MAX_REFERENCES {
                return Ok(Err(format!("{what} refers to more than {MAX_REFERENCES} others")));
            }
            let path = format!("/subjects/{}/versions/{version}", encoded(&subject));
            let other = format!("version {version} of {subject}");
            let registered = match self.get(&path, &other).await? {
                Entry::NotFound => return Ok(Err(format!("{what} refers to {other}, which the registry does not have"))),
                Entry::TooLong => return Ok(Err(format!("{what} refers to others: {}", self.too_long(&other)))),
                Entry::Found(registered) => registered,
            };
            if let Some(kind) = other_kind(&registered) {
                return Ok(Err(format!("{what} refers to {other}, which is {kind}, not Avro")));
            }
            texts.push(registered.schema);
            waiting.extend(registered.references.into_iter().filter(|reference| seen.insert(reference.clone())));
        }
        Ok(Ok(texts))
    }

    /// One request. An error is one that may pass.
    async fn get(&self, path: &str, what: &str) -> Result<Entry> {
        let deadline = Instant::now() + self.timeout;
        let outside = |reason: String| Error::outside(format!("{}: {reason}", self.server));
        let response = match timeout_at(deadline, self.client.request(self.request(path)?)).await {
            Err(_) => return Err(outside(format!("no answer within {:?}", self.timeout))),
            Ok(Err(error)) => return Err(outside(explain_chain(&error))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status == StatusCode::OK {
            let whole = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
            return match timeout_at(deadline, whole).await {
                Err(_) => Err(outside(format!("no whole answer within {:?}", self.timeout))),
                Ok(Err(error)) if error.is::<LengthLimitError>() => Ok(Entry::TooLong),
                Ok(Err(error)) => Err(outside(format!("its answer for {what} has broken off: {}", explain_chain(&*error)))),
                Ok(Ok(whole)) => match serde_json::from_slice(&whole.to_bytes()) {
                    Ok(registered) => Ok(Entry::Found(registered)),
                    Err(error) => Err(outside(format!("its answer for {what} is not what a registry sends: {error}"))),
                },
            };
        }
        // What it says with it, as far as it comes in time.
        let mut answer = Vec::new();
        let _ = timeout_at(deadline, read_answer(response.into_body(), MAX_ANSWER_BYTES, &mut answer)).await;
        match status {
            StatusCode::NOT_FOUND => Ok(Entry::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(outside(format!("it answered {status}; correct registry.username, password or token{}", quote(&answer))))
            }
            _ => Err(outside(format!("it answered {status}{}", quote(&answer)))),
        }
    }

    /// Why there is no schema: another try brings the same.
    fn too_long(&self, what: &str) -> String {
        format!("the answer of the registry {} for {what} is longer than {MAX_ANSWER_BYTES} bytes", self.server)
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>> {
        let uri: Uri = format!("{}{path}", self.base).parse().map_err(|_| Error::user(format!("{MEMBER} is no address")))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

fn other_kind(registered: &Registered) -> Option<&str> {
    registered.kind.as_deref().filter(|kind| *kind != "AVRO")
}

/// A subject as part of a path: what RFC 3986 does not leave as it is becomes `%XX`.
fn encoded(subject: &str) -> String {
    let mut text = String::new();
    for byte in subject.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
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
