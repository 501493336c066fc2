//! The way to a server.

use std::sync::Arc;
use std::time::Duration;

use streamjob_core::config::PostgresConnectionConfig;
use streamjob_core::{Error, Result};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::errors::explain;
use crate::connection::Connection;
use crate::secret::Secret;
use crate::tls::client_config;

/// Connecting and signing in may take so long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without traffic is asked whether it lives after this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A server that can be connected to.
pub(super) struct Server {
    settings: Config,
    tls: Option<rustls::ClientConfig>,
    /// Host and port, for messages.
    pub name: String,
}

impl Server {
    /// Checks the settings and reads the secrets; connects to nothing.
    pub fn new(place: &str, connection: &PostgresConnectionConfig) -> Result<Server> {
        let mut settings = Config::new();
        settings
            .host(&connection.host)
            .port(connection.port)
            .dbname(&connection.database)
            .user(&connection.username)
            .application_name("streamjob")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE)
            .ssl_mode(if connection.tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &connection.password {
            settings.password(Secret::read(password, &format!("{place}.password"))?.expose());
        }
        let tls = connection.tls.as_ref().map(|tls| client_config(place, tls)).transpose()?;
        Ok(Server { settings, tls, name: format!("{}:{}", connection.host, connection.port) })
    }

    /// A connection, which a task of its own serves until the client is dropped.
    pub async fn connect(&self, connection: &Arc<Connection>) -> Result<Client> {
        let opened = async {
            match &self.tls {
                Some(tls) => {
                    let (client, served) = self.settings.connect(MakeRustlsConnect::new(tls.clone())).await?;
                    serve(served, connection);
                    Ok(client)
                }
                None => {
                    let (client, served) = self.settings.connect(NoTls).await?;
                    serve(served, connection);
                    Ok(client)
                }
            }
        };
        let doing = format!("connecting to {}", self.name);
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(outcome) => outcome.map_err(|error| explain(&doing, &error, connection)),
            Err(_) => Err(Error::outside(format!("{doing}: no answer within {CONNECT_TIMEOUT:?}"))),
        }
    }
}

fn serve<S, T>(served: tokio_postgres::Connection<S, T>, connection: &Arc<Connection>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let connection = connection.clone();
    tokio::spawn(async move {
        if let Err(error) = served.await {
            connection.failed(&crate::http_client::explain_chain(&error));
        }
    });
}
