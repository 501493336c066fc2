//! What must hold when everything is done: the outputs are those of the model, each row once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use serde_json::Value;
use streamjob_core::accumulate::{Statistic, read_statistic};
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::event_time::write_rfc3339;
use streamjob_core::ledger::{Ledger, Outcome};
use streamjob_core::shard::Shard;

use crate::events::Event;
use crate::job::{
    ALERT_ABOVE, ALERTS, DEAD_LETTERS, EVENTS, EXACT_ALERT_ABOVE, EXACT_ALERTS, MORE_ALERTS, MORE_EVENTS, POISON_COUNT, READINGS,
    READINGS_WINDOW, SEEN, SEGMENTS, SERVERS, SINKS, TOPIC, WINDOW, WINDOW_HOOK,
};
use crate::model::{Applied, Expected, replay};
use crate::rows::MS;
use crate::truth::SplitId;
use crate::window_rows::{TOLERANCE, check_all, spread};
use crate::world::{Done, World, violation};

/// Floats are compared to this: the model divides, the engine follows Welford.
const GRID: f64 = 1e-6;

/// A row of an output, in a form that two writers of it agree on.
pub type Line = String;

/// Two lists with the same elements, in any order.
pub fn same<T: Ord + Debug>(invariant: &str, what: &str, mut expected: Vec<T>, mut got: Vec<T>) -> Result<(), String> {
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

pub fn number(value: Option<f64>) -> String {
    value.map_or("null".to_owned(), |value| format!("{:.4}", (value / GRID).round() * GRID + 0.0))
}

pub fn json_number(value: &Value) -> String {
    number(value.as_f64())
}

fn event_line(id: &str, Applied { row, seen, .. }: &Applied) -> Line {
    let reading = row.reading.map_or("null".to_owned(), |reading| reading.to_string());
    format!("{id} {} {reading} {}", row.serial, seen.iter().map(|value| number(*value)).collect::<Vec<_>>().join(" "))
}

fn event_line_of(row: &Value) -> Line {
    let text = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
    let seen: Vec<String> = SEEN.iter().map(|name| json_number(&row[name])).collect();
    format!("{} {} {} {}", text("_id"), text("serial"), row["reading"], seen.join(" "))
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
                let sinks = 0..self.setup.plan.sinks.len();
                let pending: u64 = sinks.filter_map(|sink| shard.outbox(sink)).map(|outbox| outbox.pending_rows()).sum();
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
        if let Err(crate::world::Stop::Violation(message)) = self.check_shards(|_| true) {
            return Err(message);
        }
        self.check_ledger(&expected)?;
        self.check_events(&expected)?;
        self.check_windows(&expected)?;
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
        let above = |value: i64| expected.applied.values().filter(|applied| applied.row.value > Some(value)).count() as u64;
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
        let lines = |sink: usize, above: Option<i64>| -> Vec<Line> {
            let rows =
                expected.applied.iter().filter(|(_, applied)| applied.leaves_by(SINKS[sink]) && applied.row.value >= above);
            rows.map(|(place, applied)| event_line(&id(place), applied)).collect()
        };
        for sink in [EVENTS, MORE_EVENTS] {
            let got: Vec<Line> = self.parsed(sink)?.iter().map(event_line_of).collect();
            let mut expected = lines(sink, None);
            if self.setup.sink(sink).is_none() {
                // A crash may have left a committed segment without its final name: the sink gives it that when it comes back.
                let hidden: Vec<Value> = self.segments.hidden(sink).flat_map(serde_json::from_str).collect();
                let hidden: BTreeSet<Line> = hidden.iter().map(event_line_of).collect();
                expected.retain(|line| got.contains(line) || !hidden.contains(line));
            }
            same("I8, I11", SINKS[sink], expected, got)?;
        }
        let dead = self.refused_events()?;
        for (sink, above) in [(EXACT_ALERTS, EXACT_ALERT_ABOVE), (MORE_ALERTS, ALERT_ABOVE)] {
            let got = self.receivers[&sink].rows.iter().chain(&dead[&sink]).map(event_line_of).collect();
            self.check_sent(sink, lines(sink, Some(above + 1)), got)?;
        }
        // What left before its commit may have been forgotten since, or have seen other statistics.
        let mut at_least: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in self.receivers[&ALERTS].rows.iter().chain(&dead[&ALERTS]) {
            let text = |name: &str| row[name].as_str().unwrap_or("?").to_owned();
            at_least.entry(text("_id")).or_default().insert(text("serial"));
        }
        for (place, Applied { row, .. }) in expected.applied.iter().filter(|(_, applied)| applied.row.value > Some(ALERT_ABOVE)) {
            if !at_least.get(&id(place)).is_some_and(|serials| serials.contains(&row.serial)) {
                return Err(format!("I8: {} never reached the at-least-once webhook", id(place)));
            }
        }
        match at_least.iter().find(|(_, serials)| serials.len() > 1) {
            Some((id, serials)) => Err(format!("I4: the id {id} stands for several rows: {serials:?}")),
            None => Ok(()),
        }
    }

    /// An exactly-once webhook has its rows, but for those that wait in the state while the job does not have it (I6).
    fn check_sent(&self, sink: usize, mut expected: Vec<Line>, got: Vec<Line>) -> Result<(), String> {
        let waiting: u64 =
            self.shards().flat_map(Shard::unsent).filter(|(name, _)| name == SINKS[sink]).map(|(_, rows)| rows).sum();
        if waiting == 0 {
            return same("I8", SINKS[sink], expected, got);
        }
        let all = expected.len() as u64;
        expected.retain(|line| got.contains(line));
        // One that was taken and is not committed as such waits, too.
        match got.len() as u64 + waiting {
            rows if rows >= all => same("I8", SINKS[sink], expected, got),
            rows => Err(format!("I6: {} has or waits for {rows} rows instead of {all}", SINKS[sink])),
        }
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.node.iter().flat_map(|node| &node.workers).flat_map(|worker| worker.processor.shards())
    }

    /// Rows that servers refused, by sink, out of the dead letters.
    fn refused_events(&self) -> Result<BTreeMap<usize, Vec<Value>>, String> {
        let mut refused: BTreeMap<usize, Vec<Value>> = SERVERS.map(|sink| (sink, Vec::new())).into();
        for letter in self.parsed(DEAD_LETTERS)? {
            let sink = SINKS.iter().position(|sink| letter["source"] == *sink);
            if let Some(rows) = sink.and_then(|sink| refused.get_mut(&sink)) {
                rows.push(letter["row"].clone());
            }
        }
        Ok(refused)
    }

    fn check_windows(&self, expected: &Expected) -> Result<(), String> {
        check_all("I8", "windows in segments", WINDOW, expected, self.parsed(SEGMENTS)?.iter())?;
        check_all("I8", "windows of integers in segments", READINGS_WINDOW, expected, self.parsed(READINGS)?.iter())?;
        let refused = self.refused_events()?;
        let got = self.receivers[&WINDOW_HOOK].rows.iter().chain(&refused[&WINDOW_HOOK]);
        check_all("I8", "windows of the exactly-once webhook", WINDOW, expected, got)?;
        check_all("I8", "windows of the topic", WINDOW, expected, self.topic.rows.iter().chain(&refused[&TOPIC]))
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
        for (key, statistics) in &expected.statistics {
            let hash = hash_key(key.as_bytes());
            let home = shard_of(hash, self.setup.shards());
            let shard = self.shards().find(|shard| shard.id == home);
            let words = shard.and_then(|shard| shard.look_up(hash, key.as_bytes()).ok().flatten());
            let words = words.ok_or_else(|| format!("I11: key {key} is not there"))?;
            for (column, values) in [&statistics.values, &statistics.readings].into_iter().enumerate() {
                let at = self.setup.plan.statistics_at(column);
                check_statistics(&words[at..], values).map_err(|message| format!("I11: key {key}: {message}"))?;
            }
        }
        Ok(())
    }
}

/// Words of one field against all values of a key, within the error of floats.
fn check_statistics(words: &[u64], values: &[i64]) -> Result<(), String> {
    let floats: Vec<f64> = values.iter().map(|value| *value as f64).collect();
    let (variance, scale) = spread(&floats).unwrap_or((f64::NAN, 0.0));
    let exact = |value: Option<f64>| (value.unwrap_or(f64::NAN), 0.0);
    let wanted = [
        (Statistic::Count, (floats.len() as f64, 0.0)),
        (Statistic::Mean, (floats.iter().sum::<f64>() / floats.len() as f64, TOLERANCE * scale)),
        (Statistic::Variance, (variance, TOLERANCE * scale * scale)),
        (Statistic::Min, exact(floats.iter().copied().reduce(f64::min))),
        (Statistic::Max, exact(floats.iter().copied().reduce(f64::max))),
        (Statistic::Last, exact(floats.last().copied())),
    ];
    for (statistic, (value, error)) in wanted {
        let got = read_statistic(words, statistic);
        if !((got - value).abs() <= error || (got.is_nan() && value.is_nan())) {
            return Err(format!("{} is {got} instead of {value}", statistic.name()));
        }
    }
    Ok(())
}
