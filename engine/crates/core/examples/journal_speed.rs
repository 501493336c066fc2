//! Measures what the journal's encoding costs a row: `cargo run --release --example journal_speed`.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float64Array, StringArray};
use streamjob_core::batch::{Keys, RowBatch, hash_key};
use streamjob_core::journal::{RecordEncoder, decode_record, seal_frame};

/// Rows measured for each length of a record.
const ROWS: usize = 4_000_000;

fn readings(rows: usize, decimal: bool) -> RowBatch {
    let mut random = 1u64;
    // splitmix64: a weaker generator makes patterns that the compressor finds.
    let mut next = || {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 33
    };
    let mut value = |range: u64| match decimal {
        true => (2000 + next() % range) as f64 / 100.0,
        false => 20.0 + (next() * range) as f64 / 2e9,
    };
    let temperature: Vec<f64> = (0..rows).map(|_| value(1000)).collect();
    let humidity: Vec<f64> = (0..rows).map(|_| value(6000)).collect();
    let keys: Vec<String> = (0..rows).map(|_| format!("device-{:05}", next() % 10_000)).collect();
    RowBatch {
        time_us: (0..rows as i64).map(|row| 1_700_000_000_000_000 + row / 10 * 1000).collect(),
        key_hash: keys.iter().map(|key| hash_key(key.as_bytes())).collect(),
        keys: Keys::Column(0),
        columns: vec![
            Arc::new(StringArray::from_iter_values(keys)) as ArrayRef,
            Arc::new(Float64Array::from(temperature)),
            Arc::new(Float64Array::from(humidity)),
        ],
        ..RowBatch::empty(rows as u64)
    }
}

fn main() {
    println!("{:>7} {:>9} {:>12} {:>9} {:>12} {:>12}", "rows", "values", "encode ns", "seal ns", "decode ns", "bytes a row");
    for rows in [1, 10, 100, 1000, 8192] {
        for decimal in [true, false] {
            measure(rows, decimal);
        }
    }
}

fn measure(rows: usize, decimal: bool) {
    let batch = readings(rows, decimal);
    let rounds = ROWS / rows;
    let mut encoder = RecordEncoder::new();
    let mut out = Vec::new();
    let started = Instant::now();
    for _ in 0..rounds {
        out.clear();
        encoder.encode_into(black_box(&batch), None, &mut out).expect("the batch is within bounds");
    }
    let encode = started.elapsed();
    let started = Instant::now();
    for round in 0..rounds {
        seal_frame(black_box(&mut out), round as u64);
    }
    let seal = started.elapsed();
    let started = Instant::now();
    for _ in 0..rounds {
        black_box(decode_record(black_box(&out)).expect("the frame was just made"));
    }
    let decode = started.elapsed();
    let a_row = |time: std::time::Duration| time.as_nanos() as f64 / (rounds * rows) as f64;
    println!(
        "{rows:>7} {:>9} {:>12.1} {:>9.2} {:>12.1} {:>12.1}",
        if decimal { "decimal" } else { "binary" },
        a_row(encode),
        seal.as_nanos() as f64 / rounds as f64,
        a_row(decode),
        out.len() as f64 / rows as f64
    );
}
