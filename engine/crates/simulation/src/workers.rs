//! Workers: deliveries in, rows through the processor, commits out.

use std::collections::{BTreeMap, VecDeque};

use streamjob_core::catch_up::Due;
use streamjob_core::checkpoint::ShardWish;
use streamjob_core::commit;
use streamjob_core::processor::{Delivery, Processor};
use streamjob_core::progress::{END_OF_TIME, SplitIndex, SplitStatus};
use streamjob_core::shard::Shard;

use crate::events::NodeEvent;
use crate::node::{Commit, Node, Port, Worker};
use crate::rows::MS;
use crate::truth::Step;
use crate::world::{Done, Stop, World, broken, violation};

/// A worker that misses something waits so long before it asks for it.
const GAP_PATIENCE_US: i64 = 250 * MS;

impl World {
    /// One worker's processor with its port.
    pub fn with_processor<T>(
        &mut self,
        worker: usize,
        run: impl FnOnce(&mut Processor, &mut Port<'_>) -> streamjob_core::Result<T>,
    ) -> Done<T> {
        let Node { workers, lanes, writers, .. } = self.node.as_mut().expect("only a living process works");
        let mut port = Port { segments: &mut self.segments, writers, lanes, places: &self.setup.places };
        run(&mut workers[worker].processor, &mut port).map_err(|error| Stop::Violation(error.to_string()))
    }

    /// A delivery reaches its worker.
    pub fn deliver(&mut self, worker: usize, delivery: Delivery) -> Done {
        if self.is_faulty() && self.random.once_in(60) {
            self.jump_the_queue(worker, &delivery)?;
        }
        let max_held = self.setup.max_held;
        let target = &mut self.node().workers[worker];
        let split = delivery.split;
        if let Err(delivery) = target.reorder.put(delivery) {
            target.parked.push_back(delivery);
        }
        // One above: the delivery that the others wait for.
        if target.reorder.gap(split).is_some() && target.reorder.held(split) > max_held + 1 {
            return violation(format!("I6: worker {worker} holds {} deliveries of split {split}", target.reorder.held(split)));
        }
        Ok(())
    }

    /// A delivery meets the shards before its turn: those that miss what is before it refuse it (I2).
    fn jump_the_queue(&mut self, worker: usize, delivery: &Delivery) -> Done {
        let node = self.node.as_ref().expect("only a living process works");
        let processor = &node.workers[worker].processor;
        let wanted = |shard: &Shard| (shard.id, shard.progress(delivery.split).position);
        let takes = processor.shards().iter().filter(|shard| !shard.is_blocked() && !shard.leaves(delivery.split));
        let missing: Vec<(u16, u64)> = takes.map(wanted).filter(|(_, position)| *position < delivery.covers_from).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.note(|| {
            format!("worker {worker} is given [{}, {}) of split {} early", delivery.covers_from, delivery.to(), delivery.split)
        });
        let deliveries = std::slice::from_ref(delivery);
        let steps = self.expect_steps(worker, deliveries);
        let refusals = self.with_processor(worker, |processor, port| processor.process(deliveries, port))?;
        let refused: Vec<(u16, u64)> = refusals.iter().map(|refusal| (refusal.shard, refusal.wanted)).collect();
        if refused != missing {
            return violation(format!("I2: shards {missing:?} miss rows and {refused:?} refuse [{}, …)", delivery.covers_from));
        }
        steps.into_iter().for_each(|(shard, step)| self.truth.logs[usize::from(shard)].steps.push(step));
        Ok(())
    }

    /// One turn of a worker's loop.
    pub fn work(&mut self, worker: usize) -> Done {
        self.unpark(worker);
        self.retry_stuck(worker)?;
        self.look_at_shards(worker)?;
        let full = self.full_shards(worker);
        let halted = self.node().is_halted(worker);
        let waits = halted || self.node().workers[worker].processor.is_overfull();
        let took = !waits && self.node().takes_rows() && self.process(worker)?;
        self.check_progress(worker, took || waits)?;
        if !self.node().is_halted(worker) && !self.node().workers[worker].processor.is_overfull() {
            self.read_left(worker)?;
        }
        self.take_statuses(worker)?;
        if !self.node().is_halted(worker) {
            let budget = self.random.between(1, 60) as usize;
            self.with_processor(worker, |processor, port| processor.close_windows(budget, port))?;
        }
        self.check_full(worker, &full)?;
        self.reach_end(worker);
        self.start_commits(worker)?;
        self.look_for_gaps(worker)?;
        self.pump_lanes();
        let wait_us = if self.random.once_in(30) { self.random.between(MS, 200 * MS) } else { self.random.between(100, 15 * MS) };
        self.node_after(wait_us, NodeEvent::Work(worker));
        Ok(())
    }

    /// Tries again to write what found no room.
    fn retry_stuck(&mut self, worker: usize) -> Done {
        let node = self.node.as_mut().expect("only a living process works");
        let mine = node.workers[worker].processor.shards().iter().map(|shard| shard.id);
        for shard in mine.collect::<Vec<_>>() {
            if node.writers.is_stuck(|owner| owner == shard) {
                node.writers.flush_shard(&mut self.segments, shard).map_err(broken("I8"))?;
            }
        }
        Ok(())
    }

    fn unpark(&mut self, worker: usize) {
        let worker = &mut self.node().workers[worker];
        for delivery in std::mem::take(&mut worker.parked) {
            if let Err(delivery) = worker.reorder.put(delivery) {
                worker.parked.push_back(delivery);
            }
        }
    }

    /// False if there was nothing to take.
    fn process(&mut self, worker: usize) -> Done<bool> {
        let max_rows = self.random.between(1, 40) as usize;
        let mut deliveries = Vec::new();
        let node = self.node();
        node.workers[worker].reorder.take(max_rows, &mut deliveries);
        node.outstanding = node.outstanding.saturating_sub(deliveries.len());
        if deliveries.is_empty() {
            return Ok(false);
        }
        let catch_up = &mut self.node().workers[worker].catch_up;
        deliveries.iter().for_each(|delivery| catch_up.keep(delivery));
        self.give(worker, &deliveries).map(|()| true)
    }

    /// The processor takes deliveries. Only shards that have left rows may refuse what follows them.
    pub fn give(&mut self, worker: usize, deliveries: &[Delivery]) -> Done {
        let steps = self.expect_steps(worker, deliveries);
        for delivery in deliveries {
            self.note(|| {
                format!("worker {worker} takes [{}, {}) of split {}", delivery.covers_from, delivery.to(), delivery.split)
            });
        }
        let refusals = self.with_processor(worker, |processor, port| processor.process(deliveries, port))?;
        let target = &self.node().workers[worker];
        let is_behind = |shard: u16| target.processor.place_of(shard).is_some_and(|place| target.catch_up.is_behind(place));
        if let Some(refusal) = refusals.iter().find(|refusal| !is_behind(refusal.shard)) {
            return violation(format!("I2: a delivery in order is refused: {refusal:?}"));
        }
        self.report.rows += deliveries.iter().map(|delivery| delivery.rows.len() as u64).sum::<u64>();
        for (shard, step) in steps {
            self.truth.logs[usize::from(shard)].steps.push(step);
        }
        Ok(())
    }

    /// What each shard that is not full must take of these deliveries: what begins at or before its position and ends behind it (I2).
    fn expect_steps(&mut self, worker: usize, deliveries: &[Delivery]) -> Vec<(u16, Step)> {
        let node = self.node.as_ref().expect("only a living process works");
        let mut steps = Vec::new();
        for shard in node.workers[worker].processor.shards().iter().filter(|shard| !shard.is_blocked()) {
            let mut positions: BTreeMap<SplitIndex, u64> = BTreeMap::new();
            for delivery in deliveries {
                let position = positions.entry(delivery.split).or_insert_with(|| shard.progress(delivery.split).position);
                if delivery.covers_from <= *position && *position < delivery.to() && !shard.leaves(delivery.split) {
                    let split = node.splits[usize::from(delivery.split)].clone();
                    steps.push((shard.id, Step::Rows { split, from: *position, to: delivery.to() }));
                    *position = delivery.to();
                }
            }
        }
        steps
    }

    fn take_statuses(&mut self, worker: usize) -> Done {
        while let Some((split, status)) = self.node().workers[worker].reorder.take_status() {
            self.set_status(worker, split, status)?;
        }
        Ok(())
    }

    /// It holds for the shards that are where their worker is; for the others once they are.
    fn set_status(&mut self, worker: usize, split: SplitIndex, status: SplitStatus) -> Done {
        self.note(|| format!("worker {worker} sees split {split} {status:?}"));
        let Worker { processor, reorder, catch_up, .. } = &mut self.node().workers[worker];
        let at = reorder.next_offset(split);
        let now = |(place, shard): &(usize, &Shard)| !catch_up.defer(*place, *shard, split, at, status);
        let places: Vec<usize> = processor.shards().iter().enumerate().filter(now).map(|(place, _)| place).collect();
        places.into_iter().try_for_each(|place| self.tell(worker, Due { place, split, status }))
    }

    /// Idle is a split only for who has all of it that its reader had when it said so. That may be long ago for a worker that took
    /// no rows meanwhile.
    pub fn tell(&mut self, worker: usize, due: Due) -> Done {
        let node = self.node.as_mut().expect("only a living process works");
        let shard = &mut node.workers[worker].processor.shards_mut()[due.place];
        let position = shard.progress(due.split).position;
        if due.status == SplitStatus::Idle && !node.idle_at.contains(&(due.split, position)) {
            return violation(format!("I11: split {} is idle for shard {} at {position}, where it is not", due.split, shard.id));
        }
        shard.set_status(due.split, due.status);
        let step = Step::Status(node.splits[usize::from(due.split)].clone(), due.status);
        self.truth.logs[usize::from(shard.id)].steps.push(step);
        Ok(())
    }

    /// When every split has ended, time ends too.
    fn reach_end(&mut self, worker: usize) {
        let node = self.node.as_mut().expect("only a living process works");
        let target = &mut node.workers[worker];
        if !node.closing || target.at_end || !target.processor.shards().iter().all(Shard::all_finished) {
            return;
        }
        target.at_end = true;
        target.scheduler.rush();
        for shard in target.processor.shards_mut() {
            shard.set_watermark(END_OF_TIME);
            self.truth.logs[usize::from(shard.id)].steps.push(Step::Watermark(END_OF_TIME));
        }
        self.note(|| format!("worker {worker} is at the end of time"));
    }

    fn start_commits(&mut self, worker: usize) -> Done {
        loop {
            let now_us = self.now_us;
            let target = &mut self.node().workers[worker];
            let wishes: Vec<ShardWish> = target.processor.shards().iter().map(ShardWish::from).collect();
            let Some(shard) = target.scheduler.next(now_us, wishes) else { return Ok(()) };
            let node = self.node.as_mut().expect("only a living process works");
            if !node.writers.flush_shard(&mut self.segments, shard).map_err(broken("I8"))? {
                // It commits later.
                return Ok(());
            }
            let target = &mut self.node().workers[worker];
            let Some(frozen) = target.processor.freeze(shard) else { continue };
            let steps = self.truth.logs[usize::from(shard)].steps.len();
            let (keys, rows) = frozen.sizes();
            self.note(|| format!("shard {shard} freezes epoch {} with {keys} keys and {rows} closed rows", frozen.epoch));
            let node = self.node.as_mut().expect("only a living process works");
            for segment in &frozen.segments {
                let key = (self.setup.places[segment.sink], shard, segment.number);
                node.writers.seal(key).map_err(broken("I8"))?;
            }
            let number = node.next_commit;
            node.next_commit += 1;
            let todo: VecDeque<_> = commit::steps().collect();
            node.commits.insert(number, Commit { frozen, worker, todo, writing: false, waits_for_room: false, steps });
            let wait_us = self.random.between(10, 5 * MS);
            self.node_after(wait_us, NodeEvent::Commit(number));
        }
    }

    /// A worker that waits for something for long asks for it.
    fn look_for_gaps(&mut self, worker: usize) -> Done {
        let now_us = self.now_us;
        let target = &mut self.node().workers[worker];
        let mut missing = Vec::new();
        for (split, since_us) in target.gap_since_us.iter_mut().enumerate() {
            let split = split as SplitIndex;
            match target.reorder.gap(split) {
                None => *since_us = None,
                Some(from) if now_us - *since_us.get_or_insert(now_us) > GAP_PATIENCE_US => {
                    *since_us = None;
                    missing.push((split, from));
                }
                Some(_) => {}
            }
        }
        missing.into_iter().try_for_each(|(split, from)| self.read_again(worker, split, from))
    }
}
