//! One worker: a thread that owns some shards and runs everything that happens to them, one thing after the other.
//!
//! ```text
//!  inbox ─▶ reorder ─▶ process ─▶ close some windows ─▶ start commits ─┐
//!    ▲                                                                 │
//!    └── nothing to do: take a chunk of a file, else sleep ◀───────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use streamjob_core::checkpoint::{CheckpointScheduler, ShardWish};
use streamjob_core::decode::Decoder;
use streamjob_core::plan::SinkMode;
use streamjob_core::processor::{Delivery, Processor};
use streamjob_core::progress::{END_OF_TIME, NO_TIME, SplitStatus};
use streamjob_core::reorder::Reorder;
use streamjob_core::shard::Shard;
use streamjob_core::{Error, Result};

use crate::committer::Commit;
use crate::feed::Feed;
use crate::inbox::{Message, Parcel};
use crate::port::Port;
use crate::shared::{Shared, WorkerFigures};

/// Slots that one slice of closing windows looks at while rows wait.
const CLOSE_SLICE: usize = 2048;
/// A slice doubles while closing falls behind, up to this.
const MAX_CLOSE_SLICE: usize = 1 << 16;
/// Whether a commit is due is looked at this often.
const COMMIT_LOOK: Duration = Duration::from_millis(1);
/// A worker without work looks around after this long.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// With fewer rows than this a worker lingers for more, up to `engine.batchLinger`.
const LINGER_BELOW_ROWS: usize = 512;
/// Figures are published at most this often.
const FIGURES_EVERY: Duration = Duration::from_millis(20);

/// What a worker is made of.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    receiver: Receiver<Message>,
    commits: Sender<Commit>,
    processor: Processor,
    port: Port,
    feeds: Vec<Arc<Feed>>,
    decoder: Decoder,
    buffer: Vec<u8>,
    reorder: Reorder<Parcel>,
    ready: Vec<Parcel>,
    scheduler: CheckpointScheduler,
    commits_looked_at: Instant,
    close_slice: usize,
    figures_at: Instant,
    stop: bool,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "a worker is wired once")]
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        receiver: Receiver<Message>,
        commits: Sender<Commit>,
        processor: Processor,
        port: Port,
        feeds: Vec<Arc<Feed>>,
        starts: &[u64],
    ) -> Result<Worker> {
        let config = &shared.plan.config;
        let decoder = Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)?;
        let shards: Vec<u16> = processor.shards().iter().map(|shard| shard.id).collect();
        let scheduler = CheckpointScheduler::new(&shards, config.checkpoint.interval_us, shared.uptime_us() as i64);
        Ok(Worker {
            // Bounded by the credits and by the chunks under way, without which nothing reaches a worker.
            reorder: Reorder::with_bound(starts, usize::MAX),
            scheduler,
            commits_looked_at: Instant::now(),
            decoder,
            buffer: Vec::new(),
            ready: Vec::new(),
            close_slice: CLOSE_SLICE,
            figures_at: Instant::now(),
            stop: false,
            number,
            shared,
            receiver,
            commits,
            processor,
            port,
            feeds,
        })
    }

    /// Runs until it is told to stop and everything is committed. A failure ends the process.
    pub fn run(mut self) {
        if let Err(error) = self.work() {
            self.shared.fail(error.context(format!("worker {}", self.number)));
        }
    }

    fn work(&mut self) -> Result<()> {
        self.processor.resend(&mut self.port)?;
        self.publish();
        loop {
            while let Ok(message) = self.receiver.try_recv() {
                self.take(message)?;
            }
            let worked = self.step()?;
            self.commit_due()?;
            let waiting = self.port.retry();
            if self.figures_at.elapsed() > FIGURES_EVERY || !worked {
                self.publish();
            }
            if self.stop && self.is_done() {
                return Ok(());
            }
            if self.shared.failure().is_some() {
                return Ok(());
            }
            if !worked && !self.read_file()? {
                self.sleep(waiting)?;
            }
        }
    }

    /// One batch and one slice of closing windows; false if there was nothing to do.
    fn step(&mut self) -> Result<bool> {
        let mut worked = false;
        if !self.processor.is_blocked() {
            let limit = self.shared.plan.config.engine.batch_rows.max(1) as usize;
            self.reorder.take(limit, &mut self.ready);
            if !self.ready.is_empty() {
                worked = true;
                self.process()?;
            }
        }
        while let Some((split, status)) = self.reorder.take_status() {
            worked = true;
            self.processor.shards_mut().iter_mut().for_each(|shard| shard.set_status(split, status));
        }
        if self.processor.has_closable() && !self.processor.is_blocked() {
            worked = true;
            let left = self.processor.close_windows(self.close_slice, &mut self.port)?;
            self.close_slice = if left { (self.close_slice * 2).min(MAX_CLOSE_SLICE) } else { CLOSE_SLICE };
        }
        Ok(worked)
    }

    fn process(&mut self) -> Result<()> {
        let (deliveries, holds): (Vec<Delivery>, Vec<_>) =
            self.ready.drain(..).map(|parcel| (parcel.delivery, parcel._hold)).unzip();
        let refusals = self.processor.process(&deliveries, &mut self.port)?;
        drop(deliveries);
        drop(holds);
        match refusals.first() {
            None => Ok(()),
            Some(refusal) => Err(Error::engine(format!(
                "shard {} wants offset {} of split {} and was given a later one",
                refusal.shard,
                refusal.wanted,
                self.shared.splits[usize::from(refusal.split)].id
            ))),
        }
    }

    fn take(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Rows(parcel) => self.put(parcel)?,
            Message::Status { split, at, status } => self.reorder.put_status(split, at, status),
            Message::Committed { shard, epoch, sends } => {
                self.processor.committed(shard, epoch, &sends, &mut self.port)?;
            }
            Message::Report { sink, report } => self.take_report(sink, report)?,
            Message::Ask(question) => question(&self.processor),
            Message::EndOfTime => {
                self.processor.shards_mut().iter_mut().for_each(|shard| shard.set_watermark(END_OF_TIME));
                self.scheduler.rush();
            }
            Message::Stop => {
                self.stop = true;
                self.scheduler.rush();
            }
        }
        Ok(())
    }

    fn take_report(&mut self, sink: usize, report: streamjob_connectors::deliveries::DeliveryReport) -> Result<()> {
        match report.result {
            Ok(()) => {
                self.shared.sent_rows[sink].fetch_add(u64::from(report.batch.rows), Ordering::Relaxed);
                if let Some(shard) = self.processor.shard_mut(report.shard) {
                    shard.confirm(sink, report.last_seq);
                }
                Ok(())
            }
            Err(refusal) => {
                let reason = format!("{} answered {}: {}", report.sink, refusal.status, refusal.reason);
                self.processor.refused(report.shard, sink, report.last_seq, &reason, &mut self.port)
            }
        }
    }

    /// Starts the commits whose time has come.
    fn commit_due(&mut self) -> Result<()> {
        if self.commits_looked_at.elapsed() < COMMIT_LOOK {
            return Ok(());
        }
        self.commits_looked_at = Instant::now();
        let now_us = self.shared.uptime_us() as i64;
        while let Some(shard) = self.scheduler.next(now_us, self.processor.shards().iter().map(ShardWish::from)) {
            self.start_commit(shard)?;
        }
        Ok(())
    }

    fn start_commit(&mut self, shard: u16) -> Result<()> {
        let Some(frozen) = self.processor.freeze(shard) else { return Ok(()) };
        let mut segments = Vec::with_capacity(frozen.segments.len());
        for segment in &frozen.segments {
            let sealed = self.port.seal(segment.sink, shard, segment.number)?;
            let directory = self.port.directory(segment.sink).expect("a sealed segment has a directory").clone();
            segments.push((directory, sealed));
        }
        self.commits.send(Commit { frozen, segments }).map_err(|_| Error::engine("the committer has ended"))
    }

    fn put(&mut self, parcel: Parcel) -> Result<()> {
        self.reorder.put(parcel).map_err(|_| Error::engine("rows came that have no place to wait"))
    }

    fn has_commit_in_flight(&self) -> bool {
        self.processor.shards().iter().any(Shard::commit_in_flight)
    }

    fn is_done(&self) -> bool {
        self.ready.is_empty() && !self.has_commit_in_flight() && !self.processor.shards().iter().any(Shard::has_changes)
    }

    /// Takes a chunk of a file, if there is one; its rows for this worker go to the reordering.
    fn read_file(&mut self) -> Result<bool> {
        if self.stop || self.processor.is_blocked() || self.shared.is_stopping() {
            return Ok(false);
        }
        for feed in &self.feeds {
            if let Some(parcel) = feed.take(&self.shared, self.number, &mut self.decoder, &mut self.buffer)? {
                self.put(parcel)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for a message, or until something is due.
    fn sleep(&mut self, webhook_is_full: bool) -> Result<()> {
        let now = Instant::now();
        let mut until = now + IDLE_LOOK;
        let now_us = self.shared.uptime_us() as i64;
        if let Some(wake_us) = self.scheduler.wake_after_us(now_us) {
            until = until.min(now + Duration::from_micros((wake_us - now_us) as u64));
        }
        if webhook_is_full || self.stop {
            until = now + Duration::from_millis(1);
        }
        match self.receiver.recv_timeout(until.saturating_duration_since(now)) {
            Ok(message) => {
                let lingers = matches!(&message, Message::Rows(parcel) if parcel.delivery.rows.len() < LINGER_BELOW_ROWS);
                self.take(message)?;
                let linger_us = self.shared.plan.config.engine.batch_linger_us;
                if lingers && linger_us > 0 && self.receiver.len() < LINGER_BELOW_ROWS {
                    std::thread::sleep(Duration::from_micros(linger_us as u64));
                }
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::engine("the inbox of a worker has gone")),
        }
    }

    fn publish(&mut self) {
        self.figures_at = Instant::now();
        let shards = self.processor.shards();
        let splits = self.shared.splits.len();
        let mut figures = WorkerFigures {
            pending_rows: vec![0; self.shared.plan.sinks.len()],
            positions: vec![u64::MAX; splits],
            finished: vec![true; splits],
            quiet: self.receiver.is_empty()
                && self.reorder.is_empty()
                && self.ready.is_empty()
                && !self.has_commit_in_flight()
                && !self.processor.has_closable(),
            ..WorkerFigures::default()
        };
        for shard in shards {
            figures.ledger.add(&shard.ledger);
            figures.keys += shard.table.len() as u64;
            figures.table_bytes += shard.table.memory_bytes() as u64;
            for (sink, plan) in self.shared.plan.sinks.iter().enumerate().filter(|(_, plan)| plan.mode == SinkMode::Messages) {
                debug_assert_eq!(plan.mode, SinkMode::Messages);
                figures.pending_rows[sink] += shard.outbox(sink).map_or(0, |outbox| outbox.pending_rows());
            }
            for split in 0..splits {
                let progress = shard.progress(split as u16);
                figures.positions[split] = figures.positions[split].min(progress.position);
                figures.finished[split] &= progress.status == SplitStatus::Finished;
            }
        }
        let known = |time_us: i64| Some(time_us).filter(|time_us| *time_us != NO_TIME);
        figures.watermark_us = shards.iter().map(Shard::watermark_us).min().and_then(known);
        figures.max_event_time_us = shards.iter().map(Shard::max_event_time_us).max().and_then(known);
        let text = |row: &[u8]| String::from_utf8_lossy(row).into_owned();
        figures.recent_windows = self.processor.recent_windows.iter().map(text).collect();
        figures.recent_events = self.processor.recent_events.iter().map(text).collect();
        *self.shared.figures[self.number].lock() = figures;
        self.shared.changed.notify_one();
    }
}
