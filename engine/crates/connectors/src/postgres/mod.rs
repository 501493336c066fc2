//! PostgreSQL: rows into a table, with how far it is in the same transaction.
//!
//! Knows a server, a table and batches; what follows from shards and commits is decided elsewhere.

mod connect;
mod copy;
mod errors;
mod progress;
mod session;
mod sink;
mod size;
mod table;

pub use sink::PostgresSink;
pub use table::RowShape;
