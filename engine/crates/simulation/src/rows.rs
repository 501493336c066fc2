//! Rows that clients send and that the file holds, and what must become of each in a decoder.

use crate::random::Random;

pub const MS: i64 = 1_000;
pub const SECOND: i64 = 1_000 * MS;

/// The simulated clock starts here.
pub const START_US: i64 = 1_700_000_000 * SECOND;
/// `maxAhead` of the job; rows of the future lie further ahead.
pub const MAX_AHEAD_US: i64 = 60 * SECOND;

/// A value on which the event UDF fails.
pub const POISON: i64 = 666;
/// A value that the job's `where` leaves out.
pub const FILTERED: i64 = 13;
/// Webhooks refuse batches that hold this key.
pub const REFUSED_KEY: &str = "refused";

/// A row as its sender meant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique among all rows of a run.
    pub serial: String,
    pub key: String,
    pub time_us: i64,
    pub value: Option<i64>,
    /// Its integer, often at the limits of the type.
    pub reading: Option<i64>,
}

/// What a decoder makes of a line or element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Row(Row),
    Rejected,
}

/// How a row is made: the same for one sender.
#[derive(Debug, Clone)]
pub struct RowMaker {
    pub name: String,
    pub keys: u64,
    made: u64,
}

impl RowMaker {
    pub fn new(name: String, keys: u64) -> RowMaker {
        RowMaker { name, keys, made: 0 }
    }

    /// A row about `now_us` as JSON, and its fate.
    pub fn make(&mut self, random: &mut Random, now_us: i64) -> (String, Fate) {
        self.made += 1;
        let serial = format!("{}-{}", self.name, self.made);
        let key = match random.below(40) {
            0 => REFUSED_KEY.to_owned(),
            1 => format!("a key that is too long for a slot, number {}", random.below(3)),
            _ => format!("k{}", random.below(self.keys)),
        };
        let late_us = if random.percent(4) { 20 * SECOND } else { 0 };
        let time_us = now_us - late_us + random.between(-1_500 * MS, 200 * MS);
        let value = match random.below(40) {
            0 | 1 => None,
            2 => Some(POISON),
            3 | 4 => Some(FILTERED),
            _ => Some(random.between(-50, 150)),
        };
        let reading = reading(random);
        let integer = reading.map_or("null".to_owned(), |reading| reading.to_string());
        match random.below(90) {
            0 => (format!("{{\"device_id\":\"{key}\",\"timestamp\":\"yesterday\",\"serial\":\"{serial}\"}}"), Fate::Rejected),
            1 => (text(&key, now_us + 100 * MAX_AHEAD_US, value, &integer, &serial), Fate::Rejected),
            2 => {
                let integer = random.pick(&BEYOND);
                (text(&key, time_us, value, integer, &serial), Fate::Rejected)
            }
            _ => {
                let text = text(&key, time_us, value, &integer, &serial);
                (text, Fate::Row(Row { serial, key, time_us, value, reading }))
            }
        }
    }
}

/// Just beyond the integers.
const BEYOND: [&str; 2] = ["9223372036854775808", "-9223372036854775809"];

fn reading(random: &mut Random) -> Option<i64> {
    let sign = if random.percent(50) { -1 } else { 1 };
    match random.below(12) {
        0 | 1 => None,
        2 if sign < 0 => Some(i64::MIN + random.between(0, 3)),
        2 => Some(i64::MAX - random.between(0, 3)),
        // Beyond the integers that a float holds.
        3 => Some(sign * ((1 << 53) + random.between(1, 1 << 20))),
        _ => Some(sign * random.between(0, 1_000)),
    }
}

fn text(key: &str, time_us: i64, value: Option<i64>, reading: &str, serial: &str) -> String {
    let value = value.map_or("null".to_owned(), |value| value.to_string());
    format!(
        "{{\"device_id\":\"{key}\",\"timestamp\":{time_us},\"temperature\":{value},\"reading\":{reading},\"serial\":\"{serial}\"}}"
    )
}

/// A file of rows, and each with the byte at which its line begins.
pub fn file(random: &mut Random, rows: u64, keys: u64) -> (Vec<u8>, Vec<(u64, Fate)>) {
    let mut maker = RowMaker::new("file".to_owned(), keys);
    let (mut body, mut fates) = (Vec::new(), Vec::new());
    for row in 0..rows as i64 {
        if random.once_in(30) {
            body.extend_from_slice(b"  \n");
        }
        let (line, fate) = maker.make(random, START_US + row * 50 * MS);
        fates.push((body.len() as u64, fate));
        body.extend_from_slice(line.as_bytes());
        body.push(b'\n');
    }
    (body, fates)
}
