//! Exactly-once to a sink with transactions: each one carries batches of many shards and how far the sink is with them.
//!
//! ```text
//!              recovered(progress)            begin               committed
//!   unknown ──────────────────────▶ ready ──────────▶ open ─────────────────────▶ ready
//!      ▲                              ▲                │ aborted: all of it again
//!      │                              └────────────────┤
//!      └───────────────────────────────────────────────┘ lost: nobody knows whether it was committed
//! ```
//!
//! Invariant (I8): the sink stores the rows of a batch and the number behind it together or not at all, and whoever comes after
//! a crash asks for that number first, so that each batch is there once. A batch is confirmed only when the sink has said that
//! it is there.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A batch on its way.
pub trait Numbered {
    fn shard(&self) -> u16;
    /// Grows within a shard, not always by one.
    fn number(&self) -> u64;
    fn rows(&self) -> usize;
    fn bytes(&self) -> usize;
}

/// A row that a sink will never take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    pub batch: u64,
    /// Its place in the batch.
    pub row: u32,
    pub reason: String,
}

/// How large one transaction gets.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub rows: usize,
    pub bytes: usize,
}

/// What a transaction holds.
#[derive(Debug)]
pub struct Begun<'a, T> {
    pub batches: &'a [T],
    /// By shard: the number behind its newest batch, to be stored with them.
    pub reached: Vec<(u16, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What the sink has must be asked for.
    Unknown,
    Ready,
    /// A transaction holds [`Transactions::open`].
    Open,
}

/// Batches of one sink, and what it is known to have.
#[derive(Debug)]
pub struct Transactions<T> {
    /// By shard: the number behind the newest batch that the sink has.
    progress: HashMap<u16, u64>,
    state: State,
    waiting: VecDeque<T>,
    open: Vec<T>,
}

impl<T> Default for Transactions<T> {
    fn default() -> Self {
        Transactions { progress: HashMap::new(), state: State::Unknown, waiting: VecDeque::new(), open: Vec::new() }
    }
}

impl<T: Numbered> Transactions<T> {
    /// Takes a batch. Those of a shard come in the order of their numbers.
    pub fn put(&mut self, batch: T) {
        self.waiting.push_back(batch);
    }

    /// Batches that are not confirmed.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the sink must be asked what it has before anything is sent.
    pub fn must_recover(&self) -> bool {
        self.state == State::Unknown
    }

    /// The sink has said how far it is, and that no transaction of an earlier time will be committed any more. Gives batches that
    /// turn out to be there.
    ///
    /// # Errors
    /// Where it has less than it once said: sending on would repeat batches.
    pub fn recovered(&mut self, progress: HashMap<u16, u64>) -> Result<Vec<T>> {
        for (shard, known) in &self.progress {
            let now = progress.get(shard).copied().unwrap_or(0);
            if now < *known {
                return Err(Error::damaged(format!(
                    "the sink had shard {shard} up to batch {known} and says now that it is at {now}: its record of progress was \
                     lost, and going on could repeat rows"
                )));
            }
        }
        self.progress = progress;
        self.put_back();
        self.state = State::Ready;
        Ok(self.take_known())
    }

    /// Batches that the sink has already: what is left of an earlier process's.
    pub fn take_known(&mut self) -> Vec<T> {
        if self.state == State::Unknown {
            return Vec::new();
        }
        let progress = &self.progress;
        let known = |batch: &T| progress.get(&batch.shard()).is_some_and(|next| batch.number() < *next);
        let (there, waiting) = self.waiting.drain(..).partition::<Vec<T>, _>(known);
        self.waiting = waiting.into();
        there
    }

    /// Begins a transaction with what waits, at least one batch, and the numbers that it stores. `None`: nothing waits, or the
    /// sink's answer is awaited.
    pub fn begin(&mut self, bounds: Bounds) -> Option<Begun<'_, T>> {
        if self.state != State::Ready || self.waiting.is_empty() {
            return None;
        }
        let (mut rows, mut bytes) = (0, 0);
        while let Some(batch) = self.waiting.front() {
            rows += batch.rows();
            bytes += batch.bytes();
            if !self.open.is_empty() && (rows > bounds.rows || bytes > bounds.bytes) {
                break;
            }
            self.open.extend(self.waiting.pop_front());
        }
        self.state = State::Open;
        Some(Begun { reached: self.reached(), batches: &self.open })
    }

    /// By shard: the number behind the newest batch of the open transaction.
    fn reached(&self) -> Vec<(u16, u64)> {
        let mut reached: HashMap<u16, u64> = HashMap::new();
        for batch in &self.open {
            let next = reached.entry(batch.shard()).or_default();
            *next = (*next).max(batch.number() + 1);
        }
        let mut reached: Vec<(u16, u64)> = reached.into_iter().collect();
        reached.sort_unstable();
        reached
    }

    /// The sink has committed the open transaction. Gives its batches.
    pub fn committed(&mut self) -> Vec<T> {
        debug_assert!(self.state == State::Open);
        self.progress.extend(self.reached());
        self.state = State::Ready;
        std::mem::take(&mut self.open)
    }

    /// The sink has given the open transaction up: its batches come again.
    pub fn aborted(&mut self) {
        self.put_back();
        self.state = State::Ready;
    }

    /// The connection is gone, and with it the answer to what was under way.
    pub fn lost(&mut self) {
        self.state = State::Unknown;
    }

    fn put_back(&mut self) {
        for batch in self.open.drain(..).rev() {
            self.waiting.push_front(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Sent(u16, u64);

    impl Numbered for Sent {
        fn shard(&self) -> u16 {
            self.0
        }
        fn number(&self) -> u64 {
            self.1
        }
        fn rows(&self) -> usize {
            1
        }
        fn bytes(&self) -> usize {
            10
        }
    }

    /// What happens to a transaction, or to the process.
    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Batch(u16),
        Commit,
        Abort,
        /// The answer is lost; whether it was committed is said here.
        Lost(bool),
        /// The process dies, with a transaction under way that is committed or not.
        Killed(bool),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            4 => (0u16..3).prop_map(Happens::Batch),
            3 => Just(Happens::Commit),
            1 => Just(Happens::Abort),
            1 => any::<bool>().prop_map(Happens::Lost),
            1 => any::<bool>().prop_map(Happens::Killed),
        ]
    }

    /// A sink whose transactions are atomic, and the outboxes of the shards.
    #[derive(Default)]
    struct World {
        rows: Vec<Sent>,
        progress: HashMap<u16, u64>,
        next: [u64; 3],
        unconfirmed: Vec<Sent>,
    }

    impl World {
        fn store(&mut self, batches: &[Sent], progress: &[(u16, u64)]) {
            self.rows.extend(batches);
            self.progress.extend(progress.iter().copied());
        }

        fn confirm(&mut self, batches: Vec<Sent>) {
            for batch in batches {
                assert!(self.rows.contains(&batch), "{batch:?} was confirmed and is not there");
                self.unconfirmed.retain(|other| *other != batch);
            }
        }

        fn recover(&mut self, transactions: &mut Transactions<Sent>) {
            if transactions.must_recover() {
                let there = transactions.recovered(self.progress.clone()).expect("nothing was lost");
                self.confirm(there);
            }
        }

        /// One transaction with this end.
        fn run(&mut self, transactions: &mut Transactions<Sent>, end: Happens) {
            self.recover(transactions);
            let there = transactions.take_known();
            self.confirm(there);
            let Some(begun) = transactions.begin(Bounds { rows: 4, bytes: 35 }) else { return };
            let (batches, progress) = (begun.batches.to_vec(), begun.reached);
            match end {
                Happens::Commit => {
                    self.store(&batches, &progress);
                    let done = transactions.committed();
                    self.confirm(done);
                }
                Happens::Abort => transactions.aborted(),
                Happens::Lost(committed) | Happens::Killed(committed) => {
                    if committed {
                        self.store(&batches, &progress);
                    }
                    transactions.lost();
                }
                Happens::Batch(_) => {}
            }
        }
    }

    proptest! {
        /// I8: whatever is lost or killed when, each batch is there once, in the order of its shard.
        #[test]
        fn each_batch_is_there_once(events in prop::collection::vec(happens(), 1..80)) {
            let (mut world, mut transactions) = (World::default(), Transactions::default());
            for event in events {
                match event {
                    Happens::Batch(shard) => {
                        let batch = Sent(shard, world.next[usize::from(shard)]);
                        world.next[usize::from(shard)] += 1;
                        world.unconfirmed.push(batch);
                        transactions.put(batch);
                    }
                    end => world.run(&mut transactions, end),
                }
                if matches!(event, Happens::Killed(_)) {
                    transactions = Transactions::default();
                    world.unconfirmed.iter().for_each(|batch| transactions.put(*batch));
                }
            }
            while !transactions.is_empty() {
                world.run(&mut transactions, Happens::Commit);
            }
            prop_assert!(world.unconfirmed.is_empty());
            for shard in 0..3u16 {
                let numbers: Vec<u64> = world.rows.iter().filter(|row| row.0 == shard).map(|row| row.1).collect();
                prop_assert_eq!(numbers, (0..world.next[usize::from(shard)]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_sink_that_has_less_than_before_is_refused() {
        let mut transactions: Transactions<Sent> = Transactions::default();
        transactions.recovered(HashMap::from([(3, 7)])).expect("the first answer is believed");
        transactions.lost();
        let error = transactions.recovered(HashMap::from([(3, 6)])).expect_err("it went back");
        assert!(error.message().contains("shard 3"), "{error}");
        assert!(transactions.recovered(HashMap::from([(3, 9)])).is_ok());
    }

    #[test]
    fn a_transaction_is_bounded_but_takes_one_batch_always() {
        let mut transactions = Transactions::default();
        (0..5).for_each(|number| transactions.put(Sent(0, number)));
        assert!(transactions.begin(Bounds { rows: 9, bytes: 9 }).is_none(), "what the sink has is not known yet");
        transactions.recovered(HashMap::new()).expect("nothing is known");
        let sizes = [(Bounds { rows: 1, bytes: 1 }, 1), (Bounds { rows: 3, bytes: 1000 }, 3), (Bounds { rows: 9, bytes: 19 }, 1)];
        for (bounds, size) in sizes {
            assert_eq!(transactions.begin(bounds).expect("some wait").batches.len(), size);
            assert_eq!(transactions.committed().len(), size);
        }
    }
}
