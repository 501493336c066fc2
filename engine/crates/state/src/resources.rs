//! What the shards of a process share, and how each store is set up.

use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env, LogLevel, Options, WriteBufferManager, WriteOptions,
};
use streamjob_core::{Error, Result};

/// Bytes below which a commit goes through the write-ahead log instead of a file of its own.
const SMALL_COMMIT_BYTES: usize = 256 << 10;

/// Part of the memory that memtables may take: they only hold small commits.
const WRITE_BUFFER_SHARE: u64 = 4;

/// A memtable is flushed at this size, bytes.
const MEMTABLE_BYTES: usize = 2 << 20;

/// A memtable grows in steps of this size: with 32 shards the default of 256 KiB and more would be megabytes of nothing.
const MEMTABLE_STEP_BYTES: usize = 64 << 10;

/// Compaction merges this many files at once: each commit of a busy shard adds one. A start reads through all that are left,
/// also what they have of the same keys.
const COMPACTION_FILES: u16 = 4;
/// Small commits are slowed, then stopped, where compaction is this far behind.
const L0_SLOWDOWN_FILES: i32 = 48;
const L0_STOP_FILES: i32 = 96;

/// An SST file that compaction writes, and the first sorted level, in bytes.
const COMPACTED_FILE_BYTES: u64 = 16 << 20;
const FIRST_LEVEL_BYTES: u64 = 64 << 20;

const BLOCK_BYTES: usize = 8 << 10;
/// One in a hundred probes of a file without the key goes on to read a block.
const BLOOM_BITS_A_KEY: f64 = 10.0;

/// Open SST files a shard.
const OPEN_FILES: i32 = 64;

const MANIFEST_BYTES: usize = 4 << 20;
const INFO_LOG_BYTES: usize = 1 << 20;
const INFO_LOGS: usize = 2;
const READ_AHEAD_BYTES: usize = 512 << 10;
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// What the stores of one process may use together.
#[derive(Debug, Clone, Copy)]
pub struct StoreOptions {
    /// Block cache and memtables of all shards, bytes.
    pub memory_bytes: u64,
    /// Threads that compact and flush, for all shards.
    pub background_threads: u16,
    /// A commit of fewer bytes goes through the write-ahead log. 0: each commit is one file.
    pub small_commit_bytes: usize,
    /// Commits' files of a shard that are merged at once. More cost disk and the speed of reads, fewer cost writes.
    pub compaction_files: u16,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            memory_bytes: 64 << 20,
            background_threads: 2,
            small_commit_bytes: SMALL_COMMIT_BYTES,
            compaction_files: COMPACTION_FILES,
        }
    }
}

/// One block cache, one budget of write buffers and one set of background threads for all shards.
pub struct SharedResources {
    pub(crate) options: StoreOptions,
    env: Env,
    pub(crate) cache: Cache,
    write_buffers: WriteBufferManager,
}

impl SharedResources {
    pub fn new(options: StoreOptions) -> Result<Arc<SharedResources>> {
        let mut env = Env::new().map_err(|error| Error::engine(format!("RocksDB has no environment: {error}")))?;
        env.set_low_priority_background_threads(i32::from(options.background_threads.max(1)));
        env.set_high_priority_background_threads(1);
        let cache = Cache::new_lru_cache(options.memory_bytes as usize);
        let write_buffer_bytes = (options.memory_bytes / WRITE_BUFFER_SHARE) as usize;
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(write_buffer_bytes, false, cache.clone());
        Ok(Arc::new(SharedResources { options, env, cache, write_buffers }))
    }

    /// Bytes in the block cache, with what memtables are charged for.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    fn table_options(&self) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS_A_KEY, false);
        table.set_whole_key_filtering(true);
        table.set_optimize_filters_for_memory(true);
        // Indexes and filters count against the cache, so that memory is bounded whatever the number of files.
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(6);
        table
    }

    /// Options of files that a commit writes: as in the upper levels, without compression.
    pub(crate) fn file_options(&self) -> Options {
        let mut options = Options::default();
        options.set_env(&self.env);
        options.set_block_based_table_factory(&self.table_options());
        options.set_compression_type(DBCompressionType::None);
        options
    }

    /// Options of one shard's store.
    pub(crate) fn store_options(&self, create: bool) -> Options {
        let mut options = self.file_options();
        options.create_if_missing(create);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_write_buffer_size(MEMTABLE_BYTES);
        options.set_arena_block_size(MEMTABLE_STEP_BYTES);
        options.set_max_write_buffer_number(2);
        options.set_allow_concurrent_memtable_write(false);
        options.set_bottommost_compression_type(DBCompressionType::Lz4);
        set_compaction(&mut options, &self.options);
        set_files(&mut options);
        // A commit is acknowledged when its log record is synced: only a torn end may be dropped, anything else is damage.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options
    }

    pub(crate) fn write_options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        // A write that would wait for a full disk inside of RocksDB says so instead.
        options.set_no_slowdown(true);
        options
    }
}

fn set_compaction(options: &mut Options, store: &StoreOptions) {
    // Until `RocksShardStore::allow_compaction`.
    options.set_disable_auto_compactions(true);
    options.set_level_zero_file_num_compaction_trigger(i32::from(store.compaction_files));
    options.set_level_zero_slowdown_writes_trigger(L0_SLOWDOWN_FILES);
    options.set_level_zero_stop_writes_trigger(L0_STOP_FILES);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_bytes_for_level_base(FIRST_LEVEL_BYTES);
    options.set_target_file_size_base(COMPACTED_FILE_BYTES);
    options.set_max_background_jobs(i32::from(store.background_threads.max(1)) + 1);
    options.set_max_subcompactions(1);
    options.set_compaction_readahead_size(READ_AHEAD_BYTES);
    options.set_bytes_per_sync(SYNC_EVERY_BYTES);
}

fn set_files(options: &mut Options) {
    options.set_max_open_files(OPEN_FILES);
    options.set_max_file_opening_threads(1);
    options.set_table_cache_num_shard_bits(2);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_manifest_file_size(MANIFEST_BYTES);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_avoid_unnecessary_blocking_io(true);
}
