//! What a worker tells the rest of the process about itself.

use std::time::Instant;

use streamjob_core::plan::SinkMode;
use streamjob_core::progress::{NO_TIME, SplitStatus};
use streamjob_core::shard::Shard;

use super::{Phase, Worker};
use crate::shared::WorkerFigures;

impl Worker {
    pub(super) fn publish(&mut self) {
        self.figures_at = Instant::now();
        let shards = self.processor.shards();
        let splits = self.shared.splits.len();
        let mut figures = WorkerFigures {
            pending_rows: vec![0; self.shared.plan.sinks.len()],
            positions: vec![u64::MAX; splits],
            finished: vec![true; splits],
            ..WorkerFigures::default()
        };
        for shard in shards {
            figures.ledger.add(&shard.ledger);
            figures.keys += shard.table.len() as u64;
            figures.table_bytes += shard.memory_bytes() as u64;
            for (sink, _) in self.shared.plan.sinks.iter().enumerate().filter(|(_, plan)| plan.mode == SinkMode::Messages) {
                figures.pending_rows[sink] += shard.outbox(sink).map_or(0, |outbox| outbox.pending_rows());
            }
            for split in 0..splits {
                let progress = shard.progress(split as u16);
                figures.positions[split] = figures.positions[split].min(progress.position);
                figures.finished[split] &= progress.status == SplitStatus::Finished;
            }
        }
        figures.at_rest = (self.end_of_time || self.phase != Phase::Running)
            && !self.has_rows()
            && self.is_committed()
            && figures.pending_rows.iter().all(|rows| *rows == 0);
        figures.blocked_shards = self.catch_up.blocked() as u64;
        figures.behind_shards = self.catch_up.behind() as u64;
        figures.end_of_time = self.end_of_time;
        figures.stopping = self.phase != Phase::Running;
        let known = |time_us: i64| Some(time_us).filter(|time_us| *time_us != NO_TIME);
        figures.watermark_us = shards.iter().map(Shard::watermark_us).min().and_then(known);
        figures.max_event_time_us = shards.iter().map(Shard::max_event_time_us).max().and_then(known);
        let text = |row: &[u8]| String::from_utf8_lossy(row).into_owned();
        figures.recent_windows = self.processor.recent_windows.iter().map(text).collect();
        figures.recent_events = self.processor.recent_events.iter().map(text).collect();
        *self.shared.figures[self.number].lock() = figures;
    }
}
