//! Jobs, and runs of them on a thread of this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamjob_core::Result;
use streamjob_core::config::JobConfig;
use streamjob_node::hosted::NoConnectors;
use streamjob_node::{NoUdfFactory, Options, StopHandle, Totals, UdfFactory, run};
use tempfile::TempDir;

use crate::web::{Answer, send};

/// What anything in a test may take; far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SECOND_US: i64 = 1_000_000;

/// A normalised job in the making, with a directory for all that it writes.
pub struct Job {
    pub json: Value,
    pub directory: TempDir,
}

impl Job {
    /// Keys `device_id`, times in ms, windows of 10 s, four shards on two workers, a commit every 200 ms; no source, no sink.
    pub fn new() -> Job {
        let directory = tempfile::tempdir().unwrap();
        let column = |name: &str| json!({"kind": "column", "name": name});
        let aggregate =
            |name: &str, function: &str, argument: Value| json!({"name": name, "function": function, "argument": argument});
        let json = json!({
            "api_version": "streamjob.dev/v1alpha1",
            "name": "test",
            "shards": 4,
            "schema": {
                "key": {"field": "device_id"},
                "time": {"field": "timestamp", "unit": "ms", "format": null, "timezone": "UTC"},
                "fields": [
                    {"name": "device_id", "type": "string"},
                    {"name": "temperature", "type": "float64"},
                ],
            },
            "where": null,
            "sources": [],
            "time": {
                "max_out_of_orderness_us": 0,
                "idle_timeout_us": 5 * SECOND_US,
                "allowed_lateness_us": 0,
                "max_ahead_us": 86_400 * SECOND_US,
                "close_when_idle": false,
            },
            "windows": [{
                "name": "per_10s",
                "tumbling": {"size_us": 10 * SECOND_US},
                "aggregates": [
                    aggregate("n", "count", Value::Null),
                    aggregate("sum", "sum", column("temperature")),
                    aggregate("hi", "max", column("temperature")),
                ],
            }],
            "udfs": [],
            "sinks": [],
            "dead_letters": null,
            "checkpoint": {"interval_us": 200_000},
            "ingest": {"durability": "fsync", "max_wait_us": 10 * SECOND_US, "max_body_bytes": 1 << 20},
            "idempotency": {"retention_us": 86_400 * SECOND_US},
            "engine": {"worker_threads": 2, "pin_cores": false, "batch_rows": 8192, "batch_linger_us": 1000},
            "state": {"memory_bytes": 64 << 20},
            "history": {"raw_us": 2_592_000 * SECOND_US},
            "rest": {"bearer_token": null, "cors_origins": []},
        });
        Job { json, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn with(mut self, pointer: &str, value: impl Into<Value>) -> Job {
        *self.json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is a member")) = value.into();
        self
    }

    fn add(&mut self, list: &str, value: Value) {
        self.json[list].as_array_mut().unwrap().push(value);
    }

    pub fn http_source(mut self) -> Job {
        self.add("sources", json!({"name": "in", "http": {}, "file": null}));
        self
    }

    /// Replays `data.ndjson` of the job's directory.
    pub fn file_source(mut self, speed: f64) -> Job {
        let path = self.path("data.ndjson");
        self.add("sources", json!({"name": "replay", "http": null, "file": {"path": path, "format": "ndjson", "speed": speed}}));
        self
    }

    /// Windows into the directory `out`.
    pub fn file_sink(mut self, from: &str, name: &str) -> Job {
        let path = self.path(name);
        self.add(
            "sinks",
            json!({
                "name": name, "from": from, "where": null, "delivery": "exactly-once",
                "file": {"path": path, "format": "ndjson"}, "http": null, "stdout": null,
            }),
        );
        self
    }

    pub fn webhook(mut self, from: &str, delivery: &str, url: &str) -> Job {
        self.add(
            "sinks",
            json!({
                "name": "hook", "from": from, "where": null, "delivery": delivery, "file": null,
                "http": {
                    "url": url, "headers": {}, "max_batch_rows": 100, "timeout_us": 2 * SECOND_US,
                    "backoff_initial_us": 1000, "backoff_max_us": 20_000,
                },
                "stdout": null,
            }),
        );
        self
    }

    pub fn config(&self) -> JobConfig {
        JobConfig::from_json(&self.json.to_string()).unwrap()
    }

    pub fn options(&self) -> Options {
        Options {
            config: self.config(),
            state_dir: self.state(),
            listen: None,
            control_token: None,
            control_token_file: None,
            exit_at_end: false,
            run_for: None,
            udfs: Arc::new(NoUdfFactory),
            connectors: Arc::new(NoConnectors),
            on_ready: None,
            on_progress: None,
            progress_interval: Duration::from_secs(3600),
            stop: StopHandle::default(),
            handle_signals: false,
        }
    }

    /// Runs to the end of the sources, without a listener.
    pub fn run_to_end(&self) -> Result<Totals> {
        run(Options { exit_at_end: true, ..self.options() })
    }

    /// Starts a run with a listener and waits until it takes rows.
    pub fn start(&self) -> Running {
        self.start_with(|_| {})
    }

    pub fn start_with(&self, change: impl FnOnce(&mut Options)) -> Running {
        let (ready, url) = channel();
        let mut options = self.options();
        options.listen = Some("127.0.0.1:0".to_owned());
        options.on_ready = Some(Box::new(move |url| ready.send(url.to_owned()).unwrap()));
        change(&mut options);
        let running = spawn(options);
        let url = wait_for_url(&url, &running.1);
        Running { url, stop: running.0, thread: running.1 }
    }

    pub fn with_udfs(&self, udfs: Arc<dyn UdfFactory>) -> Running {
        self.start_with(|options| options.udfs = udfs)
    }

    /// Rows of a file sink, by what is visible.
    pub fn output(&self, name: &str) -> Vec<Value> {
        read_rows(&self.path(name))
    }

    pub fn dead_letters(&self) -> Vec<Value> {
        read_rows(&self.state().join("dead-letters"))
    }
}

fn spawn(options: Options) -> (StopHandle, JoinHandle<Result<Totals>>) {
    let stop = options.stop.clone();
    (stop, std::thread::spawn(move || run(options)))
}

fn wait_for_url(url: &Receiver<String>, thread: &JoinHandle<Result<Totals>>) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        match url.recv_timeout(Duration::from_millis(20)) {
            Ok(url) => return url,
            Err(_) => assert!(!thread.is_finished() && Instant::now() < until, "the run did not become ready"),
        }
    }
}

/// A run with a listener.
pub struct Running {
    pub url: String,
    pub stop: StopHandle,
    pub thread: JoinHandle<Result<Totals>>,
}

impl Running {
    pub fn post(&self, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = vec![("content-type", content_type)];
        all.extend_from_slice(headers);
        send("POST", &format!("{}/ingest", self.url), &all, body)
    }

    pub fn post_json(&self, body: &str) -> Answer {
        self.post("application/json", &[], body.as_bytes())
    }

    /// Sends lines; all must be accepted.
    pub fn post_lines(&self, lines: &str) {
        let answer = self.post("application/x-ndjson", &[], lines.as_bytes());
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    pub fn get(&self, path: &str) -> Answer {
        send("GET", &format!("{}{path}", self.url), &[], b"")
    }

    /// Figures of `/metrics` by name and labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let lines = self.get("/metrics").text();
        let lines = lines.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    pub fn finish(self) -> Result<Totals> {
        self.stop.stop();
        self.thread.join().unwrap()
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn read_rows(directory: &Path) -> Vec<Value> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with('.') {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            rows.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    rows
}

/// One event as a line.
pub fn line(key: &str, time_ms: i64, temperature: i64) -> String {
    format!("{{\"device_id\":\"{key}\",\"timestamp\":{time_ms},\"temperature\":{temperature}}}\n")
}

/// `count` events of `keys` devices, 100 ms apart.
pub fn lines(count: usize, keys: usize) -> String {
    events(count, keys).iter().map(|(key, time_ms, value)| line(key, *time_ms, *value)).collect()
}

pub fn events(count: usize, keys: usize) -> Vec<(String, i64, i64)> {
    (0..count).map(|number| (format!("device-{}", number % keys), number as i64 * 100, (number * 7 % 101) as i64)).collect()
}

/// What the windows of some events must be: (key, start) to (n, sum, hi).
pub fn model(events: &[(String, i64, i64)]) -> BTreeMap<(String, i64), (i64, i64, i64)> {
    let mut windows = BTreeMap::new();
    for (key, time_ms, value) in events {
        let start = time_ms.div_euclid(10_000) * 10_000;
        let window = windows.entry((key.clone(), start)).or_insert((0, 0, i64::MIN));
        *window = (window.0 + 1, window.1 + value, window.2.max(*value));
    }
    windows
}

/// Rows of closed windows in the model's form. A window that comes twice fails.
pub fn as_windows(rows: &[Value]) -> BTreeMap<(String, i64), (i64, i64, i64)> {
    let mut windows = BTreeMap::new();
    for row in rows {
        let start_us = streamjob_core::event_time::parse_rfc3339(row["window_start"].as_str().unwrap()).unwrap();
        let number = |name: &str| row[name].as_f64().unwrap() as i64;
        let place = (row["key"].as_str().unwrap().to_owned(), start_us / 1000);
        let before = windows.insert(place, (number("n"), number("sum"), number("hi")));
        assert!(before.is_none(), "a window came twice: {row}");
    }
    windows
}
