//! What a subcommand prints last.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// Longer latencies are recorded as this.
const MAX_LATENCY_US: u64 = 600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies in microseconds.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, MAX_LATENCY_US, SIGNIFICANT_DIGITS).expect("the bounds are valid"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    /// Adds `p50_us`, `p99_us`, `p999_us` and `max_us`; null where nothing was measured.
    pub fn put(&self, summary: &mut Map<String, Value>) {
        let quantile = |q| if self.0.is_empty() { Value::Null } else { self.0.value_at_quantile(q).into() };
        summary.insert("p50_us".into(), quantile(0.5));
        summary.insert("p99_us".into(), quantile(0.99));
        summary.insert("p999_us".into(), quantile(0.999));
        summary.insert("max_us".into(), quantile(1.0));
    }
}

/// `count / seconds`, rounded; 0 where no time passed.
pub fn rate(count: u64, time: Duration) -> u64 {
    if time.is_zero() { 0 } else { (count as f64 / time.as_secs_f64()).round() as u64 }
}

/// Seconds with milliseconds.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
