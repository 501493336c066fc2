//! The journal on real files.

mod common;

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array};
use streamjob_core::batch::{Keys, RowBatch};
use streamjob_core::journal::{Incarnation, Journal, JournalOptions, JournalReader, LogName, LogStorage, RecordEncoder, recover};
use streamjob_state::FileLogStorage;

use common::SmallDisk;

const ROWS: u64 = 200;
const SEGMENT_BYTES: u64 = 64 << 10;

fn readings(from: u64) -> RowBatch {
    let value = |row: u64| ((from + row) as f64).sin();
    RowBatch {
        time_us: (0..ROWS as i64).collect(),
        key_hash: vec![0; ROWS as usize],
        keys: Keys::Const(Arc::from("machine")),
        columns: vec![Arc::new(Float64Array::from_iter_values((0..ROWS).map(value))) as ArrayRef],
        ..RowBatch::empty(ROWS)
    }
}

fn options(number: u8) -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT_BYTES, ..JournalOptions::new(Incarnation([number; 16]), 9) }
}

fn append(journal: &Journal<FileLogStorage>, encoder: &mut RecordEncoder, offset: u64) {
    let mut encoded = encoder.encode(&readings(offset), None).unwrap();
    journal.reserve(encoded.len()).unwrap();
    journal.append(encoded.seal(offset), offset + ROWS).unwrap();
}

/// Reads up to the end and compares; returns it.
fn check(reader: &mut JournalReader<FileLogStorage>) -> u64 {
    while let Some(record) = reader.next_record().unwrap() {
        let expected = readings(record.first_offset);
        assert_eq!(&record.batch.columns, &expected.columns);
    }
    reader.offset()
}

#[test]
fn it_is_written_read_meanwhile_trimmed_and_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileLogStorage::open(directory.path()).unwrap());
    let journal = Journal::open(storage, options(1)).unwrap();
    const RECORDS: u64 = 1000;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reader = journal.read(0);
            while check(&mut reader) < RECORDS * ROWS {
                std::thread::yield_now();
            }
        });
        let syncer = scope.spawn(|| {
            while journal.sync().unwrap() < RECORDS * ROWS {
                journal.prepare_ahead().unwrap();
            }
        });
        let mut encoder = RecordEncoder::new();
        for record in 0..RECORDS {
            append(&journal, &mut encoder, record * ROWS);
        }
        syncer.join().unwrap();
        reader.join().unwrap();
    });
    journal.trim(RECORDS * ROWS / 2).unwrap();
    drop(journal);

    let storage = Arc::new(FileLogStorage::open(directory.path()).unwrap());
    let logs = recover(&storage).unwrap();
    assert_eq!((logs.len(), logs[0].end_offset()), (1, RECORDS * ROWS));
    assert!(logs[0].first_offset() > 0 && logs[0].first_offset() <= RECORDS * ROWS / 2);
    assert_eq!(check(&mut logs[0].read(RECORDS * ROWS / 2).unwrap()), RECORDS * ROWS);
    // The next start writes a journal of its own beside it.
    let journal = Journal::open(storage.clone(), options(2)).unwrap();
    append(&journal, &mut RecordEncoder::new(), 0);
    journal.sync().unwrap();
    for log in logs {
        log.delete().unwrap();
    }
    drop(journal);
    let logs = recover(&storage).unwrap();
    assert_eq!((logs.len(), logs[0].end_offset()), (1, ROWS));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_segment_lies_where_the_layout_says_and_is_preallocated() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileLogStorage::open(directory.path()).unwrap());
    let journal = Journal::open(storage.clone(), JournalOptions { first_offset: 400, ..options(1) }).unwrap();
    append(&journal, &mut RecordEncoder::new(), 400);
    journal.sync().unwrap();
    let path = directory.path().join("01010101010101010101010101010101/00000000000000000400.log");
    assert_eq!(path.metadata().unwrap().len(), SEGMENT_BYTES);
    use std::os::unix::fs::MetadataExt;
    assert!(path.metadata().unwrap().blocks() * 512 >= SEGMENT_BYTES, "blocks are allocated");
    let name = LogName::Segment { incarnation: Incarnation([1; 16]), first_offset: 400 };
    assert!(storage.list().unwrap().iter().any(|entry| entry.name == name));
}

#[test]
fn a_torn_tail_is_cut_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileLogStorage::open(directory.path()).unwrap());
    let journal = Journal::open(storage.clone(), options(1)).unwrap();
    let mut encoder = RecordEncoder::new();
    for record in 0..3 {
        append(&journal, &mut encoder, record * ROWS);
    }
    let name = LogName::Segment { incarnation: Incarnation([1; 16]), first_offset: 0 };
    let path = directory.path().join(name.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[end - 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let logs = recover(&storage).unwrap();
    assert_eq!(logs[0].end_offset(), 2 * ROWS);
    assert!(logs[0].cut_bytes() > 0);
    assert!(path.metadata().unwrap().len() < end as u64);
    assert_eq!(check(&mut logs[0].read(0).unwrap()), 2 * ROWS);
}

#[test]
fn a_full_disk_refuses_the_reservation_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let storage = Arc::new(FileLogStorage::open(&disk.path().join("journal")).unwrap());
    let journal = Journal::open(storage.clone(), options(1)).unwrap();
    let mut encoder = RecordEncoder::new();
    let mut offset = 0;
    let full = loop {
        let mut encoded = encoder.encode(&readings(offset), None).unwrap();
        if let Err(full) = journal.reserve(encoded.len()) {
            break full.error;
        }
        journal.append(encoded.seal(offset), offset + ROWS).unwrap();
        offset += ROWS;
        assert!(offset < 1_000_000, "the disk never fills");
    };
    assert!(full.retryable() && full.message().contains("disk is full"), "{full}");
    assert_eq!(journal.sync().unwrap(), offset);
    assert_eq!(check(&mut journal.read(0)), offset);
    std::fs::remove_file(&ballast).unwrap();
    let mut encoded = encoder.encode(&readings(offset), None).unwrap();
    journal.reserve(encoded.len()).unwrap();
    journal.append(encoded.seal(offset), offset + ROWS).unwrap();
    assert_eq!(journal.sync().unwrap(), offset + ROWS);
    assert_eq!(check(&mut recover(&storage).unwrap()[0].read(0).unwrap()), offset + ROWS);
}
