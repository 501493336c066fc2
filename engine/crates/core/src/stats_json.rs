//! A key's running statistics as JSON, the same wherever they are asked for.

use crate::accumulate::{STAT_WORDS, Statistic, read_statistic};
use crate::json;
use crate::plan::Plan;

/// `{"key":…,"rows":…,"fields":{NAME:{"count":…,"mean":…,"variance":…,"stddev":…,"min":…,"max":…,"last":…}}}` of the state
/// words that [`crate::shard::Shard::look_up`] gives; null where a field had no value yet.
pub fn write_statistics(out: &mut Vec<u8>, plan: &Plan, key: &str, words: &[u64]) {
    out.extend_from_slice(b"{\"key\":");
    json::write_string(out, key.as_bytes());
    out.extend_from_slice(b",\"rows\":");
    json::write_u64(out, words[0]);
    out.extend_from_slice(b",\"fields\":");
    for (number, column) in plan.numeric.iter().enumerate() {
        out.extend_from_slice(&json::member(&plan.event_columns[*column].name, number == 0));
        write_field(out, &words[plan.statistics_at(number)..][..STAT_WORDS]);
    }
    out.extend_from_slice(if plan.numeric.is_empty() { b"{}}" } else { b"}}" });
}

fn write_field(out: &mut Vec<u8>, words: &[u64]) {
    for (number, statistic) in Statistic::ALL.into_iter().enumerate() {
        out.extend_from_slice(&json::member(statistic.name(), number == 0));
        match statistic {
            Statistic::Count => json::write_u64(out, words[0]),
            _ => json::write_f64(out, read_statistic(words, statistic)),
        }
    }
    out.push(b'}');
}
