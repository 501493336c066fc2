//! The connectors against real files and real servers.

mod file_sink;
mod file_source;
