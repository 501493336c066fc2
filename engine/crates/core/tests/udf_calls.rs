//! A worker whose functions end its process, which is started again: each row has its results once, and those that end it are the
//! only ones that fail.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array};
use proptest::prelude::*;
use streamjob_core::config::JobConfig;
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::outbox::Batch;
use streamjob_core::plan::Plan;
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::END_OF_TIME;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::udf::record::{CallRecord, IsolatedRows, read};
use streamjob_core::udf::suspects::SavedSuspects;
use streamjob_core::udf::{IsolatedFailure, UdfFailure, UdfHost};

const SHARDS: u16 = 3;
const EVENTS: usize = 0;
const WINDOWS: usize = 1;
const LETTERS: usize = 2;
/// What both functions say of a row that ends their process.
const DIED: &str = "it died";
/// A death is a start more. Two of them for each batch and window that has a killer are enough, and for what they repeat.
const MAX_STARTS: usize = 400;

fn job() -> JobConfig {
    let file = |name: &str, from: &str| {
        serde_json::json!({"name": name, "from": from, "where": null, "delivery": "exactly-once",
            "file": {"path": "/out", "format": "ndjson"}, "http": null, "stdout": null})
    };
    let udf = |name: &str, on: &str, window: Option<&str>, inputs: &[&str], output: &str| {
        serde_json::json!({"name": name, "source": "", "filename": "", "function": "", "on": on, "window": window,
            "inputs": inputs, "outputs": [{"name": output, "type": "float64"}]})
    };
    let json = serde_json::json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "test", "shards": SHARDS,
        "schema": {
            "key": {"field": "k"},
            "time": {"field": "t", "unit": "us", "format": null, "timezone": "UTC"},
            "fields": [{"name": "k", "type": "string"}, {"name": "x", "type": "float64"}],
        },
        "where": null,
        "sources": [{"name": "replay", "http": null, "file": {"path": "/data", "format": "ndjson", "speed": 0.0}}],
        "time": {"max_out_of_orderness_us": 0, "idle_timeout_us": 1, "allowed_lateness_us": 0, "max_ahead_us": 1000000, "close_when_idle": false},
        "windows": [{"name": "w", "tumbling": {"size_us": 10}, "aggregates": [
            {"name": "n", "function": "count", "argument": null},
        ]}],
        "udfs": [
            udf("double", "event", None, &["x", "stats.x.count"], "twice"),
            udf("half", "window", Some("w"), &["n"], "halved"),
        ],
        "sinks": [file("events", "events"), file("windows", "w")],
        "dead_letters": null,
        "checkpoint": {"interval_us": 5000000},
        "ingest": {"durability": "fsync", "max_wait_us": 1, "max_body_bytes": 1},
        "idempotency": {"retention_us": 1},
        "engine": {"worker_threads": 1, "pin_cores": false, "batch_rows": 7, "batch_linger_us": 0},
        "state": {"memory_bytes": 1},
        "history": {"raw_us": 1000},
        "rest": {"bearer_token": null, "cors_origins": []},
    });
    JobConfig::from_json(&json.to_string()).expect("a valid job")
}

/// Negative values, and windows of four rows, end the process.
struct Functions {
    isolated: Arc<Mutex<usize>>,
}

impl Functions {
    fn ends(udf: usize, inputs: &[ArrayRef]) -> bool {
        match udf {
            0 => inputs[0].as_primitive::<Float64Type>().values().iter().any(|value| *value < 0.0),
            _ => inputs[0].as_primitive::<Int64Type>().values().contains(&4),
        }
    }

    fn results(udf: usize, inputs: &[ArrayRef]) -> Vec<ArrayRef> {
        let values: Vec<f64> = match udf {
            0 => inputs[0].as_primitive::<Float64Type>().values().iter().map(|value| value * 2.0).collect(),
            _ => inputs[0].as_primitive::<Int64Type>().values().iter().map(|value| *value as f64 / 2.0).collect(),
        };
        vec![Arc::new(Float64Array::from(values))]
    }
}

impl UdfHost for Functions {
    fn call(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
        assert!(inputs.iter().all(|input| input.len() == rows));
        // The end of the process: nothing that it has in memory is seen again.
        assert!(!Functions::ends(udf, inputs), "{DIED}");
        Ok(Functions::results(udf, inputs))
    }

    fn call_isolated(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, IsolatedFailure> {
        *self.isolated.lock().expect("no panic here") += rows;
        match Functions::ends(udf, inputs) {
            true => Err(IsolatedFailure::Ended(DIED.to_owned())),
            false => Ok(Functions::results(udf, inputs)),
        }
    }
}

/// What outlives the process.
#[derive(Default)]
struct Disk {
    note: Vec<u8>,
    suspects: SavedSuspects,
}

struct Notes(Arc<Mutex<Disk>>);

impl CallRecord for Notes {
    fn begin(&mut self, note: &[u8]) {
        self.0.lock().expect("no panic here").note = note.to_vec();
    }

    fn end(&mut self) {
        self.0.lock().expect("no panic here").note.clear();
    }

    fn isolated(&mut self, isolated: &IsolatedRows<'_>) {
        assert!(isolated.failed <= isolated.rows);
    }

    fn passed(&mut self) {
        self.0.lock().expect("no panic here").suspects = SavedSuspects::default();
    }

    fn all_passed(&self) -> bool {
        self.0.lock().expect("no panic here").suspects == SavedSuspects::default()
    }
}

/// Rows by sink that commits have made visible, and those that wait for one, by shard.
#[derive(Default)]
struct Port {
    visible: BTreeMap<usize, Vec<serde_json::Value>>,
    pending: BTreeMap<(u16, usize), Vec<serde_json::Value>>,
}

impl SinkPort for Port {
    fn append(&mut self, sink: usize, shard: u16, _number: u64, _rows: u32, bytes: &[u8]) -> streamjob_core::Result<()> {
        let rows = std::str::from_utf8(bytes).expect("UTF-8").lines().map(|line| serde_json::from_str(line).expect("JSON"));
        self.pending.entry((shard, sink)).or_default().extend(rows);
        Ok(())
    }

    fn send(&mut self, _sink: usize, _shard: u16, _batch: &Batch) -> streamjob_core::Result<()> {
        Ok(())
    }
}

struct World {
    plan: Arc<Plan>,
    stores: Vec<Arc<dyn ShardStore>>,
    disk: Arc<Mutex<Disk>>,
    isolated: Arc<Mutex<usize>>,
    port: Port,
    starts: usize,
}

impl World {
    fn new() -> World {
        World {
            plan: Plan::compile(job()).expect("the job compiles"),
            stores: (0..SHARDS).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn ShardStore>).collect(),
            disk: Arc::default(),
            isolated: Arc::default(),
            port: Port::default(),
            starts: 0,
        }
    }

    fn start(&mut self) -> Processor {
        self.starts += 1;
        assert!(self.starts < MAX_STARTS, "it does not get further");
        self.port.pending.clear();
        let splits = vec![SplitInfo { id: "replay@1".into(), source: "replay".into(), chained: false }];
        let open = |(id, store): (u16, &Arc<dyn ShardStore>)| Shard::open(id, self.plan.clone(), store.clone(), &splits);
        let shards = std::iter::zip(0.., &self.stores).map(open).collect::<Result<_, _>>().expect("the store opens");
        let mut processor =
            Processor::new(self.plan.clone(), splits, shards, Box::new(Functions { isolated: self.isolated.clone() }));
        let suspects = {
            let mut disk = self.disk.lock().expect("no panic here");
            let unfinished = read(&disk.note).into_iter().collect();
            disk.suspects = std::mem::take(&mut disk.suspects).after(unfinished);
            disk.note.clear();
            disk.suspects.clone()
        };
        processor.note_calls(Box::new(Notes(self.disk.clone())), &suspects);
        processor
    }

    fn commit(&mut self, processor: &mut Processor, shard: u16) {
        let Some(mut frozen) = processor.freeze(shard) else { return };
        let store = &self.stores[usize::from(shard)];
        let mut writes = WriteSet::default();
        frozen.write_set(store, &mut writes).expect("an encodable commit");
        store.commit(&writes).expect("memory");
        for sink in [EVENTS, WINDOWS, LETTERS] {
            let mut rows = self.port.pending.remove(&(shard, sink)).unwrap_or_default();
            self.port.visible.entry(sink).or_default().append(&mut rows);
        }
        processor.committed(shard, frozen.epoch, &frozen.sends, &mut self.port).expect("no sink fails");
        processor.reuse(frozen.take_buffers());
    }

    /// One process, to its end or its death: reads from where the shards are, in batches of these sizes.
    fn run(&mut self, rows: &[(u8, f64)], cuts: &mut impl Iterator<Item = (usize, u8)>) {
        let mut processor = self.start();
        let mut decoder = Decoder::new(&self.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
        let mut at = processor.shards().iter().map(|shard| shard.progress(0).position).min().expect("shards") as usize;
        while at < rows.len() {
            let (len, commits) = cuts.next().expect("a cycle");
            let end = (at + len).min(rows.len());
            let line = |(time, (key, x)): (usize, &(u8, f64))| format!("{{\"k\":\"{key}\",\"t\":{},\"x\":{x}}}\n", at + time);
            let body: String = rows[at..end].iter().enumerate().map(line).collect();
            let batch = decoder.decode_ndjson(body.as_bytes(), 0, Positions::Ordinal);
            let delivery = Delivery::new(0, at as u64, Arc::new(batch), (0..(end - at) as u32).collect());
            let refusals = processor.process(&[delivery], &mut self.port).expect("the rows are fine");
            assert!(refusals.is_empty());
            while processor.close_windows(3, &mut self.port).expect("windows close") {}
            at = end;
            (0..SHARDS).filter(|shard| commits >> shard & 1 == 1).for_each(|shard| self.commit(&mut processor, shard));
        }
        processor.shards_mut().iter_mut().for_each(|shard| shard.set_watermark(END_OF_TIME));
        while processor.close_windows(3, &mut self.port).expect("windows close") {}
        (0..SHARDS).for_each(|shard| self.commit(&mut processor, shard));
    }

    fn run_to_the_end(&mut self, rows: &[(u8, f64)], cuts: &[(usize, u8)]) {
        let mut cuts = cuts.iter().copied().cycle();
        while catch_unwind(AssertUnwindSafe(|| self.run(rows, &mut cuts))).is_err() {}
    }

    fn rows(&self, sink: usize) -> &[serde_json::Value] {
        self.port.visible.get(&sink).map_or(&[], Vec::as_slice)
    }
}

/// Each row of the sinks once, with the right results, and each killer once in the dead letters.
fn check(world: &World, rows: &[(u8, f64)]) {
    let mut got: Vec<(u64, f64, f64)> = world
        .rows(EVENTS)
        .iter()
        .map(|row| {
            let offset = row["_id"].as_str().and_then(|id| id.rsplit(':').next()).and_then(|text| text.parse().ok());
            (offset.expect("an offset"), row["x"].as_f64().expect("x"), row["twice"].as_f64().expect("twice"))
        })
        .collect();
    got.sort_by_key(|(offset, ..)| *offset);
    let good = rows.iter().enumerate().filter(|(_, (_, x))| *x >= 0.0);
    assert_eq!(got, good.map(|(offset, (_, x))| (offset as u64, *x, x * 2.0)).collect::<Vec<_>>());
    // Windows of the rows that did not fail, by key and start.
    let mut windows: BTreeMap<(String, usize), i64> = BTreeMap::new();
    for (offset, (key, _)) in rows.iter().enumerate().filter(|(_, (_, x))| *x >= 0.0) {
        *windows.entry((key.to_string(), offset / 10 * 10)).or_default() += 1;
    }
    let named = |row: &serde_json::Value| (row["key"].as_str().expect("a key").to_owned(), row["n"].as_i64().expect("a count"));
    let sorted = |rows: Vec<(String, i64)>| {
        let mut rows = rows;
        rows.sort();
        rows
    };
    let of = |killers: bool| {
        let some = windows.iter().filter(|(_, n)| (**n == 4) == killers);
        sorted(some.map(|((key, _), n)| (key.clone(), *n)).collect())
    };
    assert_eq!(sorted(world.rows(WINDOWS).iter().map(named).collect()), of(false));
    let (windows, events): (Vec<_>, Vec<_>) = world.rows(LETTERS).iter().partition(|letter| letter["source"] == "w");
    assert_eq!(sorted(windows.iter().map(|letter| named(&letter["row"])).collect()), of(true));
    let mut offsets: Vec<usize> = events.iter().map(|letter| letter["offset"].as_u64().expect("an offset") as usize).collect();
    offsets.sort_unstable();
    let killers = rows.iter().enumerate().filter(|(_, (_, x))| *x < 0.0).map(|(offset, _)| offset);
    assert_eq!(offsets, killers.collect::<Vec<_>>());
    let died = |letter: &&serde_json::Value| letter["reason"].as_str().is_some_and(|reason| reason.ends_with(DIED));
    assert!(windows.iter().chain(&events).all(died));
    let disk = world.disk.lock().expect("no panic here");
    assert_eq!((disk.note.len(), &disk.suspects), (0, &SavedSuspects::default()), "all is passed in the end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn rows_that_end_the_process_are_the_only_ones_to_fail(
        rows in prop::collection::vec((0u8..6, prop_oneof![1 => Just(-1.0), 12 => (0u8..100).prop_map(f64::from)]), 1..120),
        cuts in prop::collection::vec((1usize..30, 0u8..8), 1..20),
    ) {
        // Some commits of each shard must come, or nothing would ever get further.
        let cuts: Vec<_> = cuts.into_iter().chain([(5, 0b111)]).collect();
        let mut world = World::new();
        world.run_to_the_end(&rows, &cuts);
        check(&world, &rows);
    }
}

#[test]
fn without_a_death_nothing_is_isolated() {
    let rows: Vec<(u8, f64)> = (0..100).map(|row| ((row % 7) as u8, f64::from(row))).collect();
    let mut world = World::new();
    world.run_to_the_end(&rows, &[(10, 0b111)]);
    check(&world, &rows);
    assert_eq!((world.starts, *world.isolated.lock().expect("no panic here")), (1, 0));
}

/// One death isolates the rows of that call alone.
#[test]
fn only_suspects_are_isolated() {
    let rows: Vec<(u8, f64)> = (0..100).map(|row| ((row % 7) as u8, if row == 33 { -1.0 } else { 1.0 })).collect();
    let mut world = World::new();
    world.run_to_the_end(&rows, &[(10, 0b111)]);
    check(&world, &rows);
    assert_eq!(world.starts, 2);
    // The batch of seven rows at once, then one by one.
    assert_eq!(*world.isolated.lock().expect("no panic here"), 14);
}

/// Suspects alone would cost a start for each of the forty batches. The second death isolates all calls until commits have passed.
#[test]
fn a_function_that_ends_its_process_on_every_batch_gets_to_the_end() {
    let rows: Vec<(u8, f64)> = (0..400).map(|row| ((row % 7) as u8, if row % 5 == 0 { -1.0 } else { 1.0 })).collect();
    let mut cuts = vec![(10, 0); 10];
    cuts[9].1 = 0b111;
    let mut world = World::new();
    world.run_to_the_end(&rows, &cuts);
    check(&world, &rows);
    assert!(world.starts <= 20, "{} starts", world.starts);
}
