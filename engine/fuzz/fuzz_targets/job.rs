//! Jobs: each one is compiled or refused, and never panics; one that compiles runs.
//!
//! Input that begins with `{` is a job as it stands. Other input changes a valid job: values are replaced, taken from
//! other places, doubled or removed.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use streamjob_core::config::{FieldType, JobConfig};
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::outbox::Batch;
use streamjob_core::plan::Plan;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::END_OF_TIME;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::store::{MemoryStore, WriteSet};
use streamjob_core::udf::NoUdfs;
use streamjob_fuzz::{NOW_US, assert_sound};

const JOBS: [&str; 3] = [
    include_str!("../../testdata/normalised/minimal.json"),
    include_str!("../../testdata/normalised/telemetry.json"),
    include_str!("../../testdata/normalised/full.json"),
];
/// More shards are compiled but not run: opening them takes long.
const MAX_SHARDS: u16 = 32;

fuzz_target!(|data: &[u8]| {
    match data.first() {
        Some(b'{') => {
            if let Ok(json) = std::str::from_utf8(data) {
                check(json);
            }
        }
        _ => {
            if let Ok(job) = changed(&mut Unstructured::new(data)) {
                check(&job.to_string());
            }
        }
    }
});

fn check(json: &str) {
    let Ok(config) = JobConfig::from_json(json) else { return };
    let text = serde_json::to_string(&config).expect("a job is plain data");
    assert_eq!(JobConfig::from_json(&text).expect("its own text is read"), config);
    let Ok(plan) = Plan::compile(config) else { return };
    assert_eq!(plan.gathered.len(), plan.event_columns.len());
    run(plan);
}

struct Nowhere;

impl SinkPort for Nowhere {
    fn append(&mut self, _: usize, _: u16, _: u64, _: u32, bytes: &[u8]) -> streamjob_core::Result<()> {
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(assert_json);
        Ok(())
    }

    fn send(&mut self, _: usize, _: u16, batch: &Batch) -> streamjob_core::Result<()> {
        assert_json(&batch.body);
        Ok(())
    }
}

fn assert_json(text: &[u8]) {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).expect("what leaves is JSON");
}

/// A few rows of the job's schema go all the way.
fn run(plan: Arc<Plan>) {
    let schema = &plan.config.schema;
    let Ok(mut decoder) = Decoder::new(schema, plan.config.shards, 1_000_000) else { return };
    if plan.config.shards > MAX_SHARDS || !plan.config.udfs.is_empty() {
        return;
    }
    let body: String = (0..4).map(|row| format!("{}\n", line(&plan.config, row))).collect();
    let batch = decoder.decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal);
    assert_sound(&batch);
    let splits = vec![SplitInfo { id: "in@1".into(), source: "in".into(), chained: true }];
    let shards = (0..plan.config.shards)
        .map(|id| Shard::open(id, plan.clone(), Arc::new(MemoryStore::new()), &splits).expect("an empty store opens"))
        .collect();
    let mut processor = Processor::new(plan, splits, shards, Box::new(NoUdfs));
    let rows = (0..batch.rows() as u32).collect();
    let refusals = processor.process(&[Delivery::new(0, 0, Arc::new(batch), rows)], &mut Nowhere).expect("the rows are fine");
    assert!(refusals.is_empty());
    for shard in 0..processor.shards().len() as u16 {
        processor.shard_mut(shard).expect("all are there").set_watermark(END_OF_TIME);
    }
    while processor.close_windows(1 << 16, &mut Nowhere).expect("windows close") {}
    for shard in 0..processor.shards().len() as u16 {
        if let Some(frozen) = processor.freeze(shard) {
            frozen.write_set(&MemoryStore::new(), &mut WriteSet::default()).expect("an encodable commit");
        }
    }
}

fn line(config: &JobConfig, row: i64) -> Value {
    let mut line = json!({});
    for field in &config.schema.fields {
        line[&field.name] = match field.data_type {
            FieldType::String => json!(format!("a\"{row}")),
            FieldType::Float64 => json!(row as f64 * 1e200),
            FieldType::Int64 => json!(row * (i64::MAX / 4)),
            FieldType::Bool => json!(row % 2 == 0),
        };
    }
    let time = match config.schema.time.unit {
        Some(_) => json!(row * 1000 - 500),
        None => json!("2023-11-14T22:13:20Z"),
    };
    line[&config.schema.time.field] = time;
    line
}

fn changed(input: &mut Unstructured) -> Result<Value> {
    let mut job: Value = serde_json::from_str(input.choose(&JOBS)?).expect("a valid job");
    for _ in 0..input.int_in_range(1..=8u8)? {
        let mut places = Vec::new();
        list(&job, String::new(), &mut places);
        let (place, other) = (input.choose(&places)?.clone(), input.choose(&places)?.clone());
        let value = match input.int_in_range(0..=12u8)? {
            0 => Value::Null,
            1 => json!(input.arbitrary::<i64>()?),
            2 => json!(*input.choose(&[0, 1, -1, i64::MAX, i64::MIN, 65_535, 65_536, 4_294_967_296])?),
            3 => json!(f64::from_bits(input.arbitrary()?)),
            4 => json!(input.arbitrary::<&str>()?),
            5 => json!(*input.choose(&["events", "count", "sum", "key", "", "%Y", "%s", "\0", "UTC", "first", "variance", "x"])?),
            6 => json!(input.arbitrary::<bool>()?),
            7 => json!([]),
            8 => json!({}),
            // half of the changes take a value from elsewhere
            _ => job.pointer(&other).cloned().unwrap_or_default(),
        };
        let double = input.arbitrary()?;
        match job.pointer_mut(&place) {
            Some(Value::Array(values)) if double => values.push(value),
            Some(Value::Object(members)) if double => {
                members.shift_remove(other.rsplit('/').next().unwrap_or_default());
            }
            Some(target) => *target = value,
            None => {}
        }
    }
    Ok(job)
}

/// JSON pointers of all values.
fn list(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| list(member, format!("{place}/{name}"), places)),
        Value::Array(values) => values.iter().enumerate().for_each(|(i, value)| list(value, format!("{place}/{i}"), places)),
        _ => {}
    }
    places.push(place);
}
