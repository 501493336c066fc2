//! Rows of closed windows: collected pane by pane, then completed by UDFs, written to sinks and kept as history.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::events::write_row;
use super::stages::{arrow_kinds, floats, mask_or_all};
use super::{Processor, Stage};
use crate::Result;
use crate::accumulate::Value;
use crate::config::FieldType;
use crate::json::{self, ColumnWriter};
use crate::plan::WindowPlan;
use crate::progress::sortable;
use crate::shard::ClosedPane;
use crate::udf::suspects::{Place, Span};
use crate::udf::{self, CalledRows, Callee};
use crate::window_row::RowFrame;

/// Closed rows are flushed when there are this many.
pub(super) const LARGE_ROWS: usize = 1024;

/// Closed rows of one window, as columns.
#[derive(Debug)]
pub(super) struct ClosedRows {
    place: Vec<u16>,
    hash: Vec<u64>,
    keys: Vec<u8>,
    key_ends: Vec<i32>,
    start_us: Vec<i64>,
    results: Vec<ResultColumn>,
    functions: Vec<(usize, crate::config::AggregateFunction)>,
    groups: Vec<crate::accumulate::Group>,
    members: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum ResultColumn {
    Float64(Vec<f64>),
    Int64(Vec<i64>, Vec<bool>),
}

impl ResultColumn {
    fn push(&mut self, value: Value) {
        match (self, value) {
            (ResultColumn::Float64(values), Value::Float64(value)) => values.push(value),
            (ResultColumn::Float64(values), Value::Int64(value)) => values.push(value as f64),
            (ResultColumn::Float64(values), Value::Null) => values.push(f64::NAN),
            (ResultColumn::Int64(values, valid), Value::Int64(value)) => {
                values.push(value);
                valid.push(true);
            }
            (ResultColumn::Int64(values, valid), Value::Null | Value::Float64(_)) => {
                values.push(0);
                valid.push(false);
            }
        }
    }

    fn take(&mut self) -> ArrayRef {
        match self {
            ResultColumn::Float64(values) => crate::udf::finite(floats(std::mem::take(values))),
            ResultColumn::Int64(values, valid) => {
                let nulls = NullBuffer::new(BooleanBuffer::from(std::mem::take(valid)));
                Arc::new(Int64Array::new(std::mem::take(values).into(), Some(nulls).filter(|nulls| nulls.null_count() > 0)))
            }
        }
    }
}

impl ClosedRows {
    pub fn new(plan: &WindowPlan) -> ClosedRows {
        ClosedRows {
            place: Vec::new(),
            hash: Vec::new(),
            keys: Vec::new(),
            key_ends: Vec::new(),
            start_us: Vec::new(),
            results: plan
                .results
                .iter()
                .map(|result| match result.data_type {
                    FieldType::Int64 => ResultColumn::Int64(Vec::new(), Vec::new()),
                    _ => ResultColumn::Float64(Vec::new()),
                })
                .collect(),
            functions: plan.results.iter().map(|result| (result.group, result.function)).collect(),
            groups: plan.groups.iter().map(|(_, group)| *group).collect(),
            members: plan.columns[3..].iter().map(|column| json::member(&column.name, false)).collect(),
        }
    }

    pub fn is_large(&self) -> bool {
        self.place.len() >= LARGE_ROWS
    }

    pub fn push(&mut self, pane: &ClosedPane<'_>, local_of: &[u16]) {
        self.place.push(local_of[usize::from(pane.shard)]);
        self.hash.push(pane.hash);
        self.keys.extend_from_slice(pane.key);
        self.key_ends.push(self.keys.len() as i32);
        self.start_us.push(pane.start_us);
        for (column, (group, function)) in std::iter::zip(&mut self.results, &self.functions) {
            column.push(self.groups[*group].result(pane.pane, *function));
        }
    }

    /// key, window_start, window_end, aggregates; empties the collection but for places and hashes.
    fn take_columns(&mut self, size_us: i64) -> Vec<ArrayRef> {
        let mut offsets = Vec::with_capacity(self.key_ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.key_ends);
        let keys = StringArray::new(OffsetBuffer::new(ScalarBuffer::from(offsets)), std::mem::take(&mut self.keys).into(), None);
        let starts = std::mem::take(&mut self.start_us);
        let ends: Vec<i64> = starts.iter().map(|start| start.saturating_add(size_us)).collect();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(keys), Arc::new(Int64Array::from(starts)), Arc::new(Int64Array::from(ends))];
        columns.extend(self.results.iter_mut().map(ResultColumn::take));
        columns
    }
}

impl Processor {
    /// Completes closed rows and sends them on their way.
    pub(super) fn flush_closed(&mut self) -> Result<()> {
        for window in 0..self.closed.len() {
            if !self.closed[window].place.is_empty() {
                self.flush_window(window)?;
            }
        }
        Ok(())
    }

    fn flush_window(&mut self, window: usize) -> Result<()> {
        let plan = self.plan.clone();
        let definition = &plan.windows[window];
        let mut columns = self.closed[window].take_columns(definition.size_us);
        let rows = columns[0].len();
        let failed = self.call_window_udfs(window, definition, &mut columns, rows)?;
        let masks = definition
            .sinks
            .iter()
            .map(|sink| Ok((*sink, mask_or_all(plan.sinks[*sink].filter.as_ref(), &columns, rows)?)))
            .collect::<Result<Vec<_>>>()?;
        let closed = &self.closed[window];
        let keys = columns[0].as_any().downcast_ref::<StringArray>().expect("the key is a string column");
        let starts = columns[1].as_any().downcast_ref::<Int64Array>().expect("the start is an integer column");
        let writers: Vec<ColumnWriter<'_>> = columns[3..].iter().map(ColumnWriter::new).collect();
        let (mut frame, mut members, mut escaped) = (RowFrame::default(), Vec::new(), Vec::new());
        let mut unfit = Vec::new();
        for row in 0..rows {
            frame.set(definition, starts.value(row));
            let key = json::escaped(keys.value(row).as_bytes(), &mut escaped);
            members.clear();
            for (member, writer) in std::iter::zip(&closed.members, &writers) {
                members.extend_from_slice(member);
                writer.write(&mut members, row);
            }
            let place = usize::from(closed.place[row]);
            if let Some(reason) = failed.as_ref().and_then(|failed| failed.get(&row)) {
                let mut json = Vec::new();
                frame.write(key, &members, &mut json);
                unfit.push((place, reason.clone(), json));
                continue;
            }
            for (sink, mask) in &masks {
                if mask.as_ref().is_none_or(|mask| mask.value(row)) {
                    let write = |out: &mut Vec<u8>| frame.write(key, &members, out);
                    write_row(plan.sinks[*sink].mode, *sink, place, write, &mut self.shards, &mut self.buffers);
                }
            }
            self.shards[place].keep_history(window, starts.value(row), closed.hash[row], key, &members);
            if row + 1 == rows {
                self.row.clear();
                frame.write(key, &members, &mut self.row);
                self.recent_windows.push(&self.row);
            }
        }
        self.closed[window].place.clear();
        self.closed[window].hash.clear();
        for (place, reason, row) in unfit {
            self.dead_letter(place, &reason, &definition.name, &format!("window/{}", definition.name), 0, &row);
        }
        Ok(())
    }

    fn call_window_udfs(
        &mut self,
        window: usize,
        definition: &WindowPlan,
        columns: &mut Vec<ArrayRef>,
        rows: usize,
    ) -> Result<Option<std::collections::HashMap<usize, String>>> {
        let mut failed = std::collections::HashMap::new();
        if definition.udfs.is_empty() {
            return Ok(None);
        }
        self.begin(Stage::Udf);
        let starts = columns[1].as_primitive::<Int64Type>().clone();
        let place = Place::Window(window);
        let at = |row: usize| (place, sortable(starts.value(row)));
        let numbers = || starts.values().iter().map(|start| sortable(*start));
        let ends = numbers().min().zip(numbers().max());
        let spans: Vec<Span> = ends.map(|(from, last)| Span { place, from, to: last + 1 }).into_iter().collect();
        let called = CalledRows { len: rows, spans: &spans, at: &at };
        for udf in &definition.udfs {
            let inputs: Vec<ArrayRef> = udf.inputs.iter().map(|column| columns[*column].clone()).collect();
            let callee = Callee { index: udf.index, name: &udf.name, kinds: &arrow_kinds(&udf.outputs) };
            let result = udf::call(self.calls.as_mut(), &mut *self.udfs, &callee, &inputs, &called)?;
            failed.extend(result.failed.into_iter().map(|(row, reason)| (row, format!("udf {}: {reason}", udf.name))));
            columns.extend(result.outputs);
        }
        self.end(Stage::Udf);
        Ok(Some(failed).filter(|failed| !failed.is_empty()))
    }
}
