//! The job that runs, with everything that the seed decides about it.

use std::sync::Arc;

use serde_json::{Value, json};
use streamjob_core::config::JobConfig;
use streamjob_core::plan::{Limits, Plan};

use crate::random::Random;
use crate::rows::{FILTERED, Fate, MAX_AHEAD_US, MS, SECOND};

/// Sinks that a job of the simulation may have, by their place in [`SINKS`]: a job has them in any order, and some only at times.
pub const SEGMENTS: usize = 0;
pub const EVENTS: usize = 1;
pub const WINDOW_HOOK: usize = 2;
pub const ALERTS: usize = 3;
pub const EXACT_ALERTS: usize = 4;
/// Takes the same windows as [`WINDOW_HOOK`].
pub const TOPIC: usize = 5;
/// Takes the windows of the integers.
pub const READINGS: usize = 6;
/// At times the job has it: as [`EVENTS`].
pub const MORE_EVENTS: usize = 7;
/// At times the job has it: takes the rows of [`ALERTS`] exactly once.
pub const MORE_ALERTS: usize = 8;
pub const DEAD_LETTERS: usize = 9;

/// Their names.
pub const SINKS: [&str; 10] = [
    "segments",
    "events",
    "window-hook",
    "alerts",
    "exact-alerts",
    "topic",
    "readings",
    "more-events",
    "more-alerts",
    streamjob_core::plan::DEAD_LETTERS,
];
/// Those that the job may do without.
const OPTIONAL: [usize; 2] = [MORE_EVENTS, MORE_ALERTS];
/// Web servers that may be down, and the topic.
pub const SERVERS: [usize; 5] = [WINDOW_HOOK, ALERTS, EXACT_ALERTS, MORE_ALERTS, TOPIC];

/// The window of the floats, whose rows leave by most sinks, and that of the integers.
pub const WINDOW: usize = 0;
pub const READINGS_WINDOW: usize = 1;

/// At least one row of this value and more goes to [`ALERTS`].
pub const ALERT_ABOVE: i64 = 100;
/// As [`ALERT_ABOVE`] for [`EXACT_ALERTS`].
pub const EXACT_ALERT_ABOVE: i64 = 80;
/// The window UDF fails on windows of so many rows.
pub const POISON_COUNT: i64 = 3;

/// Names of the event UDF's outputs, in the order of its inputs.
pub const SEEN: [&str; 5] = ["seen_count", "seen_mean", "seen_min", "seen_max", "seen_last"];

/// Names of the aggregates over the floats.
const FLOATS: [&str; 9] = ["n", "sum", "mean", "min", "max", "first", "last", "variance", "stddev"];

/// What one seed runs.
pub struct Setup {
    /// The job of the newest start.
    pub plan: Arc<Plan>,
    /// By sink of that job: its place in [`SINKS`].
    pub places: Vec<usize>,
    config: Value,
    /// Whether the job is another at each start, as far as one may change.
    changes: bool,
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
    /// The engine's clock is set, mostly back.
    pub moves_clock: bool,
    /// Crashes come about this often, in events.
    pub events_a_crash: u64,
}

impl Setup {
    pub fn new(random: &mut Random, start_us: i64) -> Setup {
        let keys = *random.pick(&[2, 8, 40]);
        let mut config = fixed(random);
        let plan = vary(random, &mut config);
        let rows = *random.pick(&[0, 30, 150]);
        let (file, file_fates) = crate::rows::file(random, rows, keys);
        Setup {
            places: places(&plan),
            plan,
            config,
            changes: random.percent(50),
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
            moves_clock: random.percent(40),
            events_a_crash: *random.pick(&[400, 1_500, 1_000_000]),
        }
    }

    pub fn shards(&self) -> u16 {
        self.plan.config.shards
    }

    /// The job as the next start finds it.
    pub fn change(&mut self, random: &mut Random) {
        if self.changes {
            self.plan = vary(random, &mut self.config);
            self.places = places(&self.plan);
        }
    }

    /// The job with one more window: no state takes that.
    pub fn refused(&self) -> Arc<Plan> {
        let mut config = self.config.clone();
        let more = json!({"name": "more", "tumbling": {"size_us": SECOND}, "aggregates": aggregates(&["n"], "temperature")});
        config["windows"].as_array_mut().expect("it is a list").push(more);
        Plan::compile_with(read(&config), self.plan.limits).expect("the job compiles")
    }

    /// The number of a sink in the job; `None` while the job does not have it.
    pub fn sink(&self, place: usize) -> Option<usize> {
        self.places.iter().position(|other| *other == place)
    }
}

fn places(plan: &Plan) -> Vec<usize> {
    let place = |name: &str| SINKS.iter().position(|sink| *sink == name).expect("every sink has its place");
    plan.sinks.iter().map(|sink| place(&sink.name)).collect()
}

fn read(config: &Value) -> JobConfig {
    JobConfig::from_json(&config.to_string()).expect("a valid job")
}

fn compare(function: &str, value: i64) -> Value {
    let column = json!({"kind": "column", "name": "temperature"});
    json!({"kind": "call", "function": function, "args": [column, {"kind": "literal", "value": value}]})
}

fn aggregates(names: &[&str], column: &str) -> Vec<Value> {
    names
        .iter()
        .map(|name| match *name {
            "n" => json!({"name": "n", "function": "count", "argument": null}),
            function => json!({"name": function, "function": function, "argument": {"kind": "column", "name": column}}),
        })
        .collect()
}

/// What no start may change.
fn fixed(random: &mut Random) -> Value {
    let seen: Vec<Value> = SEEN.iter().map(|name| json!({"name": name, "type": "float64"})).collect();
    let inputs: Vec<String> = std::iter::once("temperature".to_owned())
        .chain(SEEN.iter().map(|name| format!("stats.temperature.{}", name.trim_start_matches("seen_"))))
        .collect();
    let readings = [&FLOATS[..], &["count"]].concat();
    json!({
        "api_version": "streamjob.dev/v1alpha1", "name": "simulated", "shards": random.between(1, 6),
        "schema": {
            "key": {"field": "device_id"},
            "time": {"field": "timestamp", "unit": "us", "format": null, "timezone": "UTC"},
            "fields": [{"name": "device_id", "type": "string"}, {"name": "temperature", "type": "float64"},
                       {"name": "reading", "type": "int64"}, {"name": "serial", "type": "string"}],
        },
        "where": null,
        "sources": [
            {"name": "in", "http": {}, "file": null},
            {"name": "replay", "http": null, "file": {"path": "/data", "format": "ndjson", "speed": 0.0}},
        ],
        "time": null,
        "windows": [
            {"name": "w", "tumbling": {"size_us": random.pick(&[300 * MS, SECOND, 4 * SECOND])},
             "aggregates": aggregates(&FLOATS, "temperature")},
            {"name": "v", "tumbling": {"size_us": 3 * SECOND}, "aggregates": aggregates(&readings, "reading")},
        ],
        "udfs": [
            {"name": "seen", "source": "", "filename": "u.py", "function": "seen", "on": "event", "window": null, "inputs": inputs, "outputs": seen},
            {"name": "half", "source": "", "filename": "u.py", "function": "half", "on": "window", "window": "w", "inputs": ["n", "sum"],
             "outputs": [{"name": "half", "type": "float64"}]},
        ],
        "sinks": [],
        "dead_letters": null,
        "checkpoint": null,
        "ingest": {"durability": "fsync", "max_wait_us": 1, "max_body_bytes": 1 << 20},
        "idempotency": {"retention_us": random.pick(&[12 * SECOND, 3_600 * SECOND])},
        "engine": null,
        "state": {"memory_bytes": 1},
        "history": null,
        "rest": {"bearer_token": null, "cors_origins": []},
    })
}

/// What each start may have anew, and the job with it.
fn vary(random: &mut Random, config: &mut Value) -> Arc<Plan> {
    config["where"] = if random.percent(40) { compare("ne", FILTERED) } else { Value::Null };
    config["time"] = json!({"max_out_of_orderness_us": random.pick(&[0, 500 * MS, 2 * SECOND]),
        "idle_timeout_us": random.between(300, 2_000) * MS, "allowed_lateness_us": 0, "max_ahead_us": MAX_AHEAD_US,
        "close_when_idle": random.percent(20)});
    config["sinks"] = sinks(random);
    config["checkpoint"] = json!({"interval_us": random.between(200, 3_000) * MS});
    config["engine"] =
        json!({"worker_threads": 1, "pin_cores": false, "batch_rows": random.pick(&[1, 3, 7, 100]), "batch_linger_us": 0});
    config["history"] = json!({"raw_us": random.pick(&[3_600 * SECOND, 8 * SECOND, 2 * SECOND])});
    let limits = Limits {
        outbox_bytes: *random.pick(&[600, 4_000, 1 << 20]),
        min_hot_keys: *random.pick(&[2, 10, 256]),
        pending_history_bytes: *random.pick(&[2_000, 1 << 20]),
        min_whole_keys: *random.pick(&[1, 4096]),
        block_bytes: *random.pick(&[1, 300, 16 << 10]),
    };
    Plan::compile_with(read(config), limits).expect("the job compiles")
}

/// The sinks of one start, in any order.
fn sinks(random: &mut Random) -> Value {
    let file = json!({"path": "/out", "format": "ndjson"});
    let http = json!({"url": "http://server", "headers": {}, "max_batch_rows": 3, "timeout_us": SECOND,
        "backoff_initial_us": 10 * MS, "backoff_max_us": SECOND});
    let all = [
        (SEGMENTS, "w", "exactly-once", Value::Null),
        (EVENTS, "events", "exactly-once", Value::Null),
        (WINDOW_HOOK, "w", "exactly-once", Value::Null),
        (ALERTS, "events", "at-least-once", compare("gt", ALERT_ABOVE)),
        (EXACT_ALERTS, "events", "exactly-once", compare("gt", EXACT_ALERT_ABOVE)),
        // What is at the other end makes no difference to the core.
        (TOPIC, "w", "exactly-once", Value::Null),
        (READINGS, "v", "exactly-once", Value::Null),
        (MORE_EVENTS, "events", "exactly-once", Value::Null),
        (MORE_ALERTS, "events", "exactly-once", compare("gt", ALERT_ABOVE)),
    ];
    let mut sinks = Vec::new();
    for (place, from, delivery, filter) in all {
        let is_file = [SEGMENTS, EVENTS, READINGS, MORE_EVENTS].contains(&place);
        let (file, http) = if is_file { (file.clone(), Value::Null) } else { (Value::Null, http.clone()) };
        let sink = json!({"name": SINKS[place], "from": from, "where": filter, "delivery": delivery, "file": file, "http": http,
            "stdout": null});
        if !OPTIONAL.contains(&place) || random.percent(60) {
            sinks.insert(random.below(sinks.len() as u64 + 1) as usize, sink);
        }
    }
    Value::Array(sinks)
}
