//! Runs a normalised job without Python: `run_job JOB.json STATE_DIR [--listen ADDR] [--exit-at-end]`. For measurements.

use std::sync::Arc;
use std::time::Duration;

use streamjob_node::hosted::NoConnectors;
use streamjob_node::{NoUdfFactory, Options, StopHandle, run};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let flag = |name: &str| args.iter().position(|arg| arg == name);
    let json = std::fs::read_to_string(&args[1]).expect("the job's file");
    let totals = run(Options {
        config: streamjob_core::config::JobConfig::from_json(&json).expect("a normalised job"),
        state_dir: args[2].clone().into(),
        listen: flag("--listen").map(|at| args[at + 1].clone()),
        control_token: None,
        control_token_file: None,
        exit_at_end: flag("--exit-at-end").is_some(),
        run_for: None,
        udfs: Arc::new(NoUdfFactory),
        connectors: Arc::new(NoConnectors),
        on_ready: Some(Box::new(|url| println!("READY {url}"))),
        on_progress: flag("--progress").map(|_| Box::new(|text: &str| eprintln!("{text}")) as Box<dyn FnMut(&str) + Send>),
        progress_interval: Duration::from_secs(1),
        stop: StopHandle::default(),
        handle_signals: true,
    });
    match totals {
        Ok(totals) => println!("{totals:?}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
