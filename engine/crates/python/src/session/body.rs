//! Which of the two JSON formats a body has.

use serde::de::IgnoredAny;
use streamjob_core::Error;
use streamjob_core::Result;
use streamjob_core::batch::RowBatch;
use streamjob_core::decode::{Decoder, MAX_BODY_BYTES};

/// Rows of a body, or why it is none as a whole.
pub fn decode(decoder: &mut Decoder, body: &[u8], now_us: i64) -> Result<std::result::Result<RowBatch, String>> {
    if body.len() > MAX_BODY_BYTES {
        let (got, limit) = (body.len(), MAX_BODY_BYTES);
        return Err(Error::user(format!("the body has {got} bytes and one call takes {limit}; send it in parts")));
    }
    if is_one_value(body) {
        let decoded = decoder.decode_json(body, now_us);
        return Ok(decoded.map_err(|error| error.explain(|error| format!("the body is not JSON: {error}"))));
    }
    Ok(decoder.decode_lines(body, now_us).map_err(|error| error.reason))
}

/// An array, one object (perhaps over several lines), or nothing at all; everything else is lines.
fn is_one_value(body: &[u8]) -> bool {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None | Some(b'[') => true,
        Some(b'{') => {
            let mut values = serde_json::Deserializer::from_slice(body).into_iter::<IgnoredAny>();
            let complete = matches!(values.next(), Some(Ok(_)));
            complete && body[values.byte_offset()..].iter().all(u8::is_ascii_whitespace)
        }
        Some(_) => false,
    }
}
