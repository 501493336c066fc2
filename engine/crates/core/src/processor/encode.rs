//! Event rows as JSON: the row's fields, its time as it came in, outputs of UDFs, and an id that names its position.

use arrow_array::ArrayRef;

use super::Delivery;
use crate::config::TimeUnit;
use crate::event_time;
use crate::json::{self, ColumnWriter};
use crate::plan::{Plan, TimeOutput};
use crate::shard::SplitInfo;

/// Writes event rows; everything that is the same for all rows is made once.
pub(super) struct EventEncoder {
    fields: Vec<Vec<u8>>,
    time: Vec<u8>,
    time_output: TimeOutput,
    outputs: Vec<Vec<u8>>,
    /// By split: `,"_id":"split:`.
    ids: Vec<Vec<u8>>,
    columns: Vec<ArrayRef>,
}

impl EventEncoder {
    pub fn new(plan: &Plan, splits: &[SplitInfo]) -> EventEncoder {
        let member = |(column, first): (usize, bool)| json::member(&plan.event_columns[column].name, first);
        EventEncoder {
            fields: (0..plan.time_column).map(|column| member((column, column == 0))).collect(),
            time: member((plan.time_column, plan.time_column == 0)),
            time_output: plan.time_output,
            outputs: (plan.time_column + 1..plan.event_columns.len()).map(|column| member((column, false))).collect(),
            ids: splits
                .iter()
                .map(|split| {
                    let mut id = b",\"_id\":\"".to_vec();
                    json::write_escaped(&mut id, split.id.as_bytes());
                    id.push(b':');
                    id
                })
                .collect(),
            columns: Vec::new(),
        }
    }

    /// Sets the outputs of UDFs for the rows that follow.
    pub fn begin(&mut self, outputs: &[ArrayRef]) {
        self.columns = outputs.to_vec();
    }

    pub fn end(&mut self) {
        self.columns.clear();
    }

    /// `{` and the row's fields and time; the object stays open.
    pub fn write_fields(&self, out: &mut Vec<u8>, delivery: &Delivery, source_row: usize) {
        for (prefix, column) in std::iter::zip(&self.fields, &delivery.batch.columns) {
            out.extend_from_slice(prefix);
            ColumnWriter::new(column).write(out, source_row);
        }
        out.extend_from_slice(&self.time);
        write_time(out, delivery.batch.time_us[source_row], self.time_output);
    }

    /// The whole row. `work_row` counts within the outputs given to [`EventEncoder::begin`].
    pub fn write(&self, out: &mut Vec<u8>, delivery: &Delivery, source_row: usize, work_row: usize) {
        self.write_fields(out, delivery, source_row);
        for (prefix, column) in std::iter::zip(&self.outputs, &self.columns) {
            out.extend_from_slice(prefix);
            ColumnWriter::new(column).write(out, work_row);
        }
        out.extend_from_slice(&self.ids[usize::from(delivery.split)]);
        json::write_u64(out, delivery.first_offset + delivery.batch.relative_offset(source_row));
        out.extend_from_slice(b"\"}");
    }
}

fn write_time(out: &mut Vec<u8>, time_us: i64, output: TimeOutput) {
    let per_unit = match output {
        TimeOutput::Rfc3339 => {
            out.push(b'"');
            event_time::write_rfc3339(time_us, out);
            out.push(b'"');
            return;
        }
        TimeOutput::Number(TimeUnit::S) => 1_000_000,
        TimeOutput::Number(TimeUnit::Ms) => 1_000,
        TimeOutput::Number(TimeUnit::Us) => 1,
        TimeOutput::Number(TimeUnit::Ns) => return json::write_i64(out, time_us.saturating_mul(1_000)),
    };
    if time_us % per_unit == 0 {
        json::write_i64(out, time_us / per_unit);
    } else {
        json::write_f64(out, time_us as f64 / per_unit as f64);
    }
}

/// A time as RFC 3339 in UTC; the ends of time by name.
pub fn time_text(time_us: i64) -> String {
    match time_us {
        i64::MIN => "none".to_owned(),
        i64::MAX => "the end".to_owned(),
        time_us => {
            let mut out = Vec::new();
            event_time::write_rfc3339(time_us, &mut out);
            String::from_utf8(out).expect("a time is ASCII")
        }
    }
}
