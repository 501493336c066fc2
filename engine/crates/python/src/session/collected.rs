//! Rows that a session's sinks were given, put in an order that does not depend on shards.

use serde::Deserialize;
use streamjob_core::Result;
use streamjob_core::event_time::parse_rfc3339;
use streamjob_core::outbox::Batch;
use streamjob_core::processor::SinkPort;

/// A batch that was sent and that the session will confirm.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub sink: usize,
    pub shard: u16,
    pub number: u64,
}

/// Keeps what the sinks are given, by sink.
#[derive(Debug, Default)]
pub struct Collected {
    rows: Vec<Vec<Box<[u8]>>>,
    sent: Vec<Sent>,
}

/// Where a row stands among those of its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By place in the input.
    Events,
    /// By start, then key.
    Windows,
    /// By split, then place.
    DeadLetters,
}

impl Collected {
    pub fn new(sinks: usize) -> Collected {
        Collected { rows: vec![Vec::new(); sinks], sent: Vec::new() }
    }

    /// Batches that were sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// Forgets all rows of one sink.
    pub fn clear(&mut self, sink: usize) {
        self.rows[sink].clear();
    }

    /// Writes the sink's rows as a JSON array and forgets them.
    pub fn write_array(&mut self, sink: usize, order: Order, out: &mut Vec<u8>) {
        let mut rows = std::mem::take(&mut self.rows[sink]);
        match order {
            Order::Events => rows.sort_by_cached_key(|row| offset_of(row)),
            Order::Windows => rows.sort_by_cached_key(|row| window_of(row)),
            Order::DeadLetters => rows.sort_by_cached_key(|row| letter_of(row)),
        }
        out.push(b'[');
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            out.extend_from_slice(row);
        }
        out.push(b']');
    }
}

impl SinkPort for Collected {
    fn append(&mut self, sink: usize, _shard: u16, _number: u64, _rows: u32, bytes: &[u8]) -> Result<()> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        self.rows[sink].extend(lines.map(Box::from));
        Ok(())
    }

    fn send(&mut self, sink: usize, shard: u16, batch: &Batch) -> Result<()> {
        let rows: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&batch.body)
            .map_err(|error| streamjob_core::Error::engine(format!("a batch is not a JSON array: {error}")))?;
        self.rows[sink].extend(rows.into_iter().map(|row| Box::from(row.get().as_bytes())));
        self.sent.push(Sent { sink, shard, number: batch.number });
        Ok(())
    }
}

/// An event's `_id` is its last member and ends with its offset.
fn offset_of(row: &[u8]) -> u64 {
    let id = row.strip_suffix(b"\"}").unwrap_or(row);
    let digits = id.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
}

#[derive(Deserialize)]
struct WindowRow {
    window_start: String,
    key: String,
}

fn window_of(row: &[u8]) -> (i64, String) {
    serde_json::from_slice::<WindowRow>(row)
        .map(|row| (parse_rfc3339(&row.window_start).unwrap_or(i64::MAX), row.key))
        .unwrap_or((i64::MAX, String::new()))
}

#[derive(Deserialize)]
struct Letter {
    split: String,
    offset: u64,
}

fn letter_of(row: &[u8]) -> (String, u64) {
    serde_json::from_slice::<Letter>(row).map(|letter| (letter.split, letter.offset)).unwrap_or_default()
}
