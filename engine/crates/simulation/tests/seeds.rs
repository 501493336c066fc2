//! Many seeds, and those that have failed before.
//!
//! `STREAMJOB_SIM_SEEDS=n` runs the seeds below n; `STREAMJOB_SIM_SEED=n` runs one and prints all that happens.

use streamjob_simulation::{Report, run, run_traced};

/// Seeds that run where nothing else is asked for.
const SEEDS: u64 = 300;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number (got {text})")))
}

fn check(seeds: impl Iterator<Item = u64>) -> Vec<Report> {
    let mut failures = Vec::new();
    let mut reports = Vec::new();
    for seed in seeds {
        match run(seed) {
            Ok(report) => reports.push(report),
            Err(failure) => failures.push(failure),
        }
    }
    for failure in &failures {
        eprintln!("{failure}\n");
    }
    let numbers: Vec<u64> = failures.iter().map(|failure| failure.seed).collect();
    assert!(failures.is_empty(), "{} of {} seeds fail: {numbers:?}", failures.len(), failures.len() + reports.len());
    reports
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = setting("STREAMJOB_SIM_SEED") {
        let outcome = run_traced(seed, true);
        return assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
    let reports = check(0..setting("STREAMJOB_SIM_SEEDS").unwrap_or(SEEDS));
    let sum = |field: fn(&Report) -> u64| reports.iter().map(field).sum::<u64>();
    println!(
        "{} seeds: {} events, {} rows, {} crashes, {} commits, {} repeats, {} refused requests, {} trims, {} resent batches, {} lost deliveries, {} steps of reading again, {} bridges, {} looks of commits at a full disk, {} of requests at the gate",
        reports.len(),
        sum(|report| report.events),
        sum(|report| report.rows),
        sum(|report| report.crashes),
        sum(|report| report.commits),
        sum(|report| report.repeats),
        sum(|report| report.refused_requests),
        sum(|report| report.trims),
        sum(|report| report.resends),
        sum(|report| report.lost_deliveries),
        sum(|report| report.read_again),
        sum(|report| report.bridged),
        sum(|report| report.full_commits),
        sum(|report| report.at_gate),
    );
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    let seeds = include_str!("../seeds.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    check(seeds.filter(|seed| !seed.is_empty()).map(|seed| seed.parse().expect("a seed is a number")));
}

#[test]
fn a_seed_takes_the_same_course_twice() {
    for seed in 0..5 {
        assert_eq!(run(seed).map_err(|failure| failure.message), run(seed).map_err(|failure| failure.message));
    }
}
