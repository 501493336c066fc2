//! Every guard of an invariant is needed: with it taken out, some seed fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use streamjob_core::guards::{Guard, set_off};
use streamjob_simulation::run;

/// Seeds that are tried with a guard taken out. With all guards in place, all of these pass: see `seeds.rs`.
const SEEDS: u64 = 1_000;

/// The first seed that fails without the guard, and how.
fn first_failure(guard: Guard) -> Option<(u64, String)> {
    set_off(guard, true);
    let outcome = (0..SEEDS).find_map(|seed| match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some((seed, failure.message)),
        Err(_) => Some((seed, "a panic".to_owned())),
    });
    set_off(guard, false);
    outcome
}

fn is_needed(guard: Guard) {
    let (seed, message) = first_failure(guard).unwrap_or_else(|| panic!("{SEEDS} seeds pass without {guard:?}"));
    println!("{guard:?}: seed {seed}: {message}");
    assert!(run(seed).is_ok(), "seed {seed} fails with {guard:?} in place, too");
}

macro_rules! guards {
    ($($name:ident: $guard:ident,)*) => {
        $(#[test]
        fn $name() {
            is_needed(Guard::$guard);
        })*

        #[test]
        fn every_guard_has_its_test() {
            let tested = [$(Guard::$guard),*];
            for guard in Guard::ALL {
                assert!(tested.contains(&guard), "{guard:?} has no test");
            }
        }
    };
}

guards! {
    i1_commits_are_atomic: Atomic,
    i1_only_clean_keys_are_evicted: EvictClean,
    i1_a_keys_own_record_is_newer_than_its_block: OwnRecordFirst,
    i1_windows_of_keys_that_left_memory_close: CloseCold,
    i1_commits_of_a_shard_follow_each_other: OneCommit,
    i2_gaps_are_refused: Gap,
    i2_early_deliveries_wait: Order,
    i2_repeated_rows_are_skipped: Duplicate,
    i3_only_committed_rows_are_trimmed: Trim,
    i4_commits_wait_for_the_journal: CommitAfterJournal,
    i4_answers_wait_for_the_disk: AcknowledgeAfterSync,
    i4_offsets_are_used_once: Incarnation,
    i4_a_failed_sync_ends_the_journal: EndAfterFailure,
    i4_room_is_made_before_rows_are_handed_on: Reserve,
    i6_outboxes_are_bounded: FullWaits,
    i6_held_deliveries_are_bounded: HeldBound,
    i9_full_shards_leave_their_rows: Leave,
    i9_what_was_left_is_read_again: ReadAgain,
    i9_what_was_left_holds_the_watermark: LeftIsActive,
    i8_at_least_once_keys_are_of_one_run: KeyOfRun,
    i10_torn_records_are_absent: WholeRecord,
    i8_exactly_once_batches_wait_for_their_commit: SendAfterCommit,
    i8_unconfirmed_batches_are_kept: Outbox,
    i8_segments_wait_for_their_commit: Segment,
    i8_what_a_sink_has_is_not_sent_again: TakeKnown,
    i10_repeats_are_known: Idempotency,
    i10_requests_wait_for_the_journals_before: Gate,
    i4_journals_are_in_the_order_of_their_starts: StartOrder,
    i8_a_sink_that_comes_back_goes_on_with_its_numbers: KeepNumbers,
    i11_an_idle_split_that_brings_rows_is_awake: Awake,
    i11_rows_see_the_statistics_before_them: StatisticsBefore,
    i11_rows_see_the_watermark_before_them: RowWatermark,
}
