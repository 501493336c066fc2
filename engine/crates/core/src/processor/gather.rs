//! Which rows of a delivery a worker takes, how late each is, and their columns side by side.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, NullArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};

use super::stages::floats;
use super::{Delivery, NOT_MINE, Processor, Refusal};
use crate::Result;
use crate::batch::{hash_key, shard_of};
use crate::config::FieldType;
use crate::guards::{self, Guard};
use crate::ledger::Outcome;
use crate::progress::{self, Admission, NO_TIME, window_start};
use crate::table::Slot;

/// Rows of one or more deliveries that run together.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub delivery: Vec<u32>,
    pub row: Vec<u32>,
    /// Place of the row's shard among the worker's.
    pub place: Vec<u16>,
    pub hash: Vec<u64>,
    pub time_us: Vec<i64>,
    /// The watermark that holds for the row: of all rows before it.
    pub watermark_us: Vec<i64>,
    pub outcome: Vec<Outcome>,
    pub slot: Vec<Slot>,
    /// By event column; an empty array where nothing reads it.
    pub columns: Vec<ArrayRef>,
    /// Runs of rows of one delivery.
    pub runs: Vec<(u32, Range<usize>)>,
    /// One vector for each statistic that event UDFs read.
    pub statistics: Vec<Vec<f64>>,
}

impl Work {
    pub fn begin(&mut self) {
        self.delivery.clear();
        self.row.clear();
        self.place.clear();
        self.hash.clear();
        self.time_us.clear();
        self.watermark_us.clear();
        self.outcome.clear();
        self.slot.clear();
        self.columns.clear();
        self.runs.clear();
        self.statistics.iter_mut().for_each(Vec::clear);
    }

    pub fn len(&self) -> usize {
        self.row.len()
    }
}

/// How one of the worker's shards takes a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardAdmission {
    /// First offset that it takes; `u64::MAX` takes nothing.
    take_from: u64,
    others_us: i64,
    split_max_us: i64,
    floor_us: i64,
}

impl ShardAdmission {
    pub fn takes(&self) -> bool {
        self.take_from != u64::MAX
    }

    /// The watermark that holds for a row before which the latest event time of its split was `max_us`.
    #[inline]
    fn watermark_us(&self, max_us: i64, disorder_us: i64) -> i64 {
        if guards::off(Guard::RowWatermark) {
            return self.floor_us;
        }
        let own_us = progress::split_watermark(max_us.max(self.split_max_us), disorder_us);
        self.floor_us.max(own_us.min(self.others_us))
    }
}

/// How far the running maximum of a delivery's event times is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    rows: usize,
    max_us: i64,
}

impl Seen {
    pub fn before(prior_max_us: i64) -> Seen {
        Seen { rows: 0, max_us: prior_max_us }
    }

    /// The latest event time before a row.
    #[inline]
    fn until(&mut self, row: usize, time_us: &[i64]) -> i64 {
        for time_us in &time_us[self.rows..row] {
            self.max_us = self.max_us.max(*time_us);
        }
        self.rows = row;
        self.max_us
    }
}

impl Processor {
    /// Asks each shard whether it takes the delivery (I2). One that is full leaves it (I9).
    pub(super) fn admit(&self, delivery: &Delivery, refusals: &mut Vec<Refusal>) -> Vec<ShardAdmission> {
        let mut admissions = Vec::with_capacity(self.shards.len());
        for (shard, blocked) in std::iter::zip(&self.shards, &self.blocked) {
            let progress = shard.progress(delivery.split);
            let admission = match progress::admit(progress.position, delivery.covers_from, delivery.to()) {
                _ if *blocked || shard.leaves(delivery.split) => u64::MAX,
                Admission::Take { from } => from,
                Admission::Stale => u64::MAX,
                Admission::Gap { wanted } => {
                    refusals.push(Refusal { shard: shard.id, split: delivery.split, wanted });
                    u64::MAX
                }
            };
            admissions.push(ShardAdmission {
                take_from: admission,
                others_us: shard.others_watermark(delivery.split).unwrap_or(i64::MAX),
                split_max_us: progress.max_time_us,
                floor_us: shard.watermark_us(),
            });
        }
        admissions
    }

    /// Adds the delivery's rows from number `from` on, at most `room` of them; returns how far it came.
    pub(super) fn gather(
        &mut self,
        number: u32,
        delivery: &Delivery,
        admissions: &[ShardAdmission],
        from: usize,
        room: usize,
        seen: &mut Seen,
    ) -> usize {
        let start = self.work.len();
        let to = delivery.rows.len().min(from + room);
        let at = match self.gather_alike(number, delivery, admissions, from..to, seen) {
            true => to,
            false => self.gather_each(number, delivery, admissions, from, room, seen),
        };
        if self.work.len() > start {
            self.work.runs.push((number, start..self.work.len()));
        }
        at
    }

    /// Adds rows of which all are taken and none is late, column by column. False if they are not known to be such; then it has
    /// added none.
    fn gather_alike(
        &mut self,
        number: u32,
        delivery: &Delivery,
        admissions: &[ShardAdmission],
        rows: Range<usize>,
        seen: &mut Seen,
    ) -> bool {
        let Some((admission, others)) = admissions.split_first() else { return false };
        let (batch, rows) = (&*delivery.batch, &delivery.rows[rows]);
        if rows.is_empty() || delivery.first_offset < admission.take_from || others.iter().any(|other| other != admission) {
            return false;
        }
        let time = &self.plan.config.time;
        let start = self.work.len();
        let work = &mut self.work;
        work.time_us.extend(rows.iter().map(|row| batch.time_us[*row as usize]));
        let earliest_us = work.time_us[start..].iter().copied().min().unwrap_or(NO_TIME);
        let latest_us = seen.max_us.max(delivery.max_time_us);
        let watermark_us = admission.watermark_us(latest_us, time.max_out_of_orderness_us);
        let is_open = |size_us: i64| window_start(earliest_us, size_us).saturating_add(size_us) > watermark_us;
        if !self.plan.windows.iter().all(|window| is_open(window.size_us)) {
            work.time_us.truncate(start);
            return false;
        }
        work.row.extend_from_slice(rows);
        work.delivery.resize(start + rows.len(), number);
        work.outcome.resize(start + rows.len(), Outcome::Applied);
        work.hash.extend(rows.iter().map(|row| batch.key_hash[*row as usize]));
        let (local_of, shards) = (&self.local_of, self.plan.config.shards);
        work.place.extend(work.hash[start..].iter().map(|hash| local_of[usize::from(shard_of(*hash, shards))]));
        work.watermark_us.extend(
            rows.iter()
                .map(|row| admission.watermark_us(seen.until(*row as usize, &batch.time_us), time.max_out_of_orderness_us)),
        );
        true
    }

    /// Adds rows one by one, as each of them is.
    fn gather_each(
        &mut self,
        number: u32,
        delivery: &Delivery,
        admissions: &[ShardAdmission],
        from: usize,
        room: usize,
        seen: &mut Seen,
    ) -> usize {
        let batch = &*delivery.batch;
        let disorder_us = self.plan.config.time.max_out_of_orderness_us;
        let shards = self.plan.config.shards;
        let work = &mut self.work;
        let start = work.len();
        let mut at = from;
        // A quotient by the window's size costs more than a comparison, and most rows lie in the window of the last.
        let mut windows: Vec<(i64, i64)> = self.plan.windows.iter().map(|window| (NO_TIME, window.size_us)).collect();
        while at < delivery.rows.len() && work.len() - start < room {
            let row = delivery.rows[at] as usize;
            at += 1;
            let max_us = seen.until(row, &batch.time_us);
            let hash = batch.key_hash[row];
            let place = self.local_of[usize::from(shard_of(hash, shards))];
            let admission = &admissions[usize::from(place)];
            if delivery.first_offset + batch.relative_offset(row) < admission.take_from {
                continue;
            }
            let watermark_us = admission.watermark_us(max_us, disorder_us);
            let time_us = batch.time_us[row];
            work.delivery.push(number);
            work.row.push(row as u32);
            work.place.push(place);
            work.hash.push(hash);
            work.time_us.push(time_us);
            work.watermark_us.push(watermark_us);
            work.outcome.push(if is_late(time_us, watermark_us, &mut windows) { Outcome::Late } else { Outcome::Applied });
        }
        at
    }

    /// Positions move once all of a delivery's rows are taken. Commits come only between calls of `process`.
    pub(super) fn advance(&mut self, delivery: &Delivery, admissions: &[ShardAdmission]) {
        for (shard, admission) in std::iter::zip(&mut self.shards, admissions) {
            if admission.takes() {
                shard.advance(delivery.split, delivery.to(), delivery.max_time_us.max(delivery.prior_max_us));
            }
        }
        let Some(request) = &delivery.request else { return };
        let home = shard_of(hash_key(request.id.as_bytes()), self.plan.config.shards);
        let place = self.local_of[usize::from(home)];
        if place != NOT_MINE && admissions[usize::from(place)].takes() {
            self.shards[usize::from(place)].keep_request((**request).clone());
        }
    }

    /// Rejected rows belong to shard `offset mod shards` (I6).
    pub(super) fn take_rejects(&mut self, delivery: &Delivery, admissions: &[ShardAdmission]) -> Result<()> {
        for reject in &delivery.batch.rejects {
            let offset = delivery.first_offset + u64::from(reject.relative_offset);
            let place = self.local_of[(offset % u64::from(self.plan.config.shards)) as usize];
            if place == NOT_MINE || offset < admissions[usize::from(place)].take_from {
                continue;
            }
            self.shards[usize::from(place)].count(Outcome::Rejected);
            let mut row = Vec::with_capacity(reject.text.len() + 2);
            crate::json::write_string(&mut row, reject.text.as_bytes());
            let reason = match reject.field.as_str() {
                "" => reject.reason.clone(),
                field => format!("{field}: {}", reject.reason),
            };
            let split = &self.splits[usize::from(delivery.split)];
            let source = delivery.batch.source.as_ref().unwrap_or(&split.source);
            let (source, id) = (source.to_string(), split.id.to_string());
            self.dead_letter(usize::from(place), &reason, &source, &id, offset, &row);
        }
        Ok(())
    }

    /// Puts the gathered columns side by side, as Arrow arrays.
    pub(super) fn gather_columns(&mut self, deliveries: &[Delivery]) {
        let plan = self.plan.clone();
        let work = &mut self.work;
        work.columns.clear();
        let unread: ArrayRef = Arc::new(NullArray::new(0));
        for (column, definition) in plan.event_columns[..=plan.time_column].iter().enumerate() {
            let array = if !plan.gathered[column] {
                unread.clone()
            } else if column == plan.time_column {
                Arc::new(Int64Array::new(work.time_us.clone().into(), None))
            } else {
                match definition.data_type {
                    FieldType::Float64 => gather_floats(work, deliveries, column),
                    FieldType::Int64 => gather_integers(work, deliveries, column),
                    FieldType::Bool => gather_bools(work, deliveries, column),
                    FieldType::String => gather_strings(work, deliveries, column),
                }
            };
            work.columns.push(array);
        }
    }
}

#[inline]
fn is_late(time_us: i64, watermark_us: i64, windows: &mut [(i64, i64)]) -> bool {
    if windows.is_empty() {
        return false;
    }
    windows.iter_mut().all(|(start_us, size_us)| {
        if *start_us == NO_TIME || time_us < *start_us || time_us - *start_us >= *size_us {
            *start_us = window_start(time_us, *size_us);
        }
        start_us.saturating_add(*size_us) <= watermark_us
    })
}

fn for_runs<'a>(work: &Work, deliveries: &'a [Delivery], column: usize, mut visit: impl FnMut(&'a ArrayRef, &[u32])) {
    for (delivery, range) in &work.runs {
        visit(&deliveries[*delivery as usize].batch.columns[column], &work.row[range.clone()]);
    }
}

fn gather_floats(work: &Work, deliveries: &[Delivery], column: usize) -> ArrayRef {
    let mut values: Vec<f64> = Vec::with_capacity(work.len());
    for_runs(work, deliveries, column, |array, rows| {
        let source = &array.as_primitive::<Float64Type>().values()[..];
        values.extend(rows.iter().map(|row| source[*row as usize]));
    });
    // A null float slot holds NaN, and JSON has no NaN: the one says the other.
    floats(values)
}

fn gather_integers(work: &Work, deliveries: &[Delivery], column: usize) -> ArrayRef {
    let mut values: Vec<i64> = Vec::with_capacity(work.len());
    for_runs(work, deliveries, column, |array, rows| {
        let source = &array.as_primitive::<Int64Type>().values()[..];
        values.extend(rows.iter().map(|row| source[*row as usize]));
    });
    Arc::new(Int64Array::new(values.into(), gather_nulls(work, deliveries, column)))
}

fn gather_bools(work: &Work, deliveries: &[Delivery], column: usize) -> ArrayRef {
    let mut values: Vec<bool> = Vec::with_capacity(work.len());
    for_runs(work, deliveries, column, |array, rows| {
        let source = array.as_boolean();
        values.extend(rows.iter().map(|row| source.value(*row as usize)));
    });
    Arc::new(BooleanArray::new(BooleanBuffer::from(values), gather_nulls(work, deliveries, column)))
}

fn gather_nulls(work: &Work, deliveries: &[Delivery], column: usize) -> Option<NullBuffer> {
    let mut any = false;
    for_runs(work, deliveries, column, |array, _| any |= array.null_count() > 0);
    if !any {
        return None;
    }
    let mut valid: Vec<bool> = Vec::with_capacity(work.len());
    for_runs(work, deliveries, column, |array, rows| valid.extend(rows.iter().map(|row| array.is_valid(*row as usize))));
    Some(NullBuffer::from(valid))
}

fn gather_strings(work: &Work, deliveries: &[Delivery], column: usize) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(work.len(), work.len() * 16);
    for_runs(work, deliveries, column, |array, rows| {
        let source = array.as_string::<i32>();
        for row in rows {
            builder.append_option(source.is_valid(*row as usize).then(|| source.value(*row as usize)));
        }
    });
    Arc::new(builder.finish())
}
