//! Frames on pipes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use streamjob_core::config::UdfConfig;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 8;

/// The first frame: what the process has to load. Its answer has no columns. All others are calls.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// `sys.path` of the engine's process, so that both find the same modules.
    pub path: Vec<String>,
    pub udfs: Vec<UdfConfig>,
}

pub fn write_frame(out: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    out.write_all(&(frame.len() as u64).to_le_bytes())?;
    out.write_all(frame)?;
    out.flush()
}

/// A whole frame; an end of the pipe is an error of the kind `UnexpectedEof`.
pub fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH_BYTES];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut frame = Vec::new();
    // Memory comes with the bytes, not with what a length says.
    match input.take(length).read_to_end(&mut frame)? as u64 == length {
        true => Ok(frame),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
