//! Event sinks and dead letters: what leaves for each row.

use arrow_array::{Array, ArrayRef, BooleanArray};

use super::{Delivery, Processor};
use crate::Result;
use crate::ledger::Outcome;
use crate::plan::{Plan, SinkFrom, SinkMode};

use super::stages::mask_or_all;

impl Processor {
    /// Counts each row once (I6) and writes it to the sinks whose `where` it passes, or to the dead letters.
    pub(super) fn emit_events(
        &mut self,
        plan: &Plan,
        deliveries: &[Delivery],
        columns: &[ArrayRef],
        reasons: &[(usize, String)],
    ) -> Result<()> {
        for at in 0..self.work.len() {
            self.shards[usize::from(self.work.place[at])].count(self.work.outcome[at]);
        }
        self.emit_unfit(deliveries, reasons);
        let mut masks = Vec::new();
        for (number, sink) in plan.sinks.iter().enumerate().filter(|(_, sink)| sink.from == SinkFrom::Events) {
            masks.push((number, mask_or_all(sink.filter.as_ref(), columns, self.work.len())?));
        }
        if masks.is_empty() {
            return Ok(());
        }
        self.events.begin(&columns[plan.time_column + 1..]);
        for at in 0..self.work.len() {
            if self.work.outcome[at] != Outcome::Applied || !masks.iter().any(|(_, mask)| passes(mask, at)) {
                continue;
            }
            let delivery = &deliveries[self.work.delivery[at] as usize];
            self.row.clear();
            self.events.write(&mut self.row, delivery, self.work.row[at] as usize, at);
            let place = usize::from(self.work.place[at]);
            let mut filtered = false;
            for (sink, mask) in masks.iter().filter(|(_, mask)| passes(mask, at)) {
                filtered |= mask.is_some();
                let write = |out: &mut Vec<u8>| out.extend_from_slice(&self.row);
                write_row(plan.sinks[*sink].mode, *sink, place, write, &mut self.shards, &mut self.buffers);
            }
            if filtered {
                self.shards[place].ledger.anomalies += 1;
                self.recent_events.push(&self.row);
            }
        }
        self.events.end();
        Ok(())
    }

    /// Late and failed rows go to the dead letters with reason and position.
    fn emit_unfit(&mut self, deliveries: &[Delivery], reasons: &[(usize, String)]) {
        if self.work.outcome.iter().all(|outcome| *outcome == Outcome::Applied) {
            return;
        }
        for at in 0..self.work.len() {
            let reason = match self.work.outcome[at] {
                Outcome::Late => format!(
                    "late: every window of the row had closed at watermark {}",
                    super::time_text(self.work.watermark_us[at])
                ),
                Outcome::Failed => match reasons.binary_search_by_key(&at, |(row, _)| *row) {
                    Ok(found) => reasons[found].1.clone(),
                    Err(_) => "a UDF failed".to_owned(),
                },
                _ => continue,
            };
            let delivery = &deliveries[self.work.delivery[at] as usize];
            let source_row = self.work.row[at] as usize;
            let mut row = Vec::new();
            self.events.write_fields(&mut row, delivery, source_row);
            row.push(b'}');
            let split = &self.splits[usize::from(delivery.split)];
            let source = delivery.batch.source.as_ref().unwrap_or(&split.source);
            let (source, id) = (source.to_string(), split.id.to_string());
            let offset = delivery.first_offset + delivery.batch.relative_offset(source_row);
            self.dead_letter(usize::from(self.work.place[at]), &reason, &source, &id, offset, &row);
        }
    }

    /// One line for the dead letters; `row` is JSON.
    pub(super) fn dead_letter(&mut self, place: usize, reason: &str, source: &str, split: &str, offset: u64, row: &[u8]) {
        let buffer = &mut self.buffers[self.plan.dead_letter_sink()][place];
        let out = &mut buffer.bytes;
        out.extend_from_slice(b"{\"reason\":");
        crate::json::write_string(out, reason.as_bytes());
        out.extend_from_slice(b",\"source\":");
        crate::json::write_string(out, source.as_bytes());
        out.extend_from_slice(b",\"split\":");
        crate::json::write_string(out, split.as_bytes());
        out.extend_from_slice(b",\"offset\":");
        crate::json::write_u64(out, offset);
        out.extend_from_slice(b",\"row\":");
        out.extend_from_slice(row);
        out.extend_from_slice(b"}\n");
        buffer.rows += 1;
    }
}

fn passes(mask: &Option<BooleanArray>, row: usize) -> bool {
    mask.as_ref().is_none_or(|mask| mask.is_valid(row) && mask.value(row))
}

/// Adds one row, which `write` appends, to what goes to a sink.
pub(super) fn write_row(
    mode: SinkMode,
    sink: usize,
    place: usize,
    write: impl FnOnce(&mut Vec<u8>),
    shards: &mut [crate::shard::Shard],
    buffers: &mut [Vec<super::RowBuffer>],
) {
    if mode == SinkMode::Messages {
        if let Some(outbox) = shards[place].outbox_mut(sink) {
            outbox.stage_with(write);
        }
        return;
    }
    let buffer = &mut buffers[sink][place];
    write(&mut buffer.bytes);
    buffer.bytes.push(b'\n');
    buffer.rows += 1;
}
