//! Sources and sinks that are code of the user's. A host runs them, in whatever language; here is what the engine and a host
//! say to each other. None of it waits: a host is told, and tells.

mod sink;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::secret::Secret;
use streamjob_core::config::{PythonSinkConfig, PythonSourceConfig, SecretRef};
use streamjob_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};

pub use sink::start_sink;
pub use source::start_sources;

/// Batches of one source that the engine has and has not made durable.
pub const BATCHES_UNDER_WAY: usize = 4;

/// Makes hosts.
pub trait ConnectorFactory: Send + Sync {
    /// One for an opening of the state, in which a job's sources and sinks are started anew.
    fn host(&self) -> Result<Arc<dyn ConnectorHost>>;
}

/// Runs sources and sinks.
pub trait ConnectorHost: Send + Sync {
    /// A source that begins at `position` (JSON text) once it is told to.
    ///
    /// # Errors
    /// `user` for code that cannot be loaded.
    fn source(&self, start: SourceStart<'_>) -> Result<Arc<dyn HostedSource>>;

    /// A sink, which is opened before its first batch.
    ///
    /// # Errors
    /// `user` for code that cannot be loaded.
    fn sink(&self, start: SinkStart<'_>) -> Result<Arc<dyn HostedSink>>;

    /// Ends what still runs. What does not end in time is left alone.
    fn stop(&self, within: Duration);
}

/// For jobs without such sources and sinks.
pub struct NoConnectors;

impl ConnectorFactory for NoConnectors {
    fn host(&self) -> Result<Arc<dyn ConnectorHost>> {
        Err(Error::engine("this process runs no sources and sinks in Python; start the job by the command streamjob"))
    }
}

/// What a source is started with.
pub struct SourceStart<'a> {
    pub name: &'a str,
    pub config: &'a PythonSourceConfig,
    pub secrets: BTreeMap<String, Secret>,
    pub position: Option<String>,
    pub intake: Intake,
}

/// A source that runs in a host.
pub trait HostedSource: Send + Sync {
    /// It may bring rows now.
    fn begin(&self);
    /// A batch that it brought is durable.
    fn durable(&self, ticket: u64);
    /// It is to end, with what it has: nothing more comes once its intake is closed.
    fn stop(&self);
}

/// What a sink is started with.
pub struct SinkStart<'a> {
    pub name: &'a str,
    pub config: &'a PythonSinkConfig,
    pub secrets: BTreeMap<String, Secret>,
    pub connection: Arc<Connection>,
}

/// A sink that runs in a host.
pub trait HostedSink: Send + Sync {
    /// Writes a batch; the answer comes when it comes. Dropping the receiver gives the batch up.
    fn write(&self, batch: SinkBatch) -> oneshot::Receiver<Written>;
}

/// Rows that are written together.
pub struct SinkBatch {
    /// A JSON array.
    pub body: Bytes,
    pub key: String,
    pub shard: u16,
    pub number: u64,
    pub traceparent: Option<String>,
}

/// What came of writing a batch.
pub enum Written {
    Done,
    /// These rows, or all of them, will never be taken.
    Rejected {
        reason: String,
        rows: Option<Vec<u32>>,
    },
    Again {
        reason: String,
    },
}

/// Messages that a source brings together.
pub struct Brought {
    pub ticket: u64,
    pub messages: Vec<Bytes>,
    /// Behind the last message, as JSON text.
    pub position: Option<String>,
}

/// What a source tells the engine, from any thread.
#[derive(Clone)]
pub struct Intake {
    source: Arc<str>,
    sender: Arc<Mutex<Option<mpsc::Sender<Brought>>>>,
    connection: Arc<Connection>,
    finished: Arc<AtomicBool>,
}

impl Intake {
    fn new(source: &str) -> (Intake, mpsc::Receiver<Brought>) {
        let (sender, receiver) = mpsc::channel(BATCHES_UNDER_WAY);
        let sender = Arc::new(Mutex::new(Some(sender)));
        (Intake { source: source.into(), sender, connection: Arc::default(), finished: Arc::default() }, receiver)
    }

    /// Takes a batch. At most [`BATCHES_UNDER_WAY`] are not durable at any time; where the process stops they are dropped.
    pub fn offer(&self, brought: Brought) -> Result<()> {
        match self.sender.lock().as_ref().map(|sender| sender.try_send(brought)) {
            None | Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                Err(Error::engine(format!("the source {} has more than {BATCHES_UNDER_WAY} batches under way", self.source)))
            }
        }
    }

    /// Its server answers.
    pub fn connected(&self) {
        if self.connection.answered() {
            tracing::debug!(source = &*self.source, "connected");
        }
    }

    /// Its server does not answer, or its code has failed: it is tried again.
    pub fn failed(&self, text: &str) {
        note_failure(&self.connection, text, || {
            tracing::warn!(source = &*self.source, "a source failed and is tried again: {text}");
        });
    }

    /// It has come to its end, with all of its rows durable.
    pub fn finished(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.sender.lock().take();
    }
}

/// Counts a failure. One that goes on for long must not fill the log.
fn note_failure(connection: &Connection, text: &str, log: impl FnOnce()) {
    if connection.failed(text) || connection.errors().is_power_of_two() {
        log();
    }
}

/// The secrets of a source or sink, by their names in the job.
fn read_secrets(place: &str, secrets: &BTreeMap<String, SecretRef>) -> Result<BTreeMap<String, Secret>> {
    let read = |(name, reference): (&String, &SecretRef)| {
        Ok((name.clone(), Secret::read(reference, &format!("{place}.secrets.{name}"))?))
    };
    secrets.iter().map(read).collect()
}
