//! What may be deleted of a journal: only what every shard has committed (I3).

use std::collections::{BTreeMap, HashMap};

use crate::guards::{self, Guard};

/// A log that something may be deleted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    /// It is still written.
    Open,
    /// Nothing is added any more behind this offset.
    Ended { end: u64 },
}

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trim {
    /// Everything below the offset.
    Below { split: String, offset: u64 },
    /// The whole log: it has ended and every shard has committed all of it.
    Delete { split: String },
}

/// Follows the committed positions of all shards.
#[derive(Debug, Default)]
pub struct Trimmer {
    /// By shard, by split.
    committed: HashMap<u16, HashMap<String, u64>>,
    /// With the offset that was decided last.
    logs: BTreeMap<String, (Log, u64)>,
}

impl Trimmer {
    /// For these shards: nothing goes before each of them has said where it is.
    pub fn new(shards: impl IntoIterator<Item = u16>) -> Trimmer {
        Trimmer { committed: shards.into_iter().map(|shard| (shard, HashMap::new())).collect(), logs: BTreeMap::new() }
    }

    /// The journal of this start.
    pub fn open_log(&mut self, split: impl Into<String>) {
        self.logs.insert(split.into(), (Log::Open, 0));
    }

    /// The journal of an earlier start, which ends at `end`.
    pub fn ended_log(&mut self, split: impl Into<String>, end: u64) {
        self.logs.insert(split.into(), (Log::Ended { end }, 0));
    }

    /// A shard's newest commit, or the one that it was opened from, has these positions.
    pub fn committed<'a>(&mut self, shard: u16, positions: impl IntoIterator<Item = (&'a str, u64)>) {
        let known = self.committed.entry(shard).or_default();
        for (split, position) in positions {
            if let Some(known) = known.get_mut(split) {
                *known = position;
            } else {
                known.insert(split.to_owned(), position);
            }
        }
    }

    /// The lowest committed position of all shards in a split.
    pub fn lowest(&self, split: &str) -> u64 {
        let positions = self.committed.values().map(|positions| positions.get(split).copied().unwrap_or(0));
        let lowest = if guards::off(Guard::Trim) { positions.max() } else { positions.min() };
        lowest.unwrap_or(0)
    }

    /// What may go since the last call. A deleted log is forgotten.
    pub fn decide(&mut self) -> Vec<Trim> {
        let mut decisions = Vec::new();
        let splits: Vec<String> = self.logs.keys().cloned().collect();
        for split in splits {
            let offset = self.lowest(&split);
            let Some((log, decided)) = self.logs.get_mut(&split) else { continue };
            match log {
                Log::Ended { end } if offset >= *end => {
                    self.logs.remove(&split);
                    decisions.push(Trim::Delete { split });
                }
                _ if offset > *decided => {
                    *decided = offset;
                    decisions.push(Trim::Below { split, offset });
                }
                _ => {}
            }
        }
        decisions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_goes_that_a_shard_has_not_committed(commits in prop::collection::vec((0u16..3, 0u64..5), 1..60)) {
            let mut trimmer = Trimmer::new(0..3);
            trimmer.open_log("live");
            trimmer.ended_log("old", 20);
            let mut model = [0u64; 3];
            for (shard, step) in commits {
                let position = &mut model[usize::from(shard)];
                *position = (*position + step).min(20);
                trimmer.committed(shard, [("live", *position), ("old", *position), ("file", 99)]);
                let lowest = *model.iter().min().expect("three shards");
                for decision in trimmer.decide() {
                    match decision {
                        Trim::Below { offset, split } => {
                            prop_assert_eq!(offset, lowest);
                            prop_assert!(split != "file", "only logs are trimmed");
                        }
                        Trim::Delete { split } => prop_assert_eq!((split.as_str(), lowest), ("old", 20)),
                    }
                }
                prop_assert!(trimmer.decide().is_empty(), "a decision is made once");
            }
        }
    }

    #[test]
    fn a_shard_that_never_committed_holds_everything() {
        let mut trimmer = Trimmer::new([0, 1]);
        trimmer.open_log("live");
        trimmer.committed(0, [("live", 50)]);
        assert!(trimmer.decide().is_empty());
        trimmer.committed(1, [("live", 40)]);
        assert_eq!(trimmer.decide(), [Trim::Below { split: "live".to_owned(), offset: 40 }]);
    }

    #[test]
    fn an_empty_log_of_an_earlier_start_goes_at_once() {
        let mut trimmer = Trimmer::new([0]);
        trimmer.ended_log("old", 0);
        assert_eq!(trimmer.decide(), [Trim::Delete { split: "old".to_owned() }]);
        assert!(trimmer.decide().is_empty());
    }
}
