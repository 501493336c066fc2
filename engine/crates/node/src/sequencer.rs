//! The journal's one writer: gives requests their offsets, hands their rows to the workers in that order, makes them durable.
//!
//! ```text
//!  connection: decode, encode ─▶ credits ─▶ [lock: offset, frame to buffer, rows to inboxes] ─▶ wait ─▶ answer
//!                                                              │
//!                            journal thread: write + fsync what came meanwhile ─▶ wake whoever waits
//! ```
//!
//! Rows reach the workers before their fsync; only answers and commits wait for it (I4). With `durability: buffered` answers
//! wait for the write alone: the operating system has the rows, and a kill of the process loses none. A second thread syncs
//! behind, for commits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use streamjob_core::acknowledge::Acknowledgements;
use streamjob_core::batch::RowBatch;
use streamjob_core::config::Durability;
use streamjob_core::journal::{EncodedRecord, Journal, JournalReader, Origin};
use streamjob_core::processor::Delivery;
use streamjob_core::progress::SplitIndex;
use streamjob_core::route::{Router, Selection};
use streamjob_core::shard::RequestCommit;
use streamjob_core::source_positions::{SavedPositions, SourcePositions};
use streamjob_core::{Error, Result, crash};
use streamjob_state::FileLogStorage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::idempotency::Ticket;
use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;
use crate::telemetry::Trace;

/// The buffer between connections and the journal thread is given back to the system where it has grown beyond this.
const KEPT_BUFFER_BYTES: usize = 16 << 20;

/// Who waits for the journal looks this often whether the process has failed elsewhere.
const FAILURE_LOOK: Duration = Duration::from_millis(100);

/// The journal of this start.
pub struct Sequencer {
    shared: Arc<Shared>,
    journal: Arc<Journal<FileLogStorage>>,
    split: SplitIndex,
    split_id: Arc<str>,
    durability: Durability,
    state: Mutex<State>,
    work: Condvar,
    durable: Mutex<Durable>,
    synced: Condvar,
    /// With `durability: buffered`: something was written, or nothing more will be.
    written: Condvar,
}

struct State {
    router: Router,
    /// Sealed frames that the journal thread has not taken yet.
    buffer: Vec<u8>,
    /// Credits of what is in the buffer: rows count as queued until they are on disk.
    held: Vec<Arc<dyn Hold>>,
    /// Nothing is taken any more; what is in the buffer is still written.
    closed: bool,
}

#[derive(Default)]
struct Durable {
    offset: u64,
    /// The operating system has everything below.
    written: u64,
    /// Nothing more is written.
    ended: bool,
    waiting: Acknowledgements<Answering>,
    positions: SourcePositions,
    failed: Option<Error>,
}

/// Who is told once a request is as durable as the job wants it.
struct Answering {
    client: oneshot::Sender<()>,
    request: Option<Arc<RequestCommit>>,
}

/// A request that is in the journal.
pub struct Place {
    /// Resolves when it is as durable as the job wants it; an error if the journal failed.
    pub durable: oneshot::Receiver<()>,
}

/// A request's id on its way into the journal.
pub struct Keyed<'a> {
    pub ticket: Ticket,
    /// Makes what is kept of the request, given its first offset.
    pub commit: &'a dyn Fn(u64) -> RequestCommit,
}

impl Sequencer {
    /// `positions`: what earlier starts left of the sources inside of the process.
    pub fn new(
        shared: Arc<Shared>,
        journal: Arc<Journal<FileLogStorage>>,
        split: SplitIndex,
        positions: SourcePositions,
    ) -> Sequencer {
        let router = Router::new(split, shared.worker_of.clone(), shared.inboxes.len(), 0);
        Sequencer {
            split_id: shared.splits[usize::from(split)].id.clone(),
            durability: shared.plan.config.ingest.durability,
            shared,
            journal,
            split,
            state: Mutex::new(State { router, buffer: Vec::new(), held: Vec::new(), closed: false }),
            work: Condvar::new(),
            durable: Mutex::new(Durable { positions, ..Durable::default() }),
            synced: Condvar::new(),
            written: Condvar::new(),
        }
    }

    pub fn split(&self) -> SplitIndex {
        self.split
    }

    /// The offset that the next request gets.
    pub fn end_offset(&self) -> u64 {
        self.state.lock().router.next_offset()
    }

    /// Gives a request its offset and its rows to the workers. An error means that nothing was taken: the disk is full, or the
    /// process stops.
    pub fn append(
        &self,
        record: &mut EncodedRecord,
        batch: Arc<RowBatch>,
        credits: OwnedSemaphorePermit,
        keyed: Option<Keyed<'_>>,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Place> {
        let _routing = trace.map(|trace| trace.span("route"));
        let selection = Selection::of(&batch, &self.shared.worker_of, self.shared.inboxes.len());
        let credits: Arc<dyn Hold> = Arc::new(credits);
        let place = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::outside("the process takes no more rows: it is stopping; send them again later"));
            }
            if crash::fault("journal-takes-nothing") {
                return Err(Error::outside("too many open files"));
            }
            self.journal.reserve(record.len()).map_err(|full| full.error)?;
            let first_offset = state.router.next_offset();
            // From here on the rows are taken, whatever becomes of the connection.
            let request = keyed.map(|keyed| {
                keyed.ticket.keep();
                Arc::new((keyed.commit)(first_offset))
            });
            state.buffer.extend_from_slice(record.seal(first_offset));
            state.held.push(credits.clone());
            let deliveries = state.router.route_selected(&batch, selection, request.as_ref());
            self.hand_out(deliveries, Some(&credits), trace);
            self.shared.count_received(self.split, first_offset, &batch);
            Place { durable: self.wait(first_offset + batch.span, request, record.origin()) }
        };
        self.work.notify_one();
        Ok(place)
    }

    fn hand_out(&self, deliveries: Vec<(usize, Delivery)>, hold: Option<&Arc<dyn Hold>>, trace: Option<&Arc<Trace>>) {
        for (worker, delivery) in deliveries {
            let parcel = Parcel { delivery, trace: trace.cloned(), _hold: hold.cloned() };
            self.shared.inboxes[worker].put(Message::Rows(parcel));
        }
    }

    fn wait(&self, end: u64, request: Option<Arc<RequestCommit>>, origin: Option<&Origin>) -> oneshot::Receiver<()> {
        let (client, receiver) = oneshot::channel();
        let mut durable = self.durable.lock();
        durable.waiting.push(end, Answering { client, request });
        if let Some(origin) = origin {
            durable.positions.appended(end, origin);
        }
        receiver
    }

    /// Blocks until the journal is durable up to `position`; other splits are durable as they are.
    pub fn wait_durable(&self, split: &str, position: u64) -> Result<()> {
        if split != &*self.split_id {
            return Ok(());
        }
        let mut durable = self.durable.lock();
        while durable.offset < position {
            if let Some(error) = &durable.failed {
                return Err(error.clone());
            }
            if let Some(error) = self.shared.failure() {
                return Err(error.clone());
            }
            self.synced.wait_for(&mut durable, FAILURE_LOOK);
        }
        Ok(())
    }

    /// Reads what is durable, from the request on that holds `from`.
    pub fn read(&self, from: u64) -> JournalReader<FileLogStorage> {
        self.journal.read(from)
    }

    /// Where a source inside of the process goes on, by its rows that are durable.
    pub fn position(&self, source: &str) -> Option<String> {
        self.durable.lock().positions.newest(source).map(str::to_owned)
    }

    /// Positions that are in records alone: to be saved before any of these are deleted.
    pub fn unsaved_positions(&self) -> Option<SavedPositions> {
        let mut durable = self.durable.lock();
        durable.positions.are_unsaved().then(|| durable.positions.to_save(Some(self.journal.incarnation())))
    }

    /// What [`Sequencer::unsaved_positions`] gave could not be saved.
    pub fn positions_not_saved(&self) {
        self.durable.lock().positions.not_saved();
    }

    /// Deletes rows below an offset.
    pub fn trim(&self, below: u64) -> Result<()> {
        self.journal.trim(below)
    }

    /// The journal thread: writes what has come, in one go, and makes it durable, until [`Sequencer::close`].
    pub fn run(&self) {
        self.write_all();
        self.durable.lock().ended = true;
        self.written.notify_one();
    }

    /// Whether [`Sequencer::sync_behind`] needs a thread.
    pub fn syncs_behind(&self) -> bool {
        self.durability == Durability::Buffered
    }

    /// The thread that syncs what the other has written, until that ends.
    pub fn sync_behind(&self) {
        loop {
            let mut durable = self.durable.lock();
            while durable.offset >= durable.written && !durable.ended {
                self.written.wait(&mut durable);
            }
            if durable.failed.is_some() || durable.offset >= durable.written {
                return;
            }
            drop(durable);
            if let Err(error) = self.sync() {
                self.fail(error);
                return;
            }
        }
    }

    fn write_all(&self) {
        let mut frames = Vec::new();
        let mut warned = false;
        loop {
            let (end, held) = {
                let mut state = self.state.lock();
                while state.buffer.is_empty() && !state.closed {
                    self.work.wait(&mut state);
                }
                if state.buffer.is_empty() {
                    return;
                }
                std::mem::swap(&mut frames, &mut state.buffer);
                // Workers that had no rows in what is written now: their positions and watermarks move too.
                let deliveries = state.router.tell();
                self.hand_out(deliveries, None, None);
                (state.router.next_offset(), std::mem::take(&mut state.held))
            };
            if let Err(error) = self.write(&frames, end) {
                self.fail(error);
                return;
            }
            drop(held);
            frames.clear();
            if frames.capacity() > KEPT_BUFFER_BYTES {
                frames.shrink_to(KEPT_BUFFER_BYTES);
            }
            let prepared = self.journal.prepare_ahead();
            if let (Err(full), false) = (&prepared, warned) {
                tracing::warn!(
                    "the journal can't prepare its next segment; requests are refused once this one is full: {}",
                    full.error
                );
            }
            warned = prepared.is_err();
        }
    }

    fn write(&self, frames: &[u8], end: u64) -> Result<()> {
        self.journal.append(frames, end)?;
        match self.durability {
            Durability::Fsync => self.sync(),
            Durability::Buffered => {
                let mut durable = self.durable.lock();
                durable.written = end;
                self.answer(&mut durable, end);
                self.written.notify_one();
                Ok(())
            }
        }
    }

    fn sync(&self) -> Result<()> {
        let offset = self.journal.sync()?;
        let mut durable = self.durable.lock();
        durable.offset = offset;
        durable.positions.durable(offset);
        self.answer(&mut durable, offset);
        self.synced.notify_all();
        Ok(())
    }

    fn answer(&self, durable: &mut Durable, below: u64) {
        for answering in durable.waiting.take(below) {
            if let Some(request) = answering.request {
                self.shared.requests.answered(request);
            }
            let _ = answering.client.send(());
        }
    }

    /// What was not made durable never will be: nobody may be answered, the process must end.
    fn fail(&self, error: Error) {
        let mut durable = self.durable.lock();
        durable.failed = Some(error.clone());
        durable.waiting.fail().for_each(drop);
        self.synced.notify_all();
        drop(durable);
        self.state.lock().closed = true;
        self.work.notify_all();
        self.shared.fail(error.context("writing the journal"));
    }

    /// Takes nothing any more, and ends the journal thread once its buffer is written. Returns the journal's final end.
    pub fn close(&self) -> u64 {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
        state.router.next_offset()
    }
}
