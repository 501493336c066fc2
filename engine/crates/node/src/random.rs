//! Chance for jitter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that differ from process to process (SplitMix64); many threads may ask.
pub struct Random {
    seed: AtomicU64,
}

impl Random {
    pub fn new() -> Random {
        Random { seed: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0) }
    }

    /// A number from 0 to 1.
    pub fn next(&self) -> f64 {
        let mut bits = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}
