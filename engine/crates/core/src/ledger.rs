//! What became of each row (I6): every row below the committed positions is counted once, under one outcome.

use serde::{Deserialize, Serialize};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// It updated windows and could reach the sinks.
    Applied = 0,
    /// `spec.where` was not true for it.
    Filtered = 1,
    /// It came after every window that it belongs to had closed.
    Late = 2,
    /// It could not be decoded, or lies too far in the future.
    Rejected = 3,
    /// A UDF failed on it.
    Failed = 4,
    /// Its request had been taken before.
    Duplicate = 5,
}

impl Outcome {
    pub const ALL: [Outcome; 6] =
        [Outcome::Applied, Outcome::Filtered, Outcome::Late, Outcome::Rejected, Outcome::Failed, Outcome::Duplicate];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Filtered => "filtered",
            Outcome::Late => "late",
            Outcome::Rejected => "rejected",
            Outcome::Failed => "failed",
            Outcome::Duplicate => "duplicate",
        }
    }
}

/// Counters of one shard, committed with its positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    pub rows: [u64; Outcome::ALL.len()],
    /// Rows of closed windows.
    pub windows: u64,
    /// Event rows that passed the `where` of a sink.
    pub anomalies: u64,
}

impl Ledger {
    #[inline]
    pub fn count(&mut self, outcome: Outcome) {
        self.rows[outcome as usize] += 1;
    }

    pub fn of(&self, outcome: Outcome) -> u64 {
        self.rows[outcome as usize]
    }

    /// Rows of all outcomes: what the shard has taken.
    pub fn taken(&self) -> u64 {
        self.rows.iter().sum()
    }

    pub fn add(&mut self, other: &Ledger) {
        for (sum, rows) in std::iter::zip(&mut self.rows, other.rows) {
            *sum += rows;
        }
        self.windows += other.windows;
        self.anomalies += other.anomalies;
    }
}
