//! NATS JetStream: rows as messages with ids, of which the stream takes each once while it remembers it.
//!
//! Knows servers, streams and batches; what follows from shards and commits is decided elsewhere.

mod connect;
mod sink;
mod stream;
mod subject;

pub use sink::NatsSink;
