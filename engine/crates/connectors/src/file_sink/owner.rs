//! Who a directory of segments belongs to. Two jobs that write to one directory would recover, that is delete, each other's work.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use streamjob_core::{Error, Result};

use crate::os::{explain, explain_sync};

/// The marker's name in each directory of segments.
pub const OWNER_FILE: &str = ".streamjob-owner";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    format: u32,
    /// The id of the state directory that recovers this directory.
    owner: String,
}

/// Checks or writes the marker and takes its lock, which lasts as long as the returned file.
pub(super) fn claim(directory: &Path, owner_id: &str) -> Result<File> {
    let marker = directory.join(OWNER_FILE);
    match fs::read(&marker) {
        Ok(content) => check(directory, &content, owner_id)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            refuse_foreign_files(directory)?;
            write(directory, owner_id)?;
        }
        Err(error) => return Err(explain("reading", &marker, error)),
    }
    let file = File::open(&marker).map_err(|error| explain("opening", &marker, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::user(format!(
            "the output directory {} is being written by another running job or by another sink of this one; give each sink a \
             directory of its own",
            directory.display()
        ))),
        // A file system without locks; the state directory's own lock still keeps a second process of this job out.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(explain("locking", &marker, error)),
    }
}

fn check(directory: &Path, content: &[u8], owner_id: &str) -> Result<()> {
    let at = directory.display();
    let found: Owner = serde_json::from_slice(content).map_err(|error| {
        Error::damaged(format!("{at}/{OWNER_FILE} is not readable ({error}); choose another output directory or empty this one"))
    })?;
    if found.format != FORMAT {
        return Err(Error::user(format!(
            "the output directory {at} was written in format {} and this engine writes format {FORMAT}; use the engine that wrote \
             it, or another directory",
            found.format
        )));
    }
    if found.owner != owner_id {
        return Err(Error::user(format!(
            "the output directory {at} belongs to another state directory (its id is {}, this one's is {owner_id}); start with that \
             state directory, or choose another output directory, or move this one's content away, {OWNER_FILE} included",
            found.owner
        )));
    }
    Ok(())
}

fn refuse_foreign_files(directory: &Path) -> Result<()> {
    let failed = |error| explain("listing the output directory", directory, error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            return Err(Error::user(format!(
                "the output directory {} is not empty (it has {}) and was not made by a job; choose an empty or a new directory",
                directory.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

/// Writes the marker whole or not at all.
fn write(directory: &Path, owner_id: &str) -> Result<()> {
    let marker = directory.join(OWNER_FILE);
    let temporary = directory.join(format!("{OWNER_FILE}.{}.tmp", std::process::id()));
    let owner = Owner { format: FORMAT, owner: owner_id.to_owned() };
    let content = serde_json::to_vec(&owner).expect("a struct of a number and a string is JSON");
    let mut file = File::create(&temporary).map_err(|error| explain("creating", &temporary, error))?;
    file.write_all(&content).map_err(|error| explain("writing", &temporary, error))?;
    file.sync_all().map_err(|error| explain_sync(&temporary, error))?;
    match super::rename_no_replace(&temporary, &marker) {
        // Another process claimed it between the look and the rename: it decides.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let _ = fs::remove_file(&temporary);
            let content = fs::read(&marker).map_err(|error| explain("reading", &marker, error))?;
            check(directory, &content, owner_id)
        }
        outcome => outcome.map_err(|error| explain("claiming the output directory by", &marker, error)),
    }
}
