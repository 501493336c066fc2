//! Webhooks that fail, in both modes of delivery.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Job, as_windows, events, lines, model, wait_until};
use crate::web::{Receiver, unused_address};

const EVENTS: usize = 20_000;

fn ids(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|row| row["_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn exactly_once_to_a_server_that_fails() {
    // Every third try fails, one way or the other.
    let receiver = Receiver::start(|number| [200, 503, 200, 0, 200, 429][number % 6]);
    let job = Job::new().file_source(0.0).webhook("per_10s", "exactly-once", &receiver.url);
    std::fs::write(job.path("data.ndjson"), lines(EVENTS, 20)).unwrap();
    let totals = job.run_to_end().unwrap();
    let windows = as_windows(&receiver.rows_once());
    assert_eq!(windows, model(&events(EVENTS, 20)));
    assert_eq!(totals.windows, windows.len() as u64);
    // Nothing is left in the outbox: the next run sends nothing.
    let sent = receiver.seen().len();
    job.run_to_end().unwrap();
    assert_eq!(receiver.seen().len(), sent);
}

#[test]
fn exactly_once_over_stops_while_the_server_is_down() {
    let address = unused_address();
    let url = format!("http://{address}/hook");
    let job = Job::new().file_source(0.0).webhook("per_10s", "exactly-once", &url);
    std::fs::write(job.path("data.ndjson"), lines(EVENTS, 20)).unwrap();
    for _ in 0..2 {
        let running = job.start();
        wait_until("all windows wait", || running.metrics()["streamjob_sink_pending_rows{sink=\"hook\"}"] == 4000.0);
        assert_eq!(running.finish().unwrap().windows, 4000);
    }
    let receiver = Receiver::listen(TcpListener::bind(address).unwrap(), |number| if number % 4 == 1 { 500 } else { 200 });
    job.run_to_end().unwrap();
    assert_eq!(as_windows(&receiver.rows_once()), model(&events(EVENTS, 20)));
}

#[test]
fn at_least_once_sends_before_the_commit_and_again_after_a_stop() {
    let receiver = Receiver::start(|number| if number < 3 { 503 } else { 200 });
    // No commit comes by itself.
    let job = Job::new().http_source().webhook("events", "at-least-once", &receiver.url);
    let job = job.with("/checkpoint/interval_us", 3_600_000_000i64).with("/windows", json!([]));
    let running = job.start();
    running.post_lines(&lines(1000, 10));
    wait_until("all rows came", || {
        ids(&receiver.seen().into_iter().flat_map(|seen| seen.rows).collect::<Vec<_>>()).len() == 1000
    });
    assert_eq!(running.metrics()["streamjob_commits_total"], 0.0);
    assert_eq!(running.finish().unwrap().applied, 1000);

    // What was not confirmed at a stop is sent by the next start.
    let refuses = Receiver::start(|_| 503);
    let job = job.with("/sinks/0/http/url", refuses.url.clone());
    let running = job.start();
    let more: String = lines(2000, 10);
    running.post_lines(&more);
    wait_until("it was tried", || !refuses.seen().is_empty());
    assert_eq!(running.finish().unwrap().received, 3000);
    let takes = Receiver::start(|_| 200);
    let job = job.with("/sinks/0/http/url", takes.url.clone());
    let running = job.start();
    wait_until("all rows came", || ids(&takes.rows_once()).len() == 2000);
    running.finish().unwrap();
}

#[test]
fn what_a_server_refuses_is_a_dead_letter() {
    let receiver = Receiver::start(|_| 400);
    let job = Job::new().file_source(0.0).webhook("events", "exactly-once", &receiver.url);
    std::fs::write(job.path("data.ndjson"), lines(250, 1)).unwrap();
    let totals = job.run_to_end().unwrap();
    assert_eq!(totals.applied, 250);
    let letters = job.dead_letters();
    assert_eq!(letters.len(), 250);
    assert!(letters.iter().all(|letter| letter["source"] == "hook" && letter["row"]["device_id"] == "device-0"));
}

#[test]
fn one_sink_that_is_down_does_not_hold_another_up() {
    let down = TcpListener::bind("127.0.0.1:0").unwrap();
    let up = Receiver::start(|_| 200);
    let mut job = Job::new().http_source().webhook("events", "at-least-once", &format!("http://{}/", down.local_addr().unwrap()));
    job.json["sinks"][0]["name"] = "down".into();
    // Small batches, so that the queue to the one that is down is full.
    job.json["sinks"][0]["http"]["max_batch_rows"] = 1.into();
    let job = job.webhook("events", "at-least-once", &up.url).with("/windows", json!([]));
    let running = job.start();
    for _ in 0..10 {
        running.post_lines(&lines(1000, 10));
    }
    wait_until("the other has all", || up.seen().iter().map(|seen| seen.rows.len()).sum::<usize>() == 10_000);
    running.finish().unwrap();
    drop(down);
}
