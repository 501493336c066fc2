//! Rows as messages of a NATS JetStream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{SecretRef, TlsConfig};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConnectionConfig {
    /// `host:port`, several separated by commas.
    pub servers: String,
    pub auth: Option<NatsAuthConfig>,
    pub tls: Option<TlsConfig>,
}

/// How the client says who it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum NatsAuthConfig {
    Password {
        username: String,
        password: SecretRef,
    },
    Token(SecretRef),
    /// The text of a file of credentials.
    Credentials(SecretRef),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSinkConfig {
    pub connection: NatsConnectionConfig,
    /// With `{member}` where a row's value stands.
    pub subject: String,
    /// Added to each message.
    pub headers: BTreeMap<String, String>,
    /// For so long the stream must know the ids of its messages.
    pub duplicate_window_us: i64,
    pub max_batch_rows: u32,
    pub timeout_us: i64,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}
