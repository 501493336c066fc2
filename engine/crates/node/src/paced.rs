//! Files replayed in event time: a thread that lets rows out when their time has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamjob_core::Result;
use streamjob_core::batch::RowBatch;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::select;

use crate::file_rows::FileRows;
use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;

/// Bytes read at once: rows wait in here until they are due.
const CHUNK_BYTES: usize = 256 << 10;
/// Rows that are due within this time of each other go together.
const SLICE: Duration = Duration::from_millis(10);
/// Waiting for a row ends this often to see whether the process stops.
const LOOK: Duration = Duration::from_millis(50);

/// One file, its place, and its speed: event time over wall time.
pub struct Paced {
    pub shared: Arc<Shared>,
    pub split: SplitIndex,
    pub rows: Arc<FileRows>,
    pub offset: u64,
    pub speed: f64,
}

impl Paced {
    /// Replays to the end of the file, or until the process stops.
    pub fn run(mut self) {
        if let Err(error) = self.replay() {
            self.shared.fail(error.context(format!("replaying {}", self.rows.file.path().display())));
        }
    }

    fn replay(&mut self) -> Result<()> {
        let mut buffer = Vec::new();
        let mut start: Option<(Instant, i64)> = None;
        while let Some(chunk) = self.rows.file.read_chunk(self.offset, CHUNK_BYTES, &mut buffer)? {
            let rows = self.rows.decode(&chunk, &buffer)?;
            let mut row = 0;
            let mut from = 0;
            while from < chunk.span {
                if row < rows.rows() {
                    let (began, first_us) = *start.get_or_insert((Instant::now(), rows.time_us[row]));
                    if !self.wait_until(began + self.wall(rows.time_us[row].saturating_sub(first_us))) {
                        return Ok(());
                    }
                    row = self.due(&rows, row, began, first_us);
                }
                let to = if row < rows.rows() { rows.relative_offset(row) } else { chunk.span };
                if !self.send(self.offset + from, rows.cut(from, to)) {
                    return Ok(());
                }
                from = to;
            }
            self.offset += chunk.span;
        }
        for inbox in &self.shared.inboxes {
            inbox.put(Message::Status { split: self.split, at: self.offset, status: SplitStatus::Finished });
        }
        Ok(())
    }

    fn wall(&self, event_us: i64) -> Duration {
        Duration::from_secs_f64((event_us.max(0) as f64 / 1e6 / self.speed).min(1e9))
    }

    /// The first row behind `row` that is not due with it.
    fn due(&self, times: &RowBatch, row: usize, began: Instant, first_us: i64) -> usize {
        let until = Instant::now() + SLICE;
        let is_due = |at: &usize| began + self.wall(times.time_us[*at].saturating_sub(first_us)) <= until;
        (row + 1..times.rows()).find(|at| !is_due(at)).unwrap_or(times.rows())
    }

    /// False if the process stops first.
    fn wait_until(&self, due: Instant) -> bool {
        loop {
            if self.shared.is_stopping() {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// False if the process stops first.
    fn send(&self, offset: u64, rows: RowBatch) -> bool {
        let ingest = self.shared.traces.begin(None);
        let trace = ingest.as_ref().map(|ingest| ingest.trace().clone());
        let batch = Arc::new(rows);
        let _routing = trace.as_ref().map(|trace| trace.span("route"));
        let stop = || self.shared.is_stopping();
        while self.shared.is_disk_full() && !stop() {
            std::thread::sleep(LOOK);
        }
        let Some(credits) = self.shared.credits.take_blocking(batch.rows(), batch.memory_bytes(), stop) else { return false };
        let credits: Arc<dyn Hold> = Arc::new(credits);
        self.shared.count_received(self.split, offset, &batch);
        for (worker, rows) in select(&batch, &self.shared.worker_of, self.shared.inboxes.len()).into_iter().enumerate() {
            let delivery = Delivery::new(self.split, offset, batch.clone(), rows);
            let parcel = Parcel { delivery, trace: trace.clone(), _hold: Some(credits.clone()) };
            self.shared.inboxes[worker].put(Message::Rows(parcel));
        }
        true
    }
}
