//! Open panes of one shard: which starts are open, panes that found no room in their slot, and the walk that closes them.
//! Panes of keys that are only in the store are closed by `cold.rs`.

use std::collections::HashMap;

use super::Shard;
use super::cold::ColdWalk;
use crate::Result;
use crate::guards::{self, Guard};
use crate::progress::{sortable, unsortable};
use crate::table::Slot;

/// The pane word of a slot that has no open pane is zero; a start is kept with its sign bit turned.
#[inline]
pub(crate) fn start_word(start_us: i64) -> u64 {
    sortable(start_us)
}

#[inline]
pub(crate) fn word_start(word: u64) -> i64 {
    unsortable(word)
}

/// What a pane outside of its slot takes beside its words: its place in the map, and the allocator's own.
const OVERFLOW_PANE_BYTES: usize = 64;

/// Open panes of one window in one shard.
#[derive(Debug, Default)]
pub(super) struct WindowState {
    /// Few at a time.
    open: Vec<OpenStart>,
    /// Panes of keys whose slot holds another start of the same window.
    overflow: HashMap<(Slot, i64), Box<[u64]>>,
    /// Where the walk over the slots for the earliest closable start is.
    walk: Option<Walk>,
    /// Where the walk over the store is, for the panes that no slot holds.
    pub(super) cold_walk: Option<ColdWalk>,
}

/// A start with open panes.
#[derive(Debug, Clone, Copy)]
struct OpenStart {
    start_us: i64,
    /// All panes.
    panes: u64,
    /// Those of keys that are only in the store.
    cold: u64,
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    start_us: i64,
    next: Slot,
}

impl WindowState {
    fn find(&mut self, start_us: i64) -> Option<&mut OpenStart> {
        self.open.iter_mut().find(|open| open.start_us == start_us)
    }

    fn opened(&mut self, start_us: i64) {
        match self.find(start_us) {
            Some(open) => open.panes += 1,
            None => self.open.push(OpenStart { start_us, panes: 1, cold: 0 }),
        }
    }

    fn closed(&mut self, start_us: i64) {
        let place = self.open.iter().position(|open| open.start_us == start_us).expect("a closed pane was open");
        self.open[place].panes -= 1;
        if self.open[place].panes == 0 {
            self.open.swap_remove(place);
        }
    }

    /// A key with a pane of this start left memory.
    pub(super) fn cooled(&mut self, start_us: i64) {
        self.find(start_us).expect("a pane that leaves memory is open").cold += 1;
    }

    /// A key with a pane of this start was read from the store. False if no pane of it was known to be there.
    pub(super) fn warmed(&mut self, start_us: i64) -> bool {
        let Some(open) = self.find(start_us).filter(|open| open.cold > 0) else { return false };
        open.cold -= 1;
        true
    }

    /// Panes of a start that lie in slots or beside them, and those that are only in the store.
    pub(super) fn panes_of(&self, start_us: i64) -> (u64, u64) {
        let open = self.open.iter().find(|open| open.start_us == start_us);
        open.map_or((0, 0), |open| (open.panes - open.cold, open.cold))
    }

    /// Open starts with the number of their panes, for the commit.
    pub(super) fn counts(&self) -> Vec<(i64, u64)> {
        self.open.iter().map(|open| (open.start_us, open.panes)).collect()
    }

    /// The open starts of a commit: all of their panes are in the store.
    pub(super) fn restore(&mut self, counts: &[(i64, u64)]) {
        self.open =
            counts.iter().map(|(start_us, panes)| OpenStart { start_us: *start_us, panes: *panes, cold: *panes }).collect();
    }

    /// What the panes outside of their slots take, of so many words each.
    pub(super) fn overflow_bytes(&self, pane_words: usize) -> usize {
        self.overflow.len() * (OVERFLOW_PANE_BYTES + pane_words * size_of::<u64>())
    }

    /// Panes outside of their slot: slot, start, words.
    pub(super) fn overflow(&self) -> impl Iterator<Item = (Slot, i64, &[u64])> {
        self.overflow.iter().map(|((slot, start), pane)| (*slot, *start, &pane[..]))
    }

    pub(super) fn restore_overflow(&mut self, slot: Slot, start_us: i64, pane: Box<[u64]>) {
        self.overflow.insert((slot, start_us), pane);
    }

    /// Takes the panes of a slot that leaves memory.
    pub(super) fn cool_overflow(&mut self, slot: Slot) {
        if self.overflow.is_empty() {
            return;
        }
        for open in &mut self.open {
            if self.overflow.remove(&(slot, open.start_us)).is_some() {
                open.cold += 1;
            }
        }
    }
}

/// A closed pane on its way out.
pub(crate) struct ClosedPane<'a> {
    pub shard: u16,
    pub hash: u64,
    pub key: &'a [u8],
    pub window: usize,
    pub start_us: i64,
    pub pane: &'a [u64],
}

impl Shard {
    /// Updates the pane of a row in one window; `pane_at` is where the plan has it for the start. A pane that is in the way and can close (its end is not above
    /// `row_watermark_us`) is closed at once.
    #[inline]
    pub(crate) fn with_pane(
        &mut self,
        slot: Slot,
        window: usize,
        (start_us, pane_at): (i64, usize),
        row_watermark_us: i64,
        close: &mut dyn FnMut(ClosedPane<'_>),
        update: impl FnOnce(&mut [u64]),
    ) {
        let plan = &self.plan.windows[window];
        let pane_words = plan.pane_words;
        debug_assert_eq!(pane_at, plan.pane_of(start_us));
        let wanted = start_word(start_us);
        let state = self.table.state_mut(slot);
        if state[pane_at] == wanted {
            update(&mut state[pane_at + 1..pane_at + 1 + pane_words]);
            return;
        }
        let held = state[pane_at];
        if held != 0 {
            let held_start = word_start(held);
            if held_start.saturating_add(plan.size_us) > row_watermark_us {
                self.update_overflow(slot, window, start_us, update);
                return;
            }
            self.close_inline(slot, window, pane_at, close);
        }
        let promoted = match self.windows[window].overflow.is_empty() {
            true => None,
            false => self.windows[window].overflow.remove(&(slot, start_us)),
        };
        let pane = &mut self.table.state_mut(slot)[pane_at..pane_at + 1 + pane_words];
        pane[0] = wanted;
        match promoted {
            Some(words) => pane[1..].copy_from_slice(&words),
            None => {
                pane[1..].fill(0);
                self.windows[window].opened(start_us);
            }
        }
        update(&mut pane[1..]);
    }

    #[cold]
    fn update_overflow(&mut self, slot: Slot, window: usize, start_us: i64, update: impl FnOnce(&mut [u64])) {
        let words = self.plan.windows[window].pane_words;
        let state = &mut self.windows[window];
        if !state.overflow.contains_key(&(slot, start_us)) {
            state.opened(start_us);
        }
        let pane = state.overflow.entry((slot, start_us)).or_insert_with(|| vec![0u64; words].into_boxed_slice());
        update(pane);
    }

    /// Closes the pane that lies in the slot, hands its words out and frees the place.
    fn close_inline(&mut self, slot: Slot, window: usize, pane_at: usize, close: &mut dyn FnMut(ClosedPane<'_>)) {
        let plan = &self.plan.windows[window];
        let state = self.table.state(slot);
        let start_us = word_start(state[pane_at]);
        let mut buffer = [0u8; 16];
        close(ClosedPane {
            shard: self.id,
            hash: self.table.hash(slot),
            key: self.table.key(slot, &mut buffer),
            window,
            start_us,
            pane: &state[pane_at + 1..pane_at + 1 + plan.pane_words],
        });
        self.table.state_mut(slot)[pane_at] = 0;
        self.windows[window].closed(start_us);
        self.ledger.windows += 1;
        self.mark(slot);
    }

    /// Notes that a slot changed outside of a row.
    pub(super) fn mark(&mut self, slot: Slot) {
        self.changed = true;
        if self.table.mark_dirty(slot, self.epoch as u32) {
            self.dirty.push(slot);
        }
    }

    /// Whether a window can close now: its end is not above the watermark, and there is room for what is left of it in the
    /// store.
    pub fn has_closable(&self) -> bool {
        let waits = self.waits_for_room();
        std::iter::zip(&self.windows, &self.plan.windows).any(|(window, plan)| {
            self.closable(window, plan.size_us).is_some_and(|start_us| !waits || window.panes_of(start_us).0 > 0)
        })
    }

    fn closable(&self, window: &WindowState, size_us: i64) -> Option<i64> {
        let earliest = window.open.iter().map(|open| open.start_us).min()?;
        (earliest.saturating_add(size_us) <= self.watermark_us).then_some(earliest)
    }

    /// Closes panes whose window has ended, looking at no more than `budget` slots and records; returns what is left of it.
    /// The rest is closed by later calls, so that half a million panes do not delay the rows behind them.
    pub(crate) fn close_some(&mut self, mut budget: usize, close: &mut dyn FnMut(ClosedPane<'_>)) -> Result<usize> {
        for window in 0..self.windows.len() {
            while budget > 0 {
                let Some(start_us) = self.closable(&self.windows[window], self.plan.windows[window].size_us) else { break };
                self.close_overflow(window, start_us, close);
                budget = self.walk_inline(window, start_us, budget, close);
                if guards::off(Guard::CloseCold) && self.windows[window].panes_of(start_us).0 == 0 {
                    break;
                }
                if budget > 0 && self.windows[window].panes_of(start_us).1 > 0 {
                    let Some(left) = self.close_cold(window, start_us, budget, close)? else { break };
                    budget = left;
                }
            }
        }
        Ok(budget)
    }

    fn close_overflow(&mut self, window: usize, start_us: i64, close: &mut dyn FnMut(ClosedPane<'_>)) {
        if self.windows[window].overflow.is_empty() {
            return;
        }
        let mut slots: Vec<Slot> =
            self.windows[window].overflow.keys().filter(|(_, start)| *start == start_us).map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        slots.into_iter().for_each(|slot| self.close_beside(window, start_us, slot, close));
    }

    /// Closes the pane of a start, wherever the slot has it.
    pub(super) fn close_slot(&mut self, window: usize, start_us: i64, slot: Slot, close: &mut dyn FnMut(ClosedPane<'_>)) {
        let pane_at = self.plan.windows[window].pane_of(start_us);
        match self.table.state(slot)[pane_at] == start_word(start_us) {
            true => self.close_inline(slot, window, pane_at, close),
            false => self.close_beside(window, start_us, slot, close),
        }
    }

    /// Closes a pane that lies outside of its slot.
    fn close_beside(&mut self, window: usize, start_us: i64, slot: Slot, close: &mut dyn FnMut(ClosedPane<'_>)) {
        let pane = self.windows[window].overflow.remove(&(slot, start_us)).expect("the slot has a pane of this start");
        let mut buffer = [0u8; 16];
        close(ClosedPane {
            shard: self.id,
            hash: self.table.hash(slot),
            key: self.table.key(slot, &mut buffer),
            window,
            start_us,
            pane: &pane,
        });
        self.windows[window].closed(start_us);
        self.ledger.windows += 1;
        self.mark(slot);
    }

    fn walk_inline(&mut self, window: usize, start_us: i64, mut budget: usize, close: &mut dyn FnMut(ClosedPane<'_>)) -> usize {
        let pane_at = self.plan.windows[window].pane_of(start_us);
        let wanted = start_word(start_us);
        let walk = self.windows[window].walk.filter(|walk| walk.start_us == start_us);
        let mut slot = walk.map_or(0, |walk| walk.next);
        while self.windows[window].panes_of(start_us).0 > 0 {
            if budget == 0 {
                self.windows[window].walk = Some(Walk { start_us, next: slot });
                return 0;
            }
            if slot == self.table.slot_end() {
                // A slot behind the walk was given this start again after the walk had passed it.
                slot = 0;
            }
            budget -= 1;
            if self.table.state(slot)[pane_at] == wanted && self.table.is_live(slot) {
                self.close_inline(slot, window, pane_at, close);
            }
            slot += 1;
        }
        self.windows[window].walk = None;
        budget
    }
}
