//! Bodies of requests and files. The first byte chooses the schema, the rest is the body.
//!
//! The fast path and the general parser give the same rows; every batch is sound; the journal gives the same batch back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::journal::{decode_record, encode_record};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_decoded, assert_same, schema};

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let schema = schema(*choice);
    let decoder = || Decoder::new(&schema, 32, MAX_AHEAD_US).expect("a valid schema");
    let mut fast = decoder();
    let mut general = decoder();
    general.use_general_parser_only();
    for positions in [Positions::Ordinal, Positions::Bytes] {
        let expected = general.decode_ndjson(body, NOW_US, positions);
        assert_decoded(&expected, NOW_US + MAX_AHEAD_US);
        if positions == Positions::Ordinal {
            assert_eq!(expected.span, (expected.rows() + expected.rejects.len()) as u64);
        }
        // the second time it has learnt the body's shape
        for _ in 0..2 {
            assert_same(&fast.decode_ndjson(body, NOW_US, positions), &expected);
        }
        if expected.span > 0 {
            let mut frame = Vec::new();
            encode_record(&expected, None, 7, &mut frame).expect("a small batch");
            let (record, length) = decode_record(&frame).expect("the frame was just made");
            assert_eq!((record.first_offset, length), (7, frame.len()));
            assert_same(&record.batch, &expected);
        }
    }
    match (fast.decode_json(body, NOW_US), general.decode_json(body, NOW_US)) {
        (Ok(fast), Ok(general)) => {
            assert_decoded(&general, NOW_US + MAX_AHEAD_US);
            assert_same(&fast, &general);
        }
        (fast, general) => {
            let (fast, general) = (fast.expect_err("both refuse"), general.expect_err("both refuse"));
            assert_eq!(fast, general);
            assert!(fast.position <= body.len());
        }
    }
});
