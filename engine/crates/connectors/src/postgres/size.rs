//! How large transactions are: as large as they may be, and smaller while the server needs longer for them than it may.

use std::time::Duration;

use streamjob_core::transactions::Bounds;

use crate::transacting::{TRANSACTION_BYTES, TRANSACTION_ROWS};

/// Transactions are halved this often at most, which leaves each its first batch alone.
const MAX_HALVINGS: u32 = 24;
/// So many quick transactions, one after the other, take one halving back.
const QUICK_ONES: u32 = 4;
/// A transaction is quick that took at most this part of its time: one of twice the size would have room in it.
const QUICK_PART: u32 = 4;

/// The size of the next transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    halvings: u32,
    /// Transactions that were quick, one after the other, since the last halving or its end.
    quick: u32,
}

impl Size {
    /// What the next transaction may hold; one batch it holds always.
    pub fn bounds(self) -> Bounds {
        bounds_of(self.halvings)
    }

    /// A transaction with so many rows and bytes took longer than it may: the next holds at most half of it, or one batch.
    pub fn too_slow(&mut self, rows: usize, bytes: usize) {
        let halves = |halvings: &u32| {
            let bounds = bounds_of(*halvings);
            bounds.rows <= rows / 2 || bounds.bytes <= bytes / 2
        };
        // Never larger than before: what came was perhaps less than might have.
        let halvings = (self.halvings + 1..MAX_HALVINGS).find(halves).unwrap_or(MAX_HALVINGS);
        *self = Size { halvings, quick: 0 };
    }

    /// A transaction was committed, within `took` of the time that it `may_take`.
    pub fn committed(&mut self, took: Duration, may_take: Duration) {
        let is_quick = took.saturating_mul(QUICK_PART) <= may_take;
        self.quick = if is_quick { self.quick + 1 } else { 0 };
        if self.quick == QUICK_ONES {
            *self = Size { halvings: self.halvings.saturating_sub(1), quick: 0 };
        }
    }
}

fn bounds_of(halvings: u32) -> Bounds {
    Bounds { rows: TRANSACTION_ROWS >> halvings, bytes: TRANSACTION_BYTES >> halvings }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAY_TAKE: Duration = Duration::from_secs(2);

    /// The rows of a transaction that has rows of so many bytes in batches of so many rows, and no end of them.
    fn filled(bounds: Bounds, batch_rows: usize, row_bytes: usize) -> usize {
        let batches = (bounds.rows / batch_rows).min(bounds.bytes / (batch_rows * row_bytes));
        batches.max(1) * batch_rows
    }

    proptest! {
        /// Whatever the server can do within its time: after few failures a transaction fits, or is one batch.
        #[test]
        fn transactions_shrink_until_they_fit(
            batch_rows in 1usize..5000, row_bytes in 1usize..2000, waiting in 1usize..1_000_000, can in 0usize..200_000,
        ) {
            let (mut size, mut failures) = (Size::default(), 0);
            loop {
                let rows = filled(size.bounds(), batch_rows, row_bytes).min(waiting.max(batch_rows));
                if rows <= can || rows == batch_rows {
                    break;
                }
                size.too_slow(rows, rows * row_bytes);
                failures += 1;
                let next = filled(size.bounds(), batch_rows, row_bytes);
                prop_assert!(next <= (rows / 2).max(batch_rows), "{next} rows after {rows}");
            }
            prop_assert!(failures <= MAX_HALVINGS);
        }

        #[test]
        fn sizes_come_back_and_have_bounds(events in prop::collection::vec((any::<bool>(), 0usize..200_000), 0..100)) {
            let mut size = Size::default();
            for (is_slow, number) in events {
                match is_slow {
                    true => size.too_slow(number, number * 100),
                    false => size.committed(MAY_TAKE * (number as u32 % 3) / 2, MAY_TAKE),
                }
                prop_assert!(size.halvings <= MAX_HALVINGS && size.quick < QUICK_ONES);
            }
            for _ in 0..(MAX_HALVINGS * QUICK_ONES) {
                size.committed(Duration::ZERO, MAY_TAKE);
            }
            prop_assert_eq!(size.bounds().rows, TRANSACTION_ROWS);
        }
    }

    #[test]
    fn only_quick_transactions_in_a_row_take_a_halving_back() {
        let mut size = Size::default();
        size.too_slow(TRANSACTION_ROWS, TRANSACTION_BYTES);
        let halved = size.bounds().rows;
        assert_eq!((halved, size.bounds().bytes), (TRANSACTION_ROWS / 2, TRANSACTION_BYTES / 2));
        for took in [MAY_TAKE / 4, MAY_TAKE / 4, MAY_TAKE / 4, MAY_TAKE / 2, MAY_TAKE / 4, MAY_TAKE / 4, MAY_TAKE / 4] {
            size.committed(took, MAY_TAKE);
            assert_eq!(size.bounds().rows, halved, "the slow one counts anew");
        }
        size.committed(MAY_TAKE / 4, MAY_TAKE);
        assert_eq!(size.bounds().rows, TRANSACTION_ROWS);
    }

    #[test]
    fn at_last_a_transaction_has_room_for_its_first_batch_alone() {
        let mut size = Size::default();
        for _ in 0..2 * MAX_HALVINGS {
            size.too_slow(1, 10);
        }
        assert_eq!((size.bounds().rows, size.bounds().bytes), (0, 0));
    }
}
