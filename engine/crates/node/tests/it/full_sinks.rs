//! A sink that takes nothing: only shards with rows for it stop, and what they left comes to them later (I9).

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::support::{Job, Running, as_windows, line, model, wait_until};
use crate::web::{Receiver, unused_address};

/// Shards; so many that an outbox holds 2 MiB.
const SHARDS: u16 = 128;
/// Rows of the key that has alerts: several outboxes full.
const LOUD_ROWS: i64 = 24_000;
/// Rows above this are alerts.
const ALERT_ABOVE: i64 = 1_000;
/// Rows of a request.
const REQUEST_ROWS: usize = 2_000;

fn loud_key() -> String {
    format!("loud-{}", "x".repeat(240))
}

/// Rows of one key that are all alerts, and of ten that have none, in turns.
fn events() -> Vec<(String, i64, i64)> {
    let loud = loud_key();
    let quiet = |row: i64| (format!("quiet-{}", row % 10), row * 10, row % 7);
    (0..LOUD_ROWS).flat_map(|row| [(loud.clone(), row * 10, ALERT_ABOVE + 1), quiet(row)]).collect()
}

fn text(events: &[(String, i64, i64)]) -> String {
    events.iter().map(|(key, time_ms, value)| line(key, *time_ms, *value)).collect()
}

fn job(address: SocketAddr, delivery: &str) -> Job {
    let mut job = Job::new().webhook("events", delivery, &format!("http://{address}/hook")).file_sink("per_10s", "out");
    job.json["sinks"][0]["where"] = json!({"kind": "call", "function": "gt", "args": [
        {"kind": "column", "name": "temperature"}, {"kind": "literal", "value": ALERT_ABOVE}]});
    job.with("/shards", SHARDS).with("/checkpoint/interval_us", 500_000)
}

fn count(running: &Running, key: &str) -> i64 {
    let answer = running.get(&format!("/v1/keys/{key}/stats"));
    match answer.status {
        404 => 0,
        _ => answer.json()["rows"].as_i64().unwrap(),
    }
}

fn check_end(job: &Job, receiver: &Receiver) {
    assert_eq!(as_windows(&job.output("out")), model(&events()));
    let rows: Vec<Value> = receiver.rows_once();
    assert_eq!(rows.len() as i64, LOUD_ROWS);
    let ids: BTreeSet<&str> = rows.iter().map(|row| row["_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len() as i64, LOUD_ROWS);
}

#[test]
fn pushed_rows_of_other_shards_go_on_while_a_sink_is_down() {
    let address = unused_address();
    let job = job(address, "exactly-once").http_source();
    let running = job.start();
    let mut queried = 0;
    for events in events().chunks(REQUEST_ROWS) {
        running.post_lines(&text(events));
        queried += 1;
    }
    assert!(queried > 10);
    wait_until("the others have all their rows", || count(&running, "quiet-3") == LOUD_ROWS / 10);
    wait_until("one shard is full", || running.metrics()["streamjob_blocked_shards"] == 1.0);
    assert!(count(&running, &loud_key()) < LOUD_ROWS);
    // The shards of the others go on to the newest event, and their files are there.
    wait_until("windows of the others are closed", || job.output("out").iter().any(|row| row["key"] == "quiet-3"));
    let receiver = Receiver::listen(TcpListener::bind(address).unwrap(), |number| if number % 50 == 7 { 503 } else { 200 });
    wait_until("the shard has caught up", || running.metrics()["streamjob_behind_shards"] == 0.0);
    wait_until("all its rows are in", || count(&running, &loud_key()) == LOUD_ROWS);
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.late), (2 * LOUD_ROWS as u64, 2 * LOUD_ROWS as u64, 0));
    // The end of time, which closes what is open.
    let totals = job.run_to_end().unwrap();
    assert_eq!(totals.applied, 2 * LOUD_ROWS as u64);
    check_end(&job, &receiver);
}

#[test]
fn rows_that_a_stop_finds_left_are_taken_by_the_next_start() {
    let address = unused_address();
    let job = job(address, "exactly-once").http_source();
    let running = job.start();
    for events in events().chunks(REQUEST_ROWS) {
        running.post_lines(&text(events));
    }
    wait_until("one shard is full", || running.metrics()["streamjob_blocked_shards"] == 1.0);
    wait_until("the others have all their rows", || count(&running, "quiet-3") == LOUD_ROWS / 10);
    let totals = running.finish().unwrap();
    assert!(totals.applied < 2 * LOUD_ROWS as u64);
    // Still down: the journal that is replayed is left as well, and read again.
    let running = job.start();
    wait_until("the shard is full again", || running.metrics()["streamjob_blocked_shards"] == 1.0);
    // A row of the new journal, which comes after all of the old one.
    running.post_lines(&line(&loud_key(), LOUD_ROWS * 10, 7));
    let receiver = Receiver::listen(TcpListener::bind(address).unwrap(), |_| 200);
    wait_until("all its rows are in", || count(&running, &loud_key()) == LOUD_ROWS + 1);
    let last = running.get(&format!("/v1/keys/{}/stats", loud_key())).json()["fields"]["temperature"]["last"].clone();
    assert_eq!(last, json!(7.0));
    running.finish().unwrap();
    assert_eq!(job.run_to_end().unwrap().applied, 2 * LOUD_ROWS as u64 + 1);
    let windows: i64 = job.output("out").iter().map(|row| row["n"].as_i64().unwrap()).sum();
    assert_eq!(windows, 2 * LOUD_ROWS + 1);
    assert_eq!(receiver.rows_once().len() as i64, LOUD_ROWS);
}

#[test]
fn a_file_goes_on_for_other_shards_while_a_sink_is_down() {
    let address = unused_address();
    let job = job(address, "at-least-once").file_source(0.0);
    std::fs::write(job.path("data.ndjson"), text(&events())).unwrap();
    let running = job.start();
    wait_until("the others have all their rows", || count(&running, "quiet-3") == LOUD_ROWS / 10);
    wait_until("one shard is full", || running.metrics()["streamjob_blocked_shards"] == 1.0);
    assert!(count(&running, &loud_key()) < LOUD_ROWS);
    let receiver = Receiver::listen(TcpListener::bind(address).unwrap(), |_| 200);
    wait_until("all its rows are in", || count(&running, &loud_key()) == LOUD_ROWS);
    wait_until("all windows are closed", || job.output("out").len() == model(&events()).len());
    running.finish().unwrap();
    check_end(&job, &receiver);
}
