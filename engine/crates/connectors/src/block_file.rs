//! A file of blocks as a replayable split: an offset is the number of a row in the file.

use parking_lot::Mutex;
use streamjob_core::decode::{BlockFormat, SCAN_BYTES, Unit};
use streamjob_core::{Error, Result};

use crate::file_source::FileSplit;

/// Blocks of one file: their places are kept in memory.
pub const MAX_BLOCKS: usize = 1 << 22;
/// Schemas and dictionaries of one file, which each chunk repeats.
pub const MAX_PRELUDE_BYTES: u64 = 64 << 20;

/// A file whose rows stand in blocks.
#[derive(Debug)]
pub struct BlockFile {
    pub file: FileSplit,
    pub format: BlockFormat,
    index: Mutex<Index>,
}

/// What a run of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Rows at its beginning that come before the offset asked for.
    pub skip: u64,
    /// Rows behind them.
    pub rows: u64,
}

/// Where the blocks are, as far as the file has been looked at.
#[derive(Debug)]
struct Index {
    blocks: Vec<Block>,
    preludes: Vec<Prelude>,
    prelude_bytes: u64,
    /// The byte behind what was looked at, and the rows before it.
    next: u64,
    rows: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    first_row: u64,
    at: u64,
    end: u64,
}

/// What blocks behind it need.
#[derive(Debug, Clone, Copy)]
struct Prelude {
    /// The block that it stands before.
    before: usize,
    at: u64,
    length: usize,
}

impl BlockFile {
    pub fn new(file: FileSplit, format: BlockFormat) -> BlockFile {
        let next = format.start();
        let index = Index { blocks: Vec::new(), preludes: Vec::new(), prelude_bytes: 0, next, rows: 0 };
        BlockFile { file, format, index: Mutex::new(index) }
    }

    /// Replaces `buf` by the blocks from the one that holds row `offset` on, with what they need before them: at most about
    /// `max_bytes`, but at least one block. `None` at the end of the file.
    ///
    /// # Errors
    /// `user` if the file is damaged, ends in the middle of a block or has fewer rows than `offset`.
    pub fn read_run(&self, offset: u64, max_bytes: usize, buf: &mut Vec<u8>) -> Result<Option<Run>> {
        let (pieces, run) = {
            let mut index = self.index.lock();
            let Some(first) = self.find(&mut index, offset)? else {
                return if offset == index.rows { Ok(None) } else { Err(self.fewer_rows(offset, index.rows)) };
            };
            let last = self.last_of_run(&mut index, first, max_bytes)?;
            let Block { first_row, at, .. } = index.blocks[first];
            let end_row = index.blocks.get(last + 1).map_or(index.rows, |next| next.first_row);
            let preludes = index.preludes.iter().filter(|prelude| prelude.before <= first);
            let mut pieces: Vec<(u64, usize)> = preludes.map(|prelude| (prelude.at, prelude.length)).collect();
            pieces.push((at, (index.blocks[last].end - at) as usize));
            (pieces, Run { skip: offset - first_row, rows: end_row - offset })
        };
        buf.clear();
        for (at, length) in pieces {
            let start = buf.len();
            buf.resize(start + length, 0);
            if self.file.read_at(at, &mut buf[start..])? < length {
                return Err(self.truncated(at));
            }
        }
        Ok(Some(run))
    }

    /// Refuses an offset that the file does not reach.
    ///
    /// # Errors
    /// As [`BlockFile::read_run`].
    pub fn check_offset(&self, offset: u64) -> Result<()> {
        let mut index = self.index.lock();
        match self.find(&mut index, offset)? {
            None if offset > index.rows => Err(self.fewer_rows(offset, index.rows)),
            _ => Ok(()),
        }
    }

    /// The block that holds a row; `None` if it lies behind the file's end.
    fn find(&self, index: &mut Index, offset: u64) -> Result<Option<usize>> {
        while index.rows <= offset {
            if !self.look_further(index)? {
                return Ok(None);
            }
        }
        // of blocks without rows the last one before the row's is left out by this
        Ok(Some(index.blocks.partition_point(|block| block.first_row <= offset) - 1))
    }

    fn last_of_run(&self, index: &mut Index, first: usize, max_bytes: usize) -> Result<usize> {
        let start = index.blocks[first].at;
        let mut last = first;
        loop {
            if last + 1 == index.blocks.len() && !self.look_further(index)? {
                return Ok(last);
            }
            match index.blocks.get(last + 1) {
                Some(next) if next.end - start <= max_bytes as u64 => last += 1,
                Some(_) => return Ok(last),
                // what was found was no block
                None => {}
            }
        }
    }

    /// Notes one more block or prelude; false at the end.
    fn look_further(&self, index: &mut Index) -> Result<bool> {
        let at = index.next;
        let mut head = vec![0; SCAN_BYTES];
        let unit = loop {
            let read = self.file.read_at(at, &mut head)?;
            if read == 0 {
                return Ok(false);
            }
            match self.format.scan(&head[..read]).map_err(|reason| self.damaged(at, &reason))? {
                Unit::Needs(bytes) if bytes > head.len() => head.resize(bytes, 0),
                Unit::Needs(_) => return Err(self.truncated(at)),
                unit => break unit,
            }
        };
        let (rows, length) = match unit {
            Unit::End | Unit::Needs(_) => return Ok(false),
            Unit::Prelude(length) => {
                index.prelude_bytes += length as u64;
                if index.prelude_bytes > MAX_PRELUDE_BYTES {
                    return Err(self.damaged(at, &format!("its dictionaries are longer than {MAX_PRELUDE_BYTES} bytes")));
                }
                index.preludes.push(Prelude { before: index.blocks.len(), at, length });
                (0, length)
            }
            Unit::Block { rows, bytes } => {
                if index.blocks.len() >= MAX_BLOCKS {
                    return Err(self.damaged(at, &format!("it has more than {MAX_BLOCKS} blocks; write larger ones")));
                }
                index.blocks.push(Block { first_row: index.rows, at, end: at + bytes as u64 });
                (rows, bytes)
            }
        };
        if at + length as u64 > self.file.len()? {
            return Err(self.truncated(at));
        }
        (index.next, index.rows) = (at + length as u64, index.rows + rows);
        Ok(true)
    }

    /// The file cannot be read at a place.
    pub fn damaged(&self, at: u64, reason: &str) -> Error {
        Error::user(format!("{}: at byte {at}: {reason}; write the file anew", self.file.path().display()))
    }

    fn truncated(&self, at: u64) -> Error {
        Error::user(format!(
            "{}: the block that begins at byte {at} is not whole: the file is still being written, or was cut; start again once it \
             is complete",
            self.file.path().display()
        ))
    }

    fn fewer_rows(&self, offset: u64, rows: u64) -> Error {
        self.file.changed(&format!("{offset} of its rows were read, but it has only {rows} now"))
    }
}
