//! A job's whole pipeline in memory: one processor with all shards, one split, a clock that others move.
//!
//! The same steps as in an engine process, one after the other: deliver, close windows, commit, send what the commit
//! released, confirm.

use std::sync::Arc;

use streamjob_core::batch::{RowBatch, hash_key, shard_of};
use streamjob_core::config::JobConfig;
use streamjob_core::decode::Decoder;
use streamjob_core::json;
use streamjob_core::plan::{Plan, SinkFrom};
use streamjob_core::processor::{Delivery, Processor};
use streamjob_core::progress::{END_OF_TIME, SplitStatus};
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::stats_json::write_statistics;
use streamjob_core::store::{MemoryStore, ShardStore, WriteSet};
use streamjob_core::udf::UdfHost;
use streamjob_core::{Error, Result};

use super::body;
use super::collected::{Collected, Order};
use super::hidden::{ALL_EVENTS, HiddenSinks};

/// Errors of rows that an answer lists at most.
const MAX_LISTED_ERRORS: usize = 100;
/// Slots that one slice of closing windows looks at.
const CLOSE_BUDGET: usize = 4096;
/// The session's only split.
const SPLIT: u16 = 0;
/// Source name of a job without sources.
const NO_SOURCE: &str = "session";

/// See the module's text.
pub struct Pipeline {
    plan: Arc<Plan>,
    hidden: HiddenSinks,
    stores: Vec<Arc<dyn ShardStore>>,
    writes: WriteSet,
    processor: Processor,
    decoder: Decoder,
    port: Collected,
    next_offset: u64,
    now_us: i64,
    last_row_us: i64,
}

impl Pipeline {
    pub fn new(mut config: JobConfig, udfs: Box<dyn UdfHost>, now_us: i64) -> Result<Pipeline> {
        let hidden = HiddenSinks::add(&mut config);
        let decoder = Decoder::new(&config.schema, config.shards, config.time.max_ahead_us)?;
        let source = config.sources.first().map_or(NO_SOURCE, |source| &source.name);
        let splits = vec![SplitInfo { id: format!("{source}@0").into(), source: source.into(), chained: false }];
        let stores: Vec<Arc<dyn ShardStore>> =
            (0..config.shards).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn ShardStore>).collect();
        let plan = Plan::compile(config)?;
        let shards = std::iter::zip(0.., &stores)
            .map(|(id, store)| Shard::open(id, plan.clone(), store.clone(), &splits))
            .collect::<Result<Vec<_>>>()?;
        Ok(Pipeline {
            port: Collected::new(plan.sinks.len()),
            processor: Processor::new(plan.clone(), splits, shards, udfs),
            plan,
            hidden,
            stores,
            writes: WriteSet::default(),
            decoder,
            next_offset: 0,
            now_us,
            last_row_us: now_us,
        })
    }

    /// Moves the clock. What that releases comes with the next call.
    pub fn set_now(&mut self, now_us: i64) {
        self.now_us = now_us;
    }

    /// Takes a body of rows and gives all that it produced, as JSON.
    pub fn process(&mut self, body: &[u8]) -> Result<String> {
        self.notice_silence();
        let decoded = body::decode(&mut self.decoder, body, self.now_us)?;
        let answer = match &decoded {
            Ok(batch) => answer_of(batch),
            Err(reason) => refusal(reason),
        };
        if let Ok(batch) = decoded
            && batch.span > 0
        {
            self.deliver(batch)?;
        }
        self.settle()?;
        Ok(self.result(answer))
    }

    /// The end of all input: every open window closes.
    pub fn finish(&mut self) -> Result<String> {
        for shard in self.processor.shards_mut() {
            shard.set_watermark(END_OF_TIME);
        }
        self.settle()?;
        Ok(self.result(answer_of(&RowBatch::empty(0))))
    }

    /// A key's running statistics as JSON; `None` for a key that never came.
    pub fn stats(&self, key: &str) -> Result<Option<String>> {
        let hash = hash_key(key.as_bytes());
        let shard = &self.processor.shards()[usize::from(shard_of(hash, self.plan.config.shards))];
        let Some(words) = shard.look_up(hash, key.as_bytes())? else {
            return Ok(None);
        };
        let mut out = Vec::new();
        write_statistics(&mut out, &self.plan, key, &words);
        Ok(Some(text(out)))
    }

    /// A source that was silent for `idleTimeout` no longer holds windows open.
    fn notice_silence(&mut self) {
        if self.now_us.saturating_sub(self.last_row_us) >= self.plan.config.time.idle_timeout_us {
            for shard in self.processor.shards_mut() {
                shard.set_status(SPLIT, SplitStatus::Idle);
            }
        }
    }

    fn deliver(&mut self, batch: RowBatch) -> Result<()> {
        self.last_row_us = self.now_us;
        for shard in self.processor.shards_mut() {
            shard.set_status(SPLIT, SplitStatus::Active);
        }
        let rows = (0..batch.rows() as u32).collect();
        let delivery = Delivery::new(SPLIT, self.next_offset, Arc::new(batch), rows);
        self.next_offset = delivery.to();
        let refusals = self.processor.process(&[delivery], &mut self.port)?;
        match refusals.first() {
            None => Ok(()),
            Some(refusal) => Err(Error::engine(format!("shard {} of a session misses rows", refusal.shard))),
        }
    }

    /// Closes what has ended and commits. A shard whose outbox is full closes the rest once that is confirmed.
    fn settle(&mut self) -> Result<()> {
        loop {
            while self.processor.close_windows(CLOSE_BUDGET, &mut self.port)? {}
            self.commit()?;
            if !self.processor.has_closable() {
                return Ok(());
            }
        }
    }

    fn commit(&mut self) -> Result<()> {
        for (shard, store) in std::iter::zip(0.., &self.stores) {
            if let Some(mut frozen) = self.processor.freeze(shard) {
                frozen.write_set(&**store, &mut self.writes)?;
                store.commit(&self.writes)?;
                self.processor.committed(shard, frozen.epoch, &frozen.sends, &mut self.port)?;
                self.processor.reuse(frozen.take_buffers());
            }
        }
        for sent in self.port.take_sent() {
            if let Some(shard) = self.processor.shard_mut(sent.shard) {
                shard.confirm(sent.sink, sent.number);
            }
        }
        Ok(())
    }

    /// `answer` is an object that is still open.
    fn result(&mut self, answer: Vec<u8>) -> String {
        let mut out = answer;
        out.extend_from_slice(b",\"events\":");
        out.extend_from_slice(&json::member(ALL_EVENTS, true));
        self.port.write_array(self.hidden.events, Order::Events, &mut out);
        let plan = self.plan.clone();
        for (number, sink) in plan.sinks.iter().enumerate().filter(|(number, _)| !self.hidden.has(*number)) {
            if sink.from == SinkFrom::Events {
                out.extend_from_slice(&json::member(&sink.name, false));
                self.port.write_array(number, Order::Events, &mut out);
            } else {
                // The windows' own sinks have all of their rows.
                self.port.clear(number);
            }
        }
        out.extend_from_slice(b"},\"windows\":");
        for (number, window) in plan.windows.iter().enumerate() {
            out.extend_from_slice(&json::member(&window.name, number == 0));
            self.port.write_array(self.hidden.windows[number], Order::Windows, &mut out);
        }
        out.extend_from_slice(if plan.windows.is_empty() { b"{}" } else { b"}" });
        out.extend_from_slice(b",\"dead_letters\":");
        self.port.write_array(plan.dead_letter_sink(), Order::DeadLetters, &mut out);
        out.push(b'}');
        text(out)
    }
}

/// `{"accepted":…,"rejected":…,"errors":[…]`; the object stays open.
fn answer_of(batch: &RowBatch) -> Vec<u8> {
    let errors = batch.rejects.iter().take(MAX_LISTED_ERRORS).map(|reject| (reject.row, &*reject.field, &*reject.reason));
    answer(batch.rows(), batch.rejects.len(), errors)
}

fn refusal(reason: &str) -> Vec<u8> {
    answer(0, 0, [(0, "", reason)].into_iter())
}

fn answer<'a>(accepted: usize, rejected: usize, errors: impl Iterator<Item = (u32, &'a str, &'a str)>) -> Vec<u8> {
    let mut out = format!("{{\"accepted\":{accepted},\"rejected\":{rejected},\"errors\":[").into_bytes();
    for (number, (row, field, reason)) in errors.enumerate() {
        out.extend_from_slice(if number == 0 { b"{\"row\":" } else { b",{\"row\":" });
        json::write_u64(&mut out, u64::from(row));
        out.extend_from_slice(b",\"field\":");
        json::write_string(&mut out, field.as_bytes());
        out.extend_from_slice(b",\"reason\":");
        json::write_string(&mut out, reason.as_bytes());
        out.push(b'}');
    }
    out.push(b']');
    out
}

fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).expect("JSON made of UTF-8 is UTF-8")
}
