//! The job that runs, with everything that the seed decides about it.

use std::sync::Arc;

use serde_json::{Value, json};
use streamjob_core::config::JobConfig;
use streamjob_core::plan::{Limits, Plan};

use crate::random::Random;
use crate::rows::{FILTERED, Fate, MAX_AHEAD_US, MS, SECOND};

/// Sinks of the job by their place.
pub const SEGMENTS: usize = 0;
pub const EVENTS: usize = 1;
pub const WINDOW_HOOK: usize = 2;
pub const ALERTS: usize = 3;
pub const EXACT_ALERTS: usize = 4;
/// Takes the same windows as [`WINDOW_HOOK`].
pub const TOPIC: usize = 5;
pub const DEAD_LETTERS: usize = 6;

/// At least one row of this value and more goes to [`ALERTS`].
pub const ALERT_ABOVE: i64 = 100;
/// As [`ALERT_ABOVE`] for [`EXACT_ALERTS`].
pub const EXACT_ALERT_ABOVE: i64 = 80;
/// The window UDF fails on windows of so many rows.
pub const POISON_COUNT: i64 = 3;

/// Names of the event UDF's outputs, in the order of its inputs.
pub const SEEN: [&str; 5] = ["seen_count", "seen_mean", "seen_min", "seen_max", "seen_last"];

/// What one seed runs.
pub struct Setup {
    pub plan: Arc<Plan>,
    pub keys: u64,
    pub clients: usize,
    pub requests_a_client: u32,
    /// When faults end.
    pub calm_at_us: i64,
    pub file: Vec<u8>,
    pub file_fates: Vec<(u64, Fate)>,
    pub segment_bytes: u64,
    /// Deliveries that wait for one before them.
    pub max_held: usize,
    /// A disk that is slow once in a while.
    pub slow_disk: bool,
    /// Syncs of the journal take so long that requests come faster.
    pub slow_journal: bool,
    /// Crashes come about this often, in events.
    pub events_a_crash: u64,
}

impl Setup {
    pub fn new(random: &mut Random, start_us: i64) -> Setup {
        let filtered = random.percent(40);
        let keys = *random.pick(&[2, 8, 40]);
        let config = JobConfig::from_json(&config(random, filtered).to_string()).expect("a valid job");
        let limits = Limits {
            outbox_bytes: *random.pick(&[600, 4_000, 1 << 20]),
            min_hot_keys: *random.pick(&[2, 10, 256]),
            pending_history_bytes: *random.pick(&[2_000, 1 << 20]),
        };
        let rows = *random.pick(&[0, 30, 150]);
        let (file, file_fates) = crate::rows::file(random, rows, keys);
        Setup {
            plan: Plan::compile_with(config, limits).expect("the job compiles"),
            keys,
            clients: random.between(1, 5) as usize,
            requests_a_client: random.between(5, 40) as u32,
            calm_at_us: start_us + random.between(5, 20) * SECOND,
            file,
            file_fates,
            segment_bytes: *random.pick(&[700, 2_048, 8_192]),
            max_held: *random.pick(&[2, 6, 64]),
            slow_disk: random.percent(30),
            slow_journal: random.percent(30),
            events_a_crash: *random.pick(&[400, 1_500, 1_000_000]),
        }
    }

    pub fn shards(&self) -> u16 {
        self.plan.config.shards
    }
}

fn compare(function: &str, value: i64) -> Value {
    let column = json!({"kind": "column", "name": "temperature"});
    json!({"kind": "call", "function": function, "args": [column, {"kind": "literal", "value": value}]})
}

fn aggregates(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .map(|name| match *name {
            "n" => json!({"name": "n", "function": "count", "argument": null}),
            function => {
                json!({"name": function, "function": function, "argument": {"kind": "column", "name": "temperature"}})
            }
        })
        .collect()
}

fn config(random: &mut Random, filtered: bool) -> Value {
    let http = |name: &str| {
        let http = json!({"url": format!("http://{name}"), "headers": {}, "max_batch_rows": 3, "timeout_us": SECOND,
            "backoff_initial_us": 10 * MS, "backoff_max_us": SECOND});
        json!({"name": name, "where": null, "delivery": "exactly-once", "file": null, "http": http, "stdout": null})
    };
    let with = |mut sink: Value, from: &str, filter: Value, delivery: &str| {
        sink["from"] = json!(from);
        sink["where"] = filter;
        sink["delivery"] = json!(delivery);
        sink
    };
    let file = |name: &str| json!({"name": name, "file": {"path": "/out", "format": "ndjson"}, "http": null, "stdout": null});
    let seen: Vec<Value> = SEEN.iter().map(|name| json!({"name": name, "type": "float64"})).collect();
    let inputs: Vec<String> = std::iter::once("temperature".to_owned())
        .chain(SEEN.iter().map(|name| format!("stats.temperature.{}", name.trim_start_matches("seen_"))))
        .collect();
    json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "simulated", "shards": random.between(1, 6),
        "schema": {
            "key": {"field": "device_id"},
            "time": {"field": "timestamp", "unit": "us", "format": null, "timezone": "UTC"},
            "fields": [{"name": "device_id", "type": "string"}, {"name": "temperature", "type": "float64"},
                       {"name": "serial", "type": "string"}],
        },
        "where": if filtered { compare("ne", FILTERED) } else { Value::Null },
        "sources": [
            {"name": "in", "http": {}, "file": null},
            {"name": "replay", "http": null, "file": {"path": "/data", "format": "ndjson", "speed": 0.0}},
        ],
        "time": {"max_out_of_orderness_us": random.pick(&[0, 500 * MS, 2 * SECOND]), "idle_timeout_us": random.between(300, 2_000) * MS,
                 "allowed_lateness_us": 0, "max_ahead_us": MAX_AHEAD_US, "close_when_idle": random.percent(20)},
        "windows": [
            {"name": "w", "tumbling": {"size_us": random.pick(&[300 * MS, SECOND, 4 * SECOND])},
             "aggregates": aggregates(&["n", "sum", "mean", "min", "max", "first", "last"])},
            {"name": "v", "tumbling": {"size_us": 3 * SECOND}, "aggregates": aggregates(&["n", "sum"])},
        ],
        "udfs": [
            {"name": "seen", "source": "", "filename": "u.py", "function": "seen", "on": "event", "window": null, "inputs": inputs, "outputs": seen},
            {"name": "half", "source": "", "filename": "u.py", "function": "half", "on": "window", "window": "w", "inputs": ["n", "sum"],
             "outputs": [{"name": "half", "type": "float64"}]},
        ],
        "sinks": [
            with(file("segments"), "w", Value::Null, "exactly-once"),
            with(file("events"), "events", Value::Null, "exactly-once"),
            with(http("window-hook"), "w", Value::Null, "exactly-once"),
            with(http("alerts"), "events", compare("gt", ALERT_ABOVE), "at-least-once"),
            with(http("exact-alerts"), "events", compare("gt", EXACT_ALERT_ABOVE), "exactly-once"),
            // What is at the other end makes no difference to the core.
            with(http("topic"), "w", Value::Null, "exactly-once"),
        ],
        "dead_letters": null,
        "checkpoint": {"interval_us": random.between(200, 3_000) * MS},
        "ingest": {"durability": "fsync", "max_wait_us": 1, "max_body_bytes": 1 << 20},
        "idempotency": {"retention_us": random.pick(&[12 * SECOND, 3_600 * SECOND])},
        "engine": {"worker_threads": 1, "pin_cores": false, "batch_rows": random.pick(&[1, 3, 7, 100]), "batch_linger_us": 0},
        "state": {"memory_bytes": 1},
        "history": {"raw_us": 3_600 * SECOND},
        "rest": {"bearer_token": null, "cors_origins": []},
    })
}
