//! Deliveries that came before their turn: chunks of one split are decoded by several threads at once.
//!
//! Invariant (I2): what leaves for one split leaves in the order of the split and without gaps; what would leave a gap
//! waits for what belongs before it.

use std::collections::BTreeMap;

use crate::guards::{self, Guard};
use crate::processor::Delivery;
use crate::progress::{SplitIndex, SplitStatus};

/// Deliveries of one split that may wait for one before them; what brings more keeps them and brings them again (I6).
pub const MAX_HELD_DELIVERIES: usize = 1024;

/// Which part of which split something covers.
pub trait Covers {
    fn split(&self) -> SplitIndex;
    /// Where it begins to cover the split.
    fn covers_from(&self) -> u64;
    /// The offset behind it.
    fn covers_to(&self) -> u64;
    /// Its rows, for the bound of one take.
    fn rows(&self) -> usize;
}

impl Covers for Delivery {
    fn split(&self) -> SplitIndex {
        self.split
    }

    fn covers_from(&self) -> u64 {
        self.covers_from
    }

    fn covers_to(&self) -> u64 {
        self.to()
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }
}

/// Brings deliveries into the order of their splits.
#[derive(Debug)]
pub struct Reorder<T> {
    splits: Vec<Order<T>>,
    max_held: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Order<T> {
    /// The offset wanted next.
    next: u64,
    /// By the offset from which they cover, then by arrival.
    held: BTreeMap<(u64, u64), T>,
    status: Option<(u64, SplitStatus)>,
}

impl<T: Covers> Reorder<T> {
    /// `starts`: by split, the offset that comes first.
    pub fn new(starts: &[u64]) -> Reorder<T> {
        Reorder::with_bound(starts, MAX_HELD_DELIVERIES)
    }

    /// As [`Reorder::new`] with another bound.
    pub fn with_bound(starts: &[u64], max_held: usize) -> Reorder<T> {
        let order = |next: &u64| Order { next: *next, held: BTreeMap::new(), status: None };
        Reorder { splits: starts.iter().map(order).collect(), max_held: max_held.max(1), arrivals: 0 }
    }

    /// Takes a delivery in. One that comes too early while too many wait is given back; the one that all wait for never is.
    pub fn put(&mut self, item: T) -> Result<(), T> {
        let order = &mut self.splits[usize::from(item.split())];
        let from = item.covers_from();
        if from > order.next && order.held.len() >= self.max_held && !guards::off(Guard::HeldBound) {
            return Err(item);
        }
        self.arrivals += 1;
        order.held.insert((from, self.arrivals), item);
        Ok(())
    }

    /// Keeps what a split's reader says until the offset for which it says so is reached; the newest counts.
    pub fn put_status(&mut self, split: SplitIndex, at: u64, status: SplitStatus) {
        self.splits[usize::from(split)].status = Some((at, status));
    }

    /// Moves deliveries whose turn it is to `ready`, until it has `max_rows`.
    pub fn take(&mut self, max_rows: usize, ready: &mut Vec<T>) {
        let mut rows = 0;
        for order in &mut self.splits {
            while rows < max_rows
                && let Some(entry) = order.held.first_entry()
                && (entry.key().0 <= order.next || guards::off(Guard::Order))
            {
                let item = entry.remove();
                order.next = order.next.max(item.covers_to());
                rows += item.rows();
                ready.push(item);
            }
        }
    }

    /// A status whose offset is reached. An idle reader that has brought rows since is not idle.
    pub fn take_status(&mut self) -> Option<(SplitIndex, SplitStatus)> {
        for (split, order) in self.splits.iter_mut().enumerate() {
            let Some((at, status)) = order.status else { continue };
            if at > order.next || !order.held.is_empty() {
                continue;
            }
            order.status = None;
            if at == order.next || status == SplitStatus::Finished {
                return Some((split as SplitIndex, status));
            }
        }
        None
    }

    /// The offset that a split's deliveries wait for, where some wait: who brings rows must bring those again.
    pub fn gap(&self, split: SplitIndex) -> Option<u64> {
        let order = &self.splits[usize::from(split)];
        let ((from, _), _) = order.held.first_key_value()?;
        (*from > order.next).then_some(order.next)
    }

    /// Whether deliveries are there whose turn it is.
    pub fn has_ready(&self) -> bool {
        self.splits.iter().any(|order| order.held.first_key_value().is_some_and(|((from, _), _)| *from <= order.next))
    }

    /// The offset wanted next of a split.
    pub fn next_offset(&self, split: SplitIndex) -> u64 {
        self.splits[usize::from(split)].next
    }

    /// Deliveries of a split that wait.
    pub fn held(&self, split: SplitIndex) -> usize {
        self.splits[usize::from(split)].held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.splits.iter().all(|order| order.held.is_empty() && order.status.is_none())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Piece(SplitIndex, u64, u64);

    impl Covers for Piece {
        fn split(&self) -> SplitIndex {
            self.0
        }
        fn covers_from(&self) -> u64 {
            self.1
        }
        fn covers_to(&self) -> u64 {
            self.2
        }
        fn rows(&self) -> usize {
            (self.2 - self.1) as usize
        }
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_leaves_in_the_order_of_the_split(
            lengths in prop::collection::vec(0u64..5, 1..40), order in prop::collection::vec(any::<u32>(), 40), max_rows in 1usize..9,
        ) {
            let mut at = 7;
            let mut pieces: Vec<(u32, Piece)> = std::iter::zip(&lengths, order)
                .map(|(length, order)| {
                    at += length;
                    (order, Piece(0, at - length, at))
                })
                .collect();
            pieces.sort_by_key(|(order, _)| *order);
            let mut reorder = Reorder::new(&[7]);
            let mut left = Vec::new();
            for (_, piece) in pieces {
                reorder.put(piece).expect("below the bound");
                reorder.take(max_rows, &mut left);
            }
            while !reorder.is_empty() {
                reorder.take(max_rows, &mut left);
            }
            let mut next = 7;
            for Piece(_, from, to) in &left {
                prop_assert!(*from <= next);
                next = next.max(*to);
            }
            prop_assert_eq!((left.len(), next), (lengths.len(), at));
        }
    }

    #[test]
    fn the_bound_holds_but_for_what_all_wait_for() {
        let mut reorder = Reorder::with_bound(&[0, 0], 2);
        assert!(reorder.put(Piece(0, 2, 3)).is_ok());
        assert!(reorder.put(Piece(0, 3, 4)).is_ok());
        assert_eq!(reorder.put(Piece(0, 4, 5)), Err(Piece(0, 4, 5)));
        assert!(reorder.put(Piece(1, 9, 10)).is_ok(), "splits do not share the bound");
        assert_eq!((reorder.gap(0), reorder.held(0)), (Some(0), 2));
        assert!(reorder.put(Piece(0, 0, 2)).is_ok());
        assert_eq!(reorder.gap(0), None);
        let mut ready = Vec::new();
        reorder.take(100, &mut ready);
        assert_eq!(ready, [Piece(0, 0, 2), Piece(0, 2, 3), Piece(0, 3, 4)]);
        assert_eq!(reorder.next_offset(0), 4);
    }

    #[test]
    fn a_status_waits_for_its_offset_and_idleness_ends_with_rows() {
        let mut reorder = Reorder::new(&[0]);
        let mut ready = Vec::new();
        reorder.put_status(0, 3, SplitStatus::Idle);
        assert_eq!(reorder.take_status(), None);
        reorder.put(Piece(0, 0, 3)).expect("below the bound");
        reorder.take(9, &mut ready);
        assert_eq!(reorder.take_status(), Some((0, SplitStatus::Idle)));
        reorder.put_status(0, 3, SplitStatus::Idle);
        reorder.put(Piece(0, 3, 5)).expect("below the bound");
        reorder.take(9, &mut ready);
        assert_eq!(reorder.take_status(), None);
        assert!(reorder.is_empty());
    }
}
