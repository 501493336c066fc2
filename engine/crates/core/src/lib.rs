//! The pure part of the StreamJob engine: what happens to rows, and when it becomes durable.
//!
//! Invariant: no I/O, clock, randomness or threads; nothing of RocksDB or Python. State machines take messages and give
//! messages; whatever they need from outside is a trait here and an implementation elsewhere.

pub mod accumulate;
pub mod acknowledge;
pub mod batch;
pub mod catch_up;
pub mod checkpoint;
pub mod commit;
pub mod config;
pub mod crash;
pub mod decode;
mod error;
pub mod event_time;
pub mod expr;
pub mod guards;
pub mod idempotency;
pub mod journal;
pub mod json;
pub mod ledger;
pub mod outbox;
pub mod plan;
pub mod processor;
pub mod progress;
pub mod reorder;
pub mod route;
pub mod shard;
pub mod source_positions;
pub mod stats_json;
pub mod store;
pub mod table;
pub mod transactions;
pub mod trim;
pub mod udf;
mod window_row;

pub use error::{Actor, Error, Result};
