//! What readers share with the writer: which segments there are, and how far each is durable.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::segment::SEGMENT_HEADER_BYTES;

/// A place is remembered about this often, in bytes, so that a reader that starts within a segment need not walk all of it.
const PLACE_EVERY_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct SegmentInfo {
    pub first_offset: u64,
    /// Readers stop here.
    pub durable_bytes: u64,
    /// (offset of a record, its position), ascending.
    places: Vec<(u64, u64)>,
}

impl SegmentInfo {
    pub fn new(first_offset: u64, durable_bytes: u64) -> SegmentInfo {
        SegmentInfo { first_offset, durable_bytes, places: Vec::new() }
    }

    fn place_before(&self, offset: u64) -> (u64, u64) {
        match self.places.partition_point(|&(at, _)| at <= offset) {
            0 => (self.first_offset, SEGMENT_HEADER_BYTES),
            behind => self.places[behind - 1],
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct IndexState {
    pub segments: VecDeque<SegmentInfo>,
    pub durable_offset: u64,
}

/// Where a reader begins.
pub(super) struct Start {
    pub segment: u64,
    pub offset: u64,
    pub position: u64,
}

/// What a reader may read of a segment.
pub(super) struct Extent {
    pub durable_bytes: u64,
    pub next_segment: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    state: Mutex<IndexState>,
}

impl Index {
    pub fn new(segments: VecDeque<SegmentInfo>, durable_offset: u64) -> Index {
        Index { state: Mutex::new(IndexState { segments, durable_offset }) }
    }

    pub fn lock(&self) -> MutexGuard<'_, IndexState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the place of a record in the newest segment.
    pub fn note_place(&self, offset: u64, position: u64) {
        if let Some(segment) = self.lock().segments.back_mut() {
            segment.places.push((offset, position));
        }
    }

    /// The place at or before `offset` from which a reader can walk. `None` before the first segment.
    pub fn start(&self, offset: u64) -> Option<Start> {
        let state = self.lock();
        let behind = state.segments.partition_point(|segment| segment.first_offset <= offset);
        let segment = &state.segments[behind.checked_sub(1)?];
        let (offset, position) = segment.place_before(offset);
        Some(Start { segment: segment.first_offset, offset, position })
    }

    /// `None` for a segment that was trimmed.
    pub fn extent(&self, segment: u64) -> Option<Extent> {
        let state = self.lock();
        let at = state.segments.binary_search_by_key(&segment, |info| info.first_offset).ok()?;
        let next_segment = state.segments.get(at + 1).map(|info| info.first_offset);
        Some(Extent { durable_bytes: state.segments[at].durable_bytes, next_segment })
    }

    pub fn publish(&self, segment: u64, durable_bytes: u64, durable_offset: u64) {
        let mut state = self.lock();
        if let Ok(at) = state.segments.binary_search_by_key(&segment, |info| info.first_offset) {
            let info = &mut state.segments[at];
            info.durable_bytes = info.durable_bytes.max(durable_bytes);
        }
        state.durable_offset = state.durable_offset.max(durable_offset);
    }

    /// Removes and returns segments all of whose offsets lie below `up_to`; the newest stays.
    pub fn remove_below(&self, up_to: u64) -> Vec<u64> {
        let mut state = self.lock();
        let mut removed = Vec::new();
        while state.segments.get(1).is_some_and(|next| next.first_offset <= up_to) {
            removed.extend(state.segments.pop_front().map(|info| info.first_offset));
        }
        removed
    }
}

/// Whether a place so far behind the last remembered one is worth remembering.
pub(super) fn is_place(position: u64, last_place: u64) -> bool {
    position >= last_place + PLACE_EVERY_BYTES
}
