//! The contract of `POST /ingest`.

use std::io::Write;

use serde_json::json;

use crate::support::{Job, Running, lines, wait_until};
use crate::web::send;

fn job() -> Job {
    Job::new().http_source()
}

fn processed(running: &Running) -> f64 {
    running.metrics().iter().filter(|(name, _)| name.starts_with("events_processed_total")).map(|(_, value)| value).sum()
}

#[test]
fn objects_arrays_and_lines_are_taken() {
    let job = job();
    let running = job.start();
    let one = r#"{"device_id":"a","timestamp":1000,"temperature":1.5}"#;
    let accepted = |n: u32| json!({"accepted": n, "rejected": 0, "errors": []});
    assert_eq!(running.post_json(one).json(), accepted(1));
    assert_eq!(running.post_json(&format!(" [{one},{one}]\n")).json(), accepted(2));
    assert_eq!(running.post("application/x-ndjson", &[], format!("{one}\n\n{one}").as_bytes()).json(), accepted(2));
    assert_eq!(running.post("application/json; charset=utf-8", &[], one.as_bytes()).status, 202);
    // Without a content type it is JSON.
    assert_eq!(send("POST", &format!("{}/ingest", running.url), &[], one.as_bytes()).status, 202);
    wait_until("all rows are processed", || processed(&running) == 7.0);
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.resumed), (7, 7, false));
}

#[test]
fn compressed_bodies_are_taken() {
    let job = job();
    let running = job.start();
    let body = lines(1000, 10);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::stream::encode_all(body.as_bytes(), 1).unwrap();
    for (encoding, compressed) in [("gzip", gzip), ("zstd", zstd)] {
        let answer = running.post("application/x-ndjson", &[("content-encoding", encoding)], &compressed);
        assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(1000)), "{encoding}");
        let answer = running.post("application/x-ndjson", &[("content-encoding", encoding)], b"not compressed");
        assert_eq!(answer.status, 400, "{encoding}");
    }
    assert_eq!(running.finish().unwrap().received, 2000);
}

#[test]
fn what_can_not_be_taken_is_told() {
    let job = job();
    let running = job.start();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);
    let cases: [Case<'_>; 9] = [
        ("application/json", &[], b"", 400),
        ("application/json", &[], b" \n", 400),
        ("application/json", &[], b"[1,", 400),
        ("application/json", &[], b"[]", 202),
        ("text/csv", &[], b"a,b", 415),
        ("application/json", &[("content-encoding", "br")], b"{}", 415),
        ("application/json", &[("idempotency-key", "")], b"{}", 400),
        ("application/json", &[], b"[{\"timestamp\":1}]", 400),
        ("application/x-ndjson", &[], b"nonsense\n", 400),
    ];
    for (content_type, headers, body, status) in cases {
        let answer = running.post(content_type, headers, body);
        assert_eq!(answer.status, status, "{} {}", String::from_utf8_lossy(body), answer.text());
        assert!(answer.json().is_object());
    }
    assert_eq!(running.post_json("[]").json(), json!({"accepted": 0, "rejected": 0, "errors": []}));
    let too_long = vec![b' '; (1 << 20) + 1];
    assert_eq!(running.post("application/json", &[], &too_long).status, 413);
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 8 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert_eq!(running.post("application/json", &[("content-encoding", "gzip")], &bomb).status, 413);
    let get = running.get("/ingest");
    assert_eq!((get.status, get.headers["allow"].as_str()), (405, "POST"));
    // Two rejected rows were journaled, and are dead letters once they are committed.
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.rejected), (2, 2));
    assert_eq!(job.dead_letters().len(), 2);
}

#[test]
fn malformed_rows_are_counted_and_leave_those_beside_them() {
    let job = job();
    let running = job.start();
    let (good, nan) = (r#"{"device_id":"a","timestamp":1}"#, r#"{"device_id":"a","timestamp":1,"temperature":NaN}"#);
    let answer = running.post_json(nan);
    let error = &answer.json()["errors"][0];
    assert_eq!((answer.status, answer.json()["rejected"].as_u64()), (400, Some(1)), "{}", answer.text());
    assert_eq!((error["row"].as_u64(), error["field"].as_str()), (Some(0), Some("")));
    let answer = running.post_json(&format!("[{good},{nan}, {good}]"));
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(2)), "{}", answer.text());
    assert_eq!(answer.json()["errors"][0]["row"], 1);
    let answer = running.post_json(&format!("[{good},{nan}, {good}"));
    assert_eq!((answer.status, answer.json()["error"].is_string()), (400, true), "{}", answer.text());
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected), (4, 2, 2));
    let letters = job.dead_letters();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter["row"] == nan));
}

/// A client that reads nothing before it has sent all meets no broken connection.
#[test]
fn a_body_that_is_not_read_is_taken_from_the_wire() {
    use std::io::{BufRead, BufReader};
    let job = job();
    let running = job.start();
    let body = vec![b' '; 8 << 20];
    for (path, content_type, status) in [("/ingest", "application/json", "413"), ("/ingest", "text/csv", "415")] {
        let mut stream = std::net::TcpStream::connect(running.url.strip_prefix("http://").unwrap()).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap_or_else(|error| panic!("{status}: {error}"));
        let mut first = String::new();
        BufReader::new(stream).read_line(&mut first).unwrap();
        assert!(first.contains(status), "{first}");
    }
    running.finish().unwrap();
}

#[test]
fn a_body_of_nonsense_is_refused_as_a_whole() {
    let job = job();
    let running = job.start();
    let answer = running.post("application/x-ndjson", &[], "x\n".repeat(1 << 18).as_bytes());
    let reason = answer.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 400);
    assert!(reason.starts_with("more than 20480 rows of the body are wrong"), "{reason}");
    assert_eq!(running.finish().unwrap().received, 0);
}

#[test]
fn rejected_rows_are_listed_up_to_a_bound() {
    let job = job();
    let running = job.start();
    let good = r#"{"device_id":"a","timestamp":1,"temperature":1}"#;
    let answer = running.post("application/x-ndjson", &[], format!("{}{good}\n", "{}\n".repeat(150)).as_bytes());
    let body = answer.json();
    assert_eq!((answer.status, &body["accepted"], &body["rejected"]), (202, &json!(1), &json!(150)));
    let errors = body["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[99]["row"]), (100, &json!(99)));
    assert!(errors[0]["field"].is_string() && errors[0]["reason"].is_string());
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected), (151, 1, 150));
}

#[test]
fn a_repeated_request_gets_its_first_answer_also_after_a_restart() {
    let job = job();
    let running = job.start();
    let body = r#"[{"device_id":"a","timestamp":1,"temperature":1},{"device_id":"a"}]"#;
    let post =
        |running: &Running, key: &str, body: &str| running.post("application/json", &[("idempotency-key", key)], body.as_bytes());
    let first = post(&running, "k-1", body);
    assert_eq!((first.status, first.json()["accepted"].as_u64()), (202, Some(1)));
    let repeat = post(&running, "k-1", body);
    assert_eq!((repeat.status, repeat.text()), (202, first.text()));
    assert_eq!(post(&running, "k-1", "[]").status, 422);
    assert_eq!((post(&running, "k-0", "[]").status, post(&running, "k-0", body).status), (202, 422));
    let refused = post(&running, "k-2", "[{}]");
    assert_eq!(refused.status, 400);
    // Once its home shard has committed, the answer comes from the store.
    wait_until("the ids are committed", || running.metrics()["streamjob_uncommitted_request_ids"] == 0.0);
    assert_eq!(post(&running, "k-1", body).text(), first.text());
    assert_eq!(running.finish().unwrap().received, 3);

    let running = job.start();
    let repeat = post(&running, "k-1", body);
    assert_eq!((repeat.status, repeat.text()), (202, first.text()));
    assert_eq!(post(&running, "k-1", "[]").status, 422);
    assert_eq!((post(&running, "k-2", "[{}]").status, post(&running, "k-2", "[{}]").text()), (400, refused.text()));
    let totals = running.finish().unwrap();
    assert_eq!((totals.received, totals.applied, totals.rejected, totals.resumed), (3, 1, 2, true));
}

#[test]
fn of_concurrent_requests_with_one_id_one_runs() {
    let job = job();
    let running = job.start();
    let body = lines(500, 5);
    std::thread::scope(|scope| {
        let send = || running.post("application/x-ndjson", &[("idempotency-key", "same")], body.as_bytes());
        let answers: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.join().unwrap()).collect();
        assert!(answers.iter().all(|answer| answer.status == 202 && answer.body == answers[0].body), "{answers:?}");
    });
    assert_eq!(running.finish().unwrap().received, 500);
}

/// Rows that come at the same time share a record of the journal; each gets the answer that it would get alone.
#[test]
fn single_rows_at_the_same_time_are_answered_one_by_one() {
    let job = job();
    let running = job.start();
    let bodies = [r#"{"device_id":"a","timestamp":1000,"temperature":1.5}"#, r#"{"timestamp":1000}"#, r#"{"device_id":"#];
    let alone = bodies.map(|body| running.post_json(body));
    assert_eq!(alone.each_ref().map(|answer| answer.status), [202, 400, 400]);
    assert_eq!(alone[1].json()["rejected"], json!(1));
    // Mostly good ones, so that there are groups with a bad one and groups without.
    let which = |client: usize, round: usize| if (client + round).is_multiple_of(13) { 1 + round % 2 } else { 0 };
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (running, alone) = (&running, &alone);
            scope.spawn(move || {
                for round in 0..40 {
                    let which = which(client, round);
                    let answer = running.post_json(bodies[which]);
                    assert_eq!((answer.status, answer.text()), (alone[which].status, alone[which].text()));
                }
            });
        }
    });
    let totals = running.finish().unwrap();
    assert_eq!(totals.received, 3 + 16 * 40);
    assert_eq!(totals.received, totals.applied + totals.rejected);
}

#[test]
fn full_queues_are_429_and_lose_nothing() {
    // Nobody answers at the webhook, so that its outbox fills and the workers take no more rows.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", dead.local_addr().unwrap());
    let job =
        Job::new().http_source().webhook("events", "exactly-once", &url).with("/shards", 1).with("/ingest/max_wait_us", 50_000);
    let job = job.with("/ingest/max_body_bytes", 16 << 20);
    let running = job.start();
    let body = lines(100_000, 10);
    let mut accepted = 0;
    let refused = (0..60).find_map(|_| {
        let answer = running.post("application/x-ndjson", &[], body.as_bytes());
        match answer.status {
            202 => {
                accepted += 100_000;
                None
            }
            _ => Some(answer),
        }
    });
    let refused = refused.expect("the queues are full some time");
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    // A blocked worker still answers questions and stops.
    assert_eq!(running.get("/v1/keys/device-0/stats").status, 200);
    let begun = std::time::Instant::now();
    let totals = running.finish().unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(totals.received, accepted);
    assert!(totals.applied < accepted, "{totals:?}");
    // What was in the queues is in the journal: the next start has it all, once.
    let job = job.with("/sinks", json!([]));
    let running = job.start();
    assert_eq!(running.metrics()["events_received_total"], accepted as f64);
    wait_until("all rows are processed", || processed(&running) == accepted as f64);
    assert_eq!(running.finish().unwrap().received, accepted);
    drop(dead);
}

#[test]
fn an_id_outlives_a_client_that_goes_away() {
    const REQUESTS: u64 = 40;
    let job = job();
    let running = job.start();
    let host = running.url.strip_prefix("http://").unwrap();
    let body = lines(100, 5);
    for number in 0..REQUESTS {
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        let head = format!(
            "POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\nidempotency-key: gone-{number}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        // Gone at once, or just before the answer.
        std::thread::sleep(std::time::Duration::from_micros(100 * (number % 20)));
        drop(stream);
        let key = format!("gone-{number}");
        let answer = running.post("application/x-ndjson", &[("idempotency-key", &key)], body.as_bytes());
        assert_eq!(answer.json()["accepted"], json!(100));
    }
    assert_eq!(running.finish().unwrap().received, REQUESTS * 100);
}

#[test]
fn a_job_without_an_http_source_takes_no_rows() {
    let job = Job::new().file_source(0.0);
    std::fs::write(job.path("data.ndjson"), "").unwrap();
    let running = job.start();
    assert_eq!(running.post_json("[]").status, 404);
    assert_eq!(running.get("/readyz").status, 200);
    running.finish().unwrap();
}
