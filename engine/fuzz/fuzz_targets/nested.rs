//! JSON rows of which members of members are read: the fast path and the general parser give the same rows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::config::SchemaConfig;
use streamjob_core::decode::{Decoder, Payload, Positions};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_decoded, assert_same};

const SCHEMA: &str = r#"{"key":{"field":"k"},
    "time":{"field":"t","path":["p","t"],"unit":"ms","format":null,"timezone":"UTC"},
    "fields":[
        {"name":"k","type":"string","path":null},
        {"name":"f","type":"float64","path":["p","f"]},
        {"name":"i","type":"int64","path":["p","q","i"]},
        {"name":"b","type":"bool","path":["r","b"]},
        {"name":"s","type":"string","path":["r","a.b"]}]}"#;

fuzz_target!(|body: &[u8]| {
    let schema: SchemaConfig = serde_json::from_str(SCHEMA).expect("a valid schema");
    let decoder = || Decoder::new(&schema, 32, MAX_AHEAD_US).expect("a valid schema");
    let (mut fast, mut general) = (decoder(), decoder());
    general.use_general_parser_only();
    let expected = general.decode_ndjson(body, NOW_US, Positions::Bytes);
    assert_decoded(&expected, NOW_US + MAX_AHEAD_US);
    // the second time it has learnt the body's shape
    for _ in 0..2 {
        assert_same(&fast.decode_ndjson(body, NOW_US, Positions::Bytes), &expected);
    }
    let payloads = [Payload { bytes: Some(body), relative_offset: 0, clock_us: NOW_US }];
    let message = fast.decode_messages(&payloads, &[], 1).expect("JSON has no schemas");
    assert_decoded(&message, NOW_US + MAX_AHEAD_US);
    assert_same(&message, &general.decode_messages(&payloads, &[], 1).expect("JSON has no schemas"));
});
