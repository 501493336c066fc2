//! State directories and ports that are not to be had.

use std::net::TcpListener;

use streamjob_node::{Options, run};

use crate::support::{Job, lines};

#[test]
fn a_state_directory_has_one_process() {
    let job = Job::new().http_source();
    let running = job.start();
    let error = run(job.options()).unwrap_err();
    assert!(error.message().contains("is locked by process"), "{error}");
    running.finish().unwrap();
    job.start().finish().unwrap();
}

#[test]
fn a_busy_port_is_named_and_nothing_is_created() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let job = Job::new().http_source();
    let error = run(Options { listen: Some(address.clone()), ..job.options() }).unwrap_err();
    assert!(error.message().contains(&address) && error.message().contains("in use"), "{error}");
    assert!(!job.state().exists());
}

#[test]
fn another_job_is_refused() {
    let job = Job::new().http_source();
    job.start().finish().unwrap();
    let job = job.with("/name", "other");
    assert!(run(job.options()).unwrap_err().message().contains("belongs to the job"));
}

#[test]
fn output_of_another_state_is_refused_and_leaves_no_thread_behind() {
    let job = Job::new().file_source(0.0).file_sink("per_10s", "out");
    std::fs::write(job.path("data.ndjson"), lines(100, 3)).unwrap();
    std::fs::create_dir(job.path("out")).unwrap();
    std::fs::write(job.path("out/precious.txt"), "x").unwrap();
    let error = job.run_to_end().unwrap_err();
    assert!(error.message().contains("precious.txt"), "{error}");
    std::fs::remove_file(job.path("out/precious.txt")).unwrap();
    assert_eq!(job.run_to_end().unwrap().applied, 100);
}

#[test]
fn a_time_limit_ends_a_run_of_a_push_source() {
    let job = Job::new().http_source();
    let totals = run(Options { run_for: Some(std::time::Duration::from_millis(100)), ..job.options() }).unwrap();
    assert_eq!((totals.received, totals.resumed), (0, false));
}

#[test]
fn a_renamed_push_source_goes_on() {
    // No commit comes by itself, so that the stop's commit is all there is; then one row is left to the journal alone.
    let job = Job::new().http_source();
    let running = job.start();
    running.post_lines(&lines(100, 3));
    running.finish().unwrap();
    let job = job.with("/sources/0/name", "renamed");
    let totals = job.start().finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.resumed), (100, 100, true));
}
