//! The other process: loads functions, and calls them as it is told.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, RawFd};

use arrow_schema::ArrowError;
use pyo3::prelude::*;
use streamjob_core::Error;
use streamjob_core::udf::frames::{read_call, write_failure, write_results};
use streamjob_core::udf::{UdfFailure, UdfHost};

use super::frames::{self, Start};
use crate::errors::{described, raised};
use crate::udf_host::{PythonUdfHost, PythonUdfs};

/// Calls functions until the pipe of requests ends. Takes both files over. Private: `streamjob.udf_process` runs it.
#[pyfunction]
pub fn _serve_udfs(py: Python<'_>, requests: RawFd, answers: RawFd) -> PyResult<()> {
    die_with_the_engine();
    // SAFETY: the caller has opened both for this and uses them no more.
    let (mut requests, mut answers) = unsafe { (File::from_raw_fd(requests), File::from_raw_fd(answers)) };
    let served = py.detach(|| serve(&mut requests, &mut answers));
    served.map_err(|error| raised(py, &Error::outside(format!("the pipe to the engine broke: {error}"))))
}

/// Also where a function does not return to hear of it.
fn die_with_the_engine() {
    #[cfg(target_os = "linux")]
    // SAFETY: sets a number of this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

fn serve(requests: &mut File, answers: &mut File) -> io::Result<()> {
    let start: Start = serde_json::from_slice(&frames::read_frame(requests)?)?;
    let host = Python::attach(|py| loaded(py, &start));
    let mut host = match host {
        Ok(host) => host,
        Err(reason) => return frames::write_frame(answers, &write_failure(&reason)),
    };
    frames::write_frame(answers, &write_results(&[]).map_err(io::Error::other)?)?;
    loop {
        let call = match frames::read_frame(requests) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let answer = answered(&mut host, &call).map_err(io::Error::other)?;
        match frames::write_frame(answers, &answer) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome?,
        }
    }
}

fn loaded(py: Python<'_>, start: &Start) -> Result<PythonUdfHost, String> {
    py.import("sys").and_then(|sys| sys.setattr("path", &start.path)).map_err(|error| described(py, &error))?;
    let udfs = PythonUdfs::load(py, &start.udfs).map_err(|error| error.to_string())?;
    Ok(udfs.uninterrupted_host())
}

fn answered(host: &mut PythonUdfHost, call: &[u8]) -> Result<Vec<u8>, ArrowError> {
    let call = read_call(call)?;
    match host.call(call.udf, &call.inputs, call.rows) {
        Ok(outputs) => write_results(&outputs),
        Err(UdfFailure(reason)) => Ok(write_failure(&reason)),
    }
}
