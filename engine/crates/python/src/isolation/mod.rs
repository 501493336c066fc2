//! Calls of functions in a process of its own: what ends that process leaves the engine's alone.
//!
//! The other process is the same interpreter with the same modules (`python -m streamjob.udf_process`), and calls functions by the
//! same host. It costs an import of all that they need; so it stays until it dies or nothing is isolated any more.

mod frames;
mod serve;

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use arrow_array::ArrayRef;
use pyo3::prelude::*;
pub use serve::_serve_udfs;
use streamjob_core::config::UdfConfig;
use streamjob_core::udf::frames::{read_answer, write_call};
use streamjob_core::udf::{IsolatedFailure, UdfFailure};

use self::frames::Start;

/// The module of the package `streamjob` that the other process runs.
const PROCESS_MODULE: &str = "streamjob.udf_process";
/// While an answer is awaited, the process is looked at this often: what it has started may hold its pipe open when it is gone.
const LOOK: Duration = Duration::from_millis(100);
/// A process that has closed its pipe has this long to end; then it is ended.
const END: Duration = Duration::from_secs(1);
/// A process that ends is looked at this often.
const END_LOOK: Duration = Duration::from_millis(1);

/// How the other process is started.
pub struct Interpreter {
    executable: String,
    /// Its first frame.
    start: Vec<u8>,
}

impl Interpreter {
    /// This one, before it has loaded anything of the user's.
    pub fn find(py: Python<'_>, udfs: &[UdfConfig]) -> PyResult<Interpreter> {
        let sys = py.import("sys")?;
        let executable: Option<String> = sys.getattr("executable")?.extract()?;
        let start = Start { path: sys.getattr("path")?.extract()?, udfs: udfs.to_vec() };
        let start = serde_json::to_vec(&start).expect("paths and functions are plain data");
        Ok(Interpreter { executable: executable.unwrap_or_default(), start })
    }
}

/// The process of one worker.
#[derive(Default)]
pub enum Isolation {
    #[default]
    NotStarted,
    Running(Process),
    /// It has been said why.
    Impossible,
}

impl Isolation {
    /// Calls a function there; `None` where there can be no such process.
    pub fn call(
        &mut self,
        interpreter: &Interpreter,
        udf: usize,
        inputs: &[ArrayRef],
        rows: usize,
    ) -> Option<Result<Vec<ArrayRef>, IsolatedFailure>> {
        if matches!(self, Isolation::NotStarted) {
            *self = match Process::start(interpreter) {
                Ok(process) => Isolation::Running(process),
                Err(reason) => {
                    tracing::error!(
                        "rows that this process may have died of are called in it all the same, as no other one can be started: \
                         {reason}"
                    );
                    Isolation::Impossible
                }
            };
        }
        let Isolation::Running(process) = self else { return None };
        let outcome = process.call(udf, inputs, rows);
        if matches!(outcome, Err(IsolatedFailure::Ended(_))) {
            *self = Isolation::NotStarted;
        }
        Some(outcome)
    }
}

/// Another interpreter that has loaded the job's functions.
pub struct Process {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Process {
    fn start(interpreter: &Interpreter) -> Result<Process, String> {
        let said = |error: io::Error| format!("{:?}: {error}", interpreter.executable);
        let mut child = Command::new(&interpreter.executable)
            // Without -P the folder it runs in would come before all others.
            .args(["-P", "-m", PROCESS_MODULE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What a terminal sends to the engine is for the engine alone.
            .process_group(0)
            .spawn()
            .map_err(said)?;
        let (requests, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut process = Process { child, requests, answers };
        match process.ask(&interpreter.start) {
            Ok(answer) => read_answer(&answer).map_err(|error| error.to_string())?.map(|_| process),
            Err(_) => Err(format!("it has ended while it loaded the functions ({})", process.end())),
        }
    }

    fn call(&mut self, udf: usize, inputs: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, IsolatedFailure> {
        let failed = |error| IsolatedFailure::Failed(UdfFailure(format!("the engine could not make a batch: {error}")));
        let call = write_call(udf, inputs, rows).map_err(failed)?;
        let answer = self.ask(&call).ok().and_then(|answer| read_answer(&answer).ok());
        match answer {
            Some(outcome) => outcome.map_err(|reason| IsolatedFailure::Failed(UdfFailure(reason))),
            None => Err(IsolatedFailure::Ended(format!(
                "the function ended the process that it ran in ({}): mend the function or the native code that it calls, then send \
                 the row again",
                self.end()
            ))),
        }
    }

    /// The process reads a frame whole before it answers, so that neither waits for the other.
    fn ask(&mut self, frame: &[u8]) -> io::Result<Vec<u8>> {
        frames::write_frame(&mut self.requests, frame)?;
        frames::read_frame(&mut Answers { child: &mut self.child, pipe: &mut self.answers })
    }

    /// How it has ended, which it has or does now.
    fn end(&mut self) -> String {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return described(status),
                Ok(None) => std::thread::sleep(END_LOOK),
                Err(error) => return error.to_string(),
            }
        }
        "it closed the pipe by which it answers".to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pipe of a process, until that is gone.
struct Answers<'a> {
    child: &'a mut Child,
    pipe: &'a mut ChildStdout,
}

impl Read for Answers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if is_readable(self.pipe, LOOK)? {
                return self.pipe.read(buffer);
            }
            if self.child.try_wait()?.is_some() && !is_readable(self.pipe, Duration::ZERO)? {
                return Ok(0);
            }
        }
    }
}

/// Whether a read would return at once, after waiting at most so long for that.
fn is_readable(pipe: &ChildStdout, patience: Duration) -> io::Result<bool> {
    let mut asked = libc::pollfd { fd: pipe.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, of a file that is open as long as `pipe` lives.
    match unsafe { libc::poll(&raw mut asked, 1, patience.as_millis() as libc::c_int) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        ready => Ok(ready > 0),
    }
}

fn described(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("signal {signal}{}", signal_name(signal).map_or_else(String::new, |name| format!(", {name}")))
        }
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// Names of what native code is ended by.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGXCPU => "SIGXCPU",
        _ => return None,
    })
}
