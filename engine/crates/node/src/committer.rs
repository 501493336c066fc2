//! The thread that writes commits, apart from the workers. In which order is for [`streamjob_core::commit`] to say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use streamjob_connectors::file_sink::{SealedSegment, SegmentDirectory};
use streamjob_core::checkpoint::MAX_COMMITS_IN_FLIGHT;
use streamjob_core::commit::{CommitStep, steps};
use streamjob_core::shard::Frozen;
use streamjob_core::store::ShardStore;
use streamjob_core::{Error, Result, crash};

use crate::inbox::Message;
use crate::sequencer::Sequencer;
use crate::shared::Shared;

/// One commit, taken up by a worker.
pub struct Commit {
    pub frozen: Frozen,
    pub segments: Vec<(SegmentDirectory, SealedSegment)>,
}

/// A queue that holds every commit that may be under way, so that a worker never waits to put one in.
pub fn channel(workers: usize) -> (Sender<Commit>, Receiver<Commit>) {
    bounded(workers * MAX_COMMITS_IN_FLIGHT)
}

/// Writes commits until all senders are gone. The first failure ends the process.
pub fn run(shared: &Arc<Shared>, sequencer: Option<&Sequencer>, commits: &Receiver<Commit>) {
    for commit in commits {
        let shard = commit.frozen.shard;
        if let Err(error) = write(shared, sequencer, commit) {
            return shared.fail(error.context(format!("committing shard {shard}")));
        }
    }
}

fn write(shared: &Shared, sequencer: Option<&Sequencer>, commit: Commit) -> Result<()> {
    let started = Instant::now();
    let Commit { mut frozen, mut segments } = commit;
    let shard = frozen.shard;
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
                let store = &shared.stores[usize::from(shard)];
                let writes = frozen.write_set(&**store)?;
                shared.commit_figures.bytes.fetch_add(writes.bytes() as u64, Ordering::Relaxed);
                store.commit(writes)?;
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
                shared.inboxes[worker].put(Message::Committed { shard, epoch: frozen.epoch, sends });
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
    metrics::histogram!("streamjob_commit_duration_seconds").record(started.elapsed().as_secs_f64());
    Ok(())
}
