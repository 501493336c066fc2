//! The pure part of the StreamJob engine. No I/O, no clock, no threads, no RocksDB, no Python.

pub mod batch;
pub mod config;
pub mod decode;
mod error;
pub mod event_time;
pub mod expr;
pub mod store;

pub use error::{Actor, Error, Result};
