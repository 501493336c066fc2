//! Which calls of user functions ran when the process died: a file for each worker, written over at every call, and what earlier
//! processes died of.
//!
//! Only the small file of suspects is synced. A note lies in the page cache, which outlives the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use streamjob_core::udf::record::{self, MAX_RECORD_BYTES, RunningCall};
use streamjob_core::udf::suspects::SavedSuspects;
use streamjob_core::{Error, Result};

use crate::StateDir;
use crate::disk::{file_error, replace};

const DIRECTORY: &str = "udf-calls";
const SUSPECTS: &str = "suspects.json";

/// The directory of both.
#[derive(Debug)]
pub struct UdfCalls {
    path: PathBuf,
}

impl UdfCalls {
    pub fn open(state: &StateDir) -> Result<UdfCalls> {
        let path = state.path().join(DIRECTORY);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(file_error("cannot create", &path, &error)),
            _ => Ok(UdfCalls { path }),
        }
    }

    /// What earlier processes died of, with what the last one has left. Written down before the notes go.
    pub fn take_up(&self) -> Result<SavedSuspects> {
        let failed = |error: io::Error| file_error("cannot read", &self.path, &error);
        let mut unfinished = Vec::new();
        let mut notes = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_none() {
                unfinished.extend(note_in(&file));
                notes.push(file);
            }
        }
        let died = !unfinished.is_empty();
        let suspects = self.suspects().after(unfinished);
        if died {
            let json = serde_json::to_string_pretty(&suspects);
            let json = json.map_err(|error| Error::engine(format!("suspects cannot be written as JSON: {error}")))?;
            replace(&self.path.join(SUSPECTS), (json + "\n").as_bytes())?;
        }
        notes.iter().try_for_each(fs::remove_file).map_err(failed)?;
        Ok(suspects)
    }

    /// None where they cannot be read: they only save a start from dying of what an earlier one died of.
    fn suspects(&self) -> SavedSuspects {
        fs::read(self.path.join(SUSPECTS)).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Commits have passed all suspects.
    pub fn forget(&self) -> Result<()> {
        let path = self.path.join(SUSPECTS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("cannot remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Where a worker notes its calls, empty.
    pub fn notes(&self, worker: usize) -> Result<CallNotes> {
        let path = self.path.join(format!("worker-{worker}"));
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        Ok(CallNotes { file: file.map_err(|error| file_error("cannot create", &path, &error))? })
    }
}

fn note_in(path: &Path) -> Option<RunningCall<'static>> {
    let mut left = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_RECORD_BYTES as u64).read_to_end(&mut left)).ok()?;
    record::read(&left)
}

/// One worker's notes.
#[derive(Debug)]
pub struct CallNotes {
    file: File,
}

impl CallNotes {
    /// Writes one over the last one.
    pub fn write(&self, note: &[u8]) -> Result<()> {
        self.file.write_all_at(note, 0).map_err(|error| Error::outside(format!("cannot note which user function runs: {error}")))
    }
}
