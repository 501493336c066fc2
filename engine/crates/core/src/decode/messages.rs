//! From messages of a broker to columns: each holds one row, and has an offset of its own.
//!
//! The one way into the decoders for every source of messages: a slice of payloads with their places goes in, a batch whose
//! rows say where they are comes out.

use crate::batch::RowBatch;

use super::columns::{Expected, Rows};
use super::template::Context;
use super::text::{self, Breaks};
use super::{Decoder, MAX_BODY_BYTES, Shape, read_generally};

/// One message.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// Its place behind the batch's first offset.
    pub relative_offset: u32,
    /// Its value; `None` for a message without one.
    pub bytes: Option<&'a [u8]>,
    /// The clock for "too far ahead", microseconds: when the message was written, since a row's fate must not depend on when it
    /// is read.
    pub clock_us: i64,
}

/// Why a message without a value is rejected.
pub const NO_VALUE: &str = "the message has no value (a tombstone)";

impl Decoder {
    /// Decodes messages that hold one JSON object each, in the order of their offsets. The batch reaches over `span` offsets,
    /// also where there are holes between the messages, before the first and behind the last. What is no valid row becomes a
    /// reject.
    ///
    /// # Panics
    /// If the messages are larger than [`MAX_BODY_BYTES`] together.
    pub fn decode_messages(&mut self, messages: &[Payload], span: u64) -> RowBatch {
        let bytes: usize = messages.iter().filter_map(|message| message.bytes).map(<[u8]>::len).sum();
        assert!(bytes <= MAX_BODY_BYTES, "messages must be split before they are decoded");
        self.template.begin(Breaks::Whitespace);
        let string_bytes = self.shape.string_bytes_per_row.saturating_mul(messages.len());
        let mut rows = Rows::new(&self.layout, Expected { rows: messages.len(), string_bytes }, true);
        for message in messages {
            let offset = message.relative_offset as usize;
            match message.bytes {
                None => rows.reject(offset, "", NO_VALUE.to_owned(), String::new()),
                Some(payload) => self.read_message(&mut rows, offset, payload, message.clock_us),
            }
        }
        self.shape = Shape::of(&rows, bytes);
        rows.finish(&self.layout, span)
    }

    #[inline(always)]
    fn read_message(&mut self, rows: &mut Rows, offset: usize, payload: &[u8], clock_us: i64) {
        let latest_us = clock_us.saturating_add(self.max_ahead_us);
        let context = Context { layout: &self.layout, latest_us, breaks: Breaks::Whitespace };
        let start = text::skip_whitespace(payload, 0, Breaks::Whitespace);
        let fast = if self.use_template { self.template.read_object(&context, rows, payload, start) } else { None };
        match fast {
            Some(end) if text::skip_whitespace(payload, end, Breaks::Whitespace) == payload.len() => {
                rows.commit(context.layout, offset);
            }
            _ => read_generally(&context, rows, offset, payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{FieldConfig, FieldType, KeyConfig, SchemaConfig, TimeFieldConfig, TimeUnit};
    use crate::decode::Positions;

    const DAY_US: i64 = 86_400_000_000;
    const GOOD: &str = r#"{"device_id":"a","timestamp":1}"#;

    fn decoder() -> Decoder {
        let time = TimeFieldConfig { field: "timestamp".into(), unit: Some(TimeUnit::Ms), format: None, timezone: "UTC".into() };
        let fields = vec![FieldConfig { name: "device_id".into(), data_type: FieldType::String }];
        let schema = SchemaConfig { key: KeyConfig::Field("device_id".into()), time, fields };
        Decoder::new(&schema, 4, DAY_US).expect("a valid schema")
    }

    fn payload(relative_offset: u32, text: &str) -> Payload<'_> {
        Payload { relative_offset, bytes: Some(text.as_bytes()), clock_us: 0 }
    }

    #[test]
    fn rows_and_rejects_are_at_the_offsets_of_their_messages() {
        let mut decoder = decoder();
        let messages = [
            payload(2, GOOD),
            Payload { bytes: None, ..payload(3, "") },
            payload(7, "nonsense"),
            payload(9, " \n"),
            payload(11, GOOD),
        ];
        let batch = decoder.decode_messages(&messages, 20);
        assert_eq!(batch.span, 20);
        assert_eq!((0..batch.rows()).map(|row| batch.relative_offset(row)).collect::<Vec<_>>(), [2, 11]);
        assert_eq!(batch.rejects.iter().map(|reject| reject.relative_offset).collect::<Vec<_>>(), [3, 7, 9]);
        assert_eq!(batch.rejects[0].reason, NO_VALUE);
    }

    #[test]
    fn too_far_ahead_counts_from_the_message_itself() {
        let mut decoder = decoder();
        let text = r#"{"device_id":"a","timestamp":1700000000000}"#;
        let old = decoder.decode_messages(&[payload(0, text)], 1);
        assert!(old.rejects[0].reason.contains("too far in the future"), "{:?}", old.rejects);
        let new = decoder.decode_messages(&[Payload { clock_us: 1_700_000_000_000_000, ..payload(0, text) }], 1);
        assert_eq!(new.rows(), 1);
    }

    proptest! {
        /// A message is what a line of a file is.
        #[test]
        fn messages_are_read_as_lines_are(lines in prop::collection::vec("[ -~]{0,40}|\\{\"device_id\":\"[a-c]\",\"timestamp\":[0-9]{1,6}\\}", 1..20)) {
            let lines: Vec<&String> = lines.iter().filter(|line| !line.trim().is_empty()).collect();
            let messages: Vec<Payload> = std::iter::zip(0.., &lines).map(|(at, line)| payload(at, line)).collect();
            let one = decoder().decode_messages(&messages, messages.len() as u64);
            let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let other = decoder().decode_ndjson(text.as_bytes(), 0, Positions::Ordinal);
            prop_assert_eq!(&one.time_us, &other.time_us);
            prop_assert_eq!(&one.key_hash, &other.key_hash);
            let places = |batch: &RowBatch| batch.rejects.iter().map(|reject| reject.relative_offset).collect::<Vec<_>>();
            prop_assert_eq!(places(&one), places(&other));
            prop_assert_eq!(one.columns, other.columns);
        }
    }
}
