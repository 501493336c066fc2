//! The threads that write commits, apart from the workers. In which order is for [`streamjob_core::commit`] to say. A shard
//! has one commit under way, so that two of its own never meet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use streamjob_connectors::file_sink::{SealedSegment, SegmentDirectory};
use streamjob_core::checkpoint::MAX_COMMITS_IN_FLIGHT;
use streamjob_core::commit::{CommitStep, steps};
use streamjob_core::shard::Frozen;
use streamjob_core::store::{ShardStore, WriteSet};
use streamjob_core::{Error, Result, crash};

use crate::inbox::Message;
use crate::port::Stdout;
use crate::sequencer::Sequencer;
use crate::shared::{Gate, Shared};

/// A store whose disk is full is tried again after this long.
const ROOM_LOOK: Duration = Duration::from_millis(250);
/// What a stream was given is looked for this often.
const STREAM_LOOK: Duration = Duration::from_micros(500);

/// One thread writes what one worker changes; more only wait for the same disk.
const MAX_COMMITTERS: usize = 2;

/// At the end of the process a stream that takes nothing is waited for so long.
const STREAM_LIMIT: Duration = Duration::from_secs(2);

/// One commit, taken up by a worker.
pub struct Commit {
    pub frozen: Frozen,
    pub segments: Vec<(SegmentDirectory, SealedSegment)>,
    /// Streams, with how much of them must be out first.
    pub streams: Vec<(Arc<Stdout>, u64)>,
}

/// A queue that holds every commit that may be under way, so that a worker never waits to put one in.
pub fn channel(workers: usize) -> (Sender<Commit>, Receiver<Commit>) {
    bounded(workers * MAX_COMMITS_IN_FLIGHT)
}

/// How many threads commit for so many workers.
pub fn threads(workers: usize) -> usize {
    workers.min(MAX_COMMITTERS)
}

/// Writes commits until all senders are gone. The first failure ends the process.
pub fn run(shared: &Arc<Shared>, sequencer: Option<&Sequencer>, commits: &Receiver<Commit>) {
    let mut writes = WriteSet::default();
    for commit in commits {
        let shard = commit.frozen.shard;
        if let Err(error) = write(shared, sequencer, commit, &mut writes) {
            return shared.fail(error.context(format!("committing shard {shard}")));
        }
    }
}

/// Takes one commit through its steps. Of `writes` only the memory is used.
fn write(shared: &Shared, sequencer: Option<&Sequencer>, commit: Commit, writes: &mut WriteSet) -> Result<()> {
    let started = Instant::now();
    let Commit { mut frozen, mut segments, streams } = commit;
    let shard = frozen.shard;
    streams.iter().try_for_each(|(stdout, given)| wait_for_stream(shared, stdout, *given))?;
    for step in steps() {
        match step {
            CommitStep::SyncSegments => {
                segments.iter().try_for_each(|(_, segment)| segment.sync())?;
                segments.iter().try_for_each(|(directory, _)| directory.sync())?;
            }
            CommitStep::AwaitJournal => {
                if let Some(sequencer) = sequencer {
                    frozen.positions().try_for_each(|(split, position)| sequencer.wait_durable(split, position))?;
                }
            }
            CommitStep::WriteStore => {
                crash::point("commit-before-write");
                write_store(shared, &frozen, writes)?;
                crash::point("commit-before-publish");
            }
            CommitStep::PublishSegments => {
                segments.drain(..).try_for_each(|(_, segment)| segment.publish())?;
                crash::point("commit-after-publish");
            }
            CommitStep::Report => {
                shared.trimmer.lock().committed(shard, frozen.positions());
                shared.requests.committed(&frozen.requests);
                let worker = usize::from(shared.worker_of[usize::from(shard)]);
                let sends = std::mem::take(&mut frozen.sends);
                let buffers = frozen.take_buffers();
                shared.inboxes[worker].put(Message::Committed { shard, epoch: frozen.epoch, sends, buffers });
            }
        }
    }
    if !segments.is_empty() {
        return Err(Error::engine("a commit's segments were not made visible"));
    }
    let figures = &shared.commit_figures;
    figures.commits.fetch_add(1, Ordering::Relaxed);
    figures.last_duration_us.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
    figures.last_at_us.store(shared.uptime_us(), Ordering::Relaxed);
    shared.metrics.commit_duration.record(started.elapsed().as_secs_f64());
    Ok(())
}

/// The one atomic write. While its disk is full or behind it waits: nothing was written, and the same write is whole later.
fn write_store(shared: &Shared, frozen: &Frozen, writes: &mut WriteSet) -> Result<()> {
    let store = shared.stores.get(frozen.shard)?;
    if *shared.gate.borrow() != Gate::Starting {
        store.allow_compaction()?;
    }
    let mut waits = false;
    let outcome = loop {
        frozen.write_set(&**store, writes)?;
        match store.commit(writes) {
            Ok(()) => break Ok(writes.bytes() as u64),
            Err(error) if error.is_disk_full() && !shared.is_ending() => {
                if !std::mem::replace(&mut waits, true) {
                    shared.waits_for_room(&error);
                }
                std::thread::sleep(ROOM_LOOK);
            }
            // The store has waited itself, for longer; others may have room, and requests wait in their queues.
            Err(error) if error.is_stalled() && !shared.is_ending() => {
                tracing::warn!(actor = error.actor().as_str(), retryable = true, "a commit is tried again: {error}");
            }
            Err(error) => break Err(error),
        }
    };
    if waits {
        shared.has_room();
    }
    shared.commit_figures.bytes.fetch_add(outcome?, Ordering::Relaxed);
    Ok(())
}

/// At-least-once: what a stream was given is out before a commit forgets the rows that made it.
fn wait_for_stream(shared: &Shared, stdout: &Stdout, given: u64) -> Result<()> {
    let mut ending: Option<Instant> = None;
    while !stdout.has_written(given)? {
        if shared.is_ending() && ending.get_or_insert_with(Instant::now).elapsed() > STREAM_LIMIT {
            return Err(Error::outside("stdout takes no more rows; what is not committed is processed again by the next start"));
        }
        std::thread::sleep(STREAM_LOOK);
    }
    Ok(())
}
