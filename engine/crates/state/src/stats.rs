//! Figures of a shard's store, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a shard's store looks like at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of all SST files.
    pub sst_bytes: u64,
    pub memtable_bytes: u64,
    /// Of the cache that all shards share: the same figure for each of them.
    pub block_cache_bytes: u64,
    /// RocksDB's estimate of what compaction still has to rewrite.
    pub pending_compaction_bytes: u64,
    /// Files that compaction has not merged yet; each costs a point read a filter probe.
    pub l0_files: u64,
    /// Since the process started.
    pub commits: u64,
    /// Bytes of keys and values committed since the process started.
    pub committed_bytes: u64,
    /// How long the last commit took, microseconds.
    pub last_commit_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    bytes: AtomicU64,
    last_us: AtomicU64,
}

impl Counters {
    pub fn committed(&self, bytes: usize, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_us.store(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn fill(&self, stats: &mut StoreStats) {
        stats.commits = self.commits.load(Ordering::Relaxed);
        stats.committed_bytes = self.bytes.load(Ordering::Relaxed);
        stats.last_commit_us = self.last_us.load(Ordering::Relaxed);
    }
}
