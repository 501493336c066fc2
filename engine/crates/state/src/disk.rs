//! Errors of files in words, and files that are replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use streamjob_core::Error;

/// The words by which RocksDB tells of a full disk.
const NO_SPACE: &str = "No space left on device";
const QUOTA: &str = "Disk quota exceeded";

/// What to do about a full disk, also for those who read only this line.
pub(crate) fn full(doing: &str, path: &Path) -> Error {
    Error::disk_full(format!(
        "{doing}: the disk is full ({}): free space or enlarge the volume; nothing that was acknowledged is lost",
        path.display()
    ))
}

/// What to do about a disk that is too slow.
pub(crate) fn stalled(doing: &str, path: &Path) -> Error {
    Error::stalled(format!(
        "{doing}: compaction is behind: the disk is too slow ({}): use a faster one, or let the job take less; nothing that was \
         acknowledged is lost",
        path.display()
    ))
}

/// An error of the file system; a full disk may be retried, everything else is final.
pub(crate) fn file_error(doing: &str, path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(doing, path),
        _ => Error::damaged(format!("{doing}: {}: {error}", path.display())),
    }
}

/// An error of RocksDB.
pub(crate) fn store_error(doing: &str, path: &Path, error: &rocksdb::Error) -> Error {
    let text = error.as_ref();
    if text.contains(NO_SPACE) || text.contains(QUOTA) {
        return full(doing, path);
    }
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::damaged(format!(
            "{doing}: the store in {} is damaged: {text}; restore it from a snapshot, or remove the state directory to start anew",
            path.display()
        )),
        rocksdb::ErrorKind::IOError => Error::outside(format!("{doing}: {}: {text}; look at the disk", path.display())),
        _ => Error::engine(format!("{doing}: {}: {text}", path.display())),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| file_error("cannot sync the directory", path, &error))
}

/// Creates a directory with those above it, and makes their names durable.
pub(crate) fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_durably(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        outcome => outcome?,
    }
    File::open(parent.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
}

/// Replaces a file: after a crash it has the old contents or the new ones.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| file_error("cannot write", path, &error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}
