//! How rows are written where they come from.

use serde::{Deserialize, Serialize};

use super::SecretRef;

/// What a message of a source is: one row each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum MessageFormat {
    /// One JSON object.
    Json,
    /// One record in Avro's binary encoding.
    Avro(AvroConfig),
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum FileSourceFormat {
    /// One JSON object a line.
    Ndjson,
    /// Arrow IPC, as a stream or as a file.
    Arrow,
    /// An Avro object container file, which holds its writer's schema.
    Avro(AvroFileConfig),
}

/// An Avro object container file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvroFileConfig {
    /// The reader's schema as JSON text: its aliases and defaults count. `None`: the writer's.
    pub schema: Option<String>,
}

/// Avro messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvroConfig {
    /// The schema as JSON text: the reader's, and with [`Framing::Plain`] the writer's too. `None` only where a registry has
    /// the writers'.
    pub schema: Option<String>,
    /// Schemas of older writers: with [`Framing::SingleObject`] any number, with [`Framing::Plain`] the writer's if it is not
    /// the reader's.
    pub writers: Vec<String>,
    pub framing: Framing,
    /// Where the writers' schemas are, with [`Framing::Confluent`].
    pub registry: Option<RegistryConfig>,
}

/// What stands before an Avro record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Nothing.
    Plain,
    /// `C3 01` and the CRC-64-AVRO fingerprint of the writer's schema, 8 bytes little-endian.
    SingleObject,
    /// `00` and the number of the writer's schema in a registry, 4 bytes big-endian.
    Confluent,
}

/// A schema registry that speaks the Confluent protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Where `/schemas/ids/…` is.
    pub url: String,
    pub auth: Option<RegistryAuth>,
    /// How long one request may take.
    pub timeout_us: i64,
}

/// How the engine shows a registry who it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum RegistryAuth {
    Basic { username: String, password: SecretRef },
    Bearer(SecretRef),
}
