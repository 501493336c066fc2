//! One whole process of the engine, run from one seed: the core's own state machines under faults, on one thread, with a
//! simulated clock, disk, network and outside world.
//!
//! ```text
//!  clients ─▶ journal (simulated disk) ─┬─▶ router ─▶ reorder ─▶ workers ─▶ commits ─▶ stores, segments
//!  file ─▶ decoders, out of order ──────┤                          ├─▶ webhooks ─▶ receivers
//!  partitions ─▶ readers ───────────────┘                          │
//!                                                                  └─▶ transactions ─▶ topic
//!         ▲ crashes, full disks, failed syncs, lost and late messages, another job, a clock that is set ▲
//! ```
//!
//! What is checked, all the time and at the end, is in [`check`](mod@check) and where things happen; the [`model`] says what must
//! come out. A run with the same seed takes the same course to the last event.

mod check;
mod clients;
mod commits;
mod disk;
mod events;
mod feeds;
mod history;
mod ingest;
mod job;
mod left;
mod model;
mod node;
mod partitions;
mod random;
mod receiver;
mod rows;
mod start;
mod topic;
mod truth;
mod udf;
mod webhooks;
mod window_rows;
mod workers;
mod world;

pub use world::{Failure, Report, run, run_traced};
