//! Closed windows for whoever asks: the rows that a commit has out of the store, the others out of memory, as long as their
//! time-to-live has it.

use std::collections::BTreeMap;

use serde_json::Value;
use streamjob_core::progress::NO_TIME;
use streamjob_core::shard::{HistoryReader, Shard};

use crate::check::Line;
use crate::model::{Expected, Reached, replay};
use crate::rows::SECOND;
use crate::window_rows;
use crate::world::{Done, Stop, World, broken, violation};

/// As the core: history is forgotten in steps of this part of its time-to-live.
const FORGET_STEPS: i64 = 64;
/// With a longer time-to-live nothing expires in a run.
const MAX_EXPIRING_US: i64 = 60 * SECOND;
/// After one in so many commits a shard's history is looked through.
const COMMITS_A_LOOK: u64 = 4;

/// What is known of one shard's history.
#[derive(Debug)]
pub struct History {
    /// Windows that have ended before may be gone.
    pub expired_us: i64,
    /// Rows in the store by window, start and key: what had expired when they came.
    kept: BTreeMap<(usize, i64, String), i64>,
}

impl Default for History {
    fn default() -> History {
        History { expired_us: NO_TIME, kept: BTreeMap::new() }
    }
}

impl World {
    /// A commit is durable: history may be gone that has expired, and that must be gone which had expired some steps ago.
    pub fn history_committed(&mut self, shard: u16, max_us: i64) -> Done {
        let ttl_us = self.setup.plan.config.history.raw_us;
        if max_us == NO_TIME || ttl_us > MAX_EXPIRING_US {
            return Ok(());
        }
        let (expired_us, step_us) = (max_us - ttl_us, ttl_us / FORGET_STEPS);
        let known = &mut self.history[usize::from(shard)];
        known.expired_us = known.expired_us.max(expired_us);
        if !self.random.once_in(COMMITS_A_LOOK) {
            return Ok(());
        }
        let known = &self.history[usize::from(shard)];
        let mut kept = BTreeMap::new();
        for (window, plan) in self.setup.plan.windows.iter().enumerate() {
            for (start_us, row) in self.stored(shard, window)? {
                let place = (window, start_us, row["key"].to_string());
                let since_us = known.kept.get(&place).copied().unwrap_or(expired_us);
                if start_us + plan.size_us < expired_us - step_us && since_us < expired_us - step_us {
                    return violation(format!("{} rows of {start_us} have expired in shard {} and stay", plan.name, shard));
                }
                kept.insert(place, since_us);
            }
        }
        self.history[usize::from(shard)].kept = kept;
        Ok(())
    }

    /// Rows of a window that a shard's store has, with their starts.
    fn stored(&self, shard: u16, window: usize) -> Done<Vec<(i64, Value)>> {
        let store = &*self.stores[usize::from(shard)];
        let reader = HistoryReader { store, window: self.setup.plan.windows[window].id };
        let failed = |error: streamjob_core::Error| Stop::Violation(format!("I1: history: {error}"));
        let mut stored = Vec::new();
        let mut from_us = i64::MIN;
        while let Some(start_us) = reader.next_start(from_us, i64::MAX).map_err(failed)? {
            let take = &mut |json: &[u8]| {
                stored.extend(serde_json::from_slice(json).map(|row| (start_us, row)));
                true
            };
            reader.all_rows(start_us, take).map_err(failed)?;
            from_us = start_us + 1;
        }
        Ok(stored)
    }

    /// Any shard is at the moment where the model is, and serves what the model has.
    pub fn look_at_any(&mut self) -> Done {
        let any = self.random.below(u64::from(self.setup.shards())) as u16;
        self.check_shards(|shard| shard == any)
    }

    /// Where each of these shards is in time, and what it serves.
    pub fn check_shards(&self, which: impl Fn(u16) -> bool) -> Done {
        let Some(node) = &self.node else { return Ok(()) };
        let shards = node.workers.iter().flat_map(|worker| worker.processor.shards());
        for shard in shards.filter(|shard| which(shard.id)) {
            let mut expected = Expected::default();
            let log = &self.truth.logs[usize::from(shard.id)];
            let reached = replay(&self.setup.plan, &self.truth, shard.id, log, &mut expected);
            let got = Reached { watermark_us: shard.watermark_us(), max_event_us: shard.max_event_time_us() };
            if got != reached {
                return violation(format!("I11: shard {} is at {got:?} and the model at {reached:?}", shard.id));
            }
            for window in 0..self.setup.plan.windows.len() {
                self.check_serves(shard, window, &expected, reached.watermark_us)?;
            }
        }
        Ok(())
    }

    /// All rows of windows that have closed, and no others.
    fn check_serves(&self, shard: &Shard, window: usize, expected: &Expected, watermark_us: i64) -> Done {
        let mut rows: Vec<Value> = self.stored(shard.id, window)?.into_iter().map(|(_, row)| row).collect();
        let pending = &mut |_: i64, json: &[u8]| rows.extend(serde_json::from_slice::<Value>(json).ok());
        shard.visit_pending_history(window, None, &(i64::MIN..i64::MAX), pending);
        rows.iter().try_for_each(|row| window_rows::check_spread(window, expected, row)).map_err(broken("I1"))?;
        let got = window_rows::counted(rows.iter().map(|row| window_rows::line_of(window, row)));
        // A commit that is written and not reported yet has its rows in both places.
        let most = if shard.commit_in_flight() { 2 } else { 1 };
        let size_us = self.setup.plan.windows[window].size_us;
        let has_closed = !shard.has_closable() && !shard.wants_early_commit();
        let expired_us = self.history[usize::from(shard.id)].expired_us;
        let mut known: BTreeMap<Line, bool> = BTreeMap::new();
        for (key, start_us, pane) in window_rows::closed(expected, window) {
            let end_us = start_us + size_us;
            let must = end_us <= watermark_us && end_us >= expired_us && has_closed;
            known.insert(window_rows::line(window, key, start_us, pane), must);
        }
        if let Some((line, times)) = got.iter().find(|(line, times)| !known.contains_key(*line) || **times > most) {
            return violation(format!("I1: shard {} serves {line} {times} times", shard.id));
        }
        match known.iter().find(|(line, must)| **must && !got.contains_key(*line)) {
            Some((line, _)) => violation(format!("I1: shard {} does not serve {line}", shard.id)),
            None => Ok(()),
        }
    }
}
