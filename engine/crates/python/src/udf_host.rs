//! User functions in Python, called with whole batches.
//!
//! What can be made ready without the interpreter's lock is; under it a call makes views, calls the adapter of
//! `streamjob.udf_host` and copies what it returned. The adapter has checked the outputs and said file and line of what
//! the function raised.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arrow_array::{Array, ArrayRef};
use arrow_schema::Fields;
use metrics::{Counter, Histogram};
use pyo3::exceptions::{PyImportError, PyKeyboardInterrupt};
use pyo3::prelude::*;
use pyo3::types::PyList;
use streamjob_core::config::{FieldType, UdfConfig};
use streamjob_core::udf::{IsolatedFailure, UdfFailure, UdfHost};
use streamjob_core::{Error, Result};
use streamjob_node::UdfFactory;
use streamjob_node::telemetry::current_traceparent;

use crate::attached::keep_this_thread;
use crate::convert::{ArrowBatch, Input, Numpy, fields, from_arrow, from_numpy};
use crate::errors::{described, line_in, message};
use crate::isolation::{Interpreter, Isolation};

/// The module of the package `streamjob` that loads functions.
const HOST_MODULE: &str = "streamjob.udf_host";

/// A job's functions, loaded once for the process and shared by its workers.
pub struct PythonUdfs {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` without functions: then neither NumPy nor `streamjob` is imported.
    python: Option<Libraries>,
    udfs: Vec<Udf>,
}

struct Libraries {
    interpreter: Interpreter,
    numpy: Numpy,
    udf_error: Py<PyAny>,
    /// Calls an adapter within a span: `call_traced(traceparent, adapter, *arguments)`.
    call_traced: Py<PyAny>,
}

struct Udf {
    name: String,
    function: String,
    filename: String,
    adapter: Py<PyAny>,
    wants_arrow: bool,
    inputs: Vec<String>,
    outputs: Vec<FieldType>,
    /// Names and types of the inputs, which are the same for each batch.
    fields: OnceLock<Fields>,
}

/// Set when a `KeyboardInterrupt` broke off a call: whoever drives the host raises it.
pub type Interrupt = Arc<OnceLock<PyErr>>;

impl PythonUdfs {
    /// Loads all functions of a job, in order.
    pub fn load(py: Python<'_>, udfs: &[UdfConfig]) -> Result<PythonUdfs> {
        if udfs.is_empty() {
            return Ok(PythonUdfs { shared: Arc::new(Shared { python: None, udfs: Vec::new() }) });
        }
        let shared = load(py, udfs).map_err(|error| load_error(py, &error))?;
        Ok(PythonUdfs { shared: Arc::new(shared) })
    }

    /// A host that tells of interrupts, for calls on a thread of Python's own.
    pub fn interruptible_host(&self) -> (PythonUdfHost, Interrupt) {
        let interrupt = Interrupt::default();
        (PythonUdfHost::new(self.shared.clone(), Some(interrupt.clone())), interrupt)
    }

    /// A host on a thread that no signal reaches: a `KeyboardInterrupt` is an exception of the function's own there.
    pub fn uninterrupted_host(&self) -> PythonUdfHost {
        PythonUdfHost::new(self.shared.clone(), None)
    }
}

/// A job's functions, perhaps still being loaded. Workers open their shards meanwhile and then wait for them.
#[derive(Default)]
pub struct LateUdfs {
    loaded: Mutex<Option<Result<Arc<PythonUdfs>>>>,
    arrived: Condvar,
}

impl LateUdfs {
    /// Loads the functions and lets those go who wait for them; also with an error, which each of them then has.
    pub fn load(&self, py: Python<'_>, udfs: &[UdfConfig]) -> Result<()> {
        let loaded = PythonUdfs::load(py, udfs).map(Arc::new);
        let outcome = loaded.as_ref().map(|_| ()).map_err(Error::clone);
        // Held for a moment only, and by nobody who waits for the interpreter.
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        self.arrived.notify_all();
        outcome
    }

    fn wait(&self) -> Result<Arc<PythonUdfs>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*loaded {
                Some(outcome) => return outcome.clone(),
                None => loaded = self.arrived.wait(loaded).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl UdfFactory for LateUdfs {
    fn host(&self, worker: usize) -> Result<Box<dyn UdfHost>> {
        self.wait()?.host(worker)
    }
}

impl UdfFactory for PythonUdfs {
    fn host(&self, _worker: usize) -> Result<Box<dyn UdfHost>> {
        if self.shared.python.is_some() {
            keep_this_thread();
        }
        // Signals reach Python's main thread alone.
        Ok(Box::new(self.uninterrupted_host()))
    }
}

fn load(py: Python<'_>, udfs: &[UdfConfig]) -> PyResult<Shared> {
    let interpreter = Interpreter::find(py, udfs)?;
    let module = py.import(HOST_MODULE)?;
    let json = serde_json::to_string(udfs).expect("a job's functions are plain data");
    let adapters: Vec<Bound<'_, PyAny>> = module.call_method1("load", (json,))?.extract()?;
    let loaded = std::iter::zip(udfs, adapters)
        .map(|(udf, adapter)| {
            Ok(Udf {
                name: udf.name.clone(),
                function: udf.function.clone(),
                filename: udf.filename.clone(),
                wants_arrow: adapter.getattr("wants_arrow")?.extract()?,
                adapter: adapter.unbind(),
                inputs: udf.inputs.clone(),
                outputs: udf.outputs.iter().map(|output| output.data_type).collect(),
                fields: OnceLock::new(),
            })
        })
        .collect::<PyResult<_>>()?;
    let python = Libraries {
        interpreter,
        numpy: Numpy::import(py)?,
        udf_error: module.getattr("UdfError")?.unbind(),
        call_traced: module.getattr("call_traced")?.unbind(),
    };
    Ok(Shared { python: Some(python), udfs: loaded })
}

fn load_error(py: Python<'_>, error: &PyErr) -> Error {
    let known = py.import(HOST_MODULE).and_then(|module| module.getattr("UdfLoadError"));
    if known.is_ok_and(|class| error.is_instance(py, &class)) {
        return Error::user(message(py, error));
    }
    if error.is_instance_of::<PyImportError>(py) {
        let said = described(py, error);
        return Error::user(format!("the job's functions cannot be loaded: {said}; pip install streamjob numpy"));
    }
    Error::engine(format!("loading the job's functions failed: {}", described(py, error)))
}

/// Calls a job's functions for one worker.
pub struct PythonUdfHost {
    shared: Arc<Shared>,
    measures: Vec<Option<Measures>>,
    interrupt: Option<Interrupt>,
    isolation: Isolation,
}

struct Measures {
    latency: Histogram,
    lock_wait: Histogram,
    errors: Counter,
    isolated: Counter,
}

impl Measures {
    fn new(udf: &str) -> Measures {
        Measures {
            latency: metrics::histogram!("udf_latency_seconds", "udf" => udf.to_owned()),
            lock_wait: metrics::histogram!("udf_lock_wait_seconds", "udf" => udf.to_owned()),
            errors: metrics::counter!("udf_errors_total", "udf" => udf.to_owned()),
            isolated: metrics::counter!("udf_isolated_calls_total", "udf" => udf.to_owned()),
        }
    }
}

impl PythonUdfHost {
    fn new(shared: Arc<Shared>, interrupt: Option<Interrupt>) -> PythonUdfHost {
        let measures = shared.udfs.iter().map(|_| None).collect();
        PythonUdfHost { shared, measures, interrupt, isolation: Isolation::default() }
    }
}

impl UdfHost for PythonUdfHost {
    fn call(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
        let (Some(python), Some(definition)) = (&self.shared.python, self.shared.udfs.get(udf)) else {
            return Err(UdfFailure(format!("no function {udf} was loaded")));
        };
        if self.interrupt.as_ref().is_some_and(|interrupt| interrupt.get().is_some()) {
            return Err(UdfFailure("interrupted".to_owned()));
        }
        // Made at the first call: whoever collects metrics is there by then.
        let measures = self.measures[udf].get_or_insert_with(|| Measures::new(&definition.name));
        let begun = Instant::now();
        let call = Call::prepare(definition, inputs, rows)?;
        let traceparent = current_traceparent();
        let asked = Instant::now();
        let (waited, result) = Python::attach(|py| {
            let waited = asked.elapsed();
            (waited, call.run(py, python, definition, traceparent.as_deref(), self.interrupt.as_ref()))
        });
        measures.latency.record(begun.elapsed());
        measures.lock_wait.record(waited);
        let result = result.and_then(|outputs| fitting(definition, outputs, rows));
        if result.is_err() {
            measures.errors.increment(1);
        }
        result
    }

    fn call_isolated(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, IsolatedFailure> {
        let shared = self.shared.clone();
        let (Some(python), Some(definition)) = (&shared.python, shared.udfs.get(udf)) else {
            return self.call(udf, inputs, rows).map_err(IsolatedFailure::Failed);
        };
        let begun = Instant::now();
        let Some(result) = self.isolation.call(&python.interpreter, udf, inputs, rows) else {
            return self.call(udf, inputs, rows).map_err(IsolatedFailure::Failed);
        };
        let measures = self.measures[udf].get_or_insert_with(|| Measures::new(&definition.name));
        measures.latency.record(begun.elapsed());
        measures.isolated.increment(1);
        let result = result.and_then(|outputs| fitting(definition, outputs, rows).map_err(IsolatedFailure::Failed));
        if result.is_err() {
            measures.errors.increment(1);
        }
        result
    }

    fn end_isolation(&mut self) {
        self.isolation = Isolation::default();
    }
}

/// One call, ready to be made.
enum Call {
    Numpy { inputs: Vec<Input>, rows: usize },
    Arrow(ArrowBatch),
}

impl Call {
    fn prepare(udf: &Udf, inputs: &[ArrayRef], rows: usize) -> Result<Call, UdfFailure> {
        if !udf.wants_arrow {
            return Ok(Call::Numpy { inputs: inputs.iter().map(Input::new).collect(), rows });
        }
        let fields = udf.fields.get_or_init(|| fields(&udf.inputs, inputs)).clone();
        let batch = ArrowBatch::new(fields, inputs, rows);
        batch.map(Call::Arrow).map_err(|error| UdfFailure(format!("the engine could not make a batch: {error}")))
    }

    fn run(
        self,
        py: Python<'_>,
        python: &Libraries,
        udf: &Udf,
        traceparent: Option<&str>,
        interrupt: Option<&Interrupt>,
    ) -> Result<Vec<ArrayRef>, UdfFailure> {
        let outputs = self.returned(py, python, udf, traceparent).map_err(|error| failure(py, python, udf, error, interrupt))?;
        if outputs.len() != udf.outputs.len() {
            let (got, expected) = (outputs.len(), udf.outputs.len());
            return Err(UdfFailure(format!("the adapter gave {got} columns, declared are {expected}")));
        }
        std::iter::zip(&outputs, &udf.outputs)
            .map(|(output, kind)| {
                let arrow = if udf.wants_arrow { from_arrow(output) } else { None };
                arrow.unwrap_or_else(|| from_numpy(&python.numpy, output, *kind)).map_err(|reason| {
                    UdfFailure(format!("{}: {} returned what the engine cannot read: {reason}", udf.filename, udf.name))
                })
            })
            .collect()
    }

    fn returned<'py>(
        self,
        py: Python<'py>,
        python: &Libraries,
        udf: &Udf,
        traceparent: Option<&str>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let (adapter, traced) = (udf.adapter.bind(py), python.call_traced.bind(py));
        let outputs = match self {
            Call::Numpy { inputs, rows } => {
                let arrays = inputs.iter().map(|input| input.to_numpy(py, &python.numpy)).collect::<PyResult<Vec<_>>>()?;
                let arrays = PyList::new(py, arrays)?;
                match traceparent {
                    None => adapter.call1((arrays, rows))?,
                    Some(traceparent) => traced.call1((traceparent, adapter, arrays, rows))?,
                }
            }
            Call::Arrow(batch) => {
                let batch = Bound::new(py, batch)?;
                match traceparent {
                    None => adapter.call1((batch,))?,
                    Some(traceparent) => traced.call1((traceparent, adapter, batch))?,
                }
            }
        };
        outputs.extract()
    }
}

fn failure(py: Python<'_>, python: &Libraries, udf: &Udf, error: PyErr, interrupt: Option<&Interrupt>) -> UdfFailure {
    if error.is_instance(py, python.udf_error.bind(py)) {
        return UdfFailure(message(py, &error));
    }
    // What the adapter lets through is no ordinary exception: KeyboardInterrupt, CancelledError and their like.
    let place = match line_in(py, &error, &udf.filename) {
        Some(line) => format!("{}, line {line}", udf.filename),
        None => udf.filename.clone(),
    };
    let text = format!("{place}: {} failed: {}", udf.function, described(py, &error));
    if let Some(interrupt) = interrupt.filter(|_| error.is_instance_of::<PyKeyboardInterrupt>(py)) {
        // A second interrupt adds nothing to the first.
        let _ = interrupt.set(error);
    }
    UdfFailure(text)
}

/// The adapter checks what a function returns; an array that slipped through would fail the worker, not the row.
fn fitting(udf: &Udf, outputs: Vec<ArrayRef>, rows: usize) -> Result<Vec<ArrayRef>, UdfFailure> {
    let kinds = udf.outputs.iter().map(|kind| arrow_kind(*kind));
    for (output, kind) in std::iter::zip(&outputs, kinds) {
        if output.len() != rows || *output.data_type() != kind {
            return Err(UdfFailure(format!(
                "{}: {} returned {} values of the type {}; expected are {rows} of {kind}",
                udf.filename,
                udf.function,
                output.len(),
                output.data_type(),
            )));
        }
    }
    Ok(outputs)
}

/// The Arrow type of one of the engine's four types.
pub fn arrow_kind(kind: FieldType) -> arrow_schema::DataType {
    streamjob_core::expr::DataKind::from(kind).arrow_type()
}
