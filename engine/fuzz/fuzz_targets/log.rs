//! A start that finds journals with any contents: it recovers or refuses, and never panics.
//!
//! A real journal is written on a disk in memory, the power fails, and then bytes are changed; checksums are often made
//! to fit again, so that what lies behind them is reached.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use streamjob_core::batch::{Keys, RowBatch};
use streamjob_core::journal::testing::SimulatedStorage;
use streamjob_core::journal::{
    FRAME_HEADER_BYTES, Incarnation, Journal, JournalOptions, LogEntry, LogName, LogStorage, RecordEncoder, recover, seal_frame,
};
use streamjob_fuzz::assert_sound;

/// Size of a segment's head.
const HEAD_BYTES: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    // running out of input ends the story early
    let _ = story(&mut input);
});

fn story(input: &mut Unstructured) -> Result<()> {
    let storage = Arc::new(SimulatedStorage::new(input.arbitrary()?));
    let incarnations = input.int_in_range(1..=2u8)?;
    let mut durable = Vec::new();
    for number in 0..incarnations {
        durable.push(write(input, &storage, Incarnation([number; 16]))?);
    }
    if input.arbitrary()? {
        storage.crash();
    }
    let damages = input.int_in_range(0..=6u8)?;
    for _ in 0..damages {
        damage(input, &storage)?;
    }
    read(&storage, (damages == 0).then_some(&durable[..]));
    Ok(())
}

fn batch(rows: u8, first: i64) -> RowBatch {
    RowBatch {
        time_us: (0..i64::from(rows)).map(|row| first.wrapping_add(row)).collect(),
        key_hash: vec![0; usize::from(rows)],
        keys: Keys::Const(Arc::from("k")),
        ..RowBatch::empty(u64::from(rows).max(1))
    }
}

/// Writes one incarnation; gives the offset up to which it is durable.
fn write(input: &mut Unstructured, storage: &Arc<SimulatedStorage>, incarnation: Incarnation) -> Result<u64> {
    let mut options = JournalOptions::new(incarnation, input.int_in_range(0..=1)?);
    options.segment_bytes = input.int_in_range(200..=2000)?;
    options.first_offset = *input.choose(&[0, 5, u64::MAX - 20])?;
    let journal = Journal::open(storage.clone(), options).expect("the disk is whole");
    let mut encoder = RecordEncoder::new();
    let mut next = options.first_offset;
    for _ in 0..input.int_in_range(0..=12u8)? {
        let rows = *input.choose(&[0, 1, 3, 100])?;
        let mut record = encoder.encode(&batch(rows, input.arbitrary()?), None).expect("a small batch");
        let Some(end) = next.checked_add(record.span()) else { break };
        journal.reserve(record.len()).expect("the disk has room");
        journal.append(record.seal(next), end).expect("the disk is whole");
        next = end;
        if input.arbitrary()? {
            assert_eq!(journal.sync().expect("the disk is whole"), next);
        }
    }
    Ok(journal.durable_offset())
}

fn files(storage: &SimulatedStorage) -> Vec<LogName> {
    let entries = storage.list().expect("the disk is whole");
    let mut names: Vec<LogName> = entries.into_iter().map(|LogEntry { name, .. }| name).collect();
    names.sort();
    names
}

fn damage(input: &mut Unstructured, storage: &Arc<SimulatedStorage>) -> Result<()> {
    let names = files(storage);
    if names.is_empty() {
        return Ok(());
    }
    let name = *input.choose(&names)?;
    let mut result = Ok(());
    match input.int_in_range(0..=9u8)? {
        0 => storage.delete(name).expect("the disk is whole"),
        1 => storage.rename(name, *input.choose(&names)?).expect("the disk is whole"),
        _ => storage.damage(name, |bytes| result = change(input, bytes)),
    }
    result
}

fn change(input: &mut Unstructured, bytes: &mut Vec<u8>) -> Result<()> {
    let frames = frames(bytes);
    match input.int_in_range(0..=5u8)? {
        0 => bytes.truncate(input.int_in_range(0..=bytes.len())?),
        1 => bytes.extend_from_slice(input.bytes(input.len().min(40))?),
        2 => patch(input, bytes, 0, HEAD_BYTES)?,
        3 if bytes.len() >= HEAD_BYTES => {
            patch(input, bytes, 0, HEAD_BYTES - 4)?;
            let crc = crc32fast::hash(&bytes[..HEAD_BYTES - 4]);
            bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        4 if !frames.is_empty() => {
            let (start, length) = *input.choose(&frames)?;
            patch(input, bytes, start, length)?;
            seal(bytes, start);
        }
        _ => {
            let length = bytes.len().saturating_sub(HEAD_BYTES);
            patch(input, bytes, HEAD_BYTES, length)?;
        }
    }
    Ok(())
}

/// Overwrites a few bytes within `length` bytes from `start`.
fn patch(input: &mut Unstructured, bytes: &mut [u8], start: usize, length: usize) -> Result<()> {
    let end = (start + length).min(bytes.len());
    if start >= end {
        return Ok(());
    }
    let at = input.int_in_range(start..=end - 1)?;
    let count = input.int_in_range(1..=8usize)?.min(end - at);
    bytes[at..at + count].copy_from_slice(input.bytes(count)?);
    Ok(())
}

fn length_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes")) as usize
}

/// Start and length of what looks like frames.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), HEAD_BYTES);
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        let length = FRAME_HEADER_BYTES + length_at(bytes, at);
        if bytes[at] == 0 || at + length > bytes.len() {
            break;
        }
        found.push((at, length));
        at += length;
    }
    found
}

/// Makes the checksums of a frame fit its contents.
fn seal(bytes: &mut [u8], start: usize) {
    let length = length_at(bytes, start).min(bytes.len() - start - FRAME_HEADER_BYTES);
    let frame = &mut bytes[start..start + FRAME_HEADER_BYTES + length];
    let crc = if length == 0 { 0 } else { crc32fast::hash(&frame[FRAME_HEADER_BYTES..]) };
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    let first_offset = u64::from_le_bytes(frame[16..24].try_into().expect("eight bytes"));
    seal_frame(frame, first_offset);
}

/// Recovers and reads everything. `durable`: what must be there, by incarnation, where nothing was damaged.
fn read(storage: &Arc<SimulatedStorage>, durable: Option<&[u64]>) {
    let logs = match recover(storage) {
        Ok(logs) => logs,
        Err(error) => {
            assert!(durable.is_none(), "an undamaged journal is refused: {error}");
            assert!(!error.message().is_empty());
            return;
        }
    };
    let ends: Vec<(Incarnation, u64)> = logs.iter().map(|log| (log.incarnation(), log.end_offset())).collect();
    for log in &logs {
        if let Some(durable) = durable {
            assert!(log.end_offset() >= durable[usize::from(log.incarnation().0[0])], "durable rows are lost");
        }
        let mut reader = log.read(log.first_offset()).expect("the first offset is there");
        let mut next = log.first_offset();
        let end = loop {
            match reader.next_record() {
                Ok(Some(record)) => {
                    assert_eq!(record.first_offset, next, "records follow each other");
                    assert_sound(&record.batch);
                    next = record.end_offset();
                }
                Ok(None) => break Some(next),
                Err(_) => break None,
            }
        };
        assert!(end.is_none_or(|end| end == log.end_offset()), "a log is read to its end, or damage is told");
        assert!(durable.is_none() || end.is_some(), "an undamaged journal is read");
    }
    drop(logs);
    let again = recover(storage).expect("what was recovered is recovered again");
    let again: Vec<(Incarnation, u64)> = again.iter().map(|log| (log.incarnation(), log.end_offset())).collect();
    assert_eq!(ends, again);
}
