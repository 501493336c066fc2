//! The connectors against real files and real servers.

mod deliveries;
mod file_sink;
mod file_source;
mod webhook;
mod webhook_server;
