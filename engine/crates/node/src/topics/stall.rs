//! Notices a reader that gives nothing although the partition's leader says that there is something.
//!
//! A client library may wait for ever for an answer that it does not ask for again, for instance after its broker has changed
//! hands. The watch asks the leader by another client, so that the two can be compared.

/// A reader that has given nothing for so long is made anew, microseconds. Longer than any request of the client may take.
pub const STALLED_AFTER_US: u64 = 15_000_000;
/// The longest wait before a reader is made anew once more, microseconds: what is large over a slow line needs its time.
const STALLED_AFTER_MAX_US: u64 = 300_000_000;

/// What is known of one partition.
#[derive(Debug)]
pub struct Stall {
    /// The offset that is wanted, and since when it is wanted in vain.
    since: Option<(u64, u64)>,
    wait_us: u64,
}

impl Default for Stall {
    fn default() -> Stall {
        Stall { since: None, wait_us: STALLED_AFTER_US }
    }
}

/// What the two clients say of a partition at the moment. Times are microseconds of one clock.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The offset that the reader gives next.
    pub next: u64,
    /// Something of it is at hand.
    pub at_hand: bool,
    /// Behind the last message, by its leader.
    pub end: u64,
    /// When the leader was asked for that.
    pub answered_us: u64,
    pub now_us: u64,
}

impl Stall {
    /// The reader was made anew, for this partition or another: the time begins again.
    pub fn restart(&mut self, now_us: u64) {
        if let Some((_, since_us)) = &mut self.since {
            *since_us = now_us;
        }
    }

    /// Whether the reader is to be made anew now.
    pub fn look(&mut self, seen: Seen) -> bool {
        if seen.at_hand || seen.next >= seen.end {
            *self = Stall::default();
            return false;
        }
        match self.since {
            Some((next, since_us)) if next == seen.next => {
                // A leader that can't be reached is nobody's fault here: it must have answered when the time was up.
                if seen.answered_us < since_us.saturating_add(self.wait_us) {
                    return false;
                }
                self.since = Some((next, seen.now_us));
                self.wait_us = (self.wait_us * 2).min(STALLED_AFTER_MAX_US);
                true
            }
            _ => {
                *self = Stall { since: Some((seen.next, seen.now_us)), ..Stall::default() };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn seen(next: u64, end: u64, at_s: u64) -> Seen {
        Seen { next, at_hand: false, end, answered_us: at_s * S, now_us: at_s * S }
    }

    /// The seconds at which the reader would be made anew.
    fn anew(looks: impl Iterator<Item = Seen>) -> Vec<u64> {
        let mut stall = Stall::default();
        looks.filter(|it| stall.look(*it)).map(|it| it.now_us / S).collect()
    }

    #[test]
    fn a_reader_that_gives_nothing_is_made_anew_ever_more_rarely() {
        let expected = [16, 46, 106, 226, 466, 766, 1066];
        assert_eq!(anew((1..1100).map(|at| seen(5, 9, at))), expected);
    }

    #[test]
    fn a_reader_that_gives_something_or_has_all_of_it_is_left_alone() {
        assert!(anew((1..100).map(|at| seen(at, 1000, at))).is_empty());
        assert!(anew((1..100).map(|at| seen(9, 9, at))).is_empty());
        assert!(anew((1..100).map(|at| Seen { at_hand: true, ..seen(5, 9, at) })).is_empty());
    }

    #[test]
    fn what_was_given_meanwhile_starts_the_time_again() {
        let given = |at: u64| if at < 12 { 5 } else { 6 };
        assert_eq!(anew((1..50).map(|at| seen(given(at), 9, at))), [27]);
    }

    #[test]
    fn the_time_begins_again_where_the_reader_was_made_anew_for_another_partition() {
        let mut stall = Stall::default();
        assert!(!stall.look(seen(5, 9, 1)));
        stall.restart(10 * S);
        assert_eq!((11..40).find(|at| stall.look(seen(5, 9, *at))), Some(25));
    }

    #[test]
    fn a_leader_that_does_not_answer_says_nothing_about_the_reader() {
        let answered = |at: u64| if at < 40 { 3 } else { at };
        let looks = (1..50).map(|at| Seen { answered_us: answered(at) * S, ..seen(5, 9, at) });
        assert_eq!(anew(looks), [40]);
    }
}
