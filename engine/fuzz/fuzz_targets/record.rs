//! One record of the journal, damaged anywhere. The first byte says what the rest is:
//!
//! - `p`: a payload as it lies behind a frame's header,
//! - `f`: a frame,
//! - `d`: one byte each for how often to damage, then (place, new byte) pairs, then a body that is decoded and encoded;
//!   the checksums are made to fit again, so that what lies behind them is reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::batch::RowBatch;
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::journal::{
    FRAME_HEADER_BYTES, RequestError, RequestRecord, decode_payload, decode_record, encode_record, seal_frame,
};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_same, assert_sound, schema};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        b'p' => {
            for span in [rest.len() as u64, u64::MAX] {
                if let Ok(record) = decode_payload(rest, 0, span) {
                    assert_readable(&record.batch);
                }
            }
        }
        b'f' => {
            if let Ok((record, length)) = decode_record(rest) {
                assert!(length <= rest.len());
                assert_readable(&record.batch);
            }
        }
        b'd' => damage(rest),
        _ => {}
    }
});

fn damage(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let Some((damages, rest)) = rest.split_at_checked(usize::from(count % 8) * 3) else { return };
    let Some((choice, body)) = rest.split_first() else { return };
    let mut decoder = Decoder::new(&schema(*choice), 32, MAX_AHEAD_US).expect("a valid schema");
    let batch = decoder.decode_ndjson(body, NOW_US, Positions::Bytes);
    if batch.span == 0 {
        return;
    }
    let errors = vec![RequestError { row: 0, field: "f".to_owned(), reason: "no number".to_owned() }];
    let request = RequestRecord { id: "a".to_owned(), body_hash: 1, received_us: 2, accepted: 3, rejected: 4, errors };
    let mut frame = Vec::new();
    encode_record(&batch, choice.is_multiple_of(2).then_some(&request), 0, &mut frame).expect("a small batch");
    for damage in damages.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % (frame.len() - FRAME_HEADER_BYTES);
        frame[FRAME_HEADER_BYTES + at] = damage[2];
    }
    let crc = crc32fast::hash(&frame[FRAME_HEADER_BYTES..]);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    seal_frame(&mut frame, 0);
    match decode_record(&frame) {
        Ok((record, length)) => {
            assert_eq!(length, frame.len());
            assert_readable(&record.batch);
        }
        Err(_) => assert!(!damages.is_empty(), "an undamaged frame is read"),
    }
}

/// What was read is sound, and can be written and read again.
fn assert_readable(batch: &RowBatch) {
    assert_sound(batch);
    if batch.span > 0 {
        let mut frame = Vec::new();
        encode_record(batch, None, 0, &mut frame).expect("the batch is within bounds");
        let (again, _) = decode_record(&frame).expect("the frame was just made");
        assert_same(&again.batch, batch);
    }
}
