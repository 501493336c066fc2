//! The search for rows that a topic does not take, by sending their batch in parts.
//!
//! A broker refuses messages that came together as a whole, without saying which of them is the reason, and also those that are
//! only too much together. So a part that is refused is tried in halves, and a row is given up only where it is refused alone.
//! One of them costs as many tries as its batch has halvings, and all of them at most two for each row.

use std::ops::Range;

use streamjob_core::transactions::{Bounds, RefusedRow};

use crate::deliveries::Delivery;
use crate::transacting::{TRANSACTION_BYTES, TRANSACTION_ROWS};

/// A batch in parts that are sent one after the other, in the order of its rows.
#[derive(Debug)]
pub(super) struct Parts {
    batch: u64,
    /// Places of rows. Those that are given up are in none.
    parts: Vec<Range<usize>>,
    /// The part that is tried next.
    at: usize,
    refused: Vec<RefusedRow>,
}

impl Parts {
    /// Of a batch with so many rows; some, in their order, are known to be `refused` whatever comes.
    pub fn new(batch: u64, rows: usize, refused: Vec<RefusedRow>) -> Parts {
        let (mut parts, mut from) = (Vec::new(), 0);
        for place in refused.iter().map(|row| row.row as usize).chain([rows]) {
            if from < place {
                parts.push(from..place);
            }
            from = place + 1;
        }
        Parts { batch, parts, at: 0, refused }
    }

    /// What was sent was given up: all parts go out again, those that were taken and those that were not yet tried.
    pub fn restart(&mut self) {
        self.at = 0;
    }

    /// The part that is tried next; `None` once all are taken.
    pub fn part(&self) -> Option<Range<usize>> {
        self.parts.get(self.at).cloned()
    }

    /// The part that was tried is taken.
    pub fn taken(&mut self) {
        self.at += 1;
    }

    /// The part that was tried is not taken: it is halved, or its only row is given up for this reason.
    pub fn refused(&mut self, reason: String) {
        let Some(part) = self.part() else { return };
        if part.len() > 1 {
            let middle = part.start + part.len() / 2;
            self.parts[self.at] = part.start..middle;
            self.parts.insert(self.at + 1, middle..part.end);
        } else {
            self.parts.remove(self.at);
            self.refused.push(RefusedRow { batch: self.batch, row: part.start as u32, reason });
        }
    }

    /// The rows that are given up.
    pub fn given_up(&self) -> &[RefusedRow] {
        &self.refused
    }
}

/// Which batches of an exactly-once sink are tried alone, and how far the first of them is.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Batches that a transaction was given up for, and that have not been committed since.
    left: usize,
    /// How often searching began.
    begun: u32,
    /// The batch that is tried at the moment: its shard, its number, its parts.
    current: Option<(u16, u64, Parts)>,
    /// The last transaction was refused, and none has been tried since.
    has_gap: bool,
}

impl Search {
    /// A transaction with so many batches was given up, because rows of it are not taken. True where a person should hear of
    /// it: the first time, and ever more rarely.
    pub fn begin(&mut self, batches: usize) -> bool {
        let begins = self.left == 0;
        self.has_gap = true;
        self.left = self.left.max(batches);
        self.begun = self.begun.saturating_add(u32::from(begins));
        begins && self.begun.is_power_of_two()
    }

    /// How large the next transaction gets: a batch that is searched is alone in it.
    pub fn bounds(&self) -> Bounds {
        match self.left {
            0 => Bounds { rows: TRANSACTION_ROWS, bytes: TRANSACTION_BYTES },
            _ => Bounds { rows: 0, bytes: 0 },
        }
    }

    /// The parts of a transaction's batches, from the first one on, where it is to be sent in parts. What the search has found is
    /// added to the rows that are `refused`.
    pub fn parts(&mut self, batches: &[Delivery], refused: &mut Vec<(u16, RefusedRow)>) -> Option<&mut Parts> {
        let [delivery] = batches else { return None };
        if self.left == 0 {
            return None;
        }
        let (shard, number) = (delivery.shard, delivery.last_seq);
        if self.current.as_ref().is_none_or(|(of, at, _)| (*of, *at) != (shard, number)) {
            let known = refused.iter().map(|(_, row)| row.clone()).collect();
            self.current = Some((shard, number, Parts::new(number, delivery.batch.rows as usize, known)));
        }
        let (_, _, parts) = self.current.as_mut()?;
        parts.restart();
        *refused = parts.given_up().iter().map(|row| (shard, row.clone())).collect();
        Some(parts)
    }

    /// Whether a transaction that was given up for another reason is begun again at once. Refused messages leave a gap in the
    /// numbers of those behind them: the broker does not take the next transaction either, and the client begins with new
    /// numbers then.
    pub fn mends_gap(&mut self) -> bool {
        std::mem::take(&mut self.has_gap)
    }

    /// A transaction with so many batches was committed.
    pub fn committed(&mut self, batches: usize) {
        self.left = self.left.saturating_sub(batches);
        (self.current, self.has_gap) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::webhook::WebhookBatch;

    fn row(row: u32) -> RefusedRow {
        RefusedRow { batch: 7, row, reason: "too large".to_owned() }
    }

    /// Sends the parts to a topic that refuses some rows, and more than so many together. Gives the rows that are given up, the
    /// rows that the topic has in the end, and how many tries it took. `transaction`: what was taken is lost with each refusal.
    fn searched(parts: &mut Parts, bad: &[usize], most: usize, transaction: bool) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut there, mut refusals) = (Vec::new(), 0);
        while let Some(part) = parts.part() {
            if part.len() > most || part.clone().any(|row| bad.contains(&row)) {
                refusals += 1;
                parts.refused("bad".to_owned());
                if transaction {
                    there.clear();
                    parts.restart();
                }
            } else {
                there.extend(part);
                parts.taken();
            }
        }
        (parts.given_up().iter().map(|row| row.row as usize).collect(), there, refusals)
    }

    proptest! {
        /// I6: only rows that are refused alone are given up, all others are there once and in their order, after a bounded
        /// number of tries.
        #[test]
        fn rows_that_are_refused_alone_are_given_up_and_no_others(
            rows in 1usize..60,
            bad in prop::collection::btree_set(0usize..60, 0..20),
            most in 1usize..60,
            transaction in any::<bool>(),
        ) {
            let bad: Vec<usize> = bad.into_iter().filter(|place| *place < rows).collect();
            let (given_up, there, refusals) = searched(&mut Parts::new(7, rows, Vec::new()), &bad, most, transaction);
            prop_assert_eq!(&given_up, &bad);
            prop_assert_eq!(there, (0..rows).filter(|place| !bad.contains(place)).collect::<Vec<_>>());
            prop_assert!(refusals < 2 * rows);
        }
    }

    #[test]
    fn rows_that_are_known_to_be_refused_are_never_sent() {
        let mut parts = Parts::new(7, 6, vec![row(0), row(3), row(5)]);
        let (given_up, there, refusals) = searched(&mut parts, &[2], 60, true);
        assert_eq!((given_up, there, refusals), (vec![0, 3, 5, 2], vec![1, 4], 2));
        assert_eq!(Parts::new(7, 1, vec![row(0)]).part(), None);
    }

    fn delivery(last_seq: u64) -> Delivery {
        let batch = WebhookBatch { body: "[{},{}]".into(), rows: 2, idempotency_key: String::new(), traceparent: None };
        Delivery { shard: 3, sink: Arc::from("out"), last_seq, confirmed_below: 0, batch }
    }

    #[test]
    fn batches_are_tried_alone_until_all_of_the_transaction_are_there() {
        let (mut search, mut refused) = (Search::default(), Vec::new());
        let first = [delivery(7)];
        assert!(search.parts(&first, &mut refused).is_none(), "nothing was refused yet");
        assert!(search.begin(2) && search.bounds().rows == 0);
        let parts = search.parts(&first, &mut refused).expect("it is searched");
        parts.refused("both".to_owned());
        parts.refused("bad".to_owned());
        assert!(!search.begin(1), "it goes on");
        // What was found is known with the next transaction.
        let parts = search.parts(&first, &mut refused).expect("it is searched");
        assert_eq!(parts.part(), Some(1..2));
        assert_eq!(refused, [(3, RefusedRow { batch: 7, row: 0, reason: "bad".to_owned() })]);
        search.committed(1);
        refused.clear();
        assert_eq!(search.parts(&[delivery(8)], &mut refused).expect("the second one").part(), Some(0..2));
        assert!(refused.is_empty());
        search.committed(1);
        assert!(search.bounds().rows > 0 && search.parts(&[delivery(9)], &mut refused).is_none());
    }

    #[test]
    fn one_transaction_behind_a_refused_one_is_begun_again_at_once() {
        let mut search = Search::default();
        assert!(!search.mends_gap());
        search.begin(1);
        assert!(search.mends_gap() && !search.mends_gap());
        search.begin(1);
        search.committed(1);
        assert!(!search.mends_gap());
    }
}
