//! The way to servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use streamjob_core::config::{NatsAuthConfig, NatsConnectionConfig};
use streamjob_core::{Error, Result};

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::random;
use crate::http_client::explain_chain;
use crate::secret::Secret;
use crate::tls::{client_config, hint_of};

/// Connecting and signing in may take so long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that says nothing is asked this often; the second question without an answer ends the connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Commands on their way to the connection; who has more waits.
pub const MAX_COMMANDS: usize = 2048;

enum Auth {
    None,
    Password { username: String, password: Secret },
    Token(Secret),
    Credentials(Secret),
}

/// Servers that can be connected to.
pub(super) struct Servers {
    addresses: Vec<ServerAddr>,
    /// For messages.
    pub name: String,
    auth: Auth,
    tls: Option<rustls::ClientConfig>,
    backoff: Backoff,
    seed: u64,
    connection: Arc<Connection>,
    /// The connection was lost since it was last asked: what was known of streams may be true no more.
    pub was_lost: Arc<AtomicBool>,
}

impl Servers {
    /// Checks the settings and reads the secrets; connects to nothing.
    pub fn new(
        place: &str,
        config: &NatsConnectionConfig,
        backoff: Backoff,
        seed: u64,
        connection: Arc<Connection>,
    ) -> Result<Servers> {
        let address = |text: &str| {
            text.trim().parse().map_err(|error| {
                Error::user(format!("{place}.servers: {text}: {error}; write for example nats.example.com:4222"))
            })
        };
        let auth = match &config.auth {
            None => Auth::None,
            Some(NatsAuthConfig::Password { username, password }) => {
                Auth::Password { username: username.clone(), password: Secret::read(password, &format!("{place}.password"))? }
            }
            Some(NatsAuthConfig::Token(token)) => Auth::Token(Secret::read(token, &format!("{place}.token"))?),
            Some(NatsAuthConfig::Credentials(text)) => Auth::Credentials(Secret::read(text, &format!("{place}.credentials"))?),
        };
        Ok(Servers {
            addresses: config.servers.split(',').map(address).collect::<Result<_>>()?,
            name: config.servers.clone(),
            auth,
            tls: config.tls.as_ref().map(|tls| client_config(place, tls)).transpose()?,
            backoff,
            seed,
            connection,
            was_lost: Arc::default(),
        })
    }

    /// A client, which connects again by itself where the connection is lost later.
    pub async fn connect(&self) -> Result<Client> {
        let options = self.options()?;
        let doing = format!("connecting to {}", self.name);
        match tokio::time::timeout(CONNECT_TIMEOUT, options.connect(self.addresses.clone())).await {
            Ok(outcome) => outcome.map_err(|error| self.explain(&doing, &error)),
            Err(_) => Err(Error::outside(format!("{doing}: no answer within {CONNECT_TIMEOUT:?}"))),
        }
    }

    fn options(&self) -> Result<ConnectOptions> {
        let (backoff, seed) = (self.backoff, self.seed);
        let (connection, was_lost) = (self.connection.clone(), self.was_lost.clone());
        let mut options = ConnectOptions::new()
            .name("streamjob")
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .client_capacity(MAX_COMMANDS)
            .reconnect_delay_callback(move |attempts| {
                // The first attempt is none that failed: it must not wait.
                let failures = u32::try_from(attempts).unwrap_or(u32::MAX).saturating_sub(1);
                if failures == 0 { Duration::ZERO } else { backoff.delay(failures, random(seed, 0, 0, failures)) }
            })
            .event_callback(move |event| {
                hear(&event, &connection, &was_lost);
                std::future::ready(())
            });
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(tls.clone()).require_tls(true);
        }
        Ok(match &self.auth {
            Auth::None => options,
            Auth::Password { username, password } => options.user_and_password(username.clone(), password.expose().to_owned()),
            Auth::Token(token) => options.token(token.expose().to_owned()),
            // The library wants the end of the last line, which a secret has lost.
            Auth::Credentials(text) => options.credentials(&format!("{}\n", text.expose())).map_err(|_| {
                Error::user("credentials: the secret is no text of a credentials file; name a file that nsc has made")
            })?,
        })
    }

    fn explain(&self, doing: &str, error: &ConnectError) -> Error {
        let said = explain_chain(error);
        let hint = match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Some("check the user and its secret"),
            _ => hint_of(error),
        };
        if let Some(hint) = hint {
            self.connection.refused(hint);
            // Servers that have let the client in before may do so again by themselves.
            if let Some(hint) = self.connection.refusal() {
                return Error::user(format!("{doing}: {said}; {hint}"));
            }
        }
        Error::outside(format!("{doing}: {said}"))
    }
}

fn hear(event: &Event, connection: &Connection, was_lost: &AtomicBool) {
    match event {
        Event::Connected => drop(connection.answered()),
        Event::Disconnected | Event::Closed => {
            was_lost.store(true, Ordering::Release);
            if connection.failed("the connection was lost") {
                tracing::warn!(target: "streamjob", "nats: the connection was lost and is tried again");
            }
        }
        Event::ServerError(_) | Event::ClientError(_) => drop(connection.failed(&event.to_string())),
        Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {}
    }
}
