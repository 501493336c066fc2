//! Opening a shard: the newest commit becomes the state in memory. The only way in, after a crash as after a clean stop (I7).

use std::sync::Arc;

use super::blocks::{self, Entry};
use super::{OLDEST_SHARD_FORMAT, SHARD_FORMAT, Shard, ShardMeta, SinkState, freeze, keys, windows};
use crate::guards::{self, Guard};
use crate::outbox::Batch;
use crate::plan::SinkMode;
use crate::progress::{SplitProgress, SplitStatus};
use crate::store::ShardStore;
use crate::table::Slot;
use crate::{Error, Result};

impl Shard {
    /// The number of the segment that is open now, for each sink of segments: what a restart looks for.
    pub fn open_segments(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.sinks.iter().enumerate().filter_map(|(sink, state)| match state {
            SinkState::Segments { number, .. } => Some((sink, *number)),
            _ => None,
        })
    }

    /// The number of the next batch, for each sink of messages: a sink that has it is newer than the state.
    pub fn next_batches(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.sinks.iter().enumerate().filter_map(|(sink, state)| match state {
            SinkState::Messages(outbox) => Some((sink, outbox.next_number())),
            _ => None,
        })
    }

    /// Rows that were committed for sinks that the job does not have any more, or not as ones of messages: name, rows. They stay in
    /// the store, as their positions have moved on, until a sink of that name sends them.
    pub fn unsent(&self) -> &[(String, u64)] {
        &self.unsent
    }

    pub(super) fn load(&mut self) -> Result<()> {
        let Some(bytes) = self.store.get(keys::META)? else { return Ok(()) };
        let meta: ShardMeta = serde_json::from_slice(&bytes)
            .map_err(|error| Error::damaged(format!("shard {}: its record of progress can't be read: {error}", self.id)))?;
        self.check(&meta)?;
        self.take_meta(meta);
        self.load_outboxes()?;
        self.load_keys()
    }

    fn check(&self, meta: &ShardMeta) -> Result<()> {
        if !(OLDEST_SHARD_FORMAT..=SHARD_FORMAT).contains(&meta.format) {
            return Err(Error::user(format!(
                "shard {}: its state has format {}, this engine reads {SHARD_FORMAT}; run the engine version that wrote it, or start \
                 with another --state-dir",
                self.id, meta.format
            )));
        }
        if meta.shard != self.id {
            return Err(Error::damaged(format!(
                "shard {}: the store holds shard {}; stores were exchanged, as a restore by hand may do: put each under its own number",
                self.id, meta.shard
            )));
        }
        if meta.layout_fingerprint != self.plan.layout_fingerprint {
            return Err(Error::user(format!(
                "shard {}: the job's shards, numeric fields or windows differ from those that made this state; change them back, or \
                 start with another --state-dir",
                self.id
            )));
        }
        Ok(())
    }

    fn take_meta(&mut self, meta: ShardMeta) {
        self.epoch = meta.epoch + 1;
        self.committed_epoch = meta.epoch;
        self.keys = meta.keys;
        self.table.reserve((meta.keys as usize).min(self.max_hot_keys));
        self.watermark_us = meta.watermark_us;
        self.max_event_time_us = meta.max_event_time_us;
        self.ledger = meta.ledger;
        for (id, progress) in meta.splits {
            match self.split_ids.iter().position(|known| **known == *id) {
                // Its reader says anew whether it is idle or at its end: until then it may hold older rows than others.
                Some(split) => self.splits[split] = SplitProgress { status: SplitStatus::Active, ..progress },
                None => self.foreign_splits.push((id, progress)),
            }
        }
        for (name, start) in meta.latest_closed {
            if let Some(window) = self.plan.windows.iter().position(|window| window.name == name) {
                self.latest_closed[window] = start;
            }
        }
        for (name, counts) in meta.open_panes {
            if let Some(window) = self.plan.windows.iter().position(|window| window.name == name) {
                self.windows[window].restore(&counts);
            }
        }
        // One that is a stream for a while has no numbers of its own, and must not lose those that it had.
        let is_there = |name: &String| self.plan.sinks.iter().any(|sink| sink.name == *name && sink.mode != SinkMode::Stream);
        if !guards::off(Guard::KeepNumbers) {
            self.foreign_numbers = meta.next_numbers.iter().filter(|(name, _)| !is_there(name)).cloned().collect();
        }
        for (sink, state) in std::iter::zip(&self.plan.sinks, &mut self.sinks) {
            let known = meta.next_numbers.iter().find(|(name, _)| *name == sink.name);
            let Some((_, next)) = known else { continue };
            match state {
                SinkState::Segments { number, .. } => *number = *next,
                SinkState::Messages(outbox) => {
                    *outbox = crate::outbox::Outbox::new(sink.max_batch_rows, *next).bounded(self.plan.limits.outbox_bytes);
                }
                SinkState::Stream => {}
            }
        }
    }

    fn load_outboxes(&mut self) -> Result<()> {
        let mut batches = Vec::new();
        self.store.scan(keys::OUTBOX_FROM, keys::OUTBOX_TO, &mut |key, value| {
            if let (Some(place), Some((rows, body))) = (keys::parse_outbox_key(key), value.split_at_checked(4)) {
                let rows = u32::from_le_bytes(rows.try_into().expect("four bytes"));
                batches.push((place, Batch { number: place.1, rows, body: Arc::from(body), confirmed_below: 0 }));
            }
            true
        })?;
        for ((id, _), batch) in batches {
            let sink = self.plan.sinks.iter().position(|sink| freeze::sink_id(&sink.name) == id);
            // Batches of a sink that left the job stay in the store: it may come back.
            match sink.map(|sink| &mut self.sinks[sink]) {
                Some(SinkState::Messages(outbox)) => outbox.restore(batch),
                _ => self.note_unsent(id, batch.rows),
            }
        }
        Ok(())
    }

    fn note_unsent(&mut self, id: u32, rows: u32) {
        let gone = self.foreign_numbers.iter().map(|(name, _)| name);
        let known = self.plan.sinks.iter().map(|sink| &sink.name).chain(gone);
        let name = known.into_iter().find(|name| freeze::sink_id(name) == id).map_or("of an unknown name", String::as_str);
        match self.unsent.iter_mut().find(|(of, _)| of == name) {
            Some((_, unsent)) => *unsent += u64::from(rows),
            None => self.unsent.push((name.to_owned(), u64::from(rows))),
        }
    }

    /// Reads keys until memory is full. The others come when they are wanted.
    fn load_keys(&mut self) -> Result<()> {
        let store = self.store.clone();
        let mut outcome = Ok(());
        store.scan(keys::KEYS_FROM, keys::KEYS_TO, &mut |record, value| {
            outcome = match keys::parse_key_record(record) {
                Some((hash, key)) => self.load_key(hash, key, value),
                None => Err(Error::damaged(format!("shard {}: a key's record has no hash", self.id))),
            };
            outcome.is_ok() && self.has_room_to_load()
        })?;
        outcome?;
        self.load_blocks(&*store)
    }

    /// After the records, which are newer: where memory has room, they are all in it.
    fn load_blocks(&mut self, store: &dyn ShardStore) -> Result<()> {
        let newer = !self.table.is_empty();
        let mut outcome = Ok(());
        store.scan(keys::BLOCKS_FROM, keys::BLOCKS_TO, &mut |_, block| {
            self.has_blocks = true;
            let mut loaded = Ok(());
            let visited = blocks::visit(block, &mut |Entry { hash, key, state }| {
                let has_room = self.has_room_to_load();
                if has_room && !(newer && self.table.find(hash, key).is_some()) {
                    loaded = self.load_key(hash, key, state);
                }
                has_room && loaded.is_ok()
            });
            outcome = visited.and(loaded);
            outcome.is_ok() && self.has_room_to_load()
        })?;
        outcome
    }

    fn has_room_to_load(&self) -> bool {
        self.held_keys() < self.max_hot_keys
    }

    fn load_key(&mut self, hash: u64, key: &[u8], state: &[u8]) -> Result<()> {
        let slot = self.table.insert(hash, key);
        self.read_slot(slot, state)
    }

    /// Fills a slot that was just made from its record.
    pub(super) fn read_slot(&mut self, slot: Slot, value: &[u8]) -> Result<()> {
        // The plan is all workers': counting who has it, key by key, would have them wait for each other.
        let Shard { plan, windows, table, .. } = self;
        let (base, panes) = table.state_mut(slot).split_at_mut(plan.base_words());
        let mut counted = true;
        freeze::decode_slot(value, base, &mut |window, start_us, words| {
            let (Some(window), Some(state)) = (plan.windows.get(window), windows.get_mut(window)) else { return };
            counted &= state.warmed(start_us);
            let place = window.pane_of(start_us) - plan.base_words();
            if panes[place] == 0 {
                panes[place] = windows::start_word(start_us);
                freeze::get_words(words, &mut panes[place + 1..place + 1 + window.pane_words]);
            } else {
                let mut pane = vec![0u64; window.pane_words].into_boxed_slice();
                freeze::get_words(words, &mut pane);
                state.restore_overflow(slot, start_us, pane);
            }
        })?;
        match counted {
            true => Ok(()),
            false => Err(Error::damaged(format!("shard {}: a key's record has an open pane that is not counted", self.id))),
        }
    }
}
