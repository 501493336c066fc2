//! Settings of a client, and what it says about its connections.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use streamjob_core::Result;
use streamjob_core::config::KafkaConnectionConfig;

use super::errors::{is_purged, refusal_of};
use crate::connection::Connection;
use crate::secret::Secret;

/// Settings that a job may not give: the engine sets them, or has members for them, or they would break a promise.
pub const RESERVED_PROPERTIES: [&str; 27] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "debug",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "metadata.broker.list",
    "request.required.acks",
    "acks",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.key.password",
    "ssl.keystore.password",
    "transaction.timeout.ms",
    "transactional.id",
    "partitioner",
];

/// The first wait after a lost connection, milliseconds; it doubles with jitter up to the longest.
const RECONNECT_MS: &str = "100";
/// The longest wait between attempts to connect, milliseconds.
const RECONNECT_MAX_MS: &str = "5000";

/// A broker that takes a connection and says nothing is given up after this, milliseconds.
pub(super) const SOCKET_TIMEOUT_MS: i64 = 10_000;

/// The settings that every client of a connection has. `place` names it in errors.
pub(super) fn settings(place: &str, connection: &KafkaConnectionConfig) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &connection.bootstrap_servers);
    config.set("client.id", "streamjob");
    config.set("reconnect.backoff.ms", RECONNECT_MS);
    config.set("reconnect.backoff.max.ms", RECONNECT_MAX_MS);
    config.set("socket.nagle.disable", "true");
    config.set("socket.timeout.ms", SOCKET_TIMEOUT_MS.to_string());
    for (name, value) in &connection.properties {
        config.set(name, value);
    }
    config.set("security.protocol", protocol(connection));
    if let Some(tls) = &connection.tls {
        let files = [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.certificate_file),
            ("ssl.key.location", &tls.key_file),
        ];
        for (name, file) in files {
            if let Some(file) = file {
                config.set(name, file);
            }
        }
        if let Some(password) = &tls.key_password {
            config.set("ssl.key.password", Secret::read(password, &format!("{place}.tls.keyPassword"))?.expose());
        }
        config.set("ssl.endpoint.identification.algorithm", if tls.verify_hostname { "https" } else { "none" });
    }
    if let Some(sasl) = &connection.sasl {
        config.set("sasl.mechanism", sasl.mechanism.as_str());
        config.set("sasl.username", &sasl.username);
        config.set("sasl.password", Secret::read(&sasl.password, &format!("{place}.sasl.password"))?.expose());
    }
    Ok(config)
}

fn protocol(connection: &KafkaConnectionConfig) -> &'static str {
    match (&connection.tls, &connection.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    }
}

/// How librdkafka says that a topic's name means another topic now; only at the level of its debug lines. An integration test
/// notices if these words change.
const CHANGED_ID: &str = "changed id from";

/// What a client tells while it works. Its lines name servers and topics, never a password.
#[derive(Debug, Default)]
pub struct Context {
    pub connection: Arc<Connection>,
    /// The topic was made anew since the client first saw it.
    pub recreated: AtomicBool,
    /// Messages that could not be produced: the first reason since the last look.
    pub undelivered: Mutex<Option<KafkaError>>,
    /// Messages that were produced since the last look, by the batch that they belong to.
    pub delivered: Mutex<Vec<(u64, Option<RDKafkaErrorCode>)>>,
}

impl Context {
    pub fn new(connection: Arc<Connection>) -> Context {
        Context { connection, ..Context::default() }
    }

    /// Whether a message was not taken, for a reason of its own.
    pub fn has_undelivered(&self) -> bool {
        let first = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner);
        first.as_ref().is_some_and(|error| !is_purged(error))
    }

    pub fn take_undelivered(&self) -> Option<KafkaError> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn take_delivered(&self) -> Vec<(u64, Option<RDKafkaErrorCode>)> {
        std::mem::take(&mut *self.delivered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "streamjob", facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(target: "streamjob", facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Debug => {
                // The first id of a topic is a change as well, from none.
                if message.contains(CHANGED_ID) && !message.contains(NO_ID) {
                    self.recreated.store(true, Ordering::Release);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // What concerns a partition is said to who reads it.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if let Some(hint) = error.rdkafka_error_code().and_then(refusal_of) {
            self.connection.refused(hint);
        }
        if self.connection.failed(reason) {
            tracing::warn!(target: "streamjob", error = reason, "kafka: a connection failed and is tried again");
        }
    }
}

/// The number of a batch whose messages are not told apart from others.
pub(super) const UNNUMBERED: u64 = 0;

/// The topic id of all zeros, as librdkafka writes it.
const NO_ID: &str = "from AAAAAAAAAAAAAAAAAAAAAA";

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    /// The number of the batch that the message belongs to.
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Box<u64>) {
        let code = match result {
            Ok(_) => None,
            Err((error, _)) => {
                let mut first = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner);
                // Of a transaction that has failed, messages to other brokers may go before the one that is the reason.
                if first.as_ref().is_none_or(is_purged) {
                    *first = Some(error.clone());
                }
                Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))
            }
        };
        // Nobody asks after those of a transaction one by one.
        if *batch != UNNUMBERED {
            self.delivered.lock().unwrap_or_else(PoisonError::into_inner).push((*batch, code));
        }
    }
}
