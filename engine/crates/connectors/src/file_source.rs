//! A finite file as a replayable split: an offset is the byte at which a line begins.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use streamjob_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use crate::os::explain;

/// How much of the file's beginning is part of its identity.
pub const IDENTITY_BYTES: usize = 4096;

/// The longest line, with its newline, that a file may have. Also the most that one chunk holds, so that whether a line is too
/// long does not depend on where chunks are cut.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// How much of a line that is skipped a warning cites.
const MAX_CITED_BYTES: usize = 100;
/// What is looked at in one go for where a line begins.
const LOOK_BACK_BYTES: usize = 256;

/// An open file that several readers may read at once, each at its own offset.
///
/// Reads go by `pread`: a mapped file would count into the process's resident memory and turn a truncation into SIGBUS.
#[derive(Debug)]
pub struct FileSplit {
    file: File,
    path: PathBuf,
    id: String,
}

impl FileSplit {
    /// Opens the file that the source `source_name` replays and computes its identity.
    ///
    /// # Errors
    /// `user` if the path is missing, unreadable or no regular file; `outside` if reading fails.
    pub fn open(source_name: &str, path: &Path) -> Result<FileSplit> {
        let file = File::open(path).map_err(|error| explain("opening the source file", path, error))?;
        let kind = file.metadata().map_err(|error| explain("opening the source file", path, error))?.file_type();
        if !kind.is_file() {
            return Err(Error::user(format!(
                "opening the source file {}: it is no regular file, and only those can be read again after a crash; \
                 copy its content to a file, or send it by HTTP",
                path.display()
            )));
        }
        // Only a hint: without it the kernel reads ahead less.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let id = identity(source_name, path, &file)?;
        Ok(FileSplit { file, path: path.to_owned(), id })
    }

    /// The split's id: `source:path#hash`, the hash (xxh3, 16 hex digits) over the first [`IDENTITY_BYTES`]. Stable over restarts.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When the file was last written to, microseconds since the epoch; 0 where that is not known.
    pub fn modified_us(&self) -> i64 {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|modified| modified.duration_since(std::time::UNIX_EPOCH).ok());
        age.map_or(0, |age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
    }

    /// Bytes that the file has now; a file that is still being written grows.
    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|error| explain("asking the length of", &self.path, error))?.len())
    }

    /// Whether the file has no bytes now.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Refuses to go on from `offset` (the next byte wanted) in a file that is not the one the position was committed for.
    ///
    /// `committed_id` is the [`id`](Self::id) at that time. Found are another path, a changed beginning and a truncation. An
    /// offset within a line is none of these: the file ended there when it was read, and was written on since. What is left of
    /// that line is no row ([`read_chunk`](Self::read_chunk)), of which a warning tells.
    ///
    /// # Errors
    /// `user`, naming what differs and the ways out; `outside` if reading fails.
    pub fn check_resume(&self, committed_id: &str, offset: u64) -> Result<()> {
        if committed_id != self.id {
            return Err(self.changed(&format!("its identity was {committed_id} and is {}", self.id)));
        }
        self.check_not_past_end(offset)?;
        if self.is_within_line(offset)? {
            self.warn_of_rest(offset)?;
        }
        Ok(())
    }

    /// Replaces `buf` by the whole lines that begin at `offset` (bytes, a line's start) and returns how many bytes they are;
    /// 0 at the end of the file.
    ///
    /// At most `max_bytes`, but always at least one line; [`MAX_LINE_BYTES`] bounds both. The file's last line may lack its
    /// newline. Keep `buf` for the next call: its memory is then used again without being cleared.
    ///
    /// Where the file ended within a line and was written on since, `offset` lies within that line, whose beginning was taken
    /// as a row, mostly a wrong one. Its rest is given as spaces, so that each line is one row at most.
    ///
    /// # Errors
    /// `user` if a line is too long or the file became shorter than `offset`; `outside` if reading fails.
    pub fn read_chunk(&self, offset: u64, max_bytes: usize, buf: &mut Vec<u8>) -> Result<usize> {
        let read = self.read_lines(offset, max_bytes, buf)?;
        if read > 0 && self.is_within_line(offset)? {
            let rest = buf.iter().position(|byte| *byte == b'\n').unwrap_or(read);
            buf[..rest].fill(b' ');
        }
        Ok(read)
    }

    fn read_lines(&self, offset: u64, max_bytes: usize, buf: &mut Vec<u8>) -> Result<usize> {
        let mut wanted = max_bytes.clamp(1, MAX_LINE_BYTES);
        let mut filled = 0;
        loop {
            buf.resize(wanted, 0);
            let searched = filled;
            filled = self.fill(offset, filled, buf)?;
            if filled < wanted {
                // The end of the file: what is there is whole, with or without a newline.
                buf.truncate(filled);
                return if filled == 0 { self.check_not_past_end(offset).map(|()| 0) } else { Ok(filled) };
            }
            if let Some(newline) = buf[searched..].iter().rposition(|byte| *byte == b'\n') {
                buf.truncate(searched + newline + 1);
                return Ok(buf.len());
            }
            if wanted == MAX_LINE_BYTES {
                // The last line may end here exactly, without a newline.
                if self.len()? == offset + filled as u64 {
                    return Ok(filled);
                }
                return Err(self.line_too_long(offset));
            }
            wanted = wanted.saturating_mul(2).min(MAX_LINE_BYTES);
        }
    }

    /// Fills `buf` from `offset` (bytes) on, as far as the file reaches; returns how much of it.
    ///
    /// # Errors
    /// `outside` if reading fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.fill(offset, 0, buf)
    }

    /// Reads into `buf[filled..]` until it is full or the file ends; returns how much of `buf` is filled.
    fn fill(&self, offset: u64, mut filled: usize, buf: &mut [u8]) -> Result<usize> {
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(explain(&format!("reading at byte {offset} of"), &self.path, error)),
            }
        }
        Ok(filled)
    }

    fn check_not_past_end(&self, offset: u64) -> Result<()> {
        let len = self.len()?;
        if offset > len {
            return Err(self.changed(&format!("{offset} of its bytes were read, but it has only {len} now")));
        }
        Ok(())
    }

    /// Whether something of a line stands before `offset`. Whitespace is nothing: it made no row.
    fn is_within_line(&self, offset: u64) -> Result<bool> {
        let mut block = [0; LOOK_BACK_BYTES];
        let mut end = offset;
        while end > 0 {
            let start = end.saturating_sub(LOOK_BACK_BYTES as u64);
            let wanted = &mut block[..(end - start) as usize];
            let read = self.fill(start, 0, wanted)?;
            if let Some(last) = wanted[..read].iter().rfind(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
                return Ok(*last != b'\n');
            }
            end = start;
        }
        Ok(false)
    }

    /// Says what of the line around `offset` is skipped, unless it is nothing.
    fn warn_of_rest(&self, offset: u64) -> Result<()> {
        let mut rest = Vec::new();
        self.read_lines(offset, 1, &mut rest)?;
        rest.truncate(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
        if !rest.iter().all(u8::is_ascii_whitespace) {
            let cited = String::from_utf8_lossy(&rest[..rest.len().min(MAX_CITED_BYTES)]);
            tracing::warn!(
                "the source file {} ended within a line at byte {offset} when it was read, and was written on since: the line \
                 counts as it was then, and its other {} bytes are skipped: {cited}",
                self.path.display(),
                rest.len()
            );
        }
        Ok(())
    }

    fn line_too_long(&self, offset: u64) -> Error {
        Error::user(format!(
            "{}: the line that begins at byte {offset} is longer than {MAX_LINE_BYTES} bytes; split it, or check that the file is \
             NDJSON (one JSON object a line)",
            self.path.display()
        ))
    }

    /// The file is not the one that was read before.
    pub(crate) fn changed(&self, how: &str) -> Error {
        Error::user(format!(
            "the source file {} changed since the job read from it: {how}; put the old file back, or give the new one another \
             name, or start with a new state directory",
            self.path.display()
        ))
    }
}

fn identity(source_name: &str, path: &Path, file: &File) -> Result<String> {
    let mut head = Vec::with_capacity(IDENTITY_BYTES);
    let mut reader = io::Read::take(file, IDENTITY_BYTES as u64);
    io::Read::read_to_end(&mut reader, &mut head).map_err(|error| explain("reading the beginning of", path, error))?;
    Ok(format!("{source_name}:{}#{:016x}", path.display(), xxh3_64(&head)))
}
