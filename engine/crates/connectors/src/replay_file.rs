//! A file as a split, whatever its format: chunks of it, and the rows in them.

use std::path::Path;

use streamjob_core::batch::RowBatch;
use streamjob_core::config::FileSourceFormat;
use streamjob_core::decode::{ARROW_HEAD_BYTES, AVRO_HEAD_BYTES, BlockFormat, Decoder, Positions};
use streamjob_core::{Error, Result};

use crate::block_file::BlockFile;
use crate::file_source::FileSplit;

pub use crate::block_file::{MAX_BLOCKS, MAX_PRELUDE_BYTES};

/// A file that several readers may read at once, each at its own offset.
#[derive(Debug)]
pub struct ReplayFile(Kind);

#[derive(Debug)]
enum Kind {
    /// An offset is the byte at which a line begins.
    Lines(FileSplit),
    /// An offset is the number of a row.
    Blocks(BlockFile),
}

/// A piece of a file, in a buffer beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The offset of its first row.
    pub from: u64,
    /// Offsets that it covers.
    pub span: u64,
    /// Rows at its beginning that come before `from`.
    skip: u64,
}

impl ReplayFile {
    /// Opens the file that the source `source_name` replays.
    ///
    /// # Errors
    /// `user` if the path is missing, unreadable, no regular file or not of the format; `outside` if reading fails.
    pub fn open(source_name: &str, path: &Path, format: &FileSourceFormat) -> Result<ReplayFile> {
        let file = FileSplit::open(source_name, path)?;
        let head = |bytes: usize| -> Result<Vec<u8>> {
            let mut head = vec![0; bytes.min(usize::try_from(file.len()?).unwrap_or(bytes))];
            let read = file.read_at(0, &mut head)?;
            head.truncate(read);
            Ok(head)
        };
        let format = match format {
            FileSourceFormat::Ndjson => return Ok(ReplayFile(Kind::Lines(file))),
            FileSourceFormat::Arrow => BlockFormat::arrow(&head(ARROW_HEAD_BYTES)?),
            FileSourceFormat::Avro(_) => BlockFormat::avro(&head(AVRO_HEAD_BYTES)?)
                .map_err(|reason| Error::user(format!("{}: {reason}", path.display())))?,
        };
        Ok(ReplayFile(Kind::Blocks(BlockFile::new(file, format))))
    }

    fn file(&self) -> &FileSplit {
        match &self.0 {
            Kind::Lines(file) => file,
            Kind::Blocks(blocks) => &blocks.file,
        }
    }

    /// As [`FileSplit::id`].
    pub fn id(&self) -> &str {
        self.file().id()
    }

    pub fn path(&self) -> &Path {
        self.file().path()
    }

    /// As [`FileSplit::modified_us`].
    pub fn modified_us(&self) -> i64 {
        self.file().modified_us()
    }

    /// As [`FileSplit::check_resume`], with an offset of this file's kind.
    ///
    /// # Errors
    /// `user`, naming what differs and the ways out.
    pub fn check_resume(&self, committed_id: &str, offset: u64) -> Result<()> {
        match &self.0 {
            Kind::Lines(file) => file.check_resume(committed_id, offset),
            Kind::Blocks(blocks) => {
                blocks.file.check_resume(committed_id, 0)?;
                blocks.check_offset(offset)
            }
        }
    }

    /// Replaces `buf` by whole lines or blocks from `offset` on: at most about `max_bytes`, but always at least one. `None` at
    /// the end of the file.
    ///
    /// # Errors
    /// `user` if the file is damaged or changed; `outside` if reading fails.
    pub fn read_chunk(&self, offset: u64, max_bytes: usize, buf: &mut Vec<u8>) -> Result<Option<Chunk>> {
        match &self.0 {
            Kind::Lines(file) => {
                let bytes = file.read_chunk(offset, max_bytes, buf)? as u64;
                Ok((bytes > 0).then_some(Chunk { from: offset, span: bytes, skip: 0 }))
            }
            Kind::Blocks(blocks) => {
                let run = blocks.read_run(offset, max_bytes, buf)?;
                Ok(run.map(|run| Chunk { from: offset, span: run.rows, skip: run.skip }))
            }
        }
    }

    /// The rows of a chunk; their offsets are behind its first. `now_us`: the clock that times must not be too far ahead of.
    ///
    /// # Errors
    /// `user` if the chunk cannot be read at all.
    pub fn decode(&self, chunk: &Chunk, bytes: &[u8], decoder: &mut Decoder, now_us: i64) -> Result<RowBatch> {
        match &self.0 {
            Kind::Lines(_) => Ok(decoder.decode_ndjson(bytes, now_us, Positions::Bytes)),
            Kind::Blocks(blocks) => {
                let damaged = |reason: String| {
                    Error::user(format!("{}: the blocks from row {} on: {reason}", blocks.file.path().display(), chunk.from))
                };
                let batch = decoder.decode_blocks(&blocks.format, bytes, chunk.skip, now_us);
                let batch = batch.map_err(|error| damaged(error.reason))?;
                if batch.span != chunk.span {
                    return Err(damaged(format!("they have {} rows, and say that it is {}", batch.span, chunk.span)));
                }
                Ok(batch)
            }
        }
    }
}
