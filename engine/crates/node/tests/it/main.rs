//! Whole runs: real stores in temporary directories, real sockets on the loopback.

mod control;
mod files;
mod ingest;
mod queries;
mod state;
mod stopping;
mod support;
mod traces;
mod web;
mod webhooks;
