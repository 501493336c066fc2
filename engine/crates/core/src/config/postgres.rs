//! Rows into a table of PostgreSQL.

use serde::{Deserialize, Serialize};

use super::{SecretRef, TlsConfig};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConnectionConfig {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub username: String,
    pub password: Option<SecretRef>,
    pub tls: Option<TlsConfig>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSinkConfig {
    pub connection: PostgresConnectionConfig,
    /// The table, perhaps with its schema before a dot; names are taken as they are written.
    pub table: String,
    pub mode: TableMode,
    /// The columns that tell which row of the table a row replaces.
    pub key: Vec<String>,
    /// What is written to which column. `None`: to each column the member of its name.
    pub columns: Option<Vec<TableColumnConfig>>,
    /// Where exactly-once keeps how far the table is.
    pub progress_table: String,
    pub max_batch_rows: u32,
    /// One transaction may take this long.
    pub timeout_us: i64,
    pub backoff_initial_us: i64,
    pub backoff_max_us: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableColumnConfig {
    pub column: String,
    /// The member of the rows that it gets.
    pub member: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableMode {
    /// Each row is added.
    Append,
    /// A row replaces the one with its key.
    Upsert,
}
