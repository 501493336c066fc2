//! The steps of the hot path, one at a time and in a steady state. `counts/run.py` runs each under callgrind and counts the
//! instructions of its `counted_…` function alone; run by hand it does the work and prints the rows of each step.
//!
//! A `counted_…` function is entered a fixed number of times and has no closure of its own, whose name would contain its
//! name. Everything is derived from the row's number: no clock, no randomness.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use serde_json::json;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::{AvroConfig, Framing, JobConfig};
use streamjob_core::decode::{Decoder, Payload, Positions};
use streamjob_core::journal::{RecordEncoder, decode_record, seal_frame};
use streamjob_core::outbox::Batch;
use streamjob_core::plan::Plan;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::END_OF_TIME;
use streamjob_core::route::Router;
use streamjob_core::shard::{Frozen, Shard, SplitInfo};
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::udf::NoUdfs;

/// Rows of a request.
const ROWS: usize = 1000;
/// Rows of a worker's batch.
const BATCH_ROWS: usize = 8192;
/// Devices of the usual case.
const KEYS: usize = 10_000;
const SHARDS: u16 = 32;
/// How often each counted function is entered.
const ROUNDS: usize = 4;
const NOW_US: i64 = 1_700_100_000_000_000;
const START_MS: usize = 1_700_000_000_000;

fn main() {
    type Step = (&'static str, fn() -> usize);
    let steps: [Step; 9] = [
        ("decode", decode),
        ("nested", nested),
        ("avro", avro),
        ("route", route),
        ("aggregate", aggregate),
        ("windows", windows),
        ("commit", commit),
        ("journal_encode", journal_encode),
        ("journal_decode", journal_decode),
    ];
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, step) in steps.into_iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)) {
        println!("{name} {}", step());
    }
}

fn job(shards: u16) -> JobConfig {
    let aggregate = |function: &str| {
        let argument = (function != "count").then(|| json!({"kind": "column", "name": "temperature"}));
        json!({"name": function, "function": function, "argument": argument})
    };
    let aggregates = ["count", "sum", "mean", "min", "max", "stddev"].map(aggregate);
    let job = json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "counts", "shards": shards,
        "schema": {
            "key": {"field": "device_id"},
            "time": {"field": "timestamp", "unit": "ms", "format": null, "timezone": "UTC"},
            "fields": [
                {"name": "device_id", "type": "string"},
                {"name": "temperature", "type": "float64"},
                {"name": "humidity", "type": "float64"},
            ],
        },
        "where": null, "sources": [],
        "time": {"max_out_of_orderness_us": 1_000_000, "idle_timeout_us": 1, "allowed_lateness_us": 0, "max_ahead_us": 86_400_000_000_i64, "close_when_idle": false},
        "windows": [{
            "name": "minute", "tumbling": {"size_us": 60_000_000},
            "aggregates": aggregates,
        }],
        "udfs": [],
        "sinks": [{"name": "out", "from": "minute", "where": null, "delivery": "exactly-once", "file": {"path": "/out", "format": "ndjson"}, "http": null, "stdout": null}],
        "dead_letters": null,
        "checkpoint": {"interval_us": 5_000_000},
        "ingest": {"durability": "fsync", "max_wait_us": 1, "max_body_bytes": 1},
        "idempotency": {"retention_us": 1},
        "engine": {"worker_threads": 1, "pin_cores": false, "batch_rows": BATCH_ROWS, "batch_linger_us": 0},
        "state": {"memory_bytes": 1_u64 << 30}, "history": {"raw_us": 86_400_000_000_i64},
        "rest": {"bearer_token": null, "cors_origins": []},
    });
    JobConfig::from_json(&job.to_string()).expect("a valid job")
}

/// A body of `rows` rows from number `first` on, over `keys` devices; all within one minute.
fn body(first: usize, rows: usize, keys: usize) -> String {
    let mut text = String::new();
    for i in first..first + rows {
        let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (device, time) = (i * 7919 % keys, START_MS + i / 4);
        let (temperature, humidity) = ((random % 4000) as f64 / 100.0, (random / 4000 % 1000) as f64 / 10.0);
        let _ = writeln!(
            text,
            r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":{temperature},"humidity":{humidity}}}"#
        );
    }
    text
}

fn decoder() -> Decoder {
    Decoder::new(&job(SHARDS).schema, SHARDS, 86_400_000_000).expect("a decodable schema")
}

fn batch(first: usize, rows: usize, keys: usize) -> Arc<RowBatch> {
    let batch = decoder().decode_ndjson(body(first, rows, keys).as_bytes(), NOW_US, Positions::Ordinal);
    assert_eq!((batch.rows(), batch.span), (rows, rows as u64));
    Arc::new(batch)
}

fn decode() -> usize {
    let bodies: Vec<String> = (0..2 * ROUNDS).map(|round| body(round * ROWS, ROWS, KEYS)).collect();
    let mut decoder = decoder();
    for body in &bodies[..ROUNDS] {
        black_box(decoder.decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal));
    }
    for body in &bodies[ROUNDS..] {
        assert_eq!(counted_decode(&mut decoder, body.as_bytes()).rows(), ROWS);
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_decode(decoder: &mut Decoder, body: &[u8]) -> RowBatch {
    decoder.decode_ndjson(black_box(body), NOW_US, Positions::Ordinal)
}

/// The same rows with the measurements one object further in.
fn nested() -> usize {
    let mut schema = job(SHARDS).schema;
    for field in &mut schema.fields[1..] {
        field.path = Some(vec!["measured".to_owned(), field.name.clone()]);
    }
    let nest = |text: String| text.replace(",\"temperature\"", ",\"measured\":{\"temperature\"").replace("}\n", "}}\n");
    let bodies: Vec<String> = (0..2 * ROUNDS).map(|round| nest(body(round * ROWS, ROWS, KEYS))).collect();
    let mut decoder = Decoder::new(&schema, SHARDS, 86_400_000_000).expect("a decodable schema");
    for body in &bodies[..ROUNDS] {
        black_box(decoder.decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal));
    }
    for body in &bodies[ROUNDS..] {
        assert_eq!(counted_nested(&mut decoder, body.as_bytes()).rows(), ROWS);
    }
    ROUNDS * ROWS
}

/// Differs from [`counted_decode`] by a `black_box`: of two functions with the same body the compiler keeps one name.
#[inline(never)]
fn counted_nested(decoder: &mut Decoder, body: &[u8]) -> RowBatch {
    decoder.decode_ndjson(black_box(body), black_box(NOW_US), Positions::Ordinal)
}

/// The same rows as Avro messages.
fn avro() -> usize {
    let schema = json!({"type": "record", "name": "R", "fields": [
        {"name": "device_id", "type": "string"}, {"name": "timestamp", "type": "long"},
        {"name": "temperature", "type": "double"}, {"name": "humidity", "type": ["null", "double"]}]});
    let config = AvroConfig { schema: Some(schema.to_string()), writers: Vec::new(), framing: Framing::Plain, registry: None };
    let mut decoder = decoder().with_avro(&config).expect("a schema with all fields");
    let messages: Vec<Vec<u8>> = (0..2 * ROUNDS * ROWS).map(message).collect();
    let payloads: Vec<Payload> = messages
        .iter()
        .enumerate()
        .map(|(i, bytes)| Payload { bytes: Some(bytes), relative_offset: (i % ROWS) as u32, clock_us: NOW_US })
        .collect();
    let (first, then) = payloads.split_at(ROUNDS * ROWS);
    for payloads in first.chunks(ROWS) {
        black_box(decoder.decode_messages(payloads, &[], ROWS as u64).expect("no registry"));
    }
    for payloads in then.chunks(ROWS) {
        assert_eq!(counted_avro(&mut decoder, payloads).rows(), ROWS);
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_avro(decoder: &mut Decoder, payloads: &[Payload]) -> RowBatch {
    decoder.decode_messages(black_box(payloads), &[], ROWS as u64).expect("no registry")
}

fn message(i: usize) -> Vec<u8> {
    let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let device = format!("device-{:06}", i * 7919 % KEYS);
    let mut bytes = vec![2 * device.len() as u8];
    bytes.extend_from_slice(device.as_bytes());
    let mut zigzag = 2 * (START_MS + i / 4);
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes.extend_from_slice(&((random % 4000) as f64 / 100.0).to_le_bytes());
    bytes.push(2);
    bytes.extend_from_slice(&((random / 4000 % 1000) as f64 / 10.0).to_le_bytes());
    bytes
}

fn route() -> usize {
    let worker_of: Arc<[u16]> = (0..SHARDS).map(|shard| shard % 2).collect();
    let mut router = Router::new(0, worker_of, 2, 0);
    let batch = batch(0, ROWS, KEYS);
    for _ in 0..ROUNDS {
        let deliveries = counted_route(&mut router, &batch);
        assert_eq!(deliveries.iter().map(|(_, delivery)| delivery.rows.len()).sum::<usize>(), ROWS);
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_route(router: &mut Router, batch: &Arc<RowBatch>) -> Vec<(usize, Delivery)> {
    router.route(black_box(batch), None)
}

/// Takes all that leaves.
#[derive(Default)]
struct Nowhere {
    rows: usize,
}

impl SinkPort for Nowhere {
    fn append(&mut self, _: usize, _: u16, _: u64, rows: u32, bytes: &[u8]) -> streamjob_core::Result<()> {
        self.rows += rows as usize;
        black_box(bytes);
        Ok(())
    }

    fn send(&mut self, _: usize, _: u16, batch: &Batch) -> streamjob_core::Result<()> {
        black_box(batch);
        Ok(())
    }
}

fn processor(shards: u16) -> Processor {
    let plan = Plan::compile(job(shards)).expect("the job compiles");
    let splits = vec![SplitInfo { id: "in@1".into(), source: "in".into(), chained: true }];
    let shards = (0..shards)
        .map(|id| Shard::open(id, plan.clone(), Arc::new(MemoryStore::new()), &splits).expect("an empty store opens"))
        .collect();
    Processor::new(plan, splits, shards, Box::new(NoUdfs))
}

fn delivery(first: usize, rows: usize, keys: usize) -> Delivery {
    Delivery::new(0, first as u64, batch(first, rows, keys), (0..rows as u32).collect())
}

/// A worker that holds all keys, and the number of rows it has seen.
fn hot_processor() -> (Processor, usize) {
    let mut processor = processor(SHARDS);
    for round in 0..ROUNDS {
        let delivery = delivery(round * BATCH_ROWS, BATCH_ROWS, KEYS);
        assert!(processor.process(&[delivery], &mut Nowhere::default()).expect("the rows are fine").is_empty());
    }
    assert_eq!(processor.shards().iter().map(|shard| shard.table.len()).sum::<usize>(), KEYS);
    (processor, ROUNDS * BATCH_ROWS)
}

fn aggregate() -> usize {
    let (mut processor, seen) = hot_processor();
    let mut port = Nowhere::default();
    for round in 0..ROUNDS {
        let deliveries = [delivery(seen + round * BATCH_ROWS, BATCH_ROWS, KEYS)];
        counted_aggregate(&mut processor, &deliveries, &mut port);
    }
    assert_eq!(port.rows, 0, "no window closes");
    ROUNDS * BATCH_ROWS
}

#[inline(never)]
fn counted_aggregate(processor: &mut Processor, deliveries: &[Delivery], port: &mut Nowhere) {
    black_box(processor.process(black_box(deliveries), port)).expect("the rows are fine");
}

/// Closed windows, from the slot to the sink's line and the history.
fn windows() -> usize {
    let (mut processor, _) = hot_processor();
    for shard in processor.shards_mut() {
        shard.set_watermark(END_OF_TIME);
    }
    let mut port = Nowhere::default();
    counted_windows(&mut processor, &mut port);
    assert_eq!(port.rows, KEYS);
    KEYS
}

#[inline(never)]
fn counted_windows(processor: &mut Processor, port: &mut Nowhere) {
    while processor.close_windows(2048, port).expect("windows close") {}
}

/// One shard with 1,000 changed keys.
fn commit() -> usize {
    let mut processor = processor(1);
    let store = MemoryStore::new();
    let mut writes = WriteSet::default();
    for round in 0..2 * ROUNDS {
        let delivery = delivery(round * ROWS, ROWS, ROWS);
        processor.process(&[delivery], &mut Nowhere::default()).expect("the rows are fine");
        let mut frozen = if round < ROUNDS {
            let frozen = processor.freeze(0).expect("there are changes");
            frozen.write_set(&store, &mut writes).expect("an encodable commit");
            frozen
        } else {
            counted_commit(&mut processor, &store, &mut writes)
        };
        assert_eq!(frozen.sizes().0, ROWS);
        store.commit(&writes).expect("memory");
        processor.committed(0, frozen.epoch, &frozen.sends, &mut Nowhere::default()).expect("no sink fails");
        processor.reuse(frozen.take_buffers());
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_commit(processor: &mut Processor, store: &MemoryStore, writes: &mut WriteSet) -> Frozen {
    let frozen = processor.freeze(0).expect("there are changes");
    frozen.write_set(store, writes).expect("an encodable commit");
    frozen
}

fn journal_encode() -> usize {
    let batches: Vec<Arc<RowBatch>> = (0..2 * ROUNDS).map(|round| batch(round * ROWS, ROWS, KEYS)).collect();
    let mut encoder = RecordEncoder::new();
    let mut out = Vec::new();
    for batch in &batches[..ROUNDS] {
        out.clear();
        encoder.encode_into(batch, None, &mut out).expect("the batch is within bounds");
    }
    for batch in &batches[ROUNDS..] {
        out.clear();
        counted_journal_encode(&mut encoder, batch, &mut out);
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_journal_encode(encoder: &mut RecordEncoder, batch: &RowBatch, out: &mut Vec<u8>) {
    encoder.encode_into(black_box(batch), None, out).expect("the batch is within bounds");
    seal_frame(out, 7);
}

fn journal_decode() -> usize {
    let mut frame = Vec::new();
    RecordEncoder::new().encode_into(&batch(0, ROWS, KEYS), None, &mut frame).expect("the batch is within bounds");
    seal_frame(&mut frame, 7);
    for _ in 0..ROUNDS {
        assert_eq!(counted_journal_decode(&frame).rows(), ROWS);
    }
    ROUNDS * ROWS
}

#[inline(never)]
fn counted_journal_decode(frame: &[u8]) -> Arc<RowBatch> {
    decode_record(black_box(frame)).expect("the frame was just made").0.batch
}
