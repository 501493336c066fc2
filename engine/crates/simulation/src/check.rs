//! What must hold when everything is done: the outputs are those of the model, each row once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use serde_json::Value;
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::event_time::{parse_rfc3339, write_rfc3339};
use streamjob_core::ledger::{Ledger, Outcome};
use streamjob_core::shard::HistoryReader;

use crate::events::Event;
use crate::job::{
    ALERT_ABOVE, ALERTS, DEAD_LETTERS, EVENTS, EXACT_ALERT_ABOVE, EXACT_ALERTS, POISON_COUNT, SEEN, SEGMENTS, TOPIC, WINDOW_HOOK,
};
use crate::model::{Expected, Pane, replay};
use crate::rows::{MS, REFUSED_KEY};
use crate::truth::SplitId;
use crate::world::{Done, World, violation};

/// Means are compared to this: the model divides, the engine follows Welford.
const TOLERANCE: f64 = 1e-6;
/// Number of the window whose rows leave.
const WINDOW: usize = 0;

/// A row of an output, in a form that two writers of it agree on.
type Line = String;

/// Two lists with the same elements, in any order.
fn same<T: Ord + Debug>(invariant: &str, what: &str, mut expected: Vec<T>, mut got: Vec<T>) -> Result<(), String> {
    expected.sort();
    got.sort();
    if expected == got {
        return Ok(());
    }
    let count = |items: &[T], item: &T| items.iter().filter(|other| *other == item).count();
    let all: BTreeSet<&T> = expected.iter().chain(&got).collect();
    let different: Vec<String> = (all.into_iter())
        .filter(|item| count(&expected, item) != count(&got, item))
        .map(|item| format!("{item:?} is there {} times instead of {}", count(&got, item), count(&expected, item)))
        .take(5)
        .collect();
    Err(format!("{invariant}: {what}: {}", different.join("; ")))
}

fn number(value: Option<f64>) -> String {
    value.map_or("null".to_owned(), |value| format!("{:.4}", (value / TOLERANCE).round() * TOLERANCE + 0.0))
}

fn json_number(value: &Value) -> String {
    number(value.as_f64())
}

/// A window's row as the model has it.
fn window_line(key: &str, start_us: i64, pane: &Pane) -> Line {
    let values: Vec<f64> = pane.values.iter().map(|(_, value)| *value as f64).collect();
    let some = |value: f64| (!values.is_empty()).then_some(value);
    let sum: f64 = values.iter().sum();
    let first = pane.values.iter().min_by_key(|(time_us, _)| *time_us).map_or(0, |(_, value)| *value);
    let last = pane.values.iter().max_by_key(|(time_us, _)| *time_us).map_or(0, |(_, value)| *value);
    let numbers = [
        some(sum),
        some(sum / values.len() as f64),
        values.iter().copied().reduce(f64::min),
        values.iter().copied().reduce(f64::max),
        some(first as f64),
        some(last as f64),
        some(sum / 2.0),
    ];
    let numbers: Vec<String> = numbers.into_iter().map(number).collect();
    format!("{key} {start_us} n={} {}", pane.rows, numbers.join(" "))
}

/// The same of a row that left.
fn window_line_of(row: &Value) -> Line {
    let numbers: Vec<String> =
        ["sum", "mean", "min", "max", "first", "last", "half"].iter().map(|name| json_number(&row[name])).collect();
    let start_us = row["window_start"].as_str().and_then(parse_rfc3339).unwrap_or(i64::MIN);
    format!("{} {start_us} n={} {}", row["key"].as_str().unwrap_or("?"), row["n"], numbers.join(" "))
}

fn event_line(id: &str, serial: &str, seen: &[Option<f64>; 5]) -> Line {
    format!("{id} {serial} {}", seen.iter().map(|value| number(*value)).collect::<Vec<_>>().join(" "))
}

fn event_line_of(row: &Value) -> Line {
    let text = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
    let seen: Vec<String> = SEEN.iter().map(|name| json_number(&row[name])).collect();
    format!("{} {} {}", text("_id"), text("serial"), seen.join(" "))
}

fn id((split, offset): &(SplitId, u64)) -> String {
    format!("{split}:{offset}")
}

impl World {
    /// Whether all is done; asked again and again once the faults are over.
    pub fn rest(&mut self) -> Done<bool> {
        self.after(100 * MS, Event::Rest);
        for client in 0..self.clients.len() {
            self.client_acts(client);
        }
        if self.node.is_none() || !self.clients.iter().all(crate::clients::Client::is_done) {
            return Ok(false);
        }
        self.close();
        Ok(self.unrest().is_empty())
    }

    /// What is not done yet, for a person.
    pub fn unrest(&self) -> String {
        let Some(node) = &self.node else { return "no process runs".to_owned() };
        let mut reasons = Vec::new();
        if !node.closing {
            reasons.push("clients wait".to_owned());
        }
        for (worker, state) in node.workers.iter().enumerate() {
            let processor = &state.processor;
            if !state.at_end || !state.parked.is_empty() || state.catch_up.behind() > 0 || processor.has_closable() {
                reasons.push(format!("worker {worker} is not at the end"));
            }
            for shard in processor.shards() {
                let pending: u64 =
                    (0..=DEAD_LETTERS).filter_map(|sink| shard.outbox(sink)).map(|outbox| outbox.pending_rows()).sum();
                if shard.has_changes() || shard.commit_in_flight() || pending > 0 {
                    reasons.push(format!("shard {} has changes, a commit or {pending} unconfirmed rows", shard.id));
                }
            }
        }
        if !node.ingest.answers.is_empty() {
            reasons.push("answers wait".to_owned());
        }
        reasons.join(", ")
    }

    /// What clients were promised is in a journal, once and whole (I4, I10).
    pub fn check_answered(&self) -> Done {
        let times = self.truth.requests();
        for (number, request) in self.requests.iter().enumerate() {
            let times = times.get(&number).copied().unwrap_or(0);
            if request.answer.is_some() && !request.conflicts && times != 1 {
                return violation(format!("I4, I10: request {number} was acknowledged and is {times} times in the journals"));
            }
            if times > 1 {
                return violation(format!("I10: request {number} is {times} times in the journals"));
            }
        }
        Ok(())
    }

    pub fn check_end(&mut self) -> Result<(), String> {
        self.note(|| "everything is at rest".to_owned());
        if let Err(crate::world::Stop::Violation(message)) = self.check_answered() {
            return Err(message);
        }
        if let Some(serial) = self.truth.doubled_rows().first() {
            return Err(format!("I10: row {serial} is in the journals twice"));
        }
        self.truth.check_whole().map_err(|message| format!("I2: {message}"))?;
        let mut expected = Expected::default();
        for (shard, log) in self.truth.logs.iter().enumerate() {
            replay(&self.setup.plan, &self.truth, shard as u16, log, &mut expected);
        }
        self.check_ledger(&expected)?;
        self.check_events(&expected)?;
        self.check_windows(&expected)?;
        self.check_history(&expected)?;
        self.check_dead_letters(&expected)?;
        self.check_statistics(&expected)
    }

    fn check_ledger(&self, expected: &Expected) -> Result<(), String> {
        let mut sum = Ledger::default();
        let node = self.node.as_ref().ok_or("no process is left")?;
        let shards = node.workers.iter().flat_map(|worker| worker.processor.shards());
        shards.for_each(|shard| sum.add(&shard.ledger));
        let got: Vec<(&str, u64)> = Outcome::ALL.iter().map(|outcome| (outcome.as_str(), sum.of(*outcome))).collect();
        let counts = [
            expected.applied.len(),
            expected.filtered as usize,
            expected.late.len(),
            expected.rejected.len(),
            expected.failed.len(),
            0,
        ];
        let wanted: Vec<(&str, u64)> =
            std::iter::zip(Outcome::ALL, counts).map(|(outcome, count)| (outcome.as_str(), count as u64)).collect();
        if got != wanted {
            return Err(format!("I6: the ledger says {got:?}, the model {wanted:?}"));
        }
        let windows = expected.windows.len() as u64;
        if sum.windows != windows {
            return Err(format!("I6: {} windows were counted instead of {windows}", sum.windows));
        }
        let above = |value: i64| expected.applied.values().filter(|(row, _)| row.value > Some(value)).count() as u64;
        match above(EXACT_ALERT_ABOVE) {
            anomalies if anomalies == sum.anomalies => Ok(()),
            anomalies => Err(format!("I6: {} anomalies were counted instead of {anomalies}", sum.anomalies)),
        }
    }

    fn parsed(&self, sink: usize) -> Result<Vec<Value>, String> {
        let parse = |line| serde_json::from_str(line).map_err(|error| format!("sink {sink}: {error} in {line}"));
        self.segments.lines(sink).map(parse).collect()
    }

    /// Events with the statistics that the UDF saw (I11), once where that is promised, at least once else (I8).
    fn check_events(&self, expected: &Expected) -> Result<(), String> {
        let lines: Vec<Line> =
            expected.applied.iter().map(|(place, (row, seen))| event_line(&id(place), &row.serial, seen)).collect();
        same("I8, I11", "events in segments", lines, self.parsed(EVENTS)?.iter().map(event_line_of).collect())?;
        let above = |value: i64, refused: bool| {
            let rows = expected.applied.iter().filter(move |(_, (row, _))| row.value > Some(value));
            rows.filter(move |(_, (row, _))| !refused || row.key != REFUSED_KEY)
        };
        let dead = self.refused_events()?;
        let exact = &self.receivers[&EXACT_ALERTS];
        let lines = above(EXACT_ALERT_ABOVE, false).map(|(place, (row, seen))| event_line(&id(place), &row.serial, seen));
        let got = exact.rows.iter().chain(&dead[&EXACT_ALERTS]).map(event_line_of);
        same("I8", "events of the exactly-once webhook", lines.collect(), got.collect())?;
        // What left before its commit may have been forgotten since, or have seen other statistics.
        let mut at_least: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in self.receivers[&ALERTS].rows.iter().chain(&dead[&ALERTS]) {
            let text = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
            at_least.entry(text("_id")).or_default().insert(text("serial"));
        }
        for (place, (row, _)) in above(ALERT_ABOVE, false) {
            if !at_least.get(&id(place)).is_some_and(|serials| serials.contains(&row.serial)) {
                return Err(format!("I8: {} never reached the at-least-once webhook", id(place)));
            }
        }
        match at_least.iter().find(|(_, serials)| serials.len() > 1) {
            Some((id, serials)) => Err(format!("I4: the id {id} stands for several rows: {serials:?}")),
            None => Ok(()),
        }
    }

    /// Rows that servers refused, by sink, out of the dead letters.
    fn refused_events(&self) -> Result<BTreeMap<usize, Vec<Value>>, String> {
        let mut refused: BTreeMap<usize, Vec<Value>> =
            [WINDOW_HOOK, ALERTS, EXACT_ALERTS, TOPIC].map(|sink| (sink, Vec::new())).into();
        for letter in self.parsed(DEAD_LETTERS)? {
            let sink = self.setup.plan.sinks.iter().position(|sink| letter["source"] == sink.name.as_str());
            if let Some(rows) = sink.and_then(|sink| refused.get_mut(&sink)) {
                rows.push(letter["row"].clone());
            }
        }
        Ok(refused)
    }

    /// Closed windows of the one that leaves, without those that its UDF fails on.
    fn window_lines(&self, expected: &Expected) -> Vec<Line> {
        let windows =
            expected.windows.iter().filter(|((window, ..), pane)| *window == WINDOW && pane.rows as i64 != POISON_COUNT);
        windows.map(|((_, key, start_us), pane)| window_line(key, *start_us, pane)).collect()
    }

    fn check_windows(&self, expected: &Expected) -> Result<(), String> {
        let lines = self.window_lines(expected);
        same("I8", "windows in segments", lines.clone(), self.parsed(SEGMENTS)?.iter().map(window_line_of).collect())?;
        let refused = self.refused_events()?;
        let got = self.receivers[&WINDOW_HOOK].rows.iter().chain(&refused[&WINDOW_HOOK]);
        same("I8", "windows of the exactly-once webhook", lines.clone(), got.map(window_line_of).collect())?;
        let got = self.topic.rows.iter().chain(&refused[&TOPIC]);
        same("I8", "windows of the topic", lines, got.map(window_line_of).collect())
    }

    fn check_history(&self, expected: &Expected) -> Result<(), String> {
        let mut got = Vec::new();
        for store in &self.stores {
            let reader = HistoryReader { store: &**store, window: self.setup.plan.windows[WINDOW].id };
            let mut from_us = i64::MIN;
            while let Some(start_us) = reader.next_start(from_us, i64::MAX).map_err(|error| error.to_string())? {
                reader
                    .all_rows(start_us, &mut |json| {
                        got.push(serde_json::from_slice::<Value>(json).map_or("?".to_owned(), |row| window_line_of(&row)));
                        true
                    })
                    .map_err(|error| error.to_string())?;
                from_us = start_us + 1;
            }
        }
        same("I1", "history", self.window_lines(expected), got)
    }

    fn check_dead_letters(&self, expected: &Expected) -> Result<(), String> {
        let row = |reason: &str, place: &(SplitId, u64)| format!("{reason} {}", id(place));
        let mut lines: Vec<Line> = expected.rejected.iter().map(|place| row("rejected", place)).collect();
        lines.extend(expected.late.keys().map(|place| row("late", place)));
        lines.extend(expected.failed.keys().map(|place| row("udf seen", place)));
        let failed = expected.windows.iter().filter(|((window, ..), pane)| *window == WINDOW && pane.rows as i64 == POISON_COUNT);
        lines.extend(failed.map(|((_, key, start_us), _)| {
            let mut text = Vec::new();
            write_rfc3339(*start_us, &mut text);
            format!("udf half {key} {}", String::from_utf8_lossy(&text))
        }));
        let mut got = Vec::new();
        for letter in self.parsed(DEAD_LETTERS)? {
            let reason = letter["reason"].as_str().unwrap_or("?");
            let place = format!("{}:{}", letter["split"].as_str().unwrap_or("?"), letter["offset"]);
            match reason.split_once(':').map_or(reason, |(kind, _)| kind) {
                "refused" => {}
                "udf half" => got.push(format!(
                    "udf half {} {}",
                    letter["row"]["key"].as_str().unwrap_or("?"),
                    letter["row"]["window_start"].as_str().unwrap_or("?")
                )),
                kind @ ("late" | "udf seen") => got.push(format!("{kind} {place}")),
                _ => got.push(format!("rejected {place}")),
            }
        }
        same("I6", "dead letters", lines, got)
    }

    /// Running statistics of every key, hot or stored.
    fn check_statistics(&self, expected: &Expected) -> Result<(), String> {
        let node = self.node.as_ref().ok_or("no process is left")?;
        let statistics_at = self.setup.plan.statistics_at(0);
        for (key, statistics) in &expected.statistics {
            let hash = hash_key(key.as_bytes());
            let home = shard_of(hash, self.setup.shards());
            let worker = usize::from(node.worker_of[usize::from(home)]);
            let shard = node.workers[worker].processor.shards().iter().find(|shard| shard.id == home);
            let words = shard.and_then(|shard| shard.look_up(hash, key.as_bytes()).ok().flatten());
            let count = words.as_ref().map(|words| words[statistics_at]);
            if count != Some(statistics.values.len() as u64) {
                return Err(format!("I11: key {key} has {count:?} values instead of {}", statistics.values.len()));
            }
        }
        Ok(())
    }
}
