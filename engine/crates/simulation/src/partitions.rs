//! A topic that is read: partitions side by side that never end, fall silent and come back with older rows.

use std::sync::Arc;

use streamjob_core::batch::RowBatch;
use streamjob_core::decode::Payload;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::select;

use crate::events::{Event, NodeEvent};
use crate::job::Setup;
use crate::random::Random;
use crate::rows::{Fate, MS, RowMaker, SECOND};
use crate::truth::SplitId;
use crate::world::{Done, World};

/// Partitions of the topic.
pub const PARTITIONS: usize = 2;
/// What a partition has fallen behind it makes up for, by this part with each message.
const MADE_UP: i64 = 4;

/// One partition at its broker.
pub struct Partition {
    pub id: SplitId,
    /// Offset, value, time at which it was written. There are holes between the offsets.
    messages: Vec<(u64, Arc<[u8]>, i64)>,
    end: u64,
    maker: RowMaker,
    left: u32,
    /// How far its rows are behind the clock: it was silent.
    behind_us: i64,
    /// Nobody reaches it until then.
    pub down_until_us: i64,
}

impl Partition {
    pub fn new(number: usize, setup: &Setup, random: &mut Random) -> Partition {
        Partition {
            id: format!("bus@topic/{number}").into(),
            messages: Vec::new(),
            end: 0,
            maker: RowMaker::new(format!("p{number}"), setup.keys),
            left: *random.pick(&[0, 15, 40]),
            behind_us: 0,
            down_until_us: 0,
        }
    }
}

/// Who reads one partition.
pub struct Reader {
    pub split: SplitIndex,
    pub next: u64,
    /// Since when nothing more is there.
    at_end_us: Option<i64>,
    idle: bool,
    finished: bool,
}

impl Reader {
    pub fn new(split: SplitIndex, next: u64) -> Reader {
        Reader { split, next, at_end_us: None, idle: false, finished: false }
    }
}

/// The number of a partition's split: they lie behind the file.
pub fn split_of(place: usize) -> SplitIndex {
    place as SplitIndex + 1
}

/// The partition of a split, if it is of one.
pub fn partition_of(split: SplitIndex) -> Option<usize> {
    usize::from(split).checked_sub(1).filter(|place| *place < PARTITIONS)
}

impl World {
    /// A message is written, or for a while none.
    pub fn produce(&mut self, place: usize) {
        let faulty = self.is_faulty();
        let (random, partition) = (&mut self.random, &mut self.partitions[place]);
        if partition.left == 0 || !faulty {
            return;
        }
        partition.left -= 1;
        if random.once_in(6) {
            // Of a transaction that was given up.
            partition.end += random.below(3) + 1;
        }
        let (text, fate) = partition.maker.make(random, self.now_us - partition.behind_us);
        partition.behind_us -= partition.behind_us / MADE_UP;
        let offset = partition.end;
        partition.end += 1;
        if random.once_in(10) {
            partition.end += 1;
        }
        partition.messages.push((offset, text.into_bytes().into(), self.now_us));
        self.truth.message(&partition.id, offset, fate, partition.end);
        let silent_us = if random.once_in(8) { random.between(500 * MS, 6 * SECOND) } else { 0 };
        partition.behind_us += if random.percent(50) { silent_us } else { 0 };
        let wait_us = silent_us + random.between(10 * MS, 300 * MS);
        self.after(wait_us, Event::Produce(place));
    }

    /// The reader of a partition takes what there is, or sees that there is nothing: then it is idle after a time, unless nobody
    /// knows whether there is more.
    pub fn poll(&mut self, place: usize) -> Done {
        let most = self.random.below(6) as usize + 1;
        let (now_us, idle_us) = (self.now_us, self.setup.plan.config.time.idle_timeout_us);
        let is_down = now_us < self.partitions[place].down_until_us;
        let end = self.partitions[place].end;
        let node = self.node();
        let (takes, closing) = (node.has_room() && !node.is_disk_full() && !is_down, node.closing);
        let reader = &mut node.readers[place];
        let (split, next) = (reader.split, reader.next);
        if takes && next < end {
            (reader.at_end_us, reader.idle) = (None, false);
            self.take_messages(place, next, most)?;
        } else if is_down {
            reader.at_end_us = None;
        } else if next == end {
            let since_us = *reader.at_end_us.get_or_insert(now_us);
            let is_idle = !reader.idle && now_us - since_us >= idle_us;
            let status = if closing { SplitStatus::Finished } else { SplitStatus::Idle };
            if is_idle || (closing && !reader.finished) {
                (reader.idle, reader.finished) = (true, closing);
                node.say(split, next, status);
            }
        }
        let wait_us = self.random.between(5 * MS, 250 * MS);
        self.node_after(wait_us, NodeEvent::Poll(place));
        Ok(())
    }

    fn take_messages(&mut self, place: usize, from: u64, most: usize) -> Done {
        let batch = Arc::new(self.messages(place, from, u64::MAX, most));
        let fates: Vec<Fate> = {
            let split = &self.truth.splits[&self.partitions[place].id];
            split.rows(from, from + batch.span).iter().map(|row| row.fate.clone()).collect()
        };
        self.compare_batch(&batch, &fates)?;
        let node = self.node();
        let split = node.readers[place].split;
        node.readers[place].next = from + batch.span;
        let selections = select(&batch, &node.worker_of, node.workers.len()).into_iter().enumerate();
        let deliveries = selections.map(|(worker, rows)| (worker, Delivery::new(split, from, batch.clone(), rows)));
        self.dispatch(deliveries.collect());
        Ok(())
    }

    /// Messages of a partition in `[from, to)`, at most so many, with the holes behind them. They give the same rows at each reading.
    pub fn messages(&mut self, place: usize, from: u64, to: u64, most: usize) -> RowBatch {
        let partition = &self.partitions[place];
        let wanted = partition.messages.iter().filter(|(offset, ..)| (from..to).contains(offset));
        let more = wanted.clone().nth(most).map(|(offset, ..)| *offset);
        let taken: Vec<(u64, Arc<[u8]>, i64)> = wanted.take(most).cloned().collect();
        let span = more.unwrap_or(partition.end.min(to)) - from;
        let payloads: Vec<Payload> = (taken.iter())
            .map(|(offset, bytes, clock_us)| Payload {
                relative_offset: (offset - from) as u32,
                bytes: Some(bytes),
                clock_us: *clock_us,
            })
            .collect();
        if payloads.is_empty() {
            return RowBatch::empty(span);
        }
        let decoder = &mut self.node().feed.decoders[0];
        decoder.decode_messages(&payloads, &[], span).expect("JSON names no schemas")
    }
}
