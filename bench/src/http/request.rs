//! Requests that are built once and changed in place.

use std::time::{Duration, Instant};

use super::{Format, Options};
use crate::clock::Moment;
use crate::rows::{Devices, Noise, RowLayout, below, microseconds, milliseconds};

/// Usual temperatures, in hundredths: 20.00 to 24.99, so that no usual row is three deviations from the mean.
const USUAL_TEMPERATURE: u16 = 2000;
const USUAL_SPREAD: u16 = 500;
/// Far from every mean.
const SPIKE_TEMPERATURE: u16 = 9999;

/// What all connections' requests have in common and take from in turn: devices and spikes.
pub struct Source {
    layout: RowLayout,
    devices: Devices,
    device_count: u64,
    /// Rows since the devices were last shifted.
    rows: u64,
    spikes: Option<Spikes>,
}

struct Spikes {
    interval: Duration,
    next: Instant,
}

impl Source {
    pub fn new(options: &Options, start: Instant) -> Source {
        let spikes = (options.spikes_per_s > 0.0).then(|| Spikes {
            interval: Duration::from_secs_f64(1.0 / options.spikes_per_s),
            next: start + options.spikes_after,
        });
        let devices = options.devices as u32;
        let layout = RowLayout::new(devices, options.integers, options.sent_us || spikes.is_some());
        Source { layout, devices: Devices::new(devices), device_count: options.devices, rows: 0, spikes }
    }

    /// Whether a request of this time is to have a spike.
    fn take_spike(&mut self, intended: Instant) -> bool {
        let Some(spikes) = self.spikes.as_mut().filter(|spikes| spikes.next <= intended) else { return false };
        spikes.next += spikes.interval;
        true
    }
}

/// The requests that one connection can send together: each a head and its rows.
pub struct Requests {
    bytes: Vec<u8>,
    /// Length of one request.
    len: usize,
    /// Where the first row begins in a request.
    rows_at: usize,
    rows: usize,
    /// The usual temperature of each request's first row, which a spike takes the place of.
    first_temperature: Vec<u16>,
}

impl Requests {
    pub fn new(options: &Options, host: &str, path: &str, source: &Source, seed: u64) -> Requests {
        let rows = options.events_per_request as usize;
        let (body, opening) = body(&source.layout, options.format, rows);
        let head = head(options, host, path, body.len());
        let mut bytes = head.clone();
        bytes.extend_from_slice(&body);
        let len = bytes.len();
        let mut bytes = bytes.repeat(options.pipeline);
        let rows_at = head.len() + opening;
        let mut first_temperature = Vec::with_capacity(options.pipeline);
        let mut noise = Noise::new(seed);
        for number in 0..options.pipeline {
            for (place, row) in rows_mut(&mut bytes, len * number + rows_at, rows, &source.layout).enumerate() {
                let noise = noise.next();
                let temperature = USUAL_TEMPERATURE + below(noise as u32, USUAL_SPREAD);
                source.layout.set_temperature(row, temperature);
                source.layout.set_humidity(row, 100 + below((noise >> 32) as u32, 900));
                if place == 0 {
                    first_temperature.push(temperature);
                }
            }
        }
        Requests { bytes, len, rows_at, rows, first_temperature }
    }

    /// Makes the request `number` one for `intended`, at most `now`; returns whether it has a spike.
    pub fn prepare(&mut self, number: usize, source: &mut Source, now: &Moment, intended: Instant) -> bool {
        let wall_us = now.wall_us_at(intended);
        let (time, sent) = (milliseconds(wall_us / 1000), microseconds(wall_us));
        let spike = source.take_spike(intended);
        let temperature = if spike { SPIKE_TEMPERATURE } else { self.first_temperature[number] };
        let Source { layout, devices, .. } = source;
        let at = self.len * number + self.rows_at;
        layout.set_temperature(&mut self.bytes[at..at + layout.len()], temperature);
        for row in rows_mut(&mut self.bytes, at, self.rows, layout) {
            layout.set_device(row, devices.next());
            layout.set_time(row, &time);
            layout.set_sent(row, &sent);
        }
        source.rows += self.rows as u64;
        if source.rows >= source.device_count {
            // So that a device is not in the same place, with the same value, in every round.
            source.rows -= source.device_count;
            source.devices.skip(1);
        }
        spike
    }

    /// The first `count` requests, as they are sent.
    pub fn bytes(&self, count: usize) -> &[u8] {
        &self.bytes[..self.len * count]
    }
}

fn rows_mut<'a>(bytes: &'a mut [u8], at: usize, rows: usize, layout: &RowLayout) -> impl Iterator<Item = &'a mut [u8]> {
    bytes[at..at + rows * layout.len()].chunks_exact_mut(layout.len())
}

/// The rows with what encloses them, and where the first one begins. Each row's newline takes its separator's place.
fn body(layout: &RowLayout, format: Format, rows: usize) -> (Vec<u8>, usize) {
    let mut body = layout.template().repeat(rows);
    if format == Format::Ndjson || rows == 1 {
        return (body, 0);
    }
    for newline in (layout.len() - 1..body.len()).step_by(layout.len()) {
        body[newline] = b',';
    }
    *body.last_mut().expect("there is at least one row") = b']';
    body.insert(0, b'[');
    (body, 1)
}

fn head(options: &Options, host: &str, path: &str, body_len: usize) -> Vec<u8> {
    let content_type = match options.format {
        Format::Ndjson => "application/x-ndjson",
        Format::Json => "application/json",
    };
    let authorization = options.authorization.as_ref().map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n{authorization}Content-Length: {body_len}\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Cli::parse_from([&["test", "--url", "http://h:1/"], arguments].concat()).options
    }

    /// The rows of each of three successive requests.
    fn three_requests(arguments: &[&str]) -> Vec<Vec<Value>> {
        let options = options(arguments);
        let mut source = Source::new(&options, Instant::now());
        let mut requests = Requests::new(&options, "h:1", "/", &source, 0);
        let one = |_| {
            let now = Moment::now();
            requests.prepare(0, &mut source, &now, now.instant);
            let text = std::str::from_utf8(requests.bytes(1)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            if options.format == Format::Json {
                let body: Value = serde_json::from_str(body).unwrap();
                return body.as_array().cloned().unwrap_or_else(|| vec![body]);
            }
            body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        (0..3).map(one).collect()
    }

    #[test]
    fn requests_are_valid_in_every_format() {
        for (arguments, rows) in [
            (["--format", "ndjson", "--events-per-request", "50"], 50),
            (["--format", "json", "--events-per-request", "50"], 50),
            (["--format", "json", "--events-per-request", "1"], 1),
        ] {
            assert!(three_requests(&arguments).iter().all(|request| request.len() == rows));
        }
    }

    #[test]
    fn a_spike_is_one_row_and_the_next_request_is_usual_again() {
        let requests = three_requests(&["--spikes-per-s", "0.001", "--events-per-request", "3"]);
        let spikes = |rows: &Vec<Value>| rows.iter().filter(|row| row["temperature"].as_f64() == Some(99.99)).count();
        assert_eq!(requests.iter().map(spikes).collect::<Vec<_>>(), [1, 0, 0]);
        assert!(requests.iter().flatten().all(|row| row["sent_us"].as_i64() > Some(1_700_000_000_000_000)));
    }

    #[test]
    fn a_device_comes_in_changing_places() {
        let requests = three_requests(&["--devices", "4", "--events-per-request", "4"]);
        let first: Vec<&Value> = requests.iter().map(|rows| &rows[0]["device_id"]).collect();
        assert!(first[0] != first[1] && first[1] != first[2]);
    }
}
