//! The streams that take a subject, and whether their promises suffice.

use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use serde::Deserialize;
use streamjob_core::config::{Delivery as Guarantee, NatsSinkConfig};
use streamjob_core::{Error, Result};

/// One page of the server's answer.
#[derive(Debug, Deserialize)]
struct Listed {
    streams: Option<Vec<Info>>,
}

#[derive(Debug, Deserialize)]
struct Info {
    config: StreamConfig,
}

/// What the sink must know of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct StreamConfig {
    pub name: String,
    /// Nanoseconds.
    #[serde(default)]
    duplicate_window: u64,
    #[serde(default)]
    no_ack: bool,
}

impl StreamConfig {
    /// For so long it remembers the ids of messages.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.duplicate_window)
    }
}

/// The status of what may work in a moment, as in HTTP.
const UNAVAILABLE: usize = 503;
/// But for these: JetStream is not there, for anybody or for the account.
const NOT_ENABLED: [ErrorCode; 2] = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];

/// The streams whose subjects meet `wildcard`.
pub(super) async fn streams_of(context: &Context, wildcard: &str) -> Result<Vec<StreamConfig>> {
    let asked = serde_json::json!({"offset": 0, "subject": wildcard});
    let answer: Response<Listed> = context
        .request("STREAM.LIST", &asked)
        .await
        .map_err(|error| Error::outside(format!("asking for the streams of {wildcard}: {error}; is JetStream enabled?")))?;
    match answer {
        Response::Ok(listed) => Ok(listed.streams.into_iter().flatten().map(|info| info.config).collect()),
        // It has no leader, or is short of something, at the moment.
        Response::Err { error } if error.code() == UNAVAILABLE && !NOT_ENABLED.contains(&error.error_code()) => {
            Err(Error::outside(format!("asking for the streams of {wildcard}: {error}")))
        }
        Response::Err { error } => Err(Error::user(format!(
            "asking for the streams of {wildcard}: {error}; let the user publish to $JS.API.STREAM.LIST, and enable JetStream"
        ))),
    }
}

/// Whether rows can be sent to them as the job says.
///
/// # Errors
/// `user`, with what to do.
pub(super) fn check_streams(
    streams: &[StreamConfig],
    wildcard: &str,
    config: &NatsSinkConfig,
    guarantee: Guarantee,
) -> Result<()> {
    if streams.is_empty() {
        return Err(Error::user(format!(
            "no stream takes the subject {wildcard}; create one: nats stream add NAME --subjects '{wildcard}'"
        )));
    }
    if let Some(stream) = streams.iter().find(|stream| stream.no_ack) {
        return Err(Error::user(format!(
            "the stream {} confirms nothing (no_ack); let it: nats stream edit {} --ack",
            stream.name, stream.name
        )));
    }
    let wanted = Duration::from_micros(config.duplicate_window_us.max(0) as u64);
    match streams.iter().find(|stream| stream.window() < wanted) {
        Some(stream) if guarantee == Guarantee::ExactlyOnce => Err(Error::user(format!(
            "the stream {name} remembers the ids of messages for {:?}, and exactly-once asks for {wanted:?}; let it remember \
             longer: nats stream edit {name} --dupe-window={}s, or set duplicateWindow",
            stream.window(),
            wanted.as_secs().max(1),
            name = stream.name,
        ))),
        _ => Ok(()),
    }
}
