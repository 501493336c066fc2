//! Shards whose sink takes nothing: they leave their rows, the others go on, and what was left is read again (I9).

use std::sync::Arc;

use streamjob_core::catch_up::Wanted;
use streamjob_core::decode::Positions;
use streamjob_core::idempotency::answer_of;
use streamjob_core::outbox::Outbox;
use streamjob_core::processor::Delivery;
use streamjob_core::progress::{SplitIndex, SplitProgress, SplitStatus};
use streamjob_core::route::select_for;
use streamjob_core::shard::Shard;

use crate::node::Worker;
use crate::partitions::partition_of;
use crate::rows::{SECOND, START_US};
use crate::world::{Done, World, violation};

/// Rows whose turn it is may wait so long while a shard in step could take its own: workers look at each other's shards only
/// once a turn.
const MAX_HELD_UP_US: i64 = 2 * SECOND;

/// A shard whose outbox is above its bound, and how far it was.
pub struct FullShard {
    place: usize,
    bytes: usize,
    positions: Vec<u64>,
    windows: u64,
}

impl World {
    /// Sees who leaves rows from now on, and who has caught up. A split of which a shard has left rows holds back its watermark
    /// (I9): otherwise they were late for this shard alone.
    pub fn look_at_shards(&mut self, worker: usize) -> Done {
        let Worker { processor, reorder, catch_up, .. } = &mut self.node().workers[worker];
        let before = catch_up.blocked();
        let due = catch_up.look(processor.shards_mut(), reorder);
        let (blocked, behind) = (catch_up.blocked(), catch_up.behind());
        if blocked != before {
            self.note(|| format!("worker {worker} has {blocked} full shards and {behind} behind"));
        }
        due.into_iter().try_for_each(|due| self.tell(worker, due))?;
        let Worker { processor, reorder, .. } = &self.node().workers[worker];
        for shard in processor.shards() {
            for split in 0..shard.splits() as SplitIndex {
                let SplitProgress { position, status, .. } = *shard.progress(split);
                if status == SplitStatus::Idle && position < reorder.next_offset(split) {
                    return violation(format!("I9: split {split} is idle for shard {}, which has left rows of it", shard.id));
                }
            }
        }
        Ok(())
    }

    fn outbox_bytes(&self, shard: &Shard) -> usize {
        let bytes = |sink| shard.outbox(sink).map_or(0, Outbox::bytes);
        (0..self.setup.plan.sinks.len()).map(bytes).max().unwrap_or(0)
    }

    fn positions(&self, shard: &Shard) -> Vec<u64> {
        let splits = self.node.as_ref().map_or(0, |node| node.splits.len());
        (0..splits as SplitIndex).map(|split| shard.progress(split).position).collect()
    }

    /// Shards that may take nothing in this turn.
    pub fn full_shards(&self, worker: usize) -> Vec<FullShard> {
        let node = self.node.as_ref().expect("only a living process works");
        let shards = node.workers[worker].processor.shards().iter().enumerate();
        let full = shards.filter(|(_, shard)| self.outbox_bytes(shard) > self.setup.plan.limits.outbox_bytes);
        full.map(|(place, shard)| FullShard {
            place,
            bytes: self.outbox_bytes(shard),
            positions: self.positions(shard),
            windows: shard.ledger.windows,
        })
        .collect()
    }

    /// A shard with a full outbox takes no rows and closes no windows (I6).
    pub fn check_full(&self, worker: usize, full: &[FullShard]) -> Done {
        let node = self.node.as_ref().expect("only a living process works");
        for FullShard { place, bytes, positions, windows } in full {
            let shard = &node.workers[worker].processor.shards()[*place];
            if self.positions(shard) != *positions || shard.ledger.windows != *windows {
                return violation(format!("I6: shard {} takes rows while an outbox holds {bytes} bytes", shard.id));
            }
        }
        Ok(())
    }

    /// Whoever has left nothing is where its worker is, and workers go on as long as there is such a shard (I9).
    pub fn check_progress(&mut self, worker: usize, took: bool) -> Done {
        let (now_us, limit) = (self.now_us, self.setup.plan.limits.outbox_bytes);
        let node = self.node.as_ref().expect("only a living process works");
        let in_step = |worker: &Worker, shard: &Shard| {
            let reached = |split| shard.progress(split).position >= worker.reorder.next_offset(split);
            (0..node.splits.len() as SplitIndex).all(reached)
        };
        let mine = &node.workers[worker];
        for (place, shard) in mine.processor.shards().iter().enumerate() {
            if !mine.catch_up.is_behind(place) && !in_step(mine, shard) {
                return violation(format!("I9: shard {} has left nothing and is not where worker {worker} is", shard.id));
            }
        }
        let can_go_on = node.workers.iter().any(|worker| {
            worker.processor.shards().iter().any(|shard| self.outbox_bytes(shard) <= limit && in_step(worker, shard))
        });
        let held_up = can_go_on && !took && mine.reorder.has_ready();
        let mine = &mut self.node().workers[worker];
        if !held_up {
            mine.held_up_since_us = None;
        } else if now_us - *mine.held_up_since_us.get_or_insert(now_us) > MAX_HELD_UP_US {
            return violation(format!("I9: worker {worker} takes no rows, although a shard is in step"));
        }
        Ok(())
    }

    /// One step for shards that have left rows and have room.
    pub fn read_left(&mut self, worker: usize) -> Done {
        loop {
            let Worker { processor, reorder, catch_up, .. } = &mut self.node().workers[worker];
            let deliveries = match catch_up.wanted(processor.shards(), reorder) {
                None => return Ok(()),
                Some(Wanted::Kept(deliveries)) => {
                    self.report.bridged += 1;
                    deliveries
                }
                Some(Wanted::Read { split, from, to }) => match self.read_rows(worker, (split, from, to))? {
                    Some(delivery) => vec![delivery],
                    None => {
                        self.node().workers[worker].catch_up.at_end(split, from);
                        continue;
                    }
                },
            };
            self.report.read_again += 1;
            self.note(|| format!("worker {worker} reads again what shards have left"));
            return self.give(worker, &deliveries);
        }
    }

    /// The next rows in `[from, to)` of a split; `None` if its log is not readable so far yet.
    fn read_rows(&mut self, worker: usize, (split, from, to): (SplitIndex, u64, u64)) -> Done<Option<Delivery>> {
        if split == self.node().feed.split {
            let lines = self.random.between(1, 8) as usize;
            let to = self.line_end(from as usize, lines).min(to as usize);
            let chunk = self.setup.file[from as usize..to].to_vec();
            let node = self.node();
            let batch = Arc::new(node.feed.decoders[0].decode_ndjson(&chunk, START_US, Positions::Bytes));
            let rows = select_for(&batch, &node.worker_of, worker);
            return Ok(Some(Delivery::new(split, from, batch, rows)));
        }
        if let Some(place) = partition_of(split) {
            let most = self.random.between(1, 8) as usize;
            let batch = Arc::new(self.messages(place, from, to, most));
            let rows = select_for(&batch, &self.node().worker_of, worker);
            return Ok(Some(Delivery::new(split, from, batch, rows)));
        }
        let node = self.node();
        let id = node.splits[usize::from(split)].clone();
        let mut reader = match node.logs.iter().find(|log| log.split == split) {
            Some(feed) => match &feed.log {
                Some(log) => log.read(from).map_err(|error| self.failed("I3", &error))?,
                None => return violation(format!("I3: {id} was deleted, and a shard of worker {worker} wants {from}")),
            },
            None => node.ingest.journal.read(from),
        };
        let Some(record) = reader.next_record().map_err(|error| self.failed("I3", &error))? else { return Ok(None) };
        let rows = select_for(&record.batch, &self.node().worker_of, worker);
        let request = record.request.as_ref().map(|request| Arc::new(answer_of(request, &id, record.first_offset)));
        let mut delivery = Delivery::new(split, record.first_offset, record.batch, rows);
        delivery.request = request;
        Ok(Some(delivery))
    }
}
