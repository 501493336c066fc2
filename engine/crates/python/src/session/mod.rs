//! A job in process, for `streamjob.Engine` and tests.

mod body;
mod collected;
mod hidden;
mod pipeline;

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, TryLockError};

use pyo3::prelude::*;
use streamjob_core::config::JobConfig;
use streamjob_core::{Error, Result};

use self::pipeline::Pipeline;
use crate::errors::raised;
use crate::run::panicked;
use crate::udf_host::{Interrupt, PythonUdfs};

/// A normalised job on an in-memory state and a clock that only `set_now` moves.
///
/// One call at a time; other threads of Python run meanwhile.
#[pyclass(frozen, module = "streamjob_engine")]
pub struct Session {
    state: Mutex<State>,
    interrupt: Interrupt,
}

struct State {
    pipeline: Pipeline,
    /// Why the session cannot go on: a call ended in the middle of a batch.
    broken: Option<String>,
}

impl State {
    /// Runs one call; a failure leaves rows half done, so that no other call may follow.
    fn call<T>(&mut self, interrupt: &Interrupt, work: impl FnOnce(&mut Pipeline) -> Result<T>) -> Result<T> {
        if let Some(reason) = &self.broken {
            return Err(Error::user(format!("this session ended in the middle of a batch ({reason}); make a new one")));
        }
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(&mut self.pipeline)));
        let result = result.unwrap_or_else(|panic| Err(panicked(&*panic)));
        match &result {
            // A user's mistake is found before anything is done.
            Err(error) if error.actor() != streamjob_core::Actor::User => self.broken = Some(error.message().to_owned()),
            _ if interrupt.get().is_some() => self.broken = Some("interrupted".to_owned()),
            _ => {}
        }
        result
    }
}

impl Session {
    fn call<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Pipeline) -> Result<T> + Send) -> PyResult<T> {
        let result = py.detach(|| match self.state.try_lock() {
            Ok(mut state) => state.call(&self.interrupt, work),
            // Waiting would be a deadlock for a function that calls its own session.
            Err(TryLockError::WouldBlock) => Err(Error::user("another call of this session is running; make one call at a time")),
            Err(TryLockError::Poisoned(_)) => Err(Error::engine("a session's call panicked; make a new session")),
        });
        match (self.interrupt.get(), result) {
            (Some(interrupt), Ok(_)) => Err(interrupt.clone_ref(py)),
            (_, result) => result.map_err(|error| raised(py, &error)),
        }
    }
}

#[pymethods]
impl Session {
    #[new]
    fn new(py: Python<'_>, job_json: &str, now_us: i64) -> PyResult<Session> {
        let made = || {
            let config = JobConfig::from_json(job_json)?;
            let (host, interrupt) = PythonUdfs::load(py, &config.udfs)?.interruptible_host();
            let pipeline = py.detach(|| Pipeline::new(config, Box::new(host), now_us))?;
            Ok(Session { state: Mutex::new(State { pipeline, broken: None }), interrupt })
        };
        made().map_err(|error: Error| raised(py, &error))
    }

    /// Takes rows in as one request: a JSON object, an array of objects, or lines of JSON. Gives what that produced, as
    /// JSON; an empty array gives what a move of the clock released.
    fn process(&self, py: Python<'_>, body: &[u8]) -> PyResult<String> {
        self.call(py, |pipeline| pipeline.process(body))
    }

    /// The end of all input: every open window closes. Gives what that produced, as JSON.
    fn finish(&self, py: Python<'_>) -> PyResult<String> {
        self.call(py, Pipeline::finish)
    }

    /// The running statistics of a key as JSON, or None if it never came.
    fn stats(&self, py: Python<'_>, key: &str) -> PyResult<Option<String>> {
        self.call(py, |pipeline| pipeline.stats(key))
    }

    /// Moves the clock (microseconds since 1970).
    fn set_now(&self, py: Python<'_>, now_us: i64) -> PyResult<()> {
        self.call(py, |pipeline| {
            pipeline.set_now(now_us);
            Ok(())
        })
    }
}
