//! Queries by REST, and what the metrics say.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Job, Running, as_windows, events, line, lines, model, wait_until};

fn started(events: usize, keys: usize) -> (Job, Running) {
    let job = Job::new().http_source();
    let running = job.start();
    running.post_lines(&lines(events, keys));
    let processed = |running: &Running| running.metrics()["events_processed_total{outcome=\"applied\"}"];
    wait_until("all rows are processed", || processed(&running) == events as f64);
    (job, running)
}

fn pages(running: &Running, path: &str, limit: usize) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = running.get(&format!("{path}limit={limit}{cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        rows.extend(items.iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[test]
fn statistics_of_a_key() {
    let (job, running) = started(1000, 10);
    let stats = running.get("/v1/keys/device-3/stats").json();
    let values: Vec<f64> =
        events(1000, 10).iter().filter(|(key, ..)| key == "device-3").map(|(.., value)| *value as f64).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    assert_eq!((&stats["key"], &stats["rows"]), (&json!("device-3"), &json!(100)));
    let field = &stats["fields"]["temperature"];
    assert_eq!(field["count"], json!(100));
    assert!((field["mean"].as_f64().unwrap() - mean).abs() < 1e-9, "{field}");
    assert_eq!(field["max"].as_f64(), values.iter().copied().reduce(f64::max));
    assert_eq!(field["last"].as_f64(), values.last().copied());
    assert_eq!(running.get("/v1/keys/nobody/stats").status, 404);
    running.finish().unwrap();
    // Also from the store.
    let running = job.start();
    assert_eq!(running.get("/v1/keys/device-3/stats").json(), stats);
    running.finish().unwrap();
}

#[test]
fn closed_windows_of_a_key_come_in_pages() {
    let (job, running) = started(10_000, 10);
    let expected: Vec<_> = {
        // The last window of the 1000 s is open still.
        let of_key = |((key, start), _): &((String, i64), _)| key == "device-7" && *start < 990_000;
        model(&events(10_000, 10)).into_iter().filter(of_key).collect()
    };
    for limit in [1, 7, 99, 1000] {
        wait_until("the windows are closed", || {
            pages(&running, "/v1/keys/device-7/windows?window=per_10s&", limit).len() == expected.len()
        });
        let rows = pages(&running, "/v1/keys/device-7/windows?", limit);
        assert_eq!(as_windows(&rows).into_iter().collect::<Vec<_>>(), expected, "limit {limit}");
    }
    let some = "/v1/keys/device-7/windows?from=1970-01-01T00:01:40Z&to=1970-01-01T00:02:00Z&";
    assert_eq!(pages(&running, some, 10).len(), 2);
    for wrong in ["window=none", "limit=0", "limit=100000", "from=yesterday", "cursor=x", "unknown=1", "limit=x"] {
        let answer = running.get(&format!("/v1/keys/device-7/windows?{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(running.get("/v1/keys/nobody/windows").status, 404);
    running.finish().unwrap();
    let running = job.start();
    assert_eq!(pages(&running, "/v1/keys/device-7/windows?", 13).len(), expected.len());
    running.finish().unwrap();
}

#[test]
fn the_latest_windows_of_all_keys_come_in_pages() {
    let (_job, running) = started(10_000, 50);
    let expected = model(&events(10_000, 50)).into_iter().filter(|((_, start), _)| *start == 980_000).count();
    for limit in [1, 7, 50, 1000] {
        let path = "/v1/windows/latest?";
        wait_until("the windows are closed", || pages(&running, path, limit).len() == expected);
        let rows = pages(&running, path, limit);
        let keys: BTreeSet<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
        assert_eq!(keys.len(), expected, "limit {limit}");
        assert!(rows.iter().all(|row| row["window_start"] == "1970-01-01T00:16:20Z"), "{}", rows[0]);
    }
    for wrong in ["window=none", "limit=0", "cursor=x", "from=1970-01-01T00:00:00Z", "unknown=1"] {
        assert_eq!(running.get(&format!("/v1/windows/latest?{wrong}")).status, 400, "{wrong}");
    }
    running.finish().unwrap();
}

#[test]
fn the_ledger_adds_up_over_restarts() {
    let job = Job::new().http_source().with(
        "/where",
        json!({
            "kind": "call", "function": "ge",
            "args": [{"kind": "column", "name": "temperature"}, {"kind": "literal", "value": 0.0}],
        }),
    );
    let running = job.start();
    running.post_lines(&lines(2000, 7));
    // Late, filtered, rejected.
    running.post_lines(&(line("device-1", 1, 5) + &line("device-1", 200_000, -1) + "{}\n"));
    let sum = |running: &Running| -> f64 {
        let metrics = running.metrics();
        let outcomes: Vec<_> = metrics.iter().filter(|(name, _)| name.starts_with("events_processed_total")).collect();
        assert_eq!(outcomes.len(), 6, "{outcomes:?}");
        outcomes.into_iter().map(|(_, value)| value).sum()
    };
    wait_until("all rows are processed", || sum(&running) == 2003.0);
    let metrics = running.metrics();
    assert_eq!(metrics["events_received_total"], 2003.0);
    for (outcome, rows) in [("applied", 2000.0), ("late", 1.0), ("filtered", 1.0), ("rejected", 1.0), ("failed", 0.0)] {
        assert_eq!(metrics[&format!("events_processed_total{{outcome=\"{outcome}\"}}")], rows, "{outcome}");
    }
    running.finish().unwrap();
    let running = job.start();
    assert_eq!(running.metrics()["events_received_total"], 2003.0);
    assert_eq!(sum(&running), 2003.0);
    running.post_lines(&line("device-1", 210_000, 5));
    wait_until("it is processed", || sum(&running) == 2004.0);
    running.finish().unwrap();
}

#[test]
fn the_bearer_token_and_origins_are_asked_for() {
    let job =
        Job::new().http_source().with("/rest/bearer_token", "secret").with("/rest/cors_origins", json!(["https://a.example"]));
    let running = job.start();
    running.post_lines(&lines(10, 1));
    wait_until("the key is known", || {
        let url = format!("{}/v1/keys/device-0/stats", running.url);
        crate::web::send("GET", &url, &[("authorization", "Bearer secret")], b"").status == 200
    });
    let url = format!("{}/v1/keys/device-0/stats", running.url);
    assert_eq!(running.get("/v1/keys/device-0/stats").status, 401);
    assert_eq!(crate::web::send("GET", &url, &[("authorization", "Bearer secrex")], b"").status, 401);
    let answer = crate::web::send("OPTIONS", &url, &[("origin", "https://a.example")], b"");
    assert_eq!((answer.status, answer.headers["access-control-allow-origin"].as_str()), (204, "https://a.example"));
    let other = crate::web::send("GET", &url, &[("origin", "https://b.example"), ("authorization", "Bearer secret")], b"");
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    assert_eq!(running.get("/metrics").status, 200);
    assert_eq!(running.get("/healthz").status, 200);
    running.finish().unwrap();
}

#[test]
fn what_cannot_be_asked_is_answered_in_json() {
    let job = Job::new().http_source();
    let running = job.start();
    for path in ["/v1/keys/%FF/stats", "/v1/keys/%FF/windows"] {
        let answer = running.get(path);
        assert_eq!((answer.status, answer.json()["error"].is_string()), (400, true), "{path}: {}", answer.text());
    }
    for path in ["/v1/keys/b/stats", "/v1/windows/latest", "/metrics"] {
        let answer = crate::web::send("DELETE", &format!("{}{path}", running.url), &[], b"");
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET,HEAD"), "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }
    running.finish().unwrap();
}

#[test]
fn the_document_names_every_path() {
    let job = Job::new().http_source();
    let running = job.start();
    let document = running.get("/openapi.json").json();
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["/ingest", "/v1/keys/{key}/stats", "/v1/keys/{key}/windows", "/v1/windows/latest"];
    assert_eq!(paths, BTreeSet::from(expected));
    assert_eq!(running.get("/nothing").status, 404);
    running.finish().unwrap();
}
