//! The thread that asks about a topic while another reads it: where its partitions end, whether it has more of them, whether it
//! is still the same; and that shows the group's offsets to tools.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::TopicSource;
use crate::shared::Shared;

/// Whether something is due is looked at this often.
const LOOK: Duration = Duration::from_millis(50);
/// Ends are asked for this often, or after `idleTimeout` where that is shorter.
const ENDS_EVERY: Duration = Duration::from_secs(1);
/// But not more often than this.
const ENDS_AT_MOST: Duration = Duration::from_millis(100);

/// What watches one source.
pub struct TopicWatch {
    pub shared: Arc<Shared>,
    pub source: Arc<TopicSource>,
    /// With `--exit-at-end` the partitions are those of the start.
    pub exit_at_end: bool,
}

impl TopicWatch {
    /// Watches until the process stops.
    pub fn run(self) {
        let config = &self.shared.plan.config;
        let idle_timeout = Duration::from_micros(config.time.idle_timeout_us.max(0) as u64);
        let ends_every = idle_timeout.clamp(ENDS_AT_MOST, ENDS_EVERY);
        let commit_every = Duration::from_micros(config.checkpoint.interval_us.max(1_000) as u64);
        let refresh_every = Duration::from_micros(self.source.config.refresh_us.max(100_000) as u64);
        let (mut ends_at, mut commit_at) = (Instant::now(), Instant::now() + commit_every);
        let mut refresh_at = Instant::now() + if self.source.info.is_some() { refresh_every } else { ENDS_EVERY };
        while !self.shared.is_stopping() {
            self.source.topic.serve();
            let now = Instant::now();
            if ends_at <= now {
                self.ask_ends();
                ends_at = Instant::now() + ends_every;
            }
            if commit_at <= now {
                self.source.show(&self.shared);
                commit_at = Instant::now() + commit_every;
            }
            if refresh_at <= now || self.source.look.swap(false, Ordering::AcqRel) {
                self.refresh();
                refresh_at = Instant::now() + if self.source.info.is_some() { refresh_every } else { ENDS_EVERY };
            }
            std::thread::sleep(LOOK);
        }
    }

    fn ask_ends(&self) {
        for partition in &self.source.partitions {
            if self.shared.is_stopping() {
                return;
            }
            // Before the question: whoever is idle since then is so by the answer.
            let asked_us = self.shared.uptime_us();
            if let Ok(bounds) = self.source.topic.bounds(partition.number) {
                partition.end.store(bounds.end, Ordering::Release);
                partition.answered_us.store(asked_us.max(1), Ordering::Release);
            }
        }
    }

    fn refresh(&self) {
        let Ok(info) = self.source.topic.describe() else { return };
        let source = self.source.place();
        match &self.source.info {
            None => self.shared.ask_reopen(&format!("{source}: the topic's partitions are known now")),
            Some(known) if known.id != info.id => self.shared.ask_reopen(&format!("{source}: the topic was made anew")),
            Some(known) if info.partitions.len() > known.partitions.len() && !self.exit_at_end => {
                self.shared.ask_reopen(&format!("{source}: the topic has more partitions"));
            }
            Some(_) => {}
        }
    }
}
