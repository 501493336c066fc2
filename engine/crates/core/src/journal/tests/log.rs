//! The journal as a whole: segments, torn tails, damage, crashes and full disks.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::SimulatedStorage;
use super::super::*;
use super::{assert_same, readings};
use crate::{Actor, Result};

const INCARNATION: Incarnation = Incarnation([7; 16]);
const SEGMENT_BYTES: u64 = 8 << 10;

/// A journal in small segments, and what was put into it.
struct Written {
    storage: Arc<SimulatedStorage>,
    journal: Journal<SimulatedStorage>,
    /// First offset and end offset of each record.
    records: Vec<(u64, u64)>,
}

impl Written {
    fn open(storage: Arc<SimulatedStorage>) -> Written {
        let options = JournalOptions { segment_bytes: SEGMENT_BYTES, ..JournalOptions::new(INCARNATION, 42) };
        Written { journal: Journal::open(storage.clone(), options).unwrap(), storage, records: Vec::new() }
    }

    fn new() -> Written {
        Written::open(Arc::new(SimulatedStorage::new(1)))
    }

    fn next_offset(&self) -> u64 {
        self.records.last().map_or(0, |record| record.1)
    }

    /// Appends one record; it is counted only if that succeeds.
    fn append(&mut self, rows: usize) -> Result<()> {
        let first = self.next_offset();
        let batch = readings(rows, "");
        let mut encoded = RecordEncoder::new().encode(&batch, None)?;
        self.journal.reserve(encoded.len()).map_err(|full| full.error)?;
        self.journal.append(encoded.seal(first), first + batch.span)?;
        self.records.push((first, first + batch.span));
        Ok(())
    }

    fn segments(&self) -> Vec<LogName> {
        let mut names: Vec<_> = self.storage.list().unwrap().into_iter().map(|entry| entry.name).collect();
        names.retain(|name| matches!(name, LogName::Segment { .. }));
        names.sort();
        names
    }
}

fn read_all(mut reader: JournalReader<SimulatedStorage>) -> Result<Vec<(u64, u64)>> {
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        assert_same(&record.batch, &readings(record.batch.rows(), ""));
        records.push((record.first_offset, record.end_offset()));
    }
    Ok(records)
}

fn recover_one(storage: &Arc<SimulatedStorage>) -> Result<RecoveredLog<SimulatedStorage>> {
    let mut logs = recover(storage)?;
    assert_eq!(logs.len(), 1);
    Ok(logs.remove(0))
}

#[test]
fn records_are_read_up_to_the_durable_end_while_others_are_written() {
    let mut written = Written::new();
    let mut reader = written.journal.read(0);
    assert!(reader.next_record().unwrap().is_none());
    for rows in [1, 100, 3] {
        written.append(rows).unwrap();
        assert!(reader.next_record().unwrap().is_none(), "not durable yet");
        let end = written.journal.sync().unwrap();
        assert_eq!(end, written.next_offset());
        let record = reader.next_record().unwrap().unwrap();
        assert_eq!(record.end_offset(), end);
        assert!(reader.next_record().unwrap().is_none());
    }
}

#[test]
fn segments_follow_each_other_and_a_large_record_gets_its_own() {
    let mut written = Written::new();
    for rows in [10, 2000, 10, 100, 100, 100, 5000, 1] {
        written.append(rows).unwrap();
    }
    written.journal.sync().unwrap();
    assert!(written.segments().len() >= 4, "{:?}", written.segments());
    assert_eq!(read_all(written.journal.read(0)).unwrap(), written.records);
    let middle = written.records[3].0 + 5;
    assert_eq!(read_all(written.journal.read(middle)).unwrap(), written.records[3..]);
}

#[test]
fn many_frames_are_appended_at_once_over_segment_borders() {
    let written = Written::new();
    let (mut frames, mut offset, mut records) = (Vec::new(), 0, Vec::new());
    for rows in 1..200 {
        let batch = readings(rows % 50 + 1, "");
        encode_record(&batch, None, offset, &mut frames).unwrap();
        records.push((offset, offset + batch.span));
        offset += batch.span;
    }
    written.journal.append(&frames, offset).unwrap();
    assert_eq!(written.journal.sync().unwrap(), offset);
    assert_eq!(read_all(written.journal.read(0)).unwrap(), records);
}

#[test]
fn trimming_deletes_whole_segments_below_and_reading_there_is_an_error() {
    let mut written = Written::new();
    for _ in 0..40 {
        written.append(100).unwrap();
    }
    written.journal.sync().unwrap();
    let before = written.segments().len();
    written.journal.trim(2050).unwrap();
    let after = written.segments();
    assert!(after.len() < before && after.len() > 1);
    assert_eq!(read_all(written.journal.read(2050)).unwrap(), written.records[20..]);
    let error = read_all(written.journal.read(0)).unwrap_err();
    assert!(error.message().contains("trimmed"), "{error}");
    written.journal.trim(u64::MAX).unwrap();
    assert_eq!(written.segments().len(), 1, "the newest segment stays");
}

#[test]
fn a_restart_finds_everything_that_was_synced_and_deletes_it_when_told() {
    let mut written = Written::new();
    for _ in 0..30 {
        written.append(100).unwrap();
        written.journal.sync().unwrap();
    }
    written.storage.crash();
    let log = recover_one(&written.storage).unwrap();
    assert_eq!((log.first_offset(), log.end_offset(), log.fingerprint(), log.cut_bytes()), (0, 3000, 42, 0));
    assert_eq!(read_all(log.read(0).unwrap()).unwrap(), written.records);
    assert_eq!(log.read(3001).err().unwrap().actor(), Actor::Outside);
    log.delete().unwrap();
    assert!(written.storage.list().unwrap().is_empty());
}

/// All of it is committed, so that it is deleted while its replay has only to find out that there is nothing to do.
#[test]
fn a_reader_at_the_end_of_a_deleted_log_has_nothing_to_read() {
    let mut written = Written::new();
    for _ in 0..30 {
        written.append(100).unwrap();
    }
    written.journal.sync().unwrap();
    let log = recover_one(&written.storage).unwrap();
    let mut reader = log.read(3000).unwrap();
    log.delete().unwrap();
    assert!(reader.next_record().unwrap().is_none());
}

/// A crash in the middle of a deletion leaves a log that ends where it did and has no gap.
#[test]
fn an_interrupted_deletion_is_no_damage() {
    for seed in 0..40 {
        let mut written = Written::open(Arc::new(SimulatedStorage::new(seed)));
        for _ in 0..30 {
            written.append(100).unwrap();
        }
        written.journal.sync().unwrap();
        recover_one(&written.storage).unwrap().delete().unwrap();
        written.storage.crash();
        for log in recover(&written.storage).unwrap() {
            assert_eq!(log.end_offset(), 3000);
            let left = read_all(log.read(log.first_offset()).unwrap()).unwrap();
            assert_eq!(left, written.records[written.records.len() - left.len()..]);
        }
    }
}

#[test]
fn an_incarnation_is_never_used_twice() {
    let mut written = Written::new();
    written.append(1).unwrap();
    let again = Journal::open(written.storage.clone(), JournalOptions::new(INCARNATION, 42));
    assert_eq!(again.err().unwrap().actor(), Actor::Engine);
}

#[test]
fn a_full_disk_is_met_at_the_reservation_and_the_journal_goes_on_when_there_is_room() {
    let mut written = Written::new();
    written.storage.set_capacity(3 * SEGMENT_BYTES);
    let full = loop {
        if let Err(error) = written.append(100) {
            break error;
        }
    };
    assert!(full.retryable() && full.message().contains("full"), "{full}");
    assert_eq!(written.journal.sync().unwrap(), written.next_offset());
    assert_eq!(read_all(written.journal.read(0)).unwrap(), written.records);
    written.storage.set_capacity(u64::MAX);
    written.append(100).unwrap();
    assert_eq!(written.journal.sync().unwrap(), written.next_offset());
}

#[test]
fn a_failed_sync_or_write_ends_the_journal_for_good() {
    for broken in [true, false] {
        let mut written = Written::new();
        written.append(10).unwrap();
        written.journal.sync().unwrap();
        written.append(10).unwrap();
        match broken {
            true => written.storage.fail_syncs_after(Some(0)),
            false => written.storage.fail_writes_after(Some(0)),
        }
        let error = if broken { written.journal.sync().unwrap_err() } else { written.append(1).unwrap_err() };
        assert!(!error.retryable(), "{error}");
        written.storage.fail_syncs_after(None);
        written.storage.fail_writes_after(None);
        assert_eq!(written.journal.sync().unwrap_err(), error);
        assert_eq!(written.append(1).unwrap_err(), error);
        assert_eq!(written.journal.durable_offset(), 10);
    }
}

#[test]
fn frames_with_wrong_offsets_are_refused() {
    let written = Written::new();
    let mut frames = Vec::new();
    encode_record(&readings(5, ""), None, 7, &mut frames).unwrap();
    assert_eq!(written.journal.append(&frames, 12).unwrap_err().actor(), Actor::Outside);
    assert!(RecordEncoder::new().encode(&readings(5, ""), None).is_ok());
    let nothing = RowBatch::empty(0);
    assert_eq!(RecordEncoder::new().encode(&nothing, None).unwrap_err().actor(), Actor::Engine);
}

#[test]
fn damage_below_what_was_acknowledged_is_an_error_and_no_silent_cut() {
    let mut written = Written::new();
    for _ in 0..3 {
        written.append(20).unwrap();
        written.journal.sync().unwrap();
    }
    let name = written.segments()[0];
    // Within the first record; the mark before the second one proves that it had been durable.
    written.storage.damage(name, |bytes| bytes[150] ^= 4);
    let error = recover(&written.storage).err().unwrap();
    assert!(error.message().contains("is damaged") && error.message().contains("byte 64"), "{error}");
}

#[test]
fn damage_in_a_closed_segment_is_an_error_when_it_is_read() {
    let mut written = Written::new();
    for _ in 0..20 {
        written.append(100).unwrap();
    }
    written.journal.sync().unwrap();
    let name = written.segments()[0];
    written.storage.damage(name, |bytes| bytes.truncate(bytes.len() - 40));
    let log = recover_one(&written.storage).unwrap();
    let error = read_all(log.read(0).unwrap()).unwrap_err();
    assert!(error.message().contains("is damaged"), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let mut written = Written::new();
    written.append(1).unwrap();
    let name = written.segments()[0];
    written.storage.damage(name, |bytes| {
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let error = recover(&written.storage).err().unwrap();
    assert!(error.actor() == Actor::User && error.message().contains("newer version"), "{error}");
}

#[test]
fn a_start_sorts_behind_those_before_it_whatever_the_clock_says() {
    let mut newest = None;
    for (now_ms, chance) in [(1_000, [0xff; 10]), (1_000, [0; 10]), (5, [7; 10]), (2_000, [0; 10])] {
        let next = Incarnation::of_start(now_ms, chance, newest);
        assert!(newest < Some(next), "{now_ms}");
        newest = Some(next);
    }
    let Incarnation(bytes) = newest.unwrap();
    assert_eq!((&bytes[..6], bytes[6] >> 4, bytes[8] >> 6), (&[0, 0, 0, 0, 0x07, 0xd0][..], 7, 2), "a UUID of version 7");
}

#[test]
fn names_are_read_back() {
    let segment = LogName::Segment { incarnation: INCARNATION, first_offset: 12 };
    assert_eq!(segment.to_string(), "07070707070707070707070707070707/00000000000000000012.log");
    for name in [segment, LogName::Spare { incarnation: INCARNATION, number: 3 }] {
        assert_eq!(name.to_string().parse::<LogName>().unwrap(), name);
    }
    for wrong in ["x", "07/1.log", "07070707070707070707070707070707/12.log", "07070707070707070707070707070707/.spare-x"] {
        assert!(wrong.parse::<LogName>().is_err(), "{wrong}");
    }
}

proptest! {
    /// Any truncation or bit flip of an unsynced tail leaves exactly a prefix of the records.
    #[test]
    fn a_torn_tail_leaves_a_prefix(rows in prop::collection::vec(1usize..30, 1..20), at in any::<prop::sample::Index>(), bit in 0u8..9) {
        let mut written = Written::new();
        let rows: Vec<usize> = rows.into_iter().take(8).collect();
        for &rows in &rows {
            written.append(rows).unwrap();
        }
        let name = written.segments()[0];
        prop_assume!(written.segments().len() == 1);
        written.storage.damage(name, |bytes| {
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            let at = 64 + at.index(end - 64);
            if bit == 8 { bytes.truncate(at) } else { bytes[at] ^= 1u8 << bit }
        });
        let log = recover_one(&written.storage).unwrap();
        let records = read_all(log.read(0).unwrap()).unwrap();
        prop_assert_eq!(&records[..], &written.records[..records.len()]);
        prop_assert!(records.len() < written.records.len() || log.cut_bytes() == 0);
        prop_assert_eq!(log.end_offset(), records.last().map_or(0, |record| record.1));
    }

    /// A crash keeps all that was synced and a prefix of the rest, and a power failure right after recovery changes
    /// nothing: also if the process was only killed, and found in the page cache what no sync had confirmed.
    #[test]
    fn a_crash_keeps_what_was_synced(
        seed in any::<u64>(),
        steps in prop::collection::vec((1usize..120, 0u8..10), 1..80),
        fail in prop::option::of(0u64..60),
        killed in any::<bool>(),
    ) {
        let mut written = Written::open(Arc::new(SimulatedStorage::new(seed)));
        let mut synced = 0;
        written.storage.fail_syncs_after(fail);
        for (rows, action) in steps {
            let done = match action {
                0..=4 => written.append(rows),
                5..=7 => written.journal.sync().map(|end| synced = end),
                8 => written.journal.prepare_ahead().map_err(|full| full.error),
                _ => written.journal.trim(synced / 2),
            };
            if done.is_err() { break }
        }
        synced = synced.max(written.journal.durable_offset());
        let trimmed = written.segments().first().map_or(0, |name| match name {
            LogName::Segment { first_offset, .. } => *first_offset,
            LogName::Spare { .. } => unreachable!(),
        });
        match killed {
            true => written.storage.fail_syncs_after(None),
            false => written.storage.crash(),
        }
        let mut ends = Vec::new();
        for _ in 0..2 {
            let logs = recover(&written.storage).unwrap();
            let Some(log) = logs.first() else {
                prop_assert_eq!(synced, 0);
                return Ok(());
            };
            prop_assert!(log.end_offset() >= synced && log.first_offset() <= trimmed);
            let records = read_all(log.read(log.first_offset()).unwrap()).unwrap();
            let skipped = written.records.partition_point(|record| record.1 <= log.first_offset());
            prop_assert!(written.records[skipped..].starts_with(&records) || records.len() == written.records.len() - skipped + 1);
            ends.push(log.end_offset());
            written.storage.crash();
        }
        prop_assert_eq!(ends[0], ends[1]);
    }
}
