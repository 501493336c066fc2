//! One attempt to deliver a batch of rows by `POST` to a web server, and what its outcome means.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use streamjob_core::config::HttpSinkConfig;
use streamjob_core::{Error, Result};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::deliveries::{Deliver, Delivery, Outcome, Refusal};
use crate::http_client::{connector, explain_chain, parse_url, quote, read_answer};
use crate::secret::Secret;

/// The most that connecting may take of an attempt's time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections are closed after this: below the usual 60 s of servers, so that these seldom close one that is being used.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Of an answer's body at most this many bytes are read; a longer one costs the connection.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers that the sink sets for each request; a job may not.
const RESERVED_HEADERS: [HeaderName; 6] =
    [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, IDEMPOTENCY_KEY, TRACEPARENT];

/// Rows that go out together; a retry sends the same bytes under the same key (I8).
#[derive(Debug, Clone)]
pub struct WebhookBatch {
    /// A JSON array of rows.
    pub body: Bytes,
    /// How many rows the array has.
    pub rows: u32,
    /// The same for every try of this batch; without control characters.
    pub idempotency_key: String,
    /// The W3C trace context of the batch, if it is sampled.
    pub traceparent: Option<String>,
}

/// A web server's URL with a pool of keep-alive connections. Shared by reference; attempts may run at once.
#[derive(Debug)]
pub struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    connection: Arc<Connection>,
}

impl Webhook {
    /// Checks the configuration; connects nowhere yet. A `timeout_us` bounds each attempt as a whole.
    ///
    /// # Errors
    /// `user`, naming the member that is wrong; `outside` if the URL is https and the system's trusted certificates can't be read.
    pub fn new(config: &HttpSinkConfig) -> Result<Webhook> {
        let uri = parse_url(&config.url, "http.url", "https://example.com/alerts")?;
        let timeout = u64::try_from(config.timeout_us).ok().filter(|timeout| *timeout > 0).map(Duration::from_micros);
        let timeout = timeout.ok_or_else(|| {
            Error::user(format!("http.timeout: must be longer than 0 (got {} us); set for example 10s", config.timeout_us))
        })?;
        let connector = connector(&uri, timeout.min(CONNECT_TIMEOUT), "http.url")?;
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
        Ok(Webhook { client, uri, headers: headers(config)?, timeout, connection: Arc::default() })
    }

    /// The server, for messages: without the path and query, which may hold secrets.
    pub fn server(&self) -> String {
        format!("{}://{}", self.uri.scheme_str().unwrap_or_default(), self.uri.authority().map_or("", |host| host.as_str()))
    }

    /// Tells somebody's connection what comes of its attempts.
    pub fn reporting_to(mut self, connection: Arc<Connection>) -> Webhook {
        self.connection = connection;
        self
    }

    /// Whether the server answers.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Sends the batch once.
    pub async fn deliver_batch(&self, batch: &WebhookBatch) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let outcome = match timeout_at(deadline, self.client.request(self.request(batch))).await {
            Err(_) => self.retry(format!("no answer within {:?}", self.timeout)),
            Ok(Err(error)) => self.retry(explain_chain(&error)),
            Ok(Ok(response)) => self.judge(response, deadline).await,
        };
        match &outcome {
            Outcome::Retry { reason, .. } => drop(self.connection.failed(reason)),
            Outcome::Delivered | Outcome::Refused(_) => drop(self.connection.answered()),
        }
        outcome
    }

    /// Asks the server what it takes, which changes nothing there. Whatever it answers, it can be reached.
    ///
    /// # Errors
    /// `outside` if it can't be reached.
    pub async fn ask(&self) -> Result<String> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, self.client.request(request)).await {
            Err(_) => Err(Error::outside(format!("{}: no answer within {:?}", self.server(), self.timeout))),
            Ok(Err(error)) => Err(Error::outside(format!("{}: {}", self.server(), explain_chain(&error)))),
            Ok(Ok(response)) => Ok(format!("{} answers ({} to OPTIONS)", self.server(), response.status().as_u16())),
        }
    }

    fn retry(&self, reason: String) -> Outcome {
        Outcome::Retry { after: None, reason: format!("{}: {reason}", self.server()) }
    }

    fn request(&self, batch: &WebhookBatch) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(batch.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        let key = HeaderValue::from_bytes(batch.idempotency_key.as_bytes()).expect("idempotency keys have no control characters");
        headers.insert(IDEMPOTENCY_KEY, key);
        if let Some(Ok(traceparent)) = batch.traceparent.as_deref().map(HeaderValue::from_str) {
            headers.insert(TRACEPARENT, traceparent);
        }
        request
    }

    /// The status decides: 2xx is delivered; 408, 425, 429, 5xx, no connection and no answer in time are tried again; anything else is
    /// refused for good. The body is read for its reason, and so that the connection can be used again; if it does not come
    /// in time or breaks off, that changes nothing.
    async fn judge(&self, response: Response<Incoming>, deadline: Instant) -> Outcome {
        let (parts, body) = response.into_parts();
        let mut answer = Vec::new();
        let _ = timeout_at(deadline, read_answer(body, MAX_ANSWER_BYTES, &mut answer)).await;
        let status = parts.status;
        if status.is_success() {
            return Outcome::Delivered;
        }
        let reason = format!("{} answered {status}{}", self.server(), quote(&answer));
        let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if later.contains(&status) || status.is_server_error() {
            let after = parts.headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
            return Outcome::Retry { after, reason };
        }
        // A redirect would turn the POST into a GET, or send rows where nobody configured it.
        let hint = if status.is_redirection() { "; redirects are not followed: put the final URL into the job" } else { "" };
        Outcome::Refused(Refusal::Batch { status: status.as_u16(), reason: reason + hint })
    }
}

impl Deliver for Webhook {
    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        self.deliver_batch(&delivery.batch).await
    }
}

fn headers(config: &HttpSinkConfig) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("streamjob/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &config.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::user(format!("http.headers.{name}: is no name of a header; use letters, digits and hyphens")))?;
        if RESERVED_HEADERS.contains(&parsed) {
            return Err(Error::user(format!("http.headers.{name}: is set by the sink itself; remove it")));
        }
        // The value may be a secret: it is not quoted.
        let visible = value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        let value = HeaderValue::from_str(value).ok().filter(|_| visible).ok_or_else(|| {
            Error::user(format!("http.headers.{name}: its value has characters other than visible ASCII; encode them"))
        })?;
        headers.insert(parsed, value);
    }
    if let Some(reference) = &config.bearer_token {
        let token = Secret::read(reference, "http.bearerToken")?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| Error::user("http.bearerToken: the token has characters other than visible ASCII"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Seconds or a date, as the time from `now`; a past date is no wait.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let parse = |text| retry_after(&HeaderValue::from_static(text), now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }
}
