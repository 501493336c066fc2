//! Topics as splits: one a partition, found at the start and looked for while the job runs.
//!
//! What is found is fixed for one opening of the state. Where the topic has more partitions than were found, is another topic
//! under the old name, or could not be asked at all, the process commits, closes and opens anew, by the same way as any start.

mod again;
mod reader;
mod rows;
mod show;
mod stall;
mod watch;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use again::TopicAgain;
use parking_lot::Mutex;
pub use reader::TopicRun;
pub use show::LAST_LIMIT;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::kafka::{MetadataFields, Topic, TopicInfo, TopicReader};
use streamjob_core::config::{JobConfig, KafkaSourceConfig, OnDataLoss, SourceConfig, StartFrom};
use streamjob_core::decode::Decoder;
use streamjob_core::progress::SplitIndex;
use streamjob_core::shard::SplitInfo;
use streamjob_core::{Actor, Error, Result};
use streamjob_state::StateDir;
pub use watch::TopicWatch;

use rows::Rules;
use show::Shown;

use crate::schemas::Schemas;

/// What stands for the partitions of a topic that could not be asked: it holds the watermark until they are known.
const UNKNOWN: &str = "@?";

/// A source that reads a topic.
pub struct TopicSource {
    pub name: Arc<str>,
    pub config: KafkaSourceConfig,
    shown: Mutex<Shown>,
    /// Asks about the topic; another client reads it.
    pub topic: Topic,
    pub connection: Arc<Connection>,
    pub schemas: Schemas,
    pub metadata: MetadataFields,
    /// Which topic the name meant at the start; `None` where nobody could be asked.
    pub info: Option<TopicInfo>,
    pub partitions: Vec<Partition>,
    pub figures: TopicFigures,
    /// The reader has seen something that the watch should look into now.
    pub look: AtomicBool,
}

/// One partition, and what is known of it.
pub struct Partition {
    pub split: SplitIndex,
    pub number: i32,
    /// Where reading began, the first time.
    pub base: u64,
    /// Behind its last message, when its leader was last asked.
    pub end: AtomicU64,
    /// When that was, microseconds of the process's clock; 0 for never.
    pub answered_us: AtomicU64,
    /// Offsets that were gone before they were read, as far as they are counted.
    lost: Mutex<Range<u64>>,
}

/// What a source counts since its process started.
#[derive(Default)]
pub struct TopicFigures {
    pub bytes: AtomicU64,
    /// Messages without a value that were skipped.
    pub skipped: AtomicU64,
    /// Offsets that were gone before they were read.
    pub lost: AtomicU64,
}

impl TopicSource {
    /// Asks which partitions the topic has, and decides where each begins, durably, where nobody has a position yet.
    ///
    /// # Errors
    /// `user` where a person must act: settings, rights, a topic that is not there. A cluster that does not answer is none.
    pub fn find(state: &StateDir, source: &SourceConfig, config: &KafkaSourceConfig) -> Result<TopicSource> {
        let place = format!("sources.{}.kafka", source.name);
        let connection: Arc<Connection> = Arc::default();
        let topic = Topic::new(&place, &config.connection, &config.topic, config.isolation, connection.clone())?;
        let mut found = TopicSource {
            name: source.name.as_str().into(),
            config: config.clone(),
            topic,
            connection,
            schemas: Schemas::of(&config.format).map_err(|error| error.context(place.as_str()))?,
            metadata: MetadataFields::new(&place, &config.metadata)?,
            info: None,
            partitions: Vec::new(),
            figures: TopicFigures::default(),
            look: AtomicBool::new(false),
            shown: Mutex::default(),
        };
        match found.ask(state) {
            Ok(()) => {}
            Err(error) if error.actor() == Actor::Outside && error.retryable() => {
                tracing::warn!(source = &*found.name, "{error}; the job starts without its partitions and tries again");
                (found.info, found.partitions) = (None, Vec::new());
            }
            Err(error) => return Err(error.context(place)),
        }
        Ok(found)
    }

    fn ask(&mut self, state: &StateDir) -> Result<()> {
        let info = self.topic.describe()?;
        if info.id.is_none() {
            tracing::warn!(
                source = &*self.name,
                topic = self.config.topic,
                "the broker tells no id of the topic: one that is deleted and created again would be taken for the old one"
            );
        }
        let starts = self.decide_starts(state, &info)?;
        let partition = |number: &i32| Partition {
            split: 0,
            number: *number,
            base: starts.get(&self.split_id(&info, *number)).copied().unwrap_or(0),
            end: AtomicU64::new(0),
            answered_us: AtomicU64::new(0),
            lost: Mutex::default(),
        };
        self.partitions = info.partitions.iter().map(partition).collect();
        self.info = Some(info);
        Ok(())
    }

    /// `startFrom` is for the partitions that are there when the source is first read. Those that come later, with more
    /// partitions or with a topic made anew, are read from their beginning: what came before they were noticed belongs to them.
    fn decide_starts(&self, state: &StateDir, info: &TopicInfo) -> Result<BTreeMap<String, u64>> {
        let known = state.starts()?;
        let new: Vec<i32> =
            info.partitions.iter().copied().filter(|number| !known.contains_key(&self.split_id(info, *number))).collect();
        if new.is_empty() {
            return Ok(known);
        }
        let source = format!("{}/", self.name);
        let first = !known.keys().any(|split| split.starts_with(&source));
        let offsets = match self.config.start_from {
            StartFrom::TimestampUs(at_us) if first => self.topic.offsets_at(&new, at_us)?,
            StartFrom::Latest if first => new.iter().map(|number| Ok(self.topic.bounds(*number)?.end)).collect::<Result<_>>()?,
            _ => new.iter().map(|number| Ok(self.topic.bounds(*number)?.first)).collect::<Result<Vec<u64>>>()?,
        };
        state.add_starts(std::iter::zip(new.iter().map(|number| self.split_id(info, *number)), offsets))
    }

    /// When a partition's leader was last asked where it ends, and answered; 0 for never.
    fn answered_us(&self, number: i32) -> u64 {
        let partition = self.partitions.iter().find(|partition| partition.number == number);
        partition.map_or(0, |partition| partition.answered_us.load(Ordering::Acquire))
    }

    /// Messages are gone that somebody wants: that ends the job, or they are counted, as it says.
    ///
    /// # Errors
    /// `user` with `onDataLoss: fail`, without the source's name.
    fn lose(&self, number: i32, gone: &Range<u64>) -> Result<()> {
        let (topic, Range { start, end }) = (&self.config.topic, gone);
        if self.config.on_data_loss == OnDataLoss::Fail {
            return Err(Error::user(format!(
                "{topic}/{number}: the messages from offset {start} to {end} are gone before they were read, by the topic's \
                 retention or by hand; set onDataLoss: earliest to go on at {end} and count them, and give the topic more \
                 retention"
            )));
        }
        let Some(partition) = self.partitions.iter().find(|partition| partition.number == number) else { return Ok(()) };
        // The reader and each worker that reads again may find the same loss.
        let lost = add_lost(&mut partition.lost.lock(), gone);
        self.figures.lost.fetch_add(lost, Ordering::Relaxed);
        tracing::error!(source = &*self.name, partition = number, lost, from = start, to = end, "messages were lost");
        Ok(())
    }

    /// Whether the topic's name means another topic than at the start.
    fn is_another(&self, info: &TopicInfo) -> bool {
        self.info.as_ref().is_some_and(|known| known.id != info.id)
    }

    /// A client that reads, with so much fetched ahead of each partition.
    fn reader(&self, prefetch_kb: usize) -> Result<TopicReader> {
        let (config, connection) = (&self.config, self.connection.clone());
        let (place, group) = (self.place(), &config.group_id);
        TopicReader::new(&place, &config.connection, &config.topic, group, config.isolation, prefetch_kb, connection)
    }

    /// What decodes the topic's messages; for one thread.
    pub fn decoder(&self, job: &JobConfig) -> Result<Decoder> {
        let metadata: Vec<&str> = self.config.metadata.iter().map(|it| it.field.as_str()).collect();
        let decoder = Decoder::for_messages(&job.schema, &metadata, job.time.max_ahead_us, &self.config.format);
        decoder.map_err(|error| error.context(self.place()))
    }

    /// Source, topic with its incarnation, partition: another one for a topic that was made anew.
    fn split_id(&self, info: &TopicInfo, partition: i32) -> String {
        let id = info.id.as_ref().map_or(String::new(), |id| format!("@{id}"));
        format!("{}/{}{id}/{partition}", self.name, self.config.topic)
    }

    /// Takes numbers for its splits, from `first` on, and says what they are.
    pub fn number(&mut self, first: SplitIndex) -> Vec<SplitInfo> {
        let info = |id: String| SplitInfo { id: id.into(), source: self.name.clone(), chained: false };
        let Some(found) = &self.info else { return vec![info(format!("{}/{}{UNKNOWN}", self.name, self.config.topic))] };
        let splits = self.partitions.iter().map(|partition| info(self.split_id(found, partition.number))).collect();
        std::iter::zip(first.., &mut self.partitions).for_each(|(split, partition)| partition.split = split);
        splits
    }

    /// `clock_us`: the clock for messages that say no time.
    fn rules(&self, clock_us: i64) -> Rules<'_> {
        Rules { tombstones: self.config.tombstones, metadata: &self.metadata, clock_us }
    }

    pub fn place(&self) -> String {
        format!("source {}", self.name)
    }
}

/// Adds what is gone to what is known to be, and says how many offsets are new. Of what lies apart only the last is remembered.
fn add_lost(known: &mut Range<u64>, gone: &Range<u64>) -> u64 {
    let both = known.end.min(gone.end).saturating_sub(known.start.max(gone.start));
    let is_apart = gone.start > known.end || gone.end < known.start;
    *known = if is_apart { gone.clone() } else { known.start.min(gone.start)..known.end.max(gone.end) };
    (gone.end - gone.start).saturating_sub(both)
}

/// Whether a split stands for partitions that were not known, in this start or an earlier one.
pub fn is_unknown(split: &str) -> bool {
    split.ends_with(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_find_lost_is_counted_once() {
        let mut known = Range::default();
        let counted = [10..20, 10..20, 15..25, 5..25, 40..50, 45..50].map(|gone| add_lost(&mut known, &gone));
        assert_eq!(counted, [10, 0, 5, 5, 10, 0]);
    }
}
