//! Rows through decoder, windows, commits and restarts. Results do not depend on batching (I11), every row is counted
//! once (I6), and a commit brings back what it took (I1).
//!
//! Lines of the input are rows; those that begin with `!` cut the batch, and do: `!c` a commit, `!r` a commit and a
//! restart from it, `!w` closing windows.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::JobConfig;
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::ledger::{Ledger, Outcome};
use streamjob_core::outbox::Batch;
use streamjob_core::plan::Plan;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::END_OF_TIME;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::udf::NoUdfs;
use streamjob_fuzz::{MAX_AHEAD_US, NOW_US};

const SHARDS: u16 = 2;
/// Number of the sink that takes the rows of the long window.
const LONG: usize = 1;

fuzz_target!(|data: &[u8]| {
    static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| Plan::compile(job()).expect("the job compiles"));
    let plan = PLAN.clone();
    let mut batched = Run::new(plan.clone());
    let mut single = Run::new(plan);
    let mut body = Vec::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if line.first() != Some(&b'!') {
            body.extend_from_slice(line);
            single.deliver(line);
            continue;
        }
        batched.deliver(&std::mem::take(&mut body));
        match line.get(1) {
            Some(b'c') => batched.commit(),
            Some(b'r') => batched.restart(),
            Some(b'w') => batched.close(),
            _ => {}
        }
    }
    batched.deliver(&body);
    assert_eq!(batched.end(), single.end());
});

fn job() -> JobConfig {
    let functions = ["count", "sum", "mean", "min", "max", "variance", "stddev", "first", "last"];
    let aggregates = |column: &str| {
        functions.map(|function| json!({"name": format!("{function}_{column}"), "function": function, "argument": {"kind": "column", "name": column}}))
    };
    let mut with_count = aggregates("i").to_vec();
    with_count.push(json!({"name": "n", "function": "count", "argument": null}));
    let sink = |name: &str, from: &str| json!({"name": name, "from": from, "where": null, "delivery": "exactly-once", "file": {"path": "/out", "format": "ndjson"}, "http": null, "stdout": null});
    let job = json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "test", "shards": SHARDS,
        "schema": {
            "key": {"field": "k"}, "time": {"field": "t", "unit": "us", "format": null, "timezone": "UTC"},
            "fields": [{"name": "k", "type": "string"}, {"name": "f", "type": "float64"}, {"name": "i", "type": "int64"}],
        },
        "where": {"kind": "call", "function": "coalesce", "args": [
            {"kind": "call", "function": "ne", "args": [{"kind": "column", "name": "i"}, {"kind": "literal", "value": 7}]},
            {"kind": "literal", "value": true},
        ]},
        "sources": [],
        "time": {"max_out_of_orderness_us": 3, "idle_timeout_us": 1, "allowed_lateness_us": 0, "max_ahead_us": MAX_AHEAD_US, "close_when_idle": false},
        "windows": [
            {"name": "short", "tumbling": {"size_us": 10}, "aggregates": aggregates("f")},
            {"name": "long", "tumbling": {"size_us": 1_000_000}, "aggregates": with_count},
        ],
        "udfs": [],
        "sinks": [sink("a", "short"), sink("b", "long"), sink("c", "events")],
        "dead_letters": null,
        "checkpoint": {"interval_us": 5_000_000},
        "ingest": {"durability": "fsync", "max_wait_us": 1, "max_body_bytes": 1},
        "idempotency": {"retention_us": 1},
        "engine": {"worker_threads": 1, "pin_cores": false, "batch_rows": 5, "batch_linger_us": 0},
        "state": {"memory_bytes": 1}, "history": {"raw_us": 1000}, "rest": {"bearer_token": null, "cors_origins": []},
    });
    JobConfig::from_json(&job.to_string()).expect("a valid job")
}

#[derive(Default)]
struct Collected {
    /// By sink.
    lines: BTreeMap<usize, Vec<String>>,
}

impl SinkPort for Collected {
    fn append(&mut self, sink: usize, _: u16, _: u64, rows: u32, bytes: &[u8]) -> streamjob_core::Result<()> {
        let text = std::str::from_utf8(bytes).expect("what leaves is UTF-8");
        assert_eq!(text.lines().count(), rows as usize);
        for line in text.lines() {
            serde_json::from_str::<serde::de::IgnoredAny>(line).expect("what leaves is JSON");
            self.lines.entry(sink).or_default().push(line.to_owned());
        }
        Ok(())
    }

    fn send(&mut self, _: usize, _: u16, _: &Batch) -> streamjob_core::Result<()> {
        unreachable!("no sink takes messages")
    }
}

struct Run {
    plan: Arc<Plan>,
    decoder: Decoder,
    stores: Vec<Arc<dyn ShardStore>>,
    writes: WriteSet,
    processor: Processor,
    port: Collected,
    next: u64,
}

fn open(plan: &Arc<Plan>, stores: &[Arc<dyn ShardStore>]) -> Processor {
    let splits = vec![SplitInfo { id: "in@1".into(), source: "in".into(), chained: true }];
    let shard = |(id, store): (usize, &Arc<dyn ShardStore>)| {
        Shard::open(id as u16, plan.clone(), store.clone(), &splits).expect("the store opens")
    };
    Processor::new(plan.clone(), splits.clone(), stores.iter().enumerate().map(shard).collect(), Box::new(NoUdfs))
}

impl Run {
    fn new(plan: Arc<Plan>) -> Run {
        let stores: Vec<Arc<dyn ShardStore>> = (0..SHARDS).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn ShardStore>).collect();
        let decoder = Decoder::new(&plan.config.schema, SHARDS, MAX_AHEAD_US).expect("a decodable schema");
        Run {
            processor: open(&plan, &stores),
            decoder,
            plan,
            stores,
            writes: WriteSet::default(),
            port: Collected::default(),
            next: 0,
        }
    }

    fn deliver(&mut self, body: &[u8]) {
        let batch: RowBatch = self.decoder.decode_ndjson(body, NOW_US, Positions::Ordinal);
        let rows = (0..batch.rows() as u32).collect();
        let delivery = Delivery::new(0, self.next, Arc::new(batch), rows);
        self.next = delivery.to();
        let refusals = self.processor.process(&[delivery], &mut self.port).expect("the rows are fine");
        assert!(refusals.is_empty());
    }

    fn close(&mut self) {
        while self.processor.close_windows(3, &mut self.port).expect("windows close") {}
    }

    fn commit(&mut self) {
        for shard in 0..SHARDS {
            if let Some(mut frozen) = self.processor.freeze(shard) {
                let store = &self.stores[usize::from(shard)];
                frozen.write_set(store, &mut self.writes).expect("an encodable commit");
                store.commit(&self.writes).expect("memory");
                self.processor.committed(shard, frozen.epoch, &frozen.sends, &mut self.port).expect("no sink fails");
                self.processor.reuse(frozen.take_buffers());
            }
        }
    }

    fn restart(&mut self) {
        self.commit();
        self.processor = open(&self.plan, &self.stores);
    }

    /// All results by sink, sorted, and the ledger.
    fn end(mut self) -> (BTreeMap<usize, Vec<String>>, String) {
        for shard in self.processor.shards_mut() {
            shard.set_watermark(END_OF_TIME);
        }
        self.close();
        let mut ledger = Ledger::default();
        self.processor.shards().iter().for_each(|shard| ledger.add(&shard.ledger));
        assert_eq!(ledger.taken(), self.next, "every row is counted once");
        // the long window's end is never before the short one's: a row that is not late is in it
        let counted = self.port.lines.get(&LONG).into_iter().flatten().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
            row["n"].as_u64().expect("a count")
        });
        assert_eq!(counted.sum::<u64>(), ledger.of(Outcome::Applied), "every applied row is in a window");
        self.port.lines.values_mut().for_each(|lines| lines.sort());
        (self.port.lines, serde_json::to_string(&ledger).expect("a ledger is plain data"))
    }
}
