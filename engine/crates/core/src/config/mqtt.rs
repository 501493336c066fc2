//! Messages of an MQTT broker.

use serde::{Deserialize, Serialize};

use super::{MessageFormat, SecretRef, TlsConfig};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConnectionConfig {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    pub client_id: String,
    pub auth: Option<MqttAuthConfig>,
    pub tls: Option<TlsConfig>,
    pub keep_alive_us: i64,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttAuthConfig {
    pub username: String,
    pub password: SecretRef,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSourceConfig {
    pub connection: MqttConnectionConfig,
    /// Filters: topics, with `+` for one level and `#` for all that follow.
    pub topics: Vec<String>,
    /// Fields that are levels of a message's topic.
    pub levels: Vec<TopicLevelConfig>,
    pub format: MessageFormat,
    pub retained: Retained,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicLevelConfig {
    pub field: String,
    /// The first level is 1.
    pub level: u16,
}

/// What becomes of messages that the broker has kept for whoever subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retained {
    /// They are no rows: they come again with each connection.
    Skip,
    Take,
}
