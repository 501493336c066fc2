//! Sources and sinks, one file each. They know files, sockets and servers, but nothing of shards' state, workers or commits.

pub mod backoff;
mod block_file;
pub mod connection;
pub mod deliveries;
pub mod file_sink;
pub mod file_source;
mod http_client;
pub mod kafka;
pub mod mqtt;
pub mod nats;
mod os;
pub mod postgres;
pub mod registry;
pub mod replay_file;
mod rows;
pub mod secret;
pub mod stdout;
mod tls;
pub mod transacting;
pub mod webhook;

pub use os::is_disk_full;
