//! The thread that writes commits, apart from the workers.
//!
//! Order of one commit: output segments to disk, journal to disk up to the positions (I4), the one atomic write (I1), then
//! segments become visible and exactly-once batches may leave (I8).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use streamjob_connectors::file_sink::{SealedSegment, SegmentDirectory};
use streamjob_core::Result;
use streamjob_core::shard::Frozen;
use streamjob_core::store::ShardStore;

use crate::inbox::Message;
use crate::sequencer::Sequencer;
use crate::shared::Shared;

/// Commits that may wait for the committer; a worker that finds it full keeps its shard for the next look.
pub const MAX_WAITING_COMMITS: usize = 8;

/// One commit, taken up by a worker.
pub struct Commit {
    pub frozen: Frozen,
    pub segments: Vec<(SegmentDirectory, SealedSegment)>,
}

pub fn channel() -> (Sender<Commit>, Receiver<Commit>) {
    bounded(MAX_WAITING_COMMITS)
}

/// Writes commits until all senders are gone. The first failure ends the process.
pub fn run(shared: &Arc<Shared>, sequencer: Option<&Sequencer>, commits: &Receiver<Commit>) {
    for commit in commits {
        let (shard, epoch) = (commit.frozen.shard, commit.frozen.epoch);
        match write(shared, sequencer, commit) {
            Ok(sends) => {
                let worker = usize::from(shared.worker_of[usize::from(shard)]);
                shared.inboxes[worker].put(Message::Committed { shard, epoch, sends });
            }
            Err(error) => return shared.fail(error.context(format!("committing shard {shard}"))),
        }
    }
}

fn write(
    shared: &Arc<Shared>,
    sequencer: Option<&Sequencer>,
    commit: Commit,
) -> Result<Vec<(usize, streamjob_core::outbox::Batch)>> {
    let started = Instant::now();
    let Commit { frozen, segments } = commit;
    for (_, segment) in &segments {
        segment.sync()?;
    }
    for (directory, _) in &segments {
        directory.sync()?;
    }
    if let Some(sequencer) = sequencer {
        for (split, position) in frozen.positions() {
            sequencer.wait_durable(split, position)?;
        }
    }
    streamjob_core::crash::point("commit-before-write");
    let store = &shared.stores[usize::from(frozen.shard)];
    let writes = frozen.write_set(&**store)?;
    let bytes = writes.bytes() as u64;
    store.commit(writes)?;
    streamjob_core::crash::point("commit-before-publish");
    for (_, segment) in segments {
        segment.publish()?;
    }
    streamjob_core::crash::point("commit-after-publish");
    *shared.committed[usize::from(frozen.shard)].lock() =
        frozen.positions().map(|(split, position)| (split.to_owned(), position)).collect();
    shared.requests.committed(frozen.requests.iter().map(|request| request.id.as_str()));
    let figures = &shared.commit_figures;
    figures.commits.fetch_add(1, Ordering::Relaxed);
    figures.bytes.fetch_add(bytes, Ordering::Relaxed);
    figures.last_duration_us.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
    figures.last_at_us.store(shared.uptime_us(), Ordering::Relaxed);
    metrics::histogram!("streamjob_commit_duration_seconds").record(started.elapsed().as_secs_f64());
    Ok(frozen.sends)
}
