//! Arrow IPC, streams and files. The first byte chooses the job's schema, the rest is the body.
//!
//! Every batch is sound; the rows behind the first are those that are read when one is skipped; the journal gives the same
//! batch back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::decode::{BlockFormat, Decoder, Unit};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_decoded, assert_kept, schema};

const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let schema = schema(*choice);
    let mut decoder = Decoder::new(&schema, 32, MAX_AHEAD_US).expect("a valid schema");
    let format = BlockFormat::arrow(body);
    let mut at = (format.start() as usize).min(body.len());
    let blocks = &body[at..];
    while at < body.len() {
        match format.scan(&body[at..]) {
            Ok(Unit::Prelude(bytes) | Unit::Block { bytes, .. }) => at += bytes.max(1),
            _ => break,
        }
    }
    let Ok(batch) = decoder.decode_arrow(body, LIMIT, NOW_US) else { return };
    assert_decoded(&batch, NOW_US + MAX_AHEAD_US);
    assert_eq!(batch.span, (batch.rows() + batch.rejects.len()) as u64);
    assert_kept(&batch);
    let rest = decoder.decode_blocks(&format, blocks, 1, NOW_US).expect("it was just read");
    assert_eq!(rest.time_us, batch.cut(batch.span.min(1), batch.span).time_us);
});
