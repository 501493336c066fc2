//! Avro messages, bodies and container files. The first byte chooses the job's schema, the second the framing, the rest is the
//! message, the body or the file.
//!
//! Every batch is sound; a message is read alone as it is among others; the journal gives the same batch back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamjob_core::config::{AvroConfig, Framing};
use streamjob_core::decode::{BlockFormat, Decoder, Payload};
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US, assert_decoded, assert_kept, assert_same, schema};

const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"k","type":["null","string","long"]},
    {"name":"t","type":[{"type":"long","logicalType":"timestamp-micros"},"string","double","int"]},
    {"name":"f","type":["null","double","float","int",{"type":"bytes","logicalType":"decimal","precision":8,"scale":2}]},
    {"name":"i","type":["null","long","double"]},
    {"name":"b","type":["null","boolean"]},
    {"name":"s","type":["null","string","bytes",{"type":"enum","name":"E","symbols":["A","B"]},{"type":"fixed","name":"F","size":3}]},
    {"name":"x","type":["null",{"type":"array","items":["R","long"]},{"type":"map","values":"R"}]}]}"#;
const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let [choice, framing, body @ ..] = data else { return };
    let schema = schema(*choice);
    let framing = [Framing::Plain, Framing::SingleObject, Framing::Confluent][usize::from(*framing) % 3];
    let config = AvroConfig { schema: Some(SCHEMA.to_string()), writers: Vec::new(), framing, registry: None };
    let decoder = || {
        let decoder = Decoder::new(&schema, 32, MAX_AHEAD_US).expect("a valid schema");
        decoder.with_avro(&config).expect("a schema with all fields")
    };
    let messages = |payloads: &[Payload], span| {
        let mut decoder = decoder();
        if let Err(wanted) = decoder.decode_messages(payloads, &[], span) {
            for id in wanted.0 {
                decoder.learn(id, if id % 2 == 0 { Ok(SCHEMA) } else { Err("there is none".to_string()) });
            }
        }
        decoder.decode_messages(payloads, &[], span).expect("all schemas are known")
    };
    let alone = messages(&[Payload { bytes: Some(body), relative_offset: 1, clock_us: NOW_US }], 3);
    assert_decoded(&alone, NOW_US + MAX_AHEAD_US);
    assert_eq!((alone.rows() + alone.rejects.len(), alone.span), (1, 3));
    let half = &body[..body.len() / 2];
    let both = messages(
        &[
            Payload { bytes: Some(half), relative_offset: 0, clock_us: NOW_US },
            Payload { bytes: Some(body), relative_offset: 1, clock_us: NOW_US },
        ],
        3,
    );
    assert_decoded(&both, NOW_US + MAX_AHEAD_US);
    let (alone, both) = (alone.cut(1, 2), both.cut(1, 2));
    assert_eq!((alone.time_us.clone(), alone.columns.clone()), (both.time_us.clone(), both.columns.clone()));

    let mut first = decoder();
    if let Ok(batch) = first.decode_avro(body, LIMIT, NOW_US) {
        assert_decoded(&batch, NOW_US + MAX_AHEAD_US);
        assert_eq!(batch.span, (batch.rows() + batch.rejects.len()) as u64);
        assert_kept(&batch);
        let again = first.decode_avro(body, LIMIT, NOW_US).expect("it was just read");
        assert_same(&again, &batch);
    }
    if let Ok(format) = BlockFormat::avro(body) {
        let blocks = &body[format.start() as usize..];
        if let Ok(batch) = decoder().decode_blocks(&format, blocks, 0, NOW_US) {
            assert_decoded(&batch, NOW_US + MAX_AHEAD_US);
            let rest = decoder().decode_blocks(&format, blocks, 1, NOW_US).expect("it was just read");
            assert_eq!(rest.time_us, batch.cut(batch.span.min(1), batch.span).time_us);
        }
    }
});
