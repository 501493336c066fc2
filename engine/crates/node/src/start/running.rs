//! A process that runs: what it looks at, and how it ends.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use streamjob_core::trim::Trim;
use streamjob_core::{Error, Result};

use super::{END_LIMIT, END_LOOK, Running};
use crate::inbox::Message;
use crate::port::Output;
use crate::shared::WorkerFigures;
use crate::topics::LAST_LIMIT;

impl Running {
    /// Whether every split but the push source's journal is read to its end.
    pub fn replayed(&self) -> bool {
        let journal = self.sequencer.as_ref().map(|sequencer| usize::from(sequencer.split()));
        self.finished_but(journal)
    }

    /// Whether every split is read to its end.
    pub fn finished(&self) -> bool {
        self.finished_but(None)
    }

    fn finished_but(&self, except: Option<usize>) -> bool {
        (0..self.shared.splits.len())
            .filter(|split| Some(*split) != except)
            .all(|split| self.figures(|figures| figures.finished.get(split).copied().unwrap_or(false)))
    }

    /// Whether nothing is left to do since the end of time was announced.
    pub fn is_complete(&self) -> bool {
        self.figures(|figures| figures.end_of_time && figures.at_rest)
    }

    /// Whether nothing is left to do since the workers were told to stop.
    fn is_at_rest(&self) -> bool {
        self.figures(|figures| figures.stopping && figures.at_rest)
    }

    fn figures(&self, holds: impl Fn(&WorkerFigures) -> bool) -> bool {
        self.shared.figures.iter().all(|figures| holds(&figures.lock()))
    }

    /// Deletes from the journals what every shard has committed (I3). What can't be deleted now is at the next start.
    pub fn trim(&mut self) {
        self.trims.extend(self.shared.trimmer.lock().decide());
        if self.trims.is_empty() {
            return;
        }
        if let Err(error) = self.save_positions() {
            tracing::warn!("the journal is not trimmed before the positions of sources are saved: {error}");
            return;
        }
        for trim in std::mem::take(&mut self.trims) {
            if let Err(error) = self.trim_one(&trim) {
                tracing::warn!("trimming the journal: {error}");
            }
        }
    }

    /// Positions that only records say which may be deleted now.
    fn save_positions(&self) -> Result<()> {
        let Some(sequencer) = &self.sequencer else { return Ok(()) };
        let Some(positions) = sequencer.unsaved_positions() else { return Ok(()) };
        self.shared.state.save_positions(&positions).inspect_err(|_| sequencer.positions_not_saved())
    }

    fn trim_one(&mut self, trim: &Trim) -> Result<()> {
        let (Trim::Below { split, .. } | Trim::Delete { split }) = trim;
        let log = self.logs.iter().position(|(log, _)| *self.shared.splits[usize::from(*log)].id == **split);
        match (trim, log) {
            (Trim::Below { offset, .. }, Some(log)) => self.logs[log].1.trim(*offset),
            (Trim::Below { offset, .. }, None) => self.sequencer.as_ref().map_or(Ok(()), |sequencer| sequencer.trim(*offset)),
            (Trim::Delete { .. }, Some(log)) => self.logs.swap_remove(log).1.delete(),
            (Trim::Delete { .. }, None) => Ok(()),
        }
    }

    /// Takes no rows any more and asks the workers to finish those that they have. Returns once nobody brings rows.
    pub fn begin_stop(&mut self) {
        self.shared.stop();
        let deadline = Instant::now() + END_LIMIT;
        self.feeders.drain(..).for_each(|feeder| {
            join_until(feeder, deadline);
        });
        if let Some(sequencer) = &self.sequencer {
            sequencer.close();
        }
        self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::Stop));
    }

    /// Waits until the workers have nothing left, at most for `limit`.
    pub async fn rest(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.is_at_rest() && self.shared.failure().is_none() && Instant::now() < deadline {
            tokio::time::sleep(END_LOOK).await;
        }
    }

    /// Commits what changed and ends all threads, in the order of who needs whom. No sink may confirm anything any more.
    pub fn end(self) -> Result<()> {
        let deadline = Instant::now() + END_LIMIT;
        self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::End));
        self.shared.end();
        for (number, worker) in self.workers.into_iter().enumerate() {
            if !join_until(worker, deadline) {
                return Err(Error::outside(format!(
                    "worker {number} did not end within {END_LIMIT:?}: a user function or whoever reads stdout does not return; \
                     nothing that was acknowledged is lost, the next start goes on from the last commit"
                )));
            }
        }
        // The committers end with the workers, who send to them, and the journal has nothing to wait for.
        let stuck = |thread| Error::outside(format!("the {thread} did not end within {END_LIMIT:?}; look at the disk"));
        if self.committers.into_iter().any(|committer| !join_until(committer, deadline)) {
            return Err(stuck("committer"));
        }
        if self.journal.into_iter().any(|journal| !join_until(journal, deadline)) {
            return Err(stuck("journal"));
        }
        let shown_until = Instant::now() + LAST_LIMIT;
        for source in &self.topics {
            // Tools see where the job stopped. A cluster that does not answer has been waited for long enough.
            if source.connection.is_connected() {
                match self.shared.reopens() {
                    true => drop(source.show(&self.shared)),
                    false => source.show_last(&self.shared, shown_until),
                }
            }
        }
        for output in &self.outputs {
            if let Output::Stdout(stdout) = output {
                while !stdout.has_written(stdout.given())? && Instant::now() < deadline {
                    std::thread::sleep(END_LOOK);
                }
            }
        }
        Ok(())
    }
}

/// False if the thread has not ended by then: it is left alone.
fn join_until(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(END_LOOK);
    }
    // A panic has been printed; what it left undone is found by whoever waits for it.
    thread.join().is_ok()
}
