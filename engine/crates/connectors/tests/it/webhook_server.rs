//! A web server that answers as a test tells it to, and remembers what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use streamjob_connectors::webhook::{Webhook, WebhookBatch};
use streamjob_core::config::HttpSinkConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[derive(Debug, Clone)]
pub struct Seen {
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub header: Option<(&'static str, &'static str)>,
    pub body: &'static str,
    pub after: Duration,
}

pub fn answer(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

type Decide = dyn Fn(usize, &Seen) -> Answer + Send + Sync;

#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    decide: Arc<Decide>,
}

impl Server {
    /// `decide` gets the request's number (from 0) and the request.
    pub async fn start(decide: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/alerts?token=secret", listener.local_addr().unwrap());
        let server = Server { url, seen: Arc::default(), decide: Arc::new(decide) };
        let app = Router::new().fallback(handle).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn handle(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    let seen = Seen { headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let number = {
        let mut all = server.seen.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    let answer = (server.decide)(number, &seen);
    tokio::time::sleep(answer.after).await;
    let mut response = (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response();
    if let Some((name, value)) = answer.header {
        response.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    response
}

/// A server that reads a little of each connection, writes `reply` and drops the connection.
pub async fn breaking_server(reply: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.set_zero_linger().unwrap();
            let _ = connection.read(&mut [0; 64]).await;
            let _ = connection.write_all(reply).await;
            // Time for the reply to be read before the reset discards it.
            tokio::time::sleep(Duration::from_millis(if reply.is_empty() { 0 } else { 100 })).await;
        }
    });
    url
}

pub fn config(url: &str) -> HttpSinkConfig {
    HttpSinkConfig {
        url: url.to_owned(),
        headers: BTreeMap::from([("Authorization".to_owned(), "Bearer x".to_owned())]),
        bearer_token: None,
        max_batch_rows: 500,
        timeout_us: 30_000_000,
        backoff_initial_us: 1_000,
        backoff_max_us: 10_000,
    }
}

pub fn webhook(url: &str) -> Webhook {
    Webhook::new(&config(url)).unwrap()
}

pub fn batch(key: &str) -> WebhookBatch {
    WebhookBatch {
        body: Bytes::from(format!("[{{\"batch\":\"{key}\"}}]")),
        rows: 1,
        idempotency_key: key.to_owned(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}
