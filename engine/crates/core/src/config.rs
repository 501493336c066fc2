//! The normalised job: what the Python side dumps after validation and what every engine process starts from.
//!
//! Unknown and missing members are errors, so that any drift between the two languages fails at once. Durations are
//! microseconds, sizes are bytes; the unit is part of the member's name.

mod format;
mod kafka;
mod mqtt;
mod nats;
mod postgres;
mod python;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expr::Expr;

pub use format::{AvroConfig, AvroFileConfig, FileSourceFormat, Framing, MessageFormat, RegistryAuth, RegistryConfig};
pub use kafka::{
    Isolation, KafkaConnectionConfig, KafkaMetadata, KafkaMetadataConfig, KafkaSinkConfig, KafkaSourceConfig, OnDataLoss,
    SaslConfig, SaslMechanism, StartFrom, Tombstones,
};
pub use mqtt::{MqttAuthConfig, MqttConnectionConfig, MqttSourceConfig, Retained, TopicLevelConfig};
pub use nats::{NatsAuthConfig, NatsConnectionConfig, NatsSinkConfig};
pub use postgres::{PostgresConnectionConfig, PostgresSinkConfig, TableColumnConfig, TableMode};
pub use python::{PythonCodeConfig, PythonSinkConfig, PythonSourceConfig};

/// One validated StreamJob with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobConfig {
    pub api_version: String,
    pub name: String,
    pub shards: u16,
    pub schema: SchemaConfig,
    #[serde(rename = "where")]
    pub filter: Option<Expr>,
    pub sources: Vec<SourceConfig>,
    pub time: TimeConfig,
    pub windows: Vec<WindowConfig>,
    pub udfs: Vec<UdfConfig>,
    pub sinks: Vec<SinkConfig>,
    pub dead_letters: Option<DeadLetterConfig>,
    pub checkpoint: CheckpointConfig,
    pub ingest: IngestConfig,
    pub idempotency: IdempotencyConfig,
    pub engine: EngineConfig,
    pub state: StateConfig,
    pub history: HistoryConfig,
    pub rest: RestConfig,
}

impl JobConfig {
    /// Whether it has sources or sinks that are code of the user's.
    pub fn has_user_connectors(&self) -> bool {
        self.sources.iter().any(|source| source.python.is_some()) || self.sinks.iter().any(|sink| sink.python.is_some())
    }

    /// Whether it listens on `/ingest`.
    pub fn has_http_source(&self) -> bool {
        self.sources.iter().any(|source| source.http.is_some())
    }

    /// Reads the normalised JSON. The error names the member and its line.
    pub fn from_json(json: &str) -> Result<JobConfig, crate::Error> {
        let config: JobConfig = serde_json::from_str(json)
            .map_err(|error| crate::Error::user(format!("the normalised job is not what this engine reads: {error}")))?;
        if config.shards == 0 {
            return Err(crate::Error::user("spec.shards: must be at least 1 (got 0)"));
        }
        Ok(config)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaConfig {
    pub key: KeyConfig,
    pub time: TimeFieldConfig,
    pub fields: Vec<SchemaFieldConfig>,
}

/// A field of the events: a column, and where its value stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaFieldConfig {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: FieldType,
    /// Names of the members that lead to the value, outermost first. `None`: the member of the field's own name.
    pub path: Option<Vec<String>>,
}

impl SchemaFieldConfig {
    /// Name and type alone: what the rest of the engine knows of the field.
    pub fn column(&self) -> FieldConfig {
        FieldConfig { name: self.name.clone(), data_type: self.data_type }
    }
}

impl SchemaConfig {
    /// The fields as columns, in order.
    pub fn columns(&self) -> Vec<FieldConfig> {
        self.fields.iter().map(SchemaFieldConfig::column).collect()
    }
}

/// Where a row's key comes from: a field, or one constant for the whole job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum KeyConfig {
    Field(String),
    Const(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeFieldConfig {
    pub field: String,
    /// As [`SchemaFieldConfig::path`].
    pub path: Option<Vec<String>>,
    pub unit: Option<TimeUnit>,
    pub format: Option<String>,
    pub timezone: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    S,
    Ms,
    Us,
    Ns,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldConfig {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: FieldType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    String,
    Float64,
    Int64,
    Bool,
}

impl FieldType {
    pub fn is_numeric(self) -> bool {
        matches!(self, FieldType::Float64 | FieldType::Int64)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    pub name: String,
    pub http: Option<HttpSourceConfig>,
    pub file: Option<FileSourceConfig>,
    pub kafka: Option<KafkaSourceConfig>,
    pub mqtt: Option<MqttSourceConfig>,
    pub python: Option<PythonSourceConfig>,
}

impl SourceConfig {
    /// Whether its rows are journaled, since nobody has them any more once they are acknowledged.
    pub fn is_push(&self) -> bool {
        self.http.is_some() || self.mqtt.is_some() || self.python.is_some()
    }

    /// Whether it has no end of its own: it waits for whoever sends.
    pub fn is_endless(&self) -> bool {
        self.http.is_some() || self.mqtt.is_some()
    }

    /// Whether its position is journaled with its rows.
    pub fn keeps_position(&self) -> bool {
        self.python.as_ref().is_some_and(|python| python.positions)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSourceConfig {
    /// What a body of Avro messages is. JSON, Arrow and Avro container files need no telling.
    pub avro: Option<AvroConfig>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    pub path: String,
    pub format: FileSourceFormat,
    /// Event time over wall time; 0 replays as fast as it goes.
    pub speed: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Ndjson,
}

/// How a connection is encrypted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Authorities to trust, PEM; the system's where it is not set.
    pub ca_file: Option<String>,
    /// The client's own certificate and key, PEM.
    pub certificate_file: Option<String>,
    pub key_file: Option<String>,
    pub key_password: Option<SecretRef>,
    pub verify_hostname: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeConfig {
    pub max_out_of_orderness_us: i64,
    pub idle_timeout_us: i64,
    pub allowed_lateness_us: i64,
    pub max_ahead_us: i64,
    pub close_when_idle: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    pub name: String,
    pub tumbling: TumblingConfig,
    pub aggregates: Vec<AggregateConfig>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TumblingConfig {
    pub size_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateConfig {
    pub name: String,
    pub function: AggregateFunction,
    pub argument: Option<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AggregateFunction {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Variance,
    Stddev,
    First,
    Last,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdfConfig {
    pub name: String,
    pub source: String,
    pub filename: String,
    pub function: String,
    pub on: UdfStage,
    pub window: Option<String>,
    pub inputs: Vec<String>,
    pub outputs: Vec<FieldConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdfStage {
    Event,
    Window,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    pub name: String,
    /// A window's name, or `events`.
    pub from: String,
    #[serde(rename = "where")]
    pub filter: Option<Expr>,
    pub delivery: Delivery,
    pub file: Option<FileSinkConfig>,
    pub http: Option<HttpSinkConfig>,
    pub kafka: Option<KafkaSinkConfig>,
    pub nats: Option<NatsSinkConfig>,
    pub postgres: Option<PostgresSinkConfig>,
    pub python: Option<PythonSinkConfig>,
    pub stdout: Option<StdoutSinkConfig>,
}

/// The name that `SinkConfig::from` uses for the stream of events.
pub const FROM_EVENTS: &str = "events";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    pub path: String,
    pub format: FileFormat,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {
    pub url: String,
    pub headers: BTreeMap<String, String>,
    /// Sent as `Authorization: Bearer`.
    pub bearer_token: Option<SecretRef>,
    pub max_batch_rows: u32,
    pub timeout_us: i64,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSinkConfig {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    pub file: DeadLetterFileConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFileConfig {
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    pub interval_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    pub durability: Durability,
    pub max_wait_us: i64,
    pub max_body_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Fsync,
    Buffered,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyConfig {
    pub retention_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// 0 means one thread for each core.
    pub worker_threads: u16,
    pub pin_cores: bool,
    pub batch_rows: u32,
    pub batch_linger_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    pub memory_bytes: u64,
}

/// Part of `state.memory` for hot keys; the rest is for the stores' caches and memtables.
const HOT_MEMORY_PERCENT: u64 = 75;

impl StateConfig {
    /// What the hot keys of all shards may take, bytes.
    pub fn hot_bytes(&self) -> u64 {
        // Divided first: no size overflows.
        self.memory_bytes / 100 * HOT_MEMORY_PERCENT
    }

    /// What the caches and memtables of all stores may take, bytes: the rest.
    pub fn store_bytes(&self) -> u64 {
        self.memory_bytes - self.hot_bytes()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    pub raw_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    pub bearer_token: Option<String>,
    pub cors_origins: Vec<String>,
}

/// Where a secret is read when the engine starts; the normalised job never holds the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// An absolute path; a line break at the end of the file is no part of the secret.
    File(String),
}

impl From<crate::expr::DataKind> for FieldType {
    fn from(kind: crate::expr::DataKind) -> FieldType {
        match kind {
            crate::expr::DataKind::Float64 => FieldType::Float64,
            crate::expr::DataKind::Int64 => FieldType::Int64,
            crate::expr::DataKind::Bool => FieldType::Bool,
            crate::expr::DataKind::Utf8 => FieldType::String,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_keys_and_stores_share_the_memory_and_nothing_is_left() {
        for memory_bytes in [0, 99, 16 << 20, 256 << 20, u64::MAX] {
            let state = StateConfig { memory_bytes };
            assert_eq!(state.hot_bytes() + state.store_bytes(), memory_bytes);
            assert!(state.hot_bytes() >= state.store_bytes() || memory_bytes < 200);
        }
    }
}
