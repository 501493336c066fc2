//! Switches that take out the guard of one invariant, so that the simulation can show that it would notice.
//!
//! Without the feature `removable-guards`, which only tests turn on, [`off`] is the constant `false`.

/// The guard of one invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// I1: a commit is atomic.
    Atomic = 1,
    /// I2: a shard refuses what would leave a gap.
    Gap = 2,
    /// I2: rows that a shard has are skipped.
    Duplicate = 3,
    /// I3: a split is trimmed only up to the lowest committed position.
    Trim = 4,
    /// I4: no commit runs ahead of the journal.
    CommitAfterJournal = 5,
    /// I4: a client is answered after the fsync.
    AcknowledgeAfterSync = 6,
    /// I6: a full outbox takes no rows.
    FullWaits = 7,
    /// I8: exactly-once output leaves after the commit.
    SendAfterCommit = 8,
    /// I8: unconfirmed output enters the outbox.
    Outbox = 9,
    /// I10: a repeated request is known by its id.
    Idempotency = 10,
    /// I11: a row sees the statistics as they stood just before it.
    StatisticsBefore = 11,
    /// I4: each start opens a new incarnation.
    Incarnation = 12,
    /// I8: a file segment is visible only after its commit, and never overwritten.
    Segment = 13,
    /// I4: after a failed write or sync the journal writes no more.
    EndAfterFailure = 14,
    /// I11: a row's watermark is that of the rows before it.
    RowWatermark = 15,
    /// I2: what comes before its turn waits.
    Order = 16,
    /// I6: only so many deliveries wait for one before them.
    HeldBound = 17,
    /// I4: room is made before rows are handed on.
    Reserve = 18,
    /// I10: a torn record is no record.
    WholeRecord = 19,
    /// I1: what no commit has stays in memory.
    EvictClean = 20,
    /// I1: commits of a shard come one after the other.
    OneCommit = 21,
    /// I8: at-least-once batches of two runs have different keys.
    KeyOfRun = 22,
    /// I9: a full shard leaves its rows, and the others go on.
    Leave = 23,
    /// I9: what a shard has left is read again.
    ReadAgain = 24,
    /// I1: the open windows of a key that left memory close as all others.
    CloseCold = 25,
    /// I8: batches that a sink with transactions has already are not sent again.
    TakeKnown = 26,
    /// I9: a split of which a shard has left rows holds back its watermark.
    LeftIsActive = 27,
    /// I10: requests wait until the journals of earlier starts are read.
    Gate = 28,
    /// I4: a start's journal sorts behind those before it, whatever the clock says.
    StartOrder = 29,
    /// I8: a sink that comes back to the job uses no number twice.
    KeepNumbers = 30,
    /// I11: an idle split that brings rows holds back the watermark again.
    Awake = 31,
    /// I1: a key's record is newer than what a block of keys has of it.
    OwnRecordFirst = 32,
}

impl Guard {
    pub const ALL: [Guard; 32] = [
        Guard::Atomic,
        Guard::Gap,
        Guard::Duplicate,
        Guard::Trim,
        Guard::CommitAfterJournal,
        Guard::AcknowledgeAfterSync,
        Guard::FullWaits,
        Guard::SendAfterCommit,
        Guard::Outbox,
        Guard::Idempotency,
        Guard::StatisticsBefore,
        Guard::Incarnation,
        Guard::Segment,
        Guard::EndAfterFailure,
        Guard::RowWatermark,
        Guard::Order,
        Guard::HeldBound,
        Guard::Reserve,
        Guard::WholeRecord,
        Guard::EvictClean,
        Guard::OneCommit,
        Guard::KeyOfRun,
        Guard::Leave,
        Guard::ReadAgain,
        Guard::CloseCold,
        Guard::TakeKnown,
        Guard::LeftIsActive,
        Guard::Gate,
        Guard::StartOrder,
        Guard::KeepNumbers,
        Guard::Awake,
        Guard::OwnRecordFirst,
    ];
}

#[cfg(feature = "removable-guards")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<u64> = const { Cell::new(0) };
    }

    /// Takes the guard out on this thread, or puts it back.
    pub fn set_off(guard: super::Guard, off: bool) {
        OFF.with(|bits| {
            let bit = 1 << guard as u64;
            bits.set(if off { bits.get() | bit } else { bits.get() & !bit });
        });
    }

    pub fn off(guard: super::Guard) -> bool {
        OFF.with(|bits| bits.get() & (1 << guard as u64) != 0)
    }
}

#[cfg(feature = "removable-guards")]
pub use switch::{off, set_off};

/// Whether the guard is taken out.
#[cfg(not(feature = "removable-guards"))]
#[inline(always)]
pub const fn off(_guard: Guard) -> bool {
    false
}
