//! From a file by windows to files, against a simple model.

use std::time::{Duration, Instant};

use crate::support::{Job, as_windows, events, lines, model, wait_until};

const EVENTS: usize = 200_000;
const KEYS: usize = 300;

fn job() -> Job {
    let job = Job::new().file_source(0.0).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(EVENTS, KEYS)).unwrap();
    job
}

#[test]
fn a_file_becomes_its_windows() {
    let job = job();
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.received, totals.applied, totals.late, totals.rejected), (EVENTS as u64, EVENTS as u64, 0, 0));
    let windows = as_windows(&job.output("out"));
    assert_eq!(windows, model(&events(EVENTS, KEYS)));
    assert_eq!(totals.windows, windows.len() as u64);
    assert!(!totals.resumed);
    // A second run has nothing left to do.
    let again = job.run_to_end().unwrap();
    assert!(again.resumed);
    assert_eq!((again.received, again.applied, again.windows), (totals.received, totals.applied, totals.windows));
    assert_eq!(as_windows(&job.output("out")), windows);
}

#[test]
fn stops_in_the_middle_change_nothing() {
    let job = job();
    let (mut stops, mut received) = (0, 0);
    let totals = loop {
        let running = job.start_with(|options| options.exit_at_end = true);
        // Later each time, so that it ends some day.
        std::thread::sleep(Duration::from_millis(5 + 10 * stops));
        let totals = running.finish().unwrap();
        assert!(totals.received >= received, "{totals:?} after {received}");
        received = totals.received;
        assert_eq!(totals.applied, totals.received, "what is in is processed before a stop: {totals:?}");
        if totals.applied == EVENTS as u64 {
            break totals;
        }
        stops += 1;
    };
    assert_eq!(totals.received, EVENTS as u64);
    assert_eq!(job.run_to_end().unwrap().windows, as_windows(&job.output("out")).len() as u64);
    assert_eq!(as_windows(&job.output("out")), model(&events(EVENTS, KEYS)));
}

#[test]
fn a_stop_fires_no_window_but_the_end_of_all_sources_does() {
    let job = Job::new().http_source().file_source(0.0).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(50, 5)).unwrap();
    let running = job.start();
    wait_until("all rows are processed", || running.metrics()["events_received_total"] == 50.0);
    running.finish().unwrap();
    assert!(job.output("out").is_empty());

    let job = Job::new().file_source(0.0).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(50, 5)).unwrap();
    let running = job.start();
    wait_until("the windows are there", || job.output("out").len() == 5);
    running.finish().unwrap();
}

#[test]
fn a_paced_file_takes_its_time_and_stops_at_once() {
    // 100 ms of event time a row, ten times as fast: 20 rows take 190 ms.
    let job = Job::new().file_source(10.0).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(20, 2)).unwrap();
    let begun = Instant::now();
    let totals = job.run_to_end().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(180), "{:?}", begun.elapsed());
    assert_eq!((totals.received, totals.applied), (20, 20));
    assert_eq!(as_windows(&job.output("out")), model(&events(20, 2)));

    // One row a second: it is stopped long before its end, and goes on where it stopped.
    let job = Job::new().file_source(0.1).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(1000, 2)).unwrap();
    let running = job.start();
    wait_until("the first row is in", || running.metrics()["events_received_total"] >= 1.0);
    let begun = Instant::now();
    let totals = running.finish().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(totals.received < 100 && totals.applied == totals.received, "{totals:?}");
    let fast = job.with("/sources/0/file/speed", 0.0);
    let totals = fast.run_to_end().unwrap();
    assert_eq!((totals.received, totals.resumed), (1000, true));
    assert_eq!(as_windows(&fast.output("out")), model(&events(1000, 2)));
}

#[test]
fn rejected_lines_are_dead_letters_and_counted() {
    let job = Job::new().file_source(0.0).file_sink("per_10s", "out");
    let text = format!("nonsense\n{}{{\"device_id\":null,\"timestamp\":1}}\n", lines(10, 2));
    std::fs::write(job.path("data.ndjson"), text).unwrap();
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected), (12, 10, 2));
    let letters = job.dead_letters();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter["source"] == "replay" && letter["reason"].is_string()));
    assert!(letters.iter().any(|letter| letter["offset"] == 0 && letter["row"] == "nonsense"));
}

/// More than the beginning that a file is known by: lines may be added to it.
const LONG_FILE: usize = 200;

#[test]
fn a_last_line_that_is_completed_later_is_one_wrong_row_and_the_job_goes_on() {
    // not at its end with the file, after which all is late
    let job = Job::new().http_source().file_source(0.0).file_sink("per_10s", "out");
    let all = lines(LONG_FILE + 2, 2);
    let whole = lines(LONG_FILE, 2).len();
    // in the middle of the line, and before its newline
    let half = whole + 10;
    std::fs::write(job.path("data.ndjson"), &all[..half]).unwrap();
    let running = job.start();
    wait_until("all lines are read", || running.metrics()["events_received_total"] == LONG_FILE as f64 + 1.0);
    let totals = running.finish().unwrap();
    assert_eq!((totals.applied, totals.rejected), (LONG_FILE as u64, 1));

    std::fs::write(job.path("data.ndjson"), &all).unwrap();
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected), (LONG_FILE as u64 + 2, LONG_FILE as u64 + 1, 1));
    assert_eq!(job.dead_letters().len(), 1);
}

#[test]
fn lines_may_be_added_behind_a_good_last_line_without_newline() {
    let job = Job::new().http_source().file_source(0.0).file_sink("per_10s", "out");
    let first = lines(LONG_FILE, 2);
    std::fs::write(job.path("data.ndjson"), first.trim_end()).unwrap();
    let running = job.start();
    wait_until("all lines are read", || running.metrics()["events_received_total"] == LONG_FILE as f64);
    running.finish().unwrap();

    std::fs::write(job.path("data.ndjson"), lines(LONG_FILE + 2, 2)).unwrap();
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected), (LONG_FILE as u64 + 2, LONG_FILE as u64 + 2, 0));
    assert_eq!(as_windows(&job.output("out")), model(&events(LONG_FILE + 2, 2)));
}

#[test]
fn rows_far_ahead_of_their_file_are_rejected_whenever_it_is_read() {
    let job = Job::new().file_source(0.0);
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let text = format!("{}{}", crate::support::line("a", now_ms, 1), crate::support::line("a", now_ms + 200_000_000, 1));
    std::fs::write(job.path("data.ndjson"), text).unwrap();
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.applied, totals.rejected), (1, 1));
}
