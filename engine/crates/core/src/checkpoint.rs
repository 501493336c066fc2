//! When each shard commits.
//!
//! Every shard with changes commits once an interval, the shards spread evenly over it, so that neither the disk nor the
//! worker sees them all at once. Staged exactly-once messages do not wait for that: they leave with a commit soon after
//! the first of them. A shard that holds too much history asks for a commit of its own.

use crate::guards::{self, Guard};
use crate::shard::Shard;

/// A staged exactly-once message waits at most this long for the commit that it leaves with: the promise is 250 ms until it
/// is sent, and the commit itself takes time.
pub const MAX_MESSAGE_WAIT_US: i64 = 100_000;

/// Commits that one worker has under way at most: what a commit froze stays in memory until it is written.
pub const MAX_COMMITS_IN_FLIGHT: usize = 2;

/// What a shard has for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardWish {
    pub shard: u16,
    /// Something changed since its last commit.
    pub changed: bool,
    /// Exactly-once messages wait for a commit.
    pub staged_messages: bool,
    /// It holds so much that it should not wait for its turn.
    pub early: bool,
    pub commit_in_flight: bool,
}

impl From<&Shard> for ShardWish {
    fn from(shard: &Shard) -> ShardWish {
        ShardWish {
            shard: shard.id,
            changed: shard.has_changes(),
            staged_messages: shard.has_staged_messages(),
            early: shard.wants_early_commit(),
            commit_in_flight: shard.commit_in_flight(),
        }
    }
}

/// Decides which shard of one worker commits next.
#[derive(Debug)]
pub struct CheckpointScheduler {
    interval_us: i64,
    max_in_flight: usize,
    turns: Vec<Turn>,
    /// Whether everything commits as soon as it can: at the end.
    rush: bool,
}

#[derive(Debug)]
struct Turn {
    shard: u16,
    due_us: i64,
    /// When staged messages were first seen that no commit has taken yet.
    staged_since_us: Option<i64>,
    /// Somebody waits for a commit of what there is.
    asked: bool,
}

impl Turn {
    fn wake_us(&self) -> i64 {
        match self.staged_since_us {
            Some(since_us) => self.due_us.min(since_us.saturating_add(MAX_MESSAGE_WAIT_US)),
            None => self.due_us,
        }
    }
}

impl CheckpointScheduler {
    /// Spreads the first turns of the shards over the interval that begins now.
    pub fn new(shards: &[u16], interval_us: i64, now_us: i64) -> CheckpointScheduler {
        let interval_us = interval_us.max(1);
        let count = shards.len().max(1) as i64;
        let turn = |(place, shard): (usize, &u16)| Turn {
            shard: *shard,
            due_us: now_us.saturating_add((interval_us / count).saturating_mul(place as i64 + 1)),
            staged_since_us: None,
            asked: false,
        };
        let turns = shards.iter().enumerate().map(turn).collect();
        CheckpointScheduler { interval_us, max_in_flight: MAX_COMMITS_IN_FLIGHT, turns, rush: false }
    }

    /// From now on every change commits as soon as it can.
    pub fn rush(&mut self) {
        self.rush = true;
    }

    /// Every shard with changes commits as soon as it can, once, and keeps its turns.
    pub fn ask(&mut self) {
        self.turns.iter_mut().for_each(|turn| turn.asked = true);
    }

    /// The shard to freeze now, if any. Call it again after a freeze: several may be due. `wishes` are of all shards, as
    /// they are now.
    pub fn next(&mut self, now_us: i64, wishes: impl IntoIterator<Item = ShardWish>) -> Option<u16> {
        let (mut in_flight, mut best) = (0, None);
        for wish in wishes {
            in_flight += usize::from(wish.commit_in_flight);
            let Some(place) = self.place(wish.shard) else { continue };
            let deadline_us = self.deadline(place, now_us, &wish);
            if deadline_us <= now_us && best.is_none_or(|(earliest, _)| deadline_us < earliest) {
                best = Some((deadline_us, place));
            }
        }
        let (_, place) = best?;
        if in_flight >= self.max_in_flight {
            return None;
        }
        let turn = &mut self.turns[place];
        turn.staged_since_us = None;
        turn.asked = false;
        if turn.due_us <= now_us {
            // A turn that was missed is not made up for, and the shards stay spread.
            let missed = (now_us - turn.due_us) / self.interval_us;
            turn.due_us = turn.due_us.saturating_add(self.interval_us.saturating_mul(missed + 1));
        }
        Some(turn.shard)
    }

    /// When to look again at the latest, if nothing else happens: the earliest time at which a shard is due.
    pub fn wake_at_us(&self) -> Option<i64> {
        self.turns.iter().map(Turn::wake_us).min()
    }

    /// As [`CheckpointScheduler::wake_at_us`] for who has asked [`CheckpointScheduler::next`] at `now_us`: a shard whose time
    /// had come by then and that did not commit waits for something else than time.
    pub fn wake_after_us(&self, now_us: i64) -> Option<i64> {
        self.turns.iter().map(Turn::wake_us).filter(|wake_us| *wake_us > now_us).min()
    }

    fn place(&self, shard: u16) -> Option<usize> {
        self.turns.iter().position(|turn| turn.shard == shard)
    }

    /// When the shard must commit; the end of time where it need not.
    fn deadline(&mut self, place: usize, now_us: i64, wish: &ShardWish) -> i64 {
        let turn = &mut self.turns[place];
        if !wish.staged_messages {
            turn.staged_since_us = None;
        }
        let staged_us = wish.staged_messages.then(|| *turn.staged_since_us.get_or_insert(now_us));
        if !wish.changed && !wish.commit_in_flight {
            turn.asked = false;
        }
        if !wish.changed || (wish.commit_in_flight && !guards::off(Guard::OneCommit)) {
            return i64::MAX;
        }
        if self.rush || wish.early || turn.asked {
            return now_us.min(turn.due_us);
        }
        staged_us.map_or(turn.due_us, |since_us| turn.due_us.min(since_us.saturating_add(MAX_MESSAGE_WAIT_US)))
    }
}

/// Checkpoints asked of one worker that are not complete yet; more are refused.
pub const MAX_CHECKPOINT_REQUESTS: usize = 64;

/// Who waits until every shard of a worker has committed what it had when it was asked.
#[derive(Debug)]
pub struct CheckpointRequests<W> {
    waiting: Vec<(W, Vec<(u16, u64)>)>,
}

impl<W> Default for CheckpointRequests<W> {
    fn default() -> Self {
        CheckpointRequests { waiting: Vec::new() }
    }
}

impl<W> CheckpointRequests<W> {
    /// Lets `waiter` wait for the commits of `uncommitted`: shards with the epoch that holds their newest change. Gives it back
    /// where nothing is to be waited for, or where [`MAX_CHECKPOINT_REQUESTS`] wait already.
    pub fn put(&mut self, waiter: W, uncommitted: Vec<(u16, u64)>) -> Result<(), Unqueued<W>> {
        if uncommitted.is_empty() {
            return Err(Unqueued::Complete(waiter));
        }
        if self.waiting.len() >= MAX_CHECKPOINT_REQUESTS {
            return Err(Unqueued::Full(waiter));
        }
        self.waiting.push((waiter, uncommitted));
        Ok(())
    }

    /// A commit is durable. Gives those who wait for nothing else.
    pub fn committed(&mut self, shard: u16, epoch: u64) -> Vec<W> {
        self.waiting.iter_mut().for_each(|(_, left)| left.retain(|(wanted, newest)| *wanted != shard || *newest > epoch));
        self.waiting.extract_if(.., |(_, left)| left.is_empty()).map(|(waiter, _)| waiter).collect()
    }
}

/// Why a waiter came back at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Unqueued<W> {
    /// Everything was committed already.
    Complete(W),
    /// Too many wait.
    Full(W),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn wish(shard: u16) -> ShardWish {
        ShardWish { shard, changed: true, staged_messages: false, early: false, commit_in_flight: false }
    }

    /// Asks every millisecond; gives (time in ms, shard). A commit takes `commit_ms`.
    fn run(
        scheduler: &mut CheckpointScheduler,
        shards: u16,
        until_ms: i64,
        commit_ms: i64,
        change: impl Fn(ShardWish, i64) -> ShardWish,
    ) -> Vec<(i64, u16)> {
        let mut commits: Vec<(i64, u16)> = Vec::new();
        for now_ms in 0..until_ms {
            loop {
                let wishes: Vec<ShardWish> = (0..shards)
                    .map(|shard| {
                        let busy = commits.iter().any(|(at, committed)| *committed == shard && at + commit_ms > now_ms);
                        change(ShardWish { commit_in_flight: busy, ..wish(shard) }, now_ms)
                    })
                    .collect();
                let Some(shard) = scheduler.next(now_ms * 1000, wishes) else { break };
                commits.push((now_ms, shard));
            }
        }
        commits
    }

    #[test]
    fn each_shard_commits_once_an_interval_and_the_shards_are_spread() {
        let mut scheduler = CheckpointScheduler::new(&[0, 1, 2, 3], SECOND, 0);
        let commits = run(&mut scheduler, 4, 2001, 1, |wish, _| wish);
        let expected: Vec<(i64, u16)> = (1..=8).map(|turn| (turn * 250, ((turn - 1) % 4) as u16)).collect();
        assert_eq!(commits, expected);
    }

    #[test]
    fn a_shard_without_changes_does_not_commit_and_late_ones_do_at_once() {
        let mut scheduler = CheckpointScheduler::new(&[0], SECOND, 0);
        let commits = run(&mut scheduler, 1, 3000, 1, |wish, now_ms| ShardWish { changed: now_ms > 2500, ..wish });
        assert_eq!(commits, [(2501, 0)]);
    }

    #[test]
    fn staged_messages_wait_for_no_turn() {
        let mut scheduler = CheckpointScheduler::new(&[0, 1], 10 * SECOND, 0);
        let commits = run(&mut scheduler, 2, 1000, 5, |wish, now_ms| ShardWish {
            staged_messages: wish.shard == 1 && (300..=410).contains(&now_ms) && !wish.commit_in_flight,
            ..wish
        });
        assert_eq!(commits, [(400, 1),], "100 ms after the first, and a new wait for those behind");
        assert_eq!(scheduler.wake_at_us(), Some(5 * SECOND));
        assert_eq!(scheduler.wake_after_us(5 * SECOND), Some(10 * SECOND), "the first shard's time has come");
    }

    #[test]
    fn commits_in_flight_are_bounded_also_in_a_rush() {
        let mut scheduler = CheckpointScheduler::new(&(0..10).collect::<Vec<_>>(), SECOND, 0);
        scheduler.rush();
        let commits = run(&mut scheduler, 10, 60, 20, |wish, _| wish);
        for now_ms in 0..60 {
            let running = commits.iter().filter(|(at, _)| *at <= now_ms && at + 20 > now_ms).count();
            assert!(running <= MAX_COMMITS_IN_FLIGHT);
        }
        assert_eq!(commits.len(), 3 * MAX_COMMITS_IN_FLIGHT);
    }

    #[test]
    fn a_shard_with_much_history_goes_first() {
        let mut scheduler = CheckpointScheduler::new(&[0, 1], 10 * SECOND, 0);
        let wishes = [wish(0), ShardWish { early: true, ..wish(1) }];
        assert_eq!(scheduler.next(1, wishes), Some(1));
    }

    #[test]
    fn what_is_asked_for_commits_at_once_and_keeps_its_turns() {
        let mut scheduler = CheckpointScheduler::new(&[0, 1], 10 * SECOND, 0);
        scheduler.ask();
        let in_flight = ShardWish { commit_in_flight: true, ..wish(1) };
        assert_eq!(scheduler.next(1, [wish(0), in_flight]), Some(0));
        assert_eq!(scheduler.next(2, [wish(0), in_flight]), None, "shard 0 had its commit, shard 1 is busy");
        assert_eq!(scheduler.next(3, [wish(0), wish(1)]), Some(1), "it was asked while it was busy");
        assert_eq!(scheduler.next(4, [wish(0), wish(1)]), None);
        assert_eq!(scheduler.wake_at_us(), Some(5 * SECOND));
        scheduler.ask();
        let unchanged = ShardWish { changed: false, ..wish(0) };
        assert_eq!(scheduler.next(5, [unchanged]), None);
        assert_eq!(scheduler.next(6, [wish(0)]), None, "what came after the request waits for its turn");
    }

    #[test]
    fn a_request_is_complete_with_the_last_shard() {
        let mut requests = CheckpointRequests::default();
        assert_eq!(requests.put("nothing", Vec::new()), Err(Unqueued::Complete("nothing")));
        assert_eq!(requests.put("a", vec![(0, 5), (1, 9)]), Ok(()));
        assert_eq!(requests.put("b", vec![(1, 10)]), Ok(()));
        assert_eq!(requests.committed(0, 4), Vec::<&str>::new(), "an older epoch");
        assert_eq!(requests.committed(1, 9), Vec::<&str>::new());
        assert_eq!(requests.committed(0, 5), ["a"]);
        assert_eq!(requests.committed(1, 11), ["b"]);
    }

    #[test]
    fn requests_are_bounded() {
        let mut requests = CheckpointRequests::default();
        for number in 0..MAX_CHECKPOINT_REQUESTS {
            assert_eq!(requests.put(number, vec![(0, 1)]), Ok(()));
        }
        assert_eq!(requests.put(1000, vec![(0, 1)]), Err(Unqueued::Full(1000)));
    }
}
