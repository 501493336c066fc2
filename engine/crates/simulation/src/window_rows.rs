//! Rows of closed windows: as the model has them, and as they left.

use std::collections::BTreeMap;

use serde_json::Value;
use streamjob_core::event_time::parse_rfc3339;

use crate::check::{Line, json_number, number, same};
use crate::job::{POISON_COUNT, READINGS_WINDOW, WINDOW};
use crate::model::{Expected, Pane};

/// Of the largest value, or of its square, that means and variances may be off: the model takes two passes, the engine one.
pub const TOLERANCE: f64 = 1e-9;

fn integer(value: Option<i64>) -> String {
    value.map_or("null".to_owned(), |value| value.to_string())
}

/// A window's row as the model has it.
pub fn line(window: usize, key: &str, start_us: i64, pane: &Pane) -> Line {
    let numbers = if window == READINGS_WINDOW { integers(pane) } else { floats(pane) };
    format!("{window} {key} {start_us} n={} {}", pane.rows, numbers.join(" "))
}

fn floats(pane: &Pane) -> Vec<String> {
    let values: Vec<f64> = pane.values.iter().map(|(_, value)| *value as f64).collect();
    let some = |value: f64| (!values.is_empty()).then_some(value);
    let sum: f64 = values.iter().sum();
    let (first, last) = (first(pane).unwrap_or(0), last(pane).unwrap_or(0));
    let numbers = [
        some(sum),
        some(sum / values.len() as f64),
        values.iter().copied().reduce(f64::min),
        values.iter().copied().reduce(f64::max),
        some(first as f64),
        some(last as f64),
        some(sum / 2.0),
    ];
    numbers.into_iter().map(number).collect()
}

/// Exact: but for the mean nothing of an integer passes through a float. A sum stops at the limits for good, and has no mean then.
fn integers(pane: &Pane) -> Vec<String> {
    let values = || pane.values.iter().map(|(_, value)| *value);
    let has_stopped = |sum: i64| [i64::MIN, i64::MAX].contains(&sum);
    let sum = values().fold(0, |sum: i64, value| if has_stopped(sum) { sum } else { sum.saturating_add(value) });
    let count = pane.values.len();
    let has_mean = count > 0 && !has_stopped(sum);
    let numbers = [Some(count as i64), (count > 0).then_some(sum), values().min(), values().max(), first(pane), last(pane)];
    let mean = has_mean.then(|| sum as f64 / count as f64);
    numbers.into_iter().map(integer).chain([format!("{mean:?}")]).collect()
}

/// By event time; of equal ones the first that came.
fn first(pane: &Pane) -> Option<i64> {
    pane.values.iter().min_by_key(|(time_us, _)| *time_us).map(|(_, value)| *value)
}

fn last(pane: &Pane) -> Option<i64> {
    pane.values.iter().max_by_key(|(time_us, _)| *time_us).map(|(_, value)| *value)
}

/// The same of a row that left.
pub fn line_of(window: usize, row: &Value) -> Line {
    let numbers: Vec<String> = if window == READINGS_WINDOW {
        let names = ["count", "sum", "min", "max", "first", "last"];
        let mean = format!("{:?}", row["mean"].as_f64());
        names.iter().map(|name| row[name].to_string()).chain([mean]).collect()
    } else {
        ["sum", "mean", "min", "max", "first", "last", "half"].iter().map(|name| json_number(&row[name])).collect()
    };
    let (key, start_us) = place_of(row);
    format!("{window} {key} {start_us} n={} {}", row["n"], numbers.join(" "))
}

fn place_of(row: &Value) -> (String, i64) {
    let start_us = row["window_start"].as_str().and_then(parse_rfc3339).unwrap_or(i64::MIN);
    (row["key"].as_str().unwrap_or("?").to_owned(), start_us)
}

/// Closed windows of one kind, without those that its UDF fails on: by key and start.
pub fn closed(expected: &Expected, window: usize) -> impl Iterator<Item = (&str, i64, &Pane)> {
    let mine = expected.windows.iter().filter(move |((of, ..), _)| *of == window);
    let fit = mine.filter(move |(_, pane)| window != WINDOW || pane.rows as i64 != POISON_COUNT);
    fit.map(|((_, key, start_us), pane)| (&**key, *start_us, pane))
}

/// Rows that left are those of the closed windows, each once.
pub fn check_all<'a>(
    invariant: &str,
    what: &str,
    window: usize,
    expected: &Expected,
    rows: impl Iterator<Item = &'a Value>,
) -> Result<(), String> {
    let lines = closed(expected, window).map(|(key, start_us, pane)| line(window, key, start_us, pane)).collect();
    let mut got = Vec::new();
    for row in rows {
        check_spread(window, expected, row).map_err(|message| format!("{invariant}: {what}: {message}"))?;
        got.push(line_of(window, row));
    }
    same(invariant, what, lines, got)
}

/// Variance and deviation of a row that left, within the error of floats.
pub fn check_spread(window: usize, expected: &Expected, row: &Value) -> Result<(), String> {
    let (key, start_us) = place_of(row);
    // One that is in no window at all is missed by name.
    let Some(pane) = expected.windows.get(&(window, key, start_us)) else { return Ok(()) };
    let values: Vec<f64> = pane.values.iter().map(|(_, value)| *value as f64).collect();
    let got = [row["variance"].as_f64(), row["stddev"].as_f64().map(|deviation| deviation * deviation)];
    let right = match spread(&values) {
        None => got == [None, None],
        Some((variance, scale)) => {
            got.iter().all(|got| got.is_some_and(|got| (got - variance).abs() <= TOLERANCE * scale * scale))
        }
    };
    if right { Ok(()) } else { Err(format!("{got:?} as variance and square of the deviation of {values:?} in {row}")) }
}

/// The variance, and the largest of the values.
pub fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let scale = values.iter().fold(1.0, |scale: f64, value| scale.max(value.abs()));
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (count > 0.0).then_some((variance, scale))
}

/// Rows by their lines: how often each is there.
pub fn counted(lines: impl Iterator<Item = Line>) -> BTreeMap<Line, usize> {
    let mut counted = BTreeMap::new();
    lines.for_each(|line| *counted.entry(line).or_default() += 1);
    counted
}
