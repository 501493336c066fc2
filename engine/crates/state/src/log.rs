//! The journal's files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use streamjob_core::Result;
use streamjob_core::journal::{Incarnation, LogEntry, LogName, LogStorage};

use crate::disk::{file_error, sync_directory};

/// Zeros written at once where the file system cannot preallocate.
const ZEROS_BYTES: usize = 1 << 20;

/// Segments under `STATE/journal/<incarnation>/`.
///
/// Where a sync failed, the kernel may have dropped the pages and mark them clean, so that the next sync says nothing: the
/// journal never syncs again after a failure, and a start writes again what it cannot prove to be on the disk.
#[derive(Debug)]
pub struct FileLogStorage {
    root: PathBuf,
    open: Mutex<HashMap<LogName, Arc<File>>>,
}

impl FileLogStorage {
    /// Creates the directory if it is not there. Empty directories of incarnations that were deleted half are removed.
    pub fn open(root: &Path) -> Result<FileLogStorage> {
        fs::create_dir_all(root).map_err(|error| file_error("cannot create the journal's directory", root, &error))?;
        let storage = FileLogStorage { root: root.to_owned(), open: Mutex::new(HashMap::new()) };
        for incarnation in storage.incarnations()? {
            // Fails for one that has files, which is meant.
            let _ = fs::remove_dir(storage.directory(incarnation));
        }
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        Ok(storage)
    }

    fn directory(&self, incarnation: Incarnation) -> PathBuf {
        self.root.join(incarnation.to_string())
    }

    fn path(&self, name: LogName) -> PathBuf {
        self.root.join(name.to_string())
    }

    fn incarnations(&self) -> Result<Vec<Incarnation>> {
        let failed = |error: io::Error| file_error("cannot list the journal", &self.root, &error);
        let mut incarnations = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            incarnations.extend(name.to_str().and_then(|name| name.parse::<Incarnation>().ok()));
        }
        Ok(incarnations)
    }

    /// The open file: each is opened once and shared by all threads, which only use positions.
    fn file(&self, name: LogName) -> Result<Arc<File>> {
        let mut open = self.open.lock();
        if let Some(file) = open.get(&name) {
            return Ok(file.clone());
        }
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(file.map_err(|error| file_error("cannot open the journal's file", &path, &error))?);
        open.insert(name, file.clone());
        Ok(file)
    }

    fn with_file(&self, doing: &str, name: LogName, action: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
        action(&*self.file(name)?).map_err(|error| file_error(doing, &self.path(name), &error))
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill_with_zeros(file, bytes),
        other => Ok(other?),
    }
}

fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut position = 0;
    while position < bytes {
        let count = (bytes - position).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..count as usize], position)?;
        position += count;
    }
    Ok(())
}

impl LogStorage for FileLogStorage {
    fn list(&self) -> Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        for incarnation in self.incarnations()? {
            let directory = self.directory(incarnation);
            let failed = |error: io::Error| file_error("cannot list the journal", &directory, &error);
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let file = entry.file_name();
                let name = file.to_str().and_then(|file| format!("{incarnation}/{file}").parse::<LogName>().ok());
                if let Some(name) = name {
                    entries.push(LogEntry { name, bytes: entry.metadata().map_err(failed)?.len() });
                }
            }
        }
        Ok(entries)
    }

    fn create(&self, name: LogName, bytes: u64) -> Result<()> {
        let path = self.path(name);
        let create = || {
            fs::create_dir_all(self.directory(name.incarnation()))?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            allocate(&file, bytes)?;
            Ok(file)
        };
        let file = create().map_err(|error| file_error("cannot preallocate the journal's file", &path, &error))?;
        self.open.lock().insert(name, Arc::new(file));
        Ok(())
    }

    fn rename(&self, from: LogName, to: LogName) -> Result<()> {
        let (source, target) = (self.path(from), self.path(to));
        let mut open = self.open.lock();
        fs::rename(&source, &target).map_err(|error| file_error("cannot rename the journal's file", &source, &error))?;
        if let Some(file) = open.remove(&from) {
            open.insert(to, file);
        }
        Ok(())
    }

    fn write_at(&self, name: LogName, position: u64, bytes: &[u8]) -> Result<()> {
        self.with_file("cannot write the journal's file", name, |file| file.write_all_at(bytes, position))
    }

    fn read_at(&self, name: LogName, position: u64, buffer: &mut [u8]) -> Result<()> {
        self.with_file("cannot read the journal's file", name, |file| file.read_exact_at(buffer, position))
    }

    fn truncate(&self, name: LogName, bytes: u64) -> Result<()> {
        self.with_file("cannot cut the journal's file", name, |file| file.set_len(bytes))
    }

    fn sync(&self, name: LogName) -> Result<()> {
        self.with_file("cannot sync the journal's file", name, File::sync_data)
    }

    fn sync_directory(&self, incarnation: Incarnation) -> Result<()> {
        sync_directory(&self.directory(incarnation))?;
        sync_directory(&self.root)
    }

    fn delete(&self, name: LogName) -> Result<()> {
        self.open.lock().remove(&name);
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("cannot delete the journal's file", &path, &error))
            }
            _ => Ok(()),
        }
    }

    fn delete_incarnation(&self, incarnation: Incarnation) -> Result<()> {
        self.open.lock().retain(|name, _| name.incarnation() != incarnation);
        let directory = self.directory(incarnation);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error("cannot delete the journal's directory", &directory, &error))
            }
            _ => sync_directory(&self.root),
        }
    }
}
