//! One engine process: threads, queues, the listener, and the order in which they start and stop.
//!
//! Invariant: decisions about rows are in `streamjob_core`; here is only who runs them when, and nothing of Python.

mod body;
mod committer;
mod control;
mod control_token;
mod feed;
mod file_rows;
mod formats;
pub mod hosted;
mod idempotency;
mod inbox;
mod ingest;
mod message_sinks;
mod metrics;
mod mqtt;
mod options;
mod paced;
mod pin;
mod port;
mod progress_json;
mod push;
mod random;
mod read_again;
mod replay;
mod rest;
mod run;
mod schemas;
mod sequencer;
mod server;
mod shared;
mod start;
pub mod telemetry;
mod together;
mod topics;
mod try_connections;
mod udf_calls;
mod window_pages;
mod worker;

pub use options::{NoUdfFactory, OnProgress, OnReady, Options, StopHandle, Totals, UdfFactory};
pub use run::run;
pub use try_connections::{Tried, try_connections};
