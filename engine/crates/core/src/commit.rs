//! The order in which one commit becomes durable and visible. Who writes commits only follows it.
//!
//! ```text
//!  segments synced ─▶ journal durable up to the positions ─▶ the one atomic write ─▶ segments visible ─▶ batches leave
//!        I8                         I4                              I1                    I8                 I8
//! ```
//!
//! A crash before the write forgets the commit; one after it is made good by the next start, which makes committed segments
//! visible and sends what the outbox holds.

use crate::guards::{self, Guard};

/// One step of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitStep {
    /// Make the segments' contents and temporary names durable.
    SyncSegments,
    /// Wait until the journal is durable up to the commit's positions (I4).
    AwaitJournal,
    /// The one atomic write of the shard's store (I1).
    WriteStore,
    /// Make the segments visible; never in place of another file (I8).
    PublishSegments,
    /// Tell the worker, whose exactly-once batches may leave now (I8), whoever knows requests (I10), and the trimming (I3).
    Report,
}

const STEPS: [CommitStep; 5] =
    [CommitStep::SyncSegments, CommitStep::AwaitJournal, CommitStep::WriteStore, CommitStep::PublishSegments, CommitStep::Report];

/// The steps of one commit, in order.
pub fn steps() -> impl Iterator<Item = CommitStep> {
    let mut steps = STEPS.to_vec();
    if guards::off(Guard::CommitAfterJournal) {
        steps.retain(|step| *step != CommitStep::AwaitJournal);
    }
    if guards::off(Guard::Segment) {
        // Visible before they are committed.
        steps.retain(|step| *step != CommitStep::PublishSegments);
        steps.insert(1, CommitStep::PublishSegments);
    }
    steps.into_iter()
}

/// What a start does with a segment that it finds under its temporary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundSegment {
    /// It was committed: make it visible.
    Publish,
    /// It was not: the replay writes its rows again.
    Delete,
}

/// Decides about segment `number` of a shard that has committed those below `committed_end`.
pub fn found_segment(number: u64, committed_end: u64) -> FoundSegment {
    if number < committed_end { FoundSegment::Publish } else { FoundSegment::Delete }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_visible_before_the_write_and_nothing_is_written_before_the_journal() {
        let steps: Vec<CommitStep> = steps().collect();
        let place = |step| steps.iter().position(|other| *other == step).expect("every step is taken");
        assert_eq!(steps.len(), 5);
        assert!(place(CommitStep::SyncSegments) < place(CommitStep::WriteStore));
        assert!(place(CommitStep::AwaitJournal) < place(CommitStep::WriteStore));
        assert!(place(CommitStep::WriteStore) < place(CommitStep::PublishSegments));
        assert_eq!(steps.last(), Some(&CommitStep::Report));
    }

    #[test]
    fn only_committed_segments_become_visible_at_a_start() {
        assert_eq!(found_segment(3, 4), FoundSegment::Publish);
        assert_eq!(found_segment(4, 4), FoundSegment::Delete);
    }
}
