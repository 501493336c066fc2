//! `null-server`.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::server;
use crate::units;

/// Answers `http` like an engine that does nothing: what the generator itself can do
///
/// Counts the lines of each POST and answers 202 with them as accepted, without looking at them: the ceiling of what `http` can
/// measure on this machine. Expects rows as NDJSON.
///
/// Prints `READY http://ADDRESS` once it listens, and its summary (requests, rows) on SIGTERM, SIGINT or after --duration.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Address to listen on, as 127.0.0.1:8080; port 0 takes a free one
    #[arg(long)]
    listen: String,
    /// Ends by itself after this time
    #[arg(long, value_parser = units::duration)]
    duration: Option<Duration>,
}

pub fn run(options: &Options) -> Result<String, String> {
    let (mut requests, mut rows) = (0u64, 0u64);
    let mut body = Vec::new();
    server::serve(&options.listen, options.duration, |request, answer| {
        let accepted = memchr::memchr_iter(b'\n', request.body).count();
        requests += 1;
        rows += accepted as u64;
        body.clear();
        write!(body, "{{\"accepted\":{accepted},\"rejected\":0,\"errors\":[]}}").expect("memory takes every write");
        write!(answer, "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
            .expect("memory takes every write");
        answer.extend_from_slice(&body);
    })?;
    Ok(json!({ "requests": requests, "rows": rows }).to_string())
}
