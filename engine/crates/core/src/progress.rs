//! How far a shard is in each split, and the watermark that follows from it.

use serde::{Deserialize, Serialize};

/// Number of a split within one process run.
pub type SplitIndex = u16;

/// No row seen yet, or no watermark yet.
pub const NO_TIME: i64 = i64::MIN;
/// The watermark once every split has finished.
pub const END_OF_TIME: i64 = i64::MAX;

/// Whether a split holds the watermark back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitStatus {
    Active,
    /// Its connected reader said that nothing comes at the moment.
    Idle,
    /// It goes on where another split ends that has not ended yet: no row of it can come sooner.
    Waiting,
    /// Nothing will ever come again.
    Finished,
}

/// A shard's progress in one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitProgress {
    /// The next offset wanted (I2).
    pub position: u64,
    /// Latest event time of all rows of the split before `position`, also of those of other shards.
    pub max_time_us: i64,
    pub status: SplitStatus,
}

impl SplitProgress {
    pub fn new() -> SplitProgress {
        SplitProgress { position: 0, max_time_us: NO_TIME, status: SplitStatus::Active }
    }
}

impl Default for SplitProgress {
    fn default() -> SplitProgress {
        SplitProgress::new()
    }
}

/// What a shard does with a message that covers `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Take the rows from this offset on: those before it are already in.
    Take { from: u64 },
    /// Everything in it is already in.
    Stale,
    /// Rows are missing in between; read again from this offset (I2).
    Gap { wanted: u64 },
}

/// Decides whether a shard at `position` takes a message that covers `[from, to)` (I2).
#[inline]
pub fn admit(position: u64, from: u64, to: u64) -> Admission {
    if from > position && !crate::guards::off(crate::guards::Guard::Gap) {
        return Admission::Gap { wanted: position };
    }
    if crate::guards::off(crate::guards::Guard::Duplicate) {
        return Admission::Take { from };
    }
    if position > to || (position == to && from < to) {
        return Admission::Stale;
    }
    Admission::Take { from: position }
}

/// A split's watermark: its latest event time less the bound on disorder.
#[inline]
pub fn split_watermark(max_time_us: i64, max_out_of_orderness_us: i64) -> i64 {
    if max_time_us == NO_TIME { NO_TIME } else { max_time_us.saturating_sub(max_out_of_orderness_us) }
}

/// The minimum over all splits but `except` that hold the watermark back; `None` where there is none.
pub fn others_watermark(splits: &[SplitProgress], except: Option<usize>, max_out_of_orderness_us: i64) -> Option<i64> {
    splits
        .iter()
        .enumerate()
        .filter(|(index, split)| split.status == SplitStatus::Active && Some(*index) != except)
        .map(|(_, split)| split_watermark(split.max_time_us, max_out_of_orderness_us))
        .min()
}

/// The shard's watermark: the minimum over its active splits, never going back. When none is active it stays; the jump
/// to the end of time comes only by [`END_OF_TIME`] from whoever knows that nothing follows.
pub fn shard_watermark(current_us: i64, splits: &[SplitProgress], max_out_of_orderness_us: i64) -> i64 {
    others_watermark(splits, None, max_out_of_orderness_us).map_or(current_us, |minimum| minimum.max(current_us))
}

/// Start of the tumbling window of `size_us` that holds `time_us`: aligned to the epoch, floor also below zero.
#[inline]
pub fn window_start(time_us: i64, size_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(size_us))
}

/// A number as one without a sign, in the same order.
#[inline]
pub(crate) fn sortable(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

/// The number again.
#[inline]
pub(crate) fn unsortable(sortable: u64) -> i64 {
    (sortable ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_holds_its_time(time in any::<i32>(), size in 1i64..100_000) {
            let time = i64::from(time);
            let start = window_start(time, size);
            prop_assert!(start <= time && time < start + size);
            prop_assert_eq!(start.rem_euclid(size), 0);
        }

        #[test]
        fn starts_keep_their_order(one in any::<i64>(), other in any::<i64>()) {
            prop_assert_eq!(one.cmp(&other), sortable(one).cmp(&sortable(other)));
            prop_assert_eq!(unsortable(sortable(one)), one);
        }

        #[test]
        fn a_message_is_taken_where_it_meets_the_position(position in 0u64..20, from in 0u64..20, length in 0u64..10) {
            let to = from + length;
            match admit(position, from, to) {
                Admission::Take { from: first } => prop_assert!(first == position && from <= position && position <= to),
                Admission::Gap { wanted } => prop_assert!(wanted == position && from > position),
                Admission::Stale => prop_assert!(position >= to),
            }
        }

        #[test]
        fn the_watermark_never_goes_back(current in any::<i32>(), maxima in prop::collection::vec(prop::option::of(any::<i32>()), 0..4)) {
            let splits: Vec<_> = maxima
                .iter()
                .map(|max| SplitProgress { max_time_us: max.map_or(NO_TIME, i64::from), ..SplitProgress::new() })
                .collect();
            prop_assert!(shard_watermark(i64::from(current), &splits, 5) >= i64::from(current));
        }
    }

    #[test]
    fn a_silent_split_holds_the_watermark_until_it_is_idle() {
        let mut splits = [SplitProgress { max_time_us: 100, ..SplitProgress::new() }, SplitProgress::new()];
        assert_eq!(shard_watermark(NO_TIME, &splits, 10), NO_TIME);
        splits[1].status = SplitStatus::Idle;
        assert_eq!(shard_watermark(NO_TIME, &splits, 10), 90);
        splits[0].status = SplitStatus::Idle;
        assert_eq!(shard_watermark(90, &splits, 10), 90);
    }
}
