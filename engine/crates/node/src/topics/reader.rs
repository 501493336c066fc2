//! The thread that reads the partitions of one topic, and brings their rows to the workers.
//!
//! Of the partitions that have something at hand it reads the one that is furthest behind in event time: windows close with the
//! slowest, so that what the others have more would only wait in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use streamjob_connectors::kafka::{Code, MIN_PREFETCH_KB, Messages, PREFETCH_KB, PartitionQueue, TopicReader};
use streamjob_core::batch::RowBatch;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{NO_TIME, SplitIndex, SplitStatus};
use streamjob_core::route::select;
use streamjob_core::{Error, Result, crash};

use super::TopicSource;
use super::rows::{self, Rules, Taken};
use super::stall::{STALLED_AFTER_US, Seen, Stall};
use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;
use crate::telemetry::Trace;

/// Waiting ends this often to look at what else has happened.
const LOOK: Duration = Duration::from_millis(50);
/// A cluster that did not answer is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How librdkafka says that a leader has less than was read; an error of its own has no other sign of it.
const TRUNCATED: &str = "truncation";

/// What is damaged is read again after this long.
const DAMAGED_AGAIN: Duration = Duration::from_secs(1);

/// What reads one source.
pub struct TopicRun {
    pub shared: Arc<Shared>,
    pub source: Arc<TopicSource>,
    /// By partition: the lowest position of all shards.
    pub starts: Vec<u64>,
    /// Whether each partition ends where it ends now.
    pub exit_at_end: bool,
}

/// One partition that is read.
struct Lane {
    /// Its place among the source's partitions.
    place: usize,
    split: SplitIndex,
    queue: PartitionQueue,
    next: u64,
    max_time_us: i64,
    /// Where it ends for this run.
    end: Option<u64>,
    /// Since when nothing more was there, on the process's clock.
    at_end_us: Option<u64>,
    idle: bool,
    finished: bool,
    /// The log does not hold the next offset; what to do about it must be asked again then.
    unreadable: Option<Instant>,
    stall: Stall,
}

impl Lane {
    /// What comes behind a loss is not taken before it is looked at: it would be taken for what follows.
    fn is_readable(&self) -> bool {
        !self.finished && self.unreadable.is_none()
    }
}

impl TopicRun {
    /// Reads until the process stops, or to the ends of all partitions.
    pub fn run(self) {
        if let Err(error) = self.read() {
            self.shared.fail(error.context(self.source.place()));
        }
    }

    fn read(&self) -> Result<()> {
        let mut decoder = self.source.decoder(&self.shared.plan.config)?;
        let Some(ends) = self.ends()? else { return Ok(()) };
        let mut reader = self.open()?;
        let mut lanes = self.assign(&reader, &ends)?;
        if crash::fault("topic-reader-stalls") {
            reader.pause(&self.source.partitions.iter().map(|it| it.number).collect::<Vec<_>>())?;
        }
        let mut messages = Messages::default();
        let mut rested = Instant::now();
        while !self.shared.is_stopping() && !lanes.iter().all(|lane| lane.finished) {
            if self.shared.is_disk_full() {
                std::thread::sleep(LOOK);
                continue;
            }
            if rested.elapsed() >= LOOK {
                rested = Instant::now();
                self.rest(&mut reader, &mut lanes)?;
            }
            let ready = lanes.iter_mut().filter(|lane| lane.is_readable() && lane.queue.has_some());
            let Some(lane) = ready.min_by_key(|lane| lane.max_time_us) else {
                if reader.serve()?.recreated {
                    return self.made_anew();
                }
                reader.wait(LOOK);
                continue;
            };
            lane.queue.take(&mut messages);
            // Behind the take: see `TopicReader::serve`.
            if reader.serve()?.recreated {
                return self.made_anew();
            }
            let ingest = if messages.has_some() { self.shared.traces.begin(messages.traceparent()) } else { None };
            let trace = ingest.as_ref().map(|ingest| ingest.trace().clone());
            let parsing = trace.as_ref().map(|trace| trace.span("parse"));
            let taken = rows::take(messages.iter(), lane.next, lane.end, self.rules(), |payloads, metadata, span| {
                self.source.schemas.decode_waiting(&mut decoder, payloads, metadata, span, || !self.shared.is_stopping())
            });
            drop(parsing);
            // What is not decoded then waited for its schema until the stop.
            if !self.bring(lane, &taken, trace.as_ref()) || taken.undecoded {
                return Ok(());
            }
            messages.clear();
            if let Some((code, text)) = taken.failed {
                self.failed(lane, code, &text)?;
            }
        }
        Ok(())
    }

    fn made_anew(&self) -> Result<()> {
        self.shared.ask_reopen(&format!("{}: the topic was made anew", self.source.place()));
        Ok(())
    }

    fn rules(&self) -> Rules<'_> {
        self.source.rules(self.shared.state.created_us())
    }

    /// With `--exit-at-end`: where each partition ends now. `None` if the process stops first.
    fn ends(&self) -> Result<Option<Vec<Option<u64>>>> {
        let mut ends = Vec::new();
        while ends.len() < self.source.partitions.len() {
            if !self.exit_at_end {
                ends.push(None);
                continue;
            }
            match self.source.topic.bounds(self.source.partitions[ends.len()].number) {
                Ok(bounds) => ends.push(Some(bounds.end)),
                Err(error) if !error.retryable() => return Err(error),
                Err(_) if self.shared.is_stopping() => return Ok(None),
                Err(_) => std::thread::sleep(ASK_AGAIN),
            }
        }
        Ok(Some(ends))
    }

    fn open(&self) -> Result<TopicReader> {
        self.source.reader((PREFETCH_KB / self.source.partitions.len().max(1)).max(MIN_PREFETCH_KB))
    }

    fn assign(&self, reader: &TopicReader, ends: &[Option<u64>]) -> Result<Vec<Lane>> {
        let partitions = &self.source.partitions;
        let nexts: Vec<u64> = std::iter::zip(&self.starts, partitions).map(|(start, it)| (*start).max(it.base)).collect();
        let wanted: Vec<(i32, u64)> = std::iter::zip(partitions, &nexts).map(|(it, next)| (it.number, *next)).collect();
        let mut lanes = Vec::new();
        for (place, queue) in reader.assign(&wanted)?.into_iter().enumerate() {
            let split = partitions[place].split;
            // A shard that has nothing of the partition stands at 0: what is before the first offset is no row of the job's.
            if self.starts[place] < nexts[place] {
                let span = nexts[place] - self.starts[place];
                self.put(split, self.starts[place], &Arc::new(RowBatch::empty(span)), None, None);
            }
            let mut lane = Lane {
                place,
                split,
                queue,
                next: nexts[place],
                max_time_us: NO_TIME,
                end: ends[place],
                at_end_us: None,
                idle: false,
                finished: false,
                unreadable: None,
                stall: Stall::default(),
            };
            self.finish_at_end(&mut lane);
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// Hands on what was taken from a partition. False if the process stops first.
    fn bring(&self, lane: &mut Lane, taken: &Taken, trace: Option<&Arc<Trace>>) -> bool {
        let figures = &self.source.figures;
        figures.bytes.fetch_add(taken.bytes, Ordering::Relaxed);
        figures.skipped.fetch_add(taken.skipped, Ordering::Relaxed);
        for (first, batch) in &taken.batches {
            let stop = || self.shared.is_stopping();
            let credits = self.shared.credits.take_blocking(batch.rows(), batch.memory_bytes(), stop);
            let Some(credits) = credits.filter(|_| !stop()) else { return false };
            let hold: Arc<dyn Hold> = Arc::new(credits);
            self.put(lane.split, *first, batch, Some(hold), trace);
            lane.max_time_us = lane.max_time_us.max(batch.max_time_us());
        }
        if taken.next > lane.next {
            self.source.connection.answered();
            (lane.next, lane.at_end_us, lane.idle) = (taken.next, None, false);
        }
        if taken.at_end && lane.at_end_us.is_none() {
            self.source.connection.answered();
            lane.at_end_us = Some(self.shared.uptime_us());
        }
        self.finish_at_end(lane);
        true
    }

    fn put(&self, split: SplitIndex, first: u64, batch: &Arc<RowBatch>, hold: Option<Arc<dyn Hold>>, trace: Option<&Arc<Trace>>) {
        let shared = &self.shared;
        let _routing = trace.map(|trace| trace.span("route"));
        shared.count_received(split, first, batch);
        for (worker, rows) in select(batch, &shared.worker_of, shared.inboxes.len()).into_iter().enumerate() {
            let delivery = Delivery::new(split, first, batch.clone(), rows);
            shared.inboxes[worker].put(Message::Rows(Parcel { delivery, trace: trace.cloned(), _hold: hold.clone() }));
        }
    }

    fn say(&self, lane: &Lane, status: SplitStatus) {
        let (split, at) = (lane.split, lane.next);
        self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::Status { split, at, status }));
    }

    fn finish_at_end(&self, lane: &mut Lane) {
        if !lane.finished && lane.end.is_some_and(|end| lane.next >= end) {
            lane.finished = true;
            self.say(lane, SplitStatus::Finished);
        }
    }

    /// Says which partitions are idle, looks again at those that can't be read, and makes the reader anew where it gives nothing.
    fn rest(&self, reader: &mut TopicReader, lanes: &mut [Lane]) -> Result<()> {
        for lane in lanes.iter_mut().filter(|lane| !lane.finished) {
            if lane.unreadable.is_some_and(|at| at <= Instant::now()) && !self.shared.is_stopping() {
                self.look_at_loss(reader, lane)?;
            }
            if !lane.idle && self.is_idle(lane) {
                lane.idle = true;
                self.say(lane, SplitStatus::Idle);
            }
        }
        if !self.shared.is_stopping() && lanes.iter_mut().any(|lane| self.is_stalled(lane)) {
            self.read_anew(reader, lanes)
        } else {
            Ok(())
        }
    }

    fn is_stalled(&self, lane: &mut Lane) -> bool {
        let partition = &self.source.partitions[lane.place];
        // The answer's time first: the end belongs to it or to a later one.
        let answered_us = partition.answered_us.load(Ordering::Acquire);
        let end = partition.end.load(Ordering::Acquire).min(lane.end.unwrap_or(u64::MAX));
        let (next, at_hand) = (lane.next, lane.queue.has_some());
        lane.stall.look(Seen { next, at_hand, end, answered_us, now_us: self.shared.uptime_us() })
    }

    /// Another client takes over, from where this one stands. Nothing that was taken is read again.
    fn read_anew(&self, reader: &mut TopicReader, lanes: &mut [Lane]) -> Result<()> {
        let text = format!("a partition has messages and gave none for {} s or more", STALLED_AFTER_US / 1_000_000);
        self.source.connection.failed(&text);
        // A client that is new to the topic can't tell that it is another than before.
        match self.source.topic.describe() {
            Ok(info) if self.source.is_another(&info) => return self.made_anew(),
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        tracing::warn!(source = &*self.source.name, "{text}: its client is replaced");
        let wanted: Vec<(i32, u64)> = lanes.iter().map(|lane| (self.source.partitions[lane.place].number, lane.next)).collect();
        let (fresh, queues) = match self.open().and_then(|fresh| fresh.assign(&wanted).map(|queues| (fresh, queues))) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(source = &*self.source.name, "{error}: the client stays");
                return Ok(());
            }
        };
        for (lane, queue) in std::iter::zip(lanes.iter_mut(), queues) {
            (lane.queue, lane.unreadable) = (queue, None);
            lane.stall.restart(self.shared.uptime_us());
        }
        std::mem::replace(reader, fresh).abandon();
        Ok(())
    }

    /// Only a connected reader at the end of its split declares it idle: the partition's leader has said, after the time was up,
    /// that there is nothing more. One that can't be reached holds the watermark.
    fn is_idle(&self, lane: &Lane) -> bool {
        let Some(at_end_us) = lane.at_end_us else { return false };
        let timeout_us = self.shared.plan.config.time.idle_timeout_us.max(0) as u64;
        let partition = &self.source.partitions[lane.place];
        partition.answered_us.load(Ordering::Acquire) >= at_end_us.saturating_add(timeout_us).max(1)
            && partition.end.load(Ordering::Acquire) <= lane.next
    }

    fn failed(&self, lane: &mut Lane, code: Code, text: &str) -> Result<()> {
        let partition = self.source.partitions[lane.place].number;
        // A client that says what is wrong does not hang.
        lane.stall.restart(self.shared.uptime_us());
        match code {
            // What was read is not in the log any more, and other messages may stand under its offsets by now.
            Code::AutoOffsetReset if text.contains(TRUNCATED) => {
                return Err(Error::damaged(format!(
                    "{}/{partition}: {text}: its broker has lost messages that were read, and new ones get their offsets; create \
                     the topic anew, or start with a new state directory",
                    self.source.config.topic
                )));
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange => lane.unreadable = Some(Instant::now()),
            // It is there and can't be read, perhaps for long.
            code if rows::is_loss(code) => lane.unreadable = Some(Instant::now() + DAMAGED_AGAIN),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                self.source.look.store(true, Ordering::Release);
            }
            _ => {}
        }
        if self.source.connection.failed(text) {
            tracing::warn!(source = &*self.source.name, partition, "reading a partition failed and is tried again: {text}");
        }
        Ok(())
    }

    /// The log does not hold the offset that is wanted next. That is never passed over in silence.
    fn look_at_loss(&self, reader: &TopicReader, lane: &mut Lane) -> Result<()> {
        let (source, number) = (&self.source, self.source.partitions[lane.place].number);
        lane.unreadable = Some(Instant::now() + ASK_AGAIN);
        let info = match source.topic.describe() {
            Ok(info) => info,
            Err(_) => return Ok(()),
        };
        if source.is_another(&info) {
            return self.made_anew();
        }
        let Ok(bounds) = source.topic.bounds(number) else { return Ok(()) };
        let next = lane.next;
        if next > bounds.end {
            return Err(Error::damaged(format!(
                "{}/{number} ends at offset {} and was read up to {next}: its broker has lost messages, and new ones get \
                 offsets that were used before; create the topic anew, or start with a new state directory",
                source.config.topic, bounds.end
            )));
        }
        if next < bounds.first {
            source.lose(number, &(next..bounds.first))?;
            self.put(lane.split, next, &Arc::new(RowBatch::empty(bounds.first - next)), None, None);
            lane.next = bounds.first;
        }
        // A partition that could not be read is out of the library's sight.
        reader.remove(number)?;
        lane.queue = reader.add(number, lane.next)?;
        lane.queue.listen();
        lane.unreadable = None;
        self.finish_at_end(lane);
        Ok(())
    }
}
