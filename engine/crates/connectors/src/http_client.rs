//! What clients of web servers share: addresses, connections, answers and reasons.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::CryptoProvider;
use streamjob_core::{Error, Result};

/// Of an answer's body at most this many characters are quoted in a reason.
pub const MAX_QUOTED_CHARS: usize = 300;

/// The address in the job's member `member`.
pub(crate) fn parse_url(url: &str, member: &str, example: &str) -> Result<Uri> {
    let wrong = |why: &str| Error::user(format!("{member}: {why}; write for example {example}"));
    let uri: Uri = url.parse().map_err(|error| wrong(&format!("{error} (got {url})")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong(&format!("must begin with http:// or https:// (got {url})")));
    }
    match uri.authority() {
        None => Err(wrong(&format!("has no host (got {url})"))),
        Some(authority) if authority.host().is_empty() => Err(wrong(&format!("has no host (got {url})"))),
        Some(authority) if authority.as_str().contains('@') => {
            Err(wrong("must hold no user and password; put them where the job has members for them"))
        }
        // The client takes a port that is no number for none, and would connect elsewhere.
        Some(authority) if !is_host_and_port(authority) => {
            Err(wrong(&format!("must be a host, and perhaps a port from 1 to 65535 (got {url})")))
        }
        Some(_) => Ok(uri),
    }
}

fn is_host_and_port(authority: &Authority) -> bool {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") => true,
        Some(port) => port.starts_with(':') && authority.port_u16().is_some_and(|port| port > 0),
        None => false,
    }
}

/// Makes connections for the address in the job's member `member`.
pub(crate) fn connector(uri: &Uri, connect_timeout: Duration, member: &str) -> Result<HttpsConnector<HttpConnector>> {
    let mut tcp = HttpConnector::new();
    // A batch is one small write: Nagle's algorithm would hold it back.
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(connect_timeout));
    // Named, as with several linked in the process-wide default of rustls panics.
    let provider: Arc<CryptoProvider> = rustls::crypto::ring::default_provider().into();
    let builder = HttpsConnectorBuilder::new();
    let builder = if uri.scheme_str() == Some("https") {
        builder.with_provider_and_native_roots(provider).map_err(|error| {
            Error::outside(format!(
                "{member} is https, but this system has no trusted certificates ({error}); install the package ca-certificates or \
                 set SSL_CERT_FILE"
            ))
        })?
    } else {
        // Never used for a connection: reading the system's certificates would cost each start for nothing.
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring offers the default protocol versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(tcp))
}

/// Reads to the end or to the bound; what has come stays in `answer` also when this is cancelled.
pub(crate) async fn read_answer(mut body: Incoming, max_bytes: usize, answer: &mut Vec<u8>) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        if answer.len() + data.len() > max_bytes {
            return;
        }
        answer.extend_from_slice(data);
    }
}

pub(crate) fn quote(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {}", text.chars().take(MAX_QUOTED_CHARS).collect::<String>()) }
}

/// The whole chain of causes: hyper's own message alone does not say that the connection was refused.
pub(crate) fn explain_chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
