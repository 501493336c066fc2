//! Where the sources inside of the process go on after a start: each from the newest position whose rows are durable.
//!
//! A position is in the record of the rows that it stands behind ([`Origin`]). So the newest one that a journal holds is never
//! ahead of the rows, and never behind them. Before records are deleted, and when a journal begins, the newest of each source
//! are saved beside it, with the place in the journal up to which that is true: what a start reads is the saved ones and the
//! records behind that place.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::journal::{Incarnation, LogStorage, Origin, RecoveredLog};
use crate::{Error, Result};

/// What is kept beside the journals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPositions {
    /// The journal that was being written; `None` where no source wrote one. Journals of earlier starts are covered.
    pub journal: Option<String>,
    /// Positions of its records below this offset are covered.
    pub offset: u64,
    /// By source, as JSON text.
    pub positions: BTreeMap<String, String>,
}

/// The newest positions of all sources.
#[derive(Debug, Default)]
pub struct SourcePositions {
    newest: BTreeMap<String, String>,
    /// Everything below this offset of the journal of this start is in `newest`.
    offset: u64,
    /// What is appended and not durable yet, with the offset behind it. As many as there are records on their way to the disk.
    pending: VecDeque<(u64, Origin)>,
    unsaved: bool,
}

impl SourcePositions {
    /// Those that a start finds: what was saved, and the records that have come since. A state in which nothing was ever
    /// saved has none, since a start saves before the first record.
    pub fn recover<S: LogStorage>(saved: Option<SavedPositions>, logs: &[RecoveredLog<S>]) -> Result<SourcePositions> {
        let mut positions = SourcePositions::default();
        let Some(SavedPositions { journal, offset, positions: newest }) = saved else { return Ok(positions) };
        positions.newest = newest;
        let Some(journal) = journal else { return Ok(positions) };
        let journal: Incarnation = journal.parse().map_err(|error: Error| Error::damaged(error.message().to_owned()))?;
        // One that is gone was deleted, before which its positions were saved.
        let Some(log) = logs.iter().find(|log| log.incarnation() == journal) else { return Ok(positions) };
        let mut reader = log.read(offset.clamp(log.first_offset(), log.end_offset()))?;
        while let Some(record) = reader.next_record()? {
            if let Some(origin) = record.origin {
                positions.take(origin);
            }
        }
        Ok(positions)
    }

    /// Where a source goes on; `None` for one that has none yet.
    pub fn newest(&self, source: &str) -> Option<&str> {
        self.newest.get(source).map(String::as_str)
    }

    /// A record was appended, in the order of the journal; `end` is the offset behind it.
    pub fn appended(&mut self, end: u64, origin: &Origin) {
        if origin.position.is_some() {
            self.pending.push_back((end, origin.clone()));
        }
    }

    /// The journal is durable below `offset`.
    pub fn durable(&mut self, offset: u64) {
        while self.pending.front().is_some_and(|(end, _)| *end <= offset) {
            if let Some((_, origin)) = self.pending.pop_front() {
                self.take(origin);
            }
        }
        self.offset = self.offset.max(offset);
    }

    fn take(&mut self, origin: Origin) {
        if let Some(position) = origin.position {
            self.newest.insert(origin.source, position);
            self.unsaved = true;
        }
    }

    /// Whether a position has come since [`SourcePositions::saved`]; then records may be deleted only once that is durable.
    pub fn are_unsaved(&self) -> bool {
        self.unsaved
    }

    /// What to save beside the journal of this start.
    pub fn to_save(&mut self, journal: Option<Incarnation>) -> SavedPositions {
        self.unsaved = false;
        let journal = journal.map(|journal| journal.to_string());
        SavedPositions { journal, offset: self.offset, positions: self.newest.clone() }
    }

    /// It could not be saved.
    pub fn not_saved(&mut self) {
        self.unsaved = true;
    }
}

#[cfg(test)]
mod tests;
