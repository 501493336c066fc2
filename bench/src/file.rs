//! `generate-file`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::rows::{Devices, Noise, RowLayout, below, milliseconds};
use crate::summary::{rate, seconds};
use crate::units;

/// Rows that are changed in place and written together.
const ROWS_PER_WRITE: usize = 4096;

/// Writes a file of events, with exactly the same number for each device and window
///
/// Lines are `{"device_id":"device-000123","timestamp":1700000000123,"temperature":21.53,"humidity":40.2}` in the order of time.
///
/// Within each window every device has exactly the wanted number of events, in a scattered order of devices. The same options
/// give the same bytes. Summary: events, bytes, windows, seconds, events_per_s.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Devices, named device-000000 and on
    #[arg(long, default_value = "10k", value_parser = units::count)]
    devices: u64,
    /// Events in all, as 100M; the last window may be incomplete
    #[arg(long, value_parser = units::count)]
    events: u64,
    /// Events of each device in each window
    #[arg(long, default_value = "100", value_parser = units::count)]
    events_per_window_key: u64,
    /// Length of the windows that this counts for
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    window: Duration,
    /// Time of the first event, milliseconds since the epoch; must begin a window
    #[arg(long, default_value_t = 1_700_000_000_000)]
    start_ms: i64,
    /// Whole values, so that sums are exact in any order
    #[arg(long)]
    integers: bool,
    /// Another seed gives other values
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The file; it is replaced
    #[arg(long)]
    out: PathBuf,
}

pub fn run(options: &Options) -> Result<String, String> {
    let devices = u32::try_from(options.devices).ok().filter(|devices| *devices > 0);
    let devices = devices.ok_or("--devices must be from 1 to 4,294,967,295")?;
    let window_ms = u64::try_from(options.window.as_millis()).map_err(|_| "--window is too long")?;
    let per_window = options.devices * options.events_per_window_key;
    if window_ms == 0 || per_window == 0 || options.start_ms % window_ms as i64 != 0 {
        return Err("--window and --events-per-window-key must not be 0, and --start-ms must begin a window".to_owned());
    }
    let failed = |error| format!("writing {}: {error}", options.out.display());
    let mut out = File::create(&options.out).map_err(failed)?;
    let started = Instant::now();
    let mut rows = Rows::new(devices, options.integers, options.seed);
    let mut done = 0;
    while done < options.events {
        let count = (options.events - done).min(ROWS_PER_WRITE as u64);
        let time = |event: u64| {
            let (window, place) = (event / per_window, event % per_window);
            options.start_ms + (window * window_ms + place * window_ms / per_window) as i64
        };
        out.write_all(rows.fill(count as usize, |row| time(done + row))).map_err(failed)?;
        done += count;
    }
    let took = started.elapsed();
    let summary = json!({
        "events": done, "bytes": done * rows.layout.len() as u64, "windows": done.div_ceil(per_window),
        "seconds": seconds(took), "events_per_s": rate(done, took),
    });
    Ok(summary.to_string())
}

struct Rows {
    layout: RowLayout,
    devices: Devices,
    noise: Noise,
    buffer: Vec<u8>,
}

impl Rows {
    fn new(devices: u32, integers: bool, seed: u64) -> Rows {
        let layout = RowLayout::new(devices, integers, false);
        let buffer = layout.template().repeat(ROWS_PER_WRITE);
        Rows { layout, devices: Devices::new(devices), noise: Noise::new(seed), buffer }
    }

    /// The next `count` rows as bytes; `time_ms` gives a row's time by its number from 0.
    fn fill(&mut self, count: usize, time_ms: impl Fn(u64) -> i64) -> &[u8] {
        let (mut ms, mut digits) = (i64::MIN, [0; 13]);
        let len = self.layout.len();
        for (number, row) in self.buffer.chunks_exact_mut(len).take(count).enumerate() {
            let time = time_ms(number as u64);
            if time != ms {
                (ms, digits) = (time, milliseconds(time));
            }
            let noise = self.noise.next();
            self.layout.set_device(row, self.devices.next());
            self.layout.set_time(row, &digits);
            self.layout.set_temperature(row, 1000 + below(noise as u32, 9000));
            self.layout.set_humidity(row, 100 + below((noise >> 32) as u32, 900));
        }
        &self.buffer[..count * len]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn generate(integers: bool) -> Vec<serde_json::Value> {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("events.ndjson");
        let options = Options {
            devices: 300,
            events: 300 * 20 * 3,
            events_per_window_key: 20,
            window: Duration::from_secs(10),
            start_ms: 1_700_000_000_000,
            integers,
            seed: 1,
            out: out.clone(),
        };
        run(&options).unwrap();
        std::fs::read_to_string(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_device_has_the_wanted_events_in_every_window() {
        let rows = generate(false);
        let mut counts = HashMap::new();
        for row in &rows {
            *counts.entry((row["device_id"].to_string(), row["timestamp"].as_i64().unwrap() / 10_000)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 900);
        assert!(counts.values().all(|count| *count == 20));
        assert!(rows.is_sorted_by_key(|row| row["timestamp"].as_i64()));
        assert!(rows.iter().all(|row| (10.0..100.0).contains(&row["temperature"].as_f64().unwrap())));
    }

    #[test]
    fn integers_are_whole_and_runs_are_alike() {
        let rows = generate(true);
        assert!(rows.iter().all(|row| row["temperature"].is_i64() && row["humidity"].is_i64()));
        assert_eq!(rows, generate(true));
    }
}
