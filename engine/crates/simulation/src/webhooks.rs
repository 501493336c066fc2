//! Batches on their way to web servers: in order within a shard, tried until they are answered for good.

use streamjob_core::outbox::{Batch, idempotency_key};

use crate::events::{Event, NodeEvent, Outcome};
use crate::job::TOPIC;
use crate::rows::{MS, REFUSED_KEY, SECOND};
use crate::world::{Done, Stop, World};

impl World {
    /// Starts every lane that has something to send and waits for no answer.
    pub fn pump_lanes(&mut self) {
        self.pump_topic();
        let node = self.node();
        let mut ready = Vec::new();
        for ((sink, shard), lane) in node.lanes.iter_mut().filter(|((sink, _), _)| *sink != TOPIC) {
            if !lane.busy && !lane.waiting.is_empty() {
                lane.busy = true;
                ready.push((*sink, *shard));
            }
        }
        for (sink, shard) in ready {
            let wait_us = self.random.between(10, 2 * MS);
            self.node_after(wait_us, NodeEvent::Send { sink, shard });
        }
    }

    fn batch_key(&self, sink: usize, shard: u16, number: u64) -> String {
        let sink = self.setup.sink(sink).expect("the job has what sends");
        let plan = &self.setup.plan.sinks[sink];
        idempotency_key(plan.delivery, "state", &self.generation.to_string(), &plan.name, shard, number)
    }

    /// One attempt: what the network and the server make of it.
    pub fn send(&mut self, sink: usize, shard: u16) -> Done {
        let lane = self.node().lanes.get_mut(&(sink, shard)).expect("a lane stays");
        let Some(batch) = lane.waiting.front().cloned() else {
            lane.busy = false;
            return Ok(());
        };
        let key = self.batch_key(sink, shard, batch.number);
        let body = String::from_utf8_lossy(&batch.body).into_owned();
        let refused = body.contains(&format!("\"{REFUSED_KEY}\""));
        self.note(|| format!("batch {key} leaves with {} rows", batch.rows));
        let down = self.down_until_us.get(&sink).is_some_and(|until_us| self.now_us < *until_us);
        let fate = if self.is_faulty() { self.random.below(10) } else { 9 };
        let fate = if down { 0 } else { fate };
        let (arrives, outcome) = match fate {
            0 | 1 => (false, Outcome::Retry),
            2 if !refused => (true, Outcome::Retry),
            _ if refused => (false, Outcome::Refused),
            _ => (true, Outcome::Taken),
        };
        // A server that answers has taken it before; one that does not may take it long after.
        let (arrival_us, answer_us) = match outcome {
            Outcome::Retry => (self.random.between(MS, 3 * SECOND), self.random.between(100 * MS, SECOND)),
            _ => (self.random.between(100, 20 * MS), self.random.between(20 * MS, 60 * MS)),
        };
        if arrives {
            self.after(arrival_us, Event::Received { sink, key, body: batch.body.clone() });
        }
        self.node_after(answer_us, NodeEvent::Sent { sink, shard, batch, outcome });
        Ok(())
    }

    /// The attempt's answer reaches the process.
    pub fn sent(&mut self, sink: usize, shard: u16, batch: &Batch, outcome: Outcome) -> Done {
        let index = self.setup.sink(sink).expect("the job has what sends");
        let node = self.node();
        let worker = usize::from(node.worker_of[usize::from(shard)]);
        let lane = node.lanes.get_mut(&(sink, shard)).expect("a lane stays");
        lane.busy = false;
        if outcome != Outcome::Retry {
            lane.waiting.pop_front();
        }
        match outcome {
            Outcome::Retry => {}
            Outcome::Taken => {
                let shard = node.workers[worker].processor.shard_mut(shard);
                let confirmed = shard.and_then(|shard| shard.confirm(index, batch.number));
                if confirmed.is_none() {
                    return Err(Stop::Violation(format!("I8: batch {} of sink {sink} was not in its outbox", batch.number)));
                }
            }
            Outcome::Refused => {
                let reason = "refused: the server answered 400";
                self.with_processor(worker, |processor, port| processor.refused(shard, index, batch.number, reason, port))?;
            }
        }
        self.pump_lanes();
        Ok(())
    }
}
