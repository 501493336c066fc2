//! The subcommands as processes, against each other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const BIN: &str = env!("CARGO_BIN_EXE_streamjob-bench");

/// A server that was told to end by itself, and the address that it printed.
struct Server {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child =
            Command::new(BIN).args(arguments).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let address = ready.trim().strip_prefix("READY http://").unwrap().to_owned();
        Server { child, stdout, address }
    }

    fn summary(mut self) -> Value {
        let mut last = String::new();
        self.stdout.read_line(&mut last).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&last).unwrap()
    }

    /// Ends it as a driver does.
    fn terminate(self) -> Value {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.summary()
    }
}

fn http(server: &Server, arguments: &[&str]) -> Value {
    let url = format!("http://{}/ingest", server.address);
    let output = Command::new(BIN).args(["http", "--url", &url, "--duration", "300ms"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_row_that_a_server_accepted_is_counted() {
    for arguments in [
        ["--events-per-request", "1000", "--connections", "3"],
        ["--events-per-request", "1", "--connections", "100"],
        ["--events-per-request", "7", "--pipeline", "9"],
        ["--events-per-request", "5", "--rate", "10k"],
    ] {
        let server = Server::start(&["null-server"]);
        let client = http(&server, &arguments);
        let server = server.terminate();
        assert!(client["accepted_rows"].as_u64() > Some(100), "{client}");
        assert_eq!(client["accepted_rows"], server["rows"], "{arguments:?}");
        assert_eq!(client["status_202"], server["requests"]);
        assert_eq!(client["unanswered"], 0);
        assert!(client["p50_us"].as_u64() <= client["p99_us"].as_u64());
    }
}

#[test]
fn an_open_load_sends_what_it_was_told_and_its_spikes() {
    let server = Server::start(&["null-server"]);
    let client = http(&server, &["--events-per-request", "10", "--rate", "20k", "--spikes-per-s", "100"]);
    assert_eq!(client["accepted_rows"], 6000);
    assert_eq!(client["spikes_accepted"], 30);
    server.terminate();
}

#[test]
fn a_server_that_ends_leaves_unanswered_requests_and_no_endless_run() {
    let server = Server::start(&["null-server", "--duration", "100ms"]);
    let client = http(&server, &["--events-per-request", "1", "--drain", "1s"]);
    assert!(client["accepted_rows"].as_u64() > Some(0));
    let rows = server.summary()["rows"].as_u64().unwrap();
    let accepted = client["accepted_rows"].as_u64().unwrap();
    assert!((accepted..=accepted + client["unanswered"].as_u64().unwrap()).contains(&rows), "{client} {rows}");
}

fn post(connection: &mut TcpStream, key: &str, body: &str) -> String {
    let request = format!("POST / HTTP/1.1\r\nIdempotency-Key: {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // In two parts, as a network may.
    let (first, second) = request.as_bytes().split_at(request.len() / 2);
    connection.write_all(first).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    connection.write_all(second).unwrap();
    let mut answer = [0; 1000];
    let read = connection.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap().to_owned()
}

#[test]
fn the_receiver_counts_rows_duplicates_and_repeats() {
    let server = Server::start(&["receive", "--refuse-every", "3"]);
    let mut connection = TcpStream::connect(&server.address).unwrap();
    let now_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    let rows = format!(r#"[{{"_id":"0:1","sent_us":{now_us}}},{{"_id":"0:2","sent_us":{now_us}}}]"#);
    assert_eq!(post(&mut connection, "a", &rows), "HTTP/1.1 200 OK");
    assert_eq!(post(&mut connection, "a", &rows), "HTTP/1.1 200 OK");
    assert_eq!(post(&mut connection, "b", &rows), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(post(&mut connection, "b", r#"[{"_id":"0:2"},{"_id":"0:3"}]"#), "HTTP/1.1 200 OK");
    let summary = server.terminate();
    for (name, value) in [("rows", 3), ("duplicates", 1), ("repeated_requests", 1), ("refused_requests", 1), ("requests", 4)] {
        assert_eq!(summary[name], value, "{name} in {summary}");
    }
    assert_eq!(summary["rows_without_sent_us"], 1);
    assert!(summary["p50_us"].as_u64() < Some(5_000_000), "{summary}");
}
