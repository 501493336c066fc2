//! Rows that full shards have left, and how they come to them after all.
//!
//! ```text
//!           outbox full                   room again                   position = the worker's
//!  in step ─────────────▶ leaves its rows ──────────▶ reads them again ─────────────────────▶ in step
//! ```
//!
//! Invariant (I9): a worker waits for no single shard. A shard whose outbox is full takes nothing and its positions stay;
//! all others go on. Once it has room, its rows are read again from its positions on, out of the log that they came from,
//! which is there up to the lowest committed position (I3). What it takes of that, and of what comes live, is decided by
//! [`admit`](crate::progress::admit) alone (I2): nothing is lost or repeated, whoever brings a row how often.
//!
//! A log is read up to its durable end, and live rows may be ahead of that. So when a reader is at the end, live deliveries
//! are kept from there on; as soon as the log reaches the first of them, they follow it.

use std::collections::VecDeque;

use crate::guards::{self, Guard};
use crate::progress::{SplitIndex, SplitStatus};
use crate::reorder::{Covers, Reorder};

/// Live deliveries of one split that are kept for shards that have nearly caught up. With more they are all let go, and read
/// again like the rest. They keep the credits that they came with.
pub const MAX_KEPT_DELIVERIES: usize = 256;

/// A shard as this module sees it.
pub trait Member {
    /// It takes no rows.
    fn is_blocked(&self) -> bool;
    /// One that was blocked has so much room that reading again is worth it.
    fn has_room(&self) -> bool;
    /// The next offset wanted of a split.
    fn position(&self, split: SplitIndex) -> u64;
    /// The split's reader had nothing more when it was last heard.
    fn is_idle(&self, split: SplitIndex) -> bool;
    /// The split goes on where another ends that the shard has not read to its end: it comes after that one.
    fn waits(&self, split: SplitIndex) -> bool;
    /// From now on it has left rows, so that it leaves those of splits that wait, too; or it has caught up.
    fn set_behind(&mut self, behind: bool);
}

/// Whether the workers of a process take rows that come, while `behind` of its `shards` have left some: as long as one shard
/// is in step. Else all would leave them, and waiting is better than a log that grows.
pub fn takes_rows(behind: usize, shards: usize) -> bool {
    if guards::off(Guard::Leave) { behind == 0 } else { behind < shards }
}

/// What shards that have left rows want next.
#[derive(Debug, PartialEq)]
pub enum Wanted<T> {
    /// Rows in `[from, to)` of a split, as many as are worth one step, for all shards of the worker.
    Read { split: SplitIndex, from: u64, to: u64 },
    /// Deliveries that were kept.
    Kept(Vec<T>),
}

/// A status whose offset a shard has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The shard's place among the worker's.
    pub place: usize,
    pub split: SplitIndex,
    pub status: SplitStatus,
}

/// Which shards of one worker have left rows, and what is to be read again for them.
#[derive(Debug)]
pub struct CatchUp<T> {
    /// By place among the worker's shards; `None` for one that is in step.
    shards: Vec<Option<Behind>>,
    splits: Vec<Bridge<T>>,
}

/// A shard that has left rows, or is about to.
#[derive(Debug)]
struct Behind {
    /// For room.
    blocked: bool,
    /// By split: what its reader has said, for which offset.
    statuses: Vec<Option<(u64, SplitStatus)>>,
}

/// From the end of a log to what comes live.
#[derive(Debug)]
struct Bridge<T> {
    /// The log holds no more at the moment.
    at_end: bool,
    /// Where the log ended when keeping began.
    end: u64,
    keeping: bool,
    kept: VecDeque<T>,
}

impl<T> Bridge<T> {
    fn let_go(&mut self) {
        self.keeping = false;
        self.kept.clear();
    }
}

impl<T: Covers + Clone> CatchUp<T> {
    /// For a worker with so many shards that reads so many splits.
    pub fn new(shards: usize, splits: usize) -> CatchUp<T> {
        let bridge = || Bridge { at_end: false, end: 0, keeping: false, kept: VecDeque::new() };
        CatchUp { shards: (0..shards).map(|_| None).collect(), splits: (0..splits).map(|_| bridge()).collect() }
    }

    /// Looks at the shards, before each batch: a blocked one leaves what comes from now on, one that is where `reorder` is has
    /// caught up. Gives statuses that hold from now on.
    pub fn look(&mut self, shards: &mut [impl Member], reorder: &Reorder<T>) -> Vec<Due> {
        let mut due = Vec::new();
        for (place, shard) in shards.iter_mut().enumerate() {
            let blocked = shard.is_blocked();
            if blocked && self.shards[place].is_none() {
                self.shards[place] = Some(Behind { blocked, statuses: vec![None; self.splits.len()] });
                shard.set_behind(true);
            }
            let Some(behind) = &mut self.shards[place] else { continue };
            behind.blocked = blocked || (behind.blocked && !shard.has_room());
            behind.take_due(place, &*shard, reorder, &mut due);
            let in_step = |split: usize| shard.position(split as SplitIndex) >= reorder.next_offset(split as SplitIndex);
            if !blocked && (0..self.splits.len()).all(in_step) {
                self.shards[place] = None;
                shard.set_behind(false);
            }
        }
        for split in 0..self.splits.len() {
            self.splits[split].at_end = false;
            if !self.splits[split].keeping {
                continue;
            }
            // What is kept holds credits: it is for who is at the log's end, not for who has a long way there.
            let lowest = self.lowest(split as SplitIndex, shards, reorder);
            if lowest.is_none_or(|position| position < self.splits[split].end) {
                self.splits[split].let_go();
            }
        }
        due
    }

    /// What to do next for shards that have room and have left rows: of the earliest split, from the lowest position on.
    pub fn wanted(&mut self, shards: &[impl Member], reorder: &Reorder<T>) -> Option<Wanted<T>> {
        if guards::off(Guard::ReadAgain) || self.behind() == 0 {
            return None;
        }
        let open = (0..self.splits.len()).filter(|split| !self.splits[*split].at_end);
        let lowest = |split: usize| Some((split, self.lowest(split as SplitIndex, shards, reorder)?));
        let (number, from) = open.filter_map(lowest).next()?;
        let (split, bridge) = (number as SplitIndex, &mut self.splits[number]);
        if bridge.kept.front().is_some_and(|kept| kept.covers_from() <= from) {
            bridge.keeping = false;
            return Some(Wanted::Kept(std::mem::take(&mut bridge.kept).into()));
        }
        Some(Wanted::Read { split, from, to: reorder.next_offset(split) })
    }

    /// The lowest position of shards that have room and are behind in a split.
    fn lowest(&self, split: SplitIndex, shards: &[impl Member], reorder: &Reorder<T>) -> Option<u64> {
        let reads = std::iter::zip(shards, &self.shards).filter(|(_, behind)| behind.as_ref().is_some_and(|it| !it.blocked));
        let positions = reads.filter(|(shard, _)| !shard.waits(split)).map(|(shard, _)| shard.position(split));
        positions.filter(|position| *position < reorder.next_offset(split)).min()
    }

    /// The log of a split holds no more than up to `end` for now: what comes live is kept from here on.
    pub fn at_end(&mut self, split: SplitIndex, end: u64) {
        let bridge = &mut self.splits[usize::from(split)];
        bridge.at_end = true;
        if !bridge.keeping {
            bridge.end = end;
        }
        bridge.keeping = true;
    }

    /// Whether deliveries of any split are kept.
    pub fn keeps_some(&self) -> bool {
        self.splits.iter().any(|bridge| bridge.keeping)
    }

    /// Keeps a delivery that the worker takes live, where that is asked for.
    pub fn keep(&mut self, item: &T) {
        let bridge = &mut self.splits[usize::from(item.split())];
        if !bridge.keeping {
            return;
        }
        if bridge.kept.len() >= MAX_KEPT_DELIVERIES {
            return bridge.let_go();
        }
        bridge.kept.push_back(item.clone());
    }

    /// Takes up what a split's reader says for `at`, where the shard is not there yet: the newest counts. False: it holds now.
    pub fn defer(&mut self, place: usize, shard: &impl Member, split: SplitIndex, at: u64, status: SplitStatus) -> bool {
        match &mut self.shards[place] {
            Some(behind) if shard.position(split) < at => {
                behind.statuses[usize::from(split)] = Some((at, status));
                true
            }
            _ => false,
        }
    }

    /// Whether a shard may have left rows, so that it may refuse what follows them.
    pub fn is_behind(&self, place: usize) -> bool {
        self.shards[place].is_some()
    }

    /// Shards that have left rows, or are about to.
    pub fn behind(&self) -> usize {
        self.shards.iter().flatten().count()
    }

    /// Those of them that wait for room.
    pub fn blocked(&self) -> usize {
        self.shards.iter().flatten().filter(|behind| behind.blocked).count()
    }
}

impl Behind {
    /// An idle reader that has brought rows since is not idle, also where the shard has left them: they hold the watermark back
    /// until it has read them, or they would be late for it alone.
    fn take_due<T: Covers + Clone>(&mut self, place: usize, shard: &impl Member, reorder: &Reorder<T>, due: &mut Vec<Due>) {
        for (split, status) in self.statuses.iter_mut().enumerate() {
            let split = split as SplitIndex;
            let (position, next) = (shard.position(split), reorder.next_offset(split));
            match status.take_if(|(at, _)| *at <= position) {
                Some((at, said)) if at >= next || said == SplitStatus::Finished => due.push(Due { place, split, status: said }),
                _ if position < next && shard.is_idle(split) && !guards::off(Guard::LeftIsActive) => {
                    due.push(Due { place, split, status: SplitStatus::Active });
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::progress::{Admission, admit};

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Piece(u64, u64);

    impl Covers for Piece {
        fn split(&self) -> SplitIndex {
            0
        }
        fn covers_from(&self) -> u64 {
            self.0
        }
        fn covers_to(&self) -> u64 {
            self.1
        }
        fn rows(&self) -> usize {
            (self.1 - self.0) as usize
        }
    }

    /// A shard with an outbox of two rows: each row is a result, and a shard with one has room.
    #[derive(Debug, Clone, Default)]
    struct Stub {
        position: u64,
        outbox: u64,
        idle: bool,
    }

    impl Member for Stub {
        fn is_blocked(&self) -> bool {
            self.outbox > 2
        }
        fn has_room(&self) -> bool {
            self.outbox <= 1
        }
        fn position(&self, _split: SplitIndex) -> u64 {
            self.position
        }
        fn is_idle(&self, _split: SplitIndex) -> bool {
            self.idle
        }
        fn waits(&self, _split: SplitIndex) -> bool {
            false
        }
        fn set_behind(&mut self, _behind: bool) {}
    }

    impl Stub {
        /// As a processor does it: full shards take nothing, the others what meets their position.
        fn take(&mut self, piece: Piece) {
            if let (false, Admission::Take { from }) = (self.is_blocked(), admit(self.position, piece.0, piece.1)) {
                self.outbox += piece.1 - from;
                self.position = piece.1;
            }
        }
    }

    /// What happens to the worker.
    #[derive(Debug, Clone)]
    enum Happens {
        Live(u64),
        Durable,
        Confirmed(usize),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![(1u64..4).prop_map(Happens::Live), Just(Happens::Durable), (0usize..2).prop_map(Happens::Confirmed)]
    }

    /// One turn of a worker whose log is readable up to `durable`.
    fn turn(catch_up: &mut CatchUp<Piece>, shards: &mut [Stub], reorder: &Reorder<Piece>, durable: u64) {
        catch_up.look(shards, reorder);
        let given = match catch_up.wanted(shards, reorder) {
            None => return,
            Some(Wanted::Kept(kept)) => kept,
            Some(Wanted::Read { from, to, .. }) if from < durable => vec![Piece(from, (from + 2).min(durable).min(to))],
            Some(Wanted::Read { split, from, .. }) => return catch_up.at_end(split, from),
        };
        for piece in given {
            shards.iter_mut().for_each(|shard| shard.take(piece));
        }
    }

    proptest! {
        #[test]
        fn whoever_left_rows_gets_them_all(events in prop::collection::vec(happens(), 1..120)) {
            let mut reorder = Reorder::new(&[0]);
            let mut catch_up = CatchUp::new(2, 1);
            // The second shard's sink confirms by itself.
            let mut shards = [Stub::default(), Stub::default()];
            let (mut end, mut durable) = (0, 0);
            for event in events {
                match event {
                    Happens::Durable => durable = end,
                    Happens::Confirmed(shard) => shards[shard].outbox = shards[shard].outbox.saturating_sub(1),
                    Happens::Live(rows) => {
                        catch_up.look(&mut shards, &reorder);
                        let piece = Piece(end, end + rows);
                        end += rows;
                        reorder.put(piece).expect("below the bound");
                        reorder.take(100, &mut Vec::new());
                        shards.iter_mut().for_each(|shard| shard.take(piece));
                        catch_up.keep(&piece);
                    }
                }
                shards[1].outbox = 0;
                turn(&mut catch_up, &mut shards, &reorder, durable);
                // I9: the other shard is never held up.
                prop_assert_eq!(shards[1].position, end);
            }
            for _ in 0..4 * end + 4 {
                durable = end;
                shards.iter_mut().for_each(|shard| shard.outbox = 0);
                turn(&mut catch_up, &mut shards, &reorder, durable);
            }
            prop_assert_eq!((shards[0].position, catch_up.behind()), (end, 0));
        }
    }

    #[test]
    fn what_comes_live_follows_the_end_of_the_log() {
        let mut catch_up = CatchUp::new(1, 1);
        let mut shards = [Stub { position: 0, outbox: 3, idle: false }];
        let reorder = Reorder::new(&[4]);
        catch_up.look(&mut shards, &reorder);
        assert_eq!((catch_up.behind(), catch_up.blocked(), catch_up.wanted(&shards, &reorder)), (1, 1, None));
        shards[0].outbox = 2;
        catch_up.look(&mut shards, &reorder);
        assert_eq!(catch_up.wanted(&shards, &reorder), None, "one row of room is not worth it");
        shards[0].outbox = 0;
        catch_up.look(&mut shards, &reorder);
        assert_eq!(catch_up.wanted(&shards, &reorder), Some(Wanted::Read { split: 0, from: 0, to: 4 }));
        catch_up.at_end(0, 0);
        assert_eq!(catch_up.wanted(&shards, &reorder), None, "nothing more in this turn");
        catch_up.keep(&Piece(4, 6));
        let reorder = Reorder::new(&[6]);
        catch_up.look(&mut shards, &reorder);
        assert_eq!(catch_up.wanted(&shards, &reorder), Some(Wanted::Read { split: 0, from: 0, to: 6 }));
        shards[0].position = 4;
        assert_eq!(catch_up.wanted(&shards, &reorder), Some(Wanted::Kept(vec![Piece(4, 6)])));
        shards[0].position = 6;
        catch_up.look(&mut shards, &reorder);
        assert_eq!(catch_up.behind(), 0);
    }

    #[test]
    fn nothing_is_kept_while_another_shard_has_a_long_way() {
        let mut catch_up = CatchUp::new(2, 1);
        let mut shards = [Stub { position: 8, outbox: 3, idle: false }, Stub { position: 2, outbox: 3, idle: false }];
        let reorder = Reorder::new(&[9]);
        catch_up.look(&mut shards, &reorder);
        shards[0].outbox = 0;
        catch_up.look(&mut shards, &reorder);
        assert_eq!(catch_up.wanted(&shards, &reorder), Some(Wanted::Read { split: 0, from: 8, to: 9 }));
        catch_up.at_end(0, 8);
        catch_up.keep(&Piece(9, 11));
        let reorder = Reorder::new(&[11]);
        catch_up.look(&mut shards, &reorder);
        assert!(catch_up.keeps_some(), "the other one takes nothing anyway");
        shards[1].outbox = 0;
        catch_up.look(&mut shards, &reorder);
        assert!(!catch_up.keeps_some() && catch_up.splits[0].kept.is_empty());
        assert_eq!(catch_up.wanted(&shards, &reorder), Some(Wanted::Read { split: 0, from: 2, to: 11 }));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut catch_up = CatchUp::new(1, 1);
        let mut shards = [Stub { position: 0, outbox: 3, idle: false }];
        catch_up.look(&mut shards, &Reorder::new(&[1]));
        catch_up.at_end(0, 0);
        (0..MAX_KEPT_DELIVERIES as u64).for_each(|offset| catch_up.keep(&Piece(offset, offset + 1)));
        assert_eq!(catch_up.splits[0].kept.len(), MAX_KEPT_DELIVERIES);
        catch_up.keep(&Piece(999, 1000));
        assert!(catch_up.splits[0].kept.is_empty() && !catch_up.keeps_some());
    }

    #[test]
    fn a_status_waits_for_the_shard() {
        let mut catch_up = CatchUp::<Piece>::new(1, 1);
        let mut shards = [Stub { position: 2, outbox: 3, idle: false }];
        let reorder = Reorder::new(&[5]);
        assert!(!catch_up.defer(0, &shards[0], 0, 5, SplitStatus::Idle), "a shard in step is told at once");
        catch_up.look(&mut shards, &reorder);
        assert!(catch_up.defer(0, &shards[0], 0, 4, SplitStatus::Idle));
        shards[0].position = 5;
        assert_eq!(catch_up.look(&mut shards, &reorder), [], "rows have come since");
        shards[0].position = 2;
        assert!(catch_up.defer(0, &shards[0], 0, 5, SplitStatus::Finished));
        assert_eq!(catch_up.look(&mut shards, &reorder), []);
        shards[0].position = 5;
        assert_eq!(catch_up.look(&mut shards, &reorder), [Due { place: 0, split: 0, status: SplitStatus::Finished }]);
    }

    #[test]
    fn a_split_whose_rows_were_left_is_not_idle() {
        let mut catch_up = CatchUp::<Piece>::new(1, 1);
        let mut shards = [Stub { position: 5, outbox: 3, idle: true }];
        assert_eq!(catch_up.look(&mut shards, &Reorder::new(&[5])), [], "nothing came yet");
        let active = Due { place: 0, split: 0, status: SplitStatus::Active };
        assert_eq!(catch_up.look(&mut shards, &Reorder::new(&[7])), [active]);
        shards[0].idle = false;
        assert!(catch_up.defer(0, &shards[0], 0, 7, SplitStatus::Idle));
        shards[0].position = 7;
        assert_eq!(catch_up.look(&mut shards, &Reorder::new(&[9])), [], "rows have come since");
    }

    #[test]
    fn rows_are_taken_while_one_shard_is_in_step() {
        assert!(takes_rows(0, 1) && takes_rows(3, 4));
        assert!(!takes_rows(4, 4));
    }
}
