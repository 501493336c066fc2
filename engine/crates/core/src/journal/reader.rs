//! Reading records back.

use std::sync::Arc;

use super::JournalRecord;
use super::decode::decode_payload;
use super::frame::{FRAME_HEADER_BYTES, Header, check_payload, read_header};
use super::index::Index;
use super::storage::{Incarnation, LogName, LogStorage};
use crate::{Error, Result};

/// Bytes read at once.
pub(super) const READ_BYTES: u64 = 256 << 10;

/// A part of one file in memory.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `count` bytes from `position` on, which must lie below `limit`; reads ahead, but not beyond `limit`.
    pub fn get<S: LogStorage>(&mut self, storage: &S, name: LogName, position: u64, count: u64, limit: u64) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if position < held.start || position + count > held.end {
            let wanted = count.max(READ_BYTES).min(limit - position);
            self.start = position;
            self.bytes.resize(wanted as usize, 0);
            if let Err(error) = storage.read_at(name, position, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let at = (position - self.start) as usize;
        Ok(&self.bytes[at..at + count as usize])
    }

    pub fn forget(&mut self) {
        self.bytes.clear();
    }
}

/// One frame, read and its checksums compared.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    Record {
        first_offset: u64,
        span: u64,
        payload: &'a [u8],
    },
    Mark {
        durable_offset: u64,
    },
    /// Zeros: preallocated.
    Blank,
    /// Nothing that was written whole.
    Invalid(Error),
}

impl Frame<'_> {
    /// The frame's length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Frame::Record { payload, .. } => (FRAME_HEADER_BYTES + payload.len()) as u64,
            _ => FRAME_HEADER_BYTES as u64,
        }
    }
}

/// Reads the frame at `position` of a file that is read up to `limit`. An error is one of the storage.
pub(super) fn frame_at<'a, S: LogStorage>(
    window: &'a mut Window,
    storage: &S,
    name: LogName,
    position: u64,
    limit: u64,
) -> Result<Frame<'a>> {
    let room = limit - position;
    if room < FRAME_HEADER_BYTES as u64 {
        return Ok(Frame::Invalid(Error::damaged("less than a frame's header is left")));
    }
    match read_header(window.get(storage, name, position, FRAME_HEADER_BYTES as u64, limit)?) {
        Err(error) => Ok(Frame::Invalid(error)),
        Ok(Header::Blank) => Ok(Frame::Blank),
        Ok(Header::Mark { durable_offset }) => Ok(Frame::Mark { durable_offset }),
        Ok(Header::Record { payload_len, payload_crc, first_offset, span }) => {
            let len = (FRAME_HEADER_BYTES + payload_len) as u64;
            if len > room {
                return Ok(Frame::Invalid(Error::damaged(format!("a frame of {len} bytes where {room} are left"))));
            }
            let payload = &window.get(storage, name, position, len, limit)?[FRAME_HEADER_BYTES..];
            Ok(match check_payload(payload, payload_crc) {
                Ok(()) => Frame::Record { first_offset, span, payload },
                Err(error) => Frame::Invalid(error),
            })
        }
    }
}

/// Reads one incarnation's records in order, up to the durable end.
pub struct JournalReader<S> {
    storage: Arc<S>,
    incarnation: Incarnation,
    index: Arc<Index>,
    window: Window,
    /// Records that end at or below this are passed over.
    wanted: u64,
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    position: u64,
    /// Of the record at `position`.
    offset: u64,
}

/// What a step of the reader found.
enum Step {
    End,
    Moved,
    Found(Box<JournalRecord>),
}

impl<S: LogStorage> JournalReader<S> {
    pub(super) fn new(storage: Arc<S>, incarnation: Incarnation, index: Arc<Index>, from_offset: u64) -> JournalReader<S> {
        JournalReader { storage, incarnation, index, window: Window::default(), wanted: from_offset, place: None }
    }

    /// The offset that the next record holds.
    pub fn offset(&self) -> u64 {
        self.wanted
    }

    /// The next record; `None` at the durable end, where a later call may find more. The first one may begin before the
    /// offset that was asked for. Damage is an error that names the file and the place; an offset that was trimmed is one.
    pub fn next_record(&mut self) -> Result<Option<JournalRecord>> {
        loop {
            match self.step()? {
                Step::End => return Ok(None),
                Step::Moved => {}
                Step::Found(record) => return Ok(Some(*record)),
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        let Some(place) = self.place else { return self.begin() };
        let Some(extent) = self.index.extent(place.segment) else {
            return Err(self.trimmed());
        };
        let closed = extent.next_segment.is_some();
        let left = extent.durable_bytes.saturating_sub(place.position);
        // A closed segment may still have an end that was only preallocated: too short for a frame, or blank.
        if left == 0 || (closed && left < FRAME_HEADER_BYTES as u64) {
            return self.leave(place, extent.next_segment);
        }
        let name = LogName::Segment { incarnation: self.incarnation, first_offset: place.segment };
        let frame = frame_at(&mut self.window, &*self.storage, name, place.position, extent.durable_bytes)?;
        let position = place.position + frame.len();
        let damaged = |error: Error| {
            Error::damaged(format!(
                "the journal is damaged: {name} at byte {}, where offset {} should be: {error}; what was acknowledged from \
                 there on is lost; restore the file, or move it away to go on without those rows",
                place.position, place.offset
            ))
        };
        match frame {
            Frame::Mark { .. } => self.place = Some(Place { position, ..place }),
            Frame::Blank if closed => return self.leave(place, extent.next_segment),
            Frame::Blank => return Err(damaged(Error::damaged("the frame is blank"))),
            Frame::Invalid(error) => return Err(damaged(error)),
            Frame::Record { first_offset, .. } if first_offset != place.offset => {
                return Err(damaged(Error::damaged(format!("the record there begins at offset {first_offset}"))));
            }
            Frame::Record { first_offset, span, payload } => {
                let offset = first_offset.checked_add(span).filter(|&end| end > first_offset);
                let offset = offset.ok_or_else(|| damaged(Error::damaged(format!("a record of {span} offsets"))))?;
                let record = match offset <= self.wanted {
                    true => None,
                    false => Some(decode_payload(payload, first_offset, span).map_err(damaged)?),
                };
                self.place = Some(Place { position, offset, ..place });
                if let Some(record) = record {
                    self.wanted = offset;
                    return Ok(Step::Found(Box::new(record)));
                }
            }
        }
        Ok(Step::Moved)
    }

    fn begin(&mut self) -> Result<Step> {
        // Before its place is looked for: a journal that is read to its end may be deleted while somebody still has a reader.
        if self.index.lock().durable_offset <= self.wanted {
            return Ok(Step::End);
        }
        match self.index.start(self.wanted) {
            Some(start) => {
                self.place = Some(Place { segment: start.segment, position: start.position, offset: start.offset });
                Ok(Step::Moved)
            }
            None => Err(self.trimmed()),
        }
    }

    /// At the end of a segment's durable part.
    fn leave(&mut self, place: Place, next_segment: Option<u64>) -> Result<Step> {
        match next_segment {
            None => Ok(Step::End),
            Some(next) if next != place.offset => Err(Error::damaged(format!(
                "the journal is damaged: segment {:020}.log of {} ends at offset {}, and the next begins at {next}; restore it, \
                 or move the incarnation away to go on without those rows",
                place.segment, self.incarnation, place.offset
            ))),
            Some(next) => {
                let position = super::segment::SEGMENT_HEADER_BYTES;
                self.window.forget();
                self.place = Some(Place { segment: next, position, offset: next });
                Ok(Step::Moved)
            }
        }
    }

    fn trimmed(&self) -> Error {
        Error::engine(format!("offset {} of the journal {} was trimmed", self.wanted, self.incarnation))
    }
}
