use std::time::Duration;

use streamjob_connectors::deliveries::{Outcome, Refusal};
use streamjob_connectors::webhook::{MAX_ANSWER_BYTES, Webhook};
use streamjob_core::Actor;

use crate::webhook_server::{Answer, Server, answer, batch, breaking_server, config, webhook};

/// What a server that always answers so makes of one attempt.
async fn outcome_of(given: Answer) -> Outcome {
    let server = Server::start(move |_, _| given.clone()).await;
    webhook(&server.url).deliver_batch(&batch("k")).await
}

#[tokio::test]
async fn a_batch_is_one_post_with_its_headers() {
    let server = Server::start(|_, _| answer(204)).await;
    assert_eq!(webhook(&server.url).deliver_batch(&batch("job/alerts/3/17")).await, Outcome::Delivered);
    let seen = &server.seen()[0];
    assert_eq!(seen.body, "[{\"batch\":\"job/alerts/3/17\"}]");
    assert_eq!(seen.header("idempotency-key"), "job/alerts/3/17");
    assert_eq!(seen.header("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("authorization"), "Bearer x");
    assert!(seen.header("user-agent").starts_with("streamjob/"));
}

#[tokio::test]
async fn overload_and_server_errors_are_retried() {
    for status in [408, 425, 429, 500, 502, 503, 504, 599] {
        let outcome = outcome_of(Answer { body: "busy", ..answer(status) }).await;
        let Outcome::Retry { after: None, reason } = outcome else { panic!("{status}: {outcome:?}") };
        assert!(reason.contains(&status.to_string()) && reason.contains("busy"), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
    }
}

#[tokio::test]
async fn retry_after_is_read_on_429_and_503() {
    for status in [429, 503] {
        let outcome = outcome_of(Answer { header: Some(("retry-after", "7")), ..answer(status) }).await;
        assert!(matches!(outcome, Outcome::Retry { after: Some(after), .. } if after == Duration::from_secs(7)), "{outcome:?}");
    }
}

#[tokio::test]
async fn other_answers_are_final() {
    for status in [304, 400, 401, 404, 409, 413, 422] {
        let outcome = outcome_of(Answer { body: "no such field", ..answer(status) }).await;
        assert!(matches!(&outcome, Outcome::Refused(Refusal::Batch { status: seen, .. }) if *seen == status), "{outcome:?}");
    }
    let moved = outcome_of(Answer { header: Some(("location", "https://example.com/")), ..answer(301) }).await;
    assert!(
        matches!(&moved, Outcome::Refused(Refusal::Batch { status: 301, reason }) if reason.contains("final URL")),
        "{moved:?}"
    );
}

#[tokio::test]
async fn no_server_a_reset_and_a_slow_one_are_retried() {
    let closed = {
        // Of the loopback's addresses one that no client gets, so that the port stays free.
        let listener = std::net::TcpListener::bind("127.99.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    let refused = webhook(&closed).deliver_batch(&batch("k")).await;
    assert!(matches!(&refused, Outcome::Retry { reason, .. } if reason.contains("refused")), "{refused:?}");

    for reply in [b"".as_slice(), b"HTTP/1.1 200", b"garbage\r\n\r\n"] {
        let broken = webhook(&breaking_server(reply).await).deliver_batch(&batch("k")).await;
        assert!(matches!(broken, Outcome::Retry { .. }), "{broken:?}");
    }

    let server = Server::start(|_, _| Answer { after: Duration::from_secs(60), ..answer(200) }).await;
    let impatient = streamjob_core::config::HttpSinkConfig { timeout_us: 300_000, ..config(&server.url) };
    let slow = Webhook::new(&impatient).unwrap().deliver_batch(&batch("k")).await;
    assert!(matches!(&slow, Outcome::Retry { reason, .. } if reason.contains("no answer within")), "{slow:?}");
}

#[tokio::test]
async fn the_status_counts_also_when_the_body_breaks_off_or_never_ends() {
    let url = breaking_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nha").await;
    assert_eq!(webhook(&url).deliver_batch(&batch("k")).await, Outcome::Delivered);
    let endless: &'static str = "x".repeat(10 * MAX_ANSWER_BYTES).leak();
    assert_eq!(outcome_of(Answer { body: endless, ..answer(200) }).await, Outcome::Delivered);
}

#[tokio::test]
async fn connections_are_kept() {
    let server = Server::start(|_, _| Answer { body: "thanks", ..answer(200) }).await;
    let webhook = webhook(&server.url);
    let start = std::time::Instant::now();
    for number in 0..1_000 {
        assert_eq!(webhook.deliver_batch(&batch(&number.to_string())).await, Outcome::Delivered);
    }
    // With delayed acknowledgements against Nagle's algorithm each would take 40 ms.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_wrong_configuration_is_named() {
    let error = |url: &str| Webhook::new(&config(url)).unwrap_err();
    for url in ["ftp://host/", "/alerts", "not a url", "http://user:pw@host/"] {
        let error = error(url);
        assert!(error.actor() == Actor::User && error.message().starts_with("http.url: "), "{error}");
    }
    assert!(!error("http://user:pw@host/").message().contains("pw"));
    for (name, value) in [("a b", "x"), ("Idempotency-Key", "x"), ("x-token", "line\nbreak")] {
        let mut config = config("http://localhost/");
        config.headers.insert(name.to_owned(), value.to_owned());
        let error = Webhook::new(&config).unwrap_err();
        assert!(error.message().starts_with(&format!("http.headers.{name}: ")), "{error}");
    }
    let timeless = streamjob_core::config::HttpSinkConfig { timeout_us: 0, ..config("http://localhost/") };
    assert!(Webhook::new(&timeless).unwrap_err().message().starts_with("http.timeout: "));
}

/// One of the addresses and headers that `streamjob check` judges, too.
#[derive(serde::Deserialize)]
struct Case {
    url: String,
    headers: std::collections::BTreeMap<String, String>,
    valid: bool,
}

#[test]
fn a_run_refuses_what_the_check_refuses() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../../../testdata/webhooks/cases.json")).unwrap();
    for case in cases {
        let mut config = config(&case.url);
        config.headers = case.headers;
        let made = Webhook::new(&config);
        assert_eq!(made.is_ok(), case.valid, "{} {:?}: {:?}", case.url, config.headers, made.err());
    }
}
