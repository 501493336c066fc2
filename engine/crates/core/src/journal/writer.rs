//! The journal that is written: one incarnation of this process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::DEFAULT_SEGMENT_BYTES;
use super::frame::{FRAME_HEADER_BYTES, Header, mark, read_header};
use super::index::{Index, SegmentInfo, is_place};
use super::reader::JournalReader;
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::space::{Full, MARK_BYTES, Space, Spare};
use super::storage::{Incarnation, LogName, LogStorage};
use crate::guards::{self, Guard};
use crate::{Error, Result, crash};

/// What a journal is opened with.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// Never used before.
    pub incarnation: Incarnation,
    /// Of the schema that its columns have; a reader with another schema refuses it.
    pub fingerprint: u64,
    /// Offset of the first row.
    pub first_offset: u64,
    /// Size of a segment; a record that is larger gets one of its own size.
    pub segment_bytes: u64,
}

impl JournalOptions {
    pub fn new(incarnation: Incarnation, fingerprint: u64) -> JournalOptions {
        JournalOptions { incarnation, fingerprint, first_offset: 0, segment_bytes: DEFAULT_SEGMENT_BYTES }
    }
}

/// An append-only log of one incarnation, in preallocated segments.
///
/// All methods may be called from any thread: [`Journal::reserve`] takes a short lock, so that connections can call it
/// while another thread appends or syncs, and [`Journal::sync`] lets further frames be appended meanwhile. After a failed
/// write or sync every call that writes is refused: what the disk then holds is unknown, and the process must end.
pub struct Journal<S> {
    storage: Arc<S>,
    options: JournalOptions,
    index: Arc<Index>,
    space: Mutex<Space>,
    tail: Mutex<Tail>,
    /// Held during a sync, and while segments are deleted that it might be about to sync.
    syncing: Mutex<()>,
    failure: OnceLock<Error>,
}

/// Where the next frame goes.
#[derive(Debug)]
struct Tail {
    segment: Option<Current>,
    next_offset: u64,
    /// The durable end that the last mark or segment head has told.
    marked_offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    first_offset: u64,
    position: u64,
    bytes: u64,
    last_place: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: LogStorage> Journal<S> {
    /// Opens a new incarnation and prepares its first segment. The error says if the disk is full.
    pub fn open(storage: Arc<S>, options: JournalOptions) -> Result<Journal<S>> {
        if storage.list()?.iter().any(|entry| entry.name.incarnation() == options.incarnation) {
            return Err(Error::engine(format!("incarnation {} of the journal exists already", options.incarnation)));
        }
        let first = options.first_offset;
        let journal = Journal {
            storage,
            options,
            index: Arc::new(Index::new(VecDeque::new(), first)),
            space: Mutex::new(Space::new(options.segment_bytes)),
            tail: Mutex::new(Tail { segment: None, next_offset: first, marked_offset: first }),
            syncing: Mutex::new(()),
            failure: OnceLock::new(),
        };
        journal.prepare_ahead().map_err(|full| full.error)?;
        Ok(journal)
    }

    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
    }

    /// The first offset that is still there.
    pub fn first_offset(&self) -> u64 {
        let state = self.index.lock();
        state.segments.front().map_or(state.durable_offset, |segment| segment.first_offset)
    }

    /// The offset after the last durable row.
    pub fn durable_offset(&self) -> u64 {
        self.index.lock().durable_offset
    }

    /// Makes sure that a frame of `frame_bytes` can be appended, before its rows are handed on. Each reserved frame must
    /// be appended, in the order of the reservations.
    pub fn reserve(&self, frame_bytes: usize) -> Result<(), Full> {
        self.check().map_err(|error| Full { error })?;
        let frame_bytes = frame_bytes as u64;
        let mut space = lock(&self.space);
        if !space.try_reserve(frame_bytes) && !guards::off(Guard::Reserve) {
            let spare = space.segment_for(frame_bytes);
            self.prepare(spare).map_err(|error| Full { error })?;
            space.add(spare);
            let reserved = space.try_reserve(frame_bytes);
            debug_assert!(reserved, "a segment made for a frame holds it");
        }
        Ok(())
    }

    /// Prepares a segment ahead of need, so that [`Journal::reserve`] seldom waits for the disk. For the thread that syncs.
    pub fn prepare_ahead(&self) -> Result<(), Full> {
        self.check().map_err(|error| Full { error })?;
        let spare = {
            let mut space = lock(&self.space);
            if !space.wants_spare() {
                return Ok(());
            }
            space.segment_for(0)
        };
        self.prepare(spare).map_err(|error| Full { error })?;
        lock(&self.space).add(spare);
        Ok(())
    }

    fn prepare(&self, spare: Spare) -> Result<()> {
        let name = self.spare_name(spare);
        self.storage.create(name, spare.bytes).map_err(|error| {
            let error = error.context(format!("the journal cannot prepare a segment of {} bytes", spare.bytes));
            // Half of a segment must not keep what little room there is.
            match self.storage.delete(name) {
                Ok(()) => error,
                Err(second) => error.context(second),
            }
        })
    }

    /// Writes sealed frames, whose offsets follow each other up to `next_offset`. They are durable after [`Journal::sync`].
    pub fn append(&self, frames: &[u8], next_offset: u64) -> Result<()> {
        self.check()?;
        let mut tail = lock(&self.tail);
        self.append_frames(&mut tail, frames, next_offset).map_err(|error| self.fail(error))
    }

    fn append_frames(&self, tail: &mut Tail, frames: &[u8], next_offset: u64) -> Result<()> {
        crash::point("journal-before-write");
        let mut rest = frames;
        while !rest.is_empty() {
            let first_len = frame_at(rest, tail.next_offset)?.0 as u64;
            if tail.segment.is_none_or(|current| current.position + MARK_BYTES + first_len > current.bytes) {
                self.roll(tail, first_len)?;
            }
            let run = self.append_run(tail, rest)?;
            rest = &rest[run..];
        }
        if tail.next_offset != next_offset {
            return Err(Error::engine(format!("frames end at offset {}, not at {next_offset}", tail.next_offset)));
        }
        crash::point("journal-after-write");
        Ok(())
    }

    /// Writes as many frames as fit into the current segment, at once; returns their bytes.
    fn append_run(&self, tail: &mut Tail, frames: &[u8]) -> Result<usize> {
        let mut current = tail.segment.expect("a segment was opened");
        let name = self.segment_name(current.first_offset);
        let durable = self.durable_offset();
        if durable > tail.marked_offset {
            self.storage.write_at(name, current.position, &mark(durable))?;
            tail.marked_offset = durable;
            current.position += MARK_BYTES;
        }
        let (mut run, mut count, mut offset) = (0, 0, tail.next_offset);
        while run < frames.len() {
            let (len, span) = frame_at(&frames[run..], offset)?;
            let position = current.position + run as u64;
            if position + len as u64 > current.bytes {
                break;
            }
            if is_place(position, current.last_place) {
                current.last_place = position;
                self.index.note_place(offset, position);
            }
            offset = offset.checked_add(span).ok_or_else(|| Error::engine("the journal's offsets are exhausted"))?;
            run += len;
            count += 1;
        }
        self.storage.write_at(name, current.position, &frames[..run])?;
        current.position += run as u64;
        tail.next_offset = offset;
        tail.segment = Some(current);
        lock(&self.space).appended(count, run as u64, current.bytes - current.position);
        Ok(run)
    }

    /// Closes the current segment, durable, and opens one that holds a frame of `frame_bytes`.
    fn roll(&self, tail: &mut Tail, frame_bytes: u64) -> Result<()> {
        if let Some(closed) = tail.segment.take() {
            let name = self.segment_name(closed.first_offset);
            // What lies behind the end was only preallocated; it may come back after a crash, as zeros.
            self.storage.truncate(name, closed.position)?;
            self.storage.sync(name)?;
            self.index.publish(closed.first_offset, closed.position, tail.next_offset);
        }
        let taken = lock(&self.space).take(frame_bytes);
        let spare = match taken {
            Some(spare) => spare,
            None => {
                let spare = lock(&self.space).segment_for(frame_bytes);
                self.prepare(spare)?;
                spare
            }
        };
        let first_offset = tail.next_offset;
        let header = SegmentHeader { incarnation: self.options.incarnation, fingerprint: self.options.fingerprint, first_offset };
        // The head is durable before the name is: a named segment without a head is damage, not a crash.
        let name = self.spare_name(spare);
        self.storage.write_at(name, 0, &header.to_bytes())?;
        self.storage.sync(name)?;
        self.storage.rename(name, self.segment_name(first_offset))?;
        self.storage.sync_directory(self.options.incarnation)?;
        self.index.lock().segments.push_back(SegmentInfo::new(first_offset, SEGMENT_HEADER_BYTES));
        let position = SEGMENT_HEADER_BYTES;
        tail.segment = Some(Current { first_offset, position, bytes: spare.bytes, last_place: position });
        // The head of a segment proves as much as a mark does: all before it is durable.
        tail.marked_offset = first_offset;
        Ok(())
    }

    /// Makes everything appended so far durable; returns the offset after it. Frames may be appended meanwhile.
    pub fn sync(&self) -> Result<u64> {
        let _syncing = lock(&self.syncing);
        self.check()?;
        let (segment, next_offset) = {
            let tail = lock(&self.tail);
            (tail.segment, tail.next_offset)
        };
        if let Some(current) = segment
            && next_offset > self.durable_offset()
        {
            self.storage.sync(self.segment_name(current.first_offset)).map_err(|error| self.fail(error))?;
            crash::point("journal-after-sync");
            self.index.publish(current.first_offset, current.position, next_offset);
        }
        Ok(self.durable_offset())
    }

    /// Deletes segments that hold only offsets below `up_to`. One that is left because of an error is deleted at the
    /// next start.
    pub fn trim(&self, up_to: u64) -> Result<()> {
        let _syncing = lock(&self.syncing);
        for segment in self.index.remove_below(up_to.min(self.durable_offset())) {
            self.storage.delete(self.segment_name(segment))?;
        }
        Ok(())
    }

    /// Bytes in segments that hold rows, for the metrics and the queue's depth.
    pub fn durable_bytes(&self) -> u64 {
        self.index.lock().segments.iter().map(|segment| segment.durable_bytes).sum()
    }

    /// Reads records from the one that holds `from_offset` on, up to the durable end, also while others are appended.
    pub fn read(&self, from_offset: u64) -> JournalReader<S> {
        JournalReader::new(self.storage.clone(), self.options.incarnation, self.index.clone(), from_offset)
    }

    fn segment_name(&self, first_offset: u64) -> LogName {
        LogName::Segment { incarnation: self.options.incarnation, first_offset }
    }

    fn spare_name(&self, spare: Spare) -> LogName {
        LogName::Spare { incarnation: self.options.incarnation, number: spare.number }
    }

    fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some(error) if !guards::off(Guard::EndAfterFailure) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// From here on nothing is written any more (I4).
    fn fail(&self, error: Error) -> Error {
        let told = "the journal failed and writes no more; the process must end and start again, and then recovers";
        let error = Error::damaged(error.context(told).message());
        self.failure.get_or_init(|| error).clone()
    }
}

/// Length and span of the sealed frame at the front of `frames`, which must begin at `offset`.
fn frame_at(frames: &[u8], offset: u64) -> Result<(usize, u64)> {
    match read_header(frames).map_err(|error| Error::engine(error.message()))? {
        Header::Record { payload_len, first_offset, span, .. } if first_offset == offset => {
            let len = FRAME_HEADER_BYTES + payload_len;
            if len > frames.len() || span == 0 {
                return Err(Error::engine(format!("an incomplete frame at offset {offset} was to be appended")));
            }
            Ok((len, span))
        }
        other => Err(Error::engine(format!("a frame at offset {offset} was expected, not {other:?}"))),
    }
}
