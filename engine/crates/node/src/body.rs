//! Reading a request's body within its share of the memory.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::inbox::{BodyBudget, BodyShare};
use crate::ingest::Answer;

/// A client that sends nothing of a body for so long has gone: what it holds of the budget is others'.
pub const SILENCE: Duration = Duration::from_secs(30);

/// A client that is answered before its body was read still sends it, and many see the connection break where nobody takes it.
/// So the rest is read and dropped, this long at most …
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// … and so much beyond what a body may have.
const DISCARD_BYTES: usize = 8 << 20;

/// Reads the rest of a body that was answered already, within bounds.
pub async fn discard(body: &mut Incoming, limit: usize) {
    let mut left = limit.saturating_add(DISCARD_BYTES);
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(fewer) => left = fewer,
                None => break,
            }
        }
    };
    // A body that takes longer is left: then the connection ends with the answer.
    let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
}

/// Why a body could not be read.
pub enum Broken {
    TooLong,
    NoRoom,
    /// Nothing of it came for [`SILENCE`].
    Silent,
    Off(hyper::Error),
}

/// All of a body. Where it is longer than announced, its share of the memory grows with it.
pub async fn collect(
    body: &mut Incoming,
    limit: usize,
    budget: &BodyBudget,
    share: &mut BodyShare,
) -> std::result::Result<Bytes, Broken> {
    let mut first: Option<Bytes> = None;
    let mut all = Vec::new();
    while let Some(frame) = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| Broken::Silent)? {
        let Ok(data) = frame.map_err(Broken::Off)?.into_data() else { continue };
        let length = first.as_ref().map_or(0, Bytes::len) + all.len() + data.len();
        if length > limit {
            return Err(Broken::TooLong);
        }
        if !budget.grow(share, length) {
            return Err(Broken::NoRoom);
        }
        match (&first, all.is_empty()) {
            // Most bodies come in one piece, which needs no copy.
            (None, true) => first = Some(data),
            _ => {
                if let Some(first) = first.take() {
                    all.reserve(body.size_hint().lower() as usize + first.len() + data.len());
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.into()))
}

/// A body without its compression.
pub fn inflate(decoder: impl Read, limit: usize, too_large: impl Fn() -> Answer) -> std::result::Result<Bytes, Answer> {
    let mut body = Vec::new();
    match decoder.take(limit as u64 + 1).read_to_end(&mut body) {
        Ok(_) if body.len() > limit => Err(too_large()),
        Ok(_) => Ok(body.into()),
        Err(error) => Err(Answer::problem(StatusCode::BAD_REQUEST, &format!("the compressed body is damaged: {error}"))),
    }
}
