//! Files read by the workers themselves: whoever has nothing else to do takes the next chunk, decodes it, and hands the
//! rows of other workers over. No thread of its own, no queue between decoding and work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use streamjob_core::Result;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::route::select;

use crate::file_rows::FileRows;
use crate::inbox::{Message, Parcel};
use crate::shared::Shared;

/// Bytes of a chunk, or one block of a file that has larger ones: small enough for the cache, large enough that its cost
/// spreads.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks under way for each worker; also what bounds the reordering.
pub const CHUNKS_A_WORKER: usize = 3;

/// One file that is replayed as fast as it goes.
pub struct Feed {
    split: SplitIndex,
    rows: Arc<FileRows>,
    state: Mutex<FeedState>,
    under_way: Arc<AtomicUsize>,
}

struct FeedState {
    offset: u64,
    ended: bool,
}

/// Counts a chunk as under way until the last worker is done with it.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Feed {
    pub fn new(split: SplitIndex, rows: Arc<FileRows>, offset: u64) -> Feed {
        let state = Mutex::new(FeedState { offset, ended: false });
        Feed { split, rows, state, under_way: Arc::new(AtomicUsize::new(0)) }
    }

    /// Takes one chunk, if there is one and not too many are under way. Rows of worker `mine` come back, those of others go
    /// to their inboxes. `None`: nothing to do at the moment.
    pub fn take(&self, shared: &Shared, mine: usize, buffer: &mut Vec<u8>) -> Result<Option<Parcel>> {
        let chunk = {
            let mut state = self.state.lock();
            if state.ended || self.under_way.load(Ordering::Acquire) >= CHUNKS_A_WORKER * shared.inboxes.len() {
                return Ok(None);
            }
            let Some(chunk) = self.rows.file.read_chunk(state.offset, CHUNK_BYTES, buffer)? else {
                state.ended = true;
                for inbox in &shared.inboxes {
                    inbox.put(Message::Status { split: self.split, at: state.offset, status: SplitStatus::Finished });
                }
                return Ok(None);
            };
            self.under_way.fetch_add(1, Ordering::AcqRel);
            state.offset += chunk.span;
            chunk
        };
        let offset = chunk.from;
        let under_way = Arc::new(UnderWay(self.under_way.clone()));
        let ingest = shared.traces.begin(None);
        let trace = ingest.as_ref().map(|ingest| ingest.trace().clone());
        let parsing = trace.as_ref().map(|trace| trace.span("parse"));
        let batch = Arc::new(self.rows.decode(&chunk, buffer)?);
        drop(parsing);
        let _routing = trace.as_ref().map(|trace| trace.span("route"));
        shared.count_received(self.split, offset, &batch);
        let mut kept = None;
        for (worker, rows) in select(&batch, &shared.worker_of, shared.inboxes.len()).into_iter().enumerate() {
            let delivery = Delivery::new(self.split, offset, batch.clone(), rows);
            let parcel = Parcel { delivery, trace: trace.clone(), _hold: Some(under_way.clone()) };
            if worker == mine { kept = Some(parcel) } else { shared.inboxes[worker].put(Message::Rows(parcel)) }
        }
        Ok(kept)
    }
}
