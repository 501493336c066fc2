//! Notices a reader that gives nothing although the partition's leader says that there is something.
//!
//! A client library may wait for ever for an answer that it does not ask for again, for instance after its broker has changed
//! hands. The watch asks the leader by another client, so that the two can be compared.

/// A reader that has given nothing for so long is made anew, microseconds: longer than a request of its client may take by
/// default. Each time in vain doubles it, without an end: what is large, or what the client passes over without a word, such as
/// transactions that were given up, needs its time.
pub const STALLED_AFTER_US: u64 = 15_000_000;

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
    /// When the leader was asked for that; 0 for never.
    pub answered_us: u64,
    pub now_us: u64,
}

impl Stall {
    /// The time begins again: the reader was made anew, or has given a sign of life.
    pub fn restart(&mut self, now_us: u64) {
        if let Some((_, since_us)) = &mut self.since {
            *since_us = now_us;
        }
    }

    /// Whether the reader is to be made anew now.
    pub fn look(&mut self, seen: Seen) -> bool {
        if seen.next >= seen.end {
            *self = Stall::default();
            return false;
        }
        let Some((_, since_us)) = self.since.filter(|(next, _)| *next == seen.next) else {
            *self = Stall { since: Some((seen.next, seen.now_us)), ..Stall::default() };
            return false;
        };
        // Where the leader can't be reached, it is not the reader's fault, which then has the whole time once more. One that is
        // away holds up the questions to others, so that their answers may be some seconds old.
        let is_away = seen.answered_us.saturating_add(STALLED_AFTER_US) < seen.now_us;
        if seen.at_hand || is_away {
            self.restart(seen.now_us);
            return false;
        }
        let is_over = seen.answered_us >= since_us.saturating_add(self.wait_us);
        if is_over {
            self.restart(seen.now_us);
            self.wait_us = self.wait_us.saturating_mul(2);
        }
        is_over
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
        let expected = [16, 46, 106, 226, 466, 946];
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
        let looks = |to| (1..to).map(|at| Seen { answered_us: answered(at) * S, ..seen(5, 9, at) });
        assert!(anew(looks(54)).is_empty());
        assert_eq!(anew(looks(60)), [54]);
        // Answers that come every 7 s, because another leader keeps the questioner waiting, are good enough.
        let rarely = (1..40).map(|at| Seen { answered_us: at / 7 * 7 * S, ..seen(5, 9, at) });
        assert_eq!(anew(rarely), [21]);
    }

    #[test]
    fn what_is_at_hand_and_gives_no_row_does_not_shorten_the_wait() {
        let looks = (1..120).map(|at| Seen { at_hand: at % 40 == 20, ..seen(5, 9, at) });
        assert_eq!(anew(looks), [16, 50]);
    }
}
