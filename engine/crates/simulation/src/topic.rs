//! A topic that takes transactions, and the sink that fills it (I8): each transaction has its rows and how far the topic is, or
//! nothing of it; whoever comes after a crash fences its predecessor off before it asks.

use std::collections::HashMap;

use serde_json::Value;
use streamjob_core::outbox::Batch;
use streamjob_core::transactions::{Bounds, Done as Sent, Numbered, Progress, RefusedRow};

use crate::events::{Event, NodeEvent};
use crate::job::TOPIC;
use crate::rows::{MS, REFUSED_KEY, SECOND};
use crate::world::{Done, Stop, World, broken};

/// Small, so that a transaction is rarely all that waits.
const BOUNDS: Bounds = Bounds { rows: 8, bytes: 2_000 };

/// A batch on its way into the topic.
#[derive(Debug, Clone)]
pub struct Item {
    pub shard: u16,
    pub batch: Batch,
}

impl Numbered for Item {
    fn shard(&self) -> u16 {
        self.shard
    }
    fn number(&self) -> u64 {
        self.batch.number
    }
    fn confirmed_below(&self) -> u64 {
        self.batch.confirmed_below
    }
    fn rows(&self) -> usize {
        self.batch.rows as usize
    }
    fn bytes(&self) -> usize {
        self.batch.body.len()
    }
}

/// How a transaction ended, as the sink sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Committed,
    Aborted,
    /// No answer came.
    Lost,
}

#[derive(Debug)]
struct Open {
    transaction: u64,
    rows: Vec<Value>,
    reached: Vec<(u16, Progress)>,
}

/// What the broker has.
#[derive(Debug, Default)]
pub struct Topic {
    pub rows: Vec<Value>,
    progress: HashMap<u16, Progress>,
    open: Option<Open>,
    transactions: u64,
}

impl Topic {
    /// A new producer under the name of the old one: what that had open is given up.
    fn fence(&mut self) {
        self.open = None;
    }

    fn begin(&mut self, rows: Vec<Value>, reached: Vec<(u16, Progress)>) -> u64 {
        self.transactions += 1;
        self.open = Some(Open { transaction: self.transactions, rows, reached });
        self.transactions
    }

    /// The word to commit reaches the broker; that of a transaction which was given up means nothing any more.
    pub fn commit(&mut self, transaction: u64) {
        if let Some(open) = self.open.take_if(|open| open.transaction == transaction) {
            self.rows.extend(open.rows);
            self.progress.extend(open.reached);
        }
    }
}

/// Rows of batches, and those of them that no topic takes, with their shards.
#[derive(Default)]
struct Rows {
    taken: Vec<Value>,
    refused: Vec<(u16, RefusedRow)>,
}

impl Rows {
    fn add(&mut self, Item { shard, batch }: &Item) -> Result<(), String> {
        let rows: Vec<Value> = serde_json::from_slice(&batch.body).map_err(|error| format!("a batch is no array: {error}"))?;
        for (place, row) in rows.into_iter().enumerate() {
            if row["key"] == REFUSED_KEY {
                let reason = "refused: too large".to_owned();
                self.refused.push((*shard, RefusedRow { batch: batch.number, row: place as u32, reason }));
            } else {
                self.taken.push(row);
            }
        }
        Ok(())
    }
}

impl World {
    /// Hands batches for the topic to its sink.
    pub fn pump_topic(&mut self) {
        let node = self.node();
        for ((_, shard), lane) in node.lanes.iter_mut().filter(|((sink, _), _)| *sink == TOPIC) {
            lane.waiting.drain(..).for_each(|batch| node.transactions.put(Item { shard: *shard, batch }));
        }
        if !node.transacting && (!node.transactions.is_empty() || node.transactions.must_recover()) {
            node.transacting = true;
            let wait_us = self.random.between(10, 5 * MS);
            self.node_after(wait_us, NodeEvent::Transact);
        }
    }

    /// The sink's next step: what the topic has, where that is not known, and a transaction.
    pub fn transact(&mut self) -> Done {
        let down = self.down_until_us.get(&TOPIC).is_some_and(|until_us| self.now_us < *until_us);
        if down || (self.is_faulty() && self.random.once_in(20)) {
            let wait_us = self.random.between(50 * MS, SECOND);
            self.node_after(wait_us, NodeEvent::Transact);
            return Ok(());
        }
        if self.node().transactions.must_recover() {
            self.topic.fence();
            let progress = self.topic.progress.clone();
            self.note(|| format!("the topic says how far it is with {} shards", progress.len()));
            let there = self.node().transactions.recovered(progress).map_err(|error| Stop::Violation(format!("I8: {error}")))?;
            self.confirm_topic(there)?;
        }
        let there = self.node().transactions.take_known();
        self.confirm_topic(there)?;
        let node = self.node.as_mut().expect("its own event has found it alive");
        let Some(begun) = node.transactions.begin(BOUNDS) else {
            node.transacting = false;
            return Ok(());
        };
        let mut rows = Rows::default();
        begun.batches.iter().try_for_each(|item| rows.add(item)).map_err(broken("I8"))?;
        let Rows { taken, refused } = rows;
        let reached = begun.reached(&refused);
        let transaction = self.topic.begin(taken, reached);
        self.end_transaction(transaction, refused);
        Ok(())
    }

    /// What the network makes of the word to commit.
    fn end_transaction(&mut self, transaction: u64, refused: Vec<(u16, RefusedRow)>) {
        let fate = if self.is_faulty() { self.random.below(10) } else { 9 };
        let (ended, arrives) = match fate {
            0 => (Ended::Aborted, false),
            1 => (Ended::Lost, false),
            2 | 3 => (Ended::Lost, true),
            _ => (Ended::Committed, true),
        };
        let (arrival_us, answer_us) = match ended {
            // It may also arrive when the next producer has long been there.
            Ended::Lost => (self.random.between(MS, 3 * SECOND), self.random.between(100 * MS, SECOND)),
            _ => (self.random.between(100, 20 * MS), self.random.between(20 * MS, 60 * MS)),
        };
        if arrives {
            self.after(arrival_us, Event::TopicCommit { transaction });
        }
        self.note(|| format!("transaction {transaction} will be {ended:?}"));
        self.node_after(answer_us, NodeEvent::Transacted { ended, refused });
    }

    /// The sink hears how its transaction ended.
    pub fn transacted(&mut self, ended: Ended, refused: &[(u16, RefusedRow)]) -> Done {
        let transactions = &mut self.node().transactions;
        match ended {
            Ended::Committed => {
                let done = transactions.committed(refused);
                self.confirm_topic(done)?;
            }
            Ended::Aborted => transactions.aborted(),
            Ended::Lost => transactions.lost(),
        }
        if ended == Ended::Aborted {
            self.topic.fence();
        }
        self.node().transacting = false;
        self.pump_topic();
        Ok(())
    }

    fn confirm_topic(&mut self, done: Vec<Sent<Item>>) -> Done {
        let topic = self.setup.sink(TOPIC).expect("the job always has the topic");
        for Sent { batch: Item { shard, batch }, refused } in done {
            let worker = usize::from(self.node().worker_of[usize::from(shard)]);
            if !refused.is_empty() {
                self.with_processor(worker, |processor, port| {
                    processor.refused_rows(shard, topic, batch.number, &refused, port)
                })?;
                continue;
            }
            let shard = self.node().workers[worker].processor.shard_mut(shard);
            if shard.and_then(|shard| shard.confirm(topic, batch.number)).is_none() {
                return Err(Stop::Violation(format!("I8: batch {} of the topic was not in its outbox", batch.number)));
            }
        }
        Ok(())
    }
}
