//! Rows of one file, whatever its format: whoever reads a chunk of it also decodes it.

use std::path::Path;

use parking_lot::Mutex;
use streamjob_connectors::replay_file::{Chunk, ReplayFile};
use streamjob_core::Result;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::{FileSourceConfig, FileSourceFormat};
use streamjob_core::decode::Decoder;
use streamjob_core::plan::Plan;

/// A file that several threads read at once, and as many decoders as did.
pub struct FileRows {
    pub file: ReplayFile,
    /// The clock for "too far ahead". A row's fate must not depend on when it is read again, so it is not the wall's.
    opened_at_us: i64,
    new: NewDecoder,
    decoders: Mutex<Vec<Decoder>>,
}

type NewDecoder = Box<dyn Fn() -> Result<Decoder> + Send + Sync>;

impl FileRows {
    /// Opens the file of a source; `created_us` is when the job's state was created.
    pub fn open(plan: &std::sync::Arc<Plan>, source: &str, config: &FileSourceConfig, created_us: i64) -> Result<FileRows> {
        let file = ReplayFile::open(source, Path::new(&config.path), &config.format)?;
        let opened_at_us = created_us.max(file.modified_us());
        let schema = match &config.format {
            FileSourceFormat::Avro(avro) => avro.schema.clone(),
            FileSourceFormat::Ndjson | FileSourceFormat::Arrow => None,
        };
        let plan = plan.clone();
        let new: NewDecoder = Box::new(move || {
            let config = &plan.config;
            let decoder = Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)?;
            decoder.with_reader_schema(schema.as_deref())
        });
        let first = new().map_err(|error| error.context(format!("the source {source}")))?;
        Ok(FileRows { file, opened_at_us, new, decoders: Mutex::new(vec![first]) })
    }

    /// The rows of a chunk.
    ///
    /// # Errors
    /// As [`ReplayFile::decode`].
    pub fn decode(&self, chunk: &Chunk, bytes: &[u8]) -> Result<RowBatch> {
        let known = self.decoders.lock().pop();
        let mut decoder = known.map_or_else(|| (self.new)(), Ok)?;
        let batch = self.file.decode(chunk, bytes, &mut decoder, self.opened_at_us);
        self.decoders.lock().push(decoder);
        batch
    }
}
