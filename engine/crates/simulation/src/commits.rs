//! The committer: the steps of each commit, one after the other, with all the time in the world between them.

use streamjob_core::commit::CommitStep;
use streamjob_core::trim::Trim;

use crate::events::NodeEvent;
use crate::rows::MS;
use crate::world::{Done, Stop, World, broken, violation};

/// A store whose disk is full is tried again after this long.
const ROOM_LOOK_US: i64 = 100 * MS;
/// A commit is interrupted by a crash once in so many steps.
const STEPS_A_CRASH: u64 = 120;

impl World {
    pub fn commit_step(&mut self, number: u64) -> Done {
        self.maybe_crash(STEPS_A_CRASH)?;
        let commit = self.node().commits.get_mut(&number).expect("a commit lives as long as its process");
        let Some(step) = commit.todo.front().copied() else { return Ok(()) };
        let (shard, epoch) = (commit.frozen.shard, commit.frozen.epoch);
        let done = match step {
            CommitStep::SyncSegments => self.sync_segments(number)?,
            CommitStep::AwaitJournal => self.await_journal(number),
            CommitStep::WriteStore => self.write_store(number)?,
            CommitStep::PublishSegments => self.publish_segments(number)?,
            CommitStep::Report => return self.report_commit(number),
        };
        if done {
            self.note(|| format!("commit {epoch} of shard {shard}: {step:?} is done"));
            if let Some(commit) = self.node().commits.get_mut(&number) {
                commit.todo.pop_front();
            }
            self.maybe_crash(STEPS_A_CRASH)?;
        }
        let waits = self.node().commits.get(&number).is_some_and(|commit| commit.waits_for_room);
        let wait_us = if waits { ROOM_LOOK_US } else { self.disk_us() };
        self.node_after(wait_us, NodeEvent::Commit(number));
        Ok(())
    }

    fn sync_segments(&mut self, number: u64) -> Done<bool> {
        self.maybe_fail_segment("sync")?;
        let node = self.node.as_ref().expect("only a living process commits");
        let frozen = &node.commits[&number].frozen;
        for segment in &frozen.segments {
            let key = (self.setup.places[segment.sink], frozen.shard, segment.number);
            self.segments.sync(key, segment.rows).map_err(broken("I1"))?;
        }
        Ok(true)
    }

    /// Whether the journal is durable up to the commit's positions.
    fn await_journal(&mut self, number: u64) -> bool {
        let node = self.node.as_ref().expect("only a living process commits");
        let live = &*node.ingest.id;
        let position = node.commits[&number].frozen.positions().find(|(split, _)| *split == live);
        position.is_none_or(|(_, position)| position <= node.ingest.journal.durable_offset())
    }

    /// The atomic write takes time; what a crash leaves of it is for the store to say.
    fn write_store(&mut self, number: u64) -> Done<bool> {
        let full = self.stores_full && (self.random.percent(50) || !self.node().commits[&number].writing);
        let node = self.node.as_mut().expect("only a living process commits");
        let commit = node.commits.get_mut(&number).expect("a commit lives as long as its process");
        let frozen = &commit.frozen;
        let store = &self.stores[usize::from(frozen.shard)];
        let begun = std::mem::replace(&mut commit.writing, !full);
        commit.waits_for_room = full;
        if full {
            store.abandon();
            self.report.full_commits += 1;
            self.note(|| format!("commit {number} waits for room"));
            return Ok(false);
        }
        if !begun {
            let owned = self.truth.owned(frozen.shard, frozen.positions());
            if frozen.meta.ledger.taken() != owned {
                let counted = frozen.meta.ledger.taken();
                return violation(format!("I6: shard {} counts {counted} rows and has taken {owned}", frozen.shard));
            }
            if frozen.meta.max_event_time_us != self.truth.max_time_us(frozen.positions()) {
                return violation(format!("I1: shard {} has a wrong latest time", frozen.shard));
            }
            let written = frozen.write_set(&**store, &mut node.writes);
            written.map_err(|error| Stop::Violation(error.to_string()))?;
            store.begin(node.writes.clone());
            return Ok(false);
        }
        store.finish().expect("memory");
        let positions: Vec<(String, u64)> = frozen.positions().map(|(split, position)| (split.to_owned(), position)).collect();
        self.truth.committed(frozen.shard, commit.steps, positions.into_iter());
        self.report.commits += 1;
        let (shard, max_us) = (frozen.shard, frozen.meta.max_event_time_us);
        self.history_committed(shard, max_us)?;
        Ok(true)
    }

    fn publish_segments(&mut self, number: u64) -> Done<bool> {
        self.maybe_fail_segment("rename")?;
        let node = self.node.as_ref().expect("only a living process commits");
        let frozen = &node.commits[&number].frozen;
        for segment in &frozen.segments {
            let key = (self.setup.places[segment.sink], frozen.shard, segment.number);
            self.segments.publish(key).map_err(broken("I8"))?;
        }
        Ok(true)
    }

    /// A disk that fails for good ends the process: the next start makes of the commit what the store has of it.
    fn maybe_fail_segment(&mut self, what: &str) -> Done {
        match std::mem::take(&mut self.segments_fail) {
            true => Err(Stop::Crash(format!("a segment's {what} failed"))),
            false => Ok(()),
        }
    }

    /// The worker learns of it, exactly-once batches leave, and what nobody needs any more goes.
    fn report_commit(&mut self, number: u64) -> Done {
        let node = self.node();
        let mut commit = node.commits.remove(&number).expect("a commit is reported once");
        let (shard, epoch) = (commit.frozen.shard, commit.frozen.epoch);
        commit.frozen.requests.iter().for_each(|request| node.ingest.requests.committed(request));
        node.trimmer.committed(shard, commit.frozen.positions());
        let (sends, buffers) = (std::mem::take(&mut commit.frozen.sends), commit.frozen.take_buffers());
        self.with_processor(commit.worker, |processor, port| {
            processor.reuse(buffers);
            processor.committed(shard, epoch, &sends, port)
        })?;
        self.note(|| format!("commit {epoch} of shard {shard} is reported"));
        self.trim()?;
        self.pump_lanes();
        Ok(())
    }

    fn trim(&mut self) -> Done {
        for decision in self.node().trimmer.decide() {
            self.report.trims += 1;
            match decision {
                Trim::Below { split, offset } => {
                    self.check_trim(&split, offset)?;
                    let node = self.node();
                    let outcome = match node.logs.iter().find(|feed| *feed.id == *split) {
                        Some(feed) => feed.log.as_ref().map_or(Ok(()), |log| log.trim(offset)),
                        None => node.ingest.journal.trim(offset),
                    };
                    outcome.map_err(|error| self.failed("I3", &error))?;
                }
                Trim::Delete { split } => self.delete_log(&split)?,
            }
        }
        Ok(())
    }

    fn delete_log(&mut self, split: &str) -> Done {
        let end = self.truth.splits.get(split).map_or(0, |split| split.end);
        self.check_trim(split, end)?;
        let feed = self.node().logs.iter_mut().find(|feed| *feed.id == *split);
        if let Some(log) = feed.and_then(|feed| feed.log.take()) {
            log.delete().map_err(|error| self.failed("I3", &error))?;
        }
        if let Some(split) = self.truth.splits.get_mut(split) {
            split.deleted = true;
        }
        self.note(|| format!("{split} is deleted"));
        Ok(())
    }

    /// I3: nothing goes that a shard has not committed.
    fn check_trim(&self, split: &str, offset: u64) -> Done {
        for (shard, log) in self.truth.logs.iter().enumerate() {
            let position = log.positions.get(split).copied().unwrap_or(0);
            if position < offset {
                return violation(format!("I3: {split} is trimmed below {offset}, and shard {shard} has committed {position}"));
            }
        }
        Ok(())
    }
}
