//! The control interface: what an operator asks of a running engine. Same listener as everything else, its own bearer token;
//! without a token there is no control.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use streamjob_core::event_time::write_rfc3339;
use streamjob_core::{Error, Result};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control_token::ControlToken;
use crate::inbox::Message;
use crate::rest::{Problem, problem};
use crate::shared::{Gate, Shared, now_us};

/// A checkpoint that takes longer than this is answered with 504; it goes on all the same.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(30);
/// Hexadecimal digits of a function's version.
const VERSION_DIGITS: usize = 12;

/// What the handlers share.
#[derive(Clone)]
pub struct Control {
    pub shared: Arc<Shared>,
    pub token: Arc<ControlToken>,
}

/// The engine as its operator sees it.
#[derive(serde::Serialize, ToSchema)]
pub struct Status {
    name: String,
    /// Of the engine.
    version: &'static str,
    /// `starting`, `running` or `stopping`.
    phase: &'static str,
    /// RFC 3339.
    started_at: String,
    shards: u16,
    /// Rows since the state was created.
    received: u64,
    applied: u64,
    /// Rows received and not processed yet: the lag.
    queue_rows: u64,
    rate_events_per_s: f64,
    /// RFC 3339; null before the first event and after the last.
    watermark: Option<String>,
    /// Wall-clock time less the watermark.
    event_time_lag_s: Option<f64>,
    last_checkpoint: Option<LastCheckpoint>,
    udfs: Vec<UdfVersion>,
    disk_full: bool,
    /// Shards that take no rows, as a sink takes none of theirs.
    blocked_shards: u64,
    /// The state was restored from before its sinks' last output.
    outputs_may_repeat: bool,
}

/// The newest commit of any shard.
#[derive(serde::Serialize, ToSchema)]
pub struct LastCheckpoint {
    /// Commits since the process started.
    number: u64,
    /// RFC 3339.
    completed_at: String,
    duration_s: f64,
}

/// A user function and the text that runs.
#[derive(serde::Serialize, ToSchema)]
pub struct UdfVersion {
    name: String,
    /// The first 12 hexadecimal digits of the SHA-256 of the module's text.
    version: String,
}

/// What a checkpoint that was asked for did.
#[derive(serde::Serialize, ToSchema)]
pub struct Checkpoint {
    /// Commits since the process started.
    number: u64,
    duration_s: f64,
}

/// The routes below `/v1/control`, each guarded by the token.
pub fn router(control: Control) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(checkpoint))
        .layer(middleware::from_fn_with_state(control.clone(), guard))
        .with_state(control)
}

async fn guard(State(control): State<Control>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).cloned();
    if control.token.allows(given.as_ref()).await {
        return next.run(request).await;
    }
    problem(StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer TOKEN with the control token")
}

/// How the engine is.
#[utoipa::path(get, path = "/v1/control/status", responses((status = 200, body = Status), (status = 401, body = Problem)))]
async fn status(State(control): State<Control>) -> Json<Status> {
    Json(look(&control.shared))
}

fn look(shared: &Shared) -> Status {
    let config = &shared.plan.config;
    let ledger = shared.ledger();
    let received = shared.received_rows(&ledger);
    let watermark_us = shared.shown_watermark_us();
    Status {
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        phase: match *shared.gate.borrow() {
            Gate::Starting => "starting",
            Gate::Open if !shared.is_stopping() => "running",
            Gate::Open | Gate::Closed => "stopping",
        },
        started_at: rfc3339(now_us() - shared.uptime_us() as i64),
        shards: config.shards,
        received,
        applied: ledger.of(streamjob_core::ledger::Outcome::Applied),
        queue_rows: received - ledger.taken(),
        rate_events_per_s: shared.rate.lock().per_second(received, shared.uptime_us()),
        watermark: watermark_us.map(rfc3339),
        event_time_lag_s: watermark_us.map(|watermark_us| now_us().saturating_sub(watermark_us) as f64 / 1e6),
        last_checkpoint: last_checkpoint(shared),
        udfs: (config.udfs.iter()).map(|udf| UdfVersion { name: udf.name.clone(), version: version_of(&udf.source) }).collect(),
        disk_full: shared.is_disk_full(),
        blocked_shards: shared.figures.iter().map(|figures| figures.lock().blocked_shards).sum(),
        outputs_may_repeat: shared.state.output_incarnation() > 0,
    }
}

fn last_checkpoint(shared: &Shared) -> Option<LastCheckpoint> {
    let figures = &shared.commit_figures;
    let number = figures.commits.load(Ordering::Relaxed);
    let since_us = shared.uptime_us().saturating_sub(figures.last_at_us.load(Ordering::Relaxed));
    (number > 0).then(|| LastCheckpoint {
        number,
        completed_at: rfc3339(now_us() - since_us as i64),
        duration_s: figures.last_duration_us.load(Ordering::Relaxed) as f64 / 1e6,
    })
}

/// Commits what every shard has, and answers once it is durable.
#[utoipa::path(
    post,
    path = "/v1/control/checkpoint",
    responses(
        (status = 200, body = Checkpoint),
        (status = 401, body = Problem),
        (status = 503, description = "Too many are asked for, or the process is stopping.", body = Problem),
        (status = 504, description = "It takes longer than 30 s; it goes on all the same.", body = Problem),
    )
)]
async fn checkpoint(State(control): State<Control>) -> Response {
    let (shared, began) = (&control.shared, Instant::now());
    match tokio::time::timeout(CHECKPOINT_WAIT, commit_all(shared)).await {
        Err(_) => problem(StatusCode::GATEWAY_TIMEOUT, "the checkpoint takes longer than 30 s; it goes on, ask for the status"),
        Ok(Err(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, error.message()),
        Ok(Ok(())) => {
            let number = shared.commit_figures.commits.load(Ordering::Relaxed);
            Json(Checkpoint { number, duration_s: began.elapsed().as_secs_f64() }).into_response()
        }
    }
}

async fn commit_all(shared: &Shared) -> Result<()> {
    let asked: Vec<_> = (shared.inboxes.iter())
        .map(|inbox| {
            let (sender, receiver) = oneshot::channel();
            inbox.put(Message::Checkpoint(sender));
            receiver
        })
        .collect();
    for answer in asked {
        answer.await.map_err(|_| Error::outside("the process is stopping, which commits everything"))??;
    }
    Ok(())
}

fn version_of(source: &str) -> String {
    let digest = Sha256::digest(source.as_bytes());
    let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    text[..VERSION_DIGITS].to_owned()
}

fn rfc3339(micros: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(micros, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_is_the_digest_of_the_text() {
        assert_eq!(super::version_of("abc"), "ba7816bf8f01");
    }
}
