//! Kills a child process at each named step of a commit and of the journal, then looks at what it left.
//!
//! The child is this test binary itself, told by the environment what to do.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use streamjob_core::batch::{Keys, RowBatch};
use streamjob_core::journal::{Incarnation, Journal, JournalOptions, RecordEncoder, recover};
use streamjob_core::store::{ShardStore, WriteSet};
use streamjob_state::{FileLogStorage, RocksShardStore, SharedResources, StoreOptions, crash};

const DIRECTORY: &str = "STREAMJOB_TEST_DIRECTORY";
const SMALL_BYTES: &str = "STREAMJOB_TEST_SMALL_BYTES";
const KEYS: u32 = 500;
const COMMITS: u64 = 4;

/// Commit `number`: puts the number under all keys but one, which it deletes, and forgets the range `z`.
fn commit(number: u64) -> WriteSet {
    let mut writes = WriteSet::default();
    for key in 0..KEYS {
        if u64::from(key) != number {
            writes.put(&key_of(key), &number.to_le_bytes());
        }
    }
    writes.put(format!("z{number}").as_bytes(), b"garbage");
    writes.deletes.push(key_of(number as u32));
    writes.forget.push((b"z".to_vec(), format!("z{number}").into_bytes()));
    writes
}

fn key_of(key: u32) -> Vec<u8> {
    format!("key{key:05}").into_bytes()
}

fn open(directory: &Path, small_commit_bytes: usize) -> RocksShardStore {
    let options = StoreOptions { small_commit_bytes, ..StoreOptions::default() };
    RocksShardStore::open(&directory.join("00000"), &SharedResources::new(options).unwrap(), true).unwrap()
}

fn child(test: &str, directory: &Path, step: &str, small_bytes: usize) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(crash::CRASH_AT, step);
    command.env(DIRECTORY, directory).env(SMALL_BYTES, small_bytes.to_string());
    let output = command.output().unwrap();
    if !output.status.success() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// The child's part; does nothing in the parent.
#[test]
fn child_commits() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    crash::arm().unwrap();
    let store = open(Path::new(&directory), std::env::var(SMALL_BYTES).unwrap().parse().unwrap());
    for number in 1..=COMMITS {
        store.commit(&commit(number)).unwrap();
    }
}

#[test]
fn a_commit_is_whole_or_absent_wherever_the_process_dies() {
    let file_steps = ["commit-before-file", "commit-after-file", "commit-after-file-sync", "commit-after-ingest"];
    let log_steps = ["commit-before-log", "commit-after-log"];
    let cases = file_steps.map(|step| (step, 0)).into_iter().chain(log_steps.map(|step| (step, usize::MAX)));
    for (step, small_bytes) in cases {
        for time in 1..=COMMITS {
            let directory = tempfile::tempdir().unwrap();
            assert!(!child("child_commits", directory.path(), &format!("{step}:{time}"), small_bytes), "{step} was not passed");
            let store = open(directory.path(), 0);
            let done = if step.ends_with("after-ingest") || step == "commit-after-log" { time } else { time - 1 };
            check(&store, done, &format!("{step}:{time}"));
            assert_eq!(orphans(directory.path()), 0);
            // The same commit again, as after a start: the state has moved on by one.
            store.commit(&commit(done + 1)).unwrap();
            check(&store, done + 1, step);
        }
    }
}

fn check(store: &RocksShardStore, done: u64, step: &str) {
    let mut seen = 0;
    let visit = &mut |_: &[u8], value: &[u8]| {
        assert_eq!(value, done.to_le_bytes(), "{step}");
        seen += 1;
        true
    };
    store.scan(b"key", b"key~", visit).unwrap();
    assert_eq!(seen, if done == 0 { 0 } else { KEYS - 1 }, "{step}");
    assert_eq!(store.get(&key_of(done as u32)).unwrap(), None);
    assert_eq!(store.get(format!("z{done}").as_bytes()).unwrap().is_some(), done > 0, "{step}");
    assert_eq!(store.get(format!("z{}", done.saturating_sub(1)).as_bytes()).unwrap(), None, "{step}");
}

fn orphans(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory.join("00000")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("ingest-")).count()
}

fn readings(rows: usize) -> RowBatch {
    RowBatch {
        time_us: (0..rows as i64).collect(),
        key_hash: vec![0; rows],
        keys: Keys::Const(Arc::from("machine")),
        columns: vec![Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64))) as ArrayRef],
        ..RowBatch::empty(rows as u64)
    }
}

const RECORDS: u64 = 30;
const ROWS: u64 = 100;

/// The child's part: prints each offset that is durable.
#[test]
fn child_journals() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    crash::arm().unwrap();
    let storage = Arc::new(FileLogStorage::open(Path::new(&directory)).unwrap());
    let options = JournalOptions { segment_bytes: 4096, ..JournalOptions::new(Incarnation([1; 16]), 7) };
    let journal = Journal::open(storage, options).unwrap();
    for record in 0..RECORDS {
        let mut encoded = RecordEncoder::new().encode(&readings(ROWS as usize), None).unwrap();
        journal.reserve(encoded.len()).unwrap();
        journal.append(encoded.seal(record * ROWS), (record + 1) * ROWS).unwrap();
        journal.sync().unwrap();
    }
}

#[test]
fn a_journal_keeps_what_was_synced_wherever_the_process_dies() {
    for step in ["journal-before-write", "journal-after-write", "journal-after-sync"] {
        for time in [1, 2, 9, RECORDS] {
            let directory = tempfile::tempdir().unwrap();
            assert!(!child("child_journals", directory.path(), &format!("{step}:{time}"), 0), "{step} was not passed");
            let storage = Arc::new(FileLogStorage::open(directory.path()).unwrap());
            let logs = recover(&storage).unwrap();
            // The page cache outlives a killed process, so that what was written is there.
            let kept = if step == "journal-before-write" { time - 1 } else { time };
            assert_eq!(logs.first().map_or(0, |log| log.end_offset()), kept * ROWS, "{step}:{time}");
            let Some(log) = logs.into_iter().next() else { continue };
            let mut reader = log.read(0).unwrap();
            let mut next = 0;
            while let Some(record) = reader.next_record().unwrap() {
                assert_eq!((record.first_offset, record.batch.rows()), (next, ROWS as usize));
                next = record.end_offset();
            }
            assert_eq!(next, kept * ROWS);
            log.delete().unwrap();
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
