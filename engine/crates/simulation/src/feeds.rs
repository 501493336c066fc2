//! Sources that are read: the file, the journals of earlier starts, and whatever a worker misses.

use std::sync::Arc;

use streamjob_core::batch::RowBatch;
use streamjob_core::decode::Positions;
use streamjob_core::idempotency::answer_of;
use streamjob_core::journal::JournalRecord;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::{Router, select, select_for};

use crate::events::NodeEvent;
use crate::partitions::partition_of;
use crate::rows::{Fate, MS, SECOND, START_US};
use crate::world::{Done, World};

/// Chunks of the file that are decoded at once.
const MAX_CHUNKS: usize = 4;
/// Records that a worker that misses some gets at once.
const MAX_REREAD: usize = 20;

impl World {
    /// A thread takes the next chunk of the file.
    pub fn file_chunk(&mut self) -> Done {
        let len = self.setup.file.len();
        let node = self.node();
        let (next, room) = (node.feed.next, node.feed.under_way < MAX_CHUNKS && node.has_room() && !node.is_disk_full());
        if next >= len {
            node.feed.ended = true;
            let split = node.feed.split;
            node.say(split, len as u64, SplitStatus::Finished);
            return Ok(());
        }
        if room {
            let lines = self.random.between(1, 8) as usize;
            let to = self.line_end(next, lines);
            let feed = &mut self.node().feed;
            feed.next = to;
            feed.under_way += 1;
            let wait_us = self.random.between(MS, 80 * MS);
            self.node_after(wait_us, NodeEvent::FileDecoded { from: next, to, only: None });
        }
        let wait_us = self.random.between(5 * MS, 250 * MS);
        self.node_after(wait_us, NodeEvent::FileChunk);
        Ok(())
    }

    /// Where the line ends that is `lines` behind `from`.
    pub fn line_end(&self, from: usize, lines: usize) -> usize {
        let breaks = self.setup.file[from..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        breaks.take(lines).last().map_or(self.setup.file.len(), |(place, _)| from + place + 1)
    }

    /// A chunk is decoded, after or before its neighbours; for all workers or for `only` one.
    pub fn file_decoded(&mut self, from: usize, to: usize, only: Option<usize>) -> Done {
        let chunk = self.setup.file[from..to].to_vec();
        let thread = self.random.below(2) as usize;
        let node = self.node();
        // The clock of the job, not of the reader: a row is rejected at every reading or at none.
        let batch = node.feed.decoders[thread].decode_ndjson(&chunk, START_US, Positions::Bytes);
        if only.is_none() {
            node.feed.under_way -= 1;
        }
        let split = node.feed.split;
        let selections = select(&batch, &node.worker_of, node.workers.len());
        let batch = Arc::new(batch);
        let fates: Vec<Fate> =
            self.truth.splits[&self.file_split].rows(from as u64, to as u64).iter().map(|row| row.fate.clone()).collect();
        self.compare_batch(&batch, &fates)?;
        let wanted = |worker: usize| only.is_none_or(|only| only == worker);
        let delivery = |(worker, rows)| (worker, Delivery::new(split, from as u64, batch.clone(), rows));
        let deliveries = selections.into_iter().enumerate().filter(|(worker, _)| wanted(*worker)).map(delivery).collect();
        self.dispatch(deliveries);
        Ok(())
    }

    /// The next record of an earlier start's journal.
    pub fn read_log(&mut self, place: usize) -> Done {
        let node = self.node();
        let has_room = node.has_room();
        let (worker_of, workers) = (node.worker_of.clone(), node.workers.len());
        let feed = &mut node.logs[place];
        if !has_room {
            self.node_after(10 * MS, NodeEvent::ReadLog(place));
            return Ok(());
        }
        match feed.reader.next_record() {
            Err(error) => return Err(self.failed("I7", &error)),
            Ok(Some(record)) => {
                let split = feed.split;
                let router = feed.router.get_or_insert_with(|| Router::new(split, worker_of, workers, record.first_offset));
                let request = record.request.as_ref().map(|request| Arc::new(answer_of(request, &feed.id, record.first_offset)));
                let deliveries = router.route(&record.batch, request.as_ref());
                let id = feed.id.clone();
                if let Some(request) = request.filter(|request| !node.has_committed(&id, &request.id, record.end_offset())) {
                    node.ingest.requests.answered(request);
                }
                self.dispatch(deliveries);
                let wait_us = self.random.between(100, 20 * MS);
                self.node_after(wait_us, NodeEvent::ReadLog(place));
            }
            Ok(None) => {
                feed.done = true;
                let (split, end) = (feed.split, feed.end);
                node.replays.retain(|other| *other != place);
                let told = feed.router.as_mut().map(Router::tell).unwrap_or_default();
                node.say(split, end, SplitStatus::Finished);
                self.dispatch(told);
                self.read_next_log();
            }
        }
        Ok(())
    }

    /// Journals are read one after the other.
    pub fn read_next_log(&mut self) {
        match self.node().replays.front().copied() {
            Some(log) => self.node_after(MS, NodeEvent::ReadLog(log)),
            None => self.note(|| "requests are taken".to_owned()),
        }
    }

    /// Tells every worker how far each split is, so that none misses something for long, and who has nothing to bring.
    pub fn heartbeat(&mut self) -> Done {
        let (now_us, idle_us) = (self.now_us, self.setup.plan.config.time.idle_timeout_us);
        let file_end = self.setup.file.len();
        let node = self.node();
        let workers = node.workers.len();
        let ingest = &mut node.ingest;
        let end = ingest.router.next_offset();
        let mut ends: Vec<(SplitIndex, u64)> = vec![(ingest.split, end)];
        ends.extend(node.readers.iter().map(|reader| (reader.split, reader.next)));
        ends.extend(node.logs.iter().filter(|log| log.done).map(|log| (log.split, log.end)));
        if node.feed.ended {
            ends.push((node.feed.split, file_end as u64));
        }
        if !ingest.idle && now_us - ingest.last_arrival_us >= idle_us {
            ingest.idle = true;
            let status = if node.closing { SplitStatus::Finished } else { SplitStatus::Idle };
            let split = ingest.split;
            node.say(split, end, status);
        }
        for (split, end) in ends {
            let empty = || Delivery::new(split, end, Arc::new(RowBatch::empty(0)), Vec::new());
            self.dispatch((0..workers).map(|worker| (worker, empty())).collect());
        }
        self.node_after(300 * MS, NodeEvent::Heartbeat);
        Ok(())
    }

    /// Brings a worker again what it misses.
    pub fn read_again(&mut self, worker: usize, split: SplitIndex, from: u64) -> Done {
        self.note(|| format!("worker {worker} misses split {split} from {from}"));
        let node = self.node();
        if split == node.feed.split {
            let to = self.line_end(from as usize, 5);
            let wait_us = self.random.between(MS, 10 * MS);
            self.node_after(wait_us, NodeEvent::FileDecoded { from: from as usize, to, only: Some(worker) });
            return Ok(());
        }
        if let Some(place) = partition_of(split) {
            let batch = Arc::new(self.messages(place, from, u64::MAX, MAX_REREAD));
            let rows = select_for(&batch, &self.node().worker_of, worker);
            self.dispatch(vec![(worker, Delivery::new(split, from, batch, rows))]);
            return Ok(());
        }
        let node = self.node();
        let (worker_of, workers) = (node.worker_of.clone(), node.workers.len());
        let id = node.splits[usize::from(split)].clone();
        let mut reader = match node.logs.iter().find(|log| log.split == split) {
            Some(feed) => match &feed.log {
                Some(log) => log.read(from).map_err(|error| self.failed("I3", &error))?,
                None => return crate::world::violation(format!("I3: {id} was deleted, and worker {worker} wants {from}")),
            },
            None => node.ingest.journal.read(from),
        };
        let mut records: Vec<JournalRecord> = Vec::new();
        while records.len() < MAX_REREAD
            && let Some(record) = reader.next_record().map_err(|error| self.failed("I3", &error))?
        {
            records.push(record);
        }
        for record in records {
            let mut router = Router::new(split, worker_of.clone(), workers, record.first_offset);
            let request = record.request.as_ref().map(|request| Arc::new(answer_of(request, &id, record.first_offset)));
            let mut deliveries = router.route(&record.batch, request.as_ref());
            deliveries.extend(router.tell());
            deliveries.retain(|(other, _)| *other == worker);
            self.dispatch(deliveries);
        }
        Ok(())
    }

    /// No source has anything left, and none will.
    pub fn close(&mut self) {
        let idle_us = self.setup.plan.config.time.idle_timeout_us;
        let now_us = self.now_us;
        let node = self.node();
        if !node.closing {
            node.closing = true;
            node.ingest.idle = false;
            node.ingest.last_arrival_us = now_us - idle_us - SECOND;
        }
    }
}
