//! The state directory: locks and refusals.

use std::fs;
use std::path::Path;

use streamjob_core::{Actor, Error};
use streamjob_state::{JobIdentity, StateDir};

fn identity() -> JobIdentity {
    JobIdentity { job: "telemetry".into(), shards: 32, key: "field device_id".into(), schema_fingerprint: 0xabc }
}

fn refusal(path: &Path, identity: &JobIdentity, words: &str) -> Error {
    let error = StateDir::open(path, identity).expect_err("it must be refused");
    assert!(error.message().contains(words), "{error}");
    assert!(!error.retryable());
    error
}

#[test]
fn it_is_created_and_opened_again_with_the_same_id() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let mut first = StateDir::open(&path, &identity()).unwrap();
    assert_eq!(fs::read_to_string(path.join("pid")).unwrap().trim(), std::process::id().to_string());
    assert!(!first.shards_created());
    first.set_shards_created().unwrap();
    let id = first.state_id().to_owned();
    drop(first);
    assert!(!path.join("pid").exists());
    let again = StateDir::open(&path, &identity()).unwrap();
    assert_eq!(again.state_id(), id);
    assert!(again.shards_created());
}

#[test]
fn a_locked_one_is_refused_and_the_process_named() {
    let root = tempfile::tempdir().unwrap();
    let held = StateDir::open(root.path(), &identity()).unwrap();
    let error = refusal(root.path(), &identity(), &format!("is locked by process {}", std::process::id()));
    assert_eq!(error.actor(), Actor::User);
    drop(held);
    StateDir::open(root.path(), &identity()).unwrap();
}

#[test]
fn a_start_that_died_before_the_manifest_is_no_foreign_directory() {
    let root = tempfile::tempdir().unwrap();
    for file in ["lock", "pid", "manifest.tmp"] {
        fs::write(root.path().join(file), b"").unwrap();
    }
    StateDir::open(root.path(), &identity()).unwrap();
}

#[test]
fn foreign_directories_are_refused_untouched() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), b"...").unwrap();
    refusal(root.path(), &identity(), "it is no state directory");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let file = root.path().join("thesis.tex");
    refusal(&file, &identity(), "cannot be used");
}

#[test]
fn another_job_or_layout_is_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(StateDir::open(root.path(), &identity()).unwrap());
    refusal(root.path(), &JobIdentity { job: "other".into(), ..identity() }, "belongs to the job \"telemetry\"");
    refusal(root.path(), &JobIdentity { shards: 16, ..identity() }, "has 32 shards, the job has 16");
    refusal(root.path(), &JobIdentity { key: "field host".into(), ..identity() }, "with the key \"field device_id\"");
    refusal(root.path(), &JobIdentity { schema_fingerprint: 1, ..identity() }, "with other fields");
    StateDir::open(root.path(), &identity()).unwrap();
}

#[test]
fn a_newer_format_and_a_damaged_manifest_are_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(StateDir::open(root.path(), &identity()).unwrap());
    let manifest = root.path().join("manifest.json");
    fs::write(&manifest, r#"{"format_version": 2, "what": "ever"}"#).unwrap();
    refusal(root.path(), &identity(), "has format 2, this version reads up to 1");
    fs::write(&manifest, r#"{"format_version": 1"#).unwrap();
    assert_eq!(refusal(root.path(), &identity(), "cannot be read").actor(), Actor::Outside);
}

#[test]
fn incarnations_differ() {
    assert_ne!(StateDir::new_incarnation(None), StateDir::new_incarnation(None));
}

#[test]
fn a_later_start_has_a_later_incarnation() {
    let first = StateDir::new_incarnation(None);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert!(first < StateDir::new_incarnation(None));
}

#[test]
fn a_clock_that_was_set_back_does_not_change_the_order_of_starts() {
    let mut before = StateDir::new_incarnation(None);
    // years ahead
    before.0[0] += 1;
    for _ in 0..100 {
        let later = StateDir::new_incarnation(Some(before));
        assert!(before < later);
        before = later;
    }
}

/// Several sinks may find at the same time that the state is older than what they hold.
#[test]
fn the_output_incarnation_only_grows_whoever_sets_it() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path(), &identity()).unwrap();
    std::thread::scope(|scope| {
        for first in 1..5 {
            let state = &state;
            scope.spawn(move || (0..25).for_each(|step| state.set_output_incarnation(first + step * 4).unwrap()));
        }
    });
    assert_eq!(state.output_incarnation(), 100);
    drop(state);
    assert_eq!(StateDir::open(root.path(), &identity()).unwrap().output_incarnation(), 100);
}
