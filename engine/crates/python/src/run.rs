//! The entry point of one engine process.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use streamjob_core::Error;
use streamjob_core::config::JobConfig;
use streamjob_node::{OnProgress, OnReady, Options, StopHandle, Totals};
use streamjob_state::StateDir;

use crate::connectors::PythonConnectors;
use crate::errors::{described, raised};
use crate::udf_host::LateUdfs;

/// Runs a normalised job until SIGINT, SIGTERM, `for_us` or the end of its sources; gives the totals as JSON.
///
/// The interpreter is free meanwhile. `on_ready` gets the base URL once and `on_progress` a JSON object every
/// `progress_interval_us`, on threads of the engine; what they raise is logged and changes nothing. Raises EngineError.
#[pyfunction]
#[pyo3(signature = (
    job_json, *, state_dir, listen, exit_at_end, for_us, on_ready, on_progress, progress_interval_us, control_token=None,
    control_token_file=None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub fn run(
    py: Python<'_>,
    job_json: &str,
    state_dir: PathBuf,
    listen: Option<String>,
    exit_at_end: bool,
    for_us: Option<u64>,
    on_ready: Option<Py<PyAny>>,
    on_progress: Option<Py<PyAny>>,
    progress_interval_us: u64,
    control_token: Option<String>,
    control_token_file: Option<PathBuf>,
) -> PyResult<String> {
    crate::memory::tune();
    let config = JobConfig::from_json(job_json).map_err(|error| raised(py, &error))?;
    let udfs = Arc::new(LateUdfs::default());
    let functions = config.udfs.clone();
    // Importing what functions need takes as long as opening the state, so that both go on at once. A first start must leave
    // nothing behind where a function is wrong.
    let early = !StateDir::exists(&state_dir);
    let stop = StopHandle::default();
    let handlers = Handlers::set(py, &stop)?;
    let loaded = PythonConnectors::check(py, &config).and_then(|()| if early { udfs.load(py, &functions) } else { Ok(()) });
    if let Err(error) = loaded {
        handlers.restore(py)?;
        return Err(raised(py, &error));
    }
    let options = Options {
        config,
        state_dir,
        listen,
        control_token: control_token.map(Into::into),
        control_token_file,
        exit_at_end,
        run_for: for_us.map(Duration::from_micros),
        udfs: udfs.clone(),
        connectors: Arc::new(PythonConnectors),
        on_ready: on_ready.map(ready),
        on_progress: on_progress.map(progress),
        progress_interval: Duration::from_micros(progress_interval_us),
        stop,
        handle_signals: false,
    };
    let outcome = watch(py, options, || {
        // An error ends the run, which says it.
        if !early {
            let _ = udfs.load(py, &functions);
        }
    });
    handlers.restore(py)?;
    let totals = outcome.map_err(|error| raised(py, &error))?;
    Ok(serde_json::to_string(&totals).expect("totals are plain numbers"))
}

/// Tries the connections of a normalised job, with its secrets; gives what came of each, as JSON. The interpreter is free
/// meanwhile.
#[pyfunction]
pub fn try_connections(py: Python<'_>, job_json: &str) -> PyResult<String> {
    let config = JobConfig::from_json(job_json).map_err(|error| raised(py, &error))?;
    let tried = py.detach(|| streamjob_node::try_connections(&config)).map_err(|error| raised(py, &error))?;
    Ok(serde_json::to_string(&tried).expect("texts are JSON"))
}

/// How often the run looks for signals that Python has noted.
const SIGNAL_LOOK: Duration = Duration::from_millis(50);

/// Runs the engine on a thread of its own; this one stays Python's, since only the main thread is told of signals. `begun` is
/// called beside its start, with the interpreter's lock.
fn watch(py: Python<'_>, options: Options, begun: impl FnOnce()) -> streamjob_core::Result<Totals> {
    let stop = options.stop.clone();
    let (sender, mut ended) = mpsc::channel();
    let engine = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || drop(sender.send(run_guarded(options))))
        .map_err(|error| Error::outside(format!("can't start the engine's thread: {error}")))?;
    begun();
    let outcome = loop {
        let receiver = &mut ended;
        match py.detach(move || receiver.recv_timeout(SIGNAL_LOOK)) {
            Ok(outcome) => break outcome,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err(Error::engine("the engine's thread has gone")),
            Err(mpsc::RecvTimeoutError::Timeout) if py.check_signals().is_err() => stop.stop(),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    };
    py.detach(|| drop(engine.join()));
    outcome
}

/// Python's handlers of SIGINT and SIGTERM, as they were before the run.
struct Handlers {
    before: Vec<(Py<PyAny>, Py<PyAny>)>,
}

impl Handlers {
    /// Makes both signals stop the run, and a second one raise KeyboardInterrupt in the main thread. The first interrupts no
    /// import of user code, which might swallow it. Other threads may not set handlers: nothing changes.
    fn set(py: Python<'_>, stop: &StopHandle) -> PyResult<Handlers> {
        let signal = py.import("signal")?;
        let (stop, is_told) = (stop.clone(), AtomicBool::new(false));
        let raise = PyCFunction::new_closure(py, None, None, move |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            stop.stop();
            match is_told.swap(true, Ordering::AcqRel) {
                true => Err(PyKeyboardInterrupt::new_err(())),
                false => Ok(()),
            }
        })?;
        let mut before = Vec::new();
        for name in ["SIGINT", "SIGTERM"] {
            let number = signal.getattr(name)?;
            match signal.call_method1("signal", (&number, &raise)) {
                // None: a handler that was not set by Python, and that Python can't set again.
                Ok(old) if !old.is_none() => before.push((number.unbind(), old.unbind())),
                Ok(_) => {}
                Err(error) if error.is_instance_of::<pyo3::exceptions::PyValueError>(py) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Handlers { before })
    }

    fn restore(self, py: Python<'_>) -> PyResult<()> {
        let signal = py.import("signal")?;
        for (number, handler) in self.before {
            signal.call_method1("signal", (number, handler))?;
        }
        Ok(())
    }
}

/// A panic of the engine is an error like others for the command line, and says that it is not the user's.
fn run_guarded(options: Options) -> streamjob_core::Result<Totals> {
    std::panic::catch_unwind(AssertUnwindSafe(|| streamjob_node::run(options))).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// What a panic said, as an error.
pub fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::engine(format!("the engine panicked: {}; this is a bug, please report it", said.unwrap_or("without a message")))
}

fn ready(callback: Py<PyAny>) -> OnReady {
    Box::new(move |url| call_back("on_ready", &callback, url))
}

fn progress(callback: Py<PyAny>) -> OnProgress {
    Box::new(move |json| call_back("on_progress", &callback, json))
}

fn call_back(name: &str, callback: &Py<PyAny>, argument: &str) {
    let failed = Python::attach(|py| callback.call1(py, (argument,)).err().map(|error| described(py, &error)));
    // Logged without the interpreter's lock: a log that is slow must not hold Python up.
    if let Some(error) = failed {
        tracing::warn!(callback = name, error, "a callback failed; the run goes on without it");
    }
}
