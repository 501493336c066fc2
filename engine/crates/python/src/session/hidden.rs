//! Sinks that a session adds to a job to see all rows, also those that no sink of the job takes.

use streamjob_core::config::{Delivery, FROM_EVENTS, JobConfig, SinkConfig, StdoutSinkConfig};

/// Name under which all applied rows are given, beside the job's sinks of events.
pub const ALL_EVENTS: &str = "*";

/// Numbers of the added sinks.
#[derive(Debug, Clone)]
pub struct HiddenSinks {
    pub events: usize,
    /// By window.
    pub windows: Vec<usize>,
}

impl HiddenSinks {
    /// Adds a sink of all events and one of each window. The job's sinks keep their numbers.
    pub fn add(config: &mut JobConfig) -> HiddenSinks {
        let events = config.sinks.len();
        let from: Vec<String> = config.windows.iter().map(|window| window.name.clone()).collect();
        config.sinks.push(hidden(FROM_EVENTS));
        config.sinks.extend(from.iter().map(|window| hidden(window)));
        HiddenSinks { events, windows: (events + 1..=events + from.len()).collect() }
    }

    /// Whether a sink is one of these.
    pub fn has(&self, sink: usize) -> bool {
        sink >= self.events
    }
}

/// A stream keeps nothing in the state, so that what it is called never matters; no user's sink has a NUL in its name.
fn hidden(from: &str) -> SinkConfig {
    SinkConfig {
        name: format!("\0{from}"),
        from: from.to_owned(),
        filter: None,
        delivery: Delivery::AtLeastOnce,
        file: None,
        http: None,
        kafka: None,
        nats: None,
        postgres: None,
        python: None,
        stdout: Some(StdoutSinkConfig {}),
    }
}
