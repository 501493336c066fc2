//! What the operating system says, as errors for a person.

use std::io;
use std::path::Path;

use streamjob_core::Error;

/// Whether the file system, or the user's quota on it, has no room left: the one write error that waiting can mend.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Explains a failed call on a path: what was being done, where, who can mend it and how.
pub(crate) fn explain(doing: &str, path: &Path, error: io::Error) -> Error {
    let at = path.display();
    match error.kind() {
        _ if is_disk_full(&error) => Error::disk_full(format!(
            "{doing} {at}: no space left ({error}); free space on its file system, the job then goes on"
        )),
        io::ErrorKind::NotFound => Error::user(format!("{doing} {at}: it does not exist; correct the path in the job")),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::user(format!("{doing} {at}: {error}; give this user access to it or choose another path"))
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
            Error::user(format!("{doing} {at}: {error}; correct the path in the job"))
        }
        _ if is_out_of_descriptors(&error) => {
            Error::outside(format!("{doing} {at}: {error}; raise the limit of open files (ulimit -n)"))
        }
        _ => Error::damaged(format!("{doing} {at}: {error}; check the disk and the kernel's log, then start again")),
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A failed fsync: the kernel may have dropped the pages, so that a second fsync would succeed without the data (I4).
pub(crate) fn explain_sync(path: &Path, error: io::Error) -> Error {
    Error::damaged(format!(
        "making {} durable: {error}; what was written since the last commit may be lost from the disk. \
         Check the disk, then start again: the job resumes from its last commit",
        path.display()
    ))
}
