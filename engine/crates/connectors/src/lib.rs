//! Sources and sinks, one file each. They know files, sockets and servers, but nothing of shards' state, workers or commits.

pub mod backoff;
mod block_file;
pub mod connection;
pub mod deliveries;
pub mod file_sink;
pub mod file_source;
mod http_client;
pub mod kafka;
mod os;
pub mod registry;
pub mod replay_file;
pub mod secret;
pub mod stdout;
pub mod webhook;

pub use os::is_disk_full;
