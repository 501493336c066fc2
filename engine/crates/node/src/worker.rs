//! One worker: a thread that owns some shards and runs everything that happens to them, one thing after the other.
//!
//! ```text
//!  inbox ─▶ reorder ─▶ process ─▶ read again ─▶ close some windows ─▶ start commits ─┐
//!    ▲                                                                              │
//!    └── nothing to do: take a chunk of a file, else sleep ◀────────────────────────┘
//! ```
//!
//! A shard whose outbox is full leaves its rows, and they are read again once it has room (I9). A worker whose disk is full
//! takes no rows and closes no windows, and does everything else: it commits what can be committed, hears what sinks confirm,
//! answers questions, and stops. So do all workers while no shard of the process is in step.

mod figures;
mod left;
mod turns;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use streamjob_connectors::deliveries::{DeliveryReport, Refusal as SinkRefusal};
use streamjob_core::catch_up::{CatchUp, takes_rows};
use streamjob_core::checkpoint::{CheckpointRequests, CheckpointScheduler, ShardWish, Unqueued};
use streamjob_core::processor::{Delivery, Processor, Refusal};
use streamjob_core::progress::END_OF_TIME;
use streamjob_core::reorder::Reorder;
use streamjob_core::shard::Shard;
use streamjob_core::{Error, Result};
use tokio::sync::oneshot;

use crate::committer::Commit;
use crate::feed::Feed;
use crate::inbox::{Message, Parcel};
use crate::port::Port;
use crate::read_again::Rereader;
use crate::shared::Shared;
use crate::telemetry::{StageSpans, Trace};
use turns::Turns;

/// Slots that one slice of closing windows looks at while rows wait.
const CLOSE_SLICE: usize = 2048;
/// A slice doubles while closing falls behind, up to this.
const MAX_CLOSE_SLICE: usize = 1 << 16;
/// Whether a commit is due is looked at this often.
const COMMIT_LOOK: Duration = Duration::from_millis(1);
/// A worker without work looks around after this long.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// A worker that waits for a queue or a disk looks again after this long.
const FULL_LOOK: Duration = Duration::from_millis(5);
/// Fewer rows than this are not worth a batch of their own: the worker lingers for more, up to `engine.batchLinger`.
const LINGER_BELOW_ROWS: usize = 32;
/// While it lingers, it looks this often at what has come.
const LINGER_LOOK: Duration = Duration::from_millis(1);
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
    buffer: Vec<u8>,
    reorder: Reorder<Parcel>,
    ready: Vec<Parcel>,
    catch_up: CatchUp<Parcel>,
    rereader: Rereader,
    /// Shards that this worker has reported as behind.
    behind: usize,
    scheduler: CheckpointScheduler,
    checkpoints: CheckpointRequests<oneshot::Sender<Result<()>>>,
    /// `None`: something has happened that a commit may wait for.
    commits_looked_at: Option<Instant>,
    close_slice: usize,
    turns: Turns,
    figures_at: Instant,
    phase: Phase,
    end_of_time: bool,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// No new rows come; those that are there are processed and committed.
    Stopping,
    /// Nothing is taken any more; what changed is committed.
    Ending,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "a worker is wired once")]
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        receiver: Receiver<Message>,
        commits: Sender<Commit>,
        mut processor: Processor,
        port: Port,
        feeds: Vec<Arc<Feed>>,
        rereader: Rereader,
        starts: &[u64],
    ) -> Result<Worker> {
        let config = &shared.plan.config;
        let incarnation = shared.state.output_incarnation();
        processor.shards_mut().iter_mut().for_each(|shard| shard.begin_outputs(incarnation));
        let shards: Vec<u16> = processor.shards().iter().map(|shard| shard.id).collect();
        let scheduler = CheckpointScheduler::new(&shards, config.checkpoint.interval_us, shared.uptime_us() as i64);
        Ok(Worker {
            // Bounded by the credits and by the chunks under way, without which nothing reaches a worker.
            reorder: Reorder::with_bound(starts, usize::MAX),
            catch_up: CatchUp::new(shards.len(), starts.len()),
            rereader,
            behind: 0,
            scheduler,
            checkpoints: CheckpointRequests::default(),
            commits_looked_at: None,
            buffer: Vec::new(),
            ready: Vec::new(),
            close_slice: CLOSE_SLICE,
            turns: Turns::default(),
            figures_at: Instant::now(),
            phase: Phase::Running,
            end_of_time: false,
            number,
            shared,
            receiver,
            commits,
            processor,
            port,
            feeds,
        })
    }

    /// Runs until it is told to end and everything is committed. A failure ends the process.
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
            // Who has read to the end of the journal waits for its next sync, of which nobody tells.
            let waits = self.port.retry()? || self.catch_up.behind() > self.catch_up.blocked();
            if self.figures_at.elapsed() > FIGURES_EVERY || !worked {
                self.publish();
            }
            if self.shared.failure().is_some() || (self.phase == Phase::Ending && self.has_ended()?) {
                return Ok(());
            }
            let read = self.turns.is_files_turn(worked) && self.read_file()?;
            if !worked && !read {
                self.sleep(waits)?;
            }
        }
    }

    /// Whether neither rows are taken nor windows closed.
    fn is_halted(&self) -> bool {
        self.phase == Phase::Ending || self.port.is_stuck() || self.shared.awaits_sinks()
    }

    /// Whether rows that come are taken; shards that have left some may still catch up.
    fn takes_rows(&self) -> bool {
        !self.is_halted()
            && !self.processor.is_overfull()
            && takes_rows(self.shared.behind(), usize::from(self.shared.plan.config.shards))
    }

    /// One batch, one step of catching up and one slice of closing windows; false if there was nothing to do.
    fn step(&mut self) -> Result<bool> {
        self.look_at_shards();
        let mut worked = false;
        if self.takes_rows() {
            let limit = self.shared.plan.config.engine.batch_rows.max(1) as usize;
            self.reorder.take(limit, &mut self.ready);
            if !self.ready.is_empty() {
                worked = true;
                self.process()?;
            }
        }
        // A shard that holds too many keys has changes, so that its commit comes and makes room.
        if !self.is_halted() && !self.processor.is_overfull() {
            worked |= self.catch_up()?;
        }
        while let Some((split, status)) = self.reorder.take_status() {
            worked = true;
            self.set_status(split, status);
        }
        if self.processor.has_closable() && !self.is_halted() {
            worked = true;
            let left = self.processor.close_windows(self.close_slice, &mut self.port)?;
            self.close_slice = if left { (self.close_slice * 2).min(MAX_CLOSE_SLICE) } else { CLOSE_SLICE };
        }
        Ok(worked)
    }

    fn process(&mut self) -> Result<()> {
        let mut holds = Vec::with_capacity(self.ready.len());
        let mut deliveries: Vec<Delivery> = Vec::with_capacity(self.ready.len());
        let mut traces: Vec<Arc<Trace>> = Vec::new();
        if self.catch_up.keeps_some() {
            self.ready.iter().for_each(|parcel| self.catch_up.keep(parcel));
        }
        for parcel in self.ready.drain(..) {
            // A batch without rows for this worker has no stages here.
            traces.extend(parcel.trace.filter(|_| !parcel.delivery.rows.is_empty()));
            deliveries.push(parcel.delivery);
            holds.push(parcel._hold);
        }
        let refusals = match traces.is_empty() {
            true => self.processor.process(&deliveries, &mut self.port)?,
            false => self.process_traced(&deliveries, traces)?,
        };
        drop(deliveries);
        drop(holds);
        self.check_refusals(&refusals)
    }

    #[cold]
    fn process_traced(&mut self, deliveries: &[Delivery], traces: Vec<Arc<Trace>>) -> Result<Vec<Refusal>> {
        let first = traces[0].clone();
        let before = self.staged_rows();
        self.processor.observer = Some(Box::new(StageSpans::new(traces)));
        let outcome = self.processor.process(deliveries, &mut self.port);
        self.processor.observer = None;
        for (place, (_, before)) in std::iter::zip(self.staged_rows(), before) {
            let ((sink, shard), after) = place;
            if after > before {
                self.port.keep_trace(sink, shard, &first);
            }
        }
        outcome
    }

    /// Rows that message sinks wait for, by sink and shard.
    fn staged_rows(&self) -> Vec<((usize, u16), u64)> {
        let mut rows = Vec::new();
        for shard in self.processor.shards() {
            for sink in 0..self.shared.plan.sinks.len() {
                let staged = shard.outbox(sink).filter(|outbox| outbox.has_staged()).map_or(0, |outbox| outbox.pending_rows());
                rows.push(((sink, shard.id), staged));
            }
        }
        rows
    }

    fn take(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Rows(parcel) => self.put(parcel)?,
            Message::Status { split, at, status } => self.reorder.put_status(split, at, status),
            Message::Committed { shard, epoch, sends, buffers } => {
                self.processor.reuse(buffers);
                self.processor.committed(shard, epoch, &sends, &mut self.port)?;
                self.commits_looked_at = None;
                for waiter in self.checkpoints.committed(shard, epoch) {
                    let _ = waiter.send(Ok(()));
                }
            }
            Message::Checkpoint(waiter) => self.checkpoint(waiter),
            Message::Report { sink, report } => self.take_report(sink, report)?,
            Message::Ask(question) => question(&self.processor),
            Message::EndOfTime => {
                self.processor.shards_mut().iter_mut().for_each(|shard| shard.set_watermark(END_OF_TIME));
                self.end_of_time = true;
            }
            Message::Stop => self.phase = Phase::Stopping,
            Message::End => self.phase = Phase::Ending,
        }
        Ok(())
    }

    fn checkpoint(&mut self, waiter: oneshot::Sender<Result<()>>) {
        let newest = |shard: &Shard| shard.uncommitted_epoch().map(|epoch| (shard.id, epoch));
        let uncommitted = self.processor.shards().iter().filter_map(newest).collect();
        match self.checkpoints.put(waiter, uncommitted) {
            Ok(()) => {
                self.scheduler.ask();
                self.commits_looked_at = None;
            }
            Err(Unqueued::Complete(waiter)) => drop(waiter.send(Ok(()))),
            Err(Unqueued::Full(waiter)) => {
                let busy = Error::outside("too many checkpoints are asked for at once; ask again later");
                let _ = waiter.send(Err(busy));
            }
        }
    }

    fn put(&mut self, parcel: Parcel) -> Result<()> {
        self.reorder.put(parcel).map_err(|_| Error::engine("rows came that have no place to wait"))
    }

    fn take_report(&mut self, sink: usize, report: DeliveryReport) -> Result<()> {
        self.port.answered(sink, report.shard);
        match report.result {
            Ok(()) => {
                self.shared.sent_rows[sink].fetch_add(u64::from(report.batch.rows), Ordering::Relaxed);
                if let Some(shard) = self.processor.shard_mut(report.shard) {
                    shard.confirm(sink, report.last_seq);
                }
                Ok(())
            }
            Err(SinkRefusal::Batch { status, reason }) => {
                let reason = format!("{} answered {status}: {reason}", report.sink);
                self.processor.refused(report.shard, sink, report.last_seq, &reason, &mut self.port)
            }
            Err(SinkRefusal::Rows(mut refused)) => {
                let taken = u64::from(report.batch.rows).saturating_sub(refused.len() as u64);
                self.shared.sent_rows[sink].fetch_add(taken, Ordering::Relaxed);
                refused.iter_mut().for_each(|row| row.reason = format!("{}: {}", report.sink, row.reason));
                self.processor.refused_rows(report.shard, sink, report.last_seq, &refused, &mut self.port)
            }
        }
    }

    /// Starts the commits whose time has come.
    fn commit_due(&mut self) -> Result<()> {
        if self.commits_looked_at.is_some_and(|at| at.elapsed() < COMMIT_LOOK) {
            return Ok(());
        }
        self.commits_looked_at = Some(Instant::now());
        // Near the end nothing waits for its turn, but closing windows do not commit after every slice either: a shard whose own
        // are all closed does.
        let is_drained = (self.end_of_time || self.phase == Phase::Stopping) && !self.has_unprocessed();
        if self.phase == Phase::Ending || (is_drained && !self.processor.has_closable()) {
            self.scheduler.rush();
        }
        let wish = |shard: &Shard| {
            let wish = ShardWish::from(shard);
            ShardWish { early: wish.early || (is_drained && !shard.has_closable()), ..wish }
        };
        let now_us = self.shared.uptime_us() as i64;
        while let Some(shard) = self.scheduler.next(now_us, self.processor.shards().iter().map(wish)) {
            if !self.start_commit(shard)? {
                break;
            }
        }
        Ok(())
    }

    /// False if the shard's output has no room on its disk: then it commits later.
    fn start_commit(&mut self, shard: u16) -> Result<bool> {
        if !self.port.flush(shard)? {
            return Ok(false);
        }
        let Some(frozen) = self.processor.freeze(shard) else { return Ok(true) };
        let mut segments = Vec::with_capacity(frozen.segments.len());
        for segment in &frozen.segments {
            let sealed = self.port.seal(segment.sink, shard, segment.number)?;
            let directory = self.port.directory(segment.sink).expect("a sealed segment has a directory").clone();
            segments.push((directory, sealed));
        }
        let commit = Commit { frozen, segments, streams: self.port.streams() };
        self.commits.send(commit).map_err(|_| Error::engine("the committer has ended"))?;
        Ok(true)
    }

    /// Whether rows or windows wait to be processed, here or in the logs that shards have left them in.
    fn has_rows(&self) -> bool {
        self.has_unprocessed() || self.processor.has_closable()
    }

    /// Whether rows wait.
    fn has_unprocessed(&self) -> bool {
        !self.receiver.is_empty() || !self.reorder.is_empty() || !self.ready.is_empty() || self.catch_up.behind() > 0
    }

    /// Whether nothing is left for a commit, and none is under way.
    fn is_committed(&self) -> bool {
        !self.processor.shards().iter().any(|shard| shard.commit_in_flight() || shard.has_changes())
    }

    /// Whether all is committed. Output that still waits for room on its disk never is: then the run fails, and the next one
    /// makes the rows again.
    fn has_ended(&self) -> Result<bool> {
        match self.port.is_stuck() {
            true => Err(Error::disk_full(
                "the disk of a file sink is still full: what is not committed is processed again by the next start",
            )),
            false => Ok(self.is_committed()),
        }
    }

    /// Takes a chunk of a file, if there is one; its rows for this worker go to the reordering.
    fn read_file(&mut self) -> Result<bool> {
        if self.phase != Phase::Running || !self.takes_rows() || self.shared.is_stopping() || self.shared.is_disk_full() {
            return Ok(false);
        }
        for number in 0..self.feeds.len() {
            let taken = self.feeds[number].take(&self.shared, self.number, &mut self.buffer)?;
            if let Some(parcel) = taken {
                self.put(parcel)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for a message, or until something is due.
    fn sleep(&mut self, waits: bool) -> Result<()> {
        let now_us = self.shared.uptime_us() as i64;
        let mut longest = match waits {
            true => FULL_LOOK,
            false if self.phase != Phase::Running || self.end_of_time => COMMIT_LOOK,
            false => IDLE_LOOK,
        };
        if let Some(wake_us) = self.scheduler.wake_after_us(now_us) {
            longest = longest.min(Duration::from_micros((wake_us - now_us) as u64));
        }
        match self.receiver.recv_timeout(longest) {
            Ok(message) => {
                let rows = rows_of(&message);
                self.take(message)?;
                match rows {
                    Some(rows) => self.linger(rows),
                    None => Ok(()),
                }
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::engine("the inbox of a worker has gone")),
        }
    }

    /// Waits for more rows, until there are enough for a batch, `engine.batchLinger` is over, or anything else comes. Sleeps
    /// in between: who brings rows then wakes nobody, which is what it saves.
    fn linger(&mut self, mut rows: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_micros(self.shared.plan.config.engine.batch_linger_us.max(0) as u64);
        while rows < LINGER_BELOW_ROWS {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LINGER_LOOK));
            while let Ok(message) = self.receiver.try_recv() {
                let more = rows_of(&message);
                self.take(message)?;
                match more {
                    Some(more) => rows += more,
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Rows that a message brings, where it brings some.
fn rows_of(message: &Message) -> Option<usize> {
    match message {
        Message::Rows(parcel) => Some(parcel.delivery.rows.len()),
        _ => None,
    }
}
