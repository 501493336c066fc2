//! From messages to batches that follow each other, over all holes that a partition has: control records of transactions,
//! transactions that were given up, what compaction took.

use std::sync::Arc;

use streamjob_connectors::kafka::{Code, Event, Message, MetadataFields};
use streamjob_core::batch::RowBatch;
use streamjob_core::config::Tombstones;
use streamjob_core::decode::{Metadata, Payload};

/// Bytes of the messages of one batch, but for its first.
pub const MAX_BATCH_BYTES: usize = 4 << 20;
/// A batch reaches over at most so many offsets, since its rows say where they are in 32 bits.
const MAX_SPAN: u64 = u32::MAX as u64;

/// How a source's messages are taken.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub tombstones: Tombstones,
    pub metadata: &'a MetadataFields,
    /// The clock for messages that say no time.
    pub clock_us: i64,
}

/// What came of some messages.
#[derive(Debug, Default)]
pub struct Taken {
    /// Batches with their first offsets; each begins where the one before it ends.
    pub batches: Vec<(u64, Arc<RowBatch>)>,
    /// The offset behind them.
    pub next: u64,
    /// There is nothing more at the moment.
    pub at_end: bool,
    /// Messages from the end on were among them, and are gone.
    pub cut: bool,
    pub skipped: u64,
    pub bytes: u64,
    /// What follows could not be decoded now, and is gone.
    pub undecoded: bool,
    /// Why reading the partition failed, the last time. Where what is wanted next can't be had ([`is_loss`]), what followed is gone;
    /// after anything else the client goes on by itself.
    pub failed: Option<(Code, String)>,
}

/// Whether a failure means that what is wanted next is not in the log, or is there and can't be read: the client goes on behind
/// it, or not at all.
pub fn is_loss(code: Code) -> bool {
    matches!(
        code,
        Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::BadMessage | Code::BadCompression | Code::NotImplemented
    )
}

/// A batch under construction.
struct Cut<'m, D> {
    decode: D,
    payloads: Vec<Payload<'m>>,
    /// Of each payload.
    metadata: Vec<Metadata<'m>>,
    bytes: usize,
    first: u64,
    taken: Taken,
}

impl<'m, D: FnMut(&[Payload], &[Metadata], u64) -> Option<RowBatch>> Cut<'m, D> {
    /// Ends the batch, which covers everything up to `next`, also where it has no row.
    fn end(&mut self) {
        let (first, next) = (self.first, self.taken.next);
        if next == first || self.taken.undecoded {
            return;
        }
        let batch = match self.payloads.is_empty() {
            true => Some(RowBatch::empty(next - first)),
            false => (self.decode)(&self.payloads, &self.metadata, next - first),
        };
        self.payloads.clear();
        self.metadata.clear();
        match batch {
            Some(batch) => {
                self.taken.batches.push((first, Arc::new(batch)));
                (self.first, self.bytes) = (next, 0);
            }
            None => (self.taken.next, self.taken.undecoded, self.taken.at_end) = (first, true, false),
        }
    }

    /// Makes room for a message at `offset`: everything before it is covered by batches that are not too large.
    fn make_room(&mut self, offset: u64, bytes: usize) {
        if !self.payloads.is_empty() && (self.bytes + bytes > MAX_BATCH_BYTES || offset - self.first > MAX_SPAN) {
            self.end();
        }
        if !self.taken.undecoded && offset - self.first > MAX_SPAN {
            self.taken.next = offset;
            self.end();
        }
    }

    /// Adds a message, which is not before the next offset.
    fn put(&mut self, message: &Message<'m>, rules: Rules<'_>) {
        let length = message.value.map_or(0, <[u8]>::len);
        self.make_room(message.offset, length);
        if self.taken.undecoded {
            return;
        }
        self.taken.next = message.offset + 1;
        self.taken.bytes += length as u64;
        if message.value.is_none() && rules.tombstones == Tombstones::Skip {
            self.taken.skipped += 1;
            return;
        }
        self.bytes += length;
        rules.metadata.push(message, &mut self.metadata);
        self.payloads.push(Payload {
            relative_offset: (message.offset - self.first) as u32,
            bytes: message.value,
            clock_us: message.timestamp_us.unwrap_or(rules.clock_us),
        });
    }
}

/// Makes batches of what came of a partition, from `next` on; messages from `end` on are left. `decode` gives the rows of
/// messages, with their metadata, that reach over so many offsets, or nothing where that can't be done now.
pub fn take<'m>(
    events: impl Iterator<Item = Event<'m>>,
    next: u64,
    end: Option<u64>,
    rules: Rules<'_>,
    decode: impl FnMut(&[Payload], &[Metadata], u64) -> Option<RowBatch>,
) -> Taken {
    let taken = Taken { next, ..Taken::default() };
    let mut cut = Cut { decode, payloads: Vec::new(), metadata: Vec::new(), bytes: 0, first: next, taken };
    let end = end.unwrap_or(u64::MAX);
    for event in events {
        cut.taken.at_end = false;
        match event {
            Event::Message(message) if message.offset < cut.taken.next => {}
            Event::Message(message) if message.offset >= end => {
                cut.taken.next = cut.taken.next.max(end);
                cut.taken.cut = true;
                break;
            }
            Event::Message(message) => cut.put(&message, rules),
            Event::End { offset } => {
                cut.taken.next = cut.taken.next.max(offset.min(end));
                cut.taken.at_end = true;
            }
            Event::Failed { code, text } => {
                cut.taken.failed = Some((code, text));
                // Messages behind any other failure follow those before it without a gap: to leave them would be to lose them.
                if is_loss(code) {
                    break;
                }
            }
        }
        if cut.taken.undecoded {
            break;
        }
    }
    cut.end();
    cut.taken
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use streamjob_connectors::kafka::Headers;
    use streamjob_core::config::{FieldType, KeyConfig, SchemaConfig, SchemaFieldConfig, TimeFieldConfig, TimeUnit};

    use streamjob_core::decode::Decoder;

    use super::*;

    const ROW: &[u8] = br#"{"device":"a","at":1}"#;
    static NO_METADATA: LazyLock<MetadataFields> = LazyLock::new(MetadataFields::default);

    fn rules(tombstones: Tombstones) -> Rules<'static> {
        Rules { tombstones, metadata: &NO_METADATA, clock_us: 0 }
    }

    fn decoder() -> Decoder {
        let time =
            TimeFieldConfig { field: "at".into(), unit: Some(TimeUnit::S), format: None, timezone: "UTC".into(), path: None };
        let fields = vec![SchemaFieldConfig { name: "device".into(), data_type: FieldType::String, path: None }];
        Decoder::new(&SchemaConfig { key: KeyConfig::Field("device".into()), time, fields }, 4, i64::MAX).expect("a schema")
    }

    fn message(offset: u64) -> Event<'static> {
        message_with(offset, Some(ROW))
    }

    fn message_with(offset: u64, value: Option<&'static [u8]>) -> Event<'static> {
        Event::Message(Message { partition: 0, offset, key: None, value, timestamp_us: None, headers: Headers::default() })
    }

    fn taken(events: Vec<Event<'static>>, next: u64, end: Option<u64>, rules: Rules<'_>) -> Taken {
        let mut decoder = decoder();
        let decode = |payloads: &[Payload], metadata: &[Metadata], span| {
            Some(decoder.decode_messages(payloads, metadata, span).expect("JSON"))
        };
        let taken = take(events.into_iter(), next, end, rules, decode);
        // I2: each batch begins where the one before it ends.
        let mut at = next;
        for (first, batch) in &taken.batches {
            assert_eq!(*first, at);
            at += batch.span;
        }
        assert_eq!(at, taken.next);
        taken
    }

    fn offsets(taken: &Taken) -> Vec<u64> {
        let of = |(first, batch): &(u64, Arc<RowBatch>)| {
            (0..batch.rows()).map(|row| first + batch.relative_offset(row)).collect::<Vec<_>>()
        };
        taken.batches.iter().flat_map(of).collect()
    }

    #[test]
    fn holes_are_covered_before_between_and_behind() {
        let all = taken(vec![message(7), message(9), Event::End { offset: 12 }], 5, None, rules(Tombstones::Reject));
        assert_eq!((offsets(&all), all.next, all.at_end), (vec![7, 9], 12, true));
        let none = taken(vec![Event::End { offset: 8 }], 5, None, rules(Tombstones::Reject));
        assert_eq!((none.next, none.batches.len()), (8, 1));
        assert!(taken(Vec::new(), 5, None, rules(Tombstones::Reject)).batches.is_empty());
    }

    #[test]
    fn what_was_taken_before_is_not_taken_again() {
        let all = taken(vec![message(3), message(4), message(5)], 5, None, rules(Tombstones::Reject));
        assert_eq!(offsets(&all), [5]);
    }

    #[test]
    fn the_end_is_reached_also_over_a_hole_and_what_is_behind_it_is_left() {
        let all = taken(vec![message(5), message(9)], 5, Some(8), rules(Tombstones::Reject));
        assert_eq!((offsets(&all), all.next, all.cut), (vec![5], 8, true));
        let end = taken(vec![message(5), Event::End { offset: 20 }], 5, Some(8), rules(Tombstones::Reject));
        assert_eq!((end.next, end.cut), (8, false));
    }

    #[test]
    fn rows_that_lie_far_apart_are_in_batches_of_their_own() {
        let far = 5 + (1 << 33);
        let all = taken(vec![message(5), message(far), message(far + 2)], 5, None, rules(Tombstones::Reject));
        assert_eq!(offsets(&all), [5, far, far + 2]);
    }

    #[test]
    fn messages_without_a_value_are_rejected_or_skipped() {
        let events = || {
            let tombstone = message_with(6, None);
            vec![message(5), tombstone, message(7)]
        };
        let rejected = taken(events(), 5, None, rules(Tombstones::Reject));
        assert_eq!((rejected.batches[0].1.rejects.len(), rejected.skipped), (1, 0));
        let skipped = taken(events(), 5, None, rules(Tombstones::Skip));
        assert_eq!((skipped.batches[0].1.rejects.len(), skipped.skipped, offsets(&skipped)), (0, 1, vec![5, 7]));
    }

    #[test]
    fn only_a_loss_ends_what_is_taken() {
        for (code, expected) in [(Code::OffsetOutOfRange, vec![5]), (Code::BadMessage, vec![5]), (Code::Unknown, vec![5, 6])] {
            let failed = Event::Failed { code, text: "it failed".to_owned() };
            let all = taken(vec![message(5), failed, message(6)], 5, None, rules(Tombstones::Reject));
            assert_eq!((offsets(&all), all.failed.is_some()), (expected, true), "{code:?}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_now_begins_behind_the_batch_before_it() {
        let far = 5 + (1 << 33);
        let events = || vec![message(5), message(far), message(far + 2), Event::End { offset: far + 9 }].into_iter();
        for decodable in 0..2 {
            let (mut decoder, mut calls) = (decoder(), 0);
            let all = take(events(), 5, None, rules(Tombstones::Reject), |payloads, metadata, span| {
                calls += 1;
                (calls <= decodable).then(|| decoder.decode_messages(payloads, metadata, span).expect("JSON"))
            });
            assert!(all.undecoded && !all.at_end);
            let end = all.batches.last().map_or(5, |(first, batch)| first + batch.span);
            assert_eq!((all.next, offsets(&all)), (end, if decodable == 0 { vec![] } else { vec![5] }));
        }
    }
}
