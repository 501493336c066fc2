//! The control interface: only with its token, true about the run, and a checkpoint that has committed when it answers.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Job, Running, SECOND_US};
use crate::web::{Answer, send};

const TOKEN: &str = "a-control-token";

fn start(job: &Job) -> Running {
    job.start_with(|options| options.control_token = Some(Arc::from(TOKEN)))
}

fn ask(running: &Running, method: &str, path: &str) -> Answer {
    send(method, &format!("{}{path}", running.url), &[("authorization", &format!("Bearer {TOKEN}"))], b"")
}

#[test]
fn control_needs_its_token_and_is_not_there_without_one() {
    let job = Job::new().http_source();
    let running = job.start();
    assert_eq!(running.get("/v1/control/status").status, 404);
    assert!(running.get("/openapi.json").json()["paths"].get("/v1/control/status").is_none());
    running.finish().unwrap();

    let running = start(&job);
    let refused = running.get("/v1/control/status");
    assert_eq!(refused.status, 401);
    assert!(refused.json()["error"].as_str().unwrap().contains("control token"));
    let wrong = send("POST", &format!("{}/v1/control/checkpoint", running.url), &[("authorization", "Bearer guess")], b"");
    assert_eq!(wrong.status, 401);
    assert_eq!(ask(&running, "GET", "/v1/control/checkpoint").status, 405);
    assert!(running.get("/openapi.json").json()["paths"].get("/v1/control/status").is_some());
    running.finish().unwrap();
}

#[test]
fn a_token_that_changes_in_its_file_is_taken_over() {
    let job = Job::new().http_source();
    let file = job.state().with_file_name("token");
    std::fs::write(&file, TOKEN).unwrap();
    let running = job.start_with(|options| {
        options.control_token = Some(Arc::from(TOKEN));
        options.control_token_file = Some(file.clone());
    });
    let with = |token: &str| {
        let bearer = format!("Bearer {token}");
        send("GET", &format!("{}/v1/control/status", running.url), &[("authorization", &bearer)], b"").status
    };
    assert_eq!(with(TOKEN), 200);
    std::fs::write(&file, "another-token\n").unwrap();
    assert_eq!(with("another-token"), 200, "the file is read again");
    assert_eq!(with(TOKEN), 401, "the old one is of no use any more");
    assert_eq!(with("another-token"), 200);
    running.finish().unwrap();
}

#[test]
fn the_status_says_how_the_run_is() {
    let job = Job::new().http_source();
    let running = start(&job);
    running.post_lines("{\"device_id\":\"a\",\"timestamp\":1700000000000,\"temperature\":1}\n");
    let status = ask(&running, "GET", "/v1/control/status").json();
    assert_eq!(status["name"], "test");
    assert_eq!(status["phase"], "running");
    assert_eq!(status["shards"], 4);
    assert_eq!((&status["blocked_shards"], &status["outputs_may_repeat"]), (&json!(0), &json!(false)));
    assert_eq!(status["received"], 1);
    assert!(status["started_at"].as_str().unwrap().ends_with('Z'));
    running.finish().unwrap();
}

#[test]
fn a_checkpoint_has_committed_when_it_answers() {
    // No shard's turn comes within the test.
    let job = Job::new().http_source().file_sink("per_10s", "out").with("/checkpoint/interval_us", 3600 * SECOND_US);
    let running = start(&job);
    let rows = |second: i64| -> String {
        (0..20).map(|key| format!("{{\"device_id\":\"k{key}\",\"timestamp\":{second}000,\"temperature\":{key}}}\n")).collect()
    };
    running.post_lines(&rows(1_700_000_000));
    running.post_lines(&rows(1_700_000_010));
    crate::support::wait_until("all rows are applied", || ask(&running, "GET", "/v1/control/status").json()["applied"] == 40);
    assert!(job.output("out").is_empty(), "no commit has published anything");
    let answer = ask(&running, "POST", "/v1/control/checkpoint");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["number"].as_u64().unwrap() >= 1);
    assert_eq!(job.output("out").len(), 20, "the closed windows are visible");
    let last = ask(&running, "GET", "/v1/control/status").json()["last_checkpoint"].clone();
    assert!(last["completed_at"].is_string() && last["duration_s"].is_number(), "{last}");
    // Nothing changed since: complete at once.
    assert_eq!(ask(&running, "POST", "/v1/control/checkpoint").json().get("error"), None::<&Value>);
    running.finish().unwrap();
}
