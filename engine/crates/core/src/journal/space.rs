//! Room for what was promised: segments are preallocated before rows are handed on, so that a full disk is met while a
//! request can still be refused (I4).
//!
//! Frames are placed by one rule: into the current segment while they fit, else into the next one that is large enough.
//! [`Space`] plays the rule ahead with every frame taken as longer by a mark, which can only place it later; so what was
//! reserved always fits.

use std::collections::VecDeque;

use super::frame::FRAME_HEADER_BYTES;
use super::segment::SEGMENT_HEADER_BYTES;
use crate::Error;

/// A mark may stand before any frame.
pub(super) const MARK_BYTES: u64 = FRAME_HEADER_BYTES as u64;

/// There is no room in the journal: the request must be refused, nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// Why no further segment could be made, and what to do.
    pub error: Error,
}

/// A preallocated file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spare {
    pub number: u64,
    pub bytes: u64,
}

#[derive(Debug)]
pub(super) struct Space {
    segment_bytes: u64,
    /// Not in use yet; the first `planned` are needed for what is reserved.
    spares: VecDeque<Spare>,
    planned: usize,
    /// Room left in the segment that the plan has reached, bytes.
    room: u64,
    /// Reserved and not appended yet, bytes.
    outstanding: u64,
    next_number: u64,
}

impl Space {
    pub fn new(segment_bytes: u64) -> Space {
        Space { segment_bytes, spares: VecDeque::new(), planned: 0, room: 0, outstanding: 0, next_number: 0 }
    }

    /// Reserves a frame of `frame_bytes`. False: first a segment of [`Space::segment_for`] must be added.
    pub fn try_reserve(&mut self, frame_bytes: u64) -> bool {
        let need = frame_bytes + MARK_BYTES;
        if need > self.room {
            let Some(spare) = self.spares.get(self.planned).filter(|spare| spare.bytes >= need + SEGMENT_HEADER_BYTES) else {
                return false;
            };
            self.room = spare.bytes - SEGMENT_HEADER_BYTES;
            self.planned += 1;
        }
        self.room -= need;
        self.outstanding += need;
        true
    }

    /// A new file that holds a frame of `frame_bytes`.
    pub fn segment_for(&mut self, frame_bytes: u64) -> Spare {
        self.next_number += 1;
        let bytes = self.segment_bytes.max(SEGMENT_HEADER_BYTES + MARK_BYTES + frame_bytes);
        Spare { number: self.next_number, bytes }
    }

    /// Adds a prepared file as the next one that the plan uses.
    pub fn add(&mut self, spare: Spare) {
        self.spares.insert(self.planned, spare);
    }

    /// Whether nothing is prepared beyond what is planned.
    pub fn wants_spare(&self) -> bool {
        self.spares.len() == self.planned
    }

    /// Takes the first prepared file that holds a frame of `frame_bytes`.
    pub fn take(&mut self, frame_bytes: u64) -> Option<Spare> {
        let need = SEGMENT_HEADER_BYTES + MARK_BYTES + frame_bytes;
        let at = self.spares.iter().position(|spare| spare.bytes >= need)?;
        if at < self.planned {
            self.planned -= 1;
        }
        self.spares.remove(at)
    }

    /// Frames of `frame_bytes` each were appended; `room` bytes are left in the current segment.
    pub fn appended(&mut self, frames: u64, frame_bytes: u64, room: u64) {
        self.outstanding = self.outstanding.saturating_sub(frame_bytes + frames * MARK_BYTES);
        if self.outstanding == 0 {
            self.room = room;
            self.planned = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What was reserved fits, in whatever groups it is appended and wherever marks stand.
        #[test]
        fn reserved_frames_always_find_a_prepared_segment(
            frames in prop::collection::vec((1u64..3000, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut space = Space::new(2048);
            let mut waiting = VecDeque::new();
            let mut room = 0u64;
            for (bytes, marked, drain) in frames {
                if !space.try_reserve(bytes) {
                    let spare = space.segment_for(bytes);
                    space.add(spare);
                    prop_assert!(space.try_reserve(bytes));
                }
                waiting.push_back((bytes, marked));
                let drained = if drain { waiting.len() } else { 0 };
                for (bytes, marked) in waiting.drain(..drained) {
                    let need = bytes + if marked { MARK_BYTES } else { 0 };
                    if need > room {
                        let spare = space.take(bytes);
                        prop_assert!(spare.is_some(), "no segment for {} bytes", bytes);
                        room = spare.unwrap().bytes - SEGMENT_HEADER_BYTES;
                    }
                    room -= need;
                    space.appended(1, bytes, room);
                }
            }
        }
    }
}
