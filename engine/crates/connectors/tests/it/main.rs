//! The connectors against real files and real servers.

mod deliveries;
mod file_sink;
mod file_source;
mod registry;
mod replay_file;
mod webhook;
mod webhook_server;
