//! Rows of a split, read again from any place that a shard still wants: out of the journal, while it is written, or out of the
//! file that they came from (I9). Which rows, and for whom, is for [`streamjob_core::catch_up`] to say.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use streamjob_core::idempotency::answer_of;
use streamjob_core::journal::{JournalReader, JournalRecord, RecoveredLog};
use streamjob_core::processor::Delivery;
use streamjob_core::progress::SplitIndex;
use streamjob_core::route::select_for;
use streamjob_core::{Error, Result};
use streamjob_state::FileLogStorage;

use crate::file_rows::FileRows;
use crate::sequencer::Sequencer;
use crate::shared::Shared;
use crate::start::{Log, SourceFile};
use crate::topics::{TopicAgain, TopicSource};

/// Bytes of a file that are read again in one step; of a journal it is one request.
const CHUNK_BYTES: usize = 1 << 20;

/// Where the rows of each split are.
pub struct Origins {
    origins: HashMap<SplitIndex, Origin>,
}

/// Where the rows of one split are.
enum Origin {
    /// The journal of this start, readable up to its durable end.
    Live(Arc<Sequencer>),
    /// The journal of an earlier start. It is not deleted before every shard has committed all of it.
    Log(Arc<RecoveredLog<FileLogStorage>>),
    File(Arc<FileRows>),
    /// A partition of a topic.
    Partition {
        source: Arc<TopicSource>,
        number: i32,
    },
}

impl Origins {
    /// Those of all splits: journals of earlier starts, the one of this start, files.
    pub fn find(logs: &[Log], sequencer: Option<&Arc<Sequencer>>, files: &[SourceFile], topics: &[Arc<TopicSource>]) -> Origins {
        let logs = logs.iter().map(|(split, log)| (*split, Origin::Log(log.clone())));
        let live = sequencer.map(|sequencer| (sequencer.split(), Origin::Live(sequencer.clone())));
        let files = files.iter().map(|source| (source.split, Origin::File(source.rows.clone())));
        let partitions = topics.iter().flat_map(|source| {
            let origin = |number| Origin::Partition { source: source.clone(), number };
            source.partitions.iter().map(move |partition| (partition.split, origin(partition.number)))
        });
        Origins { origins: logs.chain(live).chain(files).chain(partitions).collect() }
    }
}

/// What one worker reads again. At most one request or chunk is in memory at a time.
pub struct Rereader {
    shared: Arc<Shared>,
    origins: Arc<Origins>,
    worker: usize,
    /// The journal that was read last, at the place where it was left.
    reader: Option<(SplitIndex, JournalReader<FileLogStorage>)>,
    /// By source: the topics that are read again at the moment.
    topics: HashMap<Arc<str>, TopicAgain>,
}

impl Rereader {
    pub fn new(shared: Arc<Shared>, origins: Arc<Origins>, worker: usize) -> Rereader {
        Rereader { shared, origins, worker, reader: None, topics: HashMap::new() }
    }

    /// Every shard is in step: nothing is kept ready for those that are not.
    pub fn rest(&mut self) {
        self.topics.clear();
    }

    /// The next rows in `[from, to)` of a split, with those of the worker selected; `None` if the log is not readable so far
    /// yet.
    pub fn read(&mut self, (split, from, to): (SplitIndex, u64, u64), buffer: &mut Vec<u8>) -> Result<Option<Delivery>> {
        let origins = self.origins.clone();
        let origin = origins.origins.get(&split).ok_or_else(|| Error::engine("a split has no origin"))?;
        let delivery = match origin {
            Origin::File(file) => {
                // where an offset is a byte, no more than is wanted; a block is read as a whole, and cut
                let bytes = usize::try_from(to - from).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let Some(chunk) = file.file.read_chunk(from, bytes, buffer)? else { return Ok(None) };
                let rows = file.decode(&chunk, buffer)?;
                let batch = Arc::new(if chunk.span > to - from { rows.cut(0, to - from) } else { rows });
                let rows = select_for(&batch, &self.shared.worker_of, self.worker);
                Some(Delivery::new(split, from, batch, rows))
            }
            Origin::Partition { source, number } => {
                let clock_us = self.shared.state.created_us();
                let topic = match self.topics.entry(source.name.clone()) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(TopicAgain::new(source.clone(), &self.shared.plan, clock_us)?),
                };
                topic.read(*number, from, to, self.shared.uptime_us())?.map(|(first, batch)| {
                    let rows = select_for(&batch, &self.shared.worker_of, self.worker);
                    Delivery::new(split, first, batch, rows)
                })
            }
            Origin::Live(_) | Origin::Log(_) => self.next_record(origin, split, from)?.map(|record| self.deliver(split, record)),
        };
        Ok(delivery)
    }

    /// Goes on where the last call ended, if that is the place. A reader that stands in a segment that has been trimmed since
    /// makes way for one that begins anew.
    fn next_record(&mut self, origin: &Origin, split: SplitIndex, from: u64) -> Result<Option<JournalRecord>> {
        if let Some((last, reader)) = &mut self.reader
            && *last == split
            && reader.offset() == from
            && let Ok(record) = reader.next_record()
        {
            return Ok(record);
        }
        let mut reader = match origin {
            Origin::Live(sequencer) => sequencer.read(from),
            Origin::Log(log) => log.read(from)?,
            Origin::File(_) | Origin::Partition { .. } => return Err(Error::engine("only journals have records")),
        };
        let record = reader.next_record()?;
        self.reader = Some((split, reader));
        Ok(record)
    }

    fn deliver(&self, split: SplitIndex, record: JournalRecord) -> Delivery {
        let rows = select_for(&record.batch, &self.shared.worker_of, self.worker);
        let id = &self.shared.splits[usize::from(split)].id;
        let request = record.request.map(|request| Arc::new(answer_of(&request, id, record.first_offset)));
        let mut delivery = Delivery::new(split, record.first_offset, record.batch, rows);
        delivery.request = request;
        delivery
    }
}
