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
//!
//! Rows that the sink will never take are left out of their batch, and which they are is stored in the same transaction (I6):
//! a process that is killed right after it learns from there what still belongs to the dead letters.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::guards::{self, Guard};
use crate::{Error, Result};

/// A batch on its way.
pub trait Numbered {
    fn shard(&self) -> u16;
    /// Grows within a shard, not always by one.
    fn number(&self) -> u64;
    /// Batches of the shard below this number are confirmed, and a commit says so: they never come again.
    fn confirmed_below(&self) -> u64;
    fn rows(&self) -> usize;
    fn bytes(&self) -> usize;
}

/// How far a sink is with the batches of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number behind the newest batch that the sink has.
    pub next: u64,
    /// Rows that were left out of batches which may come again. Bounded by the outbox, which holds those batches.
    pub refused: Vec<RefusedRow>,
}

/// A row that a sink will never take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    pub batch: u64,
    /// Its place in the batch.
    pub row: u32,
    pub reason: String,
}

/// A batch that the sink has, but for some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    pub batch: T,
    pub refused: Vec<RefusedRow>,
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
    before: &'a HashMap<u16, Progress>,
}

impl<T: Numbered> Begun<'_, T> {
    /// By shard: what is to be stored with the batches, where these rows, with their shards, are left out.
    pub fn reached(&self, refused: &[(u16, RefusedRow)]) -> Vec<(u16, Progress)> {
        reached(self.batches, self.before, refused)
    }
}

fn reached<T: Numbered>(batches: &[T], before: &HashMap<u16, Progress>, refused: &[(u16, RefusedRow)]) -> Vec<(u16, Progress)> {
    let mut ends: HashMap<u16, (u64, u64)> = HashMap::new();
    for batch in batches {
        let (next, floor) = ends.entry(batch.shard()).or_default();
        *next = (*next).max(batch.number() + 1);
        *floor = (*floor).max(batch.confirmed_below());
    }
    let after = |(shard, (next, floor)): (u16, (u64, u64))| {
        let kept = before.get(&shard).into_iter().flat_map(|progress| &progress.refused);
        let new = refused.iter().filter(|(owner, _)| *owner == shard).map(|(_, row)| row);
        let refused = kept.filter(|row| row.batch >= floor).chain(new).cloned().collect();
        (shard, Progress { next, refused })
    };
    let mut reached: Vec<(u16, Progress)> = ends.into_iter().map(after).collect();
    reached.sort_unstable_by_key(|(shard, _)| *shard);
    reached
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
    /// By shard: what the sink has.
    progress: HashMap<u16, Progress>,
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

    /// By shard: what the sink is known to have.
    pub fn known(&self) -> &HashMap<u16, Progress> {
        &self.progress
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
    pub fn recovered(&mut self, progress: HashMap<u16, Progress>) -> Result<Vec<Done<T>>> {
        for (shard, Progress { next: known, .. }) in &self.progress {
            let now = progress.get(shard).map_or(0, |progress| progress.next);
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
    pub fn take_known(&mut self) -> Vec<Done<T>> {
        if self.state == State::Unknown {
            return Vec::new();
        }
        let progress = &self.progress;
        let known = |batch: &T| {
            progress.get(&batch.shard()).is_some_and(|progress| batch.number() < progress.next) && !guards::off(Guard::TakeKnown)
        };
        let (there, waiting) = self.waiting.drain(..).partition::<Vec<T>, _>(known);
        self.waiting = waiting.into();
        self.done(there)
    }

    fn done(&self, batches: Vec<T>) -> Vec<Done<T>> {
        let refused = |batch: &T| {
            let rows = self.progress.get(&batch.shard()).into_iter().flat_map(|progress| &progress.refused);
            rows.filter(|row| row.batch == batch.number()).cloned().collect()
        };
        batches.into_iter().map(|batch| Done { refused: refused(&batch), batch }).collect()
    }

    /// Begins a transaction with what waits, at least one batch. `None`: nothing waits, or the
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
        Some(Begun { batches: &self.open, before: &self.progress })
    }

    /// The sink has committed the open transaction, and stored that it leaves these rows out. Gives its batches.
    pub fn committed(&mut self, refused: &[(u16, RefusedRow)]) -> Vec<Done<T>> {
        debug_assert!(self.state == State::Open);
        self.progress.extend(reached(&self.open, &self.progress, refused));
        self.state = State::Ready;
        let open = std::mem::take(&mut self.open);
        self.done(open)
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
    struct Sent {
        shard: u16,
        number: u64,
        floor: u64,
    }

    impl Sent {
        /// The row of the batch that no sink takes.
        fn refused(&self) -> Option<RefusedRow> {
            (self.number % 3 == 1).then(|| RefusedRow { batch: self.number, row: 7, reason: "odd".to_owned() })
        }
    }

    impl Numbered for Sent {
        fn shard(&self) -> u16 {
            self.shard
        }
        fn number(&self) -> u64 {
            self.number
        }
        fn confirmed_below(&self) -> u64 {
            self.floor
        }
        fn rows(&self) -> usize {
            1
        }
        fn bytes(&self) -> usize {
            10
        }
    }

    fn sent(number: u64) -> Sent {
        Sent { shard: 0, number, floor: 0 }
    }

    fn at(next: u64) -> Progress {
        Progress { next, refused: Vec::new() }
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
        rows: Vec<(u16, u64)>,
        progress: HashMap<u16, Progress>,
        next: [u64; 3],
        /// Batches in the outboxes, as the last commits have them: what is confirmed leaves with the next commit.
        outboxes: Vec<(Sent, bool)>,
    }

    impl World {
        /// A shard commits: what was confirmed leaves its outbox, and a batch enters it.
        fn cut(&mut self, shard: u16) -> Sent {
            self.outboxes.retain(|(batch, confirmed)| batch.shard != shard || !confirmed);
            let number = self.next[usize::from(shard)];
            self.next[usize::from(shard)] += 1;
            let batch = Sent { shard, number, floor: self.lowest(shard).unwrap_or(number) };
            self.outboxes.push((batch, false));
            batch
        }

        fn lowest(&self, shard: u16) -> Option<u64> {
            self.outboxes.iter().map(|(batch, _)| batch).filter(|batch| batch.shard == shard).map(|batch| batch.number).min()
        }

        /// What the outboxes hold comes again, confirmed or not.
        fn restart(&mut self) -> Vec<Sent> {
            let floors = [0, 1, 2].map(|shard| self.lowest(shard));
            for (batch, confirmed) in &mut self.outboxes {
                *confirmed = false;
                batch.floor = floors[usize::from(batch.shard)].expect("it has one");
            }
            self.outboxes.iter().map(|(batch, _)| *batch).collect()
        }

        fn store(&mut self, batches: &[Sent], progress: Vec<(u16, Progress)>) {
            self.rows.extend(batches.iter().map(|batch| (batch.shard, batch.number)));
            for (shard, progress) in &progress {
                let floor = batches.iter().filter(|batch| batch.shard == *shard).map(|batch| batch.floor).max();
                let is_needed = |row: &RefusedRow| Some(row.batch) >= floor;
                assert!(progress.refused.iter().all(is_needed), "what was left out is bounded by the outbox: {progress:?}");
            }
            self.progress.extend(progress);
        }

        fn confirm(&mut self, batches: Vec<Done<Sent>>) {
            for Done { batch, refused } in batches {
                assert!(self.rows.contains(&(batch.shard, batch.number)), "{batch:?} was confirmed and is not there");
                assert_eq!(refused, Vec::from_iter(batch.refused()), "of {batch:?}");
                let held = self.outboxes.iter_mut().find(|(held, _)| (held.shard, held.number) == (batch.shard, batch.number));
                held.expect("it is in its outbox").1 = true;
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
            let batches = begun.batches.to_vec();
            let refused: Vec<_> = batches.iter().filter_map(|batch| Some((batch.shard, batch.refused()?))).collect();
            let progress = begun.reached(&refused);
            match end {
                Happens::Commit => {
                    self.store(&batches, progress);
                    let done = transactions.committed(&refused);
                    self.confirm(done);
                }
                Happens::Abort => transactions.aborted(),
                Happens::Lost(committed) | Happens::Killed(committed) => {
                    if committed {
                        self.store(&batches, progress);
                    }
                    transactions.lost();
                }
                Happens::Batch(_) => {}
            }
        }
    }

    proptest! {
        /// I8: whatever is lost or killed when, each batch is there once, in the order of its shard. I6: what was left out of it
        /// is said each time that it is confirmed.
        #[test]
        fn each_batch_is_there_once(events in prop::collection::vec(happens(), 1..80)) {
            let (mut world, mut transactions) = (World::default(), Transactions::default());
            for event in events {
                match event {
                    Happens::Batch(shard) => transactions.put(world.cut(shard)),
                    end => world.run(&mut transactions, end),
                }
                if matches!(event, Happens::Killed(_)) {
                    transactions = Transactions::default();
                    world.restart().into_iter().for_each(|batch| transactions.put(batch));
                }
            }
            while !transactions.is_empty() {
                world.run(&mut transactions, Happens::Commit);
            }
            prop_assert!(world.outboxes.iter().all(|(_, confirmed)| *confirmed));
            for shard in 0..3u16 {
                let numbers: Vec<u64> = world.rows.iter().filter(|row| row.0 == shard).map(|row| row.1).collect();
                prop_assert_eq!(numbers, (0..world.next[usize::from(shard)]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_sink_that_has_less_than_before_is_refused() {
        let mut transactions: Transactions<Sent> = Transactions::default();
        transactions.recovered(HashMap::from([(3, at(7))])).expect("the first answer is believed");
        transactions.lost();
        let error = transactions.recovered(HashMap::from([(3, at(6))])).expect_err("it went back");
        assert!(error.message().contains("shard 3"), "{error}");
        assert!(transactions.recovered(HashMap::from([(3, at(9))])).is_ok());
    }

    #[test]
    fn a_transaction_is_bounded_but_takes_one_batch_always() {
        let mut transactions = Transactions::default();
        (0..5).for_each(|number| transactions.put(sent(number)));
        assert!(transactions.begin(Bounds { rows: 9, bytes: 9 }).is_none(), "what the sink has is not known yet");
        transactions.recovered(HashMap::new()).expect("nothing is known");
        let sizes = [(Bounds { rows: 1, bytes: 1 }, 1), (Bounds { rows: 3, bytes: 1000 }, 3), (Bounds { rows: 9, bytes: 19 }, 1)];
        for (bounds, size) in sizes {
            assert_eq!(transactions.begin(bounds).expect("some wait").batches.len(), size);
            assert_eq!(transactions.committed(&[]).len(), size);
        }
    }
}
