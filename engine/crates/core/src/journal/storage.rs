//! Where segments lie: the few operations on files that the journal needs.

use std::fmt;
use std::str::FromStr;

use crate::guards::{self, Guard};
use crate::{Error, Result};

/// Which run of the process wrote a segment: 16 bytes, new at each start, written as 32 hexadecimal digits. Those of later
/// starts sort behind those of earlier ones, and journals are recovered in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// That of a start at `now_ms`, milliseconds since the epoch: a UUID of version 7, the time and then `chance`. It sorts behind
    /// `after`, the newest that is there, also where the clock was set back since.
    pub fn of_start(now_ms: u64, chance: [u8; 10], after: Option<Incarnation>) -> Incarnation {
        let after = after.filter(|_| !guards::off(Guard::StartOrder));
        let least_ms = after.map_or(0, |Incarnation([a, b, c, d, e, f, ..])| u64::from_be_bytes([0, 0, a, b, c, d, e, f]) + 1);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&now_ms.max(least_ms).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&chance);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Incarnation(bytes)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for Incarnation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Incarnation> {
        let wrong = || Error::user(format!("{text:?} is no incarnation of a journal (32 hexadecimal digits)"));
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|number| Incarnation(number.to_be_bytes())).map_err(|_| wrong())
    }
}

/// A file of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogName {
    /// `<incarnation>/<first offset, 20 digits>.log`
    Segment { incarnation: Incarnation, first_offset: u64 },
    /// `<incarnation>/.spare-<number>`: preallocated, not in use yet.
    Spare { incarnation: Incarnation, number: u64 },
}

impl LogName {
    pub fn incarnation(&self) -> Incarnation {
        match *self {
            LogName::Segment { incarnation, .. } | LogName::Spare { incarnation, .. } => incarnation,
        }
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogName::Segment { incarnation, first_offset } => write!(formatter, "{incarnation}/{first_offset:020}.log"),
            LogName::Spare { incarnation, number } => write!(formatter, "{incarnation}/.spare-{number}"),
        }
    }
}

impl FromStr for LogName {
    type Err = Error;

    fn from_str(text: &str) -> Result<LogName> {
        let parse = || {
            let (directory, file) = text.split_once('/')?;
            let incarnation = directory.parse().ok()?;
            if let Some(number) = file.strip_prefix(".spare-") {
                return Some(LogName::Spare { incarnation, number: number.parse().ok()? });
            }
            let digits = file.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
            Some(LogName::Segment { incarnation, first_offset: digits.parse().ok()? })
        };
        let name = parse().filter(|name| name.to_string() == text);
        name.ok_or_else(|| Error::user(format!("{text:?} is no file of a journal")))
    }
}

/// A file and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEntry {
    pub name: LogName,
    /// Length in bytes, with what is preallocated.
    pub bytes: u64,
}

/// Files of a journal. May be called from many threads.
///
/// An error is [`Error::outside`] (a retry may help) where the disk is full and [`Error::damaged`] otherwise; after the
/// latter the journal writes no more. Nothing but `sync` and `sync_directory` makes anything durable.
pub trait LogStorage: Send + Sync {
    /// All files of all incarnations, in any order. An incarnation whose directory is empty has none.
    fn list(&self) -> Result<Vec<LogEntry>>;

    /// Creates a file of `bytes` zeros whose blocks are allocated, with its directory. A full disk is met here.
    fn create(&self, name: LogName, bytes: u64) -> Result<()>;

    fn rename(&self, from: LogName, to: LogName) -> Result<()>;

    /// Writes all of `bytes` at `position`, within the file's length.
    fn write_at(&self, name: LogName, position: u64, bytes: &[u8]) -> Result<()>;

    /// Fills `buffer` from `position`. A file that ends before is an error.
    fn read_at(&self, name: LogName, position: u64, buffer: &mut [u8]) -> Result<()>;

    /// Cuts the file to `bytes`.
    fn truncate(&self, name: LogName, bytes: u64) -> Result<()>;

    /// Makes a file's contents and length durable.
    fn sync(&self, name: LogName) -> Result<()>;

    /// Makes names durable that were created, renamed or deleted in the incarnation's directory, and the directory itself.
    fn sync_directory(&self, incarnation: Incarnation) -> Result<()>;

    /// Deletes a file; one that is not there is no error.
    fn delete(&self, name: LogName) -> Result<()>;

    /// Deletes an incarnation's directory with all that is left in it.
    fn delete_incarnation(&self, incarnation: Incarnation) -> Result<()>;
}
