//! Avro schemas from anybody: the input up to the first zero byte is a schema, the rest a row of it and a body.
//!
//! A schema is refused or rows are read by it; neither panics, recurses without end or loops.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::config::{AvroConfig, Framing};
use streamjob_core::decode::{Decoder, Payload};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_decoded, schema};

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, body) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let Ok(text) = std::str::from_utf8(text) else { return };
    let schema = schema(b'0');
    let decoder = || Decoder::new(&schema, 32, MAX_AHEAD_US).expect("a valid schema");
    let config = |framing| AvroConfig { schema: Some(text.to_string()), writers: Vec::new(), framing, registry: None };
    let _ = decoder().with_avro(&config(Framing::SingleObject));
    let plain = decoder().with_avro(&config(Framing::Plain));
    if let Ok(mut decoder) = plain {
        let batch = decoder
            .decode_messages(&[Payload { bytes: Some(body), relative_offset: 0, clock_us: NOW_US }], &[], 1)
            .expect("no registry");
        assert_decoded(&batch, NOW_US + MAX_AHEAD_US);
        let _ = decoder.decode_avro(body, 1 << 20, NOW_US);
    }
    // as a writer's schema it need not have the job's fields
    let config = AvroConfig { schema: None, writers: Vec::new(), framing: Framing::Confluent, registry: None };
    let mut decoder = decoder().with_avro(&config).expect("no schema is needed");
    decoder.learn(1, Ok(text));
    let message = [&[0, 0, 0, 0, 1], body].concat();
    let batch = decoder
        .decode_messages(&[Payload { bytes: Some(&message), relative_offset: 0, clock_us: NOW_US }], &[], 1)
        .expect("it is known");
    assert_decoded(&batch, NOW_US + MAX_AHEAD_US);
});
