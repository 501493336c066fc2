//! Whole runs: real stores in temporary directories, real sockets on the loopback.

mod control;
mod files;
mod full_sinks;
mod hosted;
mod ingest;
mod queries;
mod restored;
mod state;
mod stopping;
mod support;
mod traces;
mod web;
mod webhooks;
