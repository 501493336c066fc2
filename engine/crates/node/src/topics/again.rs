//! Rows of a topic's partitions, read again for shards that have left them. By a client of its own, which never waits: what is
//! not fetched yet is asked for again with the next turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use streamjob_connectors::kafka::{Messages, PartitionQueue, REREAD_PREFETCH_KB, TopicReader};
use streamjob_core::Result;
use streamjob_core::batch::RowBatch;
use streamjob_core::decode::Decoder;
use streamjob_core::plan::Plan;

use super::TopicSource;
use super::rows;
use super::stall::{Seen, Stall};

/// What one worker reads again of one source.
pub struct TopicAgain {
    source: Arc<TopicSource>,
    clock_us: i64,
    decoder: Decoder,
    reader: TopicReader,
    lanes: HashMap<i32, Lane>,
    /// By partition; they outlive lanes, which are given up with the reader.
    stalls: HashMap<i32, Stall>,
    messages: Messages,
}

/// One partition. What is read of it follows without a gap, or the lane is given up.
struct Lane {
    queue: PartitionQueue,
    /// Where the next batch begins.
    at: u64,
    /// Where what was taken from the queue ends.
    next: u64,
    batches: VecDeque<(u64, Arc<RowBatch>)>,
    /// The queue has given messages that nobody has taken.
    broken: bool,
}

impl TopicAgain {
    pub fn new(source: Arc<TopicSource>, plan: &Plan, clock_us: i64) -> Result<TopicAgain> {
        let decoder = source.decoder(&plan.config)?;
        let reader = source.reader(REREAD_PREFETCH_KB)?;
        let (lanes, stalls) = (HashMap::new(), HashMap::new());
        Ok(TopicAgain { source, clock_us, decoder, reader, lanes, stalls, messages: Messages::default() })
    }

    /// The next batch of a partition from `from` on, below `to`; `None` if it is not there yet. `now_us`: the process's clock.
    pub fn read(&mut self, number: i32, from: u64, to: u64, now_us: u64) -> Result<Option<(u64, Arc<RowBatch>)>> {
        let base = self.source.partitions.iter().find(|it| it.number == number).map_or(0, |it| it.base);
        if from < base {
            // No row of the job is before it: see where live reading begins.
            return Ok(Some((from, Arc::new(RowBatch::empty(base - from)))));
        }
        let stale = self.lanes.get(&number).is_some_and(|lane| lane.at != from || (lane.broken && lane.batches.is_empty()));
        if stale {
            self.lanes.remove(&number);
            self.reader.remove(number)?;
        }
        if !self.lanes.contains_key(&number) {
            let queue = self.reader.add(number, from)?;
            self.lanes.insert(number, Lane { queue, at: from, next: from, batches: VecDeque::new(), broken: false });
        }
        if self.reader.serve()?.recreated {
            return Ok(None);
        }
        let at_hand = self.lanes.get(&number).is_some_and(|lane| lane.queue.has_some() || !lane.batches.is_empty());
        let answered_us = self.source.answered_us(number);
        if self.stalls.entry(number).or_default().look(Seen { next: from, at_hand, end: to, answered_us, now_us }) {
            self.begin_anew(number, now_us);
            return Ok(None);
        }
        self.take(number, to)?;
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(None) };
        let Some((first, batch)) = lane.batches.pop_front() else { return Ok(None) };
        lane.at = first + batch.span;
        Ok(Some((first, batch)))
    }

    /// Another client takes over; every partition is read again from where it is wanted.
    fn begin_anew(&mut self, number: i32, now_us: u64) {
        match self.source.reader(REREAD_PREFETCH_KB) {
            Ok(fresh) => {
                tracing::warn!(
                    source = &*self.source.name,
                    partition = number,
                    "reading again gave nothing: its client is replaced"
                );
                self.lanes.clear();
                self.stalls.values_mut().for_each(|stall| stall.restart(now_us));
                std::mem::replace(&mut self.reader, fresh).abandon();
            }
            Err(error) => tracing::warn!(source = &*self.source.name, "{error}: the client stays"),
        }
    }

    fn take(&mut self, number: i32, to: u64) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        if !lane.batches.is_empty() || !lane.queue.has_some() {
            return Ok(());
        }
        lane.queue.take(&mut self.messages);
        let rules = self.source.rules(self.clock_us);
        let (schemas, decoder) = (&self.source.schemas, &mut self.decoder);
        let taken = rows::take(self.messages.iter(), lane.next, Some(to), rules, |payloads, metadata, span| {
            schemas.decode(decoder, payloads, metadata, span)
        });
        self.messages.clear();
        lane.next = taken.next;
        lane.batches.extend(taken.batches);
        lane.broken = taken.cut || taken.undecoded || taken.failed.is_some();
        match taken.failed {
            None => Ok(()),
            Some((_, text)) => self.look_at_loss(number, to, &text),
        }
    }

    /// Messages that a shard has left may be gone since. Those from `to` on come to it live.
    fn look_at_loss(&mut self, number: i32, to: u64, text: &str) -> Result<()> {
        let source = &self.source;
        source.connection.failed(text);
        let (Some(lane), Ok(bounds)) = (self.lanes.get_mut(&number), source.topic.bounds(number)) else { return Ok(()) };
        let gone = lane.next..bounds.first.min(to);
        // Where a topic begins that was made anew says nothing about this one.
        if gone.is_empty() || !source.topic.describe().is_ok_and(|info| !source.is_another(&info)) {
            return Ok(());
        }
        source.lose(number, &gone).map_err(|error| error.context(source.place()))?;
        lane.next = gone.end;
        lane.batches.push_back((gone.start, Arc::new(RowBatch::empty(gone.end - gone.start))));
        Ok(())
    }
}
