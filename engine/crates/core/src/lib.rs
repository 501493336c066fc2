//! The pure part of the StreamJob engine. No I/O, no clock, no threads, no RocksDB, no Python.

pub mod batch;
pub mod config;
pub mod crash;
mod error;
pub mod expr;
pub mod journal;
pub mod store;

pub use error::{Actor, Error, Result};
