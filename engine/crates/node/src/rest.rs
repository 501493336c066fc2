//! Queries by REST, with the document that describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::event_time::parse_rfc3339;
use streamjob_core::plan::Plan;
use streamjob_core::processor::Processor;
use streamjob_core::shard::HistoryReader;
use streamjob_core::stats_json::write_statistics;
use streamjob_core::store::ShardStore;
use streamjob_core::{Actor, Error, Result};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::Control;
use crate::control_token::ControlToken;
use crate::inbox::Message;
use crate::shared::{Gate, Shared, blocking};

/// Rows of a page where the query names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Rows of a page at most.
const MAX_LIMIT: usize = 10_000;
/// Window starts that one page looks through at most; then it ends with a cursor.
const MAX_STARTS: usize = 10_000;

/// What the handlers share.
#[derive(Clone)]
pub struct Rest {
    pub shared: Arc<Shared>,
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

/// A page of closed windows.
#[derive(serde::Serialize, ToSchema)]
pub struct WindowPage {
    /// Rows as the sinks have them: key, window_start, window_end, revision, aggregates, _id.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Box<serde_json::value::RawValue>>,
    /// Cursor of the next page, null at the end.
    next: Option<String>,
}

/// Which closed windows.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct WindowQuery {
    /// Name of the window; may be left out where the job has one.
    window: Option<String>,
    /// First start, RFC 3339.
    from: Option<String>,
    /// Starts before this, RFC 3339.
    to: Option<String>,
    /// Rows of the page, at most 10000.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

type WindowQueryResult = std::result::Result<Query<WindowQuery>, QueryRejection>;

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

/// Running statistics of one key, as they stand now.
#[utoipa::path(
    get,
    path = "/v1/keys/{key}/stats",
    params(("key" = String, Path, description = "The key's text.")),
    responses((status = 200, body = KeyStats), (status = 404, body = Problem))
)]
async fn key_stats(State(rest): State<Rest>, Path(key): Path<String>) -> Response {
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
async fn key_windows(State(rest): State<Rest>, Path(key): Path<String>, query: WindowQueryResult) -> Response {
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
    params(WindowQuery),
    responses((status = 200, body = WindowPage), (status = 400, body = Problem))
)]
async fn latest_windows(State(rest): State<Rest>, query: WindowQueryResult) -> Response {
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
type Asked<T> = tokio::sync::oneshot::Receiver<Result<T>>;

/// Runs a question on the thread of the worker that owns a shard, between batches.
fn ask<T: Send + 'static>(
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

async fn answer<T>(asked: Asked<T>) -> Result<T> {
    asked.await.map_err(|_| Error::outside("the process is stopping; ask again later"))?
}

/// What the client can mend is 400, all else may be better later.
fn failed(error: &Error) -> Response {
    let status = if error.actor() == Actor::User { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
    problem(status, error.message())
}

/// A query, understood.
struct PageQuery {
    window: usize,
    window_id: u32,
    from_us: i64,
    to_us: i64,
    limit: usize,
    cursor: Option<String>,
}

/// What a worker knows of one shard's closed windows that the store may not.
struct Pending {
    rows: Vec<(i64, Vec<u8>)>,
    known: bool,
    latest_us: Option<i64>,
    max_event_us: i64,
    store: Arc<dyn ShardStore>,
}

impl PageQuery {
    fn new(plan: &Plan, query: WindowQueryResult) -> Result<PageQuery> {
        let Query(query) = query.map_err(|rejected| Error::user(rejected.body_text()))?;
        let window = match (&query.window, plan.windows.len()) {
            (Some(name), _) => plan.windows.iter().position(|window| window.name == *name),
            (None, 1) => Some(0),
            (None, _) => None,
        };
        let names = || plan.windows.iter().map(|window| window.name.as_str()).collect::<Vec<_>>().join(", ");
        let window = window.ok_or_else(|| Error::user(format!("window: name one of the job's windows ({})", names())))?;
        let time = |name: &str, text: &Option<String>, default: i64| match text {
            None => Ok(default),
            Some(text) => parse_rfc3339(text)
                .ok_or_else(|| Error::user(format!("{name}: expected a time such as 2026-01-31T12:00:00Z (got {text})"))),
        };
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            return Err(Error::user(format!("limit: expected 1 to {MAX_LIMIT} (got {limit})")));
        }
        Ok(PageQuery {
            window,
            window_id: plan.windows[window].id,
            from_us: time("from", &query.from, i64::MIN)?,
            to_us: time("to", &query.to, i64::MAX)?,
            limit,
            cursor: query.cursor.clone(),
        })
    }

    /// What the worker holds, asked before the store is read: a row that moves in between is seen twice, never missed.
    fn pending(&self, shared: &Shared, shard: u16, key: Option<(u64, String)>) -> Asked<Pending> {
        let window = self.window;
        ask(shared, shard, move |processor| {
            let shard = processor.shards().iter().find(|known| known.id == shard);
            let shard = shard.ok_or_else(|| Error::engine("a worker was asked for a shard of another"))?;
            let mut rows = Vec::new();
            let hash = key.as_ref().map(|(hash, _)| *hash);
            shard.visit_pending_history(window, hash, &mut |start_us, json| rows.push((start_us, json.to_vec())));
            let known = match &key {
                Some((hash, key)) => shard.look_up(*hash, key.as_bytes())?.is_some(),
                None => true,
            };
            Ok(Pending {
                rows,
                known,
                latest_us: shard.latest_closed(window),
                max_event_us: shard.max_event_time_us(),
                store: shard.store().clone(),
            })
        })
    }

    async fn of_key(self, shared: &Arc<Shared>, key: String) -> Result<Option<WindowPage>> {
        let hash = hash_key(key.as_bytes());
        let shard = shard_of(hash, shared.plan.config.shards);
        let pending = answer(self.pending(shared, shard, Some((hash, key.clone())))).await?;
        if !pending.known {
            return Ok(None);
        }
        let ttl_us = shared.plan.config.history.raw_us;
        blocking(shared, move || self.read_key(hash, &key, pending, ttl_us)).await.map(Some)
    }

    fn read_key(self, hash: u64, key: &str, pending: Pending, ttl_us: i64) -> Result<WindowPage> {
        let expired_us = pending.max_event_us.saturating_sub(ttl_us);
        let cursor = match &self.cursor {
            None => i64::MIN,
            Some(text) => text.parse().map_err(|_| Error::user("cursor: pass on what `next` said"))?,
        };
        let from_us = self.from_us.max(cursor).max(expired_us);
        let mut starts: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        for (start_us, row) in pending.rows.into_iter().filter(|(start, _)| (from_us..self.to_us).contains(start)) {
            starts.entry(start_us).or_default().push(row);
        }
        let reader = HistoryReader { store: &*pending.store, window: self.window_id };
        let mut page = Vec::new();
        let mut at = from_us;
        for _ in 0..MAX_STARTS {
            let stored = reader.next_start(at, self.to_us)?;
            let held = starts.range(at..).next().map(|(start, _)| *start);
            let Some(start_us) = stored.into_iter().chain(held).min() else { return finish(page, None) };
            if page.len() >= self.limit {
                return finish(page, Some(start_us.to_string()));
            }
            let mut rows = starts.remove(&start_us).unwrap_or_default();
            reader.rows_of(start_us, hash, &mut |json| {
                if !rows.iter().any(|row| row == json) {
                    rows.push(json.to_vec());
                }
            })?;
            page.extend(rows.into_iter().filter(|row| has_key(row, key)));
            at = start_us.saturating_add(1);
        }
        finish(page, Some(at.to_string()))
    }

    /// Pages go through the shards in their order; the cursor is `start:shard:rows of it that were given`.
    async fn latest(self, shared: &Arc<Shared>) -> Result<WindowPage> {
        let asked: Vec<_> = (0..shared.plan.config.shards).map(|shard| self.pending(shared, shard, None)).collect();
        let mut pending = Vec::with_capacity(asked.len());
        for asked in asked {
            pending.push(answer(asked).await?);
        }
        let newest = pending.iter().filter_map(|shard| shard.latest_us).max();
        let Some(newest) = newest else { return finish(Vec::new(), None) };
        let (start_us, first_shard, skip) = match &self.cursor {
            None => (newest, 0, 0),
            Some(text) => parse_latest_cursor(text).ok_or_else(|| Error::user("cursor: pass on what `next` said"))?,
        };
        blocking(shared, move || self.read_latest(pending, start_us, first_shard, skip)).await
    }

    fn read_latest(self, pending: Vec<Pending>, start_us: i64, first_shard: usize, mut skip: usize) -> Result<WindowPage> {
        let mut page: Vec<Vec<u8>> = Vec::new();
        for (number, shard) in pending.into_iter().enumerate().skip(first_shard) {
            let reader = HistoryReader { store: &*shard.store, window: self.window_id };
            let mut rows: Vec<Vec<u8>> = Vec::new();
            reader.all_rows(start_us, &mut |json| {
                rows.push(json.to_vec());
                true
            })?;
            let mut held: Vec<Vec<u8>> =
                shard.rows.into_iter().filter(|(start, _)| *start == start_us).map(|(_, row)| row).collect();
            rows.append(&mut held);
            rows.sort_unstable();
            rows.dedup();
            let total = rows.len();
            let room = self.limit - page.len();
            page.extend(rows.into_iter().skip(skip).take(room));
            let given = (skip + room).min(total);
            if given < total {
                return finish(page, Some(format!("{start_us}:{number}:{given}")));
            }
            skip = 0;
            if page.len() == self.limit {
                return finish(page, Some(format!("{start_us}:{}:0", number + 1)));
            }
        }
        finish(page, None)
    }
}

fn parse_latest_cursor(text: &str) -> Option<(i64, usize, usize)> {
    let mut parts = text.split(':');
    let cursor = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(cursor)
}

/// Keys with equal hashes share a chunk; the row itself says whose it is.
fn has_key(row: &[u8], key: &str) -> bool {
    let mut head = b"{\"key\":".to_vec();
    streamjob_core::json::write_string(&mut head, key.as_bytes());
    head.push(b',');
    row.starts_with(&head)
}

fn finish(rows: Vec<Vec<u8>>, next: Option<String>) -> Result<WindowPage> {
    let raw = |row: Vec<u8>| {
        let text = String::from_utf8(row).map_err(|_| Error::damaged("a row of the history is not UTF-8"))?;
        serde_json::value::RawValue::from_string(text).map_err(|_| Error::damaged("a row of the history is not JSON"))
    };
    Ok(WindowPage { items: rows.into_iter().map(raw).collect::<Result<_>>()?, next })
}
