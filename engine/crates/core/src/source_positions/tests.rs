//! A source that is killed at any moment, on a disk that forgets: each of its rows is journaled once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use proptest::prelude::*;

use super::*;
use crate::batch::{Keys, RowBatch};
use crate::journal::testing::SimulatedStorage;
use crate::journal::{Journal, JournalOptions, JournalReader, RecordEncoder, recover};

const SEGMENT_BYTES: u64 = 4 << 10;
const SOURCES: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone)]
enum Step {
    /// A source brings so many rows in one record, and says where it is.
    Append {
        source: usize,
        rows: usize,
    },
    /// Rows of a source without a position, between the others.
    AppendPlain,
    Sync,
    /// All shards have committed what is durable: the journal may go so far.
    Trim,
    Crash,
    /// A stop and a start without a crash.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..SOURCES.len(), 1usize..200).prop_map(|(source, rows)| Step::Append { source, rows }),
        1 => Just(Step::AppendPlain),
        4 => Just(Step::Sync),
        2 => Just(Step::Trim),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

/// Rows of a source: its numbers, as they follow each other.
fn numbers(from: u64, rows: usize) -> RowBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|row| from as i64 + row)));
    RowBatch {
        time_us: vec![0; rows],
        key_hash: vec![0; rows],
        keys: Keys::Const("k".into()),
        columns: vec![column],
        ..RowBatch::empty(rows as u64)
    }
}

type Committed = BTreeMap<(Incarnation, u64), (String, Vec<i64>)>;

/// One process after another on one disk.
struct World {
    storage: Arc<SimulatedStorage>,
    /// What `positions.json` holds: a file that is replaced as a whole, durably.
    saved: Option<SavedPositions>,
    starts: u8,
    /// Journals of earlier starts that are still there.
    logs: Vec<RecoveredLog<SimulatedStorage>>,
    journal: Journal<SimulatedStorage>,
    positions: SourcePositions,
    next_offset: u64,
    /// By source: the number that it brings next.
    next: BTreeMap<&'static str, u64>,
    /// Rows that are committed, by their places: a log that a crash brings back has none that are new.
    committed: Committed,
    saves: bool,
}

impl World {
    fn new(saves: bool) -> World {
        let storage = Arc::new(SimulatedStorage::new(7));
        let options = JournalOptions { segment_bytes: SEGMENT_BYTES, ..JournalOptions::new(Incarnation([0; 16]), 1) };
        let journal = Journal::open(storage.clone(), options).expect("an empty disk");
        let (positions, next) = (SourcePositions::default(), BTreeMap::new());
        let (logs, committed) = (Vec::new(), BTreeMap::new());
        let mut world =
            World { storage, saved: None, starts: 0, logs, journal, positions, next_offset: 0, next, committed, saves };
        world.start();
        world
    }

    /// Everything that a start does.
    fn start(&mut self) {
        self.starts += 1;
        let logs = recover(&self.storage).expect("a log without damage");
        self.positions = SourcePositions::recover(self.saved.clone(), &logs).expect("positions");
        let incarnation = Incarnation([self.starts; 16]);
        let options = JournalOptions { segment_bytes: SEGMENT_BYTES, ..JournalOptions::new(incarnation, 1) };
        self.journal = Journal::open(self.storage.clone(), options).expect("a new incarnation");
        self.saved = Some(self.positions.to_save(Some(incarnation)));
        self.next_offset = 0;
        for source in SOURCES {
            let next = self.positions.newest(source).map_or(0, |position| position.parse().expect("a number"));
            self.next.insert(source, next);
        }
        self.logs = logs;
    }

    fn append(&mut self, source: &'static str, rows: usize, replays: bool) {
        let next = self.next.entry(source).or_default();
        let batch = numbers(*next, rows);
        let position = replays.then(|| (*next + rows as u64).to_string());
        let origin = Origin { source: source.to_owned(), position };
        let mut record = RecordEncoder::new().encode_from(origin, &batch).expect("a small record");
        self.journal.reserve(record.len()).map_err(|full| full.error).expect("room");
        let end = self.next_offset + batch.span;
        self.journal.append(record.seal(self.next_offset), end).expect("a disk that works");
        self.positions.appended(end, record.origin().expect("a source"));
        self.next_offset = end;
        *next += rows as u64;
    }

    fn trim(&mut self) {
        // The journal syncs a segment that is full by itself; but nothing is committed before whoever writes it has heard so.
        let durable = self.positions.offset;
        if self.positions.are_unsaved() && self.saves {
            self.saved = Some(self.positions.to_save(Some(self.journal.incarnation())));
        }
        for log in std::mem::take(&mut self.logs) {
            collect(&mut self.committed, log.incarnation(), log.read(log.first_offset()).expect("readable"));
            log.delete().expect("deletable");
        }
        let first = self.journal.first_offset();
        if first < durable {
            collect(&mut self.committed, self.journal.incarnation(), self.journal.read(first));
        }
        self.journal.trim(durable).expect("deletable");
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { source, rows } => self.append(SOURCES[*source], *rows, true),
            Step::AppendPlain => self.append("plain", 3, false),
            Step::Sync => {
                let offset = self.journal.sync().expect("a disk that works");
                self.positions.durable(offset);
            }
            Step::Trim => self.trim(),
            Step::Crash => {
                self.storage.crash();
                self.start();
            }
            Step::Restart => {
                self.run(&Step::Sync);
                self.start();
            }
        }
    }

    /// Rows of each source that were ever kept, in order.
    fn kept(mut self) -> BTreeMap<String, Vec<i64>> {
        self.run(&Step::Restart);
        self.trim();
        let mut kept: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (source, rows) in self.committed.into_values() {
            kept.entry(source).or_default().extend(rows);
        }
        kept.remove("plain");
        kept
    }
}

fn collect(rows: &mut Committed, journal: Incarnation, mut reader: JournalReader<SimulatedStorage>) {
    while let Some(record) = reader.next_record().expect("readable") {
        let column = record.batch.columns[0].as_any().downcast_ref::<Int64Array>().expect("numbers");
        let source = record.origin.expect("a source").source;
        rows.insert((journal, record.first_offset), (source, column.values().to_vec()));
    }
}

fn each_number_once(kept: &BTreeMap<String, Vec<i64>>) -> bool {
    kept.values().all(|rows| rows.iter().enumerate().all(|(at, row)| at as i64 == *row))
}

proptest! {
    /// Whatever is forgotten by a crash, the source brings again; what is kept it does not.
    #[test]
    fn rows_of_a_source_that_replays_are_journaled_once(steps in steps()) {
        let mut world = World::new(true);
        steps.iter().for_each(|step| world.run(step));
        let kept = world.kept();
        prop_assert!(each_number_once(&kept), "{:?}", kept);
    }

    #[test]
    fn saved_positions_come_back_from_their_text(positions in prop::collection::btree_map(".{1,5}", ".{0,9}", 0..4), offset: u64) {
        let saved = SavedPositions { journal: Some(Incarnation([3; 16]).to_string()), offset, positions };
        let text = serde_json::to_string(&saved).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<SavedPositions>(&text).expect("its own"), saved);
    }
}

/// A position is in the records alone until it is saved: one that goes with them is lost.
#[test]
fn without_saving_before_records_go_rows_would_come_twice() {
    let mut steps = Vec::new();
    for _ in 0..40 {
        steps.extend([Step::Append { source: 0, rows: 199 }, Step::Sync]);
    }
    // The last records of the source go, and others stay behind them.
    for _ in 0..400 {
        steps.extend([Step::AppendPlain, Step::Sync]);
    }
    // Not a crash: one may bring back what was deleted just now.
    steps.extend([Step::Trim, Step::Restart, Step::Append { source: 0, rows: 5 }]);
    for (saves, expected) in [(true, true), (false, false)] {
        let mut world = World::new(saves);
        steps.iter().for_each(|step| world.run(step));
        assert_eq!(each_number_once(&world.kept()), expected, "with saving: {saves}");
    }
}

/// A save may hold positions of records that are not in a later read, but none of records that are not durable.
#[test]
fn what_is_not_durable_is_not_saved() {
    let mut positions = SourcePositions::default();
    let origin = |position: &str| Origin { source: "a".to_owned(), position: Some(position.to_owned()) };
    positions.appended(10, &origin("1"));
    positions.appended(20, &origin("2"));
    positions.durable(10);
    let saved = positions.to_save(None);
    assert_eq!((saved.offset, saved.positions.get("a").map(String::as_str)), (10, Some("1")));
    assert!(!positions.are_unsaved());
    positions.durable(20);
    assert!(positions.are_unsaved());
    assert_eq!(positions.newest("a"), Some("2"));
}
