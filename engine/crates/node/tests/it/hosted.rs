//! Sources that a host runs: positions over restarts, what is acknowledged when, what cannot be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use serde_json::json;
use streamjob_core::{Error, Result};
use streamjob_node::hosted::{
    Brought, ConnectorFactory, ConnectorHost, HostedSink, HostedSource, Intake, SinkStart, SourceStart,
};
use streamjob_node::{Options, run};

use crate::support::{Job, PATIENCE, line, wait_until};

/// What a source of a test does, on a thread of its own, from a position on.
type Script = fn(&Told, Option<String>);

/// A host whose sources follow a script.
#[derive(Clone)]
struct Scripted {
    script: Script,
    /// The positions that sources were started with.
    starts: Arc<Mutex<Vec<Option<String>>>>,
}

impl Scripted {
    fn new(script: Script) -> Scripted {
        Scripted { script, starts: Arc::default() }
    }
}

impl ConnectorFactory for Scripted {
    fn host(&self) -> Result<Arc<dyn ConnectorHost>> {
        Ok(Arc::new(self.clone()))
    }
}

impl ConnectorHost for Scripted {
    fn source(&self, start: SourceStart<'_>) -> Result<Arc<dyn HostedSource>> {
        self.starts.lock().push(start.position.clone());
        let told = Arc::new(Told { intake: start.intake, state: Mutex::default(), changed: Condvar::new() });
        Ok(Arc::new(Source { told, script: self.script, position: start.position }))
    }

    fn sink(&self, _start: SinkStart<'_>) -> Result<Arc<dyn HostedSink>> {
        Err(Error::engine("no sink is tested here"))
    }

    fn stop(&self, _within: Duration) {}
}

struct Source {
    told: Arc<Told>,
    script: Script,
    position: Option<String>,
}

impl HostedSource for Source {
    fn begin(&self) {
        let (told, script, position) = (self.told.clone(), self.script, self.position.clone());
        std::thread::spawn(move || {
            script(&told, position);
            told.intake.close();
        });
    }

    fn durable(&self, ticket: u64) {
        self.told.state.lock().durable = Some(ticket);
        self.told.changed.notify_all();
    }

    fn stop(&self) {
        self.told.state.lock().stopped = true;
        self.told.changed.notify_all();
    }
}

#[derive(Default)]
struct State {
    durable: Option<u64>,
    stopped: bool,
}

/// What a source says, and was told.
struct Told {
    intake: Intake,
    state: Mutex<State>,
    changed: Condvar,
}

impl Told {
    /// Brings messages and waits until they are durable.
    fn bring(&self, ticket: u64, messages: &[&str], position: Option<String>) {
        let messages = messages.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        self.intake.offer(Brought { ticket, messages, position }).expect("room for one batch");
        let mut state = self.state.lock();
        while state.durable != Some(ticket) && !state.stopped {
            assert!(!self.changed.wait_for(&mut state, PATIENCE).timed_out(), "batch {ticket} is never durable");
        }
    }

    fn wait_for_stop(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            assert!(!self.changed.wait_for(&mut state, PATIENCE).timed_out(), "it is never stopped");
        }
    }
}

fn job(positions: bool) -> Job {
    let mut job = Job::new();
    // Time ends with a run to the end: what comes later would be late for each window.
    job.json["windows"] = json!([]);
    let code = json!({
        "source": "", "filename": "", "config": {}, "secrets": {}, "backoff_initial_us": 1000, "backoff_max_us": 1000,
    });
    job.json["sources"].as_array_mut().unwrap().push(json!({
        "name": "hosted",
        "python": {"code": code, "function": "f", "format": "json", "positions": positions, "queue": 10},
    }));
    job.file_sink("events", "out")
}

fn to_end(job: &Job, host: &Scripted) -> streamjob_node::Totals {
    run(Options { exit_at_end: true, connectors: Arc::new(host.clone()), ..job.options() }).expect("a run to its end")
}

/// One row, then one more each time it is started, with where it is.
fn one_more(told: &Told, position: Option<String>) {
    let number: i64 = position.map_or(0, |text| text.parse().expect("its own position"));
    told.bring(0, &[&line("a", number * 100, number)], Some((number + 1).to_string()));
    told.intake.finished();
}

#[test]
fn each_start_goes_on_where_the_rows_of_the_last_one_end() {
    let (job, host) = (job(true), Scripted::new(one_more));
    let starts = 4;
    for number in 1..=starts {
        assert_eq!(to_end(&job, &host).received, number);
    }
    let expected = [None, Some("1"), Some("2"), Some("3")].map(|position| position.map(str::to_owned));
    assert_eq!(*host.starts.lock(), expected);
    let mut temperatures: Vec<_> = job.output("out").iter().map(|row| row["temperature"].as_f64().unwrap() as u64).collect();
    temperatures.sort_unstable();
    assert_eq!(temperatures, [0, 1, 2, 3]);
}

fn poison(told: &Told, _position: Option<String>) {
    let long = format!("{{\"device_id\":\"{}\"}}", "é".repeat(1 << 20));
    told.bring(0, &[&line("a", 0, 1), "no json", &long, &line("a", 100, 2)], None);
    told.bring(1, &[], None);
    told.intake.finished();
}

#[test]
fn what_cannot_be_read_is_a_dead_letter_of_its_source_and_the_rest_is_kept() {
    let job = job(false);
    let totals = to_end(&job, &Scripted::new(poison));
    assert_eq!((totals.received, totals.applied, totals.rejected), (4, 2, 2));
    let letters: BTreeMap<u64, _> = job.dead_letters().into_iter().map(|row| (row["offset"].as_u64().unwrap(), row)).collect();
    assert!(letters.values().all(|letter| letter["source"] == "hosted"), "{letters:?}");
    assert_eq!(letters[&1]["row"], "no json");
    assert!(letters[&2]["reason"].as_str().unwrap().contains("bytes, at most 1048576 are taken"), "{}", letters[&2]["reason"]);
    assert!(letters[&2]["row"].as_str().unwrap().starts_with("{\"device_id\":\"éé"));
}

fn until_stopped(told: &Told, _position: Option<String>) {
    told.bring(0, &[&line("a", 0, 1)], Some("[\"kept\"]".to_owned()));
    told.wait_for_stop();
    told.bring(1, &[&line("a", 100, 2)], Some("[\"last\"]".to_owned()));
}

#[test]
fn a_stop_takes_what_a_source_still_has() {
    let (job, host) = (job(true), Scripted::new(until_stopped));
    let running = job.start_with(|options| options.connectors = Arc::new(host.clone()));
    wait_until("a row", || running.metrics()["events_processed_total{outcome=\"applied\"}"] >= 1.0);
    assert_eq!(running.get("/ingest").status, 404, "there is no http source");
    let totals = running.finish().expect("a clean stop");
    assert_eq!(totals.received, 2);
    let again = job.start_with(|options| options.connectors = Arc::new(host.clone()));
    again.finish().expect("a clean stop");
    assert_eq!(*host.starts.lock(), [None, Some("[\"last\"]".to_owned())]);
}

fn silent(_told: &Told, _position: Option<String>) {}

#[test]
fn a_source_that_ends_without_a_word_ends_the_process() {
    let failed = run(Options { connectors: Arc::new(Scripted::new(silent)), ..job(true).options() }).unwrap_err();
    assert!(failed.message().contains("the source hosted ended without a word"), "{failed}");
}
