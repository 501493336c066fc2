//! What is counted, and the summary of it.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::Options;
use super::connection::UnderWay;
use super::response::Response;
use crate::clock::cpu_time;
use crate::summary::{Latencies, rate, seconds};

pub struct Totals {
    /// Measured are latencies of requests that should have been sent, and answers that came, in this time.
    measured: std::ops::Range<Instant>,
    started: Instant,
    cpu_at_start: Duration,
    latencies: Latencies,
    measured_requests: u64,
    measured_rows: u64,
    requests: u64,
    accepted_rows: u64,
    rejected_rows: u64,
    status_202: u64,
    status_429: u64,
    status_503: u64,
    status_other: u64,
    spikes_accepted: u64,
    pub unanswered: u64,
    pub reconnects: u64,
    pub backlog_max: u64,
}

impl Totals {
    pub fn new(started: Instant, measured: std::ops::Range<Instant>) -> Totals {
        Totals {
            measured,
            started,
            cpu_at_start: cpu_time(),
            latencies: Latencies::new(),
            measured_requests: 0,
            measured_rows: 0,
            requests: 0,
            accepted_rows: 0,
            rejected_rows: 0,
            status_202: 0,
            status_429: 0,
            status_503: 0,
            status_other: 0,
            spikes_accepted: 0,
            unanswered: 0,
            reconnects: 0,
            backlog_max: 0,
        }
    }

    pub fn answered(&mut self, now: Instant, response: &Response, request: &UnderWay) {
        self.requests += 1;
        match response.status {
            202 => self.status_202 += 1,
            429 => self.status_429 += 1,
            503 => self.status_503 += 1,
            _ => self.status_other += 1,
        }
        self.accepted_rows += response.accepted;
        self.rejected_rows += response.rejected;
        let accepted = response.status == 202;
        self.spikes_accepted += u64::from(accepted && request.spike);
        if accepted && self.measured.contains(&now) {
            self.measured_requests += 1;
            self.measured_rows += response.accepted;
        }
        if accepted && self.measured.contains(&request.intended) {
            self.latencies.record(now.saturating_duration_since(request.intended));
        }
    }

    pub fn summary(&self, options: &Options) -> Value {
        let now = Instant::now();
        let ended = self.measured.end.min(now);
        let measured = ended.saturating_duration_since(self.measured.start);
        let cpu = (cpu_time() - self.cpu_at_start).as_secs_f64() / now.duration_since(self.started).as_secs_f64();
        let mut summary = Map::new();
        let mut put = |name: &str, value: Value| summary.insert(name.to_owned(), value);
        put("events_per_s", rate(self.measured_rows, measured).into());
        put("requests_per_s", rate(self.measured_requests, measured).into());
        put("offered_per_s", options.rate.into());
        put("seconds", seconds(measured).into());
        put("requests", self.requests.into());
        put("accepted_rows", self.accepted_rows.into());
        put("rejected_rows", self.rejected_rows.into());
        put("status_202", self.status_202.into());
        put("status_429", self.status_429.into());
        put("status_503", self.status_503.into());
        put("status_other", self.status_other.into());
        put("unanswered", self.unanswered.into());
        put("reconnects", self.reconnects.into());
        put("backlog_max", self.backlog_max.into());
        put("spikes_accepted", self.spikes_accepted.into());
        put("generator_cpu_pct", ((cpu * 1000.0).round() / 10.0).into());
        self.latencies.put(&mut summary);
        Value::Object(summary)
    }
}
