//! The job as a program that a person can read at once: one row after the other, in the order in which a shard took them.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamjob_core::plan::Plan;
use streamjob_core::progress::{NO_TIME, SplitStatus};

use crate::job::READINGS_WINDOW;
use crate::rows::{FILTERED, Fate, POISON, Row};
use crate::truth::{Placed, ShardLog, SplitId, Step, Truth, is_journal};

/// Statistics of one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    pub values: Vec<i64>,
    pub readings: Vec<i64>,
}

impl Statistics {
    /// count, mean, min, max, last: `None` where there is none.
    pub fn seen(&self) -> [Option<f64>; 5] {
        let count = self.values.len() as f64;
        let mean = self.values.iter().sum::<i64>() as f64 / count;
        let some = |value: Option<i64>| value.map(|value| value as f64);
        let values = &self.values;
        [
            Some(count),
            (count > 0.0).then_some(mean),
            some(values.iter().min().copied()),
            some(values.iter().max().copied()),
            some(values.last().copied()),
        ]
    }
}

/// The rows of one window: event time and value, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pane {
    pub rows: u64,
    pub values: Vec<(i64, i64)>,
}

/// A row, the statistics that its function must have seen, and the job of then.
pub struct Applied {
    pub row: Row,
    pub seen: [Option<f64>; 5],
    pub plan: Arc<Plan>,
}

impl Applied {
    /// Whether the job had this sink.
    pub fn leaves_by(&self, sink: &str) -> bool {
        self.plan.sinks.iter().any(|plan| plan.name == sink)
    }
}

/// What must come out of one shard, or of all.
#[derive(Default)]
pub struct Expected {
    /// By window, key and start.
    pub windows: BTreeMap<(usize, String, i64), Pane>,
    /// Applied rows by split and offset.
    pub applied: BTreeMap<(SplitId, u64), Applied>,
    pub late: BTreeMap<(SplitId, u64), Row>,
    pub failed: BTreeMap<(SplitId, u64), Row>,
    pub rejected: Vec<(SplitId, u64)>,
    pub filtered: u64,
    /// By key.
    pub statistics: BTreeMap<String, Statistics>,
}

/// How far in time a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub watermark_us: i64,
    pub max_event_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    max_us: i64,
    status: SplitStatus,
}

/// One shard, row by row.
struct ShardModel<'a> {
    /// The job of the start that is replayed.
    plan: Arc<Plan>,
    shard: u16,
    splits: BTreeMap<SplitId, Progress>,
    open: Vec<SplitId>,
    watermark_us: i64,
    max_event_us: i64,
    expected: &'a mut Expected,
}

/// Replays what a shard took. `plan` is of any start.
pub fn replay(plan: &Arc<Plan>, truth: &Truth, shard: u16, log: &ShardLog, expected: &mut Expected) -> Reached {
    let (plan, watermark_us, max_event_us) = (plan.clone(), NO_TIME, NO_TIME);
    let mut model = ShardModel { plan, shard, splits: BTreeMap::new(), open: Vec::new(), watermark_us, max_event_us, expected };
    for step in &log.steps {
        match step {
            Step::Open(splits, plan) => model.open(splits, plan),
            Step::Rows { split, from, to } => model.take(truth, split, *from, *to),
            Step::Status(split, status) => model.set_status(split, *status),
            Step::Watermark(watermark_us) => model.watermark_us = model.watermark_us.max(*watermark_us),
        }
    }
    Reached { watermark_us: model.watermark_us, max_event_us: model.max_event_us }
}

impl ShardModel<'_> {
    fn open(&mut self, splits: &[SplitId], plan: &Arc<Plan>) {
        self.plan = plan.clone();
        self.open = splits.to_vec();
        for split in splits {
            // What its reader said before says nothing about this start.
            let max_us = self.splits.get(split).map_or(NO_TIME, |progress| progress.max_us);
            self.splits.insert(split.clone(), Progress { max_us, status: SplitStatus::Active });
        }
        for split in splits {
            if let Some(next) = self.next_of_source(split) {
                self.splits.get_mut(&next).expect("it is open").status = SplitStatus::Waiting;
            }
        }
    }

    /// The journals of a push source are one stream: the next goes on where one ended, and holds nothing back before.
    fn next_of_source(&self, id: &SplitId) -> Option<SplitId> {
        let behind = self.open.iter().skip_while(|split| *split != id).skip(1);
        behind.into_iter().find(|next| is_journal(id) && is_journal(next)).cloned()
    }

    fn pass_on(&mut self, id: &SplitId) {
        let max_us = self.splits[id].max_us;
        let Some(next) = self.next_of_source(id) else { return };
        let next = self.splits.get_mut(&next).expect("it is open");
        next.max_us = next.max_us.max(max_us);
        if next.status == SplitStatus::Waiting {
            next.status = SplitStatus::Active;
        }
    }

    fn split_watermark(&self, max_us: i64) -> i64 {
        if max_us == NO_TIME { NO_TIME } else { max_us - self.plan.config.time.max_out_of_orderness_us }
    }

    /// The lowest watermark of the splits that hold it back.
    fn lowest(&self, except: Option<&SplitId>) -> Option<i64> {
        let others = self.open.iter().filter(|split| Some(*split) != except).map(|split| &self.splits[split]);
        let active = others.filter(|progress| progress.status == SplitStatus::Active);
        active.map(|progress| self.split_watermark(progress.max_us)).min()
    }

    fn take(&mut self, truth: &Truth, id: &SplitId, from: u64, to: u64) {
        let Some(split) = truth.splits.get(id) else { return };
        let shard = self.shard;
        for row in split.rows(from, to).iter().filter(|row| row.owner == shard) {
            self.row(id, row);
        }
        let progress = self.splits.get_mut(id).expect("only open splits are taken");
        if to > from && matches!(progress.status, SplitStatus::Idle | SplitStatus::Waiting) {
            progress.status = SplitStatus::Active;
        }
        progress.max_us = progress.max_us.max(split.max_below_us(to));
        self.max_event_us = self.max_event_us.max(progress.max_us);
        self.raise();
    }

    fn raise(&mut self) {
        if let Some(lowest) = self.lowest(None) {
            self.watermark_us = self.watermark_us.max(lowest);
        }
    }

    fn row(&mut self, id: &SplitId, placed: &Placed) {
        let place = (id.clone(), placed.offset);
        let Fate::Row(row) = &placed.fate else { return self.expected.rejected.push(place) };
        let filtered = row.value.is_none_or(|value| value == FILTERED) && self.plan.filter.is_some();
        if filtered {
            self.expected.filtered += 1;
            return;
        }
        let own_us = self.split_watermark(self.splits[id].max_us.max(placed.max_before_us));
        let watermark_us = self.watermark_us.max(own_us.min(self.lowest(Some(id)).unwrap_or(i64::MAX)));
        let statistics = self.expected.statistics.entry(row.key.clone()).or_default();
        let seen = statistics.seen();
        statistics.values.extend(row.value);
        statistics.readings.extend(row.reading);
        let windows: Vec<(usize, i64)> = (self.plan.windows.iter().enumerate())
            .map(|(window, plan)| (window, row.time_us.div_euclid(plan.size_us) * plan.size_us))
            .filter(|(window, start_us)| start_us + self.plan.windows[*window].size_us > watermark_us)
            .collect();
        if windows.is_empty() {
            self.expected.late.insert(place, row.clone());
        } else if row.value == Some(POISON) {
            self.expected.failed.insert(place, row.clone());
        } else {
            for (window, start_us) in windows {
                let pane = self.expected.windows.entry((window, row.key.clone(), start_us)).or_default();
                pane.rows += 1;
                let value = if window == READINGS_WINDOW { row.reading } else { row.value };
                pane.values.extend(value.map(|value| (row.time_us, value)));
            }
            self.expected.applied.insert(place, Applied { row: row.clone(), seen, plan: self.plan.clone() });
        }
    }

    fn end_of_newest_window_us(&self) -> i64 {
        let newest_us = self.max_event_us;
        if newest_us == NO_TIME {
            return NO_TIME;
        }
        let ends = self.plan.windows.iter().map(|window| (newest_us.div_euclid(window.size_us) + 1) * window.size_us);
        ends.max().unwrap_or(newest_us)
    }

    fn set_status(&mut self, id: &SplitId, status: SplitStatus) {
        let progress = self.splits.get_mut(id).expect("only open splits have a status");
        if progress.status == status || progress.status == SplitStatus::Finished {
            return;
        }
        progress.status = status;
        if status == SplitStatus::Finished {
            self.pass_on(id);
        }
        self.raise();
        let active = self.open.iter().any(|split| self.splits[split].status == SplitStatus::Active);
        if self.plan.config.time.close_when_idle && !active {
            self.watermark_us = self.watermark_us.max(self.end_of_newest_window_us());
        }
    }
}
