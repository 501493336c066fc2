//! What really happened, kept beside the engine: what each split holds, and in which order each shard took it.
//!
//! The order between splits is the engine's to choose; the order within one, and that nothing is left out or taken twice, is
//! not. So the model replays what a shard took, and [`Truth::check_whole`] sees that it took everything once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::plan::Plan;
use streamjob_core::progress::{NO_TIME, SplitStatus};

use crate::rows::Fate;

pub type SplitId = Arc<str>;

/// Name of the push source.
pub const SOURCE: &str = "in";

/// Whether a split is the journal of a start.
pub fn is_journal(id: &str) -> bool {
    id.split_once('@').is_some_and(|(source, _)| source == SOURCE)
}

/// A row in its place.
#[derive(Debug, Clone)]
pub struct Placed {
    pub offset: u64,
    pub fate: Fate,
    /// The shard that counts it.
    pub owner: u16,
    /// Latest event time of the rows before it in the split.
    pub max_before_us: i64,
}

/// What one split holds.
#[derive(Debug, Default)]
pub struct Split {
    pub rows: Vec<Placed>,
    pub end: u64,
    /// Requests, with their first offsets.
    pub requests: Vec<(usize, u64)>,
    pub deleted: bool,
}

impl Split {
    fn row_at(&self, offset: u64) -> usize {
        self.rows.partition_point(|row| row.offset < offset)
    }

    /// Rows in `[from, to)`.
    pub fn rows(&self, from: u64, to: u64) -> &[Placed] {
        let (first, last) = (self.row_at(from), self.row_at(to));
        &self.rows[first..last.max(first)]
    }

    /// Latest event time of all rows below `offset`.
    pub fn max_below_us(&self, offset: u64) -> i64 {
        match self.row_at(offset) {
            0 => NO_TIME,
            rows => max_with(self.rows[rows - 1].max_before_us, &self.rows[rows - 1].fate),
        }
    }

    fn push(&mut self, offset: u64, fate: Fate, shards: u16) {
        let owner = match &fate {
            Fate::Row(row) => shard_of(hash_key(row.key.as_bytes()), shards),
            Fate::Rejected => (offset % u64::from(shards)) as u16,
        };
        let max_before_us = self.max_below_us(u64::MAX);
        self.rows.push(Placed { offset, fate, owner, max_before_us });
    }
}

fn max_with(max_us: i64, fate: &Fate) -> i64 {
    match fate {
        Fate::Row(row) => max_us.max(row.time_us),
        Fate::Rejected => max_us,
    }
}

/// One step of a shard.
#[derive(Debug, Clone)]
pub enum Step {
    /// A process opened it with these splits, for this job.
    Open(Arc<[SplitId]>, Arc<Plan>),
    Rows {
        split: SplitId,
        from: u64,
        to: u64,
    },
    Status(SplitId, SplitStatus),
    Watermark(i64),
}

/// What one shard did.
#[derive(Debug, Default)]
pub struct ShardLog {
    pub steps: Vec<Step>,
    /// Steps that a durable commit holds.
    pub committed: usize,
    /// Positions of that commit.
    pub positions: BTreeMap<String, u64>,
}

/// Everything that happened.
pub struct Truth {
    pub shards: u16,
    pub splits: BTreeMap<SplitId, Split>,
    pub logs: Vec<ShardLog>,
}

impl Truth {
    pub fn new(shards: u16) -> Truth {
        Truth { shards, splits: BTreeMap::new(), logs: (0..shards).map(|_| ShardLog::default()).collect() }
    }

    pub fn file(&mut self, id: SplitId, fates: &[(u64, Fate)], end: u64) {
        let mut split = Split { end, ..Split::default() };
        fates.iter().for_each(|(offset, fate)| split.push(*offset, fate.clone(), self.shards));
        self.splits.insert(id, split);
    }

    /// A request got its place in a journal. The error is an offset that is used twice (I4).
    pub fn append(&mut self, id: &SplitId, request: usize, first_offset: u64, fates: &[Fate]) -> Result<(), String> {
        let split = self.splits.entry(id.clone()).or_default();
        if first_offset != split.end {
            return Err(format!("offset {first_offset} of {id} is given out, and the next free one is {}", split.end));
        }
        for (place, fate) in fates.iter().enumerate() {
            split.push(first_offset + place as u64, fate.clone(), self.shards);
        }
        split.end += fates.len() as u64;
        split.requests.push((request, first_offset));
        Ok(())
    }

    /// A message was written to a partition, which reaches to `end` then.
    pub fn message(&mut self, id: &SplitId, offset: u64, fate: Fate, end: u64) {
        let split = self.splits.entry(id.clone()).or_default();
        split.push(offset, fate, self.shards);
        split.end = end;
    }

    /// A start found that a journal ends at `end`: what was behind never was.
    pub fn cut(&mut self, id: &str, end: u64) {
        let Some(split) = self.splits.get_mut(id) else { return };
        split.rows.retain(|row| row.offset < end);
        split.requests.retain(|(_, first_offset)| *first_offset < end);
        split.end = split.end.min(end);
    }

    /// The process ended: what no commit holds was not done.
    pub fn crash(&mut self) {
        for log in &mut self.logs {
            log.steps.truncate(log.committed);
        }
    }

    /// A commit is durable that holds the first `steps` of the shard.
    pub fn committed(&mut self, shard: u16, steps: usize, positions: impl Iterator<Item = (String, u64)>) {
        let log = &mut self.logs[usize::from(shard)];
        log.committed = steps;
        log.positions.extend(positions);
    }

    /// Rows of a shard below these positions.
    pub fn owned<'a>(&self, shard: u16, positions: impl Iterator<Item = (&'a str, u64)>) -> u64 {
        let count = |(id, position): (&str, u64)| match self.splits.get(id) {
            Some(split) => split.rows(0, position).iter().filter(|row| row.owner == shard).count() as u64,
            None => 0,
        };
        positions.map(count).sum()
    }

    /// Latest event time below these positions.
    pub fn max_time_us<'a>(&self, positions: impl Iterator<Item = (&'a str, u64)>) -> i64 {
        let max_us = |(id, position): (&str, u64)| self.splits.get(id).map_or(NO_TIME, |split| split.max_below_us(position));
        positions.map(max_us).max().unwrap_or(NO_TIME)
    }

    /// How often each request is in a journal.
    pub fn requests(&self) -> BTreeMap<usize, usize> {
        let mut times = BTreeMap::new();
        for (request, _) in self.splits.values().flat_map(|split| &split.requests) {
            *times.entry(*request).or_default() += 1;
        }
        times
    }

    /// Every shard took every split whole, once and in order (I2).
    pub fn check_whole(&self) -> Result<(), String> {
        for (shard, log) in self.logs.iter().enumerate() {
            let mut positions: BTreeMap<&str, u64> = BTreeMap::new();
            for step in &log.steps {
                let Step::Rows { split, from, to } = step else { continue };
                let position = positions.entry(split).or_default();
                if *position != *from {
                    return Err(format!("shard {shard} took {split} from {from} when it was at {position}"));
                }
                *position = *to;
            }
            for (id, split) in &self.splits {
                let position = positions.get(&**id).copied().unwrap_or(0);
                if position != split.end {
                    return Err(format!("shard {shard} ended at {position} of {id}, which ends at {}", split.end));
                }
            }
        }
        Ok(())
    }

    /// Serial numbers that are in more than one place.
    pub fn doubled_rows(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let rows = self.splits.values().flat_map(|split| &split.rows);
        let serials = rows.filter_map(|row| match &row.fate {
            Fate::Row(row) => Some(row.serial.as_str()),
            Fate::Rejected => None,
        });
        serials.filter(|serial| !seen.insert(*serial)).collect()
    }
}
