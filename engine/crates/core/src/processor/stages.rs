//! Stages A to C: statistics, user functions, windows.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, UInt32Array};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::DataType;

use super::closed::ClosedRows;
use super::gather::Work;
use super::{Delivery, Processor, SinkPort, Stage};
use crate::accumulate::{Group, STAT_WORDS, read_statistic, update_statistics};
use crate::batch::KeyReader;
use crate::config::{FieldConfig, FieldType};
use crate::guards::{self, Guard};
use crate::ledger::Outcome;
use crate::plan::{Argument, EventInput, Plan};
use crate::progress::{NO_TIME, window_start};
use crate::table::SlotLines;
use crate::udf::suspects::{Place, Span, widen};
use crate::udf::{self, CalledRows, Callee};
use crate::{Error, Result};

/// Rows that go through their stages together, while their slots are in the first cache.
const GROUP_ROWS: usize = 64;
/// A slot is asked for so many rows before it is touched, its entry of the index twice as many: long enough for the memory, and
/// not so early that the first cache has no room left.
const AHEAD_ROWS: usize = 32;

impl Processor {
    /// Runs all stages on what was gathered, and begins anew.
    pub(super) fn run(&mut self, deliveries: &[Delivery], port: &mut dyn SinkPort) -> Result<()> {
        if self.work.len() == 0 {
            self.work.begin();
            return Ok(());
        }
        let plan = self.plan.clone();
        self.gather_columns(deliveries);
        self.filter(&plan)?;
        let mut columns = std::mem::take(&mut self.work.columns);
        let rows = self.work.len();
        let readers: Vec<KeyReader<'_>> = deliveries.iter().map(|delivery| delivery.batch.key_reader()).collect();
        self.work.slot.resize(rows, 0);
        self.work.statistics.resize_with(plan.statistic_inputs.len(), Vec::new);
        let reasons = if plan.event_udfs.is_empty() {
            let computed = compute(&plan, &columns, rows)?;
            self.begin(Stage::Window);
            for group in groups(rows) {
                self.look_up(&plan, &columns, &readers, group.clone())?;
                self.update_windows(&plan, &columns, &computed, group);
            }
            self.end(Stage::Window);
            Vec::new()
        } else {
            groups(rows).try_for_each(|group| self.look_up(&plan, &columns, &readers, group))?;
            self.begin(Stage::Udf);
            let reasons = self.call_event_udfs(&plan, deliveries, &mut columns)?;
            self.end(Stage::Udf);
            let computed = compute(&plan, &columns, rows)?;
            self.begin(Stage::Window);
            groups(rows).for_each(|group| self.update_windows(&plan, &columns, &computed, group));
            self.end(Stage::Window);
            reasons
        };
        self.begin(Stage::Output);
        self.emit_events(&plan, deliveries, &columns, &reasons)?;
        self.end(Stage::Output);
        self.work.begin();
        if self.closed.iter().any(ClosedRows::is_large) {
            self.put_out(port)?;
        }
        Ok(())
    }

    fn filter(&mut self, plan: &Plan) -> Result<()> {
        let Some(filter) = &plan.filter else { return Ok(()) };
        let mask = filter.evaluate_mask(&self.work.columns, self.work.len())?;
        for (row, outcome) in self.work.outcome.iter_mut().enumerate() {
            if !mask.value(row) {
                *outcome = Outcome::Filtered;
            }
        }
        Ok(())
    }

    /// Stage A: finds each row's slot and updates the key's statistics; notes them as they stood just before (I11).
    fn look_up(&mut self, plan: &Plan, columns: &[ArrayRef], readers: &[KeyReader<'_>], group: Range<usize>) -> Result<()> {
        let Work { hash, place, outcome, slot, delivery, row, statistics, time_us, .. } = &mut self.work;
        let (rows, lines) = (hash.len(), touched_lines(plan, time_us[group.start]));
        // Of one length, so that one comparison of the loop says it of all.
        let (place, outcome, slot, delivery, row) =
            (&place[..rows], &outcome[..rows], &mut slot[..rows], &delivery[..rows], &row[..rows]);
        let group = group.start..group.end.min(rows);
        if group.start == 0 {
            for at in 0..rows.min(2 * AHEAD_ROWS) {
                self.shards[usize::from(place[at])].table.prefetch_entry(hash[at]);
            }
            for at in 0..rows.min(AHEAD_ROWS) {
                slot[at] = self.shards[usize::from(place[at])].table.prefetch_slot(hash[at], lines);
            }
        }
        let numeric: Vec<Numbers<'_>> = plan.numeric.iter().map(|column| Numbers::new(&columns[*column])).collect();
        for at in group {
            let (soon, later) = (at + AHEAD_ROWS, at + 2 * AHEAD_ROWS);
            if later < rows {
                self.shards[usize::from(place[later])].table.prefetch_entry(hash[later]);
            }
            if soon < rows {
                slot[soon] = self.shards[usize::from(place[soon])].table.prefetch_slot(hash[soon], lines);
            }
            if outcome[at] == Outcome::Filtered {
                statistics.iter_mut().for_each(|values| values.push(f64::NAN));
                continue;
            }
            let shard = &mut self.shards[usize::from(place[at])];
            let key = readers[delivery[at] as usize].get(row[at] as usize);
            slot[at] = shard.touch(slot[at], hash[at], key)?;
            let state = shard.table.state_mut(slot[at]);
            if !guards::off(Guard::StatisticsBefore) {
                note_statistics(plan, state, statistics);
            }
            state[0] += 1;
            for (number, numbers) in numeric.iter().enumerate() {
                update_statistics(&mut state[plan.statistics_at(number)..][..STAT_WORDS], numbers.get(at));
            }
            if guards::off(Guard::StatisticsBefore) {
                note_statistics(plan, state, statistics);
            }
        }
        Ok(())
    }

    /// Stage B: one call a function for all of the worker's rows. Gives row and reason of those that failed.
    fn call_event_udfs(
        &mut self,
        plan: &Plan,
        deliveries: &[Delivery],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<Vec<(usize, String)>> {
        let rows = self.work.len();
        let spans = self.spans_of(deliveries);
        let statistics: Vec<ArrayRef> = self.work.statistics.iter_mut().map(|values| floats(std::mem::take(values))).collect();
        let mut reasons = Vec::new();
        for udf in &plan.event_udfs {
            let live: Vec<u32> = (0..rows as u32).filter(|row| self.work.outcome[*row as usize] == Outcome::Applied).collect();
            let kinds = arrow_kinds(&udf.outputs);
            let all = live.len() == rows;
            let inputs = udf
                .inputs
                .iter()
                .map(|input| match input {
                    EventInput::Column(column) => &columns[*column],
                    EventInput::Statistic(statistic) => &statistics[*statistic],
                })
                .map(|array| if all { Ok(array.clone()) } else { select(array, &live) })
                .collect::<Result<Vec<_>>>()?;
            let work = &self.work;
            let at = |row: usize| offset_of(deliveries, work, live[row] as usize);
            let called = CalledRows { len: live.len(), spans: &spans, at: &at };
            let callee = Callee { index: udf.index, name: &udf.name, kinds: &kinds };
            let result = udf::call(self.calls.as_mut(), &mut *self.udfs, &callee, &inputs, &called)?;
            for (row, reason) in result.failed {
                let row = live[row] as usize;
                self.work.outcome[row] = Outcome::Failed;
                reasons.push((row, format!("udf {}: {reason}", udf.name)));
            }
            for output in result.outputs {
                columns.push(if all { output } else { spread(&output, &live, rows)? });
            }
        }
        reasons.sort_by_key(|(row, _)| *row);
        Ok(reasons)
    }

    /// Where the rows lie, as far as somebody notes it.
    fn spans_of(&self, deliveries: &[Delivery]) -> Vec<Span> {
        let mut spans = Vec::new();
        if self.calls.is_some() {
            for (_, rows) in &self.work.runs {
                let (place, first) = offset_of(deliveries, &self.work, rows.start);
                let (_, last) = offset_of(deliveries, &self.work, rows.end - 1);
                widen(&mut spans, place, first, last + 1);
            }
        }
        spans
    }

    /// Stage C: each applied row enters its pane of every window that is still open for it.
    fn update_windows(&mut self, plan: &Plan, columns: &[ArrayRef], computed: &[ArrayRef], group: Range<usize>) {
        let work = &self.work;
        let local_of = &self.local_of;
        let closed = &mut self.closed;
        for (number, window) in plan.windows.iter().enumerate() {
            let arguments: Vec<(Values<'_>, Group)> =
                window.groups.iter().map(|(argument, group)| (Values::new(*argument, columns, computed), *group)).collect();
            let (mut start_us, mut pane_at) = (NO_TIME, 0);
            for at in group.clone() {
                if work.outcome[at] != Outcome::Applied {
                    continue;
                }
                let time_us = work.time_us[at];
                if start_us == NO_TIME || time_us < start_us || time_us - start_us >= window.size_us {
                    start_us = window_start(time_us, window.size_us);
                    pane_at = window.pane_of(start_us);
                }
                if start_us.saturating_add(window.size_us) <= work.watermark_us[at] {
                    continue;
                }
                let shard = &mut self.shards[usize::from(work.place[at])];
                shard.with_pane(
                    work.slot[at],
                    number,
                    (start_us, pane_at),
                    work.watermark_us[at],
                    &mut |pane| closed[pane.window].push(&pane, local_of),
                    |pane| arguments.iter().for_each(|(values, group)| values.add(group, pane, at, time_us)),
                );
            }
        }
    }
}

/// The split and the offset of a row.
fn offset_of(deliveries: &[Delivery], work: &Work, row: usize) -> (Place, u64) {
    let delivery = &deliveries[work.delivery[row] as usize];
    (Place::Split(delivery.split), delivery.first_offset + delivery.batch.relative_offset(work.row[row] as usize))
}

/// Which lines of their slots rows of about this time touch. Those of others come when they are wanted.
fn touched_lines(plan: &Plan, time_us: i64) -> SlotLines {
    plan.windows.iter().fold(SlotLines::head(plan.base_words()), |lines, window| {
        lines.and_state(window.pane_of(window_start(time_us, window.size_us)), 1 + window.pane_words)
    })
}

fn groups(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(GROUP_ROWS).map(move |from| from..(from + GROUP_ROWS).min(rows))
}

fn note_statistics(plan: &Plan, state: &[u64], statistics: &mut [Vec<f64>]) {
    for (values, (numeric, statistic)) in std::iter::zip(statistics, &plan.statistic_inputs) {
        values.push(read_statistic(&state[plan.statistics_at(*numeric)..][..STAT_WORDS], *statistic));
    }
}

fn compute(plan: &Plan, columns: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
    plan.computed.iter().map(|expression| Ok(udf::finite(expression.evaluate(columns, rows)?))).collect()
}

/// Floats in which NaN stands for null, as an array that says so.
pub(super) fn floats(values: Vec<f64>) -> ArrayRef {
    let nulls = values
        .iter()
        .any(|value| value.is_nan())
        .then(|| NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| !values[row].is_nan())));
    Arc::new(Float64Array::new(values.into(), nulls))
}

pub(super) fn arrow_kinds(fields: &[FieldConfig]) -> Vec<DataType> {
    fields
        .iter()
        .map(|field| match field.data_type {
            FieldType::Float64 => DataType::Float64,
            FieldType::Int64 => DataType::Int64,
            FieldType::Bool => DataType::Boolean,
            FieldType::String => DataType::Utf8,
        })
        .collect()
}

fn select(array: &ArrayRef, rows: &[u32]) -> Result<ArrayRef> {
    arrow_select::take::take(array, &UInt32Array::from(rows.to_vec()), None)
        .map(udf::finite)
        .map_err(|error| Error::engine(format!("selecting a UDF's rows: {error}")))
}

/// Puts the outputs of some rows back to their places; the others are null.
fn spread(output: &ArrayRef, live: &[u32], rows: usize) -> Result<ArrayRef> {
    let mut places: Vec<Option<u32>> = vec![None; rows];
    for (place, row) in live.iter().enumerate() {
        places[*row as usize] = Some(place as u32);
    }
    arrow_select::take::take(output, &UInt32Array::from(places), None)
        .map(udf::finite)
        .map_err(|error| Error::engine(format!("spreading a UDF's rows: {error}")))
}

/// A numeric column as floats; null reads as NaN.
#[derive(Clone, Copy)]
enum Numbers<'a> {
    Floats(&'a [f64]),
    Integers(&'a [i64], Option<&'a NullBuffer>),
}

impl<'a> Numbers<'a> {
    fn new(array: &'a ArrayRef) -> Numbers<'a> {
        match array.as_primitive_opt::<Float64Type>() {
            Some(floats) => Numbers::Floats(floats.values()),
            None => {
                let integers = array.as_primitive::<Int64Type>();
                Numbers::Integers(integers.values(), integers.nulls())
            }
        }
    }

    #[inline]
    fn get(&self, row: usize) -> f64 {
        match self {
            Numbers::Floats(values) => values[row],
            Numbers::Integers(values, nulls) if nulls.is_none_or(|nulls| nulls.is_valid(row)) => values[row] as f64,
            Numbers::Integers(..) => f64::NAN,
        }
    }
}

/// What a group of accumulators reads, with its type known.
#[derive(Clone, Copy)]
enum Values<'a> {
    Rows,
    Numbers(Numbers<'a>),
    /// Only whether there is a value.
    Presence(Option<&'a NullBuffer>),
}

impl<'a> Values<'a> {
    fn new(argument: Argument, columns: &'a [ArrayRef], computed: &'a [ArrayRef]) -> Values<'a> {
        let array = match argument {
            Argument::Rows => return Values::Rows,
            Argument::Column(column) => &columns[column],
            Argument::Computed(expression) => &computed[expression],
        };
        match array.data_type() {
            DataType::Float64 | DataType::Int64 => Values::Numbers(Numbers::new(array)),
            _ => Values::Presence(array.nulls()),
        }
    }

    #[inline]
    fn add(&self, group: &Group, pane: &mut [u64], row: usize, time_us: i64) {
        match self {
            Values::Rows => group.count_row(pane),
            Values::Numbers(Numbers::Floats(values)) => group.add_f64(pane, values[row], time_us),
            Values::Numbers(Numbers::Integers(values, nulls)) => {
                if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                    group.add_i64(pane, values[row], time_us);
                }
            }
            Values::Presence(nulls) => {
                if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                    group.count_row(pane);
                }
            }
        }
    }
}

/// A mask over all rows, true where there is no expression.
pub(super) fn mask_or_all(
    filter: Option<&crate::expr::CompiledExpr>,
    columns: &[ArrayRef],
    rows: usize,
) -> Result<Option<BooleanArray>> {
    filter.map(|filter| filter.evaluate_mask(columns, rows)).transpose()
}
