//! The way of rows through one worker's shards. No I/O of its own: results leave through a [`SinkPort`].
//!
//! ```text
//!  deliveries ─▶ gather ─▶ look up + statistics ─▶ UDFs ─▶ windows ─▶ event sinks
//!  (batch, rows)  own rows,      A, by groups of      B, once    C, by groups   closed windows ─▶ window sinks, history
//!                 columns        64 with prefetch     a batch
//! ```
//!
//! Without event UDFs stage C follows A for each group, while the slots are in the cache.
//!
//! Invariant (I11): what a row sees and does depends on the rows before it in its split, never on where batches are cut.

mod closed;
mod encode;
mod events;
mod gather;
mod stages;

use std::sync::Arc;

pub use encode::time_text;
use serde_json::value::RawValue;

use crate::Result;
use crate::batch::RowBatch;
use crate::checkpoint::MAX_COMMITS_IN_FLIGHT;
use crate::outbox::Batch;
use crate::plan::{Plan, SinkMode};
use crate::progress::{NO_TIME, SplitIndex};
use crate::shard::{Frozen, RequestCommit, Shard, SlotBuffers, SplitInfo};
use crate::transactions::RefusedRow;
use crate::udf::record::CallRecord;
use crate::udf::suspects::SavedSuspects;
use crate::udf::{Calls, UdfHost};

/// Rows of one batch for one worker.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub split: SplitIndex,
    /// Offset of the batch's first row; the batch reaches to `first_offset + batch.span`.
    pub first_offset: u64,
    /// Where the delivery begins to cover the split: before the batch where batches without rows for this worker were
    /// left out.
    pub covers_from: u64,
    /// Latest event time of the batches that were left out.
    pub prior_max_us: i64,
    pub batch: Arc<RowBatch>,
    /// Numbers of the rows whose shards the worker owns, ascending.
    pub rows: Vec<u32>,
    /// Latest event time of the whole batch.
    pub max_time_us: i64,
    /// The request that the batch came in, if it has an id.
    pub request: Option<Arc<RequestCommit>>,
}

impl Delivery {
    /// A delivery of all that a batch has for one worker.
    pub fn new(split: SplitIndex, first_offset: u64, batch: Arc<RowBatch>, rows: Vec<u32>) -> Delivery {
        Delivery {
            split,
            first_offset,
            covers_from: first_offset,
            prior_max_us: NO_TIME,
            max_time_us: batch.max_time_us(),
            batch,
            rows,
            request: None,
        }
    }

    /// The offset behind the delivery.
    pub fn to(&self) -> u64 {
        self.first_offset + self.batch.span
    }
}

/// A shard that could not take a delivery: rows before it are missing (I2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub shard: u16,
    pub split: SplitIndex,
    pub wanted: u64,
}

/// Where results go (I8). Called on the worker's thread.
pub trait SinkPort {
    /// Rows for a sink that streams: `bytes` are whole lines. For [`SinkMode::Segments`] they belong to segment `number`
    /// of the shard; nobody may see them before the commit that seals it.
    fn append(&mut self, sink: usize, shard: u16, number: u64, rows: u32, bytes: &[u8]) -> Result<()>;

    /// A batch may leave now.
    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()>;
}

/// A part of the way that can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// User functions.
    Udf,
    /// Statistics and windows.
    Window,
    /// Rows for sinks.
    Output,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Udf => "udf",
            Stage::Window => "window",
            Stage::Output => "output",
        }
    }
}

/// Watches the stages of a batch: for traces, of which only few batches are part. Stages may lie within each other.
pub trait Observer: Send {
    fn begin(&mut self, stage: Stage);
    fn end(&mut self, stage: Stage);
}

/// Rows waiting to be handed to the port: of one sink and one shard.
#[derive(Debug, Default)]
struct RowBuffer {
    bytes: Vec<u8>,
    rows: u32,
}

/// One worker's shards and everything that runs on their rows.
pub struct Processor {
    plan: Arc<Plan>,
    splits: Vec<SplitInfo>,
    shards: Vec<Shard>,
    /// By shard: its place in `shards`, or `NOT_MINE`.
    local_of: Vec<u16>,
    udfs: Box<dyn UdfHost>,
    /// Where calls are noted, and some isolated.
    calls: Option<Calls>,
    /// By place in `shards`: those that take nothing of the batch that runs.
    blocked: Vec<bool>,
    work: gather::Work,
    events: encode::EventEncoder,
    closed: Vec<closed::ClosedRows>,
    /// By sink, by place in `shards`.
    buffers: Vec<Vec<RowBuffer>>,
    /// For the next commits' copies of keys; at most as many as commits may be under way.
    spare: Vec<SlotBuffers>,
    row: Vec<u8>,
    /// Set while a batch is watched.
    pub observer: Option<Box<dyn Observer>>,
    /// Newest event rows that passed a sink's `where`, for the live view.
    pub recent_events: RecentRows,
    /// Newest closed windows, for the live view.
    pub recent_windows: RecentRows,
}

const NOT_MINE: u16 = u16::MAX;

/// The last few rows that left, as JSON.
#[derive(Debug, Default)]
pub struct RecentRows {
    rows: std::collections::VecDeque<Vec<u8>>,
}

impl RecentRows {
    /// Rows kept.
    pub const CAPACITY: usize = 8;

    fn push(&mut self, row: &[u8]) {
        if self.rows.len() == Self::CAPACITY {
            self.rows.pop_front();
        }
        self.rows.push_back(row.to_vec());
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.rows.iter().map(Vec::as_slice)
    }
}

impl Processor {
    pub fn new(plan: Arc<Plan>, splits: Vec<SplitInfo>, shards: Vec<Shard>, udfs: Box<dyn UdfHost>) -> Processor {
        let mut local_of = vec![NOT_MINE; usize::from(plan.config.shards)];
        for (place, shard) in shards.iter().enumerate() {
            local_of[usize::from(shard.id)] = place as u16;
        }
        let buffers = plan.sinks.iter().map(|_| shards.iter().map(|_| RowBuffer::default()).collect()).collect();
        Processor {
            events: encode::EventEncoder::new(&plan, &splits),
            closed: plan.windows.iter().map(closed::ClosedRows::new).collect(),
            blocked: Vec::new(),
            work: gather::Work::default(),
            row: Vec::new(),
            observer: None,
            recent_events: RecentRows::default(),
            recent_windows: RecentRows::default(),
            plan,
            splits,
            shards,
            local_of,
            udfs,
            calls: None,
            buffers,
            spare: Vec::new(),
        }
    }

    /// Notes each call of a function while it runs, and isolates rows that earlier processes may have died of.
    pub fn note_calls(&mut self, record: Box<dyn CallRecord>, suspects: &SavedSuspects) {
        self.calls = Some(Calls::new(self.plan.clone(), &self.splits, &self.shards, suspects, record));
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub fn shards_mut(&mut self) -> &mut [Shard] {
        &mut self.shards
    }

    /// The shard with this id, if the worker owns it.
    pub fn shard_mut(&mut self, id: u16) -> Option<&mut Shard> {
        match self.local_of.get(usize::from(id)) {
            Some(place) if *place != NOT_MINE => Some(&mut self.shards[usize::from(*place)]),
            _ => None,
        }
    }

    /// The place of a shard among the worker's, if it is one.
    pub fn place_of(&self, shard: u16) -> Option<usize> {
        self.local_of.get(usize::from(shard)).filter(|place| **place != NOT_MINE).map(|place| usize::from(*place))
    }

    /// Takes deliveries in order. A shard whose outbox is full when it begins takes nothing (I6) and leaves its rows (I9);
    /// refusals name shards for which rows are missing; all others have taken theirs.
    pub fn process(&mut self, deliveries: &[Delivery], port: &mut dyn SinkPort) -> Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        let limit = self.plan.config.engine.batch_rows.max(1) as usize;
        self.work.begin();
        self.blocked.clear();
        self.blocked.extend(self.shards.iter().map(Shard::is_blocked));
        for (number, delivery) in deliveries.iter().enumerate() {
            let admissions = self.admit(delivery, &mut refusals);
            self.take_rejects(delivery, &admissions)?;
            let mut taken = 0;
            let mut seen = gather::Seen::before(delivery.prior_max_us);
            while taken < delivery.rows.len() {
                let room = limit - self.work.len();
                taken = self.gather(number as u32, delivery, &admissions, taken, room, &mut seen);
                if self.work.len() >= limit {
                    self.run(deliveries, port)?;
                }
            }
            self.advance(delivery, &admissions);
        }
        self.run(deliveries, port)?;
        self.put_out(port)?;
        self.shards.iter_mut().for_each(Shard::evict);
        Ok(refusals)
    }

    fn put_out(&mut self, port: &mut dyn SinkPort) -> Result<()> {
        self.begin(Stage::Output);
        self.flush_closed()?;
        self.hand_over(port)?;
        self.end(Stage::Output);
        Ok(())
    }

    #[inline]
    fn begin(&mut self, stage: Stage) {
        if let Some(observer) = &mut self.observer {
            observer.begin(stage);
        }
    }

    #[inline]
    fn end(&mut self, stage: Stage) {
        if let Some(observer) = &mut self.observer {
            observer.end(stage);
        }
    }

    /// Closes windows that have ended, looking at no more than `budget` slots in all, but not those of shards whose outbox is
    /// full (I6). True if some are left.
    pub fn close_windows(&mut self, mut budget: usize, port: &mut dyn SinkPort) -> Result<bool> {
        loop {
            // Rows leave in parts: the buffers that they pass through keep the size of the largest.
            let part = budget.min(closed::LARGE_ROWS);
            let left = self.close_part(part)?;
            self.put_out(port)?;
            budget -= part - left;
            if budget == 0 || left > 0 {
                return Ok(self.has_closable());
            }
        }
    }

    fn close_part(&mut self, mut budget: usize) -> Result<usize> {
        for shard in self.shards.iter_mut().filter(|shard| !shard.is_blocked()) {
            let closed = &mut self.closed;
            budget = shard.close_some(budget, &mut |pane| closed[pane.window].push(&pane, &self.local_of))?;
            if budget == 0 {
                break;
            }
        }
        Ok(budget)
    }

    /// Whether a shard holds so many keys that rows should wait until it has committed.
    pub fn is_overfull(&self) -> bool {
        self.shards.iter().any(Shard::is_overfull)
    }

    /// Whether windows have ended that can be closed now.
    pub fn has_closable(&self) -> bool {
        self.shards.iter().any(|shard| shard.has_closable() && !shard.is_blocked())
    }

    /// Takes up a shard's changes for a commit.
    pub fn freeze(&mut self, shard: u16) -> Option<Frozen> {
        let place = self.place_of(shard)?;
        let mut buffers = self.spare.pop().unwrap_or_default();
        let frozen = self.shards[place].freeze(&mut buffers);
        match (&frozen, &mut self.calls) {
            (None, _) => self.spare.push(buffers),
            (Some(_), Some(calls)) => calls.froze(place, &self.shards[place]),
            (Some(_), None) => {}
        }
        frozen
    }

    /// Gives back what a commit that is written does not need any more.
    pub fn reuse(&mut self, buffers: SlotBuffers) {
        if self.spare.len() < MAX_COMMITS_IN_FLIGHT {
            self.spare.push(buffers);
        }
    }

    /// A commit is durable: its exactly-once batches may leave.
    pub fn committed(&mut self, shard: u16, epoch: u64, sends: &[(usize, Batch)], port: &mut dyn SinkPort) -> Result<()> {
        if let Some(place) = self.place_of(shard) {
            self.shards[place].committed(epoch);
            self.shards[place].evict();
            if let Some(calls) = &mut self.calls {
                calls.committed(place, &mut *self.udfs);
            }
        }
        sends.iter().try_for_each(|(sink, batch)| port.send(*sink, shard, batch))
    }

    /// Sends again what the shards' outboxes held at the start.
    pub fn resend(&mut self, port: &mut dyn SinkPort) -> Result<()> {
        for shard in &self.shards {
            for sink in 0..self.plan.sinks.len() {
                let batches = shard.outbox(sink).into_iter().flat_map(crate::outbox::Outbox::unconfirmed);
                for batch in batches {
                    port.send(sink, shard.id, batch)?;
                }
            }
        }
        Ok(())
    }

    /// A sink refused a batch for good: its rows become dead letters.
    pub fn refused(&mut self, shard: u16, sink: usize, number: u64, reason: &str, port: &mut dyn SinkPort) -> Result<()> {
        let place = self.local_of[usize::from(shard)];
        if place == NOT_MINE {
            return Ok(());
        }
        let Some(batch) = self.shards[usize::from(place)].confirm(sink, number) else { return Ok(()) };
        let rows = rows_of(&batch)?;
        self.letters_of_sink(usize::from(place), shard, sink, number, rows.into_iter().map(|row| (reason, row)));
        self.hand_over(port)
    }

    /// A sink has a batch but for some rows, which it refused for good: those become dead letters.
    pub fn refused_rows(
        &mut self,
        shard: u16,
        sink: usize,
        number: u64,
        refused: &[RefusedRow],
        port: &mut dyn SinkPort,
    ) -> Result<()> {
        let place = self.local_of[usize::from(shard)];
        if place == NOT_MINE {
            return Ok(());
        }
        let Some(batch) = self.shards[usize::from(place)].confirm(sink, number) else { return Ok(()) };
        let rows = rows_of(&batch)?;
        let letters = refused.iter().filter_map(|refused| Some((&*refused.reason, *rows.get(refused.row as usize)?)));
        self.letters_of_sink(usize::from(place), shard, sink, number, letters);
        self.hand_over(port)
    }

    /// Dead letters of rows that a sink does not take, with their reasons.
    fn letters_of_sink<'a>(
        &mut self,
        place: usize,
        shard: u16,
        sink: usize,
        number: u64,
        letters: impl Iterator<Item = (&'a str, &'a RawValue)>,
    ) {
        let source = self.plan.sinks[sink].name.clone();
        let split = format!("sink/{source}/{shard}");
        for (reason, row) in letters {
            self.dead_letter(place, reason, &source, &split, number, row.get().as_bytes());
        }
    }

    /// Hands buffered rows to the port: segments and streams as bytes, at-least-once messages as batches.
    fn hand_over(&mut self, port: &mut dyn SinkPort) -> Result<()> {
        for (sink, buffers) in self.buffers.iter_mut().enumerate() {
            let plan = &self.plan.sinks[sink];
            for (place, buffer) in buffers.iter_mut().enumerate() {
                let shard = &mut self.shards[place];
                if plan.mode == SinkMode::Messages {
                    if sends_at_once(plan) && shard.outbox(sink).is_some_and(crate::outbox::Outbox::has_staged) {
                        let cut = shard.outbox_mut(sink).map(crate::outbox::Outbox::cut).unwrap_or_default();
                        cut.iter().try_for_each(|batch| port.send(sink, shard.id, batch))?;
                    }
                    continue;
                }
                if buffer.rows == 0 {
                    continue;
                }
                let number = match plan.mode {
                    SinkMode::Segments => shard.segment_rows(sink, u64::from(buffer.rows))?,
                    _ => 0,
                };
                port.append(sink, shard.id, number, buffer.rows, &buffer.bytes)?;
                buffer.bytes.clear();
                buffer.rows = 0;
            }
        }
        Ok(())
    }
}

fn rows_of(batch: &Batch) -> Result<Vec<&RawValue>> {
    serde_json::from_slice(&batch.body).map_err(|error| crate::Error::engine(format!("a batch is not an array: {error}")))
}

fn sends_at_once(sink: &crate::plan::SinkPlan) -> bool {
    sink.delivery == crate::config::Delivery::AtLeastOnce || crate::guards::off(crate::guards::Guard::SendAfterCommit)
}
