//! Queries by REST, with the document that describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::processor::Processor;
use streamjob_core::stats_json::write_statistics;
use streamjob_core::{Actor, Error, Result};
use tokio::sync::Semaphore;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::Control;
use crate::control_token::ControlToken;
use crate::inbox::Message;
use crate::shared::{Gate, Shared};
use crate::window_pages::{Given, LatestQuery, PageQuery, WindowPage, WindowQuery};

/// Queries that are answered at once; others wait. Each may hold the closed rows of a few shards.
const MAX_QUERIES: usize = 16;

/// What the handlers share.
#[derive(Clone)]
pub struct Rest {
    shared: Arc<Shared>,
    queries: Arc<Semaphore>,
}

impl Rest {
    pub fn new(shared: Arc<Shared>) -> Rest {
        Rest { shared, queries: Arc::new(Semaphore::new(MAX_QUERIES)) }
    }
}

/// A problem, for a person.
#[derive(serde::Serialize, ToSchema)]
pub struct Problem {
    /// What is wrong and what to do.
    error: String,
}

pub(crate) fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(Problem { error: error.into() })).into_response()
}

/// Running statistics of one key. Written by [`write_statistics`]; this describes it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct KeyStats {
    key: String,
    /// Rows that updated the statistics.
    rows: u64,
    /// By field: count, mean, variance, stddev (of the population), min, max, last; null where there was no value.
    fields: BTreeMap<String, BTreeMap<String, Option<f64>>>,
}

#[derive(OpenApi)]
#[openapi(info(title = "StreamJob engine", description = "Ingest and queries of one running job."))]
struct Document;

/// All routes but `/ingest`, and the document of all of them. Without a token there is no control.
pub fn router(rest: Rest, control_token: Option<ControlToken>) -> axum::Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(key_stats))
        .routes(routes!(key_windows))
        .routes(routes!(latest_windows))
        .split_for_parts();
    // before the guard, which answers browsers that ask what they may send
    let router = router.method_not_allowed_fallback(not_allowed);
    let queries = router.layer(middleware::from_fn_with_state(rest.clone(), guard));
    let mut document = document;
    document.merge(IngestDocument::openapi());
    let control = control_token.map(|token| Control { shared: rest.shared.clone(), token: Arc::new(token) });
    let control = control.map(|control| crate::control::router(control).split_for_parts());
    let control = control.map(|(router, described)| {
        document.merge(described);
        router
    });
    let text = document.to_json().unwrap_or_default();
    queries
        .route("/healthz", axum::routing::get(healthz))
        .route("/readyz", axum::routing::get(readyz))
        .route("/metrics", axum::routing::get(metrics))
        .route(
            "/openapi.json",
            axum::routing::get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text.clone()) }),
        )
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here; /openapi.json lists what is") })
        .with_state(rest)
        .merge(control.unwrap_or_default())
        .method_not_allowed_fallback(not_allowed)
}

async fn not_allowed() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "this method is not known here; the header Allow names those that are")
}

#[derive(OpenApi)]
#[openapi(paths(ingest))]
struct IngestDocument;

/// Sends rows: one JSON object, an array of objects, or lines of JSON. Answered once they are durable.
#[utoipa::path(
    post,
    path = "/ingest",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the first answer, also after a restart.")),
    request_body(content = String, content_type = "application/json", description = "Also application/x-ndjson, application/vnd.apache.arrow.stream, application/avro; Content-Encoding gzip or zstd."),
    responses(
        (status = 202, description = "At least one row was accepted, or the array was empty."),
        (status = 400, description = "No row was accepted, or the body is empty or no JSON."),
        (status = 408, description = "Nothing of the body came for 30 s."),
        (status = 413, description = "The body is above ingest.maxBody."),
        (status = 415, description = "Content-Type or Content-Encoding is not read."),
        (status = 422, description = "The Idempotency-Key came with another body before."),
        (status = 429, description = "The queues stayed full for ingest.maxWait."),
        (status = 503, description = "The disk is full, or the process is starting or stopping."),
    )
)]
#[expect(dead_code, reason = "only its description is used: the server answers before the router")]
fn ingest() {}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(rest): State<Rest>) -> Response {
    let gate = *rest.shared.gate.borrow();
    match gate {
        Gate::Open if !rest.shared.is_stopping() => "ready\n".into_response(),
        Gate::Starting => problem(StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Gate::Open | Gate::Closed => problem(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

async fn metrics(State(rest): State<Rest>) -> Response {
    // What the journals hold is not counted yet, and counters must not seem to go back.
    if *rest.shared.gate.borrow() == Gate::Starting {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "starting");
    }
    let text = rest.shared.metrics.render(&rest.shared);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Asks for the bearer token, and answers browsers of the allowed origins.
async fn guard(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let config = &rest.shared.plan.config.rest;
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed =
        origin.filter(|origin| config.cors_origins.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes()));
    let mut response = if request.method() == Method::OPTIONS && allowed.is_some() {
        StatusCode::NO_CONTENT.into_response()
    } else if is_authorised(config.bearer_token.as_deref(), request.headers().get(header::AUTHORIZATION)) {
        let _turn = rest.queries.acquire().await.expect("the semaphore is never closed");
        next.run(request).await
    } else {
        problem(StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer TOKEN with the token of spec.rest.bearerToken")
    };
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

pub(crate) fn is_authorised(token: Option<&str>, header: Option<&HeaderValue>) -> bool {
    let Some(token) = token else { return true };
    let given = header.and_then(|value| value.as_bytes().strip_prefix(b"Bearer ")).unwrap_or_default();
    // The time must not tell how much of a guess was right.
    given.len() == token.len() && std::iter::zip(given, token.as_bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// A key of a path, or why it is none.
type GivenKey = std::result::Result<Path<String>, PathRejection>;

fn no_key(rejection: &PathRejection) -> Response {
    problem(StatusCode::BAD_REQUEST, format!("the key in the path cannot be read: {}", rejection.body_text()))
}

/// Running statistics of one key, as they stand now.
#[utoipa::path(
    get,
    path = "/v1/keys/{key}/stats",
    params(("key" = String, Path, description = "The key's text.")),
    responses((status = 200, body = KeyStats), (status = 400, body = Problem), (status = 404, body = Problem))
)]
async fn key_stats(State(rest): State<Rest>, key: GivenKey) -> Response {
    let key = match key {
        Ok(Path(key)) => key,
        Err(rejection) => return no_key(&rejection),
    };
    let (plan, name) = (rest.shared.plan.clone(), key.clone());
    let hash = hash_key(key.as_bytes());
    let shard = shard_of(hash, plan.config.shards);
    let words = ask(&rest.shared, shard, move |processor| {
        let shard = processor.shards().iter().find(|known| known.id == shard);
        shard.map_or(Ok(None), |shard| shard.look_up(hash, name.as_bytes()))
    });
    match answer(words).await {
        Ok(Some(words)) => {
            let mut body = Vec::new();
            write_statistics(&mut body, &plan, &key, &words);
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, format!("no row with the key {key} was seen")),
        Err(error) => failed(&error),
    }
}

/// Closed windows of one key, oldest first.
#[utoipa::path(
    get,
    path = "/v1/keys/{key}/windows",
    params(("key" = String, Path, description = "The key's text."), WindowQuery),
    responses((status = 200, body = WindowPage), (status = 400, body = Problem), (status = 404, body = Problem))
)]
async fn key_windows(State(rest): State<Rest>, key: GivenKey, query: Given<WindowQuery>) -> Response {
    let key = match key {
        Ok(Path(key)) => key,
        Err(rejection) => return no_key(&rejection),
    };
    let page = match PageQuery::new(&rest.shared.plan, query) {
        Ok(page) => page,
        Err(error) => return failed(&error),
    };
    match page.of_key(&rest.shared, key.clone()).await {
        Ok(Some(page)) => Json(page).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, format!("no row with the key {key} was seen")),
        Err(error) => failed(&error),
    }
}

/// All rows of the newest window that has closed.
#[utoipa::path(
    get,
    path = "/v1/windows/latest",
    params(LatestQuery),
    responses((status = 200, body = WindowPage), (status = 400, body = Problem))
)]
async fn latest_windows(State(rest): State<Rest>, query: Given<LatestQuery>) -> Response {
    let page = match PageQuery::new(&rest.shared.plan, query) {
        Ok(page) => page,
        Err(error) => return failed(&error),
    };
    match page.latest(&rest.shared).await {
        Ok(page) => Json(page).into_response(),
        Err(error) => failed(&error),
    }
}

/// An answer that a worker gives.
pub type Asked<T> = tokio::sync::oneshot::Receiver<Result<T>>;

/// Runs a question on the thread of the worker that owns a shard, between batches.
pub fn ask<T: Send + 'static>(
    shared: &Shared,
    shard: u16,
    question: impl FnOnce(&Processor) -> Result<T> + Send + 'static,
) -> Asked<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let worker = usize::from(shared.worker_of[usize::from(shard)]);
    shared.inboxes[worker].put(Message::Ask(Box::new(move |processor| {
        let _ = sender.send(question(processor));
    })));
    receiver
}

pub async fn answer<T>(asked: Asked<T>) -> Result<T> {
    asked.await.map_err(|_| Error::outside("the process is stopping; ask again later"))?
}

/// What the client can mend is 400, all else may be better later.
fn failed(error: &Error) -> Response {
    let status = if error.actor() == Actor::User { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
    problem(status, error.message())
}
