//! What earlier starts journaled and no commit has: given to the workers again, before anything new is taken.

use std::sync::Arc;
use std::time::Duration;

use streamjob_core::Result;
use streamjob_core::idempotency::answer_of;
use streamjob_core::journal::RecoveredLog;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::select;
use streamjob_state::FileLogStorage;

use crate::inbox::{Hold, Message, Parcel};
use crate::shared::Shared;

/// Full queues are looked at again after this long.
const FULL_LOOK: Duration = Duration::from_millis(1);

/// Replays every log from the lowest committed position; each then has finished. `starts`: that position, by split.
pub fn replay(shared: &Arc<Shared>, logs: &[RecoveredLog<FileLogStorage>], starts: &[u64]) -> Result<()> {
    for log in logs {
        let suffix = format!("@{}", log.incarnation());
        let split = shared.splits.iter().position(|split| split.id.ends_with(&suffix));
        let split = split.expect("each recovered log is a split") as SplitIndex;
        let mut reader = log.read(starts[usize::from(split)].min(log.end_offset()))?;
        let mut rows = 0usize;
        while let Some(record) = reader.next_record()? {
            rows += record.batch.rows();
            let Some(hold) = wait_for_credits(shared, record.batch.rows(), record.batch.memory_bytes()) else { return Ok(()) };
            shared.count_received(split, record.first_offset, &record.batch);
            let id = &shared.splits[usize::from(split)].id;
            let request = record.request.map(|request| Arc::new(answer_of(&request, id, record.first_offset)));
            if let Some(request) = &request {
                shared.requests.answered(request.clone());
            }
            for (worker, rows) in select(&record.batch, &shared.worker_of, shared.inboxes.len()).into_iter().enumerate() {
                let mut delivery = Delivery::new(split, record.first_offset, record.batch.clone(), rows);
                delivery.request.clone_from(&request);
                shared.inboxes[worker].put(Message::Rows(Parcel { delivery, _hold: Some(hold.clone()) }));
            }
        }
        for inbox in &shared.inboxes {
            inbox.put(Message::Status { split, at: log.end_offset(), status: SplitStatus::Finished });
        }
        tracing::info!(rows, incarnation = %log.incarnation(), cut_bytes = log.cut_bytes(), "replayed a journal");
    }
    Ok(())
}

/// `None` if the process stops first.
fn wait_for_credits(shared: &Shared, rows: usize, bytes: usize) -> Option<Arc<dyn Hold>> {
    loop {
        if let Some(credits) = shared.credits.try_take(rows, bytes) {
            return Some(Arc::new(credits));
        }
        if shared.is_stopping() {
            return None;
        }
        std::thread::sleep(FULL_LOOK);
    }
}
