//! The one listener: `/ingest` straight on the connection, all else through the router.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use streamjob_core::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::ingest::Ingest;

/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client has this long to send a request's head, and up to twice as long as it is looked at only that often.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

type AnyBody = Either<Full<Bytes>, axum::body::Body>;

/// Binds the address; a busy port is the user's to mend.
pub async fn bind(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::user(format!("{address} is in use by another process; stop it, or listen elsewhere with --listen HOST:PORT"))
        }
        _ => Error::user(format!("can't listen on {address}: {error}; choose another address with --listen HOST:PORT")),
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// What ends connections, and knows when all have ended.
pub struct Clients {
    /// With the request that they are at.
    pub shutdown: CancellationToken,
    /// At once; cancelled after `shutdown`.
    pub hangup: CancellationToken,
    pub connections: TaskTracker,
}

/// Serves until the shutdown.
pub async fn serve(listener: Arc<TcpListener>, ingest: Option<Arc<Ingest>>, router: axum::Router, clients: Clients) {
    let Clients { shutdown, hangup, connections } = clients;
    let mut failed = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failed = false;
                    // Each connection has handles of its own: the counters of shared ones would wander from core to core.
                    let service = Arc::new(Service { ingest: ingest.clone(), router: router.clone(), taken: AtomicUsize::new(0), answered: AtomicUsize::new(0) });
                    connections.spawn(connection(stream, service, shutdown.child_token(), hangup.child_token()));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others will end.
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!("can't accept a connection: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.close();
}

/// What a connection's requests are answered by, and how many there were.
struct Service {
    ingest: Option<Arc<Ingest>>,
    router: axum::Router,
    taken: AtomicUsize,
    answered: AtomicUsize,
}

async fn connection(stream: TcpStream, service: Arc<Service>, shutdown: CancellationToken, hangup: CancellationToken) {
    // Answers are small and clients wait for them.
    let _ = stream.set_nodelay(true);
    let answering = service.clone();
    let connection = http1::Builder::new()
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service_fn(move |request| respond(request, answering.clone())));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = silence(&service) => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = hangup.cancelled() => {}
    }
}

/// Ends when no request has come for [`HEAD_TIMEOUT`], or up to twice as long, while none was under way. One look now and
/// then, as a timer for each request would cost more than the rest of it.
async fn silence(service: &Service) {
    let mut before = None;
    loop {
        tokio::time::sleep(HEAD_TIMEOUT).await;
        let taken = service.taken.load(Ordering::Relaxed);
        let under_way = taken != service.answered.load(Ordering::Relaxed);
        if before == Some(taken) && !under_way {
            return;
        }
        before = Some(taken);
    }
}

async fn respond(request: Request<Incoming>, service: Arc<Service>) -> std::result::Result<Response<AnyBody>, Infallible> {
    service.taken.fetch_add(1, Ordering::Relaxed);
    let response = answer(request, &service).await;
    service.answered.fetch_add(1, Ordering::Relaxed);
    Ok(response)
}

async fn answer(request: Request<Incoming>, service: &Service) -> Response<AnyBody> {
    if request.uri().path() != "/ingest" {
        let Ok(response) = service.router.clone().call(request.map(axum::body::Body::new)).await;
        return response.map(Either::Right);
    }
    let (head, mut body) = request.into_parts();
    let answer = match &service.ingest {
        None => crate::ingest::Answer::problem(StatusCode::NOT_FOUND, "this job has no http source; add one under spec.sources"),
        Some(_) if head.method != Method::POST => {
            crate::ingest::Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "rows are sent with POST")
        }
        Some(ingest) => ingest.handle(&head.headers, &mut body).await,
    };
    // Whoever asks first whether to send the body has not sent it.
    if !body.is_end_stream() && !head.headers.contains_key(http::header::EXPECT) {
        let limit = service.ingest.as_ref().map_or(0, |ingest| ingest.shared.plan.config.ingest.max_body_bytes);
        crate::body::discard(&mut body, limit as usize).await;
    }
    let mut response = answer.into_response();
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("POST"));
    }
    response.map(Either::Left)
}
