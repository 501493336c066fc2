//! A state that is older than what its sinks hold.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{Job, line, wait_until};
use crate::web::Receiver;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Sends rows of one key that close a window each, and waits until their windows and events are out.
fn send(job: &Job, receiver: &Receiver, from: i64, count: i64) {
    let running = job.start();
    let (sent, out) = (receiver.rows_once().len(), job.output("out").len());
    running.post_lines(&(from..from + count).map(|row| line("a", row * 10_000, row)).collect::<String>());
    wait_until("the messages are out", || receiver.rows_once().len() == sent + count as usize);
    wait_until("the windows are out", || job.output("out").len() >= out + count as usize - 1);
    running.finish().unwrap();
}

fn names(job: &Job) -> BTreeSet<String> {
    let entries = std::fs::read_dir(job.path("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn a_restored_state_begins_a_new_output_incarnation() {
    let receiver = Receiver::start(|_| 200);
    let job = Job::new().http_source().file_sink("per_10s", "out").webhook("events", "exactly-once", &receiver.url);
    send(&job, &receiver, 0, 10);
    copy(&job.state(), &job.path("backup"));
    send(&job, &receiver, 10, 10);
    let (before, keys_before) = (names(&job), keys(&receiver));
    let content = |name: &String| std::fs::read(job.path("out").join(name)).unwrap();
    let contents: Vec<Vec<u8>> = before.iter().map(content).collect();

    std::fs::remove_dir_all(job.state()).unwrap();
    copy(&job.path("backup"), &job.state());
    // Other rows under the numbers of those that were lost: a receiver that knows the keys must take them all.
    send(&job, &receiver, 20, 10);
    let new: Vec<String> = names(&job).difference(&before).cloned().collect();
    assert!(!new.is_empty() && new.iter().all(|name| name.ends_with("-r1.ndjson")), "{new:?}");
    assert_eq!(before.iter().map(content).collect::<Vec<_>>(), contents, "nothing is overwritten");
    let keys_after: BTreeSet<String> = keys(&receiver).difference(&keys_before).cloned().collect();
    assert!(!keys_after.is_empty());
    let new_rows =
        receiver.seen().into_iter().filter(|seen| keys_after.contains(seen.key())).map(|seen| seen.rows.len()).sum::<usize>();
    assert_eq!(new_rows, 10);

    // It stays so, and is told.
    let running = job.start();
    assert_eq!(running.metrics()["streamjob_output_incarnation"], 1.0);
    running.finish().unwrap();
    send(&job, &receiver, 30, 10);
    assert!(names(&job).iter().all(|name| !name.contains("-r2")));
    // And once more.
    std::fs::remove_dir_all(job.state()).unwrap();
    copy(&job.path("backup"), &job.state());
    send(&job, &receiver, 40, 10);
    assert!(names(&job).iter().any(|name| name.ends_with("-r2.ndjson")));
}

fn keys(receiver: &Receiver) -> BTreeSet<String> {
    receiver.seen().iter().map(|seen| seen.key().to_owned()).collect()
}
