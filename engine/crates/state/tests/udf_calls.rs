//! Which calls of user functions ran when a process died.

use std::fs;

use streamjob_core::udf::record::{NO_CALL, NamedSpan, RunningCall, write};
use streamjob_core::udf::suspects::SavedSuspects;
use streamjob_state::{JobIdentity, StateDir, UdfCalls};
use tempfile::TempDir;

fn call(udf: &'static str, to: u64) -> RunningCall<'static> {
    RunningCall { udf: udf.into(), spans: vec![NamedSpan { of: "replay@1".into(), from: 0, to }] }
}

fn note(udf: &'static str, to: u64) -> Vec<u8> {
    let mut note = Vec::new();
    write(call(udf, to), &mut note);
    note
}

fn opened(folder: &TempDir) -> (StateDir, UdfCalls) {
    let identity = JobIdentity { job: "j".into(), shards: 4, key: "field k".into(), schema_fingerprint: 1 };
    let state = StateDir::open(folder.path(), &identity).expect("an empty directory");
    let calls = UdfCalls::open(&state).expect("a directory in it");
    (state, calls)
}

#[test]
fn calls_that_ran_are_suspects_until_commits_have_passed_them() {
    let folder = TempDir::new().expect("a folder");
    let (_state, calls) = opened(&folder);
    assert_eq!(calls.take_up().expect("nothing"), SavedSuspects::default());
    let notes: Vec<_> = (0..3).map(|worker| calls.notes(worker).expect("a file")).collect();
    notes[0].write(&note("a", 10)).expect("a note");
    notes[1].write(&note("b", 20)).expect("a note");
    notes[1].write(&NO_CALL).expect("its end");
    notes[2].write(&note("a function with a long name", 30)).expect("a note");
    notes[2].write(&note("c", 40)).expect("a shorter one over it");
    drop(notes);
    let mut once = calls.take_up().expect("two calls");
    once.calls.sort_by(|one, other| one.udf.cmp(&other.udf));
    assert_eq!(once, SavedSuspects { deaths: 1, calls: vec![call("a", 10), call("c", 40)] });
    // A start without a death, of other workers: nothing is forgotten, nothing is counted.
    let note_of_one = calls.notes(0).expect("a file");
    assert_eq!(calls.take_up().expect("the same").calls.len(), 2);
    drop(note_of_one);
    calls.notes(0).expect("a file").write(&note("d", 5)).expect("a note");
    let twice = calls.take_up().expect("one more");
    assert_eq!((twice.deaths, twice.calls.len()), (2, 3));
    calls.forget().expect("a file");
    calls.forget().expect("none");
    assert_eq!(calls.take_up().expect("nothing"), SavedSuspects::default());
}

#[test]
fn what_cannot_be_read_is_nothing() {
    let folder = TempDir::new().expect("a folder");
    let (state, calls) = opened(&folder);
    let directory = state.path().join("udf-calls");
    fs::write(directory.join("suspects.json"), "{\"deaths\": ").expect("a file");
    fs::write(directory.join("worker-0"), "none of ours").expect("a file");
    fs::write(directory.join("worker-1"), &note("a", 10)[..9]).expect("a file");
    fs::write(directory.join("worker-2"), note("a", 10)).expect("a file");
    assert_eq!(calls.take_up().expect("one call"), SavedSuspects { deaths: 1, calls: vec![call("a", 10)] });
    assert_eq!(fs::read_dir(&directory).expect("a folder").count(), 1, "the suspects alone are left");
}
