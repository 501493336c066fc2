use std::fs;
use std::path::PathBuf;
use std::thread;

use proptest::prelude::*;
use streamjob_connectors::file_source::{FileSplit, MAX_LINE_BYTES};
use streamjob_core::Actor;
use tempfile::TempDir;

fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.ndjson");
    fs::write(&path, content).unwrap();
    (directory, path)
}

/// All chunks of the file, each checked to be whole lines.
fn read_all(split: &FileSplit, max_bytes: usize) -> Vec<u8> {
    let (mut buf, mut all) = (Vec::new(), Vec::new());
    let len = split.len().unwrap();
    loop {
        let read = split.read_chunk(all.len() as u64, max_bytes, &mut buf).unwrap();
        assert_eq!(read, buf.len());
        if read == 0 {
            return all;
        }
        all.extend_from_slice(&buf);
        assert!(buf.ends_with(b"\n") || all.len() as u64 == len);
    }
}

proptest! {
    #[test]
    fn chunks_are_whole_lines_and_together_the_file(
        lines in prop::collection::vec("[a-z]{0,40}", 0..60), newline_at_end: bool, max_bytes in 0usize..200,
    ) {
        let mut content = lines.join("\n").into_bytes();
        if newline_at_end && !lines.is_empty() {
            content.push(b'\n');
        }
        let (_directory, path) = file(&content);
        prop_assert_eq!(read_all(&FileSplit::open("in", &path).unwrap(), max_bytes), content);
    }
}

#[test]
fn a_line_longer_than_the_chunk_is_read_whole_up_to_the_bound() {
    let longest = [vec![b'x'; MAX_LINE_BYTES - 1], b"\n".to_vec()].concat();
    let (_directory, path) = file(&[b"a\n".as_slice(), &longest].concat());
    let split = FileSplit::open("in", &path).unwrap();
    let mut buf = Vec::new();
    assert_eq!(split.read_chunk(2, 10, &mut buf).unwrap(), MAX_LINE_BYTES);

    fs::write(&path, [b"a\n".as_slice(), b"x", &longest].concat()).unwrap();
    for max_bytes in [10, 4 * MAX_LINE_BYTES] {
        assert_eq!(split.read_chunk(0, 10, &mut buf).unwrap(), 2);
        let error = split.read_chunk(2, max_bytes, &mut buf).unwrap_err();
        assert_eq!(error.actor(), Actor::User);
        assert!(error.message().contains("data.ndjson") && error.message().contains("byte 2 "), "{error}");
    }
    // Exactly as long as allowed and without a newline at the end of the file.
    fs::write(&path, vec![b'x'; MAX_LINE_BYTES]).unwrap();
    assert_eq!(split.read_chunk(0, 10, &mut buf).unwrap(), MAX_LINE_BYTES);
}

#[test]
fn the_identity_is_stable_and_names_source_path_and_beginning() {
    let (_directory, path) = file(b"{}\n");
    let id = |source| FileSplit::open(source, &path).unwrap().id().to_owned();
    let before = id("in");
    assert!(before.starts_with(&format!("in:{}#", path.display())), "{before}");
    assert_eq!(id("in"), before);
    assert_ne!(id("other"), before);
    fs::write(&path, b"{ }\n").unwrap();
    assert_ne!(id("in"), before);
}

#[test]
fn what_lies_behind_the_first_4_kib_is_no_part_of_the_identity() {
    let (_directory, path) = file(&[b'x'; 4096]);
    let before = FileSplit::open("in", &path).unwrap().id().to_owned();
    fs::write(&path, [b'x'; 9000]).unwrap();
    assert_eq!(FileSplit::open("in", &path).unwrap().id(), before);
}

#[test]
fn resuming_in_another_or_a_truncated_file_is_refused() {
    let (_directory, path) = file(b"one\ntwo\nthree\n");
    let split = FileSplit::open("in", &path).unwrap();
    let id = split.id().to_owned();
    for line_start in [0, 4, 8, 14] {
        split.check_resume(&id, line_start).unwrap();
    }
    let refused = |split: &FileSplit, id: &str, offset| {
        let error = split.check_resume(id, offset).unwrap_err();
        assert_eq!(error.actor(), Actor::User);
        assert!(error.message().contains("changed since") && error.message().contains("new state directory"), "{error}");
    };
    refused(&split, &id, 15);
    refused(&split, "in:/elsewhere#0", 4);
    let mut buf = Vec::new();
    assert_eq!(split.read_chunk(14, 100, &mut buf).unwrap(), 0);
    fs::write(&path, b"one\n").unwrap();
    refused(&split, &id, 8);
    assert!(split.read_chunk(8, 100, &mut buf).is_err());
}

#[test]
fn a_last_line_without_newline_may_be_followed_by_appended_lines() {
    let (_directory, path) = file(b"one\ntwo");
    let split = FileSplit::open("in", &path).unwrap();
    let id = split.id().to_owned();
    fs::write(&path, b"one\ntwo\nthree").unwrap();
    split.check_resume(&id, 7).unwrap();
    let mut buf = Vec::new();
    assert_eq!((split.read_chunk(7, 100, &mut buf).unwrap(), buf.as_slice()), (6, b"\nthree".as_slice()));
}

#[test]
fn the_rest_of_a_line_that_was_read_half_written_is_blank() {
    let (_directory, path) = file(b"one\ntwo");
    let split = FileSplit::open("in", &path).unwrap();
    let id = split.id().to_owned();
    let mut buf = Vec::new();
    for (content, rest) in [
        (&b"one\ntwofold\nthree\n"[..], &b"    \nthree\n"[..]),
        (b"one\ntwofold", b"    "),
        (b"one\ntwo \nthree", b" \nthree"),
        (b"one\n  \tthree\n", b"three\n"),
        (b"one\ntw\nthree\n", b"three\n"),
    ] {
        fs::write(&path, content).unwrap();
        split.check_resume(&id, 7).unwrap();
        assert_eq!(split.read_chunk(7, 100, &mut buf).unwrap(), rest.len());
        assert_eq!(buf, rest, "{}", String::from_utf8_lossy(content));
    }
    // Blanks that fill the blocks that are looked at.
    fs::write(&path, [b"x".as_slice(), &[b' '; 1000], b"y\nz\n"].concat()).unwrap();
    assert_eq!((split.read_chunk(1001, 1, &mut buf).unwrap(), buf.as_slice()), (2, b" \n".as_slice()));
    fs::write(&path, [[b' '; 1001].as_slice(), b"y\nz\n"].concat()).unwrap();
    assert_eq!((split.read_chunk(1001, 1, &mut buf).unwrap(), buf.as_slice()), (2, b"y\n".as_slice()));
}

#[test]
fn errors_name_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let missing = FileSplit::open("in", &directory.path().join("none.ndjson")).unwrap_err();
    assert!(missing.message().contains("none.ndjson") && missing.actor() == Actor::User, "{missing}");
    let folder = FileSplit::open("in", directory.path()).unwrap_err();
    assert!(folder.message().contains("no regular file"), "{folder}");
}

#[test]
fn several_threads_read_at_once() {
    let content: Vec<u8> = (0..20_000).flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let (_directory, path) = file(&content);
    let split = FileSplit::open("in", &path).unwrap();
    thread::scope(|scope| {
        for max_bytes in [100, 1000, 4096] {
            let (split, content) = (&split, &content);
            scope.spawn(move || assert_eq!(&read_all(split, max_bytes), content));
        }
    });
}
