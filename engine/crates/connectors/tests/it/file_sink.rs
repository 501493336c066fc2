use std::fs;
use std::path::Path;

use streamjob_connectors::file_sink::{OWNER_FILE, SegmentDirectory};
use streamjob_core::Actor;

fn open(path: &Path, incarnation: u32) -> SegmentDirectory {
    SegmentDirectory::open(path, "state-1", incarnation).unwrap()
}

/// Writes a segment as a commit does, up to the durable commit itself.
fn prepare(directory: &SegmentDirectory, shard: u16, seq: u64) -> streamjob_connectors::file_sink::SealedSegment {
    let mut writer = directory.writer(shard, seq).unwrap();
    writer.write(format!("{{\"seq\":{seq}}}\n").as_bytes()).unwrap();
    let sealed = writer.seal().unwrap();
    sealed.sync().unwrap();
    directory.sync().unwrap();
    sealed
}

/// Names in the directory, without the marker.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != OWNER_FILE);
    names.sort();
    names
}

#[test]
fn a_segment_is_visible_only_after_publish_and_whole() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("new/out");
    let directory = open(&path, 0);
    let sealed = prepare(&directory, 3, 0);
    assert_eq!(names(&path), [".part-00003-000000000000.ndjson.tmp"]);
    assert_eq!((sealed.shard(), sealed.seq(), sealed.bytes()), (3, 0, 10));
    sealed.publish().unwrap();
    assert_eq!(names(&path), ["part-00003-000000000000.ndjson"]);
    assert_eq!(fs::read(path.join("part-00003-000000000000.ndjson")).unwrap(), b"{\"seq\":0}\n");
}

#[test]
fn recovery_publishes_what_was_committed_and_deletes_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    prepare(&directory, 1, 0).publish().unwrap();
    for seq in 1..4 {
        drop(prepare(&directory, 1, seq));
    }
    drop(prepare(&directory, 2, 0));
    drop(directory);

    let directory = open(root.path(), 0);
    let recovered = directory.recover(1, 0..3).unwrap();
    assert_eq!((recovered.published, recovered.deleted, recovered.next_incarnation), (2, 1, None));
    let visible: Vec<String> = (0..3).map(|seq| format!("part-00001-{seq:012}.ndjson")).collect();
    assert_eq!(names(root.path())[1..], visible);
    // A second recovery finds nothing to do; the other shard's files were not touched.
    assert_eq!(directory.recover(1, 0..3).unwrap(), Default::default());
    assert_eq!(directory.recover(2, 0..0).unwrap().deleted, 1);
    assert_eq!(names(root.path()), visible);
}

#[test]
fn a_missing_committed_segment_is_damage_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    prepare(&directory, 0, 0).publish().unwrap();
    drop(prepare(&directory, 0, 2));
    let error = directory.recover(0, 0..3).unwrap_err();
    assert!(!error.retryable() && error.actor() == Actor::Outside);
    assert!(error.message().contains("part-00000-000000000001.ndjson"), "{error}");
    assert_eq!(names(root.path()).len(), 2);
    // Segments before the range may have been taken away.
    fs::remove_file(root.path().join("part-00000-000000000000.ndjson")).unwrap();
    assert_eq!(directory.recover(0, 2..3).unwrap().published, 1);
}

#[test]
fn nothing_is_ever_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    let sealed = prepare(&directory, 0, 0);
    let visible = root.path().join("part-00000-000000000000.ndjson");
    fs::write(&visible, b"precious").unwrap();
    assert!(sealed.publish().unwrap_err().message().contains("never overwritten"));
    assert!(directory.writer(0, 0).is_err());
    assert!(directory.recover(0, 0..1).is_err());
    assert_eq!(fs::read(&visible).unwrap(), b"precious");
}

#[test]
fn an_orphan_of_an_uncommitted_attempt_is_truncated() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    fs::write(root.path().join(".part-00000-000000000000.ndjson.tmp"), vec![b'x'; 1000]).unwrap();
    prepare(&directory, 0, 0).publish().unwrap();
    assert_eq!(fs::read(root.path().join("part-00000-000000000000.ndjson")).unwrap(), b"{\"seq\":0}\n");
}

#[test]
fn an_output_ahead_of_the_state_asks_for_a_new_incarnation() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    for seq in 0..3 {
        prepare(&directory, 0, seq).publish().unwrap();
    }
    assert_eq!(directory.recover(0, 0..1).unwrap().next_incarnation, Some(1));
    directory.begin_incarnation(1);
    prepare(&directory, 0, 1);
    drop(directory);
    let directory = open(root.path(), 1);
    assert_eq!(directory.recover(0, 0..1).unwrap().next_incarnation, None);
    prepare(&directory, 0, 1).publish().unwrap();
    assert!(names(root.path()).contains(&"part-00000-000000000001-r1.ndjson".to_owned()));
    // The restored state's segments count as present under either incarnation.
    assert_eq!(directory.recover(0, 0..2).unwrap(), Default::default());
}

#[test]
fn a_directory_of_another_owner_is_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path(), 0));
    let error = SegmentDirectory::open(root.path(), "state-2", 0).unwrap_err();
    assert_eq!(error.actor(), Actor::User);
    assert!(error.message().contains("state-1") && error.message().contains("another output directory"), "{error}");
    open(root.path(), 0);
}

#[test]
fn a_directory_with_foreign_files_is_refused_but_hidden_ones_are_not() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(".gitkeep"), b"").unwrap();
    drop(open(root.path(), 0));
    fs::remove_file(root.path().join(OWNER_FILE)).unwrap();
    fs::write(root.path().join("thesis.docx"), b"").unwrap();
    let error = SegmentDirectory::open(root.path(), "state-1", 0).unwrap_err();
    assert!(error.message().contains("thesis.docx") && error.actor() == Actor::User, "{error}");
}

#[test]
fn a_directory_has_one_writer_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path(), 0);
    let error = SegmentDirectory::open(root.path(), "state-1", 0).unwrap_err();
    assert!(error.message().contains("directory of its own"), "{error}");
    drop(first);
    open(root.path(), 0);
}

#[test]
fn a_damaged_or_newer_marker_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(OWNER_FILE), b"{").unwrap();
    assert!(SegmentDirectory::open(root.path(), "state-1", 0).unwrap_err().message().contains("not readable"));
    fs::write(root.path().join(OWNER_FILE), br#"{"format":9,"owner":"state-1"}"#).unwrap();
    assert!(SegmentDirectory::open(root.path(), "state-1", 0).unwrap_err().message().contains("format 9"));
}

#[test]
fn a_discarded_segment_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let directory = open(root.path(), 0);
    directory.writer(0, 0).unwrap().discard().unwrap();
    assert!(names(root.path()).is_empty());
}
