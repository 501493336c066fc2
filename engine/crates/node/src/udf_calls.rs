//! Calls of user functions that may end the process: noted while they run, isolated where an earlier process died of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use streamjob_core::processor::Processor;
use streamjob_core::udf::record::{CallRecord, IsolatedRows, NO_CALL};
use streamjob_core::udf::suspects::SavedSuspects;
use streamjob_core::{Error, Result};
use streamjob_state::{CallNotes, UdfCalls};

use crate::shared::Shared;

/// What the workers of one process share of it. Suspects belong to the process: the next start may have other workers.
pub struct CallWatch {
    directory: UdfCalls,
    suspects: SavedSuspects,
    /// Workers whose shards have not committed all suspects.
    waiting: AtomicUsize,
}

impl CallWatch {
    /// `None` for jobs without functions, and where nothing can be noted: such a job runs all the same.
    pub fn open(shared: &Shared) -> Option<Arc<CallWatch>> {
        if shared.plan.config.udfs.is_empty() {
            return None;
        }
        let opened = UdfCalls::open(&shared.state).and_then(|directory| Ok((directory.take_up()?, directory)));
        let (suspects, directory) = opened.map_err(|error| not_noted(&error)).ok()?;
        if !suspects.calls.is_empty() {
            let mut udfs: Vec<&str> = suspects.calls.iter().map(|call| &*call.udf).collect();
            udfs.sort_unstable();
            udfs.dedup();
            tracing::warn!(
                udfs = udfs.join(", "),
                deaths = suspects.deaths,
                "the process died while these functions ran: until commits have passed them, the rows of then (from the second death \
                 on, all rows) are called in a process of their own"
            );
        }
        Some(Arc::new(CallWatch { directory, suspects, waiting: AtomicUsize::new(shared.inboxes.len()) }))
    }

    /// Watches a worker's calls.
    pub fn watch(self: Arc<CallWatch>, worker: usize, processor: &mut Processor) {
        let notes = self.directory.notes(worker).map_err(|error| not_noted(&error)).ok();
        let record = WorkerCalls { watch: self.clone(), notes };
        processor.note_calls(Box::new(record), &self.suspects);
    }

    /// One worker has passed all suspects; with the last one they are forgotten.
    fn passed(&self) -> Result<()> {
        match self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 && self.suspects != SavedSuspects::default() {
            true => self.directory.forget(),
            false => Ok(()),
        }
    }
}

fn not_noted(error: &Error) {
    tracing::warn!("a function that ends this process will end the next one, too, as its calls are not noted: {error}");
}

/// One worker's calls.
struct WorkerCalls {
    watch: Arc<CallWatch>,
    /// `None` once a note could not be written.
    notes: Option<CallNotes>,
}

impl WorkerCalls {
    fn write(&mut self, note: &[u8]) {
        if let Some(Err(error)) = self.notes.as_ref().map(|notes| notes.write(note)) {
            not_noted(&error);
            self.notes = None;
        }
    }
}

impl CallRecord for WorkerCalls {
    fn begin(&mut self, note: &[u8]) {
        self.write(note);
    }

    fn end(&mut self) {
        self.write(&NO_CALL);
    }

    fn isolated(&mut self, isolated: &IsolatedRows<'_>) {
        let IsolatedRows { udf, rows, failed, deaths } = isolated;
        match deaths {
            0 => tracing::info!(udf, rows, failed, "rows were called in a process of their own, which has lived"),
            _ => tracing::warn!(udf, rows, failed, deaths, "rows were called in a process of their own, which they have ended"),
        }
    }

    fn passed(&mut self) {
        if let Err(error) = self.watch.passed() {
            tracing::warn!("the next start will isolate calls that have been committed: {error}");
        }
    }

    fn all_passed(&self) -> bool {
        self.watch.waiting.load(Ordering::Acquire) == 0
    }
}
