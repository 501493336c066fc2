//! `http`: a client that costs little, as it shares the machine with what it measures.
//!
//! Requests are built once and changed in place; one thread drives all connections by epoll; answers are searched, not parsed.

mod connection;
mod generator;
mod pace;
mod request;
mod response;
mod totals;

pub use response::content_length;
use std::time::Duration;

use crate::units;

/// Posts events over keep-alive connections and measures until each answer
///
/// With --rate the load is open: requests have a schedule, and latency counts from the moment at which a request should have been
/// sent, also when all connections were busy then. Without it each connection posts as soon as it has its answer.
///
/// Rows are `{"device_id":"device-000123","timestamp":<ms>,"temperature":21.53,"humidity":40.2}`, with --sent-us also
/// `"sent_us":<microseconds>`; both times are those at which the request should have been sent, by the wall clock. Temperatures
/// lie between 20 and 25, those of spikes at 99.99.
///
/// A request answered 429 or 503 is counted and not repeated; its connection pauses 100 ms. A broken connection is opened again; what
/// was under way on it counts as unanswered. SIGTERM and SIGINT end the run early.
///
/// Summary: events_per_s, requests_per_s and latencies are of the time after --warmup, by the time of the answer and of the schedule;
/// all other numbers are of the whole run. accepted_rows and rejected_rows are the sums of what 202 answers say.
#[derive(clap::Args, Clone)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Where to post, as http://127.0.0.1:8080/ingest
    #[arg(long)]
    url: String,
    /// Devices, named device-000000 and on
    #[arg(long, default_value = "10k", value_parser = units::count)]
    devices: u64,
    /// Rows of each request
    #[arg(long, default_value = "1000", value_parser = units::count)]
    events_per_request: u64,
    /// Keep-alive connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests that a connection sends without waiting for answers (HTTP pipelining)
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Open load: events a second, as 200k
    #[arg(long, value_parser = units::count)]
    rate: Option<u64>,
    /// How long to measure, after the warm-up
    #[arg(long, default_value = "30s", value_parser = units::duration)]
    duration: Duration,
    /// How long to send before measuring
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    warmup: Duration,
    /// How long to wait for the last answers
    #[arg(long, default_value = "15s", value_parser = units::duration)]
    drain: Duration,
    /// Rows a second with a temperature of 99.99, at most one a request; implies --sent-us
    #[arg(long, default_value_t = 0.0)]
    spikes_per_s: f64,
    /// When spikes begin, counted from the start: devices need some history first
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    spikes_after: Duration,
    /// Adds the member sent_us to each row
    #[arg(long)]
    sent_us: bool,
    /// Whole values, so that sums are exact in any order
    #[arg(long)]
    integers: bool,
    /// How the rows of a request are written
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Least time between two rounds of the loop: larger ones cost less CPU and blur latencies by as much
    #[arg(long, default_value = "0us", value_parser = units::duration)]
    tick: Duration,
    /// Value of an Authorization header
    #[arg(long)]
    authorization: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// application/x-ndjson
    Ndjson,
    /// application/json: an array, or one object where a request has one event
    Json,
}

/// Connections that one process drives at most.
const MAX_CONNECTIONS: usize = 20_000;
const MAX_EVENTS_PER_REQUEST: u64 = 1_000_000;
const MAX_PIPELINE: usize = 1000;
const MAX_DEVICES: u64 = 1_000_000_000;

impl Options {
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(format!("{name} must be from 1 to {max} (got {value})")) }
        };
        within("--devices", self.devices, MAX_DEVICES)?;
        within("--events-per-request", self.events_per_request, MAX_EVENTS_PER_REQUEST)?;
        within("--connections", self.connections as u64, MAX_CONNECTIONS as u64)?;
        within("--pipeline", self.pipeline as u64, MAX_PIPELINE as u64)?;
        within("--rate", self.rate.unwrap_or(1), u64::MAX)?;
        if !(0.0..=1e6).contains(&self.spikes_per_s) {
            return Err("--spikes-per-s must be from 0 to 1000000".to_owned());
        }
        Ok(())
    }
}

pub fn run(options: &Options) -> Result<String, String> {
    options.check()?;
    Ok(generator::Generator::new(options)?.run()?.to_string())
}
