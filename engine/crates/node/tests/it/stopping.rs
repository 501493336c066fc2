//! A stop under load loses nothing that was answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Job, Running, line, wait_until};
use crate::web::try_send;

/// Sends batches until it is told to stop, or refused; gives the rows that were accepted.
fn load(url: &str, sender: usize, stop: &AtomicBool, accepted: &AtomicU64) {
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body: String = (0..50).map(|row| line(&format!("s{sender}"), round * 1000 + row, 1)).collect();
        match try_send("POST", &format!("{url}/ingest"), &[("content-type", "application/x-ndjson")], body.as_bytes()) {
            Ok(answer) if answer.status == 202 => {
                accepted.fetch_add(50, Ordering::Relaxed);
            }
            // The process stops.
            Ok(answer) => assert_eq!(answer.status, 503),
            Err(_) => return,
        }
    }
}

#[test]
fn a_stop_under_load_keeps_what_was_accepted() {
    let job = Job::new().http_source().file_sink("per_10s", "out");
    let accepted = AtomicU64::new(0);
    let mut received = 0;
    for _ in 0..5 {
        let running = job.start();
        let (url, stop) = (running.url.clone(), AtomicBool::new(false));
        let totals = std::thread::scope(|scope| {
            for sender in 0..6 {
                let (url, stop, accepted) = (&url, &stop, &accepted);
                scope.spawn(move || load(url, sender, stop, accepted));
            }
            let before = accepted.load(Ordering::Relaxed);
            wait_until("rows are accepted", || accepted.load(Ordering::Relaxed) > before + 1000);
            let begun = Instant::now();
            let totals = running.finish().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            stop.store(true, Ordering::Relaxed);
            totals
        });
        // All senders have ended. What was journaled and not answered, because the connection broke, may be more.
        let accepted = accepted.load(Ordering::Relaxed);
        assert!(totals.received >= accepted, "{totals:?}, accepted {accepted}");
        assert!(totals.received >= received, "{totals:?} after {received}");
        assert_eq!(totals.received, totals.applied + totals.late + totals.rejected, "{totals:?}");
        received = totals.received;
    }
}

#[test]
fn the_end_of_the_files_closes_the_push_source() {
    let job = Job::new().http_source().file_source(1.0).file_sink("per_10s", "out");
    // 300 ms of event time.
    let rows: String = (0..4).map(|row| line("file", row * 100, 1)).collect();
    std::fs::write(job.path("data.ndjson"), rows).unwrap();
    let running = job.start_with(|options| options.exit_at_end = true);
    let (stop, accepted) = (AtomicBool::new(false), AtomicU64::new(0));
    let Running { url, thread, .. } = running;
    let totals = std::thread::scope(|scope| {
        scope.spawn(|| load(&url, 0, &stop, &accepted));
        let totals = thread.join().unwrap().unwrap();
        stop.store(true, Ordering::Relaxed);
        totals
    });
    let accepted = accepted.load(Ordering::Relaxed);
    assert!(totals.received >= accepted + 4, "{totals:?}, accepted {accepted}");
    assert_eq!(totals.received, totals.applied + totals.late + totals.rejected, "{totals:?}");
    let counted: u64 = job.output("out").iter().map(|row| row["n"].as_u64().unwrap()).sum();
    assert_eq!(counted, totals.applied);
}

#[test]
fn an_idle_push_source_lets_a_file_go_on() {
    // Nobody posts: the push source holds the watermark until it is idle. Two seconds of a row each 50 ms.
    let job = Job::new().http_source().file_source(20.0).file_sink("per_10s", "out").with("/time/idle_timeout_us", 300_000);
    std::fs::write(job.path("data.ndjson"), (0..40).map(|row| line("file", row * 1000, 1)).collect::<String>()).unwrap();
    let running = job.start();
    wait_until("three windows are closed", || job.output("out").len() == 3);
    assert_eq!(running.finish().unwrap().windows, 3);
}

#[test]
fn windows_close_when_all_is_idle_if_the_job_says_so() {
    let job = Job::new().http_source().file_sink("per_10s", "out").with("/time/idle_timeout_us", 200_000);
    let job = job.with("/time/close_when_idle", true);
    let running = job.start();
    running.post_lines(&line("a", 1000, 1));
    wait_until("the window is closed", || job.output("out").len() == 1);
    running.finish().unwrap();
}

#[test]
fn without_a_file_the_end_is_that_of_the_journal() {
    let job = Job::new().http_source().file_sink("per_10s", "out");
    let running = job.start();
    running.post_lines(&line("a", 1000, 1));
    assert_eq!(running.finish().unwrap().windows, 0);
    let totals = job.run_to_end().unwrap();
    assert_eq!((totals.received, totals.applied, totals.windows), (1, 1, 1));
    assert_eq!(job.output("out").len(), 1);
}
