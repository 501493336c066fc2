//! One shard's store: RocksDB, written by whole files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rocksdb::{
    DB, IngestExternalFileOptions, Options, ReadOptions, SstFileWriter, WriteBatch, checkpoint::Checkpoint, properties,
};
use streamjob_core::store::{ShardStore, WriteSet};
use streamjob_core::{Error, Result, crash};

use crate::disk::{file_error, full, stalled, store_error};
use crate::resources::SharedResources;
use crate::stats::{Counters, StoreStats};

/// A commit's file, until it is ingested.
const INGEST_PREFIX: &str = "ingest-";
const INGEST_SUFFIX: &str = ".sst";

/// A store that takes no writes at the moment is looked at this often.
const STALL_LOOK: Duration = Duration::from_millis(2);
/// After so many looks the commit gives up for now: whoever made it tries again.
const MAX_STALL_LOOKS: u32 = 5_000;

/// The store of one shard, in a directory of its own.
pub struct RocksShardStore {
    // Dropped before what it shares with others.
    db: DB,
    file_options: Options,
    directory: PathBuf,
    next_file: AtomicU64,
    /// Commits are written one after the other.
    committing: Mutex<()>,
    counters: Counters,
    /// Failures in the background before the last commit that went through.
    known_errors: AtomicU64,
    compacts: AtomicBool,
    shared: Arc<SharedResources>,
}

impl RocksShardStore {
    /// Opens one shard's store and removes what a crash left of commits that never happened.
    pub fn open(directory: &Path, shared: &Arc<SharedResources>, create: bool) -> Result<RocksShardStore> {
        if create {
            let created = fs::create_dir_all(directory);
            created.map_err(|error| file_error("cannot create the shard's directory", directory, &error))?;
        } else if !directory.join("CURRENT").exists() {
            return Err(Error::damaged(format!(
                "the shard's store {} is missing; restore it, or remove the state directory to start anew",
                directory.display()
            )));
        }
        remove_orphans(directory)?;
        let db = DB::open(&shared.store_options(create), directory);
        let db = db.map_err(|error| store_error("cannot open the shard's store", directory, &error))?;
        Ok(RocksShardStore {
            db,
            file_options: shared.file_options(),
            directory: directory.to_owned(),
            next_file: AtomicU64::new(0),
            committing: Mutex::new(()),
            counters: Counters::default(),
            known_errors: AtomicU64::new(0),
            compacts: AtomicBool::new(false),
            shared: shared.clone(),
        })
    }

    /// Lets compaction begin. A store that was just opened compacts nothing: the cores are for reading its keys and for the rows
    /// that wait.
    pub fn allow_compaction(&self) -> Result<()> {
        if self.compacts.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let allowed = self.db.set_options(&[("disable_auto_compactions", "false")]);
        allowed.map_err(self.fail("cannot let the shard's store compact"))
    }

    /// Writes a copy of the store to `to`, which must not exist: hard links to its files, so that it costs no space while
    /// those live.
    pub fn checkpoint(&self, to: &Path) -> Result<()> {
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(to));
        made.map_err(|error| store_error("cannot write a checkpoint of the shard", to, &error))
    }

    /// Figures of this moment; a figure that RocksDB does not give is 0.
    pub fn stats(&self) -> StoreStats {
        let property = |name| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let mut stats = StoreStats {
            sst_bytes: property(properties::TOTAL_SST_FILES_SIZE),
            memtable_bytes: property(properties::CUR_SIZE_ALL_MEM_TABLES),
            block_cache_bytes: self.shared.cache_bytes(),
            pending_compaction_bytes: property(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            l0_files: self.db.property_value("rocksdb.num-files-at-level0").ok().flatten().map_or(0, |n| n.parse().unwrap_or(0)),
            ..StoreStats::default()
        };
        self.counters.fill(&mut stats);
        stats
    }

    fn fail(&self, doing: &str) -> impl Fn(rocksdb::Error) -> Error {
        move |error| store_error(doing, &self.directory, &error)
    }

    /// Waits while RocksDB takes no writes, as compaction or a flush is behind. Where a full disk is the reason that may be for
    /// ever, so that whoever commits has to hear of it and try again.
    ///
    /// # Errors
    /// The disk is full, or so slow that nothing was taken for [`MAX_STALL_LOOKS`]: two errors, as only one asks for room.
    fn await_writable(&self, looks: &mut u32) -> Result<()> {
        while self.db.property_int_value(properties::IS_WRITE_STOPPED).ok().flatten() == Some(1) {
            self.wait_stalled(looks)?;
        }
        Ok(())
    }

    fn wait_stalled(&self, looks: &mut u32) -> Result<()> {
        *looks += 1;
        if self.background_errors() > self.known_errors.load(Ordering::Relaxed) {
            return Err(full("cannot commit the shard", &self.directory));
        }
        if *looks > MAX_STALL_LOOKS {
            return Err(stalled("cannot commit the shard", &self.directory));
        }
        std::thread::sleep(STALL_LOOK);
        Ok(())
    }

    /// Flushes and compactions that have failed since the store was opened.
    fn background_errors(&self) -> u64 {
        self.db.property_int_value(properties::BACKGROUND_ERRORS).ok().flatten().unwrap_or(0)
    }

    /// A small commit: one synced record of the write-ahead log.
    fn commit_to_log(&self, writes: &WriteSet, looks: &mut u32) -> Result<()> {
        crash::point("commit-before-log");
        loop {
            match self.db.write_opt(log_record(writes), &self.shared.write_options()) {
                Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => self.wait_stalled(looks)?,
                written => break written.map_err(self.fail("cannot commit the shard"))?,
            }
        }
        crash::point("commit-after-log");
        Ok(())
    }

    /// A large commit: one file, which the store takes over whole.
    fn commit_as_file(&self, writes: &WriteSet) -> Result<()> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{INGEST_PREFIX}{number}{INGEST_SUFFIX}"));
        let committed = self.write_file(&path, writes).and_then(|()| self.ingest(&path));
        if committed.is_err() {
            // If this fails too, the next start removes it.
            let _ = fs::remove_file(&path);
        }
        committed.map_err(self.fail("cannot commit the shard"))
    }

    /// Writes the commit's file and syncs it.
    fn write_file(&self, path: &Path, writes: &WriteSet) -> Result<(), rocksdb::Error> {
        crash::point("commit-before-file");
        let mut file = SstFileWriter::create(&self.file_options);
        file.open(path)?;
        let mut deletes: Vec<&[u8]> = writes.deletes.iter().map(Vec::as_slice).collect();
        deletes.sort_unstable();
        deletes.dedup();
        let mut deletes = deletes.into_iter().peekable();
        for (key, value) in writes.puts() {
            while let Some(deleted) = deletes.next_if(|deleted| *deleted < key) {
                file.delete(deleted)?;
            }
            file.put(key, value)?;
        }
        for deleted in deletes {
            file.delete(deleted)?;
        }
        // All of a file has one sequence number, and a range forgets only lower ones: never what the file puts.
        for (from, to) in writes.forget.iter().filter(|(from, to)| from < to) {
            file.delete_range(from, to)?;
        }
        crash::point("commit-after-file");
        file.finish()?;
        crash::point("commit-after-file-sync");
        Ok(())
    }

    fn ingest(&self, path: &Path) -> Result<(), rocksdb::Error> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        // Small commits may lie in the memtable with the same keys: RocksDB flushes it first, so that order holds.
        options.set_allow_blocking_flush(true);
        self.db.ingest_external_file_opts(&options, vec![path])?;
        crash::point("commit-after-ingest");
        Ok(())
    }
}

fn up_to(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

fn log_record(writes: &WriteSet) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (from, to) in &writes.forget {
        batch.delete_range(from, to);
    }
    for key in &writes.deletes {
        batch.delete(key);
    }
    for (key, value) in writes.puts() {
        batch.put(key, value);
    }
    batch
}

fn remove_orphans(directory: &Path) -> Result<()> {
    let failed = |error: std::io::Error| file_error("cannot clean up the shard's directory", directory, &error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let orphan = name.to_str().is_some_and(|name| name.starts_with(INGEST_PREFIX) && name.ends_with(INGEST_SUFFIX));
        if orphan {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

impl ShardStore for RocksShardStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(self.fail("cannot read the shard"))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut options = up_to(to);
        // A long scan would only push out of the cache what point reads need.
        options.fill_cache(false);
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if !visit(key, value) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(self.fail("cannot read the shard"))
    }

    /// What it reads stays in the cache, as of any point read.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        if from >= to {
            return Ok(None);
        }
        let mut iterator = self.db.raw_iterator_opt(up_to(to));
        iterator.seek(from);
        let found = iterator.value().map(<[u8]>::to_vec);
        iterator.status().map_err(self.fail("cannot read the shard"))?;
        Ok(found)
    }

    fn commit(&self, writes: &WriteSet) -> Result<()> {
        let entries = writes.puts().len() + writes.deletes.len() + writes.forget.len();
        if entries == 0 {
            return Ok(());
        }
        let started = Instant::now();
        let _committing = self.committing.lock();
        let mut looks = 0;
        self.await_writable(&mut looks)?;
        match writes.bytes() < self.shared.options.small_commit_bytes {
            true => self.commit_to_log(writes, &mut looks)?,
            false => self.commit_as_file(writes)?,
        }
        self.known_errors.store(self.background_errors(), Ordering::Relaxed);
        self.counters.committed(writes.bytes(), started.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::StoreOptions;

    #[test]
    fn a_store_that_is_behind_is_not_full() {
        let directory = tempfile::tempdir().expect("a directory");
        let shared = SharedResources::new(StoreOptions::default()).expect("resources");
        let store = RocksShardStore::open(&directory.path().join("0"), &shared, true).expect("a store");
        let error = store.wait_stalled(&mut MAX_STALL_LOOKS.clone()).expect_err("it has waited long enough");
        assert!(error.is_stalled() && error.retryable() && !error.is_disk_full(), "{error}");
        assert!(error.message().contains("compaction is behind"), "{error}");
        store.wait_stalled(&mut 0).expect("there is time");
    }
}
