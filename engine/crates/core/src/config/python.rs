//! Sources and sinks that are code of the user's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageFormat, SecretRef};

/// The code of a source or sink, and what it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonCodeConfig {
    /// The module's text.
    pub source: String,
    /// What its tracebacks show.
    pub filename: String,
    /// Whatever the job has for it.
    pub config: serde_json::Map<String, serde_json::Value>,
    pub secrets: BTreeMap<String, SecretRef>,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}

/// An asynchronous generator that yields messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonSourceConfig {
    pub code: PythonCodeConfig,
    pub function: String,
    pub format: MessageFormat,
    /// Each event has a position, from which the generator can be started again.
    pub positions: bool,
    /// Events that may wait between the generator and the engine.
    pub queue: u32,
}

/// A class that writes batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonSinkConfig {
    pub code: PythonCodeConfig,
    pub class: String,
    /// A batch that is written twice under one key counts once, which the user says.
    pub idempotent: bool,
    pub max_batch_rows: u32,
    /// Rows that the class has at once, but for a single batch.
    pub queue: u32,
}
