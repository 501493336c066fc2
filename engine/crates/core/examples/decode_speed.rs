//! Prints the nanoseconds that the decoder needs for a row of several shapes, best of some rounds, on one core.
//! An argument selects the shapes whose name contains it.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::fmt::Write;
use std::time::Instant;

use streamjob_core::config::SchemaConfig;
use streamjob_core::decode::{Decoder, Positions};

const ROWS: usize = 200_000;
const ROUNDS: usize = 15;
const NOW_US: i64 = 1_700_100_000_000_000;

struct Case {
    name: &'static str,
    schema: String,
    row: fn(usize, &mut String),
    /// Rows a call.
    chunk: usize,
}

fn schema(key: &str, time: &str, fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, kind)| format!(r#"{{"name":"{name}","type":"{kind}"}}"#)).collect();
    format!(r#"{{"key":{key},"time":{time},"fields":[{}]}}"#, fields.join(","))
}

fn telemetry() -> String {
    let fields = [("device_id", "string"), ("temperature", "float64"), ("humidity", "float64")];
    schema(r#"{"field":"device_id"}"#, r#"{"field":"timestamp","unit":"ms","format":null,"timezone":"UTC"}"#, &fields)
}

fn values(i: usize) -> (usize, usize, f64, f64) {
    let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    (random % 10_000, 1_700_000_000_123 + i, (random % 4000) as f64 / 100.0, (random / 4000 % 1000) as f64 / 10.0)
}

fn usual(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    let _ = writeln!(
        out,
        r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":{temperature},"humidity":{humidity}}}"#
    );
}

fn spaced(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    let _ = writeln!(
        out,
        r#"{{"device_id": "device-{device:06}", "timestamp": {time}, "temperature": {temperature}, "humidity": {humidity}}}"#
    );
}

fn long_floats(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    let (temperature, humidity) = (temperature / 3.0, humidity / 7.0);
    let _ = writeln!(
        out,
        r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":{temperature},"humidity":{humidity}}}"#
    );
}

fn unknown_fields(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    let _ = writeln!(
        out,
        r#"{{"v":1,"device_id":"device-{device:06}","site":"north","timestamp":{time},"temperature":{temperature},"humidity":{humidity},"ok":true}}"#
    );
}

fn changing_order(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    if i.is_multiple_of(2) {
        return usual(i, out);
    }
    let _ = writeln!(
        out,
        r#"{{"timestamp":{time},"device_id":"device-{device:06}","humidity":{humidity},"temperature":{temperature}}}"#
    );
}

fn sometimes_missing(i: usize, out: &mut String) {
    let (device, time, temperature, _) = values(i);
    if i.is_multiple_of(2) {
        return usual(i, out);
    }
    let _ = writeln!(out, r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":{temperature}}}"#);
}

fn nested(i: usize, out: &mut String) {
    let (device, time, temperature, humidity) = values(i);
    let _ = writeln!(
        out,
        r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":{temperature},"humidity":{humidity},"tags":{{"a":[1,2]}}}}"#
    );
}

fn rejected(i: usize, out: &mut String) {
    let (device, time, _, humidity) = values(i);
    let _ =
        writeln!(out, r#"{{"device_id":"device-{device:06}","timestamp":{time},"temperature":"high","humidity":{humidity}}}"#);
}

fn rfc3339(i: usize, out: &mut String) {
    let (device, _, temperature, humidity) = values(i);
    let (minute, second) = (i / 60 % 60, i % 60);
    let _ = writeln!(
        out,
        r#"{{"device_id":"device-{device:06}","timestamp":"2023-11-14T22:{minute:02}:{second:02}Z","temperature":{temperature},"humidity":{humidity}}}"#
    );
}

fn main() {
    let rfc3339_schema = telemetry().replace(r#""unit":"ms","format":null"#, r#""unit":null,"format":"rfc3339""#);
    let case = |name, row, chunk| Case { name, schema: telemetry(), row, chunk };
    let cases = [
        case("usual, 8192 rows a call", usual, 8192),
        case("usual, 1000 rows a call", usual, 1000),
        case("usual, 1 row a call", usual, 1),
        case("spaces after colon and comma", spaced, 8192),
        case("floats of 16 digits", long_floats, 8192),
        case("three unknown scalar fields", unknown_fields, 8192),
        case("order changes each row", changing_order, 8192),
        case("a field is missing in each second row", sometimes_missing, 8192),
        case("a nested unknown field", nested, 8192),
        case("every row rejected", rejected, 8192),
        Case { name: "RFC 3339 time", schema: rfc3339_schema, row: rfc3339, chunk: 8192 },
    ];
    println!("{:<40} {:>8} {:>12} {:>10}", "shape", "ns/row", "M rows/s", "MB/s");
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for case in cases.into_iter().filter(|case| case.name.contains(&wanted)) {
        let config: SchemaConfig = serde_json::from_str(&case.schema).expect("the schema is valid");
        let mut decoder = Decoder::new(&config, 32, 86_400_000_000).expect("the schema is valid");
        let chunks: Vec<String> = (0..ROWS / case.chunk)
            .map(|chunk| {
                (0..case.chunk).fold(String::new(), |mut text, i| {
                    (case.row)(chunk * case.chunk + i, &mut text);
                    text
                })
            })
            .collect();
        let bytes: usize = chunks.iter().map(String::len).sum();
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut rows = 0;
            for chunk in &chunks {
                rows += std::hint::black_box(decoder.decode_ndjson(chunk.as_bytes(), NOW_US, Positions::Ordinal)).span;
            }
            best = best.min(start.elapsed().as_secs_f64() / rows as f64);
        }
        let rows = (chunks.len() * case.chunk) as f64;
        println!("{:<40} {:>8.1} {:>12.1} {:>10.0}", case.name, best * 1e9, 1e-6 / best, bytes as f64 / rows / best * 1e-6);
    }
}
