//! Sources and sinks in Python, run by `streamjob.connector_host` in an event loop of its own.
//!
//! ```text
//!  engine ──▶ Teller's thread ──▶ the loop (call_soon_threadsafe) ──▶ generator, class
//!  engine ◀── Intake, Answers ◀──┘
//! ```
//!
//! The engine's threads never take the interpreter's lock for this: what they have to say, a thread of its own says. What
//! Python says, it says to queues that have room.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::secret::Secret;
use streamjob_core::config::JobConfig;
use streamjob_core::{Error, Result};
use streamjob_node::hosted::{
    Brought, ConnectorFactory, ConnectorHost, HostedSink, HostedSource, Intake, SinkBatch, SinkStart, SourceStart, Written,
};
use tokio::sync::oneshot;

use crate::attached::keep_this_thread;
use crate::errors::{described, message};

/// The module of the package `streamjob` that runs connectors.
const HOST_MODULE: &str = "streamjob.connector_host";
/// Words that are said while the interpreter's lock is held once.
const MAX_WORDS: usize = 64;

/// Hosts for a job's sources and sinks in Python.
#[derive(Clone, Default)]
pub struct PythonConnectors;

impl PythonConnectors {
    /// Loads the code of all of them, so that what is wrong with it is said before anything is created.
    pub fn check(py: Python<'_>, config: &JobConfig) -> Result<()> {
        let sources = config.sources.iter().filter_map(|source| source.python.as_ref().map(json_of));
        let sinks = config.sinks.iter().filter_map(|sink| sink.python.as_ref().map(json_of));
        let check = |py: Python<'_>, json: String| py.import(HOST_MODULE)?.call_method1("check", (json,)).map(drop);
        sources.chain(sinks).try_for_each(|json| check(py, json).map_err(|error| load_error(py, &error)))
    }
}

impl ConnectorFactory for PythonConnectors {
    fn host(&self) -> Result<Arc<dyn ConnectorHost>> {
        let made = Python::attach(|py| {
            let host = py.import(HOST_MODULE).and_then(|module| module.getattr("Host")).and_then(|class| class.call0());
            host.map(|host| Arc::new(host.unbind())).map_err(|error| load_error(py, &error))
        });
        Ok(Arc::new(PythonHost { host: made?, teller: Teller::start()? }))
    }
}

fn json_of(config: &impl serde::Serialize) -> String {
    serde_json::to_string(config).expect("a job is plain data")
}

fn load_error(py: Python<'_>, error: &PyErr) -> Error {
    let known = py.import(HOST_MODULE).and_then(|module| module.getattr("ConnectorLoadError"));
    if known.is_ok_and(|class| error.is_instance(py, &class)) {
        return Error::user(message(py, error));
    }
    if error.is_instance_of::<pyo3::exceptions::PyImportError>(py) {
        let said = described(py, error);
        return Error::user(format!("the job's connectors cannot be loaded: {said}; pip install streamjob"));
    }
    Error::engine(format!("loading the job's connectors failed: {}", described(py, error)))
}

/// A Python object that several threads of the engine hold.
type Shared = Arc<Py<PyAny>>;

struct PythonHost {
    host: Shared,
    teller: Teller,
}

impl ConnectorHost for PythonHost {
    fn source(&self, start: SourceStart<'_>) -> Result<Arc<dyn HostedSource>> {
        let SourceStart { name, config, secrets, position, intake } = start;
        let made = Python::attach(|py| {
            let intake = Bound::new(py, PyIntake { intake })?;
            let arguments = (name, json_of(config), exposed(&secrets), position, intake);
            self.host.bind(py).call_method1("source", arguments).map(|source| Arc::new(source.unbind()))
        });
        let source = made.map_err(|error| Python::attach(|py| load_error(py, &error)))?;
        Ok(Arc::new(PythonSource { source, words: self.teller.words() }))
    }

    fn sink(&self, start: SinkStart<'_>) -> Result<Arc<dyn HostedSink>> {
        let SinkStart { name, config, secrets, connection } = start;
        let answers = Arc::new(Answers { sink: name.to_owned(), waiting: Mutex::default(), connection });
        let made = Python::attach(|py| {
            let told = Bound::new(py, PyAnswers { answers: answers.clone() })?;
            let arguments = (name, json_of(config), exposed(&secrets), told);
            self.host.bind(py).call_method1("sink", arguments).map(|sink| Arc::new(sink.unbind()))
        });
        let sink = made.map_err(|error| Python::attach(|py| load_error(py, &error)))?;
        Ok(Arc::new(PythonSink { sink, answers, next_ticket: AtomicU64::new(0), words: self.teller.words() }))
    }

    fn stop(&self, within: Duration) {
        let ended = Python::attach(|py| {
            let ended = self.host.bind(py).call_method1("stop", (within.as_secs_f64(),)).and_then(|ended| ended.extract());
            ended.map_err(|error| described(py, &error))
        });
        match ended {
            Ok(true) => {}
            Ok(false) => tracing::warn!("a source or sink in Python did not end within {within:?}; it is left alone"),
            Err(error) => tracing::warn!(error, "the event loop of sources and sinks in Python did not end well"),
        }
        self.teller.stop();
    }
}

fn exposed(secrets: &BTreeMap<String, Secret>) -> HashMap<&str, &str> {
    secrets.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect()
}

/// Something to say to Python.
enum Word {
    Begin(Shared),
    Durable(Shared, u64),
    Stop(Shared),
    Write(Shared, u64, SinkBatch),
    /// Nothing more is said.
    End,
}

impl Word {
    fn say(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Word::Begin(source) => source.bind(py).call_method0("begin").map(drop),
            Word::Durable(source, ticket) => source.bind(py).call_method1("durable", (ticket,)).map(drop),
            Word::Stop(source) => source.bind(py).call_method0("stop").map(drop),
            Word::Write(sink, ticket, SinkBatch { body, key, shard, number, traceparent }) => {
                let body = PyBytes::new(py, &body);
                sink.bind(py).call_method1("write", (ticket, body, key, shard, number, traceparent)).map(drop)
            }
            Word::End => Ok(()),
        }
    }
}

/// The thread that says the engine's words, which are as many as there are batches under way.
struct Teller {
    words: Sender<Word>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Teller {
    fn start() -> Result<Teller> {
        let (words, said) = channel();
        let thread = std::thread::Builder::new().name("connectors-told".to_owned()).spawn(move || tell(&said));
        let thread = thread.map_err(|error| Error::outside(format!("can't start the thread connectors-told: {error}")))?;
        Ok(Teller { words, thread: Mutex::new(Some(thread)) })
    }

    fn words(&self) -> Sender<Word> {
        self.words.clone()
    }

    /// Ends the thread, before the interpreter can.
    fn stop(&self) {
        let _ = self.words.send(Word::End);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(said: &Receiver<Word>) {
    keep_this_thread();
    while let Ok(first) = said.recv() {
        let words: Vec<Word> = std::iter::once(first).chain(said.try_iter().take(MAX_WORDS - 1)).collect();
        let ends = words.iter().any(|word| matches!(word, Word::End));
        let failures: Vec<String> = Python::attach(|py| {
            let say = |word: Word| word.say(py).err().map(|error| described(py, &error));
            words.into_iter().filter_map(say).collect()
        });
        for failure in failures {
            tracing::error!(failure, "a source or sink in Python could not be told something; this is a bug, please report it");
        }
        if ends {
            return;
        }
    }
}

struct PythonSource {
    source: Shared,
    words: Sender<Word>,
}

impl PythonSource {
    /// Nobody hears it once the host has stopped.
    fn say(&self, word: impl FnOnce(Shared) -> Word) {
        let _ = self.words.send(word(self.source.clone()));
    }
}

impl HostedSource for PythonSource {
    fn begin(&self) {
        self.say(Word::Begin);
    }

    fn durable(&self, ticket: u64) {
        self.say(|source| Word::Durable(source, ticket));
    }

    fn stop(&self) {
        self.say(Word::Stop);
    }
}

/// `streamjob.hosted_source.Intake`.
#[pyclass(frozen)]
struct PyIntake {
    intake: Intake,
}

#[pymethods]
impl PyIntake {
    /// The messages stay Python's, uncopied, until they are decoded.
    fn offer(&self, py: Python<'_>, ticket: u64, messages: Vec<PyBackedBytes>, position: Option<String>) -> PyResult<()> {
        let messages = messages.into_iter().map(Bytes::from_owner).collect();
        let offered = py.detach(|| self.intake.offer(Brought { ticket, messages, position }));
        offered.map_err(|error| crate::errors::raised(py, &error))
    }

    fn connected(&self, py: Python<'_>) {
        py.detach(|| self.intake.connected());
    }

    fn failed(&self, py: Python<'_>, text: &str) {
        py.detach(|| self.intake.failed(text));
    }

    fn finished(&self) {
        self.intake.finished();
    }

    fn closed(&self, py: Python<'_>) {
        py.detach(|| self.intake.close());
    }
}

struct PythonSink {
    sink: Shared,
    answers: Arc<Answers>,
    next_ticket: AtomicU64,
    words: Sender<Word>,
}

impl HostedSink for PythonSink {
    fn write(&self, batch: SinkBatch) -> oneshot::Receiver<Written> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.answers.waiting);
        // batches that were given up
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.insert(ticket, sender);
        drop(waiting);
        let _ = self.words.send(Word::Write(self.sink.clone(), ticket, batch));
        receiver
    }
}

/// Who waits for the answers of one sink: as many as there are batches with it.
struct Answers {
    sink: String,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Written>>>,
    connection: Arc<Connection>,
}

impl Answers {
    fn answer(&self, ticket: u64, written: Written) {
        if let Some(sender) = lock(&self.waiting).remove(&ticket) {
            let _ = sender.send(written);
        }
    }
}

/// `streamjob.hosted_sink.Answers`.
#[pyclass(frozen)]
struct PyAnswers {
    answers: Arc<Answers>,
}

#[pymethods]
impl PyAnswers {
    fn written(&self, py: Python<'_>, ticket: u64) {
        py.detach(|| self.answers.answer(ticket, Written::Done));
    }

    fn rejected(&self, py: Python<'_>, ticket: u64, reason: String, rows: Option<Vec<u32>>) {
        py.detach(|| self.answers.answer(ticket, Written::Rejected { reason, rows }));
    }

    fn again(&self, py: Python<'_>, ticket: u64, reason: String) {
        py.detach(|| self.answers.answer(ticket, Written::Again { reason }));
    }

    fn connected(&self, py: Python<'_>) {
        py.detach(|| {
            self.answers.connection.answered();
        });
    }

    fn failed(&self, py: Python<'_>, text: &str) {
        py.detach(|| {
            let Answers { sink, connection, .. } = &*self.answers;
            if connection.failed(text) {
                tracing::warn!(sink, "a sink says that its server does not answer: {text}");
            }
        });
    }
}
