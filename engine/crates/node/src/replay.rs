//! What earlier starts journaled and no commit has: given to the workers again, before anything new is taken.

use std::sync::Arc;

use streamjob_core::Result;
use streamjob_core::idempotency::answer_of;
use streamjob_core::journal::JournalReader;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::select;
use streamjob_state::FileLogStorage;

use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;
use crate::telemetry::Ingest;

/// The journal of an earlier start, from the lowest committed position on.
pub struct Replay {
    pub split: SplitIndex,
    pub reader: JournalReader<FileLogStorage>,
    pub end_offset: u64,
}

/// Replays journals one after the other, then opens the gate for new rows. A failure ends the process.
pub fn run(shared: &Shared, replays: Vec<Replay>) {
    for replay in replays {
        let split = replay.split;
        match replay.run(shared) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let id = &shared.splits[usize::from(split)].id;
                return shared.fail(error.context(format!("replaying the journal {id}")));
            }
        }
    }
    shared.open_gate();
}

impl Replay {
    /// False if the process stops first.
    fn run(mut self, shared: &Shared) -> Result<bool> {
        let id = &shared.splits[usize::from(self.split)].id;
        let recovery = shared.traces.begin_recovery(id);
        let mut rows = 0usize;
        while let Some(record) = self.reader.next_record()? {
            rows += record.batch.rows();
            let stop = || shared.is_stopping();
            let credits = shared.credits.take_blocking(record.batch.rows(), record.batch.memory_bytes(), stop);
            let Some(credits) = credits.filter(|_| !stop()) else { return Ok(false) };
            let hold: Arc<dyn Hold> = Arc::new(credits);
            let traced = recovery.as_ref().and_then(|recovery| recovery.begin(record.first_offset));
            let trace = traced.as_ref().map(Ingest::trace);
            shared.count_received(self.split, record.first_offset, &record.batch);
            let end_offset = record.end_offset();
            let request = record.request.map(|request| Arc::new(answer_of(&request, id, record.first_offset)));
            if let Some(request) = request.as_ref().filter(|request| !shared.has_committed(self.split, &request.id, end_offset)) {
                shared.requests.answered(request.clone());
            }
            let _routing = trace.map(|trace| trace.span("route"));
            for (worker, rows) in select(&record.batch, &shared.worker_of, shared.inboxes.len()).into_iter().enumerate() {
                let mut delivery = Delivery::new(self.split, record.first_offset, record.batch.clone(), rows);
                delivery.request.clone_from(&request);
                shared.inboxes[worker].put(Message::Rows(Parcel { delivery, trace: trace.cloned(), _hold: Some(hold.clone()) }));
            }
        }
        for inbox in &shared.inboxes {
            inbox.put(Message::Status { split: self.split, at: self.end_offset, status: SplitStatus::Finished });
        }
        tracing::info!(rows, split = &**id, "replayed a journal");
        Ok(true)
    }
}
