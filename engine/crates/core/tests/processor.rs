//! The processor against a trivial sequential model, with batches cut anywhere and commits between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use streamjob_core::batch::{RowBatch, hash_key, shard_of};
use streamjob_core::config::{Delivery as Guarantee, JobConfig};
use streamjob_core::decode::{Decoder, Positions};
use streamjob_core::ledger::{Ledger, Outcome};
use streamjob_core::outbox::Batch;
use streamjob_core::plan::{Limits, Plan};
use streamjob_core::processor::{Delivery, Processor, SinkPort};
use streamjob_core::progress::{END_OF_TIME, SplitStatus};
use streamjob_core::shard::{RequestCommit, Shard, SplitInfo, request_key};
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::udf::NoUdfs;

const SHARDS: u16 = 4;
/// A test that loses keys would wait for their windows for ever.
const MAX_COMMITS_AT_THE_END: usize = 10_000;

fn job() -> JobConfig {
    let json = serde_json::json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "test", "shards": SHARDS,
        "schema": {
            "key": {"field": "device_id"},
            "time": {"field": "timestamp", "unit": "us", "format": null, "timezone": "UTC"},
            "fields": [{"name": "device_id", "type": "string"}, {"name": "temperature", "type": "float64"}],
        },
        "where": null,
        "sources": [{"name": "replay", "http": null, "file": {"path": "/data", "format": "ndjson", "speed": 0.0}}],
        "time": {"max_out_of_orderness_us": 3, "idle_timeout_us": 1, "allowed_lateness_us": 0, "max_ahead_us": 1000000, "close_when_idle": false},
        "windows": [{"name": "w", "tumbling": {"size_us": 10}, "aggregates": [
            {"name": "n", "function": "count", "argument": null},
            {"name": "sum", "function": "sum", "argument": {"kind": "column", "name": "temperature"}},
        ]}],
        "udfs": [],
        "sinks": [{"name": "out", "from": "w", "where": null, "delivery": "exactly-once",
                   "file": {"path": "/out", "format": "ndjson"}, "http": null, "stdout": null}],
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

/// Keeps what is written, by sink.
#[derive(Default)]
struct Collected {
    rows: BTreeMap<usize, Vec<String>>,
}

impl SinkPort for Collected {
    fn append(&mut self, sink: usize, _shard: u16, _number: u64, _rows: u32, bytes: &[u8]) -> streamjob_core::Result<()> {
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        self.rows.entry(sink).or_default().extend(text.lines().map(str::to_owned));
        Ok(())
    }

    fn send(&mut self, _sink: usize, _shard: u16, _batch: &Batch) -> streamjob_core::Result<()> {
        Ok(())
    }
}

struct Harness {
    plan: Arc<Plan>,
    stores: Vec<Arc<dyn ShardStore>>,
    processor: Processor,
    port: Collected,
}

fn splits() -> Vec<SplitInfo> {
    vec![SplitInfo { id: "replay@1".into(), source: "replay".into(), chained: false }]
}

fn open(plan: &Arc<Plan>, stores: &[Arc<dyn ShardStore>]) -> Processor {
    let shards = stores
        .iter()
        .enumerate()
        .map(|(id, store)| Shard::open(id as u16, plan.clone(), store.clone(), &splits()).expect("the store opens"))
        .collect();
    Processor::new(plan.clone(), splits(), shards, Box::new(NoUdfs))
}

impl Harness {
    fn new() -> Harness {
        Harness::with(job())
    }

    fn with(config: JobConfig) -> Harness {
        Harness::with_limits(config, Limits::default())
    }

    fn with_limits(config: JobConfig, limits: Limits) -> Harness {
        let plan = Plan::compile_with(config, limits).expect("the job compiles");
        let stores: Vec<Arc<dyn ShardStore>> = (0..SHARDS).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn ShardStore>).collect();
        Harness { processor: open(&plan, &stores), plan, stores, port: Collected::default() }
    }

    fn deliver(&mut self, first_offset: u64, batch: RowBatch) {
        let rows = (0..batch.rows() as u32).collect();
        let delivery = Delivery::new(0, first_offset, Arc::new(batch), rows);
        let refusals = self.processor.process(&[delivery], &mut self.port).expect("the rows are fine");
        assert!(refusals.is_empty());
        while self.processor.close_windows(3, &mut self.port).expect("windows close") {}
    }

    fn commit(&mut self) {
        self.commit_watched(&mut |_| {});
    }

    fn commit_watched(&mut self, watch: &mut dyn FnMut(&WriteSet)) {
        for shard in 0..SHARDS {
            if let Some(mut frozen) = self.processor.freeze(shard) {
                let store = &self.stores[usize::from(shard)];
                let mut writes = WriteSet::default();
                frozen.write_set(store, &mut writes).expect("an encodable commit");
                watch(&writes);
                store.commit(&writes).expect("memory");
                self.processor.committed(shard, frozen.epoch, &frozen.sends, &mut self.port).expect("no sink fails");
                self.processor.reuse(frozen.take_buffers());
            }
        }
    }

    /// All windows end. Those of keys that are only in the store come back in parts, with a commit between two.
    fn end(&mut self) {
        for shard in self.processor.shards_mut() {
            shard.set_watermark(END_OF_TIME);
        }
        for _ in 0..MAX_COMMITS_AT_THE_END {
            while self.processor.close_windows(5, &mut self.port).expect("windows close") {}
            self.commit();
            if !self.processor.has_closable() {
                return;
            }
        }
        panic!("windows are left after {MAX_COMMITS_AT_THE_END} commits");
    }

    fn hot_keys(&self) -> usize {
        self.processor.shards().iter().map(|shard| shard.table.len()).max().unwrap_or(0)
    }

    /// Everything since the last commit is forgotten.
    fn crash(&mut self) {
        self.processor = open(&self.plan, &self.stores);
    }

    fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.processor.shards().iter().for_each(|shard| sum.add(&shard.ledger));
        sum
    }
}

type Event = (u8, i64, i32);

fn line(event: &Event) -> String {
    format!("{{\"device_id\":\"key-{}\",\"timestamp\":{},\"temperature\":{}}}\n", event.0, event.1, event.2)
}

/// Count and sum by key and start.
type Windows = BTreeMap<(String, i64), (i64, f64)>;

/// What must come out, and how many rows were late.
fn model(events: &[Event]) -> (Windows, u64) {
    let mut windows = Windows::new();
    let (mut max, mut late) = (i64::MIN, 0);
    for (key, time, value) in events {
        let start = time.div_euclid(10) * 10;
        let watermark = if max == i64::MIN { max } else { max - 3 };
        if start + 10 <= watermark {
            late += 1;
        } else {
            let pane = windows.entry((format!("key-{key}"), start)).or_default();
            pane.0 += 1;
            pane.1 += f64::from(*value);
        }
        max = max.max(*time);
    }
    (windows, late)
}

fn parse(rows: &[String]) -> Vec<((String, i64), (i64, f64))> {
    rows.iter()
        .map(|row| {
            let row: serde_json::Value = serde_json::from_str(row).expect("valid JSON");
            let start =
                streamjob_core::event_time::parse_rfc3339(row["window_start"].as_str().expect("a string")).expect("a time");
            let key = row["key"].as_str().expect("a string").to_owned();
            ((key, start), (row["n"].as_i64().expect("a count"), row["sum"].as_f64().expect("a sum")))
        })
        .collect()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((0u8..20, -8i64..14, -50i32..50), 1..300).prop_map(|steps| {
        let mut now = 0;
        steps
            .into_iter()
            .map(|(key, step, value)| {
                now += step.max(-5) / 2;
                (key, now + step.min(0), value)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// I11 and I1: where batches are cut and when commits come changes nothing; a crash repeats only what no commit has.
    #[test]
    fn agrees_with_the_sequential_model(
        events in events(),
        cuts in prop::collection::vec((1usize..40, 0u8..3), 1..40),
        min_hot_keys in prop::sample::select(vec![1usize, 3, 256]),
        min_whole_keys in prop::sample::select(vec![1usize, 4096]),
        block_bytes in prop::sample::select(vec![1usize, 200, 16 << 10]),
    ) {
        let limits = Limits { min_hot_keys, min_whole_keys, block_bytes, ..Limits::default() };
        let mut harness = Harness::with_limits(job(), limits);
        let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
        // What a commit made visible, and what was written since.
        let (mut visible, mut committed) = (Vec::new(), 0usize);
        let mut at = 0;
        let mut cuts = cuts.iter().cycle();
        while at < events.len() {
            let (len, then) = *cuts.next().expect("a cycle");
            let end = (at + len).min(events.len());
            let body: String = events[at..end].iter().map(line).collect();
            let batch = decoder.decode_ndjson(body.as_bytes(), 0, Positions::Ordinal);
            harness.deliver(at as u64, batch);
            at = end;
            match then {
                1 => {
                    harness.commit();
                    visible.append(&mut harness.port.rows.remove(&0).unwrap_or_default());
                    committed = at;
                }
                2 => {
                    harness.crash();
                    harness.port.rows.clear();
                    // Only one crash between two commits, or nothing would ever get further.
                    at = committed;
                    let body: String = events[at..end].iter().map(line).collect();
                    harness.deliver(at as u64, decoder.decode_ndjson(body.as_bytes(), 0, Positions::Ordinal));
                    at = end;
                    harness.commit();
                    visible.append(&mut harness.port.rows.remove(&0).unwrap_or_default());
                    committed = at;
                }
                _ => {}
            }
        }
        harness.end();
        visible.append(&mut harness.port.rows.remove(&0).unwrap_or_default());
        let (expected, late) = model(&events);
        let mut got = parse(&visible);
        got.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(got, expected.into_iter().collect::<Vec<_>>());
        let ledger = harness.ledger();
        prop_assert_eq!(ledger.of(Outcome::Late), late);
        prop_assert_eq!(ledger.taken(), events.len() as u64);
    }
}

/// `state.memory` bounds what is in memory also where every key has an open window, and a start reads no more.
#[test]
fn keys_with_open_windows_leave_memory_and_their_windows_close() {
    const KEYS: usize = 2_000;
    let mut harness = Harness::with_limits(job(), Limits { min_hot_keys: 16, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let mut offset = 0;
    // Twice: the second row of a key finds the window of the first in the store.
    for key in (0..KEYS).chain(0..KEYS) {
        let row = format!("{{\"device_id\":\"key-{key}\",\"timestamp\":5,\"temperature\":2}}\n");
        harness.deliver(offset, decoder.decode_ndjson(row.as_bytes(), 0, Positions::Ordinal));
        offset += 1;
        if offset % 5 == 0 {
            harness.commit();
        }
        assert!(harness.hot_keys() <= 16 + 5, "{} keys in memory", harness.hot_keys());
    }
    harness.commit();
    harness.crash();
    assert!(harness.hot_keys() <= 16, "a start reads {} keys of a shard", harness.hot_keys());
    harness.end();
    let mut windows = parse(&harness.port.rows[&0]);
    windows.sort_by(|a, b| a.0.cmp(&b.0));
    windows.dedup();
    assert_eq!(windows.len(), KEYS);
    assert!(windows.iter().all(|(_, values)| *values == (2, 4.0)));
    assert_eq!(harness.ledger().windows, KEYS as u64);
}

/// What a key takes beside its slot counts as so many keys more.
#[test]
fn long_keys_count_for_what_they_take() {
    let mut harness = Harness::with_limits(job(), Limits { min_hot_keys: 16, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let text = "x".repeat(2_000);
    for offset in 0..100 {
        let row = format!("{{\"device_id\":\"{text}{offset}\",\"timestamp\":5,\"temperature\":2}}\n");
        harness.deliver(offset, decoder.decode_ndjson(row.as_bytes(), 0, Positions::Ordinal));
        harness.commit();
    }
    assert!(harness.hot_keys() <= 3, "{} keys of 2,000 bytes in memory", harness.hot_keys());
    let hot: usize = harness.processor.shards().iter().map(Shard::memory_bytes).sum();
    assert!(hot > harness.hot_keys() * 2_000);
    harness.end();
    assert_eq!(harness.ledger().windows, 100);
}

/// Without a commit nothing can leave memory: then the shard asks for one, and takes no rows in the end.
#[test]
fn a_shard_that_is_full_of_uncommitted_keys_asks_for_a_commit() {
    let mut harness = Harness::with_limits(job(), Limits { min_hot_keys: 16, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let rows = |from: u8, to: u8| (from..to).map(|key| line(&(key, 5, 5))).collect::<String>();
    let wishes = |harness: &Harness| harness.processor.shards().iter().filter(|shard| shard.wants_early_commit()).count();
    harness.deliver(0, decoder.decode_ndjson(rows(0, 20).as_bytes(), 0, Positions::Ordinal));
    assert_eq!((wishes(&harness), harness.processor.is_overfull()), (0, false));
    harness.deliver(20, decoder.decode_ndjson(rows(20, 250).as_bytes(), 0, Positions::Ordinal));
    assert_eq!((wishes(&harness), harness.processor.is_overfull()), (usize::from(SHARDS), true));
    harness.commit();
    assert_eq!((wishes(&harness), harness.processor.is_overfull()), (0, false));
    assert_eq!(harness.hot_keys(), 16);
}

/// Batches that bring more new keys than one eviction looks at leave no more behind than the bound says.
#[test]
fn large_batches_of_new_keys_do_not_pile_up() {
    const KEYS: usize = 60_000;
    let most = 256;
    let mut harness = Harness::with_limits(job(), Limits { min_hot_keys: most, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    for round in 0..5 {
        let row = |key| format!("{{\"device_id\":\"{round}-{key}\",\"timestamp\":5,\"temperature\":2}}\n");
        let lines: String = (0..KEYS).map(row).collect();
        harness.deliver((round * KEYS) as u64, decoder.decode_ndjson(lines.as_bytes(), 0, Positions::Ordinal));
        harness.commit();
        let batch = 2 * KEYS / usize::from(SHARDS);
        assert!(harness.hot_keys() <= 2 * most + batch, "{} keys in round {round}", harness.hot_keys());
    }
}

/// Where most keys of a shard change, the commit has all of them, in blocks, and forgets what was before: a start merges nothing.
#[test]
fn a_commit_of_most_keys_is_whole() {
    const KEYS: u32 = 400;
    let mut harness = Harness::with_limits(job(), Limits { min_whole_keys: 16, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let mut offset = 0;
    let mut written = |harness: &mut Harness, keys: u32| {
        let row = |key| format!("{{\"device_id\":\"key-{key}\",\"timestamp\":5,\"temperature\":2}}\n");
        let rows: String = (0..keys).map(row).collect();
        harness.deliver(offset, decoder.decode_ndjson(rows.as_bytes(), 0, Positions::Ordinal));
        offset += u64::from(keys);
        let (mut records, mut blocks, mut whole) = (0, 0, 0);
        harness.commit_watched(&mut |writes| {
            records += writes.puts().filter(|(key, _)| key.starts_with(b"k")).count();
            blocks += writes.puts().filter(|(key, _)| key.starts_with(b"j")).count();
            whole += writes.forget.iter().filter(|range| **range == (b"j".to_vec(), b"l".to_vec())).count();
        });
        (records, blocks, whole)
    };
    let whole = (0, usize::from(SHARDS), usize::from(SHARDS));
    assert_eq!(written(&mut harness, KEYS), whole, "a hundred short keys are one block");
    assert_eq!(written(&mut harness, KEYS / 4), (KEYS as usize / 4, 0, 0), "a few are written alone");
    assert_eq!(written(&mut harness, KEYS - KEYS / 4), whole);
    assert_eq!(written(&mut harness, KEYS / 4), (KEYS as usize / 4, 0, 0));
    harness.crash();
    assert_eq!(harness.processor.shards().iter().map(|shard| shard.table.len()).sum::<usize>(), KEYS as usize);
    harness.end();
    let windows = parse(&harness.port.rows[&0]);
    let counts: i64 = windows.iter().map(|(_, (rows, _))| rows).sum();
    assert_eq!((windows.len(), counts), (KEYS as usize, i64::from(2 * KEYS + KEYS / 4)), "records are newer than blocks");
}

/// Keys that leave memory after a commit of all of them are read from its blocks, unless they have newer records.
#[test]
fn keys_of_blocks_leave_memory_and_come_back() {
    const KEYS: u32 = 200;
    let limits = Limits { min_whole_keys: 16, min_hot_keys: 16, block_bytes: 1_000, ..Limits::default() };
    let mut harness = Harness::with_limits(job(), limits);
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let mut offset = 0;
    let mut deliver = |harness: &mut Harness, keys: std::ops::Range<u32>| {
        for key in keys {
            let row = format!("{{\"device_id\":\"key-{key}\",\"timestamp\":5,\"temperature\":1}}\n");
            harness.deliver(offset, decoder.decode_ndjson(row.as_bytes(), 0, Positions::Ordinal));
            offset += 1;
        }
    };
    deliver(&mut harness, 0..KEYS);
    harness.commit();
    let blocks = |store: &Arc<dyn ShardStore>| store.scan(b"k", b"l", &mut |_, _| panic!("a key has a record of its own"));
    harness.stores.iter().try_for_each(blocks).expect("memory");
    // One after the other, with a commit each: so those before leave memory, and those of the blocks come back.
    for round in 0..3 {
        for key in 0..KEYS / (round + 1) {
            deliver(&mut harness, key..key + 1);
            harness.commit();
        }
        assert!(harness.hot_keys() <= 17, "{} keys in memory", harness.hot_keys());
        harness.crash();
        assert!(harness.hot_keys() <= 16, "a start reads {} keys of a shard", harness.hot_keys());
    }
    let words = |key: &str| {
        let hash = hash_key(key.as_bytes());
        let shard = &harness.processor.shards()[usize::from(shard_of(hash, SHARDS))];
        shard.look_up(hash, key.as_bytes()).expect("memory").map(|words| words[0])
    };
    assert_eq!((words("key-0"), words("key-199"), words("key-200")), (Some(4), Some(2), None), "rows of a key");
    harness.end();
    let mut windows = parse(&harness.port.rows[&0]);
    windows.sort_by(|a, b| a.0.cmp(&b.0));
    windows.dedup();
    let counts: i64 = windows.iter().map(|(_, (rows, _))| rows).sum();
    assert_eq!((windows.len(), counts), (KEYS as usize, i64::from(2 * KEYS + KEYS / 2 + KEYS / 3)));
}

/// Records of keys that are not in memory are all that there is of them.
#[test]
fn a_commit_is_not_whole_while_keys_are_only_in_the_store() {
    let mut harness = Harness::with_limits(job(), Limits { min_whole_keys: 1, min_hot_keys: 16, ..Limits::default() });
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    for key in 0..200u8 {
        harness.deliver(u64::from(key), decoder.decode_ndjson(line(&(key, 5, 2)).as_bytes(), 0, Positions::Ordinal));
        harness.commit();
    }
    harness.end();
    assert_eq!(harness.ledger().windows, 200);
}

#[test]
fn a_gap_is_refused_with_the_position_wanted() {
    let mut harness = Harness::new();
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let batch = decoder.decode_ndjson(line(&(1, 5, 5)).as_bytes(), 0, Positions::Ordinal);
    let delivery = Delivery::new(0, 3, Arc::new(batch), vec![0]);
    let refusals = harness.processor.process(&[delivery], &mut harness.port).expect("a refusal is no error");
    assert_eq!(refusals.len(), usize::from(SHARDS));
    assert!(refusals.iter().all(|refusal| refusal.wanted == 0));
    assert_eq!(harness.ledger().taken(), 0);
}

#[test]
fn rejected_rows_are_counted_once_and_kept_as_dead_letters() {
    let mut harness = Harness::new();
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let body = format!("{}not json\n{}", line(&(1, 5, 5)), line(&(2, 6, 5)));
    harness.deliver(0, decoder.decode_ndjson(body.as_bytes(), 0, Positions::Ordinal));
    assert_eq!(harness.ledger().of(Outcome::Applied), 2);
    assert_eq!(harness.ledger().of(Outcome::Rejected), 1);
    let letters = &harness.port.rows[&harness.plan.dead_letter_sink()];
    let letter: serde_json::Value = serde_json::from_str(&letters[0]).expect("valid JSON");
    assert_eq!(letter["offset"], 1);
    assert_eq!(letter["row"], "not json");
}

/// I6: such a row would have opened a window whose start says that there is none.
#[test]
fn a_time_before_all_windows_is_rejected_and_not_lost() {
    let mut harness = Harness::new();
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    let body = format!("{}{}", line(&(1, i64::MIN, 5)), line(&(1, 5, 5)));
    harness.deliver(0, decoder.decode_ndjson(body.as_bytes(), 0, Positions::Ordinal));
    assert_eq!(harness.ledger().of(Outcome::Rejected), 1);
    harness.processor.shards_mut().iter_mut().for_each(|shard| shard.set_watermark(END_OF_TIME));
    while harness.processor.close_windows(5, &mut harness.port).expect("windows close") {}
    assert_eq!(harness.ledger().windows, harness.ledger().of(Outcome::Applied));
}

#[test]
fn a_key_belongs_to_the_shard_of_its_hash() {
    assert_eq!(u64::from(shard_of(hash_key(b"a"), 7)), hash_key(b"a") % 7);
}

fn request(id: &str, received_us: i64) -> RequestCommit {
    RequestCommit {
        id: id.to_owned(),
        body_hash: 1,
        split: "in@1".to_owned(),
        first_offset: 0,
        received_us,
        status: 202,
        answer: String::new(),
    }
}

/// I10: a clock that was set back between two requests of one commit is no reason to forget those that came before them.
#[test]
fn ids_expire_by_the_earliest_request_of_a_commit() {
    let mut harness = Harness::new();
    for received in [vec![("a", 10)], vec![("b", 1_000), ("c", 10)]] {
        for (id, received_us) in received {
            harness.processor.shards_mut()[0].keep_request(request(id, received_us));
        }
        harness.commit();
    }
    for id in ["a", "b", "c"] {
        assert!(harness.stores[0].get(&request_key(id)).expect("memory").is_some(), "{id} is kept");
    }
}

/// I10: what expires is the older use of an id, whose record the younger one has replaced.
#[test]
fn an_id_that_is_used_again_outlives_its_first_use() {
    let mut harness = Harness::new();
    // The test's job keeps requests for one microsecond.
    for (round, received) in [vec![10], vec![11, 20], vec![30]].into_iter().enumerate() {
        let newest = *received.last().expect("not empty");
        received.into_iter().for_each(|received_us| harness.processor.shards_mut()[0].keep_request(request("a", received_us)));
        harness.commit();
        let stored = harness.stores[0].get(&request_key("a")).expect("memory").expect("the youngest is kept");
        let stored: RequestCommit = serde_json::from_slice(&stored).expect("a request");
        assert_eq!(stored.received_us, newest, "round {round}");
    }
}

#[test]
fn close_when_idle_closes_the_window_of_the_newest_row() {
    let mut config = job();
    config.time.close_when_idle = true;
    let mut harness = Harness::with(config);
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    harness.deliver(0, decoder.decode_ndjson(line(&(1, 5, 5)).as_bytes(), 0, Positions::Ordinal));
    for shard in harness.processor.shards_mut() {
        shard.set_status(0, SplitStatus::Idle);
    }
    while harness.processor.close_windows(5, &mut harness.port).expect("windows close") {}
    assert_eq!(parse(&harness.port.rows[&0]), [(("key-1".to_owned(), 0), (1, 5.0))]);
}

/// After a kill the journal of the start before is replayed beside the one of this start, which cannot have rows yet.
#[test]
fn a_replayed_journal_is_judged_as_when_it_was_taken() {
    let split = |id: &str, source: &str| SplitInfo { id: id.into(), source: source.into(), chained: true };
    let watermarks = |splits: &[SplitInfo], steps: &dyn Fn(&mut Processor, &mut Collected)| {
        let plan = Plan::compile(job()).expect("the job compiles");
        let store: Arc<dyn ShardStore> = Arc::new(MemoryStore::new());
        let shard = Shard::open(0, plan.clone(), store, splits).expect("the store opens");
        let mut processor = Processor::new(plan, splits.to_vec(), vec![shard], Box::new(NoUdfs));
        steps(&mut processor, &mut Collected::default());
        (processor.shards()[0].watermark_us(), *processor.shards()[0].progress(splits.len() as u16 - 1))
    };
    let replay = |processor: &mut Processor, port: &mut Collected| {
        let mut decoder = Decoder::new(&job().schema, SHARDS, 1_000_000).expect("a decodable schema");
        let batch = decoder.decode_ndjson(line(&(1, 50, 5)).as_bytes(), 0, Positions::Ordinal);
        processor.process(&[Delivery::new(0, 0, Arc::new(batch), Vec::new())], port).expect("the rows are fine");
    };
    let ends = |processor: &mut Processor, port: &mut Collected| {
        replay(processor, port);
        processor.shards_mut()[0].set_status(0, SplitStatus::Finished);
    };
    let idle_first = |processor: &mut Processor, port: &mut Collected| {
        processor.shards_mut()[0].set_status(1, SplitStatus::Idle);
        ends(processor, port);
    };
    let journals = [split("in@1", "in"), split("in@2", "in")];
    assert_eq!(watermarks(&journals, &replay).0, 47, "the new journal holds nothing back");
    let (watermark, new) = watermarks(&journals, &ends);
    assert_eq!((watermark, new.max_time_us, new.status), (47, 50, SplitStatus::Active), "it goes on where the old one ended");
    assert_eq!(watermarks(&journals, &idle_first).1.status, SplitStatus::Idle, "what its reader said stands");
    let two_sources = [split("in@1", "in"), split("file@1", "file")];
    assert_eq!(watermarks(&two_sources, &replay).0, i64::MIN, "another source does hold it back");
}

#[test]
fn what_a_split_was_at_the_last_commit_says_nothing_about_the_next_start() {
    for status in [SplitStatus::Idle, SplitStatus::Finished] {
        let mut harness = Harness::new();
        let batch = rows_at(&harness, 50);
        harness.deliver(0, batch);
        harness.processor.shards_mut().iter_mut().for_each(|shard| shard.set_status(0, status));
        harness.commit();
        harness.crash();
        for shard in harness.processor.shards() {
            let progress = shard.progress(0);
            assert_eq!((progress.status, progress.position), (SplitStatus::Active, 1), "it may have older rows than others");
            assert_eq!(shard.watermark_us(), 47, "what was committed stays");
        }
    }
}

/// What a sink owes that leaves the job stays, and is told.
#[test]
fn what_a_sink_owes_that_left_the_job_is_known() {
    let webhook = serde_json::json!({
        "url": "http://127.0.0.1:1", "headers": {}, "bearer_token": null, "max_batch_rows": 10, "timeout_us": 1,
        "backoff_initial_us": 1, "backoff_max_us": 1,
    });
    let mut with_webhook = job();
    with_webhook.sinks[0].file = None;
    with_webhook.sinks[0].http = Some(serde_json::from_value(webhook).expect("a webhook"));
    let mut harness = Harness::with(with_webhook);
    let batch = rows_at(&harness, 50);
    harness.deliver(0, batch);
    harness.end();
    let unsent = |harness: &Harness| -> Vec<(String, u64)> {
        harness.processor.shards().iter().flat_map(|shard| shard.unsent().iter().cloned()).collect()
    };
    harness.crash();
    assert_eq!(unsent(&harness), [], "the sink is there");
    harness.plan = Plan::compile(job()).expect("the job compiles");
    harness.crash();
    assert_eq!(unsent(&harness), [("out".to_owned(), 1)]);
}

#[test]
fn a_sink_that_left_the_job_and_comes_back_uses_no_number_twice() {
    a_sink_that_comes_back_uses_no_number_twice(|job| job.sinks.clear());
}

#[test]
fn a_sink_that_was_another_for_a_while_uses_no_number_twice() {
    a_sink_that_comes_back_uses_no_number_twice(|job| {
        for sink in &mut job.sinks {
            (sink.file, sink.stdout) = (None, Some(serde_json::from_str("{}").expect("it has no members")));
            sink.delivery = Guarantee::AtLeastOnce;
        }
    });
}

fn a_sink_that_comes_back_uses_no_number_twice(change: impl FnOnce(&mut JobConfig)) {
    let mut harness = Harness::new();
    let batch = rows_at(&harness, 50);
    harness.deliver(0, batch);
    harness.end();
    let numbers = |harness: &Harness| -> Vec<Vec<(usize, u64)>> {
        harness.processor.shards().iter().map(|shard| shard.open_segments().collect()).collect()
    };
    let before = numbers(&harness);
    assert!(before.iter().flatten().any(|(_, number)| *number > 0), "a segment was written: {before:?}");
    let (with, mut without) = (harness.plan.clone(), job());
    change(&mut without);
    harness.plan = Plan::compile(without).expect("the job compiles");
    harness.crash();
    let batch = rows_at(&harness, 60);
    harness.deliver(1, batch);
    harness.commit();
    harness.plan = with;
    harness.crash();
    let pairs = std::iter::zip(numbers(&harness).concat(), before.concat());
    assert!(pairs.into_iter().all(|(now, before)| now >= before), "{:?} and before {before:?}", numbers(&harness));
}

#[test]
fn the_store_of_another_shard_is_refused() {
    let mut harness = Harness::new();
    let batch = rows_at(&harness, 50);
    harness.deliver(0, batch);
    harness.end();
    let error = Shard::open(0, harness.plan.clone(), harness.stores[1].clone(), &splits()).err().expect("it is another");
    assert!(error.message().contains("the store holds shard 1"), "{error}");
}

/// One row.
fn rows_at(harness: &Harness, time_us: i64) -> RowBatch {
    let mut decoder = Decoder::new(&harness.plan.config.schema, SHARDS, 1_000_000).expect("a decodable schema");
    decoder.decode_ndjson(line(&(1, time_us, 5)).as_bytes(), 0, Positions::Ordinal)
}
