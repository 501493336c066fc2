//! What a run is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use streamjob_core::Result;
use streamjob_core::config::JobConfig;
use streamjob_core::udf::UdfHost;

use crate::hosted::ConnectorFactory;

/// Makes one host of user functions for each worker.
pub trait UdfFactory: Send + Sync {
    /// Called on the worker's own thread.
    fn host(&self, worker: usize) -> Result<Box<dyn UdfHost>>;
}

/// Hosts for jobs without functions.
pub struct NoUdfFactory;

impl UdfFactory for NoUdfFactory {
    fn host(&self, _worker: usize) -> Result<Box<dyn UdfHost>> {
        Ok(Box::new(streamjob_core::udf::NoUdfs))
    }
}

/// Called once with the base URL, when rows are taken.
pub type OnReady = Box<dyn FnOnce(&str) + Send>;
/// Called in regular intervals with a JSON object of progress.
pub type OnProgress = Box<dyn FnMut(&str) + Send>;

/// Ends a run from another thread, as SIGTERM would.
#[derive(Clone, Default)]
pub struct StopHandle {
    pub(crate) token: tokio_util::sync::CancellationToken,
}

impl StopHandle {
    /// Asks the run to commit everything and end. More than once is the same as once.
    pub fn stop(&self) {
        self.token.cancel();
    }
}

/// One run of a job.
pub struct Options {
    pub config: JobConfig,
    pub state_dir: PathBuf,
    /// Address of the one listener, such as `127.0.0.1:8080`; `None` listens nowhere.
    pub listen: Option<String>,
    /// What `/v1/control` asks for as a bearer token; `None` for no control.
    pub control_token: Option<Arc<str>>,
    /// The file that the token comes from: it is read again where a request brings another one.
    pub control_token_file: Option<PathBuf>,
    /// End when all replayable sources have ended: watermarks go to infinity and everything is flushed.
    pub exit_at_end: bool,
    pub run_for: Option<Duration>,
    pub udfs: Arc<dyn UdfFactory>,
    /// Runs sources and sinks that are code of the user's.
    pub connectors: Arc<dyn ConnectorFactory>,
    pub on_ready: Option<OnReady>,
    pub on_progress: Option<OnProgress>,
    pub progress_interval: Duration,
    pub stop: StopHandle,
    /// Whether SIGINT and SIGTERM end the run. Off where the host process has handlers of its own.
    pub handle_signals: bool,
}

/// What a run leaves behind: counts since the state was created.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub received: u64,
    pub applied: u64,
    pub late: u64,
    pub rejected: u64,
    pub windows: u64,
    pub anomalies: u64,
    /// Whether the state directory held a commit at the start.
    pub resumed: bool,
}
