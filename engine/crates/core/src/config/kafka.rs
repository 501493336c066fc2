//! Topics of Kafka, read and written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageFormat, SecretRef, TlsConfig};

/// How to reach a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConnectionConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    pub tls: Option<TlsConfig>,
    pub sasl: Option<SaslConfig>,
    /// Settings of the client library that the engine does not set itself.
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password: SecretRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    pub fn as_str(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceConfig {
    pub connection: KafkaConnectionConfig,
    pub topic: String,
    pub format: MessageFormat,
    /// Fields that are not in a message's value.
    pub metadata: Vec<KafkaMetadataConfig>,
    /// Where reading begins in partitions that the state knows nothing of.
    pub start_from: StartFrom,
    /// Under this name committed positions are shown to tools. The shards' own positions are what counts.
    pub group_id: String,
    pub isolation: Isolation,
    pub on_data_loss: OnDataLoss,
    pub tombstones: Tombstones,
    /// How often new partitions and a topic made anew are looked for.
    pub refresh_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaMetadataConfig {
    pub field: String,
    pub from: KafkaMetadata,
}

/// What a field may be filled from beside the message's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaMetadata {
    /// Its bytes are UTF-8.
    Key,
    /// When the message was made or appended, as the topic has it.
    Timestamp,
    Partition,
    Offset,
    /// The last header of this name, whose bytes are UTF-8.
    Header(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    Earliest,
    Latest,
    /// The first message whose timestamp is not before this one, microseconds.
    TimestampUs(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    ReadCommitted,
    ReadUncommitted,
}

/// What happens where messages are gone that no commit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDataLoss {
    /// The job ends and says so.
    Fail,
    /// They are counted and reading goes on at the first that is there.
    Earliest,
}

/// What becomes of messages without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tombstones {
    /// They are rejected rows.
    Reject,
    /// They are counted by the connector and are no rows.
    Skip,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    pub connection: KafkaConnectionConfig,
    pub topic: String,
    pub format: MessageFormat,
    /// The column that becomes the message's key; none for messages without one.
    pub key: Option<String>,
    /// The int64 column that says the partition; the key's hash does where it is not set.
    pub partition: Option<String>,
    /// Added to each message.
    pub headers: BTreeMap<String, String>,
    /// Where exactly-once keeps how far the topic is.
    pub progress_topic: String,
    /// The broker gives up a transaction that is open for longer.
    pub transaction_timeout_us: i64,
    pub max_batch_rows: u32,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}
