//! `receive`: a web server that only measures.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::server::{self, Request};
use crate::summary::Latencies;
use crate::units;

/// Receives webhooks and measures how old each row is when it arrives
///
/// Takes JSON arrays of rows by POST, answers 200, and records for each row the time from the row's `sent_us` (microseconds of the
/// wall clock) until its request was complete.
///
/// Prints `READY http://ADDRESS` once it listens, and its summary on SIGTERM, SIGINT or after --duration. A row whose `_id` came
/// before is a duplicate and not measured; a request whose Idempotency-Key came before is a repeated one, and its rows are
/// ignored, as a receiver is meant to. longest_gap_us is the longest time between two requests with new rows.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Address to listen on, as 127.0.0.1:9000; port 0 takes a free one
    #[arg(long)]
    listen: String,
    /// Ends by itself after this time
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
    /// Rows that come this long after the first one are measured; earlier ones only counted
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    warmup: Duration,
    /// The member with the moment at which the row should have been sent
    #[arg(long, default_value = "sent_us")]
    sent_field: String,
    /// Answers each N-th request with 503 and forgets it, to see the sender repeat it; 0 is never
    #[arg(long, default_value_t = 0)]
    refuse_every: u64,
}

pub fn run(options: &Options) -> Result<String, String> {
    let mut rows = Rows::new(options);
    server::serve(&options.listen, options.duration, |request, answer| {
        rows.requests += 1;
        if options.refuse_every > 0 && rows.requests.is_multiple_of(options.refuse_every) {
            rows.refused_requests += 1;
            answer.extend_from_slice(BUSY);
        } else {
            answer.extend_from_slice(OK);
            rows.take(request);
        }
    })?;
    Ok(rows.summary().to_string())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// What came in all.
struct Rows<'a> {
    options: &'a Options,
    latencies: Latencies,
    /// Hashes of the ids and keys that came: a collision among a million is one in 37 million.
    ids: HashSet<u64>,
    keys: HashSet<u64>,
    hasher: RandomState,
    requests: u64,
    refused_requests: u64,
    repeated_requests: u64,
    malformed_requests: u64,
    rows: u64,
    duplicates: u64,
    without_sent: u64,
    first_row_us: Option<i64>,
    last_row_us: Option<i64>,
    longest_gap_us: i64,
}

impl<'a> Rows<'a> {
    fn new(options: &'a Options) -> Rows<'a> {
        Rows {
            options,
            latencies: Latencies::new(),
            ids: HashSet::new(),
            keys: HashSet::new(),
            hasher: RandomState::new(),
            requests: 0,
            refused_requests: 0,
            repeated_requests: 0,
            malformed_requests: 0,
            rows: 0,
            duplicates: 0,
            without_sent: 0,
            first_row_us: None,
            last_row_us: None,
            longest_gap_us: 0,
        }
    }

    fn take(&mut self, request: &Request) {
        let Request { head, body, received_us } = *request;
        if header(head, b"idempotency-key:").is_some_and(|key| !self.keys.insert(self.hasher.hash_one(key))) {
            self.repeated_requests += 1;
            return;
        }
        let Ok(rows) = serde_json::from_slice::<Vec<Map<String, Value>>>(body) else {
            self.malformed_requests += 1;
            return;
        };
        let before = self.rows;
        rows.iter().for_each(|row| self.take_row(row, received_us));
        if self.rows > before {
            let last = self.last_row_us.replace(received_us).unwrap_or(received_us);
            self.longest_gap_us = self.longest_gap_us.max(received_us - last);
        }
    }

    fn take_row(&mut self, row: &Map<String, Value>, received_us: i64) {
        if row.get("_id").is_some_and(|id| !self.ids.insert(self.hasher.hash_one(id.to_string()))) {
            self.duplicates += 1;
            return;
        }
        self.rows += 1;
        let first = *self.first_row_us.get_or_insert(received_us);
        let Some(sent) = row.get(&self.options.sent_field).and_then(Value::as_f64) else {
            self.without_sent += 1;
            return;
        };
        if received_us - first >= self.options.warmup.as_micros() as i64 {
            self.latencies.record(Duration::from_micros((received_us - sent as i64).max(0) as u64));
        }
    }

    fn summary(&self) -> Value {
        let mut summary = Map::new();
        let mut put = |name: &str, value: Value| summary.insert(name.to_owned(), value);
        put("rows", self.rows.into());
        put("duplicates", self.duplicates.into());
        put("requests", self.requests.into());
        put("repeated_requests", self.repeated_requests.into());
        put("refused_requests", self.refused_requests.into());
        put("malformed_requests", self.malformed_requests.into());
        put("rows_without_sent_us", self.without_sent.into());
        put("first_row_us", self.first_row_us.into());
        put("last_row_us", self.last_row_us.into());
        put("longest_gap_us", self.longest_gap_us.into());
        self.latencies.put(&mut summary);
        Value::Object(summary)
    }
}

/// The value of a header; `name` is in lower case and has its colon.
fn header<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name))?;
    Some(line[name.len()..].trim_ascii())
}
