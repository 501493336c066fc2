//! Rows on their way to a message sink: staged, then cut into numbered batches that stay until the sink confirms them.
//!
//! ```text
//!  exactly-once:   stage ──▶ commit cuts batches and stores them ──▶ send ──▶ confirm ──▶ next commit deletes
//!  at-least-once:  stage ──▶ cut ──▶ send ──▶ confirm
//!                             └─ still unconfirmed at a commit: stored, and sent again after a crash
//! ```
//!
//! A batch's bytes and number never change once it was cut, so that a retry is identical to the byte (I8).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Delivery;
use crate::guards::{self, Guard};

/// One shard's outbox holds at most this many bytes; above it the shard takes no rows (I6: full means wait) and
/// leaves those that come (I9).
pub const MAX_OUTBOX_BYTES: usize = 32 << 20;

/// A numbered batch of rows, as it is sent: a JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub number: u64,
    pub rows: u32,
    pub body: Arc<[u8]>,
    /// Once the batch may leave, those below this number are confirmed and deleted by a commit: they never come again.
    pub confirmed_below: u64,
}

/// The first number of an output incarnation: a state that was restored from before what its sinks have must not use their
/// batches' numbers, which are their keys, for other rows.
pub fn first_number(incarnation: u32) -> u64 {
    u64::from(incarnation) << NUMBER_BITS
}

/// The output incarnation that a number belongs to.
pub fn incarnation_of(number: u64) -> u32 {
    (number >> NUMBER_BITS) as u32
}

/// An incarnation has so many numbers, as a power of two.
const NUMBER_BITS: u32 = 40;

/// The `Idempotency-Key` of a batch, for a server that takes each key once.
///
/// An exactly-once batch has its number for ever, since it was committed before it left. An at-least-once batch may leave
/// before its commit, and after a crash its number stands for other rows: those must not be taken for a repeat. `run` is
/// different at each start.
pub fn idempotency_key(delivery: Delivery, state: &str, run: &str, sink: &str, shard: u16, number: u64) -> String {
    match delivery {
        Delivery::AtLeastOnce if !guards::off(Guard::KeyOfRun) => format!("{state}-{sink}-{shard}-{number}-{run}"),
        _ => format!("{state}-{sink}-{shard}-{number}"),
    }
}

#[derive(Debug)]
struct Held {
    batch: Batch,
    stored: bool,
}

/// The outbox of one shard for one message sink.
#[derive(Debug)]
pub struct Outbox {
    max_batch_rows: u32,
    max_bytes: usize,
    next_number: u64,
    staged: Vec<u8>,
    /// End of each staged row within `staged`.
    staged_ends: Vec<u32>,
    held: VecDeque<Held>,
    /// Stored batches that were confirmed since the last commit.
    confirmed_stored: Vec<u64>,
    bytes: usize,
}

impl Outbox {
    pub fn new(max_batch_rows: u32, next_number: u64) -> Outbox {
        Outbox {
            max_batch_rows,
            max_bytes: MAX_OUTBOX_BYTES,
            next_number,
            staged: Vec::new(),
            staged_ends: Vec::new(),
            held: VecDeque::new(),
            confirmed_stored: Vec::new(),
            bytes: 0,
        }
    }

    /// The outbox with another bound in bytes.
    pub fn bounded(mut self, max_bytes: usize) -> Outbox {
        self.max_bytes = max_bytes;
        self
    }

    /// Takes up a batch that the store held at the start, in the order of their numbers.
    pub fn restore(&mut self, mut batch: Batch) {
        debug_assert!(batch.number < self.next_number);
        batch.confirmed_below = self.first_held().unwrap_or(batch.number);
        self.bytes += batch.body.len();
        self.held.push_back(Held { batch, stored: true });
    }

    fn first_held(&self) -> Option<u64> {
        self.held.front().map(|held| held.batch.number)
    }

    /// Goes on with the numbers of an output incarnation. Batches that are there keep theirs. False: it was there already.
    pub fn begin_incarnation(&mut self, incarnation: u32) -> bool {
        let first = first_number(incarnation);
        let begins = self.next_number < first;
        self.next_number = self.next_number.max(first);
        begins
    }

    /// Adds one row: a JSON object.
    pub fn stage(&mut self, row: &[u8]) {
        self.stage_with(|staged| staged.extend_from_slice(row));
    }

    /// Adds one row, which `write` appends.
    pub(crate) fn stage_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.staged);
        self.staged_ends.push(self.staged.len() as u32);
    }

    pub fn has_staged(&self) -> bool {
        !self.staged_ends.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.bytes() > self.max_bytes && !guards::off(Guard::FullWaits)
    }

    /// Whether at least half of it is free: a shard that was full goes on then, and not after each confirmation.
    pub fn has_room(&self) -> bool {
        self.bytes() <= self.max_bytes / 2
    }

    /// Bytes of rows that were not confirmed yet.
    pub fn bytes(&self) -> usize {
        self.bytes + self.staged.len()
    }

    /// Rows that were not confirmed yet.
    pub fn pending_rows(&self) -> u64 {
        self.staged_ends.len() as u64 + self.held.iter().map(|held| u64::from(held.batch.rows)).sum::<u64>()
    }

    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Cuts what is staged into batches of at most `max_batch_rows`.
    pub fn cut(&mut self) -> Vec<Batch> {
        let mut cut = Vec::new();
        let mut start = 0usize;
        // Exactly-once batches are cut for the commit that deletes what was confirmed.
        let confirmed_below = self.first_held().unwrap_or(self.next_number);
        for ends in self.staged_ends.chunks(self.max_batch_rows as usize) {
            let mut body = Vec::with_capacity(*ends.last().expect("chunks are not empty") as usize - start + ends.len() + 2);
            for end in ends {
                body.push(if body.is_empty() { b'[' } else { b',' });
                body.extend_from_slice(&self.staged[start..*end as usize]);
                start = *end as usize;
            }
            body.push(b']');
            let batch = Batch { number: self.next_number, rows: ends.len() as u32, body: body.into(), confirmed_below };
            self.next_number += 1;
            self.bytes += batch.body.len();
            self.held.push_back(Held { batch: batch.clone(), stored: false });
            cut.push(batch);
        }
        self.staged.clear();
        self.staged_ends.clear();
        cut
    }

    /// For a commit: batches to store now, and numbers of stored ones to delete.
    pub fn freeze(&mut self) -> (Vec<Batch>, Vec<u64>) {
        let mut store = Vec::new();
        if !guards::off(Guard::Outbox) {
            for held in self.held.iter_mut().filter(|held| !held.stored) {
                held.stored = true;
                store.push(held.batch.clone());
            }
        }
        (store, std::mem::take(&mut self.confirmed_stored))
    }

    /// The sink has this batch, or it was given up for good. Returns it unless it was confirmed before.
    pub fn confirm(&mut self, number: u64) -> Option<Batch> {
        let place = self.held.iter().position(|held| held.batch.number == number)?;
        let held = self.held.remove(place)?;
        self.bytes -= held.batch.body.len();
        if held.stored {
            self.confirmed_stored.push(number);
        }
        Some(held.batch)
    }

    /// Batches that are not confirmed, in order.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &Batch> {
        self.held.iter().map(|held| &held.batch)
    }

    pub fn has_confirmations_to_store(&self) -> bool {
        !self.confirmed_stored.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_arrays_of_bounded_length_with_growing_numbers() {
        let mut outbox = Outbox::new(2, 7);
        for row in ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"] {
            outbox.stage(row.as_bytes());
        }
        let cut = outbox.cut();
        assert_eq!(cut.iter().map(|batch| batch.number).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(&*cut[0].body, b"[{\"a\":1},{\"a\":2}]");
        assert_eq!(&*cut[1].body, b"[{\"a\":3}]");
        assert_eq!(outbox.pending_rows(), 3);
    }

    #[test]
    fn a_batch_is_stored_once_and_deleted_once() {
        let mut outbox = Outbox::new(10, 0);
        outbox.stage(b"{}");
        outbox.cut();
        assert_eq!(outbox.freeze().0.len(), 1);
        assert_eq!(outbox.freeze().0.len(), 0);
        assert!(outbox.confirm(0).is_some());
        assert!(outbox.confirm(0).is_none());
        assert_eq!(outbox.freeze().1, [0]);
        assert!(outbox.freeze().1.is_empty());
    }

    #[test]
    fn keys_tell_runs_apart_only_where_numbers_may_be_used_again() {
        let key = |delivery, run| idempotency_key(delivery, "state", run, "alerts", 3, 9);
        assert_eq!(key(Delivery::ExactlyOnce, "a"), key(Delivery::ExactlyOnce, "b"));
        assert_ne!(key(Delivery::AtLeastOnce, "a"), key(Delivery::AtLeastOnce, "b"));
    }

    #[test]
    fn an_incarnation_has_numbers_of_its_own_and_older_batches_keep_theirs() {
        let mut outbox = Outbox::new(10, 7);
        outbox.stage(b"{}");
        assert_eq!(outbox.cut()[0].number, 7);
        assert!(outbox.begin_incarnation(1) && !outbox.begin_incarnation(1));
        outbox.stage(b"{}");
        assert_eq!(outbox.cut()[0].number, first_number(1));
        assert!(outbox.begin_incarnation(2) && !outbox.begin_incarnation(1));
        assert_eq!(outbox.unconfirmed().map(|batch| batch.number).collect::<Vec<_>>(), [7, 1 << 40]);
        assert_eq!(outbox.next_number(), 2 << 40);
    }

    #[test]
    fn a_batch_says_below_which_number_none_comes_again() {
        let mut outbox = Outbox::new(1, 0);
        let cut = |outbox: &mut Outbox| {
            outbox.stage(b"{}");
            outbox.cut().remove(0)
        };
        let floors = [0, 1].map(|_| cut(&mut outbox).confirmed_below);
        outbox.freeze();
        outbox.confirm(0);
        assert_eq!((floors, cut(&mut outbox).confirmed_below), ([0, 0], 1));
        outbox.confirm(2);
        assert_eq!(cut(&mut outbox).confirmed_below, 1, "1 is not confirmed");
        outbox.freeze();
        let mut again = Outbox::new(1, 4);
        outbox.unconfirmed().for_each(|batch| again.restore(batch.clone()));
        assert_eq!(again.unconfirmed().map(|batch| batch.confirmed_below).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_was_confirmed_before_a_commit_never_reaches_the_store() {
        let mut outbox = Outbox::new(10, 0);
        outbox.stage(b"{}");
        outbox.cut();
        outbox.confirm(0);
        assert_eq!(outbox.freeze(), (vec![], vec![]));
    }
}
