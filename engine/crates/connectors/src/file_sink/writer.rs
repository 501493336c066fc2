//! One segment on its way from rows to a visible file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use streamjob_core::Result;

use super::SegmentDirectory;
use super::names::SegmentName;
use crate::os::{explain, explain_sync};

/// Bytes that a writer collects before it hands them to the kernel: one a shard and sink, so small.
pub const BUFFER_BYTES: usize = 128 << 10;

/// Bytes after which a writer asks the kernel to begin writing to the disk, so that the fsync at the commit finds little to do.
pub const WRITEBACK_BYTES: u64 = 1 << 20;

/// Streams rows into a segment's temporary file. Dropping it leaves the file to the next recovery.
#[derive(Debug)]
pub struct SegmentWriter {
    directory: SegmentDirectory,
    name: SegmentName,
    temporary: PathBuf,
    /// Created by the first flush, which may find the disk full and be tried again.
    file: Option<File>,
    buffer: Vec<u8>,
    /// Bytes handed to the kernel.
    written: u64,
    /// Bytes of these for which writing to the disk was asked for.
    hinted: u64,
}

/// A whole segment that is not visible yet. Dropping it leaves the file to the next recovery.
#[derive(Debug)]
pub struct SealedSegment {
    directory: SegmentDirectory,
    name: SegmentName,
    temporary: PathBuf,
    file: File,
    bytes: u64,
}

impl SegmentWriter {
    pub(super) fn new(directory: SegmentDirectory, name: SegmentName) -> SegmentWriter {
        let temporary = directory.path().join(name.temporary());
        SegmentWriter { directory, name, temporary, file: None, buffer: Vec::new(), written: 0, hinted: 0 }
    }

    fn file(&mut self) -> Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::create(&self.temporary).map_err(|error| explain("creating the segment", &self.temporary, error))?,
        };
        Ok(self.file.insert(file))
    }

    /// Appends bytes: whole lines, though nothing here depends on it.
    ///
    /// # Errors
    /// The bytes are taken also when this fails. After an `outside` error (the disk is full) call [`flush`](Self::flush) until it
    /// succeeds, before writing more: nothing is lost or doubled. After a `damaged` one the process must end.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() < BUFFER_BYTES {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BUFFER_BYTES);
            }
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        if let Err(error) = self.flush() {
            self.buffer.extend_from_slice(bytes);
            return Err(error);
        }
        if bytes.len() < BUFFER_BYTES / 2 {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        // Too large to be worth a copy.
        let (done, outcome) = write_some(self.file()?, bytes);
        self.buffer.extend_from_slice(&bytes[done..]);
        self.account(done, outcome)
    }

    /// Hands everything to the kernel.
    ///
    /// # Errors
    /// `outside` if the disk is full: what is left stays in memory for the next call. `damaged` for other failures.
    pub fn flush(&mut self) -> Result<()> {
        self.file()?;
        let file = self.file.as_mut().expect("it was just opened");
        let (done, outcome) = write_some(file, &self.buffer);
        self.buffer.drain(..done);
        self.account(done, outcome)
    }

    /// Bytes written so far, in memory or beyond.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Asks the kernel to begin writing what it has to the disk. Only a hint; it returns before that is done. [`write`](Self::write)
    /// does it every [`WRITEBACK_BYTES`].
    pub fn start_writeback(&mut self) {
        if let Some(file) = &self.file {
            start_writeback(file, self.hinted, self.written - self.hinted);
        }
        self.hinted = self.written;
    }

    /// Ends the segment; all of it is with the kernel then, but not yet durable.
    ///
    /// # Errors
    /// As [`flush`](Self::flush), which should succeed first where a full disk is to be waited for: a failed seal drops the writer,
    /// and the rows must be replayed.
    pub fn seal(mut self) -> Result<SealedSegment> {
        self.flush()?;
        self.file()?;
        let SegmentWriter { directory, name, temporary, file, written: bytes, .. } = self;
        let file = file.expect("it was just opened");
        Ok(SealedSegment { directory, name, temporary, file, bytes })
    }

    /// Deletes the temporary file: for a segment without rows, or one that is to be written again.
    pub fn discard(self) -> Result<()> {
        match self.file {
            Some(_) => fs::remove_file(&self.temporary).map_err(|error| explain("deleting the segment", &self.temporary, error)),
            None => Ok(()),
        }
    }

    fn account(&mut self, done: usize, outcome: io::Result<()>) -> Result<()> {
        self.written += done as u64;
        if self.written - self.hinted >= WRITEBACK_BYTES {
            self.start_writeback();
        }
        outcome.map_err(|error| explain("writing the segment", &self.temporary, error))
    }
}

impl SealedSegment {
    /// Bytes of the segment.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn shard(&self) -> u16 {
        self.name.shard
    }

    pub fn seq(&self) -> u64 {
        self.name.seq
    }

    /// Makes the content durable (fdatasync; blocks for the disk). Wanted before the commit.
    ///
    /// # Errors
    /// `damaged`: the process must end, as a second try may succeed without the data.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| explain_sync(&self.temporary, error))
    }

    /// Makes the segment visible, after the commit. Needs no fsync: until the rename is durable, recovery repeats it.
    ///
    /// # Errors
    /// `damaged` if a file of that name exists: it is never overwritten.
    pub fn publish(self) -> Result<()> {
        self.directory.publish(&self.name)
    }
}

/// Writes until the end or a failure; returns how many bytes were written in either case.
fn write_some(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

#[cfg(target_os = "linux")]
fn start_writeback(file: &File, offset: u64, bytes: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call touches no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_writeback(_file: &File, _offset: u64, _bytes: u64) {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A writer whose file refuses every byte as a full disk does.
    fn writer_on_full_disk(directory: &Path) -> SegmentWriter {
        let segments = SegmentDirectory::open(directory, "owner", 0).unwrap();
        let mut writer = segments.writer(1, 0).unwrap();
        writer.file = Some(File::options().write(true).open("/dev/full").unwrap());
        writer
    }

    #[test]
    fn a_full_disk_is_retryable_and_nothing_is_lost_or_doubled() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer_on_full_disk(directory.path());
        writer.write(b"first\n").unwrap();
        let large = vec![b'x'; BUFFER_BYTES];
        let error = writer.write(&large).unwrap_err();
        assert!(error.retryable(), "{error}");
        assert!(error.message().contains("no space left"), "{error}");
        assert_eq!(writer.bytes(), 6 + large.len() as u64);
        assert!(writer.flush().is_err());

        let temporary = writer.temporary.clone();
        writer.file = Some(File::create(&temporary).unwrap());
        writer.flush().unwrap();
        let sealed = writer.seal().unwrap();
        assert_eq!(sealed.bytes(), 6 + large.len() as u64);
        sealed.publish().unwrap();
        let content = fs::read(directory.path().join("part-00001-000000000000.ndjson")).unwrap();
        assert_eq!(content, [b"first\n".as_slice(), &large].concat());
    }

    #[test]
    fn a_file_that_cannot_be_created_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let segments = SegmentDirectory::open(&directory.path().join("out"), "owner", 0).unwrap();
        let mut writer = segments.writer(1, 0).unwrap();
        fs::rename(directory.path().join("out"), directory.path().join("away")).unwrap();
        writer.write(b"first\n").unwrap();
        assert!(writer.flush().is_err() && writer.flush().is_err());
        fs::rename(directory.path().join("away"), directory.path().join("out")).unwrap();
        writer.flush().unwrap();
        writer.seal().unwrap().publish().unwrap();
        assert_eq!(fs::read(directory.path().join("out/part-00001-000000000000.ndjson")).unwrap(), b"first\n");
    }

    #[test]
    fn writes_of_any_size_arrive_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let segments = SegmentDirectory::open(directory.path(), "owner", 0).unwrap();
        let mut writer = segments.writer(0, 0).unwrap();
        let mut expected = Vec::new();
        for (round, size) in
            [1, 100, BUFFER_BYTES - 1, 7, BUFFER_BYTES, 3, 5 * BUFFER_BYTES, BUFFER_BYTES / 2].into_iter().enumerate()
        {
            let bytes = vec![round as u8; size];
            writer.write(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
            assert_eq!(writer.bytes(), expected.len() as u64);
        }
        assert!(writer.buffer.len() <= BUFFER_BYTES);
        writer.start_writeback();
        let sealed = writer.seal().unwrap();
        sealed.sync().unwrap();
        assert_eq!(fs::read(&sealed.temporary).unwrap(), expected);
    }
}
